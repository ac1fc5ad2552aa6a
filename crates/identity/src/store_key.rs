//! To whom things at rest are sealed: the public half of a box's or a hub's store key, and its name.
//!
//! The secret half, and the sealing, are the business of `sealing`.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode};
use thiserror::Error;

use crate::key::unhex;

/// How long an id is.
const ID_BYTES: usize = 8;
/// What ids of store keys are derived under.
const ID_CONTEXT: &str = "chasqui store key id 1";

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

/// The public half of a store key: 32 bytes of X25519, checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
#[cbor(transparent)]
pub struct StorePublicKey(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl StorePublicKey {
    /// Takes the 32 bytes of a public key (RFC 7748 5).
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, StorePublicKeyError> {
        if is_reduced(&bytes) && contributes(&bytes) {
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
        let hash = blake3::derive_key(ID_CONTEXT, &self.0);
        StoreKeyId(std::array::from_fn(|at| hash[at]))
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

/// Names a store key, in 16 hexadecimal digits; safe to publish.
///
/// The first 8 bytes of BLAKE3 in key derivation mode over the public key. An id is for finding
/// and showing: trust compares whole keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct StoreKeyId(#[cbor(n(0), with = "minicbor::bytes")] [u8; ID_BYTES]);

impl StoreKeyId {
    /// Takes the 8 bytes of an id.
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 8 bytes.
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for StoreKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for StoreKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKeyId({self})")
    }
}

/// Whether the bytes are the one way to write a coordinate: below 2^255 - 19, little endian.
fn is_reduced(bytes: &[u8; 32]) -> bool {
    let [lowest, middle @ .., highest] = bytes;
    *highest < 0x7f || (*highest == 0x7f && !(*lowest >= 0xed && middle.iter().all(|b| *b == 0xff)))
}

/// Whether an agreement with this point is secret: not when the point is of small order.
fn contributes(point: &[u8; 32]) -> bool {
    // Any clamped scalar takes a point of small order to zero, and no other point.
    x25519_dalek::x25519([1; 32], *point) != [0; 32]
}
