//! What readers ask for: which chunks of a study go first, and the other studies of its patient.
//!
//! Who a study is of is read from an instance when it is asked for, and compared in memory: nothing
//! at rest says that two studies are of one patient before somebody has asked.

use std::collections::BTreeMap;

use journal::InstancesFirst;
use store::rusqlite::{Connection, OptionalExtension, params};
use study::dataset::InstanceHead;
use study::part10::Part10;
use study::{Digest, Patient, SopInstanceUid, StudyUid};
use sync_proto::Runs;

use super::columns::uid;
use super::{FetchError, Vault, VaultError};
use crate::keys::{Locked, VaultState};

impl Vault {
    /// Notes that the other studies of a study's patient are wanted at the hub.
    pub async fn want_priors(&self, study: StudyUid) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let noted = self.0.writer.run(move |work| -> Result<(), VaultError> {
            let known = work
                .sql()
                .prepare_cached("SELECT 1 FROM study WHERE study_uid = ?1")?
                .exists([study.as_str()])?;
            if !known {
                return Err(VaultError::UnknownStudy(study));
            }
            Ok(note_priors(work.sql(), &study)?)
        });
        self.note_change(noted.await?);
        Ok(())
    }

    /// Studies whose patient's other studies are wanted and have not been looked for.
    pub fn priors_wanted(&self) -> Result<Vec<StudyUid>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached("SELECT study_uid FROM priors_wanted")?
                .query_map([], |row| uid(row, 0, StudyUid::parse))?
                .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// The other studies of the patient that the hub does not have, and that may leave. Reads an
    /// instance of each study: not from async code, and not while the vault is locked.
    pub fn find_priors(&self, study: &StudyUid) -> Result<Vec<StudyUid>, FetchError> {
        // Keys that packing has in hand would open it all the same.
        match self.0.keys.state() {
            VaultState::OpenNoPin | VaultState::Unlocked => {}
            VaultState::Locked | VaultState::Zeroised => return Err(Locked.into()),
        }
        let Some(patient) = self.patient_of(study)? else {
            return Ok(Vec::new());
        };
        let mut priors = Vec::new();
        for other in self.0.readers.with(|sql| not_passed(sql, study))? {
            match self.patient_of(&other) {
                Ok(whose) if whose.as_ref() == Some(&patient) => priors.push(other),
                Ok(_) => {}
                // What cannot be read does not hold up the others.
                Err(error) if error.is_loss() => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%other, error, "cannot tell of whom a study is");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(priors)
    }

    /// Lets these studies go before the rest of their class, as the priors that were wanted.
    pub async fn call_priors(
        &self,
        study: StudyUid,
        priors: Vec<StudyUid>,
    ) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let called = self.0.writer.run(move |work| -> Result<(), VaultError> {
            let mut call = work
                .sql()
                .prepare_cached("UPDATE study SET called = 1 WHERE study_uid = ?1")?;
            for prior in &priors {
                call.execute([prior.as_str()])?;
            }
            work.sql()
                .prepare_cached("DELETE FROM priors_wanted WHERE study_uid = ?1")?
                .execute([study.as_str()])?;
            Ok(())
        });
        self.note_change(called.await?);
        Ok(())
    }

    /// Of whom a study is; none when nothing of it is here, or it does not say.
    fn patient_of(&self, study: &StudyUid) -> Result<Option<Patient>, FetchError> {
        let Some(sop) = self.0.readers.with(|sql| any_instance(sql, study))? else {
            return Ok(None);
        };
        let file = self.read_file(&sop, 1)?.bytes;
        let Ok(parts) = Part10::parse(&file) else {
            return Err(FetchError::Other(sop));
        };
        let data_set = file.get(parts.data_set).unwrap_or_default();
        // Another study may have the same UID in it: it does not speak for this one.
        let head = InstanceHead::read(data_set, &parts.transfer_syntax);
        if head.is_ok_and(|head| head.study == *study) {
            Ok(Patient::read(data_set, &parts.transfer_syntax).unwrap_or_default())
        } else {
            Ok(None)
        }
    }
}

/// Notes whose priors are wanted; a study that is not known here has none.
pub(super) fn note_priors(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<()> {
    sql.prepare_cached(
        "INSERT INTO priors_wanted SELECT study_uid FROM study WHERE study_uid = ?1
         ON CONFLICT DO NOTHING",
    )?
    .execute([study.as_str()])
    .map(drop)
}

/// Notes which groups of a study go first, instead of those before.
pub(super) fn note_first(sql: &Connection, said: &InstancesFirst) -> store::rusqlite::Result<()> {
    let study = said.study.as_str();
    sql.prepare_cached("UPDATE pack_group SET waited_for = 0 WHERE study_uid = ?1 AND waited_for")?
        .execute([study])?;
    let mut mark = sql.prepare_cached(
        "UPDATE pack_group SET waited_for = 1 WHERE group_id IN
             (SELECT group_id FROM instance WHERE sop_uid = ?2 AND study_uid = ?1)",
    )?;
    for instance in &said.instances {
        mark.execute(params![study, instance.as_str()])?;
    }
    Ok(())
}

/// The chunks that go first, of each revision without a receipt.
pub(super) fn chunks_first(sql: &Connection) -> store::rusqlite::Result<BTreeMap<Digest, Runs>> {
    let mut first: BTreeMap<Digest, Runs> = BTreeMap::new();
    let mut select = sql.prepare_cached(
        "SELECT r.manifest_digest, c.number
         FROM pack_group g JOIN revision r USING (study_uid, revision) JOIN chunk c USING (group_id)
         WHERE g.waited_for AND r.receipt_seq IS NULL",
    )?;
    let rows = select.query_map([], |row| Ok((Digest::from_bytes(row.get(0)?), row.get(1)?)))?;
    for row in rows {
        let (manifest, chunk) = row?;
        first.entry(manifest).or_default().insert(chunk);
    }
    Ok(first)
}

/// Studies but this one of which something has not passed to the hub.
fn not_passed(sql: &Connection, but: &StudyUid) -> store::rusqlite::Result<Vec<StudyUid>> {
    sql.prepare_cached(
        "SELECT study_uid FROM study s WHERE study_uid <> ?1 AND consent <> 0
             AND (open OR EXISTS (SELECT 1 FROM revision r WHERE r.study_uid = s.study_uid
                                  AND r.receipt_seq IS NULL AND r.refused IS NULL))",
    )?
    .query_map([but.as_str()], |row| uid(row, 0, StudyUid::parse))?
    .collect()
}

fn any_instance(
    sql: &Connection,
    study: &StudyUid,
) -> store::rusqlite::Result<Option<SopInstanceUid>> {
    sql.prepare_cached(
        "SELECT sop_uid FROM instance WHERE study_uid = ?1 AND gone = 0 AND NOT damaged LIMIT 1",
    )?
    .query_row([study.as_str()], |row| uid(row, 0, SopInstanceUid::parse))
    .optional()
}
