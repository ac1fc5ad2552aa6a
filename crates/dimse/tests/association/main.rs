//! The provider against our own user role and against raw sockets with hand-made PDUs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod hostile;
mod limits;
mod negotiation;
mod services;
mod stop;
mod store;
