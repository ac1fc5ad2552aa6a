//! Report: keeps what radiologists sign and sends it to the unit that sent the study.
//!
//! In: reports that were signed elsewhere. Out: what a report is to speak of; records in the
//! unit's stream, and word of them to `outbox`.
//! Invariant: a report is kept only with a valid credential under it, and after the one it names;
//! nothing is overwritten; on disk it is sealed, to the hub here and to the unit in its stream.
//! May not: hold a radiologist's key, change a word of a report.

use std::sync::Arc;

use identity::{FleetDocument, NodeId};
use journal::{Fact, report_domain};
use report::{Case, ReportRefusal, ReportStatus, RuleError, VerifiedReport};
use sealing::{StoreKey, UnsealError, open_with, seal_to};
use store::rusqlite::{self, Connection, OptionalExtension as _, params};
use store::{Readers, WriteError, Writer};
use study::{Digest, StudyRoot, StudyUid};
use thiserror::Error;

use crate::archive::{self, Custody};
use crate::db::{self, StudyId, int};
use crate::fleet::{Fleet, UnitError};
use crate::ledger::{Ledger, LedgerError};
use crate::outbox::Outbox;
use clock::wall_ms;

/// Why a report is not taken.
#[derive(Debug, Error)]
pub(crate) enum ReportError {
    /// No unit has sent such a study.
    #[error("no study {0} is at the hub")]
    UnknownStudy(StudyUid),
    /// Several units have sent it.
    #[error("study {0} came from several units; name one with --unit")]
    SeveralUnits(StudyUid),
    /// The signature or the credential does not hold.
    #[error("the report is refused")]
    Refused(#[source] ReportRefusal),
    /// It does not follow from what was reported before.
    #[error("the report is refused")]
    Rule(#[source] RuleError),
    /// It speaks of a revision that is not here.
    #[error("the report speaks of a revision of study {0} that is not here")]
    OtherRoot(StudyUid),
    /// It says that more was read than can be read here.
    #[error("the report says {said} images were read, {readable} can be read here")]
    NotReadable {
        /// What it says.
        said: u32,
        /// What is here.
        readable: u32,
    },
    /// Final, and images may still come.
    #[error(
        "study {study} is not complete ({readable} of {total} images, custody has not passed): \
         sign a preliminary report, or a final one with --incomplete"
    )]
    Incomplete {
        /// The study.
        study: StudyUid,
        /// Images that can be read.
        readable: u32,
        /// Images that are known of.
        total: u32,
    },
    /// It could not be sent.
    #[error("the report cannot be sealed for the unit that sent the study")]
    Unit(#[source] UnitError),
    /// The report before it does not open.
    #[error("a report at rest cannot be opened")]
    Sealed(#[from] UnsealError),
    /// The index cannot be read.
    #[error("the reports cannot be read")]
    Index(#[from] rusqlite::Error),
    /// The report cannot be kept.
    #[error("the report cannot be kept")]
    Write(#[from] WriteError<LedgerError>),
}

/// What a report of a study would speak of.
#[derive(Debug, Clone)]
pub(crate) struct OpenCase {
    /// The unit whose study it is.
    pub unit: NodeId,
    /// Its study, root and counts.
    pub case: Case,
    /// Custody has passed: no more images are expected.
    pub complete: bool,
    /// The study's last report, signed.
    pub previous: Option<Vec<u8>>,
    id: StudyId,
}

/// The room.
pub(crate) struct Reports {
    writer: Writer,
    readers: Arc<Readers>,
    ledger: Arc<Ledger>,
    fleet: Arc<Fleet>,
    outbox: Arc<Outbox>,
    store_key: Arc<StoreKey>,
}

impl Reports {
    pub(crate) fn new(
        writer: Writer,
        readers: Arc<Readers>,
        ledger: Arc<Ledger>,
        fleet: Arc<Fleet>,
        outbox: Arc<Outbox>,
        store_key: Arc<StoreKey>,
    ) -> Self {
        Self {
            writer,
            readers,
            ledger,
            fleet,
            outbox,
            store_key,
        }
    }

    /// What a report of this study would speak of.
    pub(crate) fn open_case(
        &self,
        study: &StudyUid,
        unit: Option<NodeId>,
    ) -> Result<OpenCase, ReportError> {
        self.readers
            .with(|sql| open_case(sql, &self.store_key, study, unit))
    }

    /// Keeps a signed report and sends it to the unit. `incomplete` says that the signer knows
    /// that images may be missing.
    pub(crate) async fn file(
        &self,
        unit: Option<NodeId>,
        signed: Vec<u8>,
        incomplete: bool,
    ) -> Result<VerifiedReport, ReportError> {
        let document = self.fleet.document();
        let report = report::verify(&signed, &document).map_err(ReportError::Refused)?;
        // When it was signed is the signer's word; a key that was revoked may not sign back in time.
        document
            .credential_at(&report.credential.key, wall_ms())
            .map_err(|fault| ReportError::Refused(ReportRefusal::NotAllowed(fault)))?;
        let job = {
            let (ledger, fleet) = (Arc::clone(&self.ledger), Arc::clone(&self.fleet));
            let (store_key, report) = (Arc::clone(&self.store_key), report.clone());
            move |work: &mut store::Work<'_>| -> Result<Result<NodeId, ReportError>, LedgerError> {
                let sql = work.sql();
                let judged = judge(sql, &store_key, &document, &report, unit, incomplete);
                let sealed = judged.and_then(|case| {
                    Sealed::new(&fleet, &store_key, &case, &signed).map(|sealed| (case, sealed))
                });
                match sealed {
                    Ok((case, sealed)) => keep(sql, &ledger, &case, &report, sealed).map(Ok),
                    Err(ReportError::Index(error)) => Err(error.into()),
                    Err(refusal) => Ok(Err(refusal)),
                }
            }
        };
        let unit = self.writer.run(job).await?.into_inner()?;
        let document = &report.document;
        let (study, status) = (&document.study, document.status);
        tracing::info!(%study, %status, node = %unit.short(), "report filed");
        self.outbox.grown(unit)?;
        Ok(report)
    }
}

/// Notes that a unit holds a report for one of its studies.
pub(crate) fn delivered(sql: &Connection, unit: &NodeId, report: &Digest) -> rusqlite::Result<()> {
    sql.execute(
        "UPDATE report SET delivered = 1
         WHERE digest = ?1 AND study IN (SELECT id FROM study WHERE unit = ?2)",
        params![report.as_bytes(), unit.as_bytes()],
    )
    .map(drop)
}

/// Whose reports at rest do not open, or are not what was filed, once for each.
pub(crate) fn damaged(
    sql: &Connection,
    store_key: &StoreKey,
) -> rusqlite::Result<Vec<(NodeId, StudyUid)>> {
    let mut statement = sql.prepare(
        "SELECT s.unit, s.uid, r.digest, r.sealed FROM report r JOIN study s ON s.id = r.study",
    )?;
    let mut rows = statement.query([])?;
    let mut damaged = Vec::new();
    while let Some(row) = rows.next()? {
        let study: StudyUid = db::parsed(row, 1)?;
        let digest = db::digest(row, 2)?;
        let sealed = row.get_ref(3)?.as_blob()?;
        let opened = open_with(store_key, &report_domain(&study), sealed);
        if !opened.is_ok_and(|signed| Digest::of(&signed) == digest) {
            damaged.push((NodeId::from_bytes(row.get(0)?), study));
        }
    }
    Ok(damaged)
}

fn open_case(
    sql: &Connection,
    store_key: &StoreKey,
    study: &StudyUid,
    unit: Option<NodeId>,
) -> Result<OpenCase, ReportError> {
    let mut found = archive::list(sql, Some(study))?;
    if let Some(unit) = unit {
        found.retain(|summary| summary.unit == unit.to_string());
    }
    let summary = match found.len() {
        0 => return Err(ReportError::UnknownStudy(study.clone())),
        1 => found.remove(0),
        _ => return Err(ReportError::SeveralUnits(study.clone())),
    };
    let (root, unit): (StudyRoot, [u8; 32]) = sql.query_row(
        "SELECT m.root, s.unit FROM manifest m JOIN study s ON s.id = m.study
         WHERE m.study = ?1 ORDER BY m.revision DESC LIMIT 1",
        [summary.id],
        |row| Ok((db::root(row, 0)?, row.get(1)?)),
    )?;
    let previous: Option<Vec<u8>> = sql
        .query_row(
            "SELECT sealed FROM report WHERE study = ?1 ORDER BY id DESC LIMIT 1",
            [summary.id],
            |row| row.get(0),
        )
        .optional()?;
    let previous = previous
        .map(|sealed| open_with(store_key, &report_domain(study), &sealed))
        .transpose()?;
    Ok(OpenCase {
        unit: NodeId::from_bytes(unit),
        case: Case {
            study: study.clone(),
            root,
            // Conflicting copies of one instance are more than were counted by the box.
            instances_seen: summary.instances_readable.min(summary.instances),
            instances_total: summary.instances,
        },
        complete: summary.custody == Custody::AtHub,
        previous,
        id: summary.id,
    })
}

/// Whether a verified report may be kept, by what is here at this moment.
fn judge(
    sql: &Connection,
    store_key: &StoreKey,
    fleet: &FleetDocument,
    report: &VerifiedReport,
    unit: Option<NodeId>,
    incomplete: bool,
) -> Result<OpenCase, ReportError> {
    let document = &report.document;
    let open = open_case(sql, store_key, &document.study, unit)?;
    let known: bool = sql.query_row(
        "SELECT EXISTS (SELECT 1 FROM manifest WHERE study = ?1 AND root = ?2)",
        params![open.id, document.root.digest().as_bytes()],
        |row| row.get(0),
    )?;
    if !known {
        return Err(ReportError::OtherRoot(document.study.clone()));
    }
    let readable = open.case.instances_seen;
    if document.instances_seen > readable {
        return Err(ReportError::NotReadable {
            said: document.instances_seen,
            readable,
        });
    }
    if document.status == ReportStatus::Final && !open.complete && !incomplete {
        let (study, total) = (document.study.clone(), open.case.instances_total);
        return Err(ReportError::Incomplete {
            study,
            readable,
            total,
        });
    }
    let previous = open
        .previous
        .as_deref()
        .map(|signed| report::verify(signed, fleet));
    let previous = previous.transpose().map_err(ReportError::Refused)?;
    document
        .check_follows(previous.as_ref())
        .map_err(ReportError::Rule)?;
    Ok(open)
}

/// A signed report as it is kept, and as it crosses.
struct Sealed {
    to_hub: Vec<u8>,
    to_unit: Vec<u8>,
}

impl Sealed {
    fn new(
        fleet: &Fleet,
        store_key: &StoreKey,
        open: &OpenCase,
        signed: &[u8],
    ) -> Result<Self, ReportError> {
        let unit = fleet.store_key_of(&open.unit).map_err(ReportError::Unit)?;
        let domain = report_domain(&open.case.study);
        Ok(Self {
            to_hub: seal_to(store_key.public_key(), &domain, signed),
            to_unit: seal_to(&unit, &domain, signed),
        })
    }
}

fn keep(
    sql: &Connection,
    ledger: &Ledger,
    open: &OpenCase,
    report: &VerifiedReport,
    sealed: Sealed,
) -> Result<NodeId, LedgerError> {
    let document = &report.document;
    let fact = Fact::Report(journal::Report {
        study: document.study.clone(),
        report: report.digest(),
        status: match document.status {
            ReportStatus::Preliminary => journal::ReportStatus::Preliminary,
            ReportStatus::Final => journal::ReportStatus::Final,
            ReportStatus::Addendum => journal::ReportStatus::Addendum,
        },
        critical: document.critical.level(),
        sealed: sealed.to_unit,
    });
    let head = ledger.say(sql, ledger.stream(open.unit), &fact)?;
    sql.execute(
        "INSERT INTO report (study, seq, status, critical, signed_ms, digest, sealed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            open.id,
            int(head.seq),
            document.status.as_str(),
            document.critical.level(),
            int(document.signed_at_ms),
            report.digest().as_bytes(),
            sealed.to_hub
        ],
    )?;
    Ok(open.unit)
}

#[cfg(test)]
mod tests;
