//! Keeping: how full the disk is, and what leaves the box so that there is room.
//!
//! In: the file system's free space, the index, the word of a person. Out: what `status` says of the
//! disk; studies that were let go or erased, with a record of it.
//! Invariant: of itself the box lets a study go only when the hub has given its receipt for all of
//! it, a report that holds was made of it, nobody holds it, and custody passed long enough ago; what
//! has gone is named for ever, as roots speak of it.
//! May not: look at the wall clock, let go of what is unread, unsent or damaged, open a body.

mod erase;
mod holding;
mod leaving;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use store::rusqlite::{Connection, params};
use store::{Ballast, StoreError, WriteError};
use study::{Digest, StudyUid};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arrivals::{INDEX_BYTES_KEPT, NoRoom, space_of};
use super::columns::int;
use super::{Vault, VaultError};
use crate::config::VaultConfig;

pub use erase::{EraseError, Erased};
pub use leaving::LetGo;

/// How often it is looked how full the disk is, whatever happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How soon it is looked again when something has changed.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How often the odometer is written down.
const ODOMETER_INTERVAL: Duration = Duration::from_secs(60);
/// How often, and how soon again, the index's log is tried to be emptied while somebody reads.
const LOG_ATTEMPTS: u32 = 20;
const LOG_PAUSE: Duration = Duration::from_millis(100);

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomState {
    /// Enough.
    Ok,
    /// People are warned.
    Low,
    /// Nothing is taken in.
    Full,
}

/// The disk as `status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DiskRoom {
    /// Bytes free on the file system.
    pub free_bytes: u64,
    /// All its bytes.
    pub total_bytes: u64,
    /// What that means.
    pub state: RoomState,
    /// Bytes of studies that may be let go now.
    pub evictable_bytes: u64,
}

/// What the room keeps in memory.
pub(super) struct Keeping {
    folder: PathBuf,
    ballast: Ballast,
    has_ballast: bool,
    /// Up to when the running time is in the odometer, on the clock that does not jump.
    counted_ms: Arc<AtomicU64>,
    /// Rows with keys were deleted, and may be in the index's log still.
    log_is_due: AtomicBool,
}

impl Keeping {
    pub(super) fn new(folder: &Path, config: &VaultConfig) -> Self {
        Self {
            folder: folder.to_owned(),
            ballast: Ballast::new(&folder.join("ballast"), config.ballast.get()),
            has_ballast: config.ballast.get() > 0,
            counted_ms: Arc::new(AtomicU64::new(clock::count_ms())),
            log_is_due: AtomicBool::new(false),
        }
    }

    /// Does what needs room; on a disk that has none, once more without the ballast. What follows
    /// may write to the index: a commit without room stops the whole vault.
    pub(super) fn give_way<T>(
        &self,
        attempt: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let had_room = space_of(&self.folder).0 >= INDEX_BYTES_KEPT;
        match attempt() {
            Err(error) if error.is_full() && self.ballast.release()? => {
                tracing::warn!("the disk is full: gave the index the room that was kept for it");
                attempt()
            }
            Ok(done) => {
                if !had_room {
                    self.ballast.release()?;
                }
                Ok(done)
            }
            Err(error) => Err(error),
        }
    }
}

impl Vault {
    /// How full the disk is, and how much of it could be made free.
    pub fn disk_room(&self) -> Result<DiskRoom, VaultError> {
        let keep_ms = self.0.config.keep_at_hub.as_millis();
        let may_go = self.0.readers.with(|sql| leaving::may_go(sql, keep_ms))?;
        let (free_bytes, total_bytes) = (self.free_bytes(), self.disk_space().1);
        Ok(DiskRoom {
            free_bytes,
            total_bytes,
            state: state(free_bytes, total_bytes, &self.0.config),
            evictable_bytes: may_go.iter().map(|study| study.bytes).sum(),
        })
    }

    /// Lets studies go if the disk is fuller than it should be, and keeps the ballast in its place.
    pub async fn look_after_room(&self) -> Result<LetGo, VaultError> {
        self.keep_ballast();
        if self.0.keeping.log_is_due.load(Ordering::Relaxed) {
            self.empty_log().await?;
        }
        let wanted = mark(self.disk_space().1, self.0.config.evict_below_percent);
        let short = wanted.saturating_sub(self.free_bytes());
        if short == 0 {
            return Ok(LetGo::default());
        }
        self.let_go(short).await
    }

    /// Adds to the odometer how long the box has been running since that was last done.
    pub async fn count_running(&self) -> Result<(), VaultError> {
        self.room_to_write(0)?;
        let counted = Arc::clone(&self.0.keeping.counted_ms);
        let written = self.0.writer.run(move |work| -> Result<(), VaultError> {
            let now = clock::count_ms();
            let since = now.saturating_sub(counted.load(Ordering::Relaxed));
            turn_odometer(work.sql(), since)?;
            // One thread runs the jobs; a commit that fails ends the program.
            counted.store(now, Ordering::Relaxed);
            Ok(())
        });
        written.await?;
        Ok(())
    }

    /// Makes sure that the index can be written, at the price of the ballast if need be.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), VaultError> {
        match self.room_to_write(bytes) {
            Err(NoRoom { .. }) if self.0.keeping.ballast.release()? => {
                Ok(self.room_to_write(bytes)?)
            }
            enough => Ok(enough?),
        }
    }

    /// Puts the ballast in its place if there is room for it, or takes it away for good.
    fn keep_ballast(&self) {
        let Keeping {
            ballast,
            has_ballast,
            ..
        } = &self.0.keeping;
        let kept = if !has_ballast {
            ballast.release().map(drop)
        } else if ballast.is_whole() || self.disk_space().0 < self.ballast_wants() {
            Ok(())
        } else {
            ballast.ensure()
        };
        if let Err(error) = kept {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot keep room for the index");
        }
    }

    /// Free bytes from which on the ballast is put back: it must not take what the index needs now.
    fn ballast_wants(&self) -> u64 {
        self.0.config.ballast.get().saturating_mul(2) + INDEX_BYTES_KEPT
    }

    /// Empties the index's log of what was deleted; false when readers were in the way all the time.
    async fn empty_log(&self) -> Result<bool, VaultError> {
        for _ in 0..LOG_ATTEMPTS {
            match self.0.writer.truncate_log().await {
                Ok(()) => {
                    self.0.keeping.log_is_due.store(false, Ordering::Relaxed);
                    return Ok(true);
                }
                Err(WriteError::Job(StoreError::LogInUse)) => tokio::time::sleep(LOG_PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}

/// Watches the disk and the running time until it is told to stop.
pub async fn run(vault: Vault, stop: CancellationToken) {
    let (mut changed, mut arrived) = (vault.watch(), vault.arrivals());
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let mut seen = RoomState::Ok;
    let mut counted = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {}
            told = changed.changed() => if told.is_err() { break },
            told = arrived.changed() => if told.is_err() { break },
        }
        if counted.elapsed() >= ODOMETER_INTERVAL {
            count(&vault).await;
            counted = Instant::now();
        }
        if let Err(error) = vault.look_after_room().await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "cannot make room");
        }
        seen = tell(&vault, seen);
        // A scanner sends hundreds a second: looking at each would be work for nothing.
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_PAUSE) => {}
        }
    }
    count(&vault).await;
}

async fn count(vault: &Vault) {
    if let Err(error) = vault.count_running().await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "cannot write down how long the box has been running");
    }
}

/// Says once when the disk has become fuller or emptier than a mark.
fn tell(vault: &Vault, before: RoomState) -> RoomState {
    let (free_bytes, total_bytes) = (vault.free_bytes(), vault.disk_space().1);
    let now = state(free_bytes, total_bytes, &vault.0.config);
    match now {
        _ if now == before => {}
        RoomState::Ok => tracing::info!(free_bytes, "there is room on the disk again"),
        RoomState::Low => tracing::warn!(free_bytes, total_bytes, "room on the disk is low"),
        RoomState::Full => {
            tracing::warn!(
                free_bytes,
                total_bytes,
                "the disk is full: nothing is taken in"
            );
        }
    }
    now
}

/// What so much free space means.
fn state(free_bytes: u64, total_bytes: u64, config: &VaultConfig) -> RoomState {
    if free_bytes < mark(total_bytes, config.reserve_percent).max(INDEX_BYTES_KEPT) {
        RoomState::Full
    } else if free_bytes < mark(total_bytes, config.warn_percent) {
        RoomState::Low
    } else {
        RoomState::Ok
    }
}

fn mark(total_bytes: u64, percent: u8) -> u64 {
    total_bytes / 100 * u64::from(percent)
}

fn turn_odometer(sql: &Connection, run_ms: u64) -> store::rusqlite::Result<()> {
    sql.prepare_cached("UPDATE odometer SET run_ms = run_ms + ?1")?
        .execute([int(run_ms)])?;
    Ok(())
}

/// Notes what the odometer shows if a receipt has just passed custody of a whole study.
pub(super) fn note_custody(sql: &Connection, study: &StudyUid) -> store::rusqlite::Result<()> {
    sql.prepare_cached(
        "UPDATE study SET custody_run_ms = (SELECT run_ms FROM odometer)
         WHERE study_uid = ?1 AND NOT open
           AND (SELECT closed AND receipt_seq IS NOT NULL FROM revision
                WHERE study_uid = ?1 ORDER BY revision DESC LIMIT 1)",
    )?
    .execute([study.as_str()])?;
    Ok(())
}

/// Makes the index forget where the bytes of a study were, and the keys that opened them.
///
/// `state` is what its instances are from now on: 1 let go, 2 erased.
pub(super) fn drop_rows(
    sql: &Connection,
    study: &StudyUid,
    state: u8,
    withdrawn: &[Digest],
) -> store::rusqlite::Result<()> {
    sql.execute(
        "UPDATE instance SET segment = NULL, offset = NULL, length = NULL, group_id = NULL,
                file_number = NULL, set_aside = 0, damaged = 0, key_id = x'', gone = max(gone, ?2)
         WHERE study_uid = ?1",
        params![study.as_str(), state],
    )?;
    for rows in [
        "DELETE FROM chunk WHERE study_uid = ?1",
        "DELETE FROM pack_group WHERE study_uid = ?1",
        "DELETE FROM data_key WHERE study_uid = ?1",
        "UPDATE study SET open = 0 WHERE study_uid = ?1",
    ] {
        sql.execute(rows, [study.as_str()])?;
    }
    let mut withdraw = sql.prepare_cached("DELETE FROM revision WHERE manifest_digest = ?1")?;
    for manifest in withdrawn {
        withdraw.execute([manifest.as_bytes()])?;
    }
    Ok(())
}

/// Forgets what reports of a study say, up to number `seq`; that they came stays.
pub(super) fn forget_reports(
    sql: &Connection,
    study: &StudyUid,
    seq: u64,
) -> store::rusqlite::Result<()> {
    sql.execute(
        "UPDATE report SET sealed = x'' WHERE study_uid = ?1 AND seq <= ?2",
        params![study.as_str(), int(seq)],
    )
    .map(drop)
}

/// Points an instance that was erased, and has come again since, at its place in a group.
pub(super) fn come_again(
    sql: &Connection,
    instance: i64,
    group: i64,
    number: u32,
) -> store::rusqlite::Result<()> {
    sql.prepare_cached(
        "UPDATE instance SET gone = 0, group_id = ?2, file_number = ?3,
                revision = coalesce(revision, (SELECT revision FROM pack_group WHERE group_id = ?2))
         WHERE instance_id = ?1 AND gone > 0",
    )?
    .execute(params![instance, group, number])?;
    Ok(())
}

#[cfg(test)]
mod tests;
