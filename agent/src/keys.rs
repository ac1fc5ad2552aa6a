//! Keys: what seals the vault, and whether it may be read.
//!
//! In: the store key's file in the box's folder, PINs from people, the hub's store key from
//! `membership`. Out: data keys to `vault`, the vault's state to `status`.
//! Invariant: a data key is at rest only in envelopes; a vault that is locked seals all the same,
//! and lets nothing be read.
//! May not: write to the index, decide what is kept or sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealing::{
    DataKey, KeyEnvelopes, KeyFile, KeyFileError, KeyId, Keyring, KeyringError, Lock, Pin,
    StoreKey, StorePublicKey, UnwrapError,
};
use serde::{Deserialize, Serialize};
use study::StudyUid;
use thiserror::Error;

/// Wrong PINs before the next one has to wait.
const FREE_ATTEMPTS: u32 = 3;
/// The longest wait for the next PIN.
const WAIT_MS_MAX: u64 = 300_000;
/// How many studies have their data key looked up without a search.
const STUDIES_MAX: usize = 1024;

/// Whether the vault can be read (docs/storage.md 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VaultState {
    /// No PIN is set: it opens by itself, and is not protected against theft.
    OpenNoPin,
    /// It takes in, seals and sends; nothing is read back before somebody gives the PIN.
    Locked,
    /// Somebody gave the PIN.
    Unlocked,
    /// The store key is gone: it takes in, seals and sends; only the hub can read what is sealed.
    Zeroised,
}

impl VaultState {
    /// What a person is told of it.
    pub const fn protection(self) -> &'static str {
        match self {
            Self::OpenNoPin => "no PIN is set: not protected against theft",
            Self::Locked => "locked: takes in, seals and sends; the PIN lets people read",
            Self::Unlocked => {
                "unlocked with the PIN; without a supervisor board a long PIN protects, a short one does not"
            }
            Self::Zeroised => {
                "the store key is gone: takes in, seals and sends; only the hub can read"
            }
        }
    }
}

/// Says that nothing may be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the vault is locked")]
pub struct Locked;

/// Says why keys cannot be used or changed.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The store key's file cannot be used.
    #[error("the box's store key cannot be used")]
    File(#[from] KeyFileError),
    /// A box worked here, and its store key was lost.
    #[error("store.key is missing in {}, but a box has worked there: put the key back", .0.display())]
    KeyLost(PathBuf),
    /// The PIN is wrong, or the share is missing.
    #[error("the vault stays locked")]
    Unwrap(#[from] UnwrapError),
    /// Too many wrong PINs.
    #[error("too many wrong PINs: wait {0} s before the next one")]
    Wait(u64),
    /// No PIN is set.
    #[error("no PIN is set")]
    NoPin,
    /// The store key is gone.
    #[error("the store key is gone: nothing can unlock this vault")]
    Zeroised,
    /// The key behind the PIN is another one.
    #[error(transparent)]
    Ring(#[from] KeyringError),
}

/// The keys of a running box; clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// One PIN is tried at a time, so that many at once are no way around the waiting.
    trying: Mutex<()>,
    held: Mutex<Held>,
}

struct Held {
    ring: Keyring,
    state: VaultState,
    hub: Option<StorePublicKey>,
    /// What new instances of a study are sealed with.
    current: BTreeMap<StudyUid, KeyEnvelopes>,
    /// When somebody last read something.
    used_at_ms: u64,
    wrong_pins: u32,
    wait_until_ms: u64,
}

/// The data key that seals what comes of a study, and how it is kept.
#[derive(Clone)]
pub struct StudyKey {
    /// The key in hand.
    pub key: Arc<DataKey>,
    /// The key at rest; to be on the disk before anything that it sealed counts as held.
    pub envelopes: KeyEnvelopes,
}

impl Keys {
    /// Opens the store key of a folder whose lock is held; makes it where no box has worked before.
    ///
    /// With the hub's word on what the box's store key is (`granted`), a file that is missing,
    /// damaged or exchanged does not stop the box: it seals to the key that the hub knows.
    pub fn open_or_found(
        folder: &Path,
        granted: Option<StorePublicKey>,
    ) -> Result<Self, KeysError> {
        let path = folder.join("store.key");
        let (ring, state) = match (load(folder, &path), granted) {
            (Ok(file), Some(granted)) if *file.public_key() != granted => {
                tracing::error!("store.key is not the key that the hub knows: sealing to that one");
                (Keyring::locked(granted), VaultState::Zeroised)
            }
            (Ok(KeyFile::Plain(key)), _) => (Keyring::unlocked(key), VaultState::OpenNoPin),
            (Ok(KeyFile::Wrapped(wrapped)), _) => {
                (Keyring::locked(*wrapped.public_key()), VaultState::Locked)
            }
            (Err(error), Some(granted)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "sealing to the store key that the hub knows");
                (Keyring::locked(granted), VaultState::Zeroised)
            }
            (Err(error), None) => return Err(error),
        };
        let held = Held {
            ring,
            state,
            hub: None,
            current: BTreeMap::new(),
            used_at_ms: clock::count_ms(),
            wrong_pins: 0,
            wait_until_ms: 0,
        };
        Ok(Self(Arc::new(Inner {
            path,
            trying: Mutex::new(()),
            held: Mutex::new(held),
        })))
    }

    /// To whom the vault seals for this box.
    pub fn public_key(&self) -> StorePublicKey {
        *self.held().ring.public_key()
    }

    /// Whether the vault can be read.
    pub fn state(&self) -> VaultState {
        self.held().state
    }

    /// Sets to whom the vault seals for the hub; none while no hub is known.
    pub fn set_hub(&self, hub: Option<StorePublicKey>) {
        self.held().hub = hub;
    }

    /// Whether a hub is known, without which nothing is signed to leave.
    pub fn knows_hub(&self) -> bool {
        self.held().hub.is_some()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each change leaves the keys whole.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sealing, which needs no secret of a person.
impl Keys {
    /// The key for what comes of a study now; made here when none is in hand.
    pub(crate) fn of_study(&self, study: &StudyUid) -> StudyKey {
        let mut held = self.held();
        if let Some(envelopes) = held.current.get(study)
            && let Ok(key) = held.ring.data_key(envelopes.key)
        {
            let envelopes = envelopes.clone();
            return StudyKey { key, envelopes };
        }
        let hub = held.hub;
        let (envelopes, key) = held.ring.make(study.as_str(), hub.as_ref());
        if held.current.len() >= STUDIES_MAX {
            // Whoever comes again gets another key.
            held.current.clear();
        }
        held.current.insert(study.clone(), envelopes.clone());
        StudyKey { key, envelopes }
    }

    /// A data key in hand.
    pub(crate) fn in_hand(&self, key: KeyId) -> Option<Arc<DataKey>> {
        self.held().ring.data_key(key).ok()
    }

    /// Opens a data key that is at rest.
    pub(crate) fn admit(
        &self,
        study: &StudyUid,
        envelopes: &KeyEnvelopes,
    ) -> Result<Arc<DataKey>, KeyringError> {
        let mut held = self.held();
        held.ring.admit(study.as_str(), envelopes)?;
        held.ring.data_key(envelopes.key)
    }

    /// The envelopes of a data key with one that the hub of today can open; none is changed when
    /// it is there already.
    pub(crate) fn with_hub(
        &self,
        study: &StudyUid,
        envelopes: &KeyEnvelopes,
    ) -> Result<KeyEnvelopes, KeyringError> {
        let held = self.held();
        match &held.hub {
            Some(hub) if envelopes.to(hub.id()).is_none() => {
                held.ring.add_hub(study.as_str(), envelopes, hub)
            }
            Some(_) | None => Ok(envelopes.clone()),
        }
    }

    /// Wipes the data keys of a study that is let go.
    pub(crate) fn forget(&self, study: &StudyUid, keys: &[KeyId]) {
        let mut held = self.held();
        held.current.remove(study);
        for key in keys {
            held.ring.forget(*key);
        }
    }

    /// Opens a document that was sealed to this box.
    pub(crate) fn open_document(
        &self,
        domain: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, KeyringError> {
        self.held().ring.open_document(domain, sealed)
    }

    /// Whether the vault can be read, without reading it.
    pub fn is_readable(&self) -> bool {
        match self.state() {
            VaultState::OpenNoPin | VaultState::Unlocked => true,
            VaultState::Locked | VaultState::Zeroised => false,
        }
    }

    /// Says that somebody wants to read.
    pub(crate) fn readable(&self) -> Result<(), Locked> {
        let mut held = self.held();
        match held.state {
            VaultState::OpenNoPin | VaultState::Unlocked => {
                held.used_at_ms = clock::count_ms();
                Ok(())
            }
            VaultState::Locked | VaultState::Zeroised => Err(Locked),
        }
    }
}

/// Locking and unlocking.
impl Keys {
    /// Sets the PIN, or exchanges it for another one. Computes for a part of a second.
    pub fn set_pin(&self, old: Option<&Pin>, new: &Pin) -> Result<(), KeysError> {
        let _one = self.one_at_a_time();
        self.may_try()?;
        let lock = |pin| Lock { pin, share: None };
        let state = self.state();
        let set = match (state, old) {
            (VaultState::Zeroised, _) => return Err(KeysError::Zeroised),
            (VaultState::OpenNoPin, _) => sealing::set_pin(&self.0.path, lock(new)),
            (VaultState::Locked | VaultState::Unlocked, Some(old)) => {
                sealing::change_pin(&self.0.path, lock(old), lock(new))
            }
            (VaultState::Locked | VaultState::Unlocked, None) => Err(KeyFileError::HasPin),
        };
        match set {
            Err(KeyFileError::Unwrap(error)) => return Err(self.count_wrong(error)),
            // The PIN counts; that the old bytes may linger is for a person to know.
            Err(error @ KeyFileError::NotWiped(_)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the PIN is set");
            }
            other => other?,
        }
        let mut held = self.held();
        if state == VaultState::OpenNoPin {
            held.state = VaultState::Unlocked;
        }
        held.used_at_ms = clock::count_ms();
        Ok(())
    }

    /// Unlocks with the PIN. Computes for a part of a second.
    pub fn unlock(&self, pin: &Pin) -> Result<(), KeysError> {
        match self.state() {
            VaultState::OpenNoPin => return Err(KeysError::NoPin),
            VaultState::Zeroised => return Err(KeysError::Zeroised),
            VaultState::Locked | VaultState::Unlocked => {}
        }
        let _one = self.one_at_a_time();
        self.may_try()?;
        let key = self.unwrap(pin)?;
        let mut held = self.held();
        held.ring.unlock(key)?;
        held.state = VaultState::Unlocked;
        held.used_at_ms = clock::count_ms();
        held.wrong_pins = 0;
        Ok(())
    }

    fn unwrap(&self, pin: &Pin) -> Result<StoreKey, KeysError> {
        match KeyFile::load(&self.0.path)? {
            KeyFile::Plain(_) => Err(KeysError::NoPin),
            KeyFile::Wrapped(wrapped) => {
                let opened = wrapped.open(Lock { pin, share: None });
                opened.map_err(|error| self.count_wrong(error))
            }
        }
    }

    /// Locks at once; what is being packed goes on.
    pub fn lock(&self) -> Result<(), KeysError> {
        let mut held = self.held();
        match held.state {
            VaultState::OpenNoPin => Err(KeysError::NoPin),
            VaultState::Zeroised => Err(KeysError::Zeroised),
            VaultState::Locked | VaultState::Unlocked => {
                held.ring.lock_idle();
                held.state = VaultState::Locked;
                Ok(())
            }
        }
    }

    /// Locks when nobody has read anything for so long; says whether it did.
    pub fn lock_if_idle(&self, idle_ms: u64) -> bool {
        let mut held = self.held();
        let idle = clock::count_ms().saturating_sub(held.used_at_ms) >= idle_ms;
        let locks = held.state == VaultState::Unlocked && idle;
        if locks {
            held.ring.lock_idle();
            held.state = VaultState::Locked;
        }
        locks
    }

    fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.0.trying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another PIN may be tried now.
    fn may_try(&self) -> Result<(), KeysError> {
        let left_ms = self.held().wait_until_ms.saturating_sub(clock::count_ms());
        match left_ms {
            0 => Ok(()),
            _ => Err(KeysError::Wait(left_ms.div_ceil(1000))),
        }
    }

    /// Each wrong PIN after the first few doubles the wait; nobody is locked out for good.
    fn count_wrong(&self, error: UnwrapError) -> KeysError {
        if matches!(error, UnwrapError::WrongPin) {
            let mut held = self.held();
            held.wrong_pins = held.wrong_pins.saturating_add(1);
            if let Some(over) = held.wrong_pins.checked_sub(FREE_ATTEMPTS) {
                let wait_ms = 1000_u64.saturating_mul(1 << over.min(16)).min(WAIT_MS_MAX);
                held.wait_until_ms = clock::count_ms().saturating_add(wait_ms);
            }
        }
        error.into()
    }
}

/// Reads the store key, or makes one where no box has worked.
fn load(folder: &Path, path: &Path) -> Result<KeyFile, KeysError> {
    if path.exists() {
        return Ok(KeyFile::load(path)?);
    }
    // The index may be the one that was put aside, or lost as well.
    let traces = ["index.sqlite", "grant.cose", "segments"];
    if traces.iter().any(|trace| folder.join(trace).exists()) {
        return Err(KeysError::KeyLost(folder.into()));
    }
    Ok(KeyFile::Plain(KeyFile::create(path)?))
}
