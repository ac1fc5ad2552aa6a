//! Drives `sync-proto` over QUIC, or over TLS where no UDP passes: who may talk, one connection,
//! and everything said on it.
//!
//! In: a node key, addresses, an allow-list; a session machine and the node's disk. Out: links to
//! proven peers, a driven session and why it ended.
//! Invariant: nothing is read from a peer before it has proved its key and was admitted; whatever
//! is announced as held was stored durably first, because the machine is told so only then.
//! May not: decide what is sent, when to call, whom to admit, or what a record means.

#![forbid(unsafe_code)]

mod close;
mod controller;
mod dial;
mod endpoint;
mod enrol;
mod gate;
mod line;
mod link;
mod listen;
mod local;
mod profile;
mod recent;
mod roads;
mod run;
mod shelf;
mod tcp;
mod tls;
mod wake;
mod watch;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(test)]
mod lab;
#[cfg(test)]
mod tests;

pub use close::End;
pub use dial::{Backoff, DialError, Dialer};
pub use enrol::{ENROL_BYTES_MAX, EnrolCall, EnrolError};
pub use link::{Link, Road, Traffic};
pub use listen::{Admission, Call, Listener, Refusal};
pub use local::{Local, LocalError};
pub use profile::{Control, Hint, LinkProfile};
pub use roads::{HubAddress, Roads, RoadsConfig, TlsPorts};
pub use run::{Ended, run};
pub use shelf::{Arrival, Found, Kept, Piece, Shelf, ShelfError, Taken};
