//! The list of segments that a committed job has given up, in the index until they are gone.

use std::io::{self, IoSlice};

use rusqlite::Connection;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::name::SegmentName;

const BLOCK_BYTES: usize = 1 << 20;

/// A segment that is to go.
pub(crate) struct Doomed {
    pub(crate) segment: SegmentName,
    /// Its bytes are overwritten first.
    pub(crate) wipe: bool,
}

/// Makes the list in a database that has none.
pub(crate) fn make_list(index: &Connection) -> rusqlite::Result<()> {
    index.execute_batch(
        "CREATE TABLE IF NOT EXISTS store_doomed_segment (
            name TEXT PRIMARY KEY,
            wipe INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID",
    )
}

/// Puts a segment on the list; who has asked once to wipe it gets it wiped.
pub(crate) fn doom(index: &Connection, doomed: &Doomed) -> rusqlite::Result<()> {
    index
        .prepare_cached(
            "INSERT INTO store_doomed_segment (name, wipe) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET wipe = max(wipe, excluded.wipe)",
        )?
        .execute((&doomed.segment, doomed.wipe))
        .map(drop)
}

/// The whole list.
pub(crate) fn list(index: &Connection) -> rusqlite::Result<Vec<Doomed>> {
    index
        .prepare_cached("SELECT name, wipe FROM store_doomed_segment")?
        .query_map((), |row| {
            Ok(Doomed {
                segment: row.get(0)?,
                wipe: row.get(1)?,
            })
        })?
        .collect()
}

/// Takes a segment that is gone off the list.
pub(crate) fn forget(index: &Connection, segment: &SegmentName) -> rusqlite::Result<()> {
    index
        .prepare_cached("DELETE FROM store_doomed_segment WHERE name = ?1")?
        .execute((segment,))
        .map(drop)
}

/// Unlinks a segment, if it is there; durable after the folder's next sync.
pub(crate) fn remove_file(
    disk: &dyn Disk,
    segment: &SegmentName,
    wipe: bool,
) -> Result<(), StoreError> {
    if wipe {
        absent_is_fine(overwrite(disk, segment.as_str()))
            .map_err(StoreError::io("wipe", segment))?;
    }
    absent_is_fine(disk.remove(segment.as_str())).map_err(StoreError::io("remove", segment))
}

/// Makes zeros of all bytes of a file, durably.
fn overwrite(disk: &dyn Disk, name: &str) -> io::Result<()> {
    let file = disk.open(name)?;
    let zeros = vec![0; BLOCK_BYTES];
    let (mut at, end) = (0, file.bytes()?);
    while at < end {
        let bytes = usize::try_from(end - at).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        file.write_at(&mut [IoSlice::new(&zeros[..bytes])], at)?;
        at += bytes as u64;
    }
    file.sync_data()
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
