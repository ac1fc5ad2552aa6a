//! Records: our own journal, and the hub's journal for us, kept and acted on.

use std::sync::Arc;

use identity::{NodeId, NodeKey};
use journal::{
    AppendError, Chain, ChainFault, ClockQuality, Fact, FactError, Head, JournalId, Moment, Opened,
    ReportReceived, Signed,
};
use store::Synced;
use store::rusqlite::{Connection, OptionalExtension, Row, params};
use study::{Digest, StudyUid};
use thiserror::Error;

use super::{Vault, VaultError};

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

/// A report as it came, whatever its signature is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// Its place in the hub's journal for us; later reports have higher numbers.
    pub seq: u64,
    /// The study that the hub's record names.
    pub study: StudyUid,
    /// BLAKE3 of the signed report.
    pub digest: Digest,
    /// The signed report.
    pub signed: Vec<u8>,
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
        let accepted = self.0.writer.run(move |work| -> Result<Head, VaultError> {
            let sql = work.sql();
            let mut at = head(sql, &journal)?;
            for bytes in &records {
                let signed = match journal::verify_next(&journal, &at, bytes) {
                    Ok(signed) => signed,
                    // The same record again: the acknowledgement was lost, not the record.
                    Err(ChainFault::NotNext { expected, found }) if found < expected => continue,
                    Err(fault) => return Err(RecordFault::from(fault).into()),
                };
                insert(sql, &signed)?;
                act_on(sql, &signed)?;
                at = signed.head;
            }
            Ok(at)
        });
        Ok(self.note_change(accepted.await?))
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
            append(work.sql(), &key, &Fact::ReportReceived(received))
        });
        self.note_change(confirmed.await?);
        Ok(())
    }

    /// The reports that came after number `seq`, the oldest first.
    pub fn reports_after(&self, seq: u64) -> Result<Vec<StoredReport>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT seq, study_uid, digest, signed, confirmed FROM report
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
                "SELECT seq, study_uid, digest, signed, confirmed FROM report
                 WHERE study_uid = ?1 ORDER BY seq DESC",
            )?
            .query_map([study.as_str()], stored_report)?
            .collect::<store::rusqlite::Result<_>>()
        })?)
    }
}

/// Writes the first record of our journal, if it has none.
pub(super) fn open_journal(sql: &Connection, key: &NodeKey) -> Result<(), VaultError> {
    if head(sql, &JournalId::own(key.id()))?.seq > 0 {
        return Ok(());
    }
    let software = concat!("chasqui-agent ", env!("CARGO_PKG_VERSION")).to_owned();
    append(sql, key, &Fact::Opened(Opened { software }))
}

/// Signs a fact as the next record of our own journal.
pub(super) fn append(sql: &Connection, key: &NodeKey, fact: &Fact) -> Result<(), VaultError> {
    let journal = JournalId::own(key.id());
    let mut chain = Chain::resume(journal, head(sql, &journal)?);
    let now = Moment {
        count_ms: clock::count_ms(),
        wall_ms: clock::wall_ms(),
        clock: ClockQuality::Unknown,
    };
    let signed = chain.append(key, now, fact).map_err(RecordFault::from)?;
    insert(sql, &signed)?;
    Ok(())
}

/// Does what a record of the hub's journal says.
fn act_on(sql: &Connection, signed: &Signed) -> Result<(), VaultError> {
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
            let digest = Digest::of(&report.signed);
            sql.prepare_cached(
                "INSERT INTO report (seq, study_uid, digest, signed) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                seq,
                report.study.as_str(),
                digest.as_bytes(),
                report.signed
            ])?;
        }
        Fact::Opened(_)
        | Fact::Offered(_)
        | Fact::Consent(_)
        | Fact::PrioritySet(_)
        | Fact::Released(_)
        | Fact::ReportReceived(_)
        | Fact::Enrolled(_)
        | Fact::FleetApplied(_)
        | Fact::TokenIssued(_)
        | Fact::Unknown { .. } => {}
    }
    Ok(())
}

fn insert(sql: &Connection, signed: &Signed) -> store::rusqlite::Result<()> {
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

fn head(sql: &Connection, journal: &JournalId) -> store::rusqlite::Result<Head> {
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
        "SELECT bytes FROM record WHERE author = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq",
    )?;
    let (author, stream): (&NodeId, &NodeId) = (&journal.author, &journal.stream);
    let rows = select.query_map(
        params![author.as_bytes(), stream.as_bytes(), from_seq],
        |row| row.get::<_, Vec<u8>>(0),
    )?;
    let mut found = Vec::new();
    let mut bytes = 0;
    for record in rows {
        let record = record?;
        bytes += record.len();
        if bytes > bytes_max && !found.is_empty() {
            break;
        }
        found.push(record);
    }
    Ok(found)
}

fn stored_report(row: &Row<'_>) -> store::rusqlite::Result<StoredReport> {
    Ok(StoredReport {
        seq: row.get(0)?,
        study: super::revisions::uid(row, 1, StudyUid::parse)?,
        digest: Digest::from_bytes(row.get(2)?),
        signed: row.get(3)?,
        confirmed: row.get(4)?,
    })
}
