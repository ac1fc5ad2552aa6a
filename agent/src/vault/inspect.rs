//! Inspecting: one segment, from its first byte to its last, against what the index says of it.

use std::collections::VecDeque;

use store::rusqlite::{Connection, OptionalExtension, Row, params};
use store::{Found, Location, Scan, Scanned, SegmentName, StoreError};
use study::{Digest, InstanceDigest, SopInstanceUid, StudyUid};

use super::columns::uid;
use super::fetch::FetchError;
use super::formats::{self, IntakeMeta};
use super::scrub::Slice;
use super::{Vault, VaultError};

/// Rows that are asked for at a time.
const PAGE: u32 = 256;

/// What a row of the index holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// A chunk of a revision.
    Chunk {
        revision: u32,
        number: u32,
        digest: Digest,
    },
    /// An instance as it was taken in.
    Instance {
        instance_id: i64,
        sop: SopInstanceUid,
        digest: InstanceDigest,
        file_bytes: u64,
        pieces: u32,
    },
}

/// A row of the index, and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldRow {
    pub(super) study: StudyUid,
    pub(super) held: Held,
    pub(super) location: Location,
    /// It is known to be damaged.
    pub(super) damaged: bool,
}

impl HeldRow {
    fn end(&self) -> u64 {
        self.location.offset.saturating_add(self.location.bytes)
    }

    /// Whether a whole record is number `nth` of what the row holds.
    fn fits(&self, nth: u32, found: &Found) -> bool {
        match &self.held {
            Held::Chunk { digest, .. } => nth == 0 && found.digest == *digest,
            Held::Instance { .. } if nth > 0 => found.header.kind == formats::INTAKE_PIECE,
            Held::Instance {
                sop,
                digest,
                file_bytes,
                pieces,
                ..
            } => {
                let said: Option<IntakeMeta> = formats::from_meta(&found.header.meta);
                found.header.kind == formats::INTAKE_FILE
                    && said.is_some_and(|said| {
                        said.study == self.study
                            && said.sop == *sop
                            && said.digest == *digest
                            && said.file_bytes == *file_bytes
                            && said.pieces == *pieces
                    })
            }
        }
    }

    fn records(&self) -> u32 {
        match &self.held {
            Held::Chunk { .. } => 1,
            Held::Instance { pieces, .. } => *pieces,
        }
    }
}

/// A row, and how far its bytes have been seen.
struct Checked {
    row: HeldRow,
    upto: u64,
    records: u32,
    sound: bool,
}

impl Checked {
    fn new(row: HeldRow) -> Self {
        Self {
            upto: row.location.offset,
            records: 0,
            sound: true,
            row,
        }
    }

    fn take(&mut self, found: &Found) {
        let end = found.location.offset + found.location.bytes;
        self.sound &= found.location.offset == self.upto
            && end <= self.row.end()
            && self.row.fits(self.records, found);
        self.upto = end;
        self.records += 1;
    }

    fn is_whole(&self) -> bool {
        self.sound && self.upto == self.row.end() && self.records == self.row.records()
    }
}

/// A segment that is being gone through.
pub(super) struct Inspection {
    segment: SegmentName,
    /// What is left of it; none when it cannot be gone through (any more).
    scan: Option<Scan>,
    page: VecDeque<HeldRow>,
    /// Where the last row begins that was asked for; none before the first page.
    asked_upto: Option<u64>,
    /// No more rows are to be asked for.
    asked_all: bool,
    current: Option<Checked>,
}

impl Inspection {
    pub(super) fn of(vault: &Vault, segment: SegmentName) -> Self {
        let scan = vault.0.writer.segments().scan(&segment);
        let scan = scan.inspect_err(|error| {
            // One that was let go in the meantime; if its rows are there still, they are damaged.
            if !matches!(error, StoreError::NoSegment(_)) {
                let error = error as &dyn std::error::Error;
                tracing::error!(%segment, error, "a segment cannot be gone through");
            }
        });
        Self {
            scan: scan.ok(),
            segment,
            page: VecDeque::new(),
            asked_upto: None,
            asked_all: false,
            current: None,
        }
    }

    pub(super) fn segment(&self) -> &SegmentName {
        &self.segment
    }

    /// Looks at what comes next; says whether there was anything.
    pub(super) fn step(&mut self, vault: &Vault, slice: &mut Slice) -> Result<bool, VaultError> {
        match self.scan.as_mut().and_then(Iterator::next) {
            Some(Ok(Scanned::Whole(found))) => {
                slice.found.records += 1;
                slice.found.bytes += found.location.bytes;
                self.lay(vault, &found, slice)?;
                Ok(true)
            }
            Some(Ok(Scanned::Damaged { range, .. })) => {
                slice.found.bytes += range.end - range.start;
                self.hole(vault, &range, slice)?;
                Ok(true)
            }
            Some(Err(error)) => {
                let (segment, error) = (&self.segment, &error as &dyn std::error::Error);
                tracing::error!(%segment, error, "a segment cannot be gone through to its end");
                self.scan = None;
                Ok(true)
            }
            // What the index says of the rest is asked for piece by piece.
            None => {
                self.scan = None;
                let Some(checked) = self.take_current(vault)? else {
                    return Ok(false);
                };
                settle(vault, checked, slice)?;
                Ok(true)
            }
        }
    }

    /// A whole record lies here: it is to be what the index says.
    fn lay(&mut self, vault: &Vault, found: &Found, slice: &mut Slice) -> Result<(), VaultError> {
        let (start, end) = (
            found.location.offset,
            found.location.offset + found.location.bytes,
        );
        loop {
            match self.current(vault)? {
                Some(checked) if checked.row.end() <= start => {}
                Some(checked) if checked.row.location.offset < end => {
                    checked.take(found);
                    return Ok(());
                }
                Some(_) | None => return check_paper(vault, found, slice),
            }
            if let Some(checked) = self.take_current(vault)? {
                settle(vault, checked, slice)?;
            }
        }
    }

    /// Bytes that are no record lie here: whatever the index has in them is damaged.
    fn hole(
        &mut self,
        vault: &Vault,
        range: &std::ops::Range<u64>,
        slice: &mut Slice,
    ) -> Result<(), VaultError> {
        let mut belongs = false;
        while let Some(checked) = self.current(vault)? {
            if checked.row.location.offset >= range.end {
                break;
            }
            let end = checked.row.end();
            if end > range.start {
                belongs = true;
                checked.sound = false;
            }
            if end > range.end {
                break;
            }
            if let Some(checked) = self.take_current(vault)? {
                settle(vault, checked, slice)?;
            }
        }
        if !belongs && lies_damaged(vault, &self.segment, range.start)? {
            let (segment, at, bytes) = (&self.segment, range.start, range.end - range.start);
            tracing::error!(%segment, at, bytes, "damage in what the index has nothing of");
            if holds_papers(segment) {
                slice.found.damaged += 1;
            } else {
                slice.found.stray += 1;
            }
        }
        Ok(())
    }

    fn current(&mut self, vault: &Vault) -> Result<Option<&mut Checked>, VaultError> {
        if self.current.is_none() {
            if self.page.is_empty() && !self.asked_all {
                let (segment, after) = (&self.segment, self.asked_upto);
                self.page = vault
                    .0
                    .readers
                    .with(|sql| rows(sql, segment, after))?
                    .into();
                self.asked_upto = self.page.back().map(|row| row.location.offset);
                self.asked_all = self.page.is_empty();
            }
            self.current = self.page.pop_front().map(Checked::new);
        }
        Ok(self.current.as_mut())
    }

    fn take_current(&mut self, vault: &Vault) -> Result<Option<Checked>, VaultError> {
        self.current(vault)?;
        Ok(self.current.take())
    }
}

/// Whether a segment holds what an index is made anew from, and nothing that is given out.
fn holds_papers(segment: &SegmentName) -> bool {
    let family = segment.family();
    family == formats::JOURNAL_FAMILY
        || family.starts_with("keys-")
        || family.starts_with(formats::DOCUMENT_FAMILY)
}

/// Says what has become of a row whose bytes have been gone through.
///
/// Nothing is called damaged before it was read by itself, with the index as it is then: it may
/// have been packed or let go in the meantime.
fn settle(vault: &Vault, checked: Checked, slice: &mut Slice) -> Result<(), VaultError> {
    let row = checked.row.clone();
    if !checked.is_whole() {
        match reread(vault, &row) {
            Ok(true) => {}
            Ok(false) => return note(vault, row, None, slice),
            Err(error) => return note(vault, row, Some(error), slice),
        }
    }
    if row.damaged {
        slice.whole.push(row);
    }
    Ok(())
}

fn note(
    vault: &Vault,
    row: HeldRow,
    error: Option<StoreError>,
    slice: &mut Slice,
) -> Result<(), VaultError> {
    if !vault.0.readers.with(|sql| is_there(sql, &row))? {
        return Ok(());
    }
    let (study, segment, at) = (&row.study, &row.location.segment, row.location.offset);
    slice.found.damaged += 1;
    slice.found.studies.insert(study.clone());
    let why = error.as_ref().map(|error| error as &dyn std::error::Error);
    tracing::error!(%study, %segment, at, error = why, "something held is damaged or cannot be read");
    // What the disk may give another time is not called lost.
    if error.is_none_or(|error| FetchError::Store(error).is_loss()) {
        slice.damaged.push(row);
    }
    Ok(())
}

/// Reads by itself what a row holds; whether it is what the row says.
fn reread(vault: &Vault, row: &HeldRow) -> Result<bool, StoreError> {
    let segments = vault.0.writer.segments();
    let mut checked = Checked::new(row.clone());
    for location in segments.split_run(&row.location)? {
        let record = segments.read_from_disk(&location)?;
        checked.take(&Found {
            location,
            header: record.header().clone(),
            digest: *record.digest(),
        });
    }
    Ok(checked.is_whole())
}

/// Whether there is damage here still, when nothing is on its way to the disk.
fn lies_damaged(vault: &Vault, segment: &SegmentName, at: u64) -> Result<bool, VaultError> {
    wait_for_writes(vault)?;
    let scan = match vault.0.writer.segments().scan(segment) {
        Ok(scan) => scan,
        Err(StoreError::NoSegment(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    for scanned in scan {
        if let Scanned::Damaged { range, .. } = scanned?
            && range.contains(&at)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lets everything be committed that has been begun.
fn wait_for_writes(vault: &Vault) -> Result<(), VaultError> {
    let nothing = |_: &mut store::Work<'_>| Ok::<(), VaultError>(());
    vault.0.writer.run_blocking(nothing)?;
    Ok(())
}

/// Compares a record of a journal, a manifest or the envelopes of a key with the index.
fn check_paper(vault: &Vault, found: &Found, slice: &mut Slice) -> Result<(), VaultError> {
    let agrees = |vault: &Vault| -> Result<bool, VaultError> {
        let record = match vault.0.writer.segments().read(&found.location) {
            Ok(record) => record,
            Err(StoreError::NoSegment(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let kind = found.header.kind;
        Ok(vault
            .0
            .readers
            .with(|sql| paper_agrees(sql, kind, record.body()))?)
    };
    if agrees(vault)? {
        return Ok(());
    }
    wait_for_writes(vault)?;
    if !agrees(vault)? {
        let (segment, at) = (&found.location.segment, found.location.offset);
        tracing::error!(%segment, at, "the index does not have what lies here");
        slice.found.damaged += 1;
    }
    Ok(())
}

fn paper_agrees(
    sql: &Connection,
    kind: store::RecordKind,
    body: &[u8],
) -> store::rusqlite::Result<bool> {
    let kept: Option<Vec<u8>> = match kind {
        formats::JOURNAL_RECORD => {
            let Ok(said) = journal::read_record(body) else {
                return Ok(false);
            };
            sql.prepare_cached(
                "SELECT bytes FROM record WHERE author = ?1 AND stream = ?2 AND seq = ?3",
            )?
            .query_row(
                params![said.author.as_bytes(), said.stream.as_bytes(), said.seq],
                |row| row.get(0),
            )
            .optional()?
        }
        formats::SIGNED_MANIFEST => sql
            .prepare_cached("SELECT manifest FROM revision WHERE manifest_digest = ?1")?
            .query_row([Digest::of(body).as_bytes()], |row| row.get(0))
            .optional()?,
        formats::KEY_ENVELOPES => return key_agrees(sql, body),
        // What was held and is not any more, or was never acknowledged.
        _ => return Ok(true),
    };
    Ok(kept.is_some_and(|kept| kept == body))
}

/// Whether the index has the key with the same envelope for this box; the hub's may have been added.
fn key_agrees(sql: &Connection, body: &[u8]) -> store::rusqlite::Result<bool> {
    let Some((study, said)) = formats::read_key_body(body) else {
        return Ok(false);
    };
    let kept: Option<(String, Vec<u8>)> = sql
        .prepare_cached("SELECT study_uid, envelopes FROM data_key WHERE key_id = ?1")?
        .query_row([said.key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(kept.is_some_and(|(of, kept)| {
        let kept = sealing::KeyEnvelopes::from_cbor(&kept);
        of == study.as_str() && kept.is_ok_and(|kept| kept.to_box == said.to_box)
    }))
}

/// The next rows of a segment, in the order of the disk.
fn rows(
    sql: &Connection,
    segment: &SegmentName,
    after: Option<u64>,
) -> store::rusqlite::Result<Vec<HeldRow>> {
    let after = after.map_or(-1, u64::cast_signed);
    sql.prepare_cached(
        "SELECT segment, offset, length, study_uid, damaged > 0, revision, number, digest,
                NULL, NULL, NULL, NULL
         FROM chunk WHERE segment = ?1 AND offset > ?2
         UNION ALL
         SELECT segment, offset, length, study_uid, damaged > 0, NULL, NULL, digest,
                instance_id, sop_uid, file_bytes, pieces
         FROM instance WHERE segment = ?1 AND offset > ?2
         ORDER BY offset LIMIT ?3",
    )?
    .query_map(params![segment, after, PAGE], held_row)?
    .collect()
}

fn held_row(row: &Row<'_>) -> store::rusqlite::Result<HeldRow> {
    let digest = Digest::from_bytes(row.get(7)?);
    let held = match row.get::<_, Option<u32>>(5)? {
        Some(revision) => Held::Chunk {
            revision,
            number: row.get(6)?,
            digest,
        },
        None => Held::Instance {
            instance_id: row.get(8)?,
            sop: uid(row, 9, SopInstanceUid::parse)?,
            digest: InstanceDigest::from_digest(digest),
            file_bytes: row.get(10)?,
            pieces: row.get(11)?,
        },
    };
    Ok(HeldRow {
        location: Location::from_row(row, 0)?,
        study: uid(row, 3, StudyUid::parse)?,
        damaged: row.get(4)?,
        held,
    })
}

/// Whether the index still says that this lies there.
fn is_there(sql: &Connection, row: &HeldRow) -> store::rusqlite::Result<bool> {
    let (segment, offset, length) = row.location.to_columns();
    match &row.held {
        Held::Chunk {
            revision, number, ..
        } => sql
            .prepare_cached(
                "SELECT 1 FROM chunk WHERE study_uid = ?1 AND revision = ?2 AND number = ?3
                     AND segment = ?4 AND offset = ?5 AND length = ?6",
            )?
            .exists(params![
                row.study.as_str(),
                revision,
                number,
                segment,
                offset,
                length
            ]),
        Held::Instance { instance_id, .. } => sql
            .prepare_cached(
                "SELECT 1 FROM instance
                 WHERE instance_id = ?1 AND segment = ?2 AND offset = ?3 AND length = ?4",
            )?
            .exists(params![instance_id, segment, offset, length]),
    }
}
