//! Erasing: on a person's word the keys of a study are destroyed and its bytes go.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use identity::NodeKey;
use journal::Fact;
use serde::Serialize;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{Work, WriteError};
use study::{Digest, InstanceDigest, SopInstanceUid, StudyRoot, StudyUid};
use thiserror::Error;

use super::super::columns::uid;
use super::super::{Vault, VaultError, consent};
use super::holding::check_initials;
use super::leaving::{GONE_FILE_BYTES, Leaving};

/// Says why a study is not erased.
#[derive(Debug, Error)]
pub enum EraseError {
    /// A person holds it.
    #[error("study {0} is on legal hold: lift that first")]
    Held(StudyUid),
    /// What only this box has would be lost.
    #[error(
        "custody of study {study} is not at the hub: {lost} of its {instances} instance(s) would \
         be lost; --even-if-not-at-hub erases it all the same"
    )]
    NotAtHub {
        /// The study.
        study: StudyUid,
        /// Instances that no receipt speaks of.
        lost: u64,
        /// Instances that would be erased.
        instances: u64,
    },
    /// It was erased before.
    #[error("study {0} is erased already")]
    Already(StudyUid),
    /// The vault cannot do it.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<store::rusqlite::Error> for EraseError {
    fn from(error: store::rusqlite::Error) -> Self {
        Self::Vault(error.into())
    }
}

impl From<WriteError<EraseError>> for EraseError {
    fn from(error: WriteError<EraseError>) -> Self {
        match error {
            WriteError::Job(error) => error,
            WriteError::Poisoned => Self::Vault(VaultError::Poisoned),
        }
    }
}

/// What was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Instances.
    pub instances: u64,
    /// Those of them that no other node has given a receipt for.
    pub lost: u64,
    /// Reports.
    pub reports: u64,
    /// The index's log was emptied of the keys too; else that is done soon, or at the next start.
    pub log_emptied: bool,
    /// Old indexes that were put aside, and may still hold what was erased.
    pub aside: Vec<String>,
}

/// What a person asks for.
struct Order {
    study: StudyUid,
    by: String,
    even_if_not_at_hub: bool,
}

impl Vault {
    /// Erases a study here: its keys, its bytes and what its reports say. Its names stay, and that
    /// it was erased.
    pub async fn erase(
        &self,
        study: StudyUid,
        by: String,
        even_if_not_at_hub: bool,
    ) -> Result<Erased, EraseError> {
        let order = Order {
            study,
            by,
            even_if_not_at_hub,
        };
        let name = order.study.clone();
        let tally = self.0.readers.with(|sql| tally(sql, &name))?;
        let instances = tally.map_or(0, |tally| tally.instances);
        self.make_room(instances * GONE_FILE_BYTES)?;
        let (key, keys) = (Arc::clone(&self.0.key), self.0.keys.clone());
        let segments = Arc::clone(self.0.writer.segments());
        let done = self.0.writer.run(move |work| {
            let leaving = Leaving::new(&keys, &segments, &order.study);
            erase(work, &key, &leaving, &order)
        });
        let mut erased = self.note_change(done.await?).into_inner();
        self.0.keeping.log_is_due.store(true, Ordering::Relaxed);
        erased.log_emptied = self.empty_log().await?;
        erased.aside = put_aside(&self.0.folder);
        tracing::info!(study = %name, instances = erased.instances, "erased a study");
        Ok(erased)
    }
}

fn erase(
    work: &mut Work<'_>,
    key: &NodeKey,
    leaving: &Leaving<'_>,
    order: &Order,
) -> Result<Erased, EraseError> {
    let study = &order.study;
    let tally = tally(work.sql(), study)?;
    let tally = tally.ok_or_else(|| VaultError::UnknownStudy(study.clone()))?;
    tally.check(order)?;
    let fact = journal::Erased {
        study: study.clone(),
        root: StudyRoot::over(&pairs(work.sql(), study)?),
        instances: u32::try_from(tally.instances).unwrap_or(u32::MAX),
        by: order.by.clone(),
    };
    let fact = Fact::Erased(fact);
    check_initials(fact.kind(), &order.by).map_err(VaultError::from)?;
    let withdrawn = withdraw(work.sql(), study)?;
    let (reports, upto) = reports(work.sql(), study)?;
    super::forget_reports(work.sql(), study, upto)?;
    leaving.leave(work, 2, withdrawn, upto)?;
    consent::say_or_keep(work, key, study, &fact)?;
    Ok(Erased {
        instances: tally.instances,
        lost: tally.lost,
        reports,
        log_emptied: false,
        aside: Vec::new(),
    })
}

/// What decides whether a study may be erased.
struct Tally {
    is_held: bool,
    /// The newest revision is closed and has its receipt.
    is_receipted: bool,
    /// Instances that are not erased yet.
    instances: u64,
    /// Those that no receipt speaks of, or of which the hub has lost something since. All, while a
    /// journal is in doubt.
    lost: u64,
}

impl Tally {
    fn check(&self, order: &Order) -> Result<(), EraseError> {
        let study = || order.study.clone();
        if self.is_held {
            return Err(EraseError::Held(study()));
        }
        if self.instances == 0 {
            return Err(EraseError::Already(study()));
        }
        let is_at_hub = self.is_receipted && self.lost == 0;
        if !is_at_hub && !order.even_if_not_at_hub {
            return Err(EraseError::NotAtHub {
                study: study(),
                lost: self.lost,
                instances: self.instances,
            });
        }
        Ok(())
    }
}

fn tally(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Option<Tally>> {
    sql.prepare_cached(
        "SELECT s.legal_hold,
                coalesce((SELECT r.closed AND r.receipt_seq IS NOT NULL FROM revision r
                          WHERE r.study_uid = ?1 ORDER BY r.revision DESC LIMIT 1), 0),
                (SELECT count(*) FROM instance i WHERE i.study_uid = ?1 AND i.gone < 2),
                (SELECT count(*) FROM instance i WHERE i.study_uid = ?1 AND i.gone = 0
                    AND (i.revision IS NULL OR i.revision NOT IN (SELECT r.revision FROM revision r
                        WHERE r.study_uid = ?1 AND r.receipt_seq IS NOT NULL AND NOT r.wanted)
                      OR EXISTS (SELECT 1 FROM divergence)))
         FROM study s WHERE s.study_uid = ?1",
    )?
    .query_row([study.as_str()], |row| {
        Ok(Tally {
            is_held: row.get(0)?,
            is_receipted: row.get(1)?,
            instances: row.get(2)?,
            lost: row.get(3)?,
        })
    })
    .optional()
}

/// Names of what is erased now.
fn pairs(
    sql: &Connection,
    study: &StudyUid,
) -> store::rusqlite::Result<std::collections::BTreeSet<(SopInstanceUid, InstanceDigest)>> {
    sql.prepare_cached("SELECT sop_uid, digest FROM instance WHERE study_uid = ?1 AND gone < 2")?
        .query_map([study.as_str()], |row| {
            let digest = InstanceDigest::from_digest(Digest::from_bytes(row.get(1)?));
            Ok((uid(row, 0, SopInstanceUid::parse)?, digest))
        })?
        .collect()
}

/// Takes back the revisions that have no receipt: nobody can give what they name any more. No root
/// speaks of the instances that only these had.
fn withdraw(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Vec<Digest>> {
    let withdrawn = sql
        .prepare_cached(
            "SELECT manifest_digest FROM revision WHERE study_uid = ?1 AND receipt_seq IS NULL",
        )?
        .query_map([study.as_str()], |row| row.get(0).map(Digest::from_bytes))?
        .collect::<store::rusqlite::Result<_>>()?;
    sql.execute(
        "UPDATE instance SET revision = NULL WHERE study_uid = ?1 AND revision IN
             (SELECT revision FROM revision WHERE study_uid = ?1 AND receipt_seq IS NULL)",
        params![study.as_str()],
    )?;
    Ok(withdrawn)
}

/// How many reports of a study there are to forget, and the number of the last one.
fn reports(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<(u64, u64)> {
    sql.prepare_cached(
        "SELECT count(*) FILTER (WHERE length(sealed) > 0), coalesce(max(seq), 0)
         FROM report WHERE study_uid = ?1",
    )?
    .query_row([study.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The names of indexes that were put aside when another was made anew.
fn put_aside(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut aside: Vec<String> = names
        .filter(|name| name.starts_with("index.sqlite.aside-"))
        .collect();
    aside.sort();
    aside
}
