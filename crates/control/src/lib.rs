//! Control: one program per data folder, and how commands reach it.
//!
//! In: requests of commands that name the same folder. Out: the program's replies.
//! Invariant: two writers never meet in one folder; only the folder's owner (and root) is listened to.
//! May not: know what a request means, believe a length before the bytes have come, let one client hold up another.
//!
//! A program takes the [`FolderLock`], then binds a [`Server`]. A command calls [`ask`]; if nobody listens, it
//! takes the lock and does the work itself.
//!
//! # On the wire
//!
//! The socket is `control.sock` in the folder, a stream, mode 0600. A connection carries one request and one reply.
//!
//! | who | bytes | what |
//! |---|---|---|
//! | command | 4 | length of the request, big-endian; at most 16 MiB |
//! | | | the request, JSON |
//! | program | 4 | length of the reply's head, big-endian; at most 64 MiB |
//! | | | the head, JSON: `exit` (0-255), `output` (anything), `error` (text or null), `body_bytes` (number) |
//! | | `body_bytes` | the body |
//!
//! A request that is too long or no JSON is replied to with `exit` 64. One that is not there after 10 seconds, and a
//! reply that is not taken for 30 seconds, end the connection.

#![forbid(unsafe_code)]

mod ask;
mod error;
mod lock;
mod reply;
mod server;

#[cfg(test)]
mod tests;

pub use ask::ask;
pub use error::ControlError;
pub use lock::{FolderLock, LockError};
pub use reply::Reply;
pub use server::Server;

/// How long a request may be.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

const HEAD_BYTES_MAX: usize = 64 << 20;
const SOCKET: &str = "control.sock";
