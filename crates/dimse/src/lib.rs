//! DICOM message services (PS3.7) over the upper layer (PS3.8), both roles: C-ECHO, C-STORE, C-FIND,
//! N-ACTION, N-CREATE, N-SET, N-EVENT-REPORT.
//!
//! In: TCP connections and, for the user role, what to send. Out: data sets to a [`scp::Services`],
//! answers from a peer. Invariant: the bytes of an instance are never looked at, changed or cut; memory is
//! bounded whatever peers do; a success is answered only after the service said so.
//! May not: touch the disk, decide what matches a query or which status a failure of the service has.

#![forbid(unsafe_code)]

pub mod scp;
pub mod scu;
pub mod tag;

mod command;
mod data_set;
mod memory;
mod negotiate;
mod sop_class;
mod status;
mod transfer_syntax;
mod wire;

pub use data_set::{DEPTH_MAX, DataSet, DataSetError, ELEMENTS_MAX, is_sequence, vr_of};
pub use sop_class::{
    COMMITMENT, COMMITMENT_INSTANCE, PERFORMED_STEP, SERVICE_CLASSES, STORAGE_CLASSES, Service,
    VERIFICATION, WORKLIST, is_storage_class,
};
pub use status::{Answer, Status};
pub use transfer_syntax::{Choice, TRANSFER_SYNTAXES};
