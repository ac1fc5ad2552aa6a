//! Tests through the public face: jobs in, records and rows out.

mod ballast;
mod erasing;
mod faults;
mod index;
mod power_cut;
mod recovery;
mod runs;
mod scan;
mod writing;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use crate::testing::CrashDisk;
use crate::{
    Location, Record, RecordHeader, RecordKind, Segments, StoreError, Synced, WriteError, Writer,
    open_database,
};

const SCHEMA: &str = "CREATE TABLE held (id INTEGER PRIMARY KEY, segment TEXT, offset INTEGER, bytes INTEGER, meta BLOB) STRICT";

/// A segment small enough that a few records fill it.
const SEGMENT_BYTES_MAX: u64 = 1000;

fn database(folder: &Path) -> Connection {
    open_database(&folder.join("index.sqlite"), &[SCHEMA]).unwrap()
}

fn segments(disk: &CrashDisk, folder: &Path) -> Result<Segments, StoreError> {
    let segments = Segments::open(Arc::new(disk.clone()), &database(folder))?;
    Ok(segments.with_segment_bytes_max(SEGMENT_BYTES_MAX))
}

fn writer(disk: &CrashDisk, folder: &Path) -> Result<Writer, StoreError> {
    Writer::spawn(segments(disk, folder)?, database(folder))
}

fn record(id: i64, bytes: usize) -> Record {
    let seed = u8::try_from(id % 251).unwrap();
    let body = (0..bytes)
        .map(|n| seed.wrapping_add(n.to_le_bytes()[0].wrapping_mul(7)))
        .collect();
    let header = RecordHeader {
        kind: RecordKind(seed),
        flags: 3,
        envelope: vec![seed; 5],
        meta: id.to_le_bytes().to_vec(),
    };
    Record::new(header, body).unwrap()
}

type Held = Result<Synced<Location>, WriteError<StoreError>>;

fn hold(writer: &Writer, family: &'static str, id: i64, bytes: usize) -> Held {
    let record = record(id, bytes);
    writer.run_blocking(move |work| {
        let location = work.append(family, &record)?;
        insert(work.sql(), id, &location)?;
        Ok(location)
    })
}

fn insert(sql: &Connection, id: i64, location: &Location) -> rusqlite::Result<usize> {
    let (segment, offset, bytes) = location.to_columns();
    sql.execute(
        "INSERT INTO held (id, segment, offset, bytes) VALUES (?1, ?2, ?3, ?4)",
        (id, segment, offset, bytes),
    )
}

fn rows(folder: &Path) -> Vec<(i64, Location)> {
    let connection = Connection::open(folder.join("index.sqlite")).unwrap();
    let mut statement = connection
        .prepare("SELECT id, segment, offset, bytes FROM held ORDER BY id")
        .unwrap();
    let rows = statement
        .query_map((), |row| Ok((row.get(0)?, Location::from_row(row, 1)?)))
        .unwrap();
    rows.map(Result::unwrap).collect()
}

fn ids(folder: &Path) -> Vec<i64> {
    rows(folder).into_iter().map(|(id, _)| id).collect()
}
