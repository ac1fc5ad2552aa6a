//! The root document: which keys are the fleet's root, and to whom they delegate.
//!
//! Signed by a threshold of the root keys (`COSE_Sign`, domain `chasqui/root/1`). Root N+1 is signed
//! by a threshold of root N's keys and by one of its own, and names the digest of root N.

use std::fmt;

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::cose;
use crate::key::{NodeId, NodeKey, hex};
use crate::wire::{self, DocumentError, FORMAT, Kind};

/// The most root keys of a fleet.
const ROOT_KEYS_MAX: usize = 8;
const KIND: Kind = Kind {
    what: "root document",
    domain: "chasqui/root/1",
};

/// The name of a fleet: BLAKE3 over the threshold and the keys of its first root document.
///
/// Nobody else can make a first root of the same name; a later root carries the name on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct FleetId(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl FleetId {
    /// The name of the fleet that begins with these root keys.
    pub fn of(threshold: u8, keys: &[NodeId]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"chasqui fleet 1\0").update(&[threshold]);
        for key in keys {
            hasher.update(key.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The first eight hexadecimal digits, for logs.
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetId({})", self.short())
    }
}

/// Says why a root document is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RootError {
    /// Signature or content.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The threshold cannot be met, or a key is listed twice, or there are too many.
    #[error("a root has 1 to {ROOT_KEYS_MAX} different keys and a threshold that they can reach")]
    Keys,
    /// Too few of the keys that must sign have signed.
    #[error(
        "root {number} has {have} of the {need} signatures it needs from the keys of root {of}"
    )]
    Threshold {
        /// The root document that was signed.
        number: u32,
        /// How many right signatures it has.
        have: usize,
        /// How many it needs.
        need: u8,
        /// The root whose keys must sign.
        of: u32,
    },
    /// The first root's fleet name is not that of its keys.
    #[error("the fleet's name does not belong to its first root keys")]
    WrongFleetName,
    /// The document does not follow the root before it.
    #[error("root {number} does not follow root {previous}")]
    NotNext {
        /// The root document that was read.
        number: u32,
        /// The one before it.
        previous: u32,
    },
}

/// What a root document says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RootBody {
    /// Format version, 1.
    #[n(0)]
    pub format: u8,
    /// The fleet.
    #[n(1)]
    pub fleet: FleetId,
    /// Counts from 1.
    #[n(2)]
    pub number: u32,
    /// How many of the keys must sign.
    #[n(3)]
    pub threshold: u8,
    /// The root keys.
    #[n(4)]
    pub keys: Vec<NodeId>,
    /// The key that signs fleet documents, vouchers and credentials.
    #[n(5)]
    pub issuing: NodeId,
    /// The key that signs updates.
    #[n(6)]
    pub release: NodeId,
    /// BLAKE3 of the content of the root before this one.
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    pub previous: Option<[u8; 32]>,
    /// When it was made, milliseconds of the Unix epoch; for people.
    #[n(8)]
    pub made_at_ms: u64,
}

impl RootBody {
    /// Begins a fleet.
    pub fn first(
        threshold: u8,
        keys: Vec<NodeId>,
        delegates: (NodeId, NodeId),
        made_at_ms: u64,
    ) -> Self {
        let (issuing, release) = delegates;
        let fleet = FleetId::of(threshold, &keys);
        Self {
            format: FORMAT,
            fleet,
            number: 1,
            threshold,
            keys,
            issuing,
            release,
            previous: None,
            made_at_ms,
        }
    }

    /// Signs with every one of `keys`.
    pub fn sign(&self, keys: &[&NodeKey]) -> Vec<u8> {
        cose::sign_many(keys, KIND.domain, &wire::encode(self))
    }

    fn check_keys(&self) -> Result<(), RootError> {
        let count = self.keys.len();
        let different = self
            .keys
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len();
        let reachable = self.threshold > 0 && usize::from(self.threshold) <= count;
        if count > ROOT_KEYS_MAX || different != count || !reachable {
            return Err(RootError::Keys);
        }
        Ok(())
    }

    /// Checks that enough of this root's keys are among the signers of root `number`.
    fn check_threshold(&self, number: u32, signers: &[NodeId]) -> Result<(), RootError> {
        let have = signers.iter().filter(|s| self.keys.contains(s)).count();
        if have < usize::from(self.threshold) {
            return Err(RootError::Threshold {
                number,
                have,
                need: self.threshold,
                of: self.number,
            });
        }
        Ok(())
    }
}

/// What a node holds on to: the root that it already trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The fleet.
    pub fleet: FleetId,
    /// BLAKE3 of the content of the trusted root document.
    pub root: [u8; 32],
}

/// A root document whose signatures were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    body: RootBody,
    digest: [u8; 32],
    signed: Vec<u8>,
}

impl Root {
    /// Reads the last link of a chain that is not at hand: signed by a threshold of its own keys.
    ///
    /// For what came with a voucher, whose bearer is trusted to bring the right fleet.
    pub fn verify_alone(bytes: &[u8]) -> Result<Self, RootError> {
        Self::open(bytes).map(|(root, _)| root)
    }

    /// Reads a fleet's first root.
    pub fn verify_first(bytes: &[u8]) -> Result<Self, RootError> {
        let (root, _) = Self::open(bytes)?;
        let body = &root.body;
        if body.number != 1 || body.previous.is_some() {
            return Err(RootError::NotNext {
                number: body.number,
                previous: 0,
            });
        }
        if body.fleet != FleetId::of(body.threshold, &body.keys) {
            return Err(RootError::WrongFleetName);
        }
        Ok(root)
    }

    /// Reads the root that comes after this one.
    pub fn verify_next(&self, bytes: &[u8]) -> Result<Self, RootError> {
        let (next, signers) = Self::open(bytes)?;
        let follows = Some(next.body.number) == self.body.number.checked_add(1)
            && next.body.previous == Some(self.digest)
            && next.body.fleet == self.body.fleet;
        if !follows {
            let (number, previous) = (next.body.number, self.body.number);
            return Err(RootError::NotNext { number, previous });
        }
        self.body.check_threshold(next.body.number, &signers)?;
        Ok(next)
    }

    fn open(bytes: &[u8]) -> Result<(Self, Vec<NodeId>), RootError> {
        let verified = cose::verify_many(bytes, KIND.domain).map_err(|e| KIND.unsigned(e))?;
        let body: RootBody = wire::decode(KIND.what, &verified.payload)?;
        body.check_keys()?;
        body.check_threshold(body.number, &verified.signers)?;
        let digest = *blake3::hash(&verified.payload).as_bytes();
        Ok((
            Self {
                body,
                digest,
                signed: bytes.to_vec(),
            },
            verified.signers,
        ))
    }

    /// What it says.
    pub fn body(&self) -> &RootBody {
        &self.body
    }

    /// BLAKE3 of its content.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The signed bytes.
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// What to hold on to.
    pub fn anchor(&self) -> Anchor {
        Anchor {
            fleet: self.body.fleet,
            root: self.digest,
        }
    }
}
