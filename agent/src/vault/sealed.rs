//! Sealed bodies: how data keys are kept in the vault, and how what they sealed is opened.

use std::sync::Arc;

use sealing::{DataKey, KeyEnvelopes, KeyId, KeyringError};
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{Location, SegmentName, StoreError, Work};
use study::StudyUid;

use super::arrivals::segment_family;
use super::fetch::FetchError;
use super::{Vault, VaultError, formats};

impl Vault {
    /// Opens a body with the data key that it names, which is in hand or can be opened now.
    pub(super) fn open_sealed(&self, sealed: &[u8]) -> Result<Vec<u8>, FetchError> {
        let key = KeyId::of_sealed(sealed).map_err(FetchError::Sealed)?;
        let opened = self.data_key(key)?.open(sealed);
        opened.map_err(FetchError::Sealed)
    }

    /// A data key in hand, or opened now.
    pub(super) fn data_key(&self, key: KeyId) -> Result<Arc<DataKey>, FetchError> {
        if let Some(key) = self.0.keys.in_hand(key) {
            return Ok(key);
        }
        let kept = self.0.readers.with(|sql| envelopes(sql, key))?;
        let (study, envelopes) = kept.ok_or(FetchError::NoKey(key))?;
        match self.0.keys.admit(&study, &envelopes) {
            Ok(key) => Ok(key),
            Err(KeyringError::Locked) => Err(FetchError::Locked(crate::keys::Locked)),
            Err(error) => Err(FetchError::Key(error)),
        }
    }

    /// The envelopes of a data key, with one for the hub of today, and the key itself if it can be
    /// had; what was added is kept.
    pub(super) async fn keys_for_revision(
        &self,
        study: &StudyUid,
        key: KeyId,
    ) -> Result<KeyEnvelopes, VaultError> {
        let kept = self.0.readers.with(|sql| envelopes(sql, key))?;
        let (_, kept) = kept.ok_or(VaultError::NoKey(key))?;
        let full = match self.0.keys.with_hub(study, &kept) {
            // Made before a hub was known, and not in hand any more.
            Err(KeyringError::NotHeld(_)) => {
                self.0.keys.admit(study, &kept)?;
                self.0.keys.with_hub(study, &kept)?
            }
            other => other?,
        };
        if full != kept {
            let (study, full) = (study.clone(), full.clone());
            self.0
                .writer
                .run(move |work| replace_key(work, &study, &full))
                .await?;
        }
        Ok(full)
    }
}

/// Keeps the envelopes of a data key, unless they are kept already; says whether they were not.
///
/// They are on the disk before anything that is sealed under the key can be: what recovery finds at
/// the end of a segment can always be opened.
pub(super) fn keep_key(
    work: &mut Work<'_>,
    study: &StudyUid,
    envelopes: &KeyEnvelopes,
) -> Result<bool, StoreError> {
    let is_new = insert_key(work.sql(), study, envelopes)?;
    if is_new {
        append_key(work, study, envelopes)?;
        work.sync_so_far()?;
    }
    Ok(is_new)
}

/// Enters the envelopes of a data key into the index; says whether they were not there.
pub(super) fn insert_key(
    sql: &Connection,
    study: &StudyUid,
    envelopes: &KeyEnvelopes,
) -> store::rusqlite::Result<bool> {
    let entered = sql
        .prepare_cached(
            "INSERT INTO data_key (key_id, study_uid, envelopes) VALUES (?1, ?2, ?3)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            envelopes.key.as_bytes(),
            study.as_str(),
            envelopes.to_cbor()
        ])?;
    Ok(entered > 0)
}

/// Keeps envelopes in the place of those that are kept of the same key.
fn replace_key(
    work: &mut Work<'_>,
    study: &StudyUid,
    envelopes: &KeyEnvelopes,
) -> Result<(), VaultError> {
    let kept = work
        .sql()
        .prepare_cached("UPDATE data_key SET envelopes = ?2 WHERE key_id = ?1")?
        .execute(params![envelopes.key.as_bytes(), envelopes.to_cbor()])?;
    if kept == 0 {
        // The study was let go or erased since.
        return Err(VaultError::NoKey(envelopes.key));
    }
    append_key(work, study, envelopes)?;
    Ok(())
}

fn append_key(
    work: &mut Work<'_>,
    study: &StudyUid,
    envelopes: &KeyEnvelopes,
) -> Result<(), StoreError> {
    let record =
        formats::plain_record(formats::KEY_ENVELOPES, formats::key_body(study, envelopes))?;
    let location = work.append(&segment_family("keys", study), &record)?;
    note_end(work.sql(), &location)?;
    Ok(())
}

/// Notes how far the index knows a segment that holds neither instances nor chunks.
pub(super) fn note_end(sql: &Connection, location: &Location) -> store::rusqlite::Result<()> {
    let (segment, offset, length) = location.to_columns();
    sql.prepare_cached(
        "INSERT INTO segment_end (segment, upto) VALUES (?1, ?2 + ?3)
         ON CONFLICT DO UPDATE SET upto = max(upto, excluded.upto)",
    )?
    .execute(params![segment, offset, length])?;
    Ok(())
}

/// Gives a segment up in which the index has nothing any more: its name may be given again.
pub(super) fn give_up(work: &mut Work<'_>, segment: &SegmentName) -> Result<(), StoreError> {
    forget_end(work.sql(), segment)?;
    work.remove_segment_after_commit(segment)
}

/// Forgets how far the index knows a segment that goes.
pub(super) fn forget_end(sql: &Connection, segment: &SegmentName) -> store::rusqlite::Result<()> {
    sql.prepare_cached("DELETE FROM segment_end WHERE segment = ?1")?
        .execute(params![segment])?;
    Ok(())
}

fn envelopes(
    sql: &Connection,
    key: KeyId,
) -> store::rusqlite::Result<Option<(StudyUid, KeyEnvelopes)>> {
    sql.prepare_cached("SELECT study_uid, envelopes FROM data_key WHERE key_id = ?1")?
        .query_row([key.as_bytes()], |row| {
            let study = super::columns::uid(row, 0, StudyUid::parse)?;
            let bytes: Vec<u8> = row.get(1)?;
            let envelopes = KeyEnvelopes::from_cbor(&bytes).map_err(|error| {
                let kind = store::rusqlite::types::Type::Blob;
                store::rusqlite::Error::FromSqlConversionFailure(1, kind, Box::new(error))
            })?;
            Ok((study, envelopes))
        })
        .optional()
}

/// The data keys of a study.
pub(super) fn keys_of(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<Vec<KeyId>> {
    sql.prepare_cached("SELECT key_id FROM data_key WHERE study_uid = ?1")?
        .query_map([study.as_str()], |row| row.get(0).map(KeyId::from_bytes))?
        .collect()
}
