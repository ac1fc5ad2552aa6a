//! What one session does, seen through its public face.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod breaches;
mod checkpoints;
mod exchange;
mod hand;
mod sending;
mod taking;
mod turns;
