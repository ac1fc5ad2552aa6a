//! Absorbing: takes records into the index that it does not know, where they lie.
//!
//! After a power cut these are a few at the ends of segments; for an index that is made anew they
//! are all that the box holds. Nothing of it needs a key: a locked box does it as well.

mod sorted;

use std::collections::{BTreeMap, BTreeSet};

use identity::NodeId;
use journal::{ChainFault, Fact, JournalId, Signed, SignedManifest};
use sealing::KeyId;
use serde::Serialize;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{SegmentName, Segments, Work};
use study::{Digest, StudyUid};

use super::arrivals;
use super::columns::int;
use super::formats::{GoneList, PackedFile};
use super::ledger::Kept;
use super::recovery::Unknown;
use super::{VaultError, consent, documents, keep, records, revisions, sealed};
use sorted::{OfStudy, Run, Sorted};

/// What was taken into the index.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Absorbed {
    /// Instances as they were taken in.
    pub instances: u64,
    /// Revisions with what was packed.
    pub revisions: u64,
    /// Records of journals.
    pub records: u64,
    /// Documents, each of their forms.
    pub documents: u64,
    /// Groups of revisions of which something is missing.
    pub incomplete: u64,
    /// Records whose bytes are not those that were stored.
    pub damaged: u64,
    /// Bytes at the ends of segments that were no records and were cut off: what a power cut leaves
    /// looks so, and so does a last record whose header has rotted.
    pub cut_bytes: u64,
}

impl Absorbed {
    /// Whether there was anything.
    pub fn is_nothing(&self) -> bool {
        let cut_bytes = 0;
        Self { cut_bytes, ..*self } == Self::default()
    }
}

/// Takes unknown records in. Runs inside one store job, so that all of it counts or nothing.
pub(super) fn absorb(
    work: &mut Work<'_>,
    segments: &Segments,
    unit: NodeId,
    unknown: &[Unknown],
) -> Result<Absorbed, VaultError> {
    let sql = work.sql();
    let mut absorbed = Absorbed::default();
    let sorted = Sorted::of(segments, unit, unknown, &mut absorbed)?;
    for list in &sorted.gone {
        enter_gone(sql, list)?;
    }
    for (study, envelopes) in &sorted.keys {
        // A later record of the same key has an envelope more.
        sql.prepare_cached("DELETE FROM data_key WHERE key_id = ?1")?
            .execute([envelopes.key.as_bytes()])?;
        sealed::insert_key(sql, study, envelopes)?;
    }
    let mut packed_elsewhere = BTreeSet::new();
    for (_, of_study) in &sorted.studies {
        for signed in counting(sql, &sorted, of_study)? {
            enter_manifest(sql, &sorted, signed, &mut absorbed)?;
            absorbed.revisions += 1;
        }
        for run in &of_study.runs {
            if enter_run(sql, run)? {
                absorbed.instances += 1;
                absorbed.damaged += u64::from(run.damaged);
            } else {
                packed_elsewhere.insert(run.location.segment.clone());
            }
        }
    }
    settle_open(sql)?;
    for unsaid in &sorted.unsaid {
        consent::enter_unsaid(sql, unsaid)?;
        if let Ok(fact) = Fact::read(unsaid.kind, &unsaid.body) {
            recall(sql, &fact)?;
        }
    }
    for document in &sorted.documents {
        documents::enter(sql, document)?;
        absorbed.documents += 1;
    }
    absorbed.records = enter_records(sql, unit, &sorted.records)?;
    // An index that did not know everything does not know what has left either.
    if !unknown.is_empty() {
        sql.execute(
            "UPDATE revision SET offered = 1
             WHERE study_uid IN (SELECT study_uid FROM study WHERE consent != 0)",
            [],
        )?;
    }
    for list in &sorted.gone {
        keep::forget_reports(sql, &list.study, list.reports_upto)?;
    }
    note_ends(sql, unknown)?;
    if absorbed.damaged == 0 && absorbed.incomplete == 0 {
        for segment in packed_elsewhere {
            if is_left_over(work.sql(), unknown, &segment)? {
                sealed::give_up(work, &segment)?;
            }
        }
    }
    Ok(absorbed)
}

/// Enters a file as it was taken in, unless it is held; says whether it did.
fn enter_run(sql: &Connection, run: &Run) -> Result<bool, VaultError> {
    let known = arrivals::kept_under(sql, &run.said.sop)?;
    // What has gone has come again since if its key is here; else this is what was left of it
    // between what others have in the segment. A whole record takes the place of a damaged one.
    let has_key = has_key(sql, run)?;
    let is_held = |kept: &Kept| {
        let comes_again = has_key && (kept.erased || kept.let_go && run.key.is_some());
        let is_gone = kept.erased || kept.let_go;
        let mends = kept.useless && !run.damaged && (has_key || !is_gone);
        kept.digest == run.said.digest && !comes_again && !mends
    };
    if known.iter().any(is_held) {
        return Ok(false);
    }
    // Of a damaged one the key cannot be told; nobody will open it.
    let key = run.key.unwrap_or(KeyId::from_bytes([0; 8]));
    arrivals::enter(sql, &run.said, key, &run.location)?;
    if run.damaged {
        sql.prepare_cached(
            "UPDATE instance SET damaged = 1, set_aside = 1 WHERE sop_uid = ?1 AND digest = ?2",
        )?
        .execute(params![
            run.said.sop.as_str(),
            run.said.digest.digest().as_bytes()
        ])?;
    }
    Ok(true)
}

/// Whether the key of a file as it was taken in is kept; of a damaged one, any key of its study.
fn has_key(sql: &Connection, run: &Run) -> store::rusqlite::Result<bool> {
    let key = run.key.as_ref().map(KeyId::as_bytes);
    sql.prepare_cached(
        "SELECT 1 FROM data_key WHERE study_uid = ?1 AND (?2 IS NULL OR key_id = ?2)",
    )?
    .exists(params![run.said.study.as_str(), key])
}

/// Notes that the index knows the segments up to the last of these records: they are not looked
/// at again.
fn note_ends(sql: &Connection, unknown: &[Unknown]) -> store::rusqlite::Result<()> {
    let mut next = unknown.iter().skip(1);
    for last in unknown {
        let segment = &last.found.location.segment;
        let more = next.next();
        if more.is_none_or(|next| next.found.location.segment != *segment) {
            sealed::note_end(sql, &last.found.location)?;
        }
    }
    Ok(())
}

/// Whether a segment is one that packing had no time to remove: the index knew nothing in it, and
/// refers to nothing in it.
fn is_left_over(
    sql: &Connection,
    unknown: &[Unknown],
    segment: &SegmentName,
) -> store::rusqlite::Result<bool> {
    let mut all = unknown.iter().map(|next| &next.found);
    let first = all.find(|found| found.location.segment == *segment);
    let in_use = sql
        .prepare_cached(
            "SELECT 1 FROM instance WHERE segment = ?1
             UNION ALL SELECT 1 FROM chunk WHERE segment = ?1 LIMIT 1",
        )?
        .exists(params![segment])?;
    Ok(!in_use && first.is_some_and(|found| found.location.offset == 0))
}

/// The manifests that are to be entered: of each revision the one that counts, if it is new.
fn counting<'a>(
    sql: &Connection,
    sorted: &Sorted,
    of_study: &'a OfStudy,
) -> Result<Vec<&'a SignedManifest>, VaultError> {
    let mut revisions: BTreeMap<u32, Vec<&SignedManifest>> = BTreeMap::new();
    for signed in &of_study.manifests {
        if !sorted.withdraws(signed) {
            let found = revisions.entry(signed.manifest().revision).or_default();
            found.push(signed);
        }
    }
    let mut counting = Vec::with_capacity(revisions.len());
    for (revision, found) in &revisions {
        let Some(study) = found.first().map(|first| &first.manifest().study) else {
            continue;
        };
        let known = sql
            .prepare_cached(
                "SELECT manifest_digest FROM revision WHERE study_uid = ?1 AND revision = ?2",
            )?
            .query_row(params![study.as_str(), revision], |row| {
                row.get(0).map(Digest::from_bytes)
            })
            .optional()?;
        if let Some(signed) = sorted.counting(found, known) {
            if known.is_some() {
                forget_revision(sql, study, *revision)?;
            }
            counting.push(signed);
        }
    }
    Ok(counting)
}

/// Makes room for the manifest that took the place of the one in the index.
fn forget_revision(
    sql: &Connection,
    study: &StudyUid,
    revision: u32,
) -> store::rusqlite::Result<()> {
    for rows in [
        "UPDATE instance SET group_id = NULL, file_number = NULL WHERE group_id IN
             (SELECT group_id FROM pack_group WHERE study_uid = ?1 AND revision = ?2)",
        "DELETE FROM chunk WHERE study_uid = ?1 AND revision = ?2",
        "DELETE FROM pack_group WHERE study_uid = ?1 AND revision = ?2",
        "DELETE FROM revision WHERE study_uid = ?1 AND revision = ?2",
    ] {
        sql.execute(rows, params![study.as_str(), revision])?;
    }
    Ok(())
}

/// Enters a manifest and what it names.
fn enter_manifest(
    sql: &Connection,
    sorted: &Sorted,
    signed: &SignedManifest,
    absorbed: &mut Absorbed,
) -> Result<(), VaultError> {
    let manifest = signed.manifest();
    sql.execute(
        "INSERT INTO study (study_uid, priority, consent, received_at_ms, open)
         VALUES (?1, ?2, 0, ?3, 1)
         ON CONFLICT DO UPDATE SET received_at_ms = excluded.received_at_ms
         WHERE received_at_ms = 0",
        params![
            manifest.study.as_str(),
            manifest.priority.code(),
            int(manifest.received_at_ms)
        ],
    )?;
    revisions::enter_revision(sql, signed)?;
    let home = (&manifest.study, manifest.revision);
    let mut first = 0;
    for group in &manifest.groups {
        let count = u32::try_from(group.chunks.len()).unwrap_or(u32::MAX);
        match sorted.chunks_of(group).zip(sorted.files_of(group)) {
            Some((chunks, files)) => {
                let places: Vec<_> = chunks
                    .iter()
                    .map(|(l, c, _)| (l.clone(), c.clone()))
                    .collect();
                let id = revisions::enter_group(sql, home, group.form, first, &places)?;
                for (number, _) in (first..).zip(&chunks).filter(|(_, chunk)| !chunk.2) {
                    note_damaged(sql, home, number)?;
                    absorbed.damaged += 1;
                }
                for (number, file) in (0..).zip(&files) {
                    enter_packed(
                        sql,
                        manifest.received_at_ms,
                        &manifest.study,
                        file,
                        id,
                        number,
                    )?;
                }
            }
            None if is_gone(sql, &manifest.study)? => {}
            None => absorbed.incomplete += 1,
        }
        first += count;
    }
    Ok(())
}

/// Notes that a chunk is not what was stored; its header says what it was.
fn note_damaged(
    sql: &Connection,
    (study, revision): (&StudyUid, u32),
    number: u32,
) -> store::rusqlite::Result<()> {
    sql.prepare_cached(
        "UPDATE chunk SET damaged = 1 WHERE study_uid = ?1 AND revision = ?2 AND number = ?3",
    )?
    .execute(params![study.as_str(), revision, number])
    .map(drop)
}

/// Enters an instance of a group, or points one that is known as it was taken in at it.
fn enter_packed(
    sql: &Connection,
    held_at_ms: u64,
    study: &StudyUid,
    file: &PackedFile,
    group: i64,
    number: u32,
) -> Result<(), VaultError> {
    let digest = file.digest.digest().as_bytes();
    let known: Option<i64> = sql
        .prepare_cached("SELECT instance_id FROM instance WHERE sop_uid = ?1 AND digest = ?2")?
        .query_row(params![file.sop.as_str(), digest], |row| row.get(0))
        .optional()?;
    if let Some(instance) = known {
        keep::come_again(sql, instance, group, number)?;
        revisions::move_instance(sql, instance, group, number)?;
        return Ok(());
    }
    sql.prepare_cached(
        "INSERT INTO instance
         (study_uid, sop_uid, digest, file_bytes, held_at_ms, key_id, pieces, group_id, file_number,
          revision)
         VALUES (?1, ?2, ?3, ?4, ?5, x'', 0, ?6, ?7,
                 (SELECT revision FROM pack_group WHERE group_id = ?6))",
    )?
    .execute(params![
        study.as_str(),
        file.sop.as_str(),
        digest,
        int(file.file_bytes),
        int(held_at_ms),
        group,
        number
    ])?;
    Ok(())
}

fn is_gone(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<bool> {
    sql.prepare_cached("SELECT 1 FROM instance WHERE study_uid = ?1 AND gone > 0 LIMIT 1")?
        .exists([study.as_str()])
}

/// Enters what was let go or erased: its names stay, as roots speak of them.
fn enter_gone(sql: &Connection, list: &GoneList) -> store::rusqlite::Result<()> {
    sql.execute(
        "INSERT INTO study (study_uid, priority, consent, received_at_ms, open)
         VALUES (?1, 3, 0, 0, 0) ON CONFLICT DO NOTHING",
        [list.study.as_str()],
    )?;
    let mut insert = sql.prepare_cached(
        "INSERT INTO instance
         (study_uid, sop_uid, digest, file_bytes, held_at_ms, key_id, pieces, gone, revision)
         VALUES (?1, ?2, ?3, ?4, 0, x'', 0, ?5, ?6)
         ON CONFLICT DO UPDATE SET gone = excluded.gone, revision = excluded.revision",
    )?;
    for file in &list.files {
        insert.execute(params![
            list.study.as_str(),
            file.sop.as_str(),
            file.digest.digest().as_bytes(),
            int(file.file_bytes),
            list.state,
            file.revision,
        ])?;
    }
    keep::drop_rows(sql, &list.study, list.state, &list.withdrawn)?;
    Ok(())
}

/// A study is open until its newest revision is closed and holds all of it.
fn settle_open(sql: &Connection) -> store::rusqlite::Result<()> {
    sql.execute(
        "UPDATE study SET open =
             EXISTS (SELECT 1 FROM instance i
                     WHERE i.study_uid = study.study_uid AND i.segment IS NOT NULL)
             OR EXISTS (SELECT 1 FROM instance i
                        WHERE i.study_uid = study.study_uid AND i.gone = 0)
             AND NOT coalesce((SELECT r.closed FROM revision r
                     WHERE r.study_uid = study.study_uid ORDER BY r.revision DESC LIMIT 1), 0)",
        [],
    )
    .map(drop)
}

/// Enters records, and lets them take effect; says how many.
fn enter_records(sql: &Connection, unit: NodeId, records: &[Vec<u8>]) -> Result<u64, VaultError> {
    let mut entered = 0;
    let mut stopped = None;
    for bytes in records {
        let Ok(said) = journal::read_record(bytes) else {
            continue;
        };
        let journal = said.journal();
        if stopped == Some(journal) {
            continue;
        }
        match next_of(sql, unit, bytes, &journal)? {
            Ok(Some(signed)) => {
                records::enter(sql, &signed)?;
                if journal == JournalId::own(unit) {
                    if let Ok(fact) = signed.record.fact() {
                        recall(sql, &fact)?;
                    }
                } else {
                    records::act_on(sql, &signed)?;
                }
                entered += 1;
            }
            Ok(None) => {}
            Err(fault) => {
                let fault = &fault as &dyn std::error::Error;
                tracing::error!(
                    fault,
                    "a journal at rest is damaged: its author has the rest"
                );
                stopped = Some(journal);
            }
        }
    }
    Ok(entered)
}

/// The record, if it comes next in its journal; none when it is held.
///
/// Our own journal goes on behind a gap: what was signed once must not be signed otherwise.
fn next_of(
    sql: &Connection,
    unit: NodeId,
    bytes: &[u8],
    journal: &JournalId,
) -> Result<Result<Option<Signed>, ChainFault>, VaultError> {
    let head = records::head(sql, journal)?;
    Ok(match journal::verify_next(journal, &head, bytes) {
        Err(ChainFault::NotNext { expected, found }) if found < expected => Ok(None),
        Err(ChainFault::NotNext { .. }) if *journal == JournalId::own(unit) => {
            tracing::error!(after = head.seq, "a record of our own journal is lost");
            journal::read_signed(bytes).map(Some)
        }
        other => other.map(Some),
    })
}

/// Lets a fact of our own take effect again.
fn recall(sql: &Connection, fact: &Fact) -> store::rusqlite::Result<()> {
    match fact {
        Fact::Consent(said) => {
            consent::forget_unsaid(sql, &said.study)?;
            sql.execute(
                "UPDATE study SET consent = ?2 WHERE study_uid = ?1",
                params![said.study.as_str(), consent::state_after(said.basis).code()],
            )
        }
        Fact::PrioritySet(said) => sql.execute(
            "UPDATE study SET priority = ?2 WHERE study_uid = ?1",
            params![said.study.as_str(), said.priority.code()],
        ),
        Fact::ReportReceived(said) => sql.execute(
            "UPDATE report SET confirmed = 1 WHERE digest = ?1 AND study_uid = ?2",
            params![said.report.as_bytes(), said.study.as_str()],
        ),
        Fact::LegalHold(said) => sql.execute(
            "UPDATE study SET legal_hold = ?2 WHERE study_uid = ?1",
            params![said.study.as_str(), said.held],
        ),
        Fact::Opened(_)
        | Fact::Offered(_)
        | Fact::Released(_)
        | Fact::Enrolled(_)
        | Fact::Receipt(_)
        | Fact::ReceiptRefused(_)
        | Fact::Report(_)
        | Fact::FleetApplied(_)
        | Fact::TokenIssued(_)
        | Fact::Erased(_)
        | Fact::CommitmentAnswered(_)
        // What is damaged now is for the next scrub to find; what was said of it stays said.
        | Fact::Damaged(_)
        | Fact::ChunksWanted(_)
        | Fact::Diverged(_)
        | Fact::InstancesFirst(_)
        | Fact::PriorsWanted(_)
        | Fact::Unknown { .. } => Ok(0),
    }
    .map(drop)
}
