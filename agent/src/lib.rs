//! The agent: the program on the field box.
//!
//! An instance travels one way through its rooms: `intake` takes it from the scanner, `vault`
//! holds it, `pack` compresses it, `outbox` says what goes next, `contact` carries it to the hub.
//! `reports` is the way back. `keys` says what seals all this, and who may read it. Rooms know their own state and the words in `study`; they are joined
//! in `run` and nowhere else.

#![forbid(unsafe_code)]

pub mod bundles;
pub mod cli;
pub mod commands;
pub mod config;
pub mod console;
pub mod intake;
pub mod keys;
pub mod membership;
pub mod orders;
pub mod outbox;
pub mod pack;
pub mod pin;
pub mod proof;
pub mod reports;
pub mod status;
pub mod uplink;
pub mod vault;

mod contact;
mod enrol;
mod priors;
mod run;
mod scrub;
