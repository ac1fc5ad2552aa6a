//! Vault: keeps every received instance until another node has custody of it.
//!
//! In: instances from `intake`; packed groups from `pack`; progress, receipts and reports from
//! `contact`; consent and priority from `orders`. Out: held instances to `pack`, signed revisions
//! to `outbox`, the facts that `status` shows.
//! Invariant: an instance is held only after its bytes and its ledger record are synced; whatever
//! says so carries a [`Synced`], which only a finished sync makes.
//! May not: open sockets, look at pixels, decide what is sent or when.

mod absorb;
mod again;
mod airtime;
mod arrivals;
mod asked;
mod batches;
mod columns;
mod consent;
mod divergence;
mod documents;
mod fetch;
mod formats;
mod inspect;
pub mod keep;
mod ledger;
mod mend;
mod overview;
mod papers;
mod records;
mod recovery;
mod revisions;
mod schema;
mod scrub;
mod sealed;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use identity::{NodeId, NodeKey};
use sealing::{KeyId, KeyringError, StorePublicKey};
use store::{FsDisk, Readers, Segments, StoreError, Synced, WriteError, Writer};
use study::{Digest, StudyUid};
use thiserror::Error;
use tokio::sync::watch;

use crate::config::VaultConfig;
use crate::keys::Keys;

pub use absorb::Absorbed;
pub use again::{Repacked, Waiting};
pub use airtime::{Airtime, KeptUplink};
pub use arrivals::{Arrival, HoldError, NoRoom};
pub use batches::{Backlog, Batch, BatchItem, BatchRule, Due, Now, Skipped};
pub use divergence::JournalState;
pub use documents::{Change, Document, Drawer};
pub use fetch::{FetchError, KeptFile};
pub use ledger::{ConsentState, Custody, HeldAs, Stability};
pub use mend::Mended;
pub use overview::StudyOverview;
pub use papers::StudyPapers;
pub use records::{RecordFault, ReportFault, StoredReport};
pub use revisions::{Offerable, Packed, Revision};
pub use scrub::{Pass, ScrubState, Scrubbed, Slice};
pub use standing::{STEP_ENDED, Standing};

/// Says why the vault cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The segments or the index cannot be opened.
    #[error("cannot open the vault")]
    Store(#[from] StoreError),
    /// The index cannot be read.
    #[error("cannot read the vault's index")]
    Index(#[from] store::rusqlite::Error),
    /// The first record of the journal cannot be written.
    #[error("cannot write to the vault")]
    Begin(#[from] VaultError),
    /// The index knows nothing, yet there are bytes: they are not let go for its sake.
    #[error(
        "the index is missing or empty, but {segments} segment(s) hold data; nothing was touched: \
         put index.sqlite back, or make it anew with `chasqui-agent scrub --rebuild`"
    )]
    IndexLost {
        /// How many segments there are.
        segments: usize,
    },
    /// The journal in the index, or in the segments, was written with another key.
    #[error("the vault belongs to box {}, the key in node.key is that of {}", index.short(), key.short())]
    OtherKey {
        /// Whose index it is.
        index: NodeId,
        /// Whose key it is.
        key: NodeId,
    },
}

/// Says why something was not written to the ledger.
#[derive(Debug, Error)]
pub enum VaultError {
    /// The disk or the index refused.
    #[error("the vault could not store it")]
    Store(#[from] StoreError),
    /// The index refused or cannot be read.
    #[error("the vault's index could not be read or written")]
    Index(#[from] store::rusqlite::Error),
    /// No such study is held.
    #[error("no study {0} is held in this box")]
    UnknownStudy(StudyUid),
    /// A record from the hub is not what comes next, or is not what it says.
    #[error("a record from the hub is refused")]
    Record(#[from] RecordFault),
    /// What was to be packed is not there any more, or is not to be packed.
    #[error("study {0} has changed meanwhile")]
    Overtaken(StudyUid),
    /// The disk is as full as it may get.
    #[error("there is no room")]
    NoRoom(#[from] NoRoom),
    /// The data key of what is to leave is not kept here.
    #[error("data key {0} is not kept here")]
    NoKey(KeyId),
    /// The data key of what is to leave cannot be sealed to the hub now.
    #[error("the data key cannot be sealed to the hub")]
    Key(#[from] KeyringError),
    /// A manifest of our own does not verify.
    #[error("a manifest in the vault is damaged")]
    Manifest(#[from] journal::ManifestFault),
    /// A sync failed: the vault takes nothing in any more.
    #[error("the disk failed to sync; the vault has stopped")]
    Poisoned,
}

impl<E: Into<VaultError>> From<WriteError<E>> for VaultError {
    fn from(error: WriteError<E>) -> Self {
        match error {
            WriteError::Job(error) => error.into(),
            WriteError::Poisoned => Self::Poisoned,
        }
    }
}

/// The box's durable hold; clones share it.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    writer: Writer,
    readers: Readers,
    key: Arc<NodeKey>,
    keys: Keys,
    config: VaultConfig,
    folder: std::path::PathBuf,
    keeping: keep::Keeping,
    attendance: Mutex<BTreeMap<StudyUid, Attending>>,
    left_otherwise: Mutex<BTreeSet<Digest>>,
    arrived: watch::Sender<()>,
    changed: watch::Sender<()>,
}

/// What has been seen of a study that is not closed since the program started.
///
/// Kept by a clock that does not jump. A study of which nothing has been seen yet, because the
/// program was started again, counts as seen at the start.
#[derive(Debug, Clone, Copy, Default)]
struct Attending {
    /// Associations open that have brought instances of it.
    open: u32,
    /// The last instance, or the end of the last of those associations.
    last_sign_ms: u64,
    /// The modality has said what it made, and all of it is held; nothing has come since.
    concluded: bool,
}

impl Vault {
    /// Opens the vault in `folder`, repairs what a power cut left torn, and starts its writer.
    pub fn open(
        folder: &Path,
        key: Arc<NodeKey>,
        keys: Keys,
        config: VaultConfig,
    ) -> Result<Self, OpenError> {
        let (vault, absorbed) = Self::open_or_rebuild(folder, key, keys, config, false)?;
        if !absorbed.is_nothing() {
            tracing::warn!(?absorbed, "took in what the index did not know");
        }
        Ok(vault)
    }

    /// Does what [`Vault::open`] does where the index is lost: makes it anew from the segments.
    pub fn rebuild(
        folder: &Path,
        key: Arc<NodeKey>,
        keys: Keys,
        config: VaultConfig,
    ) -> Result<(Self, Absorbed), OpenError> {
        Self::open_or_rebuild(folder, key, keys, config, true)
    }

    fn open_or_rebuild(
        folder: &Path,
        key: Arc<NodeKey>,
        keys: Keys,
        config: VaultConfig,
        rebuild: bool,
    ) -> Result<(Self, Absorbed), OpenError> {
        let index = folder.join("index.sqlite");
        let keeping = keep::Keeping::new(folder, &config);
        let (connection, segments) = keeping.give_way(|| {
            let disk = FsDisk::open(&folder.join("segments"))?;
            let connection = store::open_database(&index, schema::MIGRATIONS)?;
            let segments = Segments::open(Arc::new(disk), &connection)?;
            Ok((connection, segments))
        })?;
        let mut segments = segments.with_segment_bytes_max(config.segment_bytes.get());
        let salvage = recovery::recover(&mut segments, &connection, &key.id(), rebuild)?;
        if rebuild {
            recovery::check_author(&segments, &salvage, key.id())?;
        }
        let writer = Writer::spawn(segments, connection)?;
        let vault = Self(Arc::new(Inner {
            writer,
            readers: Readers::open(&index)?,
            key,
            keys,
            config,
            folder: folder.to_owned(),
            keeping,
            attendance: Mutex::default(),
            left_otherwise: Mutex::default(),
            arrived: watch::Sender::new(()),
            changed: watch::Sender::new(()),
        }));
        let absorbed = vault.begin(salvage)?;
        Ok((vault, absorbed))
    }

    /// Drops segments that hold nothing any more, takes in what the index does not know, and
    /// writes the first record of a new journal.
    fn begin(&self, salvage: recovery::Salvage) -> Result<Absorbed, OpenError> {
        let key = Arc::clone(&self.0.key);
        let segments = Arc::clone(self.0.writer.segments());
        let begun = self
            .0
            .writer
            .run_blocking(move |work| -> Result<Absorbed, VaultError> {
                for segment in &salvage.empty {
                    sealed::give_up(work, segment)?;
                }
                let mut absorbed = absorb::absorb(work, &segments, key.id(), &salvage.unknown)?;
                absorbed.cut_bytes = salvage.cut_bytes;
                records::open_journal(work, &key)?;
                Ok(absorbed)
            });
        Ok(begun.map_err(VaultError::from)?.into_inner())
    }

    /// The keys that seal what is held.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Puts a lost or damaged index aside, under a name that is free, so that it can be made anew.
    pub fn put_index_aside(folder: &Path) -> std::io::Result<()> {
        let aside = (1..)
            .map(|n: u32| format!("index.sqlite.aside-{n}"))
            .find(|name| !folder.join(name).exists());
        let aside = aside.expect("numbers do not run out");
        for part in ["", "-wal", "-shm"] {
            let from = folder.join(format!("index.sqlite{part}"));
            if from.exists() {
                std::fs::rename(from, folder.join(format!("{aside}{part}")))?;
            }
        }
        std::fs::File::open(folder)?.sync_all()
    }

    /// Tells those who wait for the vault to be unlocked that it may be.
    pub fn note_lock(&self) {
        self.0.changed.send_replace(());
        self.0.arrived.send_replace(());
    }

    /// Sets to whom the vault seals for the hub: what waited for one is packed.
    pub fn set_hub(&self, hub: Option<StorePublicKey>) {
        self.0.keys.set_hub(hub);
        self.0.arrived.send_replace(());
    }

    /// This box.
    pub fn unit(&self) -> NodeId {
        self.0.key.id()
    }

    /// Tells of every arrival, and of every association that no longer brings one.
    pub fn arrivals(&self) -> watch::Receiver<()> {
        self.0.arrived.subscribe()
    }

    /// Tells of every change but arrivals: revisions, consent, urgency, progress, records.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Ends when the disk has failed: the program must stop taking custody and exit.
    pub async fn poisoned(&self) -> Arc<StoreError> {
        self.0.writer.poisoned().await
    }

    /// Notes that an association is bringing instances of `study`, until the guard is dropped.
    pub fn attend(&self, study: &StudyUid) -> Attendance {
        let mut attendance = self.attendance();
        attendance.entry(study.clone()).or_default().open += 1;
        Attendance {
            vault: self.clone(),
            study: study.clone(),
        }
    }

    fn attendance(&self) -> std::sync::MutexGuard<'_, BTreeMap<StudyUid, Attending>> {
        // The map is whole between any two statements that change it.
        self.0
            .attendance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Something of `study` is coming in: its quiet period begins anew.
    fn note_sign(&self, study: &StudyUid) {
        let now_ms = clock::count_ms();
        let mut attendance = self.attendance();
        let seen = attendance.entry(study.clone()).or_default();
        seen.last_sign_ms = now_ms;
        seen.concluded = false;
    }

    /// Notes that the modality has said what it made of `study`, and all of it is held: the study is
    /// stable at once.
    pub fn conclude(&self, study: &StudyUid) {
        let mut attendance = self.attendance();
        let seen = attendance.entry(study.clone()).or_default();
        let is_new = !std::mem::replace(&mut seen.concluded, true);
        drop(attendance);
        if is_new {
            self.0.arrived.send_replace(());
        }
    }

    /// How long nothing of `study` has come; none while an association is open that brought some of it.
    pub fn quiet_ms(&self, study: &StudyUid) -> Option<u64> {
        let attending = self.attendance().get(study).copied().unwrap_or_default();
        let quiet_ms = clock::count_ms().saturating_sub(attending.last_sign_ms);
        (attending.open == 0).then_some(quiet_ms)
    }

    fn note_change<T>(&self, synced: Synced<T>) -> Synced<T> {
        self.0.changed.send_replace(());
        synced
    }
}

/// While it lives, an association counts as bringing instances of its study.
pub struct Attendance {
    vault: Vault,
    study: StudyUid,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        if let Some(attending) = self.vault.attendance().get_mut(&self.study) {
            attending.open = attending.open.saturating_sub(1);
            attending.last_sign_ms = clock::count_ms();
        }
        self.vault.0.arrived.send_replace(());
    }
}

#[cfg(test)]
mod again_tests;
#[cfg(test)]
mod asked_tests;
#[cfg(test)]
mod locked_tests;
#[cfg(test)]
mod mend_tests;
#[cfg(test)]
mod rebuild_tests;
#[cfg(test)]
mod scale_tests;
#[cfg(test)]
pub(crate) mod tests;
