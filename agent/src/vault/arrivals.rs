//! Arrivals: an instance becomes held, or there is no room for it.

use std::path::Path;

use sealing::KeyId;
use store::rusqlite::{Connection, OptionalExtension, params};
use store::{Location, Record, StoreError, Synced, Work, WriteError};
use study::dataset::InstanceHead;
use study::{
    Digest, InstanceDigest, Priority, SopClassUid, SopInstanceUid, StudyUid, TransferSyntaxUid,
};
use thiserror::Error;

use super::columns::int;
use super::formats::{self, IntakeMeta};
use super::ledger::{self, HeldAs, Kept};
use super::{Vault, VaultError, sealed};
use crate::keys::{Keys, StudyKey};

/// Above this size an instance is digested and sealed on a thread of its own.
const SEAL_INLINE_BYTES_MAX: usize = 4 << 20;

/// Bytes of the disk that nothing but the index may take.
pub(super) const INDEX_BYTES_KEPT: u64 = 1 << 20;

/// An instance that has come in whole.
#[derive(Debug)]
pub struct Arrival {
    /// Who it is.
    pub head: InstanceHead,
    /// How its data set is encoded.
    pub transfer_syntax: TransferSyntaxUid,
    /// The file to keep (PS3.10): preamble, group 2, data set.
    pub file: Vec<u8>,
    /// Where in the file the data set begins.
    pub data_set_at: usize,
}

/// Says that writing more would touch what is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{wanted} bytes are wanted, {free} are free, {reserve} of these are kept back")]
pub struct NoRoom {
    /// Bytes that were to be written.
    pub wanted: u64,
    /// Bytes free on the file system.
    pub free: u64,
    /// Bytes of those that are kept back.
    pub reserve: u64,
}

/// Says why an instance is not held.
#[derive(Debug, Error)]
pub enum HoldError {
    /// The disk is full, or as full as it may get.
    #[error("there is no room")]
    NoRoom(#[from] NoRoom),
    /// The disk ran out of space in the middle of the write.
    #[error("the disk is full")]
    DiskFull,
    /// Anything else.
    #[error(transparent)]
    Vault(VaultError),
}

impl From<StoreError> for HoldError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Full { .. }) {
            Self::DiskFull
        } else {
            Self::Vault(error.into())
        }
    }
}

impl From<store::rusqlite::Error> for HoldError {
    fn from(error: store::rusqlite::Error) -> Self {
        Self::from(StoreError::from(error))
    }
}

impl Vault {
    /// Says whether `bytes` more may be taken in; cheap enough to ask before each instance.
    pub fn room_for(&self, bytes: u64) -> Result<(), NoRoom> {
        let total = self.disk_space().1;
        let reserve = total / 100 * u64::from(self.0.config.reserve_percent);
        room_beside(self.free_bytes(), reserve, bytes)
    }

    /// Bytes free for intake; none are when the file system cannot say.
    pub fn free_bytes(&self) -> u64 {
        let assumed = self.0.config.free_space_assumed;
        assumed.map_or_else(|| self.disk_space().0, |assumed| assumed.get())
    }

    /// Says whether `bytes` more may be written that are no arrival: the reserve is there for that.
    ///
    /// What is left must do for the index: a commit without room stops the whole vault.
    pub(super) fn room_to_write(&self, bytes: u64) -> Result<(), NoRoom> {
        room_beside(self.disk_space().0, INDEX_BYTES_KEPT, bytes)
    }

    /// Free and total bytes of the vault's file system.
    pub(super) fn disk_space(&self) -> (u64, u64) {
        space_of(&self.0.folder)
    }

    /// Holds an instance: returns when its bytes and its ledger record are synced.
    pub async fn hold(&self, arrival: Arrival) -> Result<Synced<HeldAs>, HoldError> {
        let bytes = arrival.file.len() as u64;
        self.room_for(bytes)?;
        self.room_to_write(bytes)?;
        let key = self.0.keys.of_study(&arrival.head.study);
        self.hold_with(arrival, key).await
    }

    /// Holds an instance under a key of its study that is in hand.
    pub(super) async fn hold_with(
        &self,
        arrival: Arrival,
        key: StudyKey,
    ) -> Result<Synced<HeldAs>, HoldError> {
        let sealed = if arrival.file.len() > SEAL_INLINE_BYTES_MAX {
            tokio::task::spawn_blocking(move || Sealed::of(arrival, key))
                .await
                .expect("sealing does not panic")?
        } else {
            Sealed::of(arrival, key)?
        };
        // Before it shows in the index: a study that is seen there must not look quiet.
        self.note_sign(&sealed.said.study);
        let keys = self.0.keys.clone();
        let held = self.0.writer.run(move |work| hold(work, &keys, &sealed));
        let held = held.await;
        match held {
            Ok(synced) => {
                if *synced.get() != HeldAs::Known {
                    self.0.arrived.send_replace(());
                }
                Ok(synced)
            }
            Err(WriteError::Job(error)) => Err(error),
            Err(WriteError::Poisoned) => Err(HoldError::Vault(VaultError::Poisoned)),
        }
    }
}

/// Free and total bytes of a folder's file system; none when it cannot say.
pub(super) fn space_of(folder: &Path) -> (u64, u64) {
    rustix::fs::statvfs(folder).map_or((0, 0), |space| {
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        (bytes(space.f_bavail), bytes(space.f_blocks))
    })
}

fn room_beside(free: u64, reserve: u64, wanted: u64) -> Result<(), NoRoom> {
    if free >= reserve.saturating_add(wanted) {
        return Ok(());
    }
    Err(NoRoom {
        wanted,
        free,
        reserve,
    })
}

/// An arrival as it goes to the disk, made on the caller's thread.
struct Sealed {
    said: IntakeMeta,
    key: StudyKey,
    records: Vec<Record>,
}

impl Sealed {
    fn of(arrival: Arrival, key: StudyKey) -> Result<Self, StoreError> {
        let data_set = arrival.file.get(arrival.data_set_at..).unwrap_or_default();
        let mut said = IntakeMeta {
            digest: InstanceDigest::of(&arrival.transfer_syntax, data_set),
            study: arrival.head.study,
            sop: arrival.head.sop,
            file_bytes: arrival.file.len() as u64,
            pieces: 0,
            held_at_ms: clock::wall_ms(),
            sop_class: Some(arrival.head.sop_class),
        };
        let records = formats::intake_records(&key.key, &arrival.file, |pieces| {
            said.pieces = pieces;
            said.clone()
        })?;
        Ok(Self { said, key, records })
    }
}

fn hold(work: &mut Work<'_>, keys: &Keys, arrival: &Sealed) -> Result<HeldAs, HoldError> {
    let said = &arrival.said;
    let kept = kept_under(work.sql(), &said.sop)?;
    let held_as = ledger::held_as(&kept, said.digest);
    if held_as == HeldAs::Known {
        return Ok(held_as);
    }
    let is_new = sealed::keep_key(work, &said.study, &arrival.key.envelopes)?;
    let key = arrival.key.key.id();
    if is_new && keys.in_hand(key).is_none() {
        // The study was erased since: what is sealed with that key must never open again.
        return Err(HoldError::Vault(VaultError::NoKey(key)));
    }
    let location = work.append_run(formats::INTAKE_FAMILY, &arrival.records)?;
    enter(work.sql(), said, key, &location)?;
    Ok(held_as)
}

/// Enters an instance whose records are at `location` into the index.
pub(super) fn enter(
    sql: &Connection,
    said: &IntakeMeta,
    key: KeyId,
    location: &Location,
) -> store::rusqlite::Result<()> {
    let revision = make_way(sql, said)?;
    let (segment, offset, length) = location.to_columns();
    let held_at_ms = int(said.held_at_ms);
    sql.prepare_cached(
        "INSERT INTO study (study_uid, priority, consent, received_at_ms, open)
         VALUES (?1, ?2, 0, ?3, 1)
         ON CONFLICT DO UPDATE SET open = 1",
    )?
    .execute(params![
        said.study.as_str(),
        Priority::default().code(),
        held_at_ms
    ])?;
    sql.prepare_cached(
        "INSERT INTO instance
         (study_uid, sop_uid, digest, file_bytes, held_at_ms, key_id, segment, offset, length, pieces,
          revision, sop_class)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        said.study.as_str(),
        said.sop.as_str(),
        said.digest.digest().as_bytes(),
        int(said.file_bytes),
        held_at_ms,
        key.as_bytes(),
        segment,
        offset,
        length,
        said.pieces,
        revision,
        said.sop_class.as_ref().map(SopClassUid::as_str),
    ])?;
    Ok(())
}

/// What is known under a UID. Of no use is what was set aside, what has rotted in its group and the
/// hub has not, and what was let go and the hub has lost since.
const KEPT_UNDER: &str = "
    SELECT digest,
           set_aside
           OR gone = 0 AND EXISTS
               (SELECT 1 FROM pack_group g JOIN chunk c USING (group_id)
                     JOIN revision r ON r.study_uid = g.study_uid AND r.revision = g.revision
                WHERE g.group_id = instance.group_id AND c.damaged > 0
                  AND (r.receipt_seq IS NULL OR r.wanted))
           OR gone = 1 AND EXISTS
               (SELECT 1 FROM revision r WHERE r.study_uid = instance.study_uid
                  AND r.revision = instance.revision AND r.wanted),
           gone
    FROM instance WHERE sop_uid = ?1";

/// What is known under a UID.
pub(super) fn kept_under(
    sql: &Connection,
    sop: &SopInstanceUid,
) -> store::rusqlite::Result<Vec<Kept>> {
    sql.prepare_cached(KEPT_UNDER)?
        .query_map([sop.as_str()], |row| {
            let gone: u8 = row.get(2)?;
            Ok(Kept {
                digest: InstanceDigest::from_digest(Digest::from_bytes(row.get(0)?)),
                useless: row.get(1)?,
                let_go: gone == 1,
                erased: gone == 2,
            })
        })?
        .collect()
}

/// Makes way for the same bytes, come again, where what is known of them is of no use; gives the
/// revision since which roots speak of them, if they do.
fn make_way(sql: &Connection, said: &IntakeMeta) -> store::rusqlite::Result<Option<u32>> {
    sql.prepare_cached(
        "DELETE FROM instance WHERE sop_uid = ?1 AND digest = ?2 RETURNING revision",
    )?
    .query_row(
        params![said.sop.as_str(), said.digest.digest().as_bytes()],
        |row| row.get(0),
    )
    .optional()
    .map(Option::flatten)
}

/// The segment family of a study: its segments hold nothing else, so that they can be unlinked.
pub(super) fn segment_family(kind: &str, study: &StudyUid) -> String {
    let digest = Digest::of(study.as_str().as_bytes()).to_string();
    format!(
        "{kind}-{}",
        digest
            .get(..12)
            .expect("a digest has 64 hexadecimal digits")
    )
}
