//! The keys that a running vault has in hand.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use identity::{StoreKeyId, StorePublicKey};
use thiserror::Error;

use crate::base::UnsealError;
use crate::data_key::DataKey;
use crate::document;
use crate::envelope::{Envelope, KeyEnvelopes};
use crate::id::KeyId;
use crate::store_key::StoreKey;

/// How many data keys of each sort, made here and opened, are held at once.
pub const HELD_KEYS_MAX: usize = 1024;

/// Says why a keyring cannot do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// The store key is not in hand.
    #[error("the vault is locked")]
    Locked,
    /// A store key of somebody else.
    #[error("the key is store key {given}, not {ours}")]
    OtherStoreKey {
        /// The key that was given.
        given: StoreKeyId,
        /// The key that this keyring is for.
        ours: StoreKeyId,
    },
    /// The data key is not in hand: it was never admitted, or it was dropped.
    #[error("data key {0} is not in hand")]
    NotHeld(KeyId),
    /// None of the envelopes is for this store key.
    #[error("data key {0} is not sealed to this store key")]
    NotForUs(KeyId),
    /// The envelope or the document does not open.
    #[error(transparent)]
    Unseal(#[from] UnsealError),
}

/// The store key, if unlocked, and the data keys in use.
///
/// Whether a vault is locked, and why, its owner decides. A locked keyring still makes data keys and
/// gives out those that it has in hand; it opens no envelope. Data keys are never lost by
/// leaving it: their envelopes stay, so the oldest goes when there are [`HELD_KEYS_MAX`].
///
/// A data key that was handed out lives until its last user lets go of it, and is wiped then: who
/// locks or forgets ends its users first, or lets them finish the body that they have in hand.
pub struct Keyring {
    public: StorePublicKey,
    store: Option<StoreKey>,
    made: VecDeque<Arc<DataKey>>,
    opened: VecDeque<Arc<DataKey>>,
}

impl Keyring {
    /// A keyring without its store key.
    pub const fn locked(public: StorePublicKey) -> Self {
        Self {
            public,
            store: None,
            made: VecDeque::new(),
            opened: VecDeque::new(),
        }
    }

    /// A keyring with its store key.
    pub fn unlocked(key: StoreKey) -> Self {
        let locked = Self::locked(*key.public_key());
        Self {
            store: Some(key),
            ..locked
        }
    }

    /// Takes the store key in.
    pub fn unlock(&mut self, key: StoreKey) -> Result<(), KeyringError> {
        if *key.public_key() != self.public {
            return Err(KeyringError::OtherStoreKey {
                given: key.public_key().id(),
                ours: self.public.id(),
            });
        }
        self.store = Some(key);
        Ok(())
    }

    /// Drops every secret: for a lid that opened, tampering, theft.
    pub fn lock(&mut self) {
        self.lock_idle();
        self.made.clear();
    }

    /// Drops the store key and what it opened, but not the keys made here: for an idle vault that
    /// goes on taking in and packing, as after a boot.
    pub fn lock_idle(&mut self) {
        self.store = None;
        self.opened.clear();
    }

    /// Whether the store key is in hand.
    pub const fn is_unlocked(&self) -> bool {
        self.store.is_some()
    }

    /// To whom this keyring's vault seals.
    pub const fn public_key(&self) -> &StorePublicKey {
        &self.public
    }

    /// Makes a data key for a study, sealed to this store key and to the hub's, and holds it.
    ///
    /// The envelopes must be on disk before anything that the key sealed counts as held.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn make(
        &mut self,
        study: &str,
        hub: Option<&StorePublicKey>,
    ) -> (KeyEnvelopes, Arc<DataKey>) {
        let key = Arc::new(DataKey::generate());
        let envelopes = KeyEnvelopes::seal(&key, study, &self.public, hub);
        hold(&mut self.made, Arc::clone(&key));
        (envelopes, key)
    }

    /// Opens a data key of a study and holds it; one that is in hand already needs no store key.
    pub fn admit(&mut self, study: &str, envelopes: &KeyEnvelopes) -> Result<(), KeyringError> {
        if self.holds(envelopes.key) {
            return Ok(());
        }
        let store = self.store.as_ref().ok_or(KeyringError::Locked)?;
        let envelope = envelopes
            .to(self.public.id())
            .ok_or(KeyringError::NotForUs(envelopes.key))?;
        let key = envelope.open(envelopes.key, study, store)?;
        hold(&mut self.opened, Arc::new(key));
        Ok(())
    }

    /// Seals a data key to a hub that was not known when the key was made, or that has a new store key.
    ///
    /// Envelopes that are sealed to this hub already come back as they are, and need no key in hand.
    pub fn add_hub(
        &self,
        study: &str,
        envelopes: &KeyEnvelopes,
        hub: &StorePublicKey,
    ) -> Result<KeyEnvelopes, KeyringError> {
        let is_sealed = |to_hub: &Envelope| to_hub.recipient() == hub.id();
        if envelopes.to_hub.as_ref().is_some_and(is_sealed) {
            return Ok(envelopes.clone());
        }
        let key = self.find(envelopes.key)?;
        Ok(envelopes.with_hub(Envelope::seal(key, study, hub)))
    }

    /// Whether a data key is in hand.
    pub fn holds(&self, key: KeyId) -> bool {
        self.find(key).is_ok()
    }

    /// The data key itself, with which bodies are sealed and opened while others use the keyring.
    pub fn data_key(&self, key: KeyId) -> Result<Arc<DataKey>, KeyringError> {
        self.find(key).map(Arc::clone)
    }

    /// Drops a data key: it is not needed any more, or its study is erased.
    pub fn forget(&mut self, key: KeyId) {
        self.made.retain(|held| held.id() != key);
        self.opened.retain(|held| held.id() != key);
    }

    /// Seals a text to this keyring's store key, locked or not; see [`crate::seal_to`].
    pub fn seal_document(&self, domain: &str, text: &[u8]) -> Vec<u8> {
        document::seal_to(&self.public, domain, text)
    }

    /// Opens what [`Keyring::seal_document`] made.
    pub fn open_document(&self, domain: &str, sealed: &[u8]) -> Result<Vec<u8>, KeyringError> {
        let store = self.store.as_ref().ok_or(KeyringError::Locked)?;
        Ok(document::open_with(store, domain, sealed)?)
    }

    fn find(&self, key: KeyId) -> Result<&Arc<DataKey>, KeyringError> {
        self.made
            .iter()
            .chain(&self.opened)
            .find(|held| held.id() == key)
            .ok_or(KeyringError::NotHeld(key))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_unlocked() {
            "unlocked"
        } else {
            "locked"
        };
        let keys = self.made.len() + self.opened.len();
        write!(
            f,
            "Keyring(of {}, {state}, {keys} data keys)",
            self.public.id()
        )
    }
}

fn hold(keys: &mut VecDeque<Arc<DataKey>>, key: Arc<DataKey>) {
    if keys.len() == HELD_KEYS_MAX {
        keys.pop_front();
    }
    keys.push_back(key);
}
