//! The store key of a box or a hub: to whom things at rest are sealed.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::base;
use crate::id::StoreKeyId;

/// Says why a text or bytes are not a store key's public half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StorePublicKeyError {
    /// The text is not 64 hexadecimal digits.
    #[error("a store key is written as 64 hexadecimal digits")]
    NotHex,
    /// A point of small order, to which nothing can be sealed, or written in a second way.
    #[error("the store key is not a valid X25519 key")]
    Weak,
}

/// The public half of a [`StoreKey`]: 32 bytes of X25519, checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
#[cbor(transparent)]
pub struct StorePublicKey(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl StorePublicKey {
    /// Takes the 32 bytes of a public key (RFC 7748 5).
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, StorePublicKeyError> {
        if is_reduced(&bytes) && base::contributes(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(StorePublicKeyError::Weak)
        }
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key's name.
    pub fn id(&self) -> StoreKeyId {
        StoreKeyId::of(&self.0)
    }
}

impl<'b, C> Decode<'b, C> for StorePublicKey {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes: [u8; 32] = minicbor::bytes::decode(d, ctx)?;
        Self::from_bytes(bytes).map_err(minicbor::decode::Error::message)
    }
}

impl fmt::Display for StorePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for StorePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePublicKey({})", self.id())
    }
}

impl FromStr for StorePublicKey {
    type Err = StorePublicKeyError;
    fn from_str(text: &str) -> Result<Self, StorePublicKeyError> {
        Self::from_bytes(unhex(text).ok_or(StorePublicKeyError::NotHex)?)
    }
}

/// An X25519 secret key; it is wiped from memory when dropped and never printed.
pub struct StoreKey {
    // On the heap, so that a move leaves no copy behind.
    secret: Box<Zeroizing<[u8; 32]>>,
    public: StorePublicKey,
}

impl StoreKey {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing can be trusted then.
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).expect("the operating system gives randomness");
        Self::from_secret(&secret)
    }

    /// Takes 32 secret bytes; clamped when used (RFC 7748 5).
    pub(crate) fn from_secret(secret: &[u8; 32]) -> Self {
        Self {
            // The public half of a clamped secret is never of small order.
            public: StorePublicKey(base::public_of(secret)),
            secret: Box::new(Zeroizing::new(*secret)),
        }
    }

    /// The public half.
    pub const fn public_key(&self) -> &StorePublicKey {
        &self.public
    }

    /// The secret, for opening and for key files.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey(*** of {})", self.public.id())
    }
}

/// Reads exactly 64 hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|h| *h.as_bytes())
}

/// Whether the bytes are the one way to write a coordinate: below 2^255 - 19, little endian.
fn is_reduced(bytes: &[u8; 32]) -> bool {
    let [lowest, middle @ .., highest] = bytes;
    *highest < 0x7f || (*highest == 0x7f && !(*lowest >= 0xed && middle.iter().all(|b| *b == 0xff)))
}
