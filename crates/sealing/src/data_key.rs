//! The key of one study, and the bodies that it seals.

use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::id::{ID_BYTES, KeyId};

/// How many bytes a sealed body has more than the body.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + NONCE_BYTES + TAG_BYTES;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"chasqui/sealed-body/1";
/// Version and key id, which are authenticated with the body.
const HEAD_BYTES: usize = 1 + ID_BYTES;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Says why a sealed body does not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Shorter than an empty body sealed.
    #[error("the sealed body is cut short")]
    Truncated,
    /// Sealed by a later program.
    #[error("the body is sealed in format {0}, this program knows format 1")]
    UnknownVersion(u8),
    /// Sealed with another key.
    #[error("the body is sealed with data key {sealed_with}, not with {ours}")]
    OtherKey {
        /// The key that would open it.
        sealed_with: KeyId,
        /// The key that was tried.
        ours: KeyId,
    },
    /// A bit of it was changed.
    #[error("the sealed body was altered")]
    Altered,
}

/// 32 random bytes that seal the bodies of one study; wiped when dropped and never printed.
pub struct DataKey {
    // On the heap, so that a move leaves no copy behind.
    secret: Box<Zeroizing<[u8; 32]>>,
    id: KeyId,
}

impl DataKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing can be trusted then.
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).expect("the operating system gives randomness");
        Self::from_secret(&secret)
    }

    pub(crate) fn from_secret(secret: &[u8; 32]) -> Self {
        Self {
            id: KeyId::of(secret),
            secret: Box::new(Zeroizing::new(*secret)),
        }
    }

    /// The key's name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Seals a body under a fresh random nonce.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system gives randomness");
        self.seal_under(nonce, body)
    }

    /// Opens what [`DataKey::seal`] made with this key.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let parts = Parts::of(sealed)?;
        if parts.key != self.id {
            return Err(OpenError::OtherKey {
                sealed_with: parts.key,
                ours: self.id,
            });
        }
        let mut body = parts.ciphertext.to_vec();
        self.cipher()
            .decrypt_inout_detached(
                &XNonce::from(*parts.nonce),
                &associated(self.id),
                body.as_mut_slice().into(),
                &Tag::from(*parts.tag),
            )
            .map_err(|_| OpenError::Altered)?;
        Ok(body)
    }

    /// The 32 bytes, for envelopes.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.secret
    }

    pub(crate) fn seal_under(&self, nonce: [u8; NONCE_BYTES], body: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(body.len() + OVERHEAD_BYTES);
        sealed.push(VERSION);
        sealed.extend_from_slice(self.id.as_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(body);
        let (_, ciphertext) = sealed.split_at_mut(HEAD_BYTES + NONCE_BYTES);
        let tag = self
            .cipher()
            .encrypt_inout_detached(
                &XNonce::from(nonce),
                &associated(self.id),
                ciphertext.into(),
            )
            .expect("a body in memory is far below 256 GiB");
        sealed.extend_from_slice(&tag);
        sealed
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&**self.secret).into())
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey(*** of {})", self.id)
    }
}

impl KeyId {
    /// Which data key a sealed body needs.
    pub fn of_sealed(sealed: &[u8]) -> Result<Self, OpenError> {
        Parts::of(sealed).map(|parts| parts.key)
    }
}

/// A sealed body, taken apart.
struct Parts<'a> {
    key: KeyId,
    nonce: &'a [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    fn of(sealed: &'a [u8]) -> Result<Self, OpenError> {
        let (version, rest) = sealed.split_first().ok_or(OpenError::Truncated)?;
        if *version != VERSION {
            return Err(OpenError::UnknownVersion(*version));
        }
        let (key, rest) = rest.split_first_chunk().ok_or(OpenError::Truncated)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(OpenError::Truncated)?;
        let (ciphertext, tag) = rest.split_last_chunk().ok_or(OpenError::Truncated)?;
        Ok(Self {
            key: KeyId::from_bytes(*key),
            nonce,
            ciphertext,
            tag,
        })
    }
}

fn associated(key: KeyId) -> Vec<u8> {
    [DOMAIN, &[VERSION], key.as_bytes()].concat()
}
