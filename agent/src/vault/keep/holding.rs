//! Legal hold: a person's word that a study is neither let go nor erased.

use std::sync::Arc;

use journal::{Fact, FactError, LegalHold, TEXT_BYTES_MAX};
use store::rusqlite::{OptionalExtension, params};
use study::StudyUid;

use super::super::records::RecordFault;
use super::super::{Vault, VaultError, consent};

impl Vault {
    /// Puts a study on legal hold, or lifts that; the same word again changes nothing.
    pub async fn set_legal_hold(
        &self,
        study: StudyUid,
        held: bool,
        by: String,
    ) -> Result<(), VaultError> {
        let fact = Fact::LegalHold(LegalHold {
            study: study.clone(),
            held,
            by: by.clone(),
        });
        check_initials(fact.kind(), &by)?;
        self.make_room(0)?;
        let key = Arc::clone(&self.0.key);
        let said = self.0.writer.run(move |work| -> Result<(), VaultError> {
            let before: Option<bool> = work
                .sql()
                .prepare_cached("SELECT legal_hold FROM study WHERE study_uid = ?1")?
                .query_row([study.as_str()], |row| row.get(0))
                .optional()?;
            if before.ok_or_else(|| VaultError::UnknownStudy(study.clone()))? == held {
                return Ok(());
            }
            work.sql()
                .prepare_cached("UPDATE study SET legal_hold = ?2 WHERE study_uid = ?1")?
                .execute(params![study.as_str(), held])?;
            consent::say_or_keep(work, &key, &study, &fact)
        });
        self.note_change(said.await?);
        Ok(())
    }
}

/// Refuses initials that go on and on: a fact with them could not be read again.
pub(super) fn check_initials(kind: u16, by: &str) -> Result<(), RecordFault> {
    if by.len() > TEXT_BYTES_MAX {
        return Err(FactError::TextTooLong { kind }.into());
    }
    Ok(())
}
