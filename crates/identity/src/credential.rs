//! A radiologist's credential: who may sign reports, from when until when.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::calendar::format_utc;
use crate::key::{NodeId, NodeKey};
use crate::root::{FleetId, Root};
use crate::wire::{self, DocumentError, FORMAT, Kind};
use crate::words::Label;

const KIND: Kind = Kind {
    what: "credential",
    domain: "chasqui/credential/1",
};

/// Says why a credential file is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// Signature or content.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Signed by a key that may not give credentials in this fleet.
    #[error("the credential is signed by key {}, which is not the fleet's issuing key", .0.short())]
    NotIssuer(NodeId),
    /// Given by another fleet.
    #[error("the credential belongs to fleet {}", .0.short())]
    OtherFleet(FleetId),
}

/// Says why a key may not sign a report at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialFault {
    /// The fleet never gave this key a credential.
    #[error("key {} has no credential in this fleet", .0.short())]
    None(NodeId),
    /// The time is before the credential's.
    #[error("the credential of key {} is not valid before {}", key.short(), format_utc(*from_ms))]
    NotYet {
        /// The signer.
        key: NodeId,
        /// When it begins.
        from_ms: u64,
    },
    /// The time is after the credential's.
    #[error("the credential of key {} expired at {}", key.short(), format_utc(*until_ms))]
    Expired {
        /// The signer.
        key: NodeId,
        /// When it ended.
        until_ms: u64,
    },
    /// The time is after the credential was withdrawn.
    #[error("the credential of key {} was revoked at {}", key.short(), format_utc(*at_ms))]
    Revoked {
        /// The signer.
        key: NodeId,
        /// When it was withdrawn.
        at_ms: u64,
    },
}

/// Who may sign reports with which key, from when until when.
///
/// Inside a fleet document it is covered by that document's signature; as a file of its own it is
/// a `COSE_Sign1` by the issuing key, domain `chasqui/credential/1`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Credential {
    /// Format version, 1.
    #[n(0)]
    pub format: u8,
    /// The fleet that gives it.
    #[n(1)]
    pub fleet: FleetId,
    /// The radiologist's key.
    #[n(2)]
    pub key: NodeId,
    /// The radiologist's name, as it stands under a report.
    #[n(3)]
    pub name: Label,
    /// The licence to practise.
    #[n(4)]
    pub licence: Label,
    /// The first moment it is valid, milliseconds of the Unix epoch.
    #[n(5)]
    pub valid_from_ms: u64,
    /// The last moment it is valid, milliseconds of the Unix epoch.
    #[n(6)]
    pub valid_until_ms: u64,
}

impl Credential {
    /// The format version that this program writes.
    pub const FORMAT: u8 = FORMAT;

    /// Refuses one inside another document that a later program wrote.
    pub(crate) fn check_format(&self) -> Result<(), DocumentError> {
        wire::check_format(KIND.what, self.format)
    }

    /// Signs it as a file of its own.
    pub fn sign(&self, issuing: &NodeKey) -> Vec<u8> {
        KIND.sign(issuing, self)
    }

    /// Reads a credential file and checks that `root`'s issuing key signed it.
    pub fn verify(bytes: &[u8], root: &Root) -> Result<Self, CredentialError> {
        let (signer, credential): (_, Self) = KIND.open(bytes)?;
        if credential.fleet != root.body().fleet {
            return Err(CredentialError::OtherFleet(credential.fleet));
        }
        if signer != root.body().issuing {
            return Err(CredentialError::NotIssuer(signer));
        }
        Ok(credential)
    }
}
