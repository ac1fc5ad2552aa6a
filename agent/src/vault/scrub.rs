//! Scrubbing: re-reads what is held from the medium, and finds what is not what was stored.
//!
//! In: nothing but the segments and the index. Out: what is damaged, marked in the index.
//! Invariant: a pass goes in the order of the disk and leaves nothing out; what it holds in memory
//! does not grow with what the box holds; nothing is marked that was not read by itself.
//! May not: repair, change a segment, decide when and how fast it goes.

use std::collections::{BTreeSet, VecDeque};

use serde::Serialize;
use store::rusqlite::{Connection, params};
use store::{SegmentName, Work};
use study::StudyUid;

use super::inspect::{Held, HeldRow, Inspection};
use super::{Vault, VaultError};

/// What is read between two looks at whether to go on.
const SLICE_BYTES: u64 = 1 << 20;

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Scrubbed {
    /// Whole records that were read.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Things held where something else lies than was stored: instances, chunks, papers.
    pub damaged: u64,
    /// Damaged places that nothing held lies in: what was mended or let go lay there.
    pub stray: u64,
    /// The studies of which something is damaged.
    pub studies: BTreeSet<StudyUid>,
}

impl Scrubbed {
    /// Adds what was found elsewhere.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.damaged += other.damaged;
        self.stray += other.stray;
        self.studies.extend(other.studies);
    }
}

/// What was found between two looks at whether to go on.
#[derive(Debug, Default)]
pub struct Slice {
    /// What was found.
    pub found: Scrubbed,
    /// What is to be marked.
    pub(super) damaged: Vec<HeldRow>,
    /// What was marked and is whole.
    pub(super) whole: Vec<HeldRow>,
    /// The segment that the pass is through with.
    pub through: Option<SegmentName>,
}

/// A pass over all that is held; it may rest between two slices, for as long as it likes.
pub struct Pass {
    vault: Vault,
    segments: VecDeque<SegmentName>,
    current: Option<Inspection>,
}

/// Where the passes that go by schedule stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubState {
    /// The segment behind which the pass goes on; none when one is to begin.
    pub after: Option<SegmentName>,
    /// What the odometer showed when it began, or when the last one did.
    pub began_run_ms: Option<u64>,
}

impl Vault {
    /// Begins a pass, or goes on with one behind a segment.
    pub fn pass(&self, after: Option<&SegmentName>) -> Result<Pass, VaultError> {
        // One name for each file: the records themselves are asked for page by page.
        let mut segments: BTreeSet<SegmentName> = self.0.readers.with(referred_segments)?;
        segments.extend(self.0.writer.segments().list());
        segments.retain(|segment| after.is_none_or(|after| segment > after));
        Ok(Pass {
            vault: self.clone(),
            segments: segments.into_iter().collect(),
            current: None,
        })
    }

    /// Re-reads everything that is held, at once and as fast as the disk allows, and marks what is
    /// damaged. Blocks.
    pub fn scrub(&self) -> Result<Scrubbed, VaultError> {
        let began = self.ran_ms()?;
        let mut found = Scrubbed::default();
        let mut pass = self.pass(None)?;
        while let Some(slice) = pass.next_slice()? {
            self.mark(&slice)?;
            found.add(slice.found);
        }
        self.note_scrub(None, began)?;
        self.say_damage()?;
        Ok(found)
    }

    /// Where the passes that go by schedule stand.
    pub fn scrub_state(&self) -> Result<ScrubState, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.query_row("SELECT after, began_run_ms FROM scrub", [], |row| {
                Ok(ScrubState {
                    // What is no name is no place to go on from.
                    after: row.get_ref(0)?.as_str()?.parse().ok(),
                    began_run_ms: row.get(1)?,
                })
            })
        })?)
    }

    /// Notes how far a pass has come that began when the odometer showed so much; none: to its end.
    pub fn note_scrub(
        &self,
        after: Option<SegmentName>,
        began_run_ms: u64,
    ) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let job = move |work: &mut Work<'_>| -> Result<(), VaultError> {
            let after = after.as_ref().map_or("", SegmentName::as_str);
            work.sql().execute(
                "UPDATE scrub SET after = ?1, began_run_ms = ?2",
                params![after, super::columns::int(began_run_ms)],
            )?;
            Ok(())
        };
        self.0.writer.run_blocking(job)?;
        Ok(())
    }

    /// How long this box has been running in all, as the odometer has it.
    pub fn ran_ms(&self) -> Result<u64, VaultError> {
        Ok(self
            .0
            .readers
            .with(|sql| sql.query_row("SELECT run_ms FROM odometer", [], |row| row.get(0)))?)
    }

    /// Marks what a slice has found, in the index.
    pub fn mark(&self, slice: &Slice) -> Result<(), VaultError> {
        if slice.damaged.is_empty() && slice.whole.is_empty() {
            return Ok(());
        }
        self.room_to_write(0)?;
        let (damaged, whole) = (slice.damaged.clone(), slice.whole.clone());
        let marked = self
            .0
            .writer
            .run_blocking(move |work| -> Result<(), VaultError> {
                for row in &damaged {
                    mark(work.sql(), row, true)?;
                }
                for row in &whole {
                    mark(work.sql(), row, false)?;
                }
                Ok(())
            })?;
        self.note_change(marked);
        Ok(())
    }
}

impl Pass {
    /// Reads on; none when there is nothing left. Blocks on the disk.
    pub fn next_slice(&mut self) -> Result<Option<Slice>, VaultError> {
        let mut slice = Slice::default();
        while slice.found.bytes < SLICE_BYTES {
            let inspection = match &mut self.current {
                Some(inspection) => inspection,
                None => {
                    let Some(segment) = self.segments.pop_front() else {
                        let is_last = slice.through.is_some() || slice.found.bytes > 0;
                        return Ok(is_last.then_some(slice));
                    };
                    self.current.insert(Inspection::of(&self.vault, segment))
                }
            };
            if !inspection.step(&self.vault, &mut slice)? {
                slice.through = Some(inspection.segment().clone());
                self.current = None;
            }
        }
        Ok(Some(slice))
    }
}

fn mark(sql: &Connection, row: &HeldRow, damaged: bool) -> store::rusqlite::Result<()> {
    let (segment, offset, _) = row.location.to_columns();
    match &row.held {
        Held::Chunk {
            revision, number, ..
        } => sql
            .prepare_cached(
                "UPDATE chunk SET damaged = CASE WHEN ?6 THEN max(damaged, 1) ELSE 0 END
                 WHERE study_uid = ?1 AND revision = ?2 AND number = ?3
                     AND segment = ?4 AND offset = ?5",
            )?
            .execute(params![
                row.study.as_str(),
                revision,
                number,
                segment,
                offset,
                damaged
            ])?,
        Held::Instance { instance_id, .. } => sql
            .prepare_cached(
                "UPDATE instance SET damaged = ?4, set_aside = ?4
                 WHERE instance_id = ?1 AND segment = ?2 AND offset = ?3",
            )?
            .execute(params![instance_id, segment, offset, damaged])?,
    };
    Ok(())
}

fn referred_segments(sql: &Connection) -> store::rusqlite::Result<BTreeSet<SegmentName>> {
    sql.prepare_cached(
        "SELECT DISTINCT segment FROM chunk
         UNION SELECT DISTINCT segment FROM instance WHERE segment IS NOT NULL",
    )?
    .query_map([], |row| row.get(0))?
    .collect()
}
