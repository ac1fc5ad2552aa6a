//! Who is who: keys, signatures and the signed documents that a fleet trusts.
//!
//! In: bytes from files, links and sticks; the time, as an argument. Out: verified documents, signed bytes.
//! Invariant: a document type exists only after every signature and limit of it was checked.
//! May not: open sockets, read a clock, decide what to do with a refusal.

#![forbid(unsafe_code)]

pub mod calendar;
pub mod cose;
pub mod files;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod credential;
mod enrol;
mod fleet;
mod key;
mod root;
mod sealed_key;
mod store_key;
mod voucher;
mod wire;
mod words;

pub use credential::{Credential, CredentialError, CredentialFault};
pub use enrol::{EnrolRefusal, EnrolReply, EnrolRequest, Grant, GrantError};
pub use fleet::{
    FLEET_BYTES_MAX, FleetBody, FleetDocument, FleetError, HubEntry, Revocation, Standing,
    SupersedeError, VoucherEntry,
};
pub use key::{KeyError, NodeId, NodeIdError, NodeKey};
pub use root::{Anchor, FleetId, Root, RootBody, RootError};
pub use sealed_key::{SealedKeyError, load_sealed_key, open_sealed_key, read_passphrase, seal_key};
pub use store_key::{StoreKeyId, StorePublicKey, StorePublicKeyError};
pub use voucher::{VOUCHER_BYTES_MAX, Voucher, VoucherError, VoucherId, VoucherTerms};
pub use wire::DocumentError;
pub use words::{ConsentPolicy, HubAddress, Label, WordError};

#[cfg(test)]
mod tests;
