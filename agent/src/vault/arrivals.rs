//! Arrivals: an instance becomes held, or there is no room for it.

use store::rusqlite::{Connection, params};
use store::{Location, Record, RecordHeader, StoreError, Synced, Work, WriteError};
use study::dataset::InstanceHead;
use study::part10::Part10;
use study::{Digest, InstanceDigest, Priority, StudyUid, TransferSyntaxUid};
use thiserror::Error;

use super::ledger::{self, HeldAs, Kept};
use super::{Vault, VaultError};

/// Above this size an instance is digested on a thread of its own.
const DIGEST_INLINE_BYTES_MAX: usize = 4 << 20;

/// Bytes of the disk that nothing but the index may take.
const INDEX_BYTES_KEPT: u64 = 1 << 20;

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
    fn disk_space(&self) -> (u64, u64) {
        rustix::fs::statvfs(&self.0.folder).map_or((0, 0), |space| {
            let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
            (bytes(space.f_bavail), bytes(space.f_blocks))
        })
    }

    /// Holds an instance: returns when its bytes and its ledger record are synced.
    pub async fn hold(&self, arrival: Arrival) -> Result<Synced<HeldAs>, HoldError> {
        let bytes = arrival.file.len() as u64;
        self.room_for(bytes)?;
        self.room_to_write(bytes)?;
        let digested = if arrival.file.len() > DIGEST_INLINE_BYTES_MAX {
            tokio::task::spawn_blocking(move || Digested::of(arrival))
                .await
                .expect("digesting does not panic")?
        } else {
            Digested::of(arrival)?
        };
        // Before it shows in the index: a study that is seen there must not look quiet.
        self.note_sign(&digested.head.study);
        let held = self.0.writer.run(move |work| hold(work, &digested)).await;
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

/// An arrival with the digests that the writer needs, made on the caller's thread.
struct Digested {
    head: InstanceHead,
    digest: InstanceDigest,
    record: Record,
}

impl Digested {
    fn of(arrival: Arrival) -> Result<Self, StoreError> {
        let Arrival {
            head,
            transfer_syntax,
            file,
            data_set_at,
        } = arrival;
        let data_set = file.get(data_set_at..).unwrap_or_default();
        let digest = InstanceDigest::of(&transfer_syntax, data_set);
        let header = RecordHeader {
            kind: super::fetch::INTAKE_FILE,
            meta: head.sop.as_str().as_bytes().to_vec(),
            ..RecordHeader::default()
        };
        Ok(Self {
            head,
            digest,
            record: Record::new(header, file)?,
        })
    }
}

fn hold(work: &mut Work<'_>, arrival: &Digested) -> Result<HeldAs, HoldError> {
    let kept = kept_under(work.sql(), arrival)?;
    let held_as = ledger::held_as(&kept, arrival.digest);
    if held_as == HeldAs::Known {
        return Ok(held_as);
    }
    if held_as == HeldAs::Mended {
        forget_set_aside(work.sql(), arrival)?;
    }
    let family = segment_family("intake", &arrival.head.study);
    let location = work.append(&family, &arrival.record)?;
    enter(work.sql(), arrival, &location)?;
    Ok(held_as)
}

/// Enters an instance whose record is at `location` into the index.
fn enter(sql: &Connection, arrival: &Digested, location: &Location) -> store::rusqlite::Result<()> {
    let head = &arrival.head;
    let (segment, offset, length) = location.to_columns();
    let now_ms = i64::try_from(clock::wall_ms()).unwrap_or(i64::MAX);
    sql.prepare_cached(
        "INSERT INTO study (study_uid, priority, consent, received_at_ms, open)
         VALUES (?1, ?2, 0, ?3, 1)
         ON CONFLICT DO UPDATE SET open = 1",
    )?
    .execute(params![
        head.study.as_str(),
        Priority::default().code(),
        now_ms
    ])?;
    sql.prepare_cached(
        "INSERT INTO instance
         (study_uid, sop_uid, digest, file_bytes, held_at_ms, segment, offset, length)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        head.study.as_str(),
        head.sop.as_str(),
        arrival.digest.digest().as_bytes(),
        i64::try_from(arrival.record.body().len()).unwrap_or(i64::MAX),
        now_ms,
        segment,
        offset,
        length,
    ])?;
    Ok(())
}

impl Vault {
    /// Takes a whole intake record that the index does not know into the index, where it lies.
    ///
    /// Says whether it was new. What is no instance is left where it is.
    pub(super) fn adopt_record(&self, location: Location) -> Result<bool, VaultError> {
        let file = self.0.writer.segments().read(&location)?.into_body();
        let Some(arrival) = parse(file) else {
            return Ok(false);
        };
        let arrival = Digested::of(arrival)?;
        let adopted = self.0.writer.run_blocking(move |work| {
            let sql = work.sql();
            let kept = kept_under(sql, &arrival)?;
            if kept.iter().any(|kept| kept.digest == arrival.digest) {
                return Ok::<_, VaultError>(false);
            }
            enter(sql, &arrival, &location)?;
            Ok(true)
        });
        Ok(adopted.map_err(VaultError::from)?.into_inner())
    }
}

/// Reads a kept file as what it was when it arrived.
fn parse(file: Vec<u8>) -> Option<Arrival> {
    let parts = Part10::parse(&file).ok()?;
    let data_set_at = parts.data_set.start;
    let head = InstanceHead::read(file.get(data_set_at..)?, &parts.transfer_syntax).ok()?;
    Some(Arrival {
        head,
        transfer_syntax: parts.transfer_syntax,
        file,
        data_set_at,
    })
}

/// The digests held under an arrival's UID, and which of these cannot be packed as they are kept.
fn kept_under(sql: &Connection, arrival: &Digested) -> store::rusqlite::Result<Vec<Kept>> {
    sql.prepare_cached("SELECT digest, set_aside FROM instance WHERE sop_uid = ?1")?
        .query_map([arrival.head.sop.as_str()], |row| {
            Ok(Kept {
                digest: InstanceDigest::from_digest(Digest::from_bytes(row.get(0)?)),
                set_aside: row.get(1)?,
            })
        })?
        .collect()
}

/// Makes way for the same bytes, come again.
fn forget_set_aside(sql: &Connection, arrival: &Digested) -> store::rusqlite::Result<()> {
    let digest = arrival.digest.digest();
    sql.prepare_cached("DELETE FROM instance WHERE sop_uid = ?1 AND digest = ?2 AND set_aside")?
        .execute(params![arrival.head.sop.as_str(), digest.as_bytes()])?;
    Ok(())
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
