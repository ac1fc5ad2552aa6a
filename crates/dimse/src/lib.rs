//! DICOM message services (PS3.7) over the upper layer (PS3.8): C-ECHO and C-STORE, both roles.
//!
//! In: TCP connections and, for the user role, instances to send. Out: data sets to a [`scp::Services`],
//! answers from a peer. Invariant: the bytes of a data set are never looked at, changed or cut; memory is
//! bounded whatever peers do; a success is answered only after the service said so.
//! May not: parse a data set, touch the disk, decide which status a failure of the service has.

#![forbid(unsafe_code)]

pub mod scp;
pub mod scu;

mod command;
mod memory;
mod negotiate;
mod sop_class;
mod status;
mod transfer_syntax;
mod wire;

pub use sop_class::{STORAGE_CLASSES, is_storage_class};
pub use status::{Answer, Status};
pub use transfer_syntax::{Choice, TRANSFER_SYNTAXES};

/// The SOP class of C-ECHO (PS3.4 A.4).
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
