//! Provisioning: the authority of a fleet; it mints what boxes, hubs and radiologists are trusted by.
//!
//! In: an operator's commands, the fleet's folder. Out: vouchers, credentials, hub folders, fleet documents.
//! Invariant: every change is one new version of `fleet.cose`, complete or not there at all; nothing
//! that exists is overwritten.
//! May not: open sockets, run on a box, judge documents by other rules than `identity`.

#![forbid(unsafe_code)]

pub mod authority;
pub mod cli;
pub mod enrol;
pub mod radiologists;
pub mod registry;
