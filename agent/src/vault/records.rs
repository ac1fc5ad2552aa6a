//! Records: our own journal, and the hub's journal for us, kept and acted on.

use std::sync::Arc;

use identity::{NodeId, NodeKey};
use journal::{
    AppendError, Chain, ChainFault, ClockQuality, Fact, FactError, Head, JournalId, Moment, Opened,
    ReportReceived, ReportStatus, Signed,
};
use sealing::KeyringError;
use store::rusqlite::{Connection, OptionalExtension, Row, params};
use store::{Synced, Work};
use study::{Digest, StudyUid};
use thiserror::Error;

use super::{Vault, VaultError, asked, consent, formats, keep, sealed};
use crate::keys::Locked;

/// Says why a record is not kept.
#[derive(Debug, Error)]
pub enum RecordFault {
    /// It does not continue its journal.
    #[error("it does not continue the journal")]
    Chain(#[from] ChainFault),
    /// Its body is not what its kind says.
    #[error("its body cannot be read")]
    Fact(#[from] FactError),
    /// One of our own could not be written.
    #[error("it cannot be appended")]
    Append(#[from] AppendError),
}

/// Says why a report cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReportFault {
    /// Nobody has given the PIN.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// It does not open with this box's store key.
    #[error("the report does not open with this box's store key")]
    Sealed(#[source] KeyringError),
    /// It was erased here, with its study.
    #[error("the report was erased here, with its study")]
    Erased,
    /// It opens, and is not the report that the hub's record names.
    #[error("the sealed report is not the one that the hub's record names")]
    Other,
}

/// A report as it came, whatever its signature is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// Its place in the hub's journal for us; later reports have higher numbers.
    pub seq: u64,
    /// The study that the hub's record names.
    pub study: StudyUid,
    /// BLAKE3 of the signed report.
    pub digest: Digest,
    /// Which kind of report it is, as the hub says.
    pub status: ReportStatus,
    /// How critical its finding is, as the hub says.
    pub critical: u8,
    /// The signed report, sealed to this box; [`Vault::open_report`] opens it.
    pub sealed: Vec<u8>,
    /// Our journal says already that it came and was verified.
    pub confirmed: bool,
}

impl Vault {
    /// The head of a journal as far as it is held here.
    pub fn head(&self, journal: &JournalId) -> Result<Head, VaultError> {
        Ok(self.0.readers.with(|sql| head(sql, journal))?)
    }

    /// Signed records of a journal from `from_seq` on, at most `bytes_max` of them but at least one.
    pub fn records(
        &self,
        journal: &JournalId,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Vec<u8>>, VaultError> {
        Ok(self
            .0
            .readers
            .with(|sql| records(sql, journal, from_seq, bytes_max))?)
    }

    /// Keeps records of the hub's journal for us and acts on what they say, all of them or none.
    pub async fn accept_records(
        &self,
        journal: JournalId,
        records: Vec<Vec<u8>>,
    ) -> Result<Synced<Head>, VaultError> {
        self.room_to_write(records.iter().map(|bytes| bytes.len() as u64).sum())?;
        let key = Arc::clone(&self.0.key);
        let accepted = self.0.writer.run(move |work| -> Result<Head, VaultError> {
            let mut at = head(work.sql(), &journal)?;
            for bytes in &records {
                let signed = match journal::verify_next(&journal, &at, bytes) {
                    Ok(signed) => signed,
                    // The same record again: the acknowledgement was lost, not the record.
                    Err(ChainFault::NotNext { expected, found }) if found < expected => continue,
                    Err(fault) => return Err(RecordFault::from(fault).into()),
                };
                insert(work, &signed)?;
                act_on(work.sql(), &signed)?;
                // What our own journal answers is not done again by a rebuild: it is there.
                if let Fact::PrioritySet(set) = signed.record.fact().map_err(RecordFault::from)? {
                    consent::obey_priority(work, &key, set)?;
                }
                at = signed.head;
            }
            Ok(at)
        });
        Ok(self.note_change(accepted.await?))
    }

    /// Opens a signed report that was sealed to this box; it is the one that the hub's record names.
    pub fn open_report(&self, report: &StoredReport) -> Result<Vec<u8>, ReportFault> {
        if report.sealed.is_empty() {
            return Err(ReportFault::Erased);
        }
        let domain = journal::report_domain(&report.study);
        let signed = self.0.keys.open_document(&domain, &report.sealed);
        let signed = signed.map_err(|error| match error {
            KeyringError::Locked => ReportFault::Locked(Locked),
            error @ (KeyringError::OtherStoreKey { .. }
            | KeyringError::NotHeld(_)
            | KeyringError::NotForUs(_)
            | KeyringError::Unseal(_)) => ReportFault::Sealed(error),
        })?;
        if Digest::of(&signed) == report.digest {
            Ok(signed)
        } else {
            Err(ReportFault::Other)
        }
    }

    /// Says in our journal that a report came and was verified.
    pub async fn confirm_report(&self, report: &StoredReport) -> Result<(), VaultError> {
        let key = Arc::clone(&self.0.key);
        let received = ReportReceived {
            study: report.study.clone(),
            report: report.digest,
        };
        let seq = report.seq;
        self.room_to_write(0)?;
        let confirmed = self.0.writer.run(move |work| -> Result<(), VaultError> {
            work.sql()
                .execute("UPDATE report SET confirmed = 1 WHERE seq = ?1", [seq])?;
            append(work, &key, &Fact::ReportReceived(received))
        });
        self.note_change(confirmed.await?);
        Ok(())
    }

    /// The reports that came after number `seq`, the oldest first.
    pub fn reports_after(&self, seq: u64) -> Result<Vec<StoredReport>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT seq, study_uid, digest, status, critical, sealed, confirmed FROM report
                 WHERE seq > ?1 ORDER BY seq",
            )?
            .query_map([seq], stored_report)?
            .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// The reports of one study, the newest first.
    pub fn reports_of(&self, study: &StudyUid) -> Result<Vec<StoredReport>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT seq, study_uid, digest, status, critical, sealed, confirmed FROM report
                 WHERE study_uid = ?1 ORDER BY seq DESC",
            )?
            .query_map([study.as_str()], stored_report)?
            .collect::<store::rusqlite::Result<_>>()
        })?)
    }
}

/// Writes the first record of our journal, if it has none.
pub(super) fn open_journal(work: &mut Work<'_>, key: &NodeKey) -> Result<(), VaultError> {
    if head(work.sql(), &JournalId::own(key.id()))?.seq > 0 {
        return Ok(());
    }
    let software = concat!("chasqui-agent ", env!("CARGO_PKG_VERSION")).to_owned();
    append(work, key, &Fact::Opened(Opened { software }))
}

/// Signs a fact as the next record of our own journal.
pub(super) fn append(work: &mut Work<'_>, key: &NodeKey, fact: &Fact) -> Result<(), VaultError> {
    let journal = JournalId::own(key.id());
    let mut chain = Chain::resume(journal, head(work.sql(), &journal)?);
    let now = Moment {
        count_ms: clock::count_ms(),
        wall_ms: clock::wall_ms(),
        clock: ClockQuality::Unknown,
    };
    let signed = chain.append(key, now, fact).map_err(RecordFault::from)?;
    insert(work, &signed)
}

/// Does what a record of the hub's journal says.
pub(super) fn act_on(sql: &Connection, signed: &Signed) -> Result<(), VaultError> {
    let seq = signed.record.seq;
    match signed.record.fact().map_err(RecordFault::from)? {
        Fact::Receipt(receipt) => {
            let study = &receipt.study;
            let known = sql
                .prepare_cached(
                    "UPDATE revision SET receipt_seq = ?5, refused = NULL
                     WHERE manifest_digest = ?1 AND study_uid = ?2 AND revision = ?3 AND root = ?4",
                )?
                .execute(params![
                    receipt.manifest.as_bytes(),
                    study.as_str(),
                    receipt.revision,
                    receipt.root.digest().as_bytes(),
                    seq,
                ])?;
            if known == 0 {
                tracing::error!(%study, seq, "a receipt names a root that this box did not offer");
            } else {
                keep::note_custody(sql, study)?;
                tracing::info!(%study, revision = receipt.revision, "custody of a revision passed");
            }
        }
        Fact::ReceiptRefused(refusal) => {
            let reason = &refusal.reason;
            sql.prepare_cached("UPDATE revision SET refused = ?2 WHERE manifest_digest = ?1")?
                .execute(params![refusal.manifest.as_bytes(), reason])?;
            tracing::error!(manifest = %refusal.manifest, reason, "the hub refuses a revision");
        }
        Fact::Report(report) => {
            sql.prepare_cached(
                "INSERT INTO report (seq, study_uid, digest, status, critical, sealed)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                seq,
                report.study.as_str(),
                report.report.as_bytes(),
                status_code(report.status),
                report.critical,
                report.sealed
            ])?;
        }
        Fact::ChunksWanted(lost) => {
            let wanted = !lost.chunks.is_empty();
            sql.prepare_cached("UPDATE revision SET wanted = ?2 WHERE manifest_digest = ?1")?
                .execute(params![lost.manifest.as_bytes(), wanted])?;
            if wanted {
                tracing::warn!(manifest = %lost.manifest, "the hub asks for what it has lost");
            }
        }
        Fact::InstancesFirst(said) => asked::note_first(sql, &said)?,
        Fact::PriorsWanted(said) => asked::note_priors(sql, &said.study)?,
        Fact::Opened(_)
        | Fact::Offered(_)
        | Fact::Consent(_)
        | Fact::PrioritySet(_)
        | Fact::Released(_)
        | Fact::ReportReceived(_)
        | Fact::Enrolled(_)
        | Fact::FleetApplied(_)
        | Fact::TokenIssued(_)
        | Fact::LegalHold(_)
        | Fact::Erased(_)
        | Fact::Damaged(_)
        | Fact::Diverged(_)
        | Fact::CommitmentAnswered(_)
        | Fact::Unknown { .. } => {}
    }
    Ok(())
}

/// Keeps a record, in the index and in the segments that the index can be made anew from.
fn insert(work: &mut Work<'_>, signed: &Signed) -> Result<(), VaultError> {
    enter(work.sql(), signed)?;
    let record = formats::plain_record(formats::JOURNAL_RECORD, signed.bytes.clone())?;
    let location = work.append(formats::JOURNAL_FAMILY, &record)?;
    sealed::note_end(work.sql(), &location)?;
    Ok(())
}

/// Enters a record into the index.
pub(super) fn enter(sql: &Connection, signed: &Signed) -> store::rusqlite::Result<()> {
    let record = &signed.record;
    let digest = signed
        .head
        .digest
        .expect("the head after a record has its digest");
    sql.prepare_cached(
        "INSERT INTO record (author, stream, seq, digest, kind, count_ms, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        record.author.as_bytes(),
        record.stream.as_bytes(),
        record.seq,
        digest.as_bytes(),
        record.kind,
        record.count_ms,
        signed.bytes,
    ])?;
    Ok(())
}

pub(super) fn head(sql: &Connection, journal: &JournalId) -> store::rusqlite::Result<Head> {
    sql.prepare_cached(
        "SELECT seq, digest, count_ms FROM record WHERE author = ?1 AND stream = ?2
         ORDER BY seq DESC LIMIT 1",
    )?
    .query_row(
        params![journal.author.as_bytes(), journal.stream.as_bytes()],
        |row| {
            Ok(Head {
                seq: row.get(0)?,
                digest: Some(Digest::from_bytes(row.get(1)?)),
                count_ms: row.get(2)?,
            })
        },
    )
    .optional()
    .map(|found| found.unwrap_or(Head::EMPTY))
}

fn records(
    sql: &Connection,
    journal: &JournalId,
    from_seq: u64,
    bytes_max: usize,
) -> store::rusqlite::Result<Vec<Vec<u8>>> {
    let mut select = sql.prepare_cached(
        "SELECT bytes, seq FROM record
         WHERE author = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq",
    )?;
    let (author, stream): (&NodeId, &NodeId) = (&journal.author, &journal.stream);
    let rows = select.query_map(
        params![author.as_bytes(), stream.as_bytes(), from_seq],
        |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u64>(1)?)),
    )?;
    let mut found = Vec::new();
    let mut bytes = 0;
    for (expected, row) in (from_seq..).zip(rows) {
        let (record, seq) = row?;
        bytes += record.len();
        // A record that was lost here leaves a gap, and nothing crosses over a gap.
        if seq != expected || bytes > bytes_max && !found.is_empty() {
            break;
        }
        found.push(record);
    }
    Ok(found)
}

pub(super) fn stored_report(row: &Row<'_>) -> store::rusqlite::Result<StoredReport> {
    Ok(StoredReport {
        seq: row.get(0)?,
        study: super::columns::uid(row, 1, StudyUid::parse)?,
        digest: Digest::from_bytes(row.get(2)?),
        status: status_from_code(row.get(3)?),
        critical: row.get(4)?,
        sealed: row.get(5)?,
        confirmed: row.get(6)?,
    })
}

fn status_code(status: ReportStatus) -> u8 {
    match status {
        ReportStatus::Preliminary => 1,
        ReportStatus::Final => 2,
        ReportStatus::Addendum => 3,
    }
}

/// What is unknown is not the last word.
fn status_from_code(code: u8) -> ReportStatus {
    match code {
        2 => ReportStatus::Final,
        3 => ReportStatus::Addendum,
        _ => ReportStatus::Preliminary,
    }
}
