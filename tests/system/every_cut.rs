//! The power goes at every single write, sync, rename and unlink of a vault, one after the other.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kit::fault_fs::{FaultFs, Loss};
use kit::process::{Finished, finish};

use crate::lone::{campaign_seed, report};

const DEADLINE: Duration = Duration::from_secs(60);

fn run(verb: &str, folder: &Path, promised: &[&str]) -> anyhow::Result<Finished> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vault-walk"));
    command.arg(verb).arg(folder).args(promised);
    finish(command, DEADLINE)
}

/// Every cut of a whole walk through intake, packing, receipts, a report and letting go; after each
/// the vault opens again, has all it promised byte for byte, and comes to the same end.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn wherever_the_power_goes_nothing_promised_is_lost() {
    let seed = campaign_seed();
    let (mut cut_at, mut promises) = (1, 0);
    loop {
        let ground = tempfile::tempdir().unwrap();
        let mounted = ground.path().join("disk");
        std::fs::create_dir(&mounted).unwrap();
        let mut disk = FaultFs::mount(&mounted).unwrap();
        let folder = mounted.join("box");
        disk.cut_after(cut_at);
        let walked = run("walk", &folder, &[]).unwrap();
        // The power may also go while the program closes its files.
        let reached_the_end = !disk.is_dark();
        let promised: Vec<&str> = walked.stdout.lines().collect();
        promises += promised.len();
        assert!(
            walked.code == Some(0) || !reached_the_end,
            "{}",
            walked.stderr
        );
        // Half of the cuts lose all that was not synced, half of them some of it.
        let loss = match cut_at % 2 {
            0 => Loss::Everything,
            _ => Loss::Torn {
                seed: seed ^ cut_at,
            },
        };
        disk.power_on(loss).unwrap();
        let looked = run("look", &folder, &promised).unwrap();
        assert_eq!(
            looked.code,
            Some(0),
            "seed {seed}, power cut at operation {cut_at} after {promised:?}: {}",
            looked.stderr
        );
        if reached_the_end {
            break;
        }
        cut_at += 1;
    }
    report(&format!(
        "every cut: {cut_at} operations of a vault, each with a power cut, {promises} promises, none broken"
    ));
    assert!(cut_at > 50, "only {cut_at} operations were cut");
}
