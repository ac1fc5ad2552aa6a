//! Names of keys, which say nothing of the keys.

use std::fmt;

use minicbor::{Decode, Encode};
use zeroize::Zeroize;

/// How long an id is.
pub(crate) const ID_BYTES: usize = 8;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $context:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] [u8; ID_BYTES]);

        impl $name {
            /// Takes the 8 bytes of an id.
            pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }

            /// The 8 bytes.
            pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }

            /// The id of a key.
            pub(crate) fn of(key: &[u8; 32]) -> Self {
                let mut id = [0; ID_BYTES];
                let mut hasher = blake3::Hasher::new_derive_key($context);
                let mut output = hasher.update(key).finalize_xof();
                output.fill(&mut id);
                // Both may remember a secret.
                hasher.zeroize();
                output.zeroize();
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id! {
    /// Names a data key; safe to publish.
    KeyId, "chasqui data key id 1"
}

id! {
    /// Names a store key; safe to publish.
    StoreKeyId, "chasqui store key id 1"
}
