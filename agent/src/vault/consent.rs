//! Consent: whether a study may leave, and what may be said of it before.
//!
//! Our journal crosses to the hub, so that a study is not named in it before somebody, or the
//! site's policy, lets the study leave; what happened before is said then.

use std::sync::Arc;

use identity::NodeKey;
use journal::{Consent, ConsentBasis, Fact, Offered, PrioritySet};
use store::rusqlite::{Connection, OptionalExtension, params};
use study::{Digest, Priority, StudyRoot, StudyUid};

use super::ledger::ConsentState;
use super::revisions::{priority, uid};
use super::{Vault, VaultError, records};

impl Vault {
    /// Studies on whose leaving nobody has decided.
    pub fn awaiting_consent(&self) -> Result<Vec<StudyUid>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached("SELECT study_uid FROM study WHERE consent = 0")?
                .query_map([], |row| uid(row, 0, StudyUid::parse))?
                .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// Records on what basis a study may leave the box. The site's policy changes nothing once a
    /// person has said something.
    pub async fn record_consent(
        &self,
        study: StudyUid,
        basis: ConsentBasis,
        by: Option<String>,
    ) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let key = Arc::clone(&self.0.key);
        let said = self.0.writer.run(move |work| -> Result<(), VaultError> {
            let sql = work.sql();
            let standing = standing(sql, &study)?;
            let (state, urgency) =
                standing.ok_or_else(|| VaultError::UnknownStudy(study.clone()))?;
            let next = state_after(basis);
            if next == ConsentState::SitePolicy && state != ConsentState::Waiting {
                return Ok(());
            }
            sql.prepare_cached("UPDATE study SET consent = ?2 WHERE study_uid = ?1")?
                .execute(params![study.as_str(), next.code()])?;
            let consent = Consent {
                study: study.clone(),
                basis,
                by,
            };
            records::append(sql, &key, &Fact::Consent(consent))?;
            if state == ConsentState::Waiting {
                say_what_waited(sql, &key, &study, urgency)?;
            }
            Ok(())
        });
        self.note_change(said.await?);
        Ok(())
    }

    /// Changes how urgent a study is.
    pub async fn set_priority(
        &self,
        study: StudyUid,
        priority: Priority,
    ) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let key = Arc::clone(&self.0.key);
        let said = self.0.writer.run(move |work| -> Result<(), VaultError> {
            let sql = work.sql();
            if standing(sql, &study)?.is_none() {
                return Err(VaultError::UnknownStudy(study));
            }
            sql.prepare_cached("UPDATE study SET priority = ?2 WHERE study_uid = ?1")?
                .execute(params![study.as_str(), priority.code()])?;
            let fact = Fact::PrioritySet(PrioritySet {
                study: study.clone(),
                priority,
            });
            say_of(sql, &key, &study, &fact)
        });
        self.note_change(said.await?);
        Ok(())
    }
}

/// Says a fact of a study in our journal, unless nothing may be said of the study yet.
pub(super) fn say_of(
    sql: &Connection,
    key: &NodeKey,
    study: &StudyUid,
    fact: &Fact,
) -> Result<(), VaultError> {
    match standing(sql, study)? {
        Some((ConsentState::Given | ConsentState::SitePolicy, _)) => {
            records::append(sql, key, fact)
        }
        Some((ConsentState::Waiting, _)) | None => Ok(()),
    }
}

/// Says what happened to a study while nothing could be said of it.
fn say_what_waited(
    sql: &Connection,
    key: &NodeKey,
    study: &StudyUid,
    urgency: Priority,
) -> Result<(), VaultError> {
    if urgency != Priority::default() {
        let fact = PrioritySet {
            study: study.clone(),
            priority: urgency,
        };
        records::append(sql, key, &Fact::PrioritySet(fact))?;
    }
    for offered in revisions(sql, study)? {
        records::append(sql, key, &Fact::Offered(offered))?;
    }
    Ok(())
}

fn state_after(basis: ConsentBasis) -> ConsentState {
    match basis {
        ConsentBasis::SitePolicy => ConsentState::SitePolicy,
        ConsentBasis::Spoken
        | ConsentBasis::Written
        | ConsentBasis::Guardian
        | ConsentBasis::Emergency => ConsentState::Given,
    }
}

fn standing(
    sql: &Connection,
    study: &StudyUid,
) -> store::rusqlite::Result<Option<(ConsentState, Priority)>> {
    sql.prepare_cached("SELECT consent, priority FROM study WHERE study_uid = ?1")?
        .query_row([study.as_str()], |row| {
            Ok((ConsentState::from_code(row.get(0)?), priority(row, 1)?))
        })
        .optional()
}

fn revisions(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Vec<Offered>> {
    sql.prepare_cached(
        "SELECT study_uid, revision, root, manifest_digest FROM revision
         WHERE study_uid = ?1 ORDER BY revision",
    )?
    .query_map([study.as_str()], |row| {
        Ok(Offered {
            study: uid(row, 0, StudyUid::parse)?,
            revision: row.get(1)?,
            root: StudyRoot::from_digest(Digest::from_bytes(row.get(2)?)),
            manifest: Digest::from_bytes(row.get(3)?),
        })
    })?
    .collect()
}
