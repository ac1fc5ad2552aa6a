//! Chunks on their way: what has come of each is made durable in steps, and whole in the end.
//!
//! Bytes of a chunk that is not whole become one record of a `spool` segment per step; its last
//! bytes turn all of it into one record of the study's `packed` segments.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use store::{
    Location, Readers, Record, RecordHeader, RecordKind, SegmentName, StoreError, Work, WriteError,
    Writer,
};
use study::Digest;
use sync_quic::{Arrival, Kept};
use thiserror::Error;

use super::{asking, scrub};
use crate::archive::PACKED_UNIT;
use crate::archive::group::GroupKey;
use crate::db::ManifestId;

/// A part of a chunk.
const SPOOL_PART: RecordKind = RecordKind(3);
/// Where parts lie.
const SPOOL_FAMILY: &str = "spool";
/// A spool segment that holds nothing any more is removed when it has grown to this.
const SPOOL_BYTES_KEPT: i64 = 8 << 20;

/// Why arrivals were not kept.
#[derive(Debug, Error)]
pub(crate) enum SpoolError {
    /// The bytes before it are not here.
    #[error("bytes of chunk {0} are missing before what came")]
    Gap(u32),
    /// No such chunk was announced.
    #[error("chunk {0} was not announced")]
    Unknown(u32),
    /// The disk or the index refused.
    #[error("the spool cannot be used")]
    Store(#[from] StoreError),
    /// The index refused.
    #[error("the spool's index cannot be used")]
    Index(#[from] rusqlite::Error),
}

/// A manifest's digest and a chunk's number in it.
type Key = (Digest, u32);
type WriteSpoolError = WriteError<SpoolError>;

/// Keeps the bytes of chunks.
pub(crate) struct Spool {
    writer: Writer,
    readers: Arc<Readers>,
    delay: Duration,
    bytes_max: usize,
}

/// Bytes of one chunk that follow each other.
struct Run {
    key: Key,
    digest: Digest,
    start: u32,
    bytes: Vec<u8>,
    last: bool,
}

/// A run, ready for the disk.
enum Step {
    Part {
        key: Key,
        start: u32,
        record: Record,
    },
    Chunk {
        key: Key,
        record: Record,
    },
    Damaged {
        key: Key,
    },
    /// Another road has brought all of the chunk meanwhile.
    Known,
}

impl Spool {
    pub(crate) fn new(
        writer: Writer,
        readers: Arc<Readers>,
        delay: Duration,
        bytes_max: usize,
    ) -> Self {
        Self {
            writer,
            readers,
            delay,
            bytes_max,
        }
    }

    /// Keeps what came, in one sync: one answer for each arrival, and the groups that have a new
    /// whole chunk.
    pub(crate) async fn keep(
        &self,
        arrivals: Vec<Arrival>,
    ) -> Result<(Vec<Kept>, Vec<GroupKey>), WriteSpoolError> {
        let (runs, run_of) = join(arrivals);
        let waiting: usize = runs.iter().map(|run| run.bytes.len()).sum();
        if waiting < self.bytes_max && !runs.iter().any(|run| run.last) {
            // Nobody waits for these bytes but the accounts: let more come for the next sync.
            tokio::time::sleep(self.delay).await;
        }
        let readers = Arc::clone(&self.readers);
        let segments = Arc::clone(self.writer.segments());
        let prepare = move || {
            runs.into_iter()
                .map(|run| step(run, &readers, &segments))
                .collect::<Result<Vec<_>, SpoolError>>()
        };
        let prepared = tokio::task::spawn_blocking(prepare)
            .await
            .expect("preparing does not panic");
        let steps = prepared.map_err(WriteError::Job)?;
        let (damaged, groups) = self
            .writer
            .run(move |work| take_steps(work, &steps))
            .await?
            .into_inner();
        Ok((answers(&run_of, &damaged), groups))
    }

    /// Lets go of spool segments that hold nothing any more: each start leaves the last ones of
    /// the run before. Not from async code.
    pub(crate) fn tidy(&self) -> Result<(), WriteSpoolError> {
        let mut segments = self.writer.segments().list();
        segments.retain(|segment| segment.family() == SPOOL_FAMILY);
        self.writer.run_blocking(move |work| {
            segments
                .iter()
                .try_for_each(|segment| remove_if_unused(work, segment))
        })?;
        Ok(())
    }
}

/// Joins arrivals that follow each other in one chunk, whatever came between them; says for each
/// arrival in which run it is.
fn join(arrivals: Vec<Arrival>) -> (Vec<Run>, Vec<usize>) {
    let (mut runs, mut run_of): (Vec<Run>, _) = (Vec::new(), Vec::new());
    for arrival in arrivals {
        let key = (arrival.manifest, arrival.chunk);
        let follows = |run: &Run| {
            run.key == key && !run.last && run.start + length(&run.bytes) == arrival.offset
        };
        if let Some(at) = runs.iter().rposition(follows) {
            runs[at].bytes.extend_from_slice(&arrival.bytes);
            runs[at].last = arrival.last;
            run_of.push(at);
        } else {
            run_of.push(runs.len());
            runs.push(Run {
                key,
                digest: arrival.digest,
                start: arrival.offset,
                bytes: arrival.bytes,
                last: arrival.last,
            });
        }
    }
    (runs, run_of)
}

/// One answer for each arrival. Of a damaged chunk the last arrival hears it, for all of them.
fn answers(run_of: &[usize], damaged: &[bool]) -> Vec<Kept> {
    let mut kept = vec![Kept::Durable; run_of.len()];
    for (run, _) in damaged.iter().enumerate().filter(|(_, damaged)| **damaged) {
        if let Some(last) = run_of.iter().rposition(|of| *of == run) {
            kept[last] = Kept::Damaged;
        }
    }
    kept
}

/// Digests a run; one with a chunk's last bytes becomes the whole chunk.
fn step(run: Run, readers: &Readers, segments: &store::Segments) -> Result<Step, SpoolError> {
    let Run { key, start, .. } = run;
    if readers.with(|sql| is_whole(sql, key))? {
        return Ok(Step::Known);
    }
    if !run.last {
        return Ok(Step::Part {
            key,
            start,
            record: Record::new(part_header(key), run.bytes)?,
        });
    }
    let mut body = match body_before(key, start, readers, segments) {
        Ok(body) => body,
        // What lies here has rotted: it is sent again, as the unit still holds it.
        Err(SpoolError::Store(error)) if scrub::is_damage(&error) => {
            let error = crate::chain(&error);
            tracing::error!(chunk = key.1, error, "a part of a chunk is damaged here");
            return Ok(Step::Damaged { key });
        }
        Err(error) => return Err(error),
    };
    body.extend_from_slice(&run.bytes);
    let record = Record::new(chunk_header(key), body)?;
    if *record.digest() == run.digest {
        Ok(Step::Chunk { key, record })
    } else {
        Ok(Step::Damaged { key })
    }
}

/// Reads back the parts of a chunk before `upto`.
fn body_before(
    key: Key,
    upto: u32,
    readers: &Readers,
    segments: &store::Segments,
) -> Result<Vec<u8>, SpoolError> {
    let mut body = Vec::new();
    if upto == 0 {
        return Ok(body);
    }
    for (start, location) in readers.with(|sql| parts(sql, key))? {
        let part = segments.read(&location)?;
        // A connection that took another's place may have brought some bytes again.
        let known = length(&body)
            .checked_sub(start)
            .ok_or(SpoolError::Gap(key.1))?;
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        body.extend_from_slice(part.body().get(known..).unwrap_or_default());
    }
    body.truncate(usize::try_from(upto).unwrap_or(usize::MAX));
    if length(&body) == upto {
        Ok(body)
    } else {
        Err(SpoolError::Gap(key.1))
    }
}

/// Takes the steps; says of each whether its chunk was damaged, and which groups have a new chunk.
fn take_steps(
    work: &mut Work<'_>,
    steps: &[Step],
) -> Result<(Vec<bool>, Vec<GroupKey>), SpoolError> {
    let (mut damaged, mut groups) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Part { key, start, record } => store_part(work, *key, *start, record)?,
            Step::Chunk { key, record } => groups.push(store_chunk(work, *key, record)?),
            Step::Damaged { key } => drop_parts(work, *key)?,
            Step::Known => {}
        }
        damaged.push(matches!(step, Step::Damaged { .. }));
    }
    Ok((damaged, groups))
}

/// Where a chunk's parts lie, first byte first.
fn parts(sql: &Connection, (manifest, chunk): Key) -> Result<Vec<(u32, Location)>, SpoolError> {
    let parts = sql
        .prepare_cached(
            "SELECT p.start, p.segment, p.at, p.stored FROM part p
             JOIN manifest m ON m.id = p.manifest
             WHERE m.digest = ?1 AND p.chunk = ?2 ORDER BY p.start",
        )?
        .query_map(params![manifest.as_bytes(), chunk], |row| {
            Ok((row.get(0)?, Location::from_row(row, 1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(parts)
}

/// How far each of these chunks has come that is not whole, without gaps.
pub(crate) fn partials(
    sql: &Connection,
    manifest: ManifestId,
    chunks: RangeInclusive<u32>,
) -> rusqlite::Result<Vec<(u32, u32)>> {
    let mut statement = sql.prepare_cached(
        "SELECT chunk, start, bytes FROM part WHERE manifest = ?1 AND chunk BETWEEN ?2 AND ?3
         ORDER BY chunk, start",
    )?;
    let mut rows = statement.query(params![manifest, chunks.start(), chunks.end()])?;
    let mut partials: Vec<(u32, u32)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (chunk, start, bytes): (u32, u32, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if partials.last().is_none_or(|(last, _)| *last != chunk) {
            partials.push((chunk, 0));
        }
        if let Some((_, upto)) = partials.last_mut()
            && start <= *upto
        {
            *upto = (*upto).max(start.saturating_add(bytes));
        }
    }
    partials.retain(|(_, upto)| *upto > 0);
    Ok(partials)
}

fn store_part(
    work: &mut Work<'_>,
    key: Key,
    start: u32,
    record: &Record,
) -> Result<(), SpoolError> {
    let (manifest, _) = find(work.sql(), key)?;
    if is_whole(work.sql(), key)? {
        return Ok(());
    }
    let held = partials(work.sql(), manifest, key.1..=key.1)?;
    let upto = held.first().map_or(0, |(_, upto)| *upto);
    if start > upto {
        return Err(SpoolError::Gap(key.1));
    }
    // A part that brings nothing new takes the place of none: what is durable stays so.
    if start + length(record.body()) <= upto {
        return Ok(());
    }
    let location = work.append(SPOOL_FAMILY, record)?;
    let (segment, at, stored) = location.to_columns();
    work.sql().execute(
        "INSERT OR REPLACE INTO part (manifest, chunk, start, bytes, segment, at, stored)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            manifest,
            key.1,
            start,
            length(record.body()),
            segment,
            at,
            stored
        ],
    )?;
    Ok(())
}

/// Whether all of a chunk is here: a stick and a link may bring it at the same time.
fn is_whole(sql: &Connection, (manifest, chunk): Key) -> rusqlite::Result<bool> {
    sql.prepare_cached(
        "SELECT 1 FROM chunk c JOIN manifest m ON m.id = c.manifest
         WHERE m.digest = ?1 AND c.number = ?2 AND c.segment IS NOT NULL AND NOT c.damaged",
    )?
    .exists(params![manifest.as_bytes(), chunk])
}

fn store_chunk(work: &mut Work<'_>, key: Key, record: &Record) -> Result<GroupKey, SpoolError> {
    let (manifest, group) = find(work.sql(), key)?;
    let (held, damaged, unit, study): (bool, bool, [u8; 32], String) = work.sql().query_row(
        "SELECT c.segment IS NOT NULL, c.damaged, s.unit, s.uid FROM chunk c
         JOIN manifest m ON m.id = c.manifest JOIN study s ON s.id = m.study
         WHERE c.manifest = ?1 AND c.number = ?2",
        params![manifest, key.1],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    if !held || damaged {
        let location = work.append(&packed_family(&unit, &study), record)?;
        let (segment, at, stored) = location.to_columns();
        work.sql().execute(
            "UPDATE chunk SET segment = ?3, at = ?4, stored = ?5, damaged = 0
             WHERE manifest = ?1 AND number = ?2",
            params![manifest, key.1, segment, at, stored],
        )?;
    }
    if !held {
        work.sql().execute(
            "UPDATE manifest SET bytes_held = bytes_held + ?2 WHERE id = ?1",
            params![manifest, length(record.body())],
        )?;
    }
    if damaged {
        asking::note_mended(work.sql(), manifest)?;
    }
    drop_parts(work, key)?;
    Ok((manifest, group))
}

/// Forgets a chunk's parts, and the segments that hold nothing else.
fn drop_parts(work: &mut Work<'_>, key: Key) -> Result<(), SpoolError> {
    let (manifest, _) = find(work.sql(), key)?;
    let segments: Vec<(SegmentName, i64)> = work
        .sql()
        .prepare_cached(
            "SELECT segment, max(at + stored) FROM part WHERE manifest = ?1 AND chunk = ?2
             GROUP BY segment",
        )?
        .query_map(params![manifest, key.1], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    work.sql().execute(
        "DELETE FROM part WHERE manifest = ?1 AND chunk = ?2",
        params![manifest, key.1],
    )?;
    for (segment, grown_to) in segments {
        if grown_to >= SPOOL_BYTES_KEPT {
            remove_if_unused(work, &segment)?;
        }
    }
    Ok(())
}

fn remove_if_unused(work: &mut Work<'_>, segment: &SegmentName) -> Result<(), SpoolError> {
    let used: bool = work.sql().query_row(
        "SELECT EXISTS (SELECT 1 FROM part WHERE segment = ?1)",
        [segment],
        |row| row.get(0),
    )?;
    if !used {
        work.remove_segment_after_commit(segment)?;
    }
    Ok(())
}

/// The chunk's manifest and group.
fn find(sql: &Connection, (manifest, chunk): Key) -> Result<(ManifestId, u32), SpoolError> {
    sql.prepare_cached(
        "SELECT g.manifest, g.number FROM chunk_group g JOIN manifest m ON m.id = g.manifest
         WHERE m.digest = ?1 AND g.first <= ?2 AND g.first + g.chunks > ?2",
    )?
    .query_row(params![manifest.as_bytes(), chunk], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
    .optional()?
    .ok_or(SpoolError::Unknown(chunk))
}

/// One family of segments per study, so that a study can be let go by unlinking; named by a
/// digest, as file names say nothing of anyone.
fn packed_family(unit: &[u8; 32], study: &str) -> String {
    let name = Digest::of(&[unit.as_slice(), study.as_bytes()].concat()).to_string();
    format!("packed-{}", &name[..16])
}

/// Says whose chunk a record is, so that the index can be made anew from the segments.
fn meta((manifest, chunk): Key) -> Vec<u8> {
    [manifest.as_bytes().as_slice(), &chunk.to_be_bytes()].concat()
}

fn chunk_header(key: Key) -> RecordHeader {
    RecordHeader {
        kind: PACKED_UNIT,
        meta: meta(key),
        ..RecordHeader::default()
    }
}

fn part_header(key: Key) -> RecordHeader {
    RecordHeader {
        kind: SPOOL_PART,
        meta: meta(key),
        ..RecordHeader::default()
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a chunk has at most 1 MiB")
}
