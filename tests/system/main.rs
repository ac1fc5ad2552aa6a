//! System tests: the programs as processes of their own, each test named after a promise.
//!
//! Tests that need other people's programs are ignored by default and say which one they need;
//! `tests/run` installs those and runs all.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod airtime;
mod attack;
mod ballast;
mod clocks;
mod clones;
mod counts;
mod disk_full;
mod duplicates;
mod durability;
mod every_cut;
mod fault_fs;
mod fault_fs_box;
mod fault_fs_hub;
mod fault_fs_own;
mod fleet;
mod flips;
mod forged_reports;
mod gap;
mod impostor;
mod kills;
mod link;
mod lone;
mod mend;
mod one_study;
mod order;
mod peers;
mod proof;
mod refusals;
mod resume;
mod roads;
mod sealed;
mod services;
mod small_disk;
mod stick;
mod stick_media;
mod strangers;

use kit::process::Programs;

/// The binary that is all programs.
fn programs() -> Programs {
    Programs::at(env!("CARGO_BIN_EXE_chasqui-all"))
}
