//! Standing: what the box can promise of single instances, for commitments and completeness.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use store::rusqlite::{Connection, OptionalExtension, params};
use study::{SopClassUid, SopInstanceUid, StudyUid};

use super::columns::uid;
use super::documents::Drawer;
use super::{Vault, VaultError, arrivals};

/// From this state on a performed step is at its end.
pub const STEP_ENDED: u8 = 2;

/// What is so of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The hub's receipt speaks of every version of it.
    AtHub,
    /// Every version of it is held, here or at the hub.
    Held,
    /// Something of it is damaged, cannot be packed, or was erased.
    Damaged,
    /// It is held, as an instance of another class.
    OtherClass,
    /// Nothing of it is held.
    Unknown,
}

impl Vault {
    /// What is so of each of these instances, all at one moment.
    pub fn standing(
        &self,
        instances: &[(SopClassUid, SopInstanceUid)],
    ) -> Result<Vec<Standing>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            instances
                .iter()
                .map(|(class, sop)| standing(sql, class, sop))
                .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// The instances of a study that were taken in and not erased.
    pub fn instances_of(&self, study: &StudyUid) -> Result<BTreeSet<SopInstanceUid>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached("SELECT sop_uid FROM instance WHERE study_uid = ?1 AND gone < 2")?
                .query_map([study.as_str()], |row| uid(row, 0, SopInstanceUid::parse))?
                .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// The studies that are ordered and not done yet: not stable, and no performed step has ended.
    pub fn studies_to_do(&self) -> Result<BTreeSet<StudyUid>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT o.name FROM document o WHERE o.drawer = ?1
                   AND NOT EXISTS (SELECT 1 FROM study s WHERE s.study_uid = o.name AND NOT s.open)
                   AND NOT EXISTS (SELECT 1 FROM document p WHERE p.study_uid = o.name
                                   AND p.drawer = ?2 AND p.state >= ?3)",
            )?
            .query_map(
                params![
                    Drawer::Orders.code(),
                    Drawer::PerformedSteps.code(),
                    STEP_ENDED
                ],
                |row| uid(row, 0, StudyUid::parse),
            )?
            .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// The studies of which more instances are expected.
    pub fn open_studies(&self) -> Result<BTreeSet<StudyUid>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached("SELECT study_uid FROM study WHERE open")?
                .query_map([], |row| uid(row, 0, StudyUid::parse))?
                .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// Whether a study has instances, and if so whether more are expected.
    pub fn is_open(&self, study: &StudyUid) -> Result<Option<bool>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached("SELECT open FROM study WHERE study_uid = ?1")?
                .query_row([study.as_str()], |row| row.get(0))
                .optional()
        })?)
    }
}

/// Reads what is so; the rows that it looks at are committed, hence synced.
fn standing(
    sql: &Connection,
    class: &SopClassUid,
    sop: &SopInstanceUid,
) -> store::rusqlite::Result<Standing> {
    let kept = arrivals::kept_under(sql, sop)?;
    if kept.is_empty() {
        return Ok(Standing::Unknown);
    }
    let other_class = sql
        .prepare_cached("SELECT 1 FROM instance WHERE sop_uid = ?1 AND sop_class != ?2")?
        .exists(params![sop.as_str(), class.as_str()])?;
    if other_class {
        return Ok(Standing::OtherClass);
    }
    if kept.iter().any(|kept| kept.useless || kept.erased) {
        return Ok(Standing::Damaged);
    }
    // Of a study whose journal is in doubt nobody can say what the hub has.
    let not_at_hub = sql
        .prepare_cached(
            "SELECT 1 FROM instance i LEFT JOIN revision r
                 ON r.study_uid = i.study_uid AND r.revision = i.revision
             WHERE i.sop_uid = ?1
               AND (r.receipt_seq IS NULL OR r.wanted OR EXISTS (SELECT 1 FROM divergence))",
        )?
        .exists([sop.as_str()])?;
    Ok(if not_at_hub {
        Standing::Held
    } else {
        Standing::AtHub
    })
}
