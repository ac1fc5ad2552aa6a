//! Digests: BLAKE3 over bytes, over an instance, over a study.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::uid::{SopInstanceUid, TransferSyntaxUid};

/// Says that a text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct DigestError;

/// A BLAKE3 digest of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Digest(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl Digest {
    /// Digests `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes 32 bytes that are a digest already.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        blake3::Hash::from_hex(text)
            .map(|h| Self(*h.as_bytes()))
            .map_err(|_| DigestError)
    }
}

/// The digest of one instance: BLAKE3(transfer syntax UID, 0x00, data set bytes).
///
/// Preamble and group 2 are no part of it: who carries an instance may have to write them anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct InstanceDigest(#[n(0)] Digest);

impl InstanceDigest {
    /// Digests an instance's data set as it is encoded in `transfer_syntax`.
    pub fn of(transfer_syntax: &TransferSyntaxUid, data_set: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(transfer_syntax.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(data_set);
        Self(Digest(*hasher.finalize().as_bytes()))
    }

    /// Takes a digest that was computed by [`InstanceDigest::of`] before.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The plain digest.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Debug for InstanceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceDigest({})", self.0)
    }
}

/// The digest of one revision of a study: what receipts, proofs and eviction speak of.
///
/// BLAKE3 over the sorted pairs (SOP Instance UID, 0x00, instance digest), after the domain
/// string `chasqui study root 1` and a zero byte. Two instances that share a UID but not their
/// bytes are two pairs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct StudyRoot(#[n(0)] Digest);

impl StudyRoot {
    /// Computes the root over all pairs of a revision.
    pub fn over(pairs: &BTreeSet<(SopInstanceUid, InstanceDigest)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"chasqui study root 1\0");
        for (sop, digest) in pairs {
            hasher.update(sop.as_str().as_bytes());
            hasher.update(&[0]);
            hasher.update(digest.0.as_bytes());
        }
        Self(Digest(*hasher.finalize().as_bytes()))
    }

    /// Takes a digest that was computed by [`StudyRoot::over`] before.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The plain digest.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Debug for StudyRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StudyRoot({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_there_and_back() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("ab".parse::<Digest>(), Err(DigestError));
    }

    #[test]
    fn the_root_depends_on_every_pair_and_not_on_their_order() {
        let ts = TransferSyntaxUid::parse("1.2.840.10008.1.2.1").unwrap();
        let a = (
            SopInstanceUid::parse("1.2").unwrap(),
            InstanceDigest::of(&ts, b"a"),
        );
        let b = (
            SopInstanceUid::parse("1.3").unwrap(),
            InstanceDigest::of(&ts, b"b"),
        );
        let both = StudyRoot::over(&BTreeSet::from([a.clone(), b.clone()]));
        assert_eq!(both, StudyRoot::over(&BTreeSet::from([b, a.clone()])));
        assert_ne!(both, StudyRoot::over(&BTreeSet::from([a])));
    }
}
