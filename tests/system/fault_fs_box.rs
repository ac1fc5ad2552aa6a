//! A box on the fault file system: what it acknowledged is there when the power is back.

use std::net::SocketAddr;

use kit::fault_fs::FaultFs;
use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::seeded::Seeded;

use crate::fault_fs::{
    INDEX_LOG, INTAKE, ROUNDS, SEGMENTS, Tally, loss, seen_to_lose, unless_dark,
};
use crate::lone::{Lone, campaign_length, campaign_seed, report};
use crate::programs;

/// Associations that send at the same time.
const ASSOCIATIONS: usize = 3;

/// Instances of a round; each is tried once.
const INSTANCES: u16 = 48;

/// A round takes about so many operations, and a start.
const OPERATIONS_OF_A_ROUND: u64 = 900;
const OPERATIONS_OF_A_START: u64 = 40;

const SETTINGS: [(&str, &str); 4] = [
    // So that cuts meet packing and new segments as well as intake.
    ("AGENT__PACK__BATCH_INSTANCES", "4"),
    ("AGENT__PACK__BATCH_DELAY", "50ms"),
    ("AGENT__INTAKE__QUIET_PERIOD", "300ms"),
    ("AGENT__VAULT__SEGMENT_BYTES", "128 KiB"),
];

/// A box that loses its power once in each round. With `deaf`, syncs of what is named so are not
/// done.
///
/// An error when something that was acknowledged is not there.
fn life(seed: u64, rounds: u64, deaf: Option<&str>, tally: &mut Tally) -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let mounted = place.path().join("disk");
    std::fs::create_dir(&mounted)?;
    let mut disk = FaultFs::mount(&mounted)?;
    if let Some(part) = deaf {
        disk.ignore_syncs_of(part);
    }
    let mut unit = Lone::new(programs(), disk.path(), place.path(), &SETTINGS);
    let mut dice = Seeded::new(seed);
    let mut held: Vec<Instance> = Vec::new();
    for round in 0..rounds {
        let before = disk.operations();
        let while_starting = dice.below(4) == 0;
        if while_starting {
            disk.cut_after(1 + dice.below(OPERATIONS_OF_A_START));
        }
        let started = unit.start();
        if !disk.is_dark() {
            started?;
            unless_dark(&disk, unit.look_at(&held))?;
            tally.looked_at += held.len() as u64;
            if !while_starting {
                disk.cut_after(1 + dice.below(OPERATIONS_OF_A_ROUND));
            }
            let fresh = fresh(seed << 16 | round);
            let acknowledged = send(unit.dicom(), &fresh);
            tally.acknowledged += acknowledged.len() as u64;
            held.extend(acknowledged);
            unit.kill();
        } else if started.is_ok() {
            unit.kill();
        } else {
            tally.at_start += 1;
        }
        tally.rounds += 1;
        tally.at_operation += u64::from(disk.is_dark());
        tally.operations += disk.operations() - before;
        disk.power_on(loss(&mut dice))?;
    }
    unit.start()?;
    unit.look_at(&held)?;
    tally.looked_at += held.len() as u64;
    unit.kill();
    Ok(())
}

/// Slices of two studies, of which one takes many pages.
fn fresh(seed: u64) -> Vec<Instance> {
    let of = |side, seed| Phantom {
        seed,
        slices: INSTANCES / 2,
        side,
    };
    let (small, large) = (of(48, seed), of(144, seed));
    (0..INSTANCES / 2)
        .flat_map(|slice| [small.slice(slice), large.slice(slice)])
        .collect()
}

/// Sends over several associations until all is answered or the box is dead; gives what it
/// acknowledged.
fn send(address: SocketAddr, instances: &[Instance]) -> Vec<Instance> {
    let scan = |share: &[Instance]| {
        let mut held = Vec::new();
        Modality::new(address)
            .unwrap()
            .send_watched(share, |instance, answer| {
                if answer.status.is_success() {
                    held.push(instance.clone());
                }
            });
        held
    };
    std::thread::scope(|scope| {
        let shares = instances.chunks(instances.len().div_ceil(ASSOCIATIONS));
        let scanners: Vec<_> = shares.map(|share| scope.spawn(|| scan(share))).collect();
        scanners
            .into_iter()
            .flat_map(|scanner| scanner.join().unwrap())
            .collect()
    })
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_box_holds_what_it_acknowledged_whichever_operation_the_power_goes_at() {
    let (first, length) = (campaign_seed(), campaign_length());
    let mut tally = Tally::default();
    report(&format!(
        "fault fs, box: seeds {first} to {}",
        first + length - 1
    ));
    for seed in first..first + length {
        life(seed, ROUNDS, None, &mut tally)
            .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        report(&format!("fault fs, box: seed {seed}: so far {tally:?}"));
    }
    tally.keeps_the_promise(length);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_box_whose_index_is_not_synced_is_seen_to_lose_it() {
    // Its segments are synced: what the index held can be had back, by a person who asks for it.
    let in_words = ["is held in this box", "the index is missing or empty"];
    seen_to_lose("a box without syncs of its index", &in_words, |seed| {
        life(seed, ROUNDS, Some(INDEX_LOG), &mut Tally::default())
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_box_whose_segments_are_not_synced_is_seen_to_lose_what_it_acknowledged() {
    // A segment without bytes is removed when the box starts.
    let in_words = ["is held in this box", "does not exist", "is damaged"];
    seen_to_lose("a box without syncs of its segments", &in_words, |seed| {
        life(seed, ROUNDS, Some(INTAKE), &mut Tally::default())
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_box_whose_folder_is_not_synced_is_seen_to_lose_what_it_acknowledged() {
    let in_words = ["is held in this box", "does not exist"];
    seen_to_lose("a box without syncs of its folder", &in_words, |seed| {
        life(seed, ROUNDS, Some(SEGMENTS), &mut Tally::default())
    });
}
