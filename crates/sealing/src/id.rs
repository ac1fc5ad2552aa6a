//! Names of data keys, which say nothing of the keys.

use std::fmt;

use minicbor::{Decode, Encode};
use zeroize::Zeroize;

/// How long an id is, of a data key or of a store key.
pub(crate) const ID_BYTES: usize = 8;
/// What ids of data keys are derived under.
const ID_CONTEXT: &str = "chasqui data key id 1";

/// Names a data key, in 16 hexadecimal digits; safe to publish.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct KeyId(#[cbor(n(0), with = "minicbor::bytes")] [u8; ID_BYTES]);

impl KeyId {
    /// Takes the 8 bytes of an id.
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 8 bytes.
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    /// The id of a data key.
    pub(crate) fn of(key: &[u8; 32]) -> Self {
        let mut id = [0; ID_BYTES];
        let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
        let mut output = hasher.update(key).finalize_xof();
        output.fill(&mut id);
        // Both may remember the secret.
        hasher.zeroize();
        output.zeroize();
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}
