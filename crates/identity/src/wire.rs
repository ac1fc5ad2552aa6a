//! How documents are written and read: deterministic CBOR, the format version first.
//!
//! Exactly one encoding of a document is accepted, so that two programs never read one document in
//! two ways, and nothing travels in it unseen.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::cose::{self, CoseError};
use crate::key::{NodeId, NodeKey};

/// Says why bytes are not a document of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// The signature does not hold.
    #[error("the {what} is not signed as it must be")]
    Signature {
        /// The kind of document.
        what: &'static str,
        /// What is wrong with the signature.
        #[source]
        source: CoseError,
    },
    /// The content is not that of such a document.
    #[error("the {what} cannot be read: {reason}")]
    Malformed {
        /// The kind of document.
        what: &'static str,
        /// What was found.
        reason: String,
    },
    /// A format of a later program.
    #[error("the {what} has format {version}, this program knows format 1")]
    UnknownVersion {
        /// The kind of document.
        what: &'static str,
        /// Its format version.
        version: u8,
    },
}

/// A kind of signed document: its word in messages and its domain.
pub(crate) struct Kind {
    pub(crate) what: &'static str,
    pub(crate) domain: &'static str,
}

/// The one format version of every document of this crate.
pub(crate) const FORMAT: u8 = 1;

impl Kind {
    /// Signs a document with one key.
    pub(crate) fn sign(&self, key: &NodeKey, body: &impl Encode<()>) -> Vec<u8> {
        cose::sign1(key, self.domain, &encode(body))
    }

    /// Checks the signature and reads the content; who may sign is for the caller to judge.
    pub(crate) fn open<T: Encode<()> + for<'b> Decode<'b, ()>>(
        &self,
        bytes: &[u8],
    ) -> Result<(NodeId, T), DocumentError> {
        let verified = cose::verify1(bytes, self.domain).map_err(|e| self.unsigned(e))?;
        Ok((verified.signer, decode(self.what, &verified.payload)?))
    }

    pub(crate) fn unsigned(&self, source: CoseError) -> DocumentError {
        DocumentError::Signature {
            what: self.what,
            source,
        }
    }
}

/// Encodes as deterministic CBOR (RFC 8949 4.2).
pub(crate) fn encode(body: &impl Encode<()>) -> Vec<u8> {
    minicbor::to_vec(body).expect("writing to a Vec does not fail")
}

/// Decodes all of `bytes`, refusing a format that this program does not know and every encoding but one.
pub(crate) fn decode<T: Encode<()> + for<'b> Decode<'b, ()>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DocumentError> {
    let head: Head = read(what, bytes)?;
    check_format(what, head.format)?;
    decode_bare(what, bytes)
}

/// Refuses a format that this program does not know.
pub(crate) fn check_format(what: &'static str, version: u8) -> Result<(), DocumentError> {
    if version == FORMAT {
        Ok(())
    } else {
        Err(DocumentError::UnknownVersion { what, version })
    }
}

/// As [`decode`], for what carries no format version.
pub(crate) fn decode_bare<T: Encode<()> + for<'b> Decode<'b, ()>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DocumentError> {
    let body: T = read(what, bytes)?;
    let mut rest = Compare(bytes);
    if minicbor::encode(&body, &mut rest).is_ok() && rest.0.is_empty() {
        Ok(body)
    } else {
        Err(DocumentError::Malformed {
            what,
            reason: "not in the one deterministic form".into(),
        })
    }
}

fn read<T: for<'b> Decode<'b, ()>>(what: &'static str, bytes: &[u8]) -> Result<T, DocumentError> {
    minicbor::decode(bytes).map_err(|e| DocumentError::Malformed {
        what,
        reason: e.to_string(),
    })
}

/// What all documents begin with.
#[derive(Decode)]
struct Head {
    #[n(0)]
    format: u8,
}

/// Takes from bytes what is written, if it is the same; leaves no copy of a secret behind.
struct Compare<'a>(&'a [u8]);

/// Says that something else was written.
struct Different;

impl minicbor::encode::Write for Compare<'_> {
    type Error = Different;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Different> {
        self.0 = self.0.strip_prefix(bytes).ok_or(Different)?;
        Ok(())
    }
}
