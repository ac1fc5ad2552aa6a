//! The reading hub: takes studies in from the boxes, keeps them, and sends signed reports back.
//!
//! In: boxes over the link, people and scripts over HTTP and the command line. Out: exact
//! instances, signed receipts, signed reports.
//! Invariant: what the hub says it holds is on its disk, synced, before it says so.
//! May not: hold a radiologist's key, send one unit's records to another.

#![forbid(unsafe_code)]

pub mod cli;

mod access;
mod archive;
#[cfg(test)]
mod bench;
mod bundles;
#[cfg(test)]
mod canaries;
mod config;
mod db;
mod desk;
mod dicom;
mod fleet;
mod inbox;
mod ledger;
mod outbox;
mod report;
mod run;
mod web;

/// The program and its version, as records and greetings say it.
const SOFTWARE: &str = concat!("chasqui-hub ", env!("CARGO_PKG_VERSION"));

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
