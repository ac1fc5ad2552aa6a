//! The words of Chasqui: identifiers, digests, priorities and manifests that every room shares.
//!
//! In: text and bytes from outside. Out: parsed types that cannot hold nonsense.
//! Invariant: a value of one of these types is well formed; bytes from outside never panic here.
//! May not: do I/O, read a clock, allocate without a bound.

#![forbid(unsafe_code)]

pub mod charset;
pub mod dataset;
pub mod part10;

mod ae_title;
mod digest;
mod manifest;
mod patient;
mod priority;
mod redacted;
mod uid;

pub use ae_title::{AeTitle, AeTitleError};
pub use digest::{Digest, DigestError, InstanceDigest, StudyRoot};
pub use manifest::{ChunkRef, Group, GroupForm, MANIFEST_GROUPS_MAX, Manifest, ManifestError};
pub use patient::Patient;
pub use priority::{Priority, PriorityError};
pub use redacted::Redacted;
pub use uid::{
    SeriesUid, SopClassUid, SopInstanceUid, StudyUid, TransactionUid, TransferSyntaxUid, UidError,
};
