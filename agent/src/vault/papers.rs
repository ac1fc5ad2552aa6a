//! Papers: what the vault holds of one study in signed form, all of one moment.

use std::collections::BTreeSet;

use identity::NodeId;
use store::rusqlite::types::Type;
use store::rusqlite::{Connection, Error, OptionalExtension, params};
use study::{Digest, InstanceDigest, SopInstanceUid, StudyUid};

use super::ledger::ConsentState;
use super::records::{StoredReport, stored_report};
use super::{Vault, VaultError};

/// The papers of a study (docs/storage.md 5).
pub struct StudyPapers {
    /// A person or the site's policy has said that it may leave.
    pub may_leave: bool,
    /// Signed manifests, by revision.
    pub manifests: Vec<Vec<u8>>,
    /// What the newest of them speaks of.
    pub images: BTreeSet<(SopInstanceUid, InstanceDigest)>,
    /// Instances that no manifest speaks of yet.
    pub unsigned: u64,
    /// The hub's records with a receipt, by number.
    pub receipts: Vec<Vec<u8>>,
    /// The hub's records with a report, by number, and the report that each brought.
    pub reports: Vec<(Vec<u8>, StoredReport)>,
}

impl Vault {
    /// The papers of a study, read inside one snapshot; none when the study is not held.
    pub fn papers(&self, study: &StudyUid) -> Result<Option<StudyPapers>, VaultError> {
        let unit = self.unit();
        Ok(self.0.readers.with(|sql| papers(sql, study, &unit))?)
    }
}

fn papers(
    sql: &Connection,
    study: &StudyUid,
    unit: &NodeId,
) -> store::rusqlite::Result<Option<StudyPapers>> {
    let consent = sql
        .prepare_cached("SELECT consent FROM study WHERE study_uid = ?1")?
        .query_row([study.as_str()], |row| row.get::<_, u8>(0))
        .optional()?;
    let Some(consent) = consent else {
        return Ok(None);
    };
    Ok(Some(StudyPapers {
        may_leave: ConsentState::from_code(consent) != ConsentState::Waiting,
        manifests: sql
            .prepare_cached("SELECT manifest FROM revision WHERE study_uid = ?1 ORDER BY revision")?
            .query_map([study.as_str()], |row| row.get(0))?
            .collect::<Result<_, _>>()?,
        images: images(sql, study)?,
        unsigned: sql
            .prepare_cached(
                "SELECT count(*) FROM instance WHERE study_uid = ?1 AND segment IS NOT NULL",
            )?
            .query_row([study.as_str()], |row| row.get(0))?,
        receipts: sql
            .prepare_cached(
                "SELECT r.bytes FROM revision v JOIN record r ON r.seq = v.receipt_seq
                 WHERE v.study_uid = ?1 AND r.stream = ?2 AND r.author != ?2 ORDER BY r.seq",
            )?
            .query_map(params![study.as_str(), unit.as_bytes()], |row| row.get(0))?
            .collect::<Result<_, _>>()?,
        reports: sql
            .prepare_cached(
                "SELECT p.seq, p.study_uid, p.digest, p.status, p.critical, p.sealed, p.confirmed,
                        r.bytes
                 FROM report p JOIN record r ON r.seq = p.seq
                 WHERE p.study_uid = ?1 AND r.stream = ?2 AND r.author != ?2 ORDER BY r.seq",
            )?
            .query_map(params![study.as_str(), unit.as_bytes()], |row| {
                Ok((row.get(7)?, stored_report(row)?))
            })?
            .collect::<Result<_, _>>()?,
    }))
}

fn images(
    sql: &Connection,
    study: &StudyUid,
) -> store::rusqlite::Result<BTreeSet<(SopInstanceUid, InstanceDigest)>> {
    sql.prepare_cached(
        "SELECT sop_uid, digest FROM instance WHERE study_uid = ?1 AND revision IS NOT NULL",
    )?
    .query_map([study.as_str()], |row| {
        let sop = SopInstanceUid::parse(&row.get::<_, String>(0)?)
            .map_err(|e| Error::FromSqlConversionFailure(0, Type::Text, Box::new(e)))?;
        let digest = InstanceDigest::from_digest(Digest::from_bytes(row.get(1)?));
        Ok((sop, digest))
    })?
    .collect()
}
