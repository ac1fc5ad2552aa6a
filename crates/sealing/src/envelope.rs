//! A data key as it is kept and as it travels: sealed to the box, and to the hub.

use std::collections::BTreeSet;
use std::fmt;

use minicbor::{Decode, Encode};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::base::{self, BASE_OVERHEAD_BYTES, UnsealError};
use crate::data_key::DataKey;
use crate::id::{KeyId, StoreKeyId};
use crate::store_key::{StoreKey, StorePublicKey};

/// How many data keys one list may name.
pub const ENVELOPES_MAX: usize = 64;
/// The longest list, in bytes.
pub const ENVELOPES_BYTES_MAX: usize = 16 << 10;

const VERSION: u8 = 1;
const PURPOSE: &str = "chasqui/data-key/1";
const SEALED_BYTES: usize = BASE_OVERHEAD_BYTES + 32;

/// Says why bytes are not a list of envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// The bytes are something else, or the same written in another way.
    #[error("the envelopes cannot be read: {0}")]
    Malformed(String),
    /// Written by a later program.
    #[error("the envelopes have format {0}, this program knows format 1")]
    UnknownVersion(u8),
    /// More bytes or keys than are allowed.
    #[error("the envelopes are over their limits: {0}")]
    OverLimit(&'static str),
    /// Two entries for one key.
    #[error("data key {0} is named twice")]
    Twice(KeyId),
}

/// A data key sealed to one store key, for one study.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    #[n(0)]
    version: u8,
    #[n(1)]
    recipient: StoreKeyId,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    sealed: [u8; SEALED_BYTES],
}

impl Envelope {
    /// Seals a data key of a study to a store key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn seal(key: &DataKey, study: &str, recipient: &StorePublicKey) -> Self {
        Self::seal_by(key, study, recipient, &mut base::system_randomness())
    }

    /// Opens the envelope of the data key `id` of a study.
    pub fn open(&self, id: KeyId, study: &str, key: &StoreKey) -> Result<DataKey, UnsealError> {
        if self.version != VERSION {
            return Err(UnsealError::UnknownVersion(self.version));
        }
        let ours = key.public_key().id();
        if self.recipient != ours {
            return Err(UnsealError::OtherRecipient {
                sealed_to: self.recipient,
                ours,
            });
        }
        let secret = Zeroizing::new(base::open(key, &info(study, id), &[], &self.sealed)?);
        let secret: &[u8; 32] = secret[..].try_into().map_err(|_| UnsealError::Altered)?;
        let opened = DataKey::from_secret(secret);
        if opened.id() == id {
            Ok(opened)
        } else {
            Err(UnsealError::Altered)
        }
    }

    /// Who can open it.
    pub const fn recipient(&self) -> StoreKeyId {
        self.recipient
    }

    pub(crate) fn seal_by(
        key: &DataKey,
        study: &str,
        recipient: &StorePublicKey,
        randomness: &mut impl hpke::rand_core::CryptoRng,
    ) -> Self {
        let info = info(study, key.id());
        let sealed = base::seal(recipient, &info, &[], key.expose(), randomness);
        Self {
            version: VERSION,
            recipient: recipient.id(),
            sealed: sealed[..].try_into().expect("a key of 32 bytes was sealed"),
        }
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope(to {})", self.recipient)
    }
}

/// The envelopes of one data key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeyEnvelopes {
    /// Which data key it is.
    #[n(0)]
    pub key: KeyId,
    /// For the box that took the study in.
    #[n(1)]
    pub to_box: Envelope,
    /// For the hub; none while the box knows no hub.
    #[n(2)]
    pub to_hub: Option<Envelope>,
}

impl KeyEnvelopes {
    /// Seals a data key of a study to the box, and to the hub if there is one.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn seal(
        key: &DataKey,
        study: &str,
        to_box: &StorePublicKey,
        to_hub: Option<&StorePublicKey>,
    ) -> Self {
        Self {
            key: key.id(),
            to_box: Envelope::seal(key, study, to_box),
            to_hub: to_hub.map(|hub| Envelope::seal(key, study, hub)),
        }
    }

    /// The envelope for one recipient.
    pub fn to(&self, recipient: StoreKeyId) -> Option<&Envelope> {
        std::iter::once(&self.to_box)
            .chain(&self.to_hub)
            .find(|envelope| envelope.recipient == recipient)
    }
}

/// The envelopes of all data keys that a revision's chunks need; at most [`ENVELOPES_MAX`] keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelopes(Vec<KeyEnvelopes>);

impl Envelopes {
    /// Makes a list, each key once.
    pub fn new(keys: Vec<KeyEnvelopes>) -> Result<Self, EnvelopeError> {
        if keys.len() > ENVELOPES_MAX {
            return Err(EnvelopeError::OverLimit("keys"));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = keys.iter().find(|entry| !seen.insert(entry.key)) {
            return Err(EnvelopeError::Twice(twice.key));
        }
        Ok(Self(keys))
    }

    /// The data keys, in the order of the list.
    pub fn keys(&self) -> &[KeyEnvelopes] {
        &self.0
    }

    /// Encodes the list as deterministic CBOR (RFC 8949 4.2), for a manifest or a row.
    pub fn to_cbor(&self) -> Vec<u8> {
        let wire = WireRef {
            version: VERSION,
            keys: &self.0,
        };
        minicbor::to_vec(wire).expect("writing to a Vec does not fail")
    }

    /// Decodes a list and checks its limits.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > ENVELOPES_BYTES_MAX {
            return Err(EnvelopeError::OverLimit("bytes"));
        }
        let head: Head = decode(bytes)?;
        known(head.version)?;
        let wire: Wire = decode(bytes)?;
        for envelope in wire
            .keys
            .iter()
            .flat_map(|entry| std::iter::once(&entry.to_box).chain(&entry.to_hub))
        {
            known(envelope.version)?;
        }
        let envelopes = Self::new(wire.keys)?;
        if envelopes.to_cbor() == bytes {
            Ok(envelopes)
        } else {
            Err(EnvelopeError::Malformed(
                "not in the one deterministic form".into(),
            ))
        }
    }
}

#[derive(Encode)]
struct WireRef<'a> {
    #[n(0)]
    version: u8,
    #[n(1)]
    keys: &'a [KeyEnvelopes],
}

#[derive(Decode)]
struct Wire {
    #[n(1)]
    keys: Vec<KeyEnvelopes>,
}

#[derive(Decode)]
struct Head {
    #[n(0)]
    version: u8,
}

fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T, EnvelopeError> {
    minicbor::decode(bytes).map_err(|e| EnvelopeError::Malformed(e.to_string()))
}

fn known(version: u8) -> Result<(), EnvelopeError> {
    if version == VERSION {
        Ok(())
    } else {
        Err(EnvelopeError::UnknownVersion(version))
    }
}

/// Unambiguous whatever the study's text: the purpose and the id have fixed lengths.
fn info(study: &str, key: KeyId) -> Vec<u8> {
    [
        PURPOSE.as_bytes(),
        &[0],
        study.as_bytes(),
        &[0],
        key.as_bytes(),
    ]
    .concat()
}
