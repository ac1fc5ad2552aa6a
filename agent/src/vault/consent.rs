//! Consent: whether a study may leave, and what may be said of it before.
//!
//! Our journal crosses to the hub, so that a study is not named in it before somebody, or the
//! site's policy, lets the study leave; what happened before is said then.

use std::sync::Arc;

use identity::NodeKey;
use journal::{Consent, ConsentBasis, Fact, PrioritySet};
use store::Work;
use store::rusqlite::{Connection, OptionalExtension, params};
use study::{Priority, StudyUid};

use super::columns::uid;
use super::formats::{self, Unsaid};
use super::ledger::ConsentState;
use super::records::RecordFault;
use super::{Vault, VaultError, records, sealed};

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
            let standing = standing(work.sql(), &study)?;
            let state = standing.ok_or_else(|| VaultError::UnknownStudy(study.clone()))?;
            let next = state_after(basis);
            if next == ConsentState::SitePolicy && state != ConsentState::Waiting {
                return Ok(());
            }
            work.sql()
                .prepare_cached("UPDATE study SET consent = ?2 WHERE study_uid = ?1")?
                .execute(params![study.as_str(), next.code()])?;
            let consent = Consent {
                study: study.clone(),
                basis,
                by,
            };
            records::append(work, &key, &Fact::Consent(consent))?;
            if state == ConsentState::Waiting {
                say_what_waited(work, &key, &study)?;
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
            let known = standing(work.sql(), &study)?.is_some();
            let set = PrioritySet { study, priority };
            if !known {
                return Err(VaultError::UnknownStudy(set.study));
            }
            change_priority(work, &key, set)
        });
        self.note_change(said.await?);
        Ok(())
    }
}

/// Does what the hub says of a study's urgency, and says it again, so that ours is the last word.
pub(super) fn obey_priority(
    work: &mut Work<'_>,
    key: &NodeKey,
    set: PrioritySet,
) -> Result<(), VaultError> {
    let differs = work
        .sql()
        .prepare_cached("SELECT 1 FROM study WHERE study_uid = ?1 AND priority <> ?2")?
        .exists(params![set.study.as_str(), set.priority.code()])?;
    if differs {
        tracing::info!(study = %set.study, priority = %set.priority, "the hub sets how urgent a study is");
        change_priority(work, key, set)?;
    }
    Ok(())
}

fn change_priority(work: &mut Work<'_>, key: &NodeKey, set: PrioritySet) -> Result<(), VaultError> {
    work.sql()
        .prepare_cached("UPDATE study SET priority = ?2 WHERE study_uid = ?1")?
        .execute(params![set.study.as_str(), set.priority.code()])?;
    let study = set.study.clone();
    say_or_keep(work, key, &study, &Fact::PrioritySet(set))
}

/// Says a fact of a study in our journal, unless nothing may be said of the study yet.
pub(super) fn say_of(
    work: &mut Work<'_>,
    key: &NodeKey,
    study: &StudyUid,
    fact: &Fact,
) -> Result<(), VaultError> {
    match standing(work.sql(), study)? {
        Some(ConsentState::Given | ConsentState::SitePolicy) => records::append(work, key, fact),
        Some(ConsentState::Waiting) | None => Ok(()),
    }
}

/// Says a fact of a study in our journal, or keeps it until the study may be named there.
pub(super) fn say_or_keep(
    work: &mut Work<'_>,
    key: &NodeKey,
    study: &StudyUid,
    fact: &Fact,
) -> Result<(), VaultError> {
    match standing(work.sql(), study)? {
        Some(ConsentState::Given | ConsentState::SitePolicy) => records::append(work, key, fact),
        Some(ConsentState::Waiting) | None => {
            let unsaid = Unsaid {
                study: study.clone(),
                kind: fact.kind(),
                body: fact.body(),
            };
            enter_unsaid(work.sql(), &unsaid)?;
            let record = formats::plain_record(formats::UNSAID_FACT, formats::to_meta(&unsaid))?;
            let location = work.append(formats::JOURNAL_FAMILY, &record)?;
            sealed::note_end(work.sql(), &location)?;
            Ok(())
        }
    }
}

/// Enters a fact into the index that is to be said later.
pub(super) fn enter_unsaid(sql: &Connection, unsaid: &Unsaid) -> store::rusqlite::Result<()> {
    sql.prepare_cached("INSERT INTO unsaid (study_uid, kind, body) VALUES (?1, ?2, ?3)")?
        .execute(params![unsaid.study.as_str(), unsaid.kind, unsaid.body])?;
    Ok(())
}

/// Forgets what was to be said of a study, as it has been said.
pub(super) fn forget_unsaid(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<()> {
    sql.prepare_cached("DELETE FROM unsaid WHERE study_uid = ?1")?
        .execute([study.as_str()])?;
    Ok(())
}

/// Says what happened to a study while nothing could be said of it.
fn say_what_waited(work: &mut Work<'_>, key: &NodeKey, study: &StudyUid) -> Result<(), VaultError> {
    for (kind, body) in unsaid(work.sql(), study)? {
        let fact = Fact::read(kind, &body).map_err(RecordFault::from)?;
        records::append(work, key, &fact)?;
    }
    Ok(forget_unsaid(work.sql(), study)?)
}

fn unsaid(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Vec<(u16, Vec<u8>)>> {
    sql.prepare_cached("SELECT kind, body FROM unsaid WHERE study_uid = ?1 ORDER BY number")?
        .query_map([study.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn state_after(basis: ConsentBasis) -> ConsentState {
    match basis {
        ConsentBasis::SitePolicy => ConsentState::SitePolicy,
        ConsentBasis::Spoken
        | ConsentBasis::Written
        | ConsentBasis::Guardian
        | ConsentBasis::Emergency => ConsentState::Given,
    }
}

fn standing(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Option<ConsentState>> {
    sql.prepare_cached("SELECT consent FROM study WHERE study_uid = ?1")?
        .query_row([study.as_str()], |row| {
            row.get(0).map(ConsentState::from_code)
        })
        .optional()
}
