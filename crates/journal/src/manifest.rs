//! Signed manifests: the transfer lists that custody speaks of.

use std::fmt;

use identity::cose::{self, CoseError};
use identity::{NodeId, NodeKey};
use study::{Digest, Manifest, ManifestError};
use thiserror::Error;

/// The domain that manifests are signed under.
const DOMAIN: &str = "chasqui/manifest/1";

/// Says why bytes are not a signed manifest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestFault {
    /// The signature or its envelope is wrong.
    #[error("the manifest's signature is not accepted")]
    Signature(#[source] CoseError),
    /// What is signed is not a manifest of this version and inside its limits.
    #[error("what is signed is not a manifest that this program takes")]
    Content(#[source] ManifestError),
    /// The manifest is readable, but not in its one encoding.
    #[error("the manifest is not in deterministic encoding")]
    NotDeterministic,
}

/// A manifest whose signature was checked, with the bytes that were signed.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedManifest {
    bytes: Vec<u8>,
    digest: Digest,
    signer: NodeId,
    manifest: Manifest,
}

impl SignedManifest {
    /// Signs a manifest with its unit's key.
    pub fn sign(key: &NodeKey, manifest: Manifest) -> Self {
        let bytes = cose::sign1(key, DOMAIN, &manifest.to_cbor());
        Self {
            digest: Digest::of(&bytes),
            signer: key.id(),
            bytes,
            manifest,
        }
    }

    /// Reads a signed manifest and checks its signature; who may sign is for the caller to judge.
    pub fn open(bytes: &[u8]) -> Result<Self, ManifestFault> {
        let verified = cose::verify1(bytes, DOMAIN).map_err(ManifestFault::Signature)?;
        let manifest = Manifest::from_cbor(&verified.payload).map_err(ManifestFault::Content)?;
        if manifest.to_cbor() != verified.payload {
            return Err(ManifestFault::NotDeterministic);
        }
        Ok(Self {
            bytes: bytes.to_vec(),
            digest: Digest::of(bytes),
            signer: verified.signer,
            manifest,
        })
    }

    /// The `COSE_Sign1` that is stored and crosses.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of those bytes: the manifest's name in receipts and on the link.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Who signed it.
    pub const fn signer(&self) -> NodeId {
        self.signer
    }

    /// What it says.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl fmt::Debug for SignedManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SignedManifest({} by {})",
            self.digest,
            self.signer.short()
        )
    }
}
