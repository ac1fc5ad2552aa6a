//! The voucher: one file (or QR code) that lets one box join a fleet, once.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::fleet::HubEntry;
use crate::key::{NodeId, NodeIdError, NodeKey};
use crate::root::{FleetId, Root, RootError};
use crate::wire::{self, DocumentError, FORMAT, Kind};
use crate::words::{ConsentPolicy, Label};

const KIND: Kind = Kind {
    what: "voucher",
    domain: "chasqui/voucher/1",
};
/// The longest voucher file; a QR code holds 2,953 bytes.
pub const VOUCHER_BYTES_MAX: usize = 2953;

/// More than a voucher file has besides its terms: heads of CBOR, the format and the seed.
const FILE_OVERHEAD_BYTES: usize = 64;

/// Names a voucher: the public half of its one-time key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct VoucherId(#[n(0)] NodeId);

impl VoucherId {
    /// Takes the public half of a one-time key.
    pub const fn new(key: NodeId) -> Self {
        Self(key)
    }

    /// The public half of the one-time key.
    pub const fn key(&self) -> &NodeId {
        &self.0
    }
}

impl fmt::Display for VoucherId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VoucherId {
    type Err = NodeIdError;
    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        text.parse().map(Self)
    }
}

/// Says why a voucher is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VoucherError {
    /// Longer than any voucher.
    #[error("the voucher has {0} bytes, {VOUCHER_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Signature or content.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The root document inside is not trusted.
    #[error("the voucher's root document is not right")]
    Root(#[source] RootError),
    /// Signed by a key that may not give vouchers in its fleet.
    #[error("the voucher is signed by key {}, which is not the fleet's issuing key", .0.short())]
    NotIssuer(NodeId),
    /// The terms name another fleet than the root inside.
    #[error("the voucher names fleet {} but carries the root of another", .0.short())]
    OtherFleet(FleetId),
    /// The one-time secret is not the one that was signed for.
    #[error("the voucher's one-time secret does not belong to it")]
    WrongSecret,
}

/// What a voucher promises; signed by the issuing key, no secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct VoucherTerms {
    /// Format version, 1.
    #[n(0)]
    pub format: u8,
    /// The fleet to join.
    #[n(1)]
    pub fleet: FleetId,
    /// The voucher's name.
    #[n(2)]
    pub id: VoucherId,
    /// The hub that redeems it.
    #[n(3)]
    pub hub: HubEntry,
    /// The site that the box will stand at.
    #[n(4)]
    pub site: Label,
    /// The site's consent policy.
    #[n(5)]
    pub consent: ConsentPolicy,
    /// When it was made, milliseconds of the Unix epoch.
    #[n(6)]
    pub made_at_ms: u64,
    /// Until when the hub redeems it, unless the fleet document says otherwise.
    #[n(7)]
    pub not_after_ms: u64,
    /// The fleet's signed root document, which the box will hold on to.
    #[n(8)]
    #[cbor(with = "minicbor::bytes")]
    pub root: Vec<u8>,
}

impl VoucherTerms {
    /// The format version that this program writes.
    pub const FORMAT: u8 = FORMAT;

    /// Reads signed terms whose root was checked by itself, and that root.
    pub(crate) fn open(signed: &[u8]) -> Result<(Self, Root), VoucherError> {
        let (signer, terms): (_, Self) = KIND.open(signed)?;
        let root = Root::verify_alone(&terms.root).map_err(VoucherError::Root)?;
        if root.body().fleet != terms.fleet {
            return Err(VoucherError::OtherFleet(terms.fleet));
        }
        if root.body().issuing != signer {
            return Err(VoucherError::NotIssuer(signer));
        }
        Ok((terms, root))
    }
}

/// A voucher that was checked: terms, root of the fleet, one-time key.
#[derive(Debug, Clone)]
pub struct Voucher {
    terms: VoucherTerms,
    root: Root,
    signed_terms: Vec<u8>,
    one_time: NodeKey,
}

impl Voucher {
    /// Makes the bytes of a voucher file. They hold a secret: owner-only, and once.
    pub fn issue(
        terms: &VoucherTerms,
        issuing: &NodeKey,
        one_time: &NodeKey,
    ) -> Zeroizing<Vec<u8>> {
        let file = VoucherFile {
            format: FORMAT,
            terms: KIND.sign(issuing, terms),
            seed: *one_time.seed(),
        };
        // Room for all of it: a Vec that grows leaves copies of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(file.terms.len() + FILE_OVERHEAD_BYTES));
        minicbor::encode(&file, &mut *bytes).expect("writing to a Vec does not fail");
        bytes
    }

    /// Reads a voucher file and checks everything in it that can be checked without the hub.
    ///
    /// Its expiry is not looked at: the box's clock may be wrong, the hub judges.
    pub fn parse(bytes: &[u8]) -> Result<Self, VoucherError> {
        if bytes.len() > VOUCHER_BYTES_MAX {
            return Err(VoucherError::TooLong(bytes.len()));
        }
        let mut file: VoucherFile = wire::decode(KIND.what, bytes)?;
        let (terms, root) = VoucherTerms::open(&file.terms)?;
        let one_time = NodeKey::from_seed(&file.seed);
        if one_time.id() != *terms.id.key() {
            return Err(VoucherError::WrongSecret);
        }
        Ok(Self {
            terms,
            root,
            signed_terms: std::mem::take(&mut file.terms),
            one_time,
        })
    }

    /// What it promises.
    pub fn terms(&self) -> &VoucherTerms {
        &self.terms
    }

    /// The fleet's root, which the box holds on to: `voucher.root().anchor()`.
    pub fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) fn signed_terms(&self) -> &[u8] {
        &self.signed_terms
    }

    pub(crate) fn one_time(&self) -> &NodeKey {
        &self.one_time
    }
}

#[derive(Encode, Decode)]
struct VoucherFile {
    #[n(0)]
    format: u8,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    terms: Vec<u8>,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    seed: [u8; 32],
}

impl Drop for VoucherFile {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}
