//! The fleet document: hubs, vouchers, radiologists and revocations, at one version.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::credential::{Credential, CredentialFault};
use crate::key::{NodeId, NodeKey};
use crate::root::{Anchor, FleetId, Root, RootError};
use crate::store_key::StorePublicKey;
use crate::voucher::VoucherId;
use crate::wire::{DocumentError, FORMAT, Kind};
use crate::words::{ConsentPolicy, HubAddress, Label};

const KIND: Kind = Kind {
    what: "fleet document",
    domain: "chasqui/fleet/1",
};
/// The largest fleet document, so that it crosses as one frame.
pub const FLEET_BYTES_MAX: usize = 256 << 10;
/// The longest chain of roots that a fleet document carries: decades of rotations.
const ROOTS_MAX: usize = 64;

/// Says why a fleet document is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FleetError {
    /// Longer than [`FLEET_BYTES_MAX`].
    #[error("the fleet document has {0} bytes, {FLEET_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Signature or content.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A root document inside is not right.
    #[error("the fleet document's roots are not right")]
    Root(#[source] RootError),
    /// No root, or more than a chain may have.
    #[error("the fleet document carries {0} roots, 1 to {ROOTS_MAX} are allowed")]
    RootCount(usize),
    /// The document speaks for another fleet.
    #[error("the fleet document is that of fleet {}", .0.short())]
    OtherFleet(FleetId),
    /// The chain of roots does not contain the root that this node trusts.
    #[error("the fleet document's roots do not contain the root that is trusted here")]
    NotAnchored,
    /// Signed by a key that the root does not delegate to.
    #[error("the fleet document is signed by key {}, which is not the fleet's issuing key", .0.short())]
    NotIssuer(NodeId),
    /// A credential inside was given by another fleet.
    #[error("the fleet document lists a credential of fleet {}", .0.short())]
    ForeignCredential(FleetId),
}

/// Says why one fleet document may not take the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SupersedeError {
    /// Another fleet's.
    #[error("the fleet document is that of fleet {}", .0.short())]
    OtherFleet(FleetId),
    /// Older than the one that is held.
    #[error("the fleet document has version {offered}, version {held} is held")]
    Older {
        /// The version that is held.
        held: u64,
        /// The version that was offered.
        offered: u64,
    },
    /// Two documents of one version: someone signed twice.
    #[error("there are two different fleet documents of version {0}")]
    Fork(u64),
    /// The newer document goes back to an older root.
    #[error("the fleet document goes back from root {held} to root {offered}")]
    OlderRoot {
        /// The root number that is held.
        held: u32,
        /// The root number that was offered.
        offered: u32,
    },
}

/// How an offered fleet document stands to the one that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is newer: take it.
    Newer,
    /// It is the same: nothing to do.
    Same,
}

/// A hub of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HubEntry {
    /// Its name.
    #[n(0)]
    pub name: Label,
    /// Where boxes reach it.
    #[n(1)]
    pub address: HubAddress,
    /// Its key, which boxes pin.
    #[n(2)]
    pub key: NodeId,
    /// Its store key, to which boxes seal what they send.
    #[n(3)]
    pub store: StorePublicKey,
}

/// A voucher that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct VoucherEntry {
    /// Its name.
    #[n(0)]
    pub id: VoucherId,
    /// The site it is for.
    #[n(1)]
    pub site: Label,
    /// The site's consent policy.
    #[n(2)]
    pub consent: ConsentPolicy,
    /// The hub that redeems it.
    #[n(3)]
    pub hub: NodeId,
    /// When it was made, milliseconds of the Unix epoch.
    #[n(4)]
    pub made_at_ms: u64,
    /// Until when the hub redeems it; this counts, not the date in the voucher file.
    #[n(5)]
    pub not_after_ms: u64,
}

/// A key that is no longer trusted: of a box, a voucher, a hub or a radiologist.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Revocation {
    /// The key.
    #[n(0)]
    pub subject: NodeId,
    /// From when on, milliseconds of the Unix epoch; what a radiologist signed before stays valid.
    #[n(1)]
    pub at_ms: u64,
    /// Why.
    #[n(2)]
    pub reason: Label,
}

/// What a fleet document says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FleetBody {
    /// Format version, 1.
    #[n(0)]
    pub format: u8,
    /// The fleet.
    #[n(1)]
    pub fleet: FleetId,
    /// Counts from 1; each document takes the place of the one before.
    #[n(2)]
    pub version: u64,
    /// When it was made, milliseconds of the Unix epoch; for people.
    #[n(3)]
    pub made_at_ms: u64,
    /// All signed root documents, from the first to the present one.
    #[n(4)]
    pub roots: Vec<minicbor::bytes::ByteVec>,
    /// The hubs.
    #[n(5)]
    pub hubs: Vec<HubEntry>,
    /// The vouchers given out.
    #[n(6)]
    pub vouchers: Vec<VoucherEntry>,
    /// The radiologists; one may have several, the older ones for the reports of their time.
    #[n(7)]
    pub credentials: Vec<Credential>,
    /// What is no longer trusted.
    #[n(8)]
    pub revocations: Vec<Revocation>,
}

impl FleetBody {
    /// Begins a fleet: version 1, with nothing but its root.
    pub fn first(root: &Root) -> Self {
        Self {
            format: FORMAT,
            fleet: root.body().fleet,
            version: 1,
            made_at_ms: root.body().made_at_ms,
            roots: vec![root.signed().to_vec().into()],
            hubs: Vec::new(),
            vouchers: Vec::new(),
            credentials: Vec::new(),
            revocations: Vec::new(),
        }
    }

    /// Signs it with the issuing key. Whether the result is trusted shows [`FleetDocument::parse`].
    pub fn sign(&self, issuing: &NodeKey) -> Vec<u8> {
        KIND.sign(issuing, self)
    }
}

/// A fleet document whose signatures, roots and limits were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetDocument {
    body: FleetBody,
    roots: Vec<Root>,
    signed: Vec<u8>,
}

impl FleetDocument {
    /// Reads a fleet document from outside: it must continue the root that is trusted here.
    pub fn parse(bytes: &[u8], anchor: &Anchor) -> Result<Self, FleetError> {
        let document = Self::parse_own(bytes)?;
        if document.body.fleet != anchor.fleet {
            return Err(FleetError::OtherFleet(document.body.fleet));
        }
        if !document.roots.iter().any(|r| *r.digest() == anchor.root) {
            return Err(FleetError::NotAnchored);
        }
        Ok(document)
    }

    /// Reads the document that this node itself keeps: complete and right in itself, of any fleet.
    ///
    /// Only for a node's own folder; what comes from outside goes through [`FleetDocument::parse`].
    pub fn parse_own(bytes: &[u8]) -> Result<Self, FleetError> {
        if bytes.len() > FLEET_BYTES_MAX {
            return Err(FleetError::TooLong(bytes.len()));
        }
        let (signer, body): (_, FleetBody) = KIND.open(bytes)?;
        body.credentials
            .iter()
            .try_for_each(Credential::check_format)?;
        let roots = verify_chain(&body.roots)?;
        let document = Self {
            body,
            roots,
            signed: bytes.to_vec(),
        };
        let root = document.root().body();
        if root.fleet != document.body.fleet {
            return Err(FleetError::OtherFleet(document.body.fleet));
        }
        if root.issuing != signer {
            return Err(FleetError::NotIssuer(signer));
        }
        match document
            .body
            .credentials
            .iter()
            .find(|c| c.fleet != root.fleet)
        {
            Some(foreign) => Err(FleetError::ForeignCredential(foreign.fleet)),
            None => Ok(document),
        }
    }

    /// Judges whether this document may take the place of `held`: only forward, never back.
    pub fn supersedes(&self, held: &Self) -> Result<Standing, SupersedeError> {
        if self.fleet() != held.fleet() {
            return Err(SupersedeError::OtherFleet(self.fleet()));
        }
        let (offered, held_version) = (self.version(), held.version());
        if offered < held_version {
            return Err(SupersedeError::Older {
                held: held_version,
                offered,
            });
        }
        if offered == held_version {
            let same = self.signed == held.signed;
            return if same {
                Ok(Standing::Same)
            } else {
                Err(SupersedeError::Fork(offered))
            };
        }
        let (offered, held) = (self.root().body().number, held.root().body().number);
        if offered < held {
            return Err(SupersedeError::OlderRoot { held, offered });
        }
        Ok(Standing::Newer)
    }

    /// The fleet.
    pub fn fleet(&self) -> FleetId {
        self.body.fleet
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.body.version
    }

    /// Everything it says.
    pub fn body(&self) -> &FleetBody {
        &self.body
    }

    /// The signed bytes, to keep and to send on.
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// The present root.
    pub fn root(&self) -> &Root {
        self.roots
            .last()
            .expect("parsing refuses a document without roots")
    }

    /// All roots, the first one first.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// What to check the next fleet document against.
    pub fn anchor(&self) -> Anchor {
        self.root().anchor()
    }

    /// The hubs that are not revoked.
    pub fn hubs(&self) -> impl Iterator<Item = &HubEntry> {
        self.body
            .hubs
            .iter()
            .filter(|h| self.revocation(&h.key).is_none())
    }

    /// The hub with this key, unless it is revoked.
    pub fn hub(&self, key: &NodeId) -> Option<&HubEntry> {
        self.hubs().find(|h| h.key == *key)
    }

    /// The voucher of this name, whether revoked or not.
    pub fn voucher(&self, id: &VoucherId) -> Option<&VoucherEntry> {
        self.body.vouchers.iter().find(|v| v.id == *id)
    }

    /// The earliest revocation of a key: a box's, a voucher's, a hub's or a radiologist's.
    pub fn revocation(&self, key: &NodeId) -> Option<&Revocation> {
        self.body
            .revocations
            .iter()
            .filter(|r| r.subject == *key)
            .min_by_key(|r| r.at_ms)
    }

    /// Whether a box is to be turned away: its key or the voucher it came with was revoked.
    pub fn unit_is_revoked(&self, unit: &NodeId, voucher: &VoucherId) -> bool {
        self.revocation(unit).is_some() || self.revocation(voucher.key()).is_some()
    }

    /// The credential under which `key` may sign at `at_ms`, or why it may not.
    pub fn credential_at(&self, key: &NodeId, at_ms: u64) -> Result<&Credential, CredentialFault> {
        let own = || self.body.credentials.iter().filter(|c| c.key == *key);
        let Some(last) = own().max_by_key(|c| c.valid_until_ms) else {
            return Err(CredentialFault::None(*key));
        };
        if let Some(revocation) = self.revocation(key).filter(|r| r.at_ms <= at_ms) {
            return Err(CredentialFault::Revoked {
                key: *key,
                at_ms: revocation.at_ms,
            });
        }
        if let Some(credential) =
            own().find(|c| (c.valid_from_ms..=c.valid_until_ms).contains(&at_ms))
        {
            return Ok(credential);
        }
        if at_ms > last.valid_until_ms {
            return Err(CredentialFault::Expired {
                key: *key,
                until_ms: last.valid_until_ms,
            });
        }
        let next = own()
            .map(|c| c.valid_from_ms)
            .filter(|from| *from > at_ms)
            .min();
        Err(CredentialFault::NotYet {
            key: *key,
            from_ms: next.unwrap_or(last.valid_from_ms),
        })
    }
}

fn verify_chain(signed: &[minicbor::bytes::ByteVec]) -> Result<Vec<Root>, FleetError> {
    if signed.is_empty() || signed.len() > ROOTS_MAX {
        return Err(FleetError::RootCount(signed.len()));
    }
    let mut roots: Vec<Root> = Vec::with_capacity(signed.len());
    for bytes in signed {
        let root = match roots.last() {
            None => Root::verify_first(bytes),
            Some(previous) => previous.verify_next(bytes),
        };
        roots.push(root.map_err(FleetError::Root)?);
    }
    Ok(roots)
}
