//! Scrub: reads every chunk at rest again, opens every data key and report, says what is damaged.
//!
//! A damaged chunk without a receipt is taken for one that never came, so that its unit sends it
//! again. One with a receipt stays where it is: every read finds the damage, so it is never served;
//! its unit is asked for it, which may hold it still.

use std::collections::BTreeMap;

use identity::NodeId;
use sealing::StoreKey;
use serde::Serialize;
use store::rusqlite::{self, Connection, params};
use store::{Location, Segments, StoreError};
use study::{Digest, StudyUid};

use super::{Inbox, InboxError};
use crate::archive::{RevisionState, group};
use crate::db::{self, ManifestId};
use crate::ledger::LedgerError;
use crate::report;

/// How many chunks are asked for at a time: the index is not held while the disk is read.
const PAGE: u32 = 256;

/// What a scrub found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Scrubbed {
    /// Chunks that were read.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The studies of which something is damaged.
    pub damaged: Vec<Damaged>,
}

/// What is damaged of one study.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Damaged {
    pub study_instance_uid: StudyUid,
    pub unit: String,
    /// Damaged chunks of revisions that have their receipt: what is in them is not given out.
    pub lost: u64,
    /// Damaged chunks that are taken in again when the unit calls.
    pub forgotten: u64,
    /// Chunks that the disk does not give; it may do so later.
    pub unreadable: u64,
    /// Data keys that do not open: what they seal is not given out.
    pub keys: u64,
    /// Reports that do not open, or are not what was filed.
    pub reports: u64,
}

/// What is damaged of each study; two units may have sent one.
type ByStudy = BTreeMap<(NodeId, StudyUid), Damaged>;

/// A chunk at rest.
struct Resting {
    manifest: ManifestId,
    number: u32,
    digest: Digest,
    bytes: u64,
    location: Location,
    unit: NodeId,
    study: StudyUid,
    /// It was damaged when it was last read.
    damaged: bool,
}

impl Inbox {
    /// Reads everything at rest and compares it with its digest. Blocks on the disk, for long.
    pub(crate) fn scrub(&self) -> Result<Scrubbed, InboxError> {
        let mut damaged = ByStudy::new();
        let mut found = self.scrub_chunks(&mut damaged)?;
        let (keys, reports) = self.readers.with(|sql| -> rusqlite::Result<_> {
            let keys = damaged_keys(sql, &self.store_key)?;
            Ok((keys, report::damaged(sql, &self.store_key)?))
        })?;
        for (unit, study) in keys {
            tracing::error!(%study, node = %unit.short(), "a data key at rest is damaged");
            entry(&mut damaged, unit, &study).keys += 1;
        }
        for (unit, study) in reports {
            tracing::error!(%study, node = %unit.short(), "a report at rest is damaged");
            entry(&mut damaged, unit, &study).reports += 1;
        }
        found.damaged = damaged.into_values().collect();
        self.ask()?;
        Ok(found)
    }

    fn scrub_chunks(&self, damaged: &mut ByStudy) -> Result<Scrubbed, InboxError> {
        let mut found = Scrubbed::default();
        let mut after = (ManifestId(0), 0);
        loop {
            let page = self.readers.with(|sql| resting(sql, after))?;
            let Some(last) = page.last() else { break };
            after = (last.manifest, last.number);
            for chunk in page {
                found.chunks += 1;
                found.bytes += chunk.bytes;
                match read(&chunk, self.writer.segments()) {
                    Ok(()) if chunk.damaged => self.mark(chunk.manifest, chunk.number, false)?,
                    Ok(()) => {}
                    Err(error) => {
                        self.note(&chunk, &error, entry(damaged, chunk.unit, &chunk.study))?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Says loudly what is wrong with a chunk, and has it sent again if that can be.
    fn note(&self, chunk: &Resting, error: &Fault, entry: &mut Damaged) -> Result<(), InboxError> {
        let Resting {
            manifest,
            number,
            study,
            unit,
            ..
        } = chunk;
        let (unit, why) = (unit.short(), error.to_string());
        if !error.is_final() {
            entry.unreadable += 1;
            tracing::error!(%study, node = %unit, chunk = number, why, "a chunk cannot be read");
            return Ok(());
        }
        let (manifest, number) = (*manifest, *number);
        let forgotten = self
            .writer
            .run_blocking(move |work| -> Result<bool, LedgerError> {
                Ok(forget(work.sql(), manifest, number)?)
            })?
            .into_inner();
        if forgotten {
            entry.forgotten += 1;
            tracing::warn!(%study, node = %unit, chunk = number, why, "a damaged chunk is taken in again");
        } else {
            entry.lost += 1;
            self.mark(manifest, number, true)?;
            tracing::error!(
                %study, node = %unit, chunk = number, why,
                "a chunk is damaged for which a receipt was given; its unit is asked for it"
            );
        }
        Ok(())
    }
}

/// What is known to be damaged of a study so far.
fn entry<'a>(damaged: &'a mut ByStudy, unit: NodeId, study: &StudyUid) -> &'a mut Damaged {
    damaged
        .entry((unit, study.clone()))
        .or_insert_with(|| Damaged {
            study_instance_uid: study.clone(),
            unit: unit.to_string(),
            lost: 0,
            forgotten: 0,
            unreadable: 0,
            keys: 0,
            reports: 0,
        })
}

/// What is wrong with a chunk at rest.
enum Fault {
    Store(StoreError),
    /// The record is whole and holds another chunk.
    OtherChunk,
}

impl Fault {
    fn is_final(&self) -> bool {
        match self {
            Self::Store(error) => is_damage(error),
            Self::OtherChunk => true,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => f.write_str(&crate::chain(error)),
            Self::OtherChunk => f.write_str("another chunk lies in its place"),
        }
    }
}

fn read(chunk: &Resting, segments: &Segments) -> Result<(), Fault> {
    let record = segments
        .read_from_disk(&chunk.location)
        .map_err(Fault::Store)?;
    if *record.digest() == chunk.digest {
        Ok(())
    } else {
        Err(Fault::OtherChunk)
    }
}

fn resting(sql: &Connection, after: (ManifestId, u32)) -> rusqlite::Result<Vec<Resting>> {
    sql.prepare_cached(
        "SELECT c.manifest, c.number, c.digest, c.bytes, s.unit, s.uid, c.segment, c.at, c.stored,
                c.damaged
         FROM chunk c JOIN manifest m ON m.id = c.manifest JOIN study s ON s.id = m.study
         WHERE (c.manifest, c.number) > (?1, ?2) AND c.segment IS NOT NULL
         ORDER BY c.manifest, c.number LIMIT ?3",
    )?
    .query_map(params![after.0, after.1, PAGE], |row| {
        Ok(Resting {
            manifest: row.get(0)?,
            number: row.get(1)?,
            digest: db::digest(row, 2)?,
            bytes: db::uint(row, 3)?,
            unit: NodeId::from_bytes(row.get(4)?),
            study: db::parsed(row, 5)?,
            location: Location::from_row(row, 6)?,
            damaged: row.get(9)?,
        })
    })?
    .collect()
}

/// Whose data keys do not open any more, once for each.
fn damaged_keys(
    sql: &Connection,
    store_key: &StoreKey,
) -> rusqlite::Result<Vec<(NodeId, StudyUid)>> {
    let mut statement = sql.prepare(
        "SELECT s.unit, s.uid, m.envelope FROM manifest m JOIN study s ON s.id = m.study
         WHERE EXISTS (SELECT 1 FROM chunk_group g WHERE g.manifest = m.id)",
    )?;
    let mut rows = statement.query([])?;
    let mut damaged = Vec::new();
    while let Some(row) = rows.next()? {
        let study: StudyUid = db::parsed(row, 1)?;
        let envelope: Option<Vec<u8>> = row.get(2)?;
        if group::data_key(envelope.as_deref(), &study, store_key).is_err() {
            damaged.push((NodeId::from_bytes(row.get(0)?), study));
        }
    }
    Ok(damaged)
}

/// Whether something at rest is lost for good, and not only out of reach at this moment.
pub(super) fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Damaged { .. } | StoreError::NoSegment(_))
}

/// Takes a damaged chunk for one that never came, if no receipt speaks of it; says whether. That of
/// a later revision does, which is over all that came before, refused or not. Its group is not
/// decoded any more, so that no receipt is given before the chunk is back.
pub(super) fn forget(sql: &Connection, manifest: ManifestId, chunk: u32) -> rusqlite::Result<bool> {
    let forgotten = sql.execute(
        "UPDATE chunk SET segment = NULL, at = NULL, stored = NULL
         WHERE manifest = ?1 AND number = ?2 AND segment IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM manifest m JOIN manifest n ON n.study = m.study
                           WHERE m.id = ?1 AND n.revision >= m.revision AND n.state = ?3)",
        params![manifest, chunk, RevisionState::Accepted.code()],
    )?;
    if forgotten == 0 {
        return Ok(false);
    }
    sql.execute(
        "UPDATE chunk_group SET decoded = 0
         WHERE manifest = ?1 AND first <= ?2 AND first + chunks > ?2",
        params![manifest, chunk],
    )?;
    sql.execute(
        "UPDATE manifest SET state = CASE state WHEN ?3 THEN ?4 ELSE state END,
             bytes_held = bytes_held -
                 (SELECT bytes FROM chunk WHERE manifest = ?1 AND number = ?2)
         WHERE id = ?1",
        params![
            manifest,
            chunk,
            RevisionState::Decoded.code(),
            RevisionState::Arriving.code()
        ],
    )?;
    Ok(true)
}

#[cfg(test)]
mod tests;
