//! Kit: what the system tests and the demo are made with.
//!
//! In: the programs' binary, a temporary folder, a seed. Out: fleets, links, scanners, studies.
//! Invariant: all that is generated follows from its seed; every process ends with its handle.
//! May not: be used by a program; reach into a program other than through its command line,
//! sockets and files.

#![forbid(unsafe_code)]

pub mod fault_fs;
pub mod fleet;
pub mod gap;
pub mod modality;
pub mod peers;
pub mod phantom;
pub mod process;
pub mod relay;
pub mod seeded;
pub mod voucher;
pub mod wait;
pub mod world;
