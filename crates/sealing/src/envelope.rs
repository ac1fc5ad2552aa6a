//! A data key as it is kept and as it travels: sealed to the box, and to the hub.

use std::fmt;

use identity::{StoreKeyId, StorePublicKey};
use minicbor::{Decode, Decoder, Encode};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::base::{self, BASE_OVERHEAD_BYTES, UnsealError};
use crate::data_key::DataKey;
use crate::id::KeyId;
use crate::store_key::StoreKey;

/// How long [`KeyEnvelopes`] are at most, in bytes.
pub const KEY_ENVELOPES_BYTES_MAX: usize = 195;
/// How long a [`KeyEnvelope`] is, in bytes.
pub const KEY_ENVELOPE_BYTES: usize = 103;

const VERSION: u8 = 1;
const PURPOSE: &str = "chasqui/data-key/1";
const SEALED_BYTES: usize = BASE_OVERHEAD_BYTES + 32;

/// Says why bytes are not a data key's envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// The bytes are something else, or the same written in another way.
    #[error("the data key's envelope cannot be read: {0}")]
    Malformed(String),
    /// Written by a later program.
    #[error("the data key's envelope has format {0}, this program knows format 1")]
    UnknownVersion(u8),
    /// Longer than any.
    #[error("the data key's envelope has {bytes} bytes, {bytes_max} are allowed")]
    TooLong {
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        bytes_max: usize,
    },
}

/// A data key sealed to one store key, for one study.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    #[n(0)]
    recipient: StoreKeyId,
    #[n(1)]
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

/// All envelopes of one data key, as the box keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEnvelopes {
    /// Which data key it is.
    pub key: KeyId,
    /// For the box that took the study in.
    pub to_box: Envelope,
    /// For the hub; none while the box knows no hub.
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

    /// The same with this envelope for the hub, in the place of an earlier one.
    #[must_use]
    pub fn with_hub(&self, to_hub: Envelope) -> Self {
        Self {
            to_hub: Some(to_hub),
            ..self.clone()
        }
    }

    /// The envelope for one recipient.
    pub fn to(&self, recipient: StoreKeyId) -> Option<&Envelope> {
        std::iter::once(&self.to_box)
            .chain(&self.to_hub)
            .find(|envelope| envelope.recipient == recipient)
    }

    /// What travels to the hub with the study.
    pub fn for_hub(&self) -> Option<KeyEnvelope> {
        self.to_hub.clone().map(|envelope| KeyEnvelope {
            key: self.key,
            envelope,
        })
    }

    /// Encodes them as deterministic CBOR (RFC 8949 4.2), for a row or a record.
    pub fn to_cbor(&self) -> Vec<u8> {
        encode((VERSION, self.key, &self.to_box, &self.to_hub))
    }

    /// Reads what [`KeyEnvelopes::to_cbor`] wrote, and nothing else.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        check_head(bytes, KEY_ENVELOPES_BYTES_MAX)?;
        let (_, key, to_box, to_hub): (u8, _, _, _) = decode(bytes)?;
        let envelopes = Self {
            key,
            to_box,
            to_hub,
        };
        only_form(bytes, &envelopes.to_cbor())?;
        Ok(envelopes)
    }
}

/// The envelope of one data key for one recipient, as it travels with a study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEnvelope {
    /// Which data key it is.
    pub key: KeyId,
    /// The key, sealed.
    pub envelope: Envelope,
}

impl KeyEnvelope {
    /// Opens the data key of a study.
    pub fn open(&self, study: &str, key: &StoreKey) -> Result<DataKey, UnsealError> {
        self.envelope.open(self.key, study, key)
    }

    /// Encodes it as deterministic CBOR (RFC 8949 4.2), for a manifest.
    pub fn to_cbor(&self) -> Vec<u8> {
        encode((VERSION, self.key, &self.envelope))
    }

    /// Reads what [`KeyEnvelope::to_cbor`] wrote, and nothing else.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        check_head(bytes, KEY_ENVELOPE_BYTES)?;
        let (_, key, envelope): (u8, _, _) = decode(bytes)?;
        let envelope = Self { key, envelope };
        only_form(bytes, &envelope.to_cbor())?;
        Ok(envelope)
    }
}

fn encode(parts: impl Encode<()>) -> Vec<u8> {
    minicbor::to_vec(parts).expect("writing to a Vec does not fail")
}

fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T, EnvelopeError> {
    minicbor::decode(bytes).map_err(malformed)
}

/// The version comes first: a later format is named as such, whatever its length.
fn check_head(bytes: &[u8], bytes_max: usize) -> Result<(), EnvelopeError> {
    let mut decoder = Decoder::new(bytes);
    decoder.array().map_err(malformed)?;
    let version = decoder.u8().map_err(malformed)?;
    if version != VERSION {
        return Err(EnvelopeError::UnknownVersion(version));
    }
    if bytes.len() > bytes_max {
        return Err(EnvelopeError::TooLong {
            bytes: bytes.len(),
            bytes_max,
        });
    }
    Ok(())
}

fn only_form(bytes: &[u8], again: &[u8]) -> Result<(), EnvelopeError> {
    if bytes == again {
        Ok(())
    } else {
        Err(EnvelopeError::Malformed(
            "not in the one deterministic form".into(),
        ))
    }
}

fn malformed(error: minicbor::decode::Error) -> EnvelopeError {
    EnvelopeError::Malformed(error.to_string())
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
