//! Disk full: a small file system of its own runs out of blocks or of inodes under the box.
//!
//! `CHASQUI_CAMPAIGN=N` makes the campaign N times as long, `CHASQUI_SEED=S` lets it begin with
//! another seed.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use dimse::Status;
use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::seeded::Seeded;
use kit::wait::until;

use crate::lone::{Lone, campaign_length, campaign_seed, renamed, report};
use crate::programs;
use crate::small_disk::SmallDisk;

/// Runs of a campaign of length 1; every second one runs out of inodes.
const RUNS: u64 = 2;

const DEADLINE: Duration = Duration::from_secs(60);

const DISK_BYTES: u64 = 48 << 20;
/// Bytes that the ballast leaves to the box.
const LEFT_BYTES: u64 = 6 << 20;

/// Inodes of the file system; mkfs rounds up.
const INODES: u32 = 256;

const ASSOCIATIONS: u16 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    Space,
    Inodes,
}

/// What fills the disk beside the box, and is taken away later.
struct Ballast(PathBuf);

impl Ballast {
    fn lay(disk: &SmallDisk, shortage: Shortage, left: u64) -> Self {
        let folder = disk.path().join("ballast");
        std::fs::create_dir(&folder).unwrap();
        match shortage {
            Shortage::Space => {
                let bytes = disk.free().1 - LEFT_BYTES;
                let mut file = File::create(folder.join("blocks")).unwrap();
                file.write_all(&vec![1; usize::try_from(bytes).unwrap()])
                    .unwrap();
                file.sync_all().unwrap();
            }
            Shortage::Inodes => {
                for number in 0.. {
                    if disk.free().0 <= left {
                        break;
                    }
                    File::create(folder.join(format!("{number}"))).unwrap();
                }
            }
        }
        Self(folder)
    }

    fn drop_it(self) {
        std::fs::remove_dir_all(self.0).unwrap();
    }
}

/// What came of sending until nothing is taken any more.
#[derive(Default)]
struct Sent {
    held: Vec<Instance>,
    refused: Vec<Instance>,
}

/// Eight associations send studies of their own, each until it was refused four times.
fn send_until_refused(unit: &mut Lone, seed: u64, side: u16) -> Sent {
    let address = unit.dicom();
    let send = |number: u16| {
        let mut sent = Sent::default();
        let phantom = Phantom {
            seed: seed << 8 | u64::from(number),
            slices: 12,
            side,
        };
        let (slice, study) = (phantom.slice(5), phantom.study());
        let named = |number: u16, index: u16| {
            let (study_end, end) = (format!("{number:03}"), format!("{number:03}{index}"));
            let endings = [(slice.sop.as_str(), &*end), (study.as_str(), &*study_end)];
            renamed(&slice, &endings)
        };
        for number in 0..200 {
            // A study and an association for every four, as studies make new segments.
            let instances: Vec<_> = (0..4).map(|index| named(number, index)).collect();
            let sending = Modality::new(address).unwrap().send(&instances);
            assert!(sending.broken.is_none(), "{:?}", sending.broken);
            for (instance, answer) in instances.into_iter().zip(sending.answers) {
                match answer.status {
                    Status::SUCCESS => sent.held.push(instance),
                    Status::OUT_OF_RESOURCES => sent.refused.push(instance),
                    _ => panic!("{answer:?}"),
                }
            }
            if sent.refused.len() >= 4 {
                return sent;
            }
        }
        panic!("the disk never was full");
    };
    let send = &send;
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..ASSOCIATIONS)
            .map(|number| scope.spawn(move || send(number)))
            .collect();
        let mut all = Sent::default();
        for sender in senders {
            let sent = sender.join().unwrap();
            all.held.extend(sent.held);
            all.refused.extend(sent.refused);
        }
        all
    })
}

fn run(seed: u64, shortage: Shortage) -> String {
    let mut dice = Seeded::new(seed);
    let place = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(place.path(), DISK_BYTES, INODES);
    // Without a reserve it is the disk that says no, and not the box before it.
    let reserve = ["0", "5"][usize::from(dice.below(4) == 0)];
    let settings = [
        ("AGENT__VAULT__RESERVE_PERCENT", reserve),
        ("AGENT__VAULT__SEGMENT_BYTES", "1 MiB"),
        ("AGENT__PACK__BATCH_INSTANCES", "4"),
        ("AGENT__PACK__BATCH_DELAY", "200ms"),
        ("AGENT__INTAKE__QUIET_PERIOD", "500ms"),
    ];
    let mut unit = Lone::new(programs(), disk.path(), place.path(), &settings);
    unit.start().unwrap();
    let first = Phantom::small(seed).instances();
    unit.modality().send(&first).complete(first.len()).unwrap();
    let ballast = Ballast::lay(&disk, shortage, dice.below(20));
    let side = [64, 192, 512][usize::try_from(dice.below(3)).unwrap()];
    let sent = send_until_refused(&mut unit, seed, side);
    let full = disk.free();
    let held = || first.iter().chain(&sent.held);
    unit.has_exactly(held());

    // The promise: it goes on by itself.
    assert_eq!(unit.running().ended().unwrap(), None, "it still runs");
    let killed = dice.below(2) == 0;
    if killed {
        // The processor loses its power while the disk is full; that may be too full to begin.
        unit.kill();
        if let Err(error) = unit.start() {
            let error = format!("{error:#}");
            assert!(error.contains("No space left"), "{error}");
            report(&format!(
                "disk full: seed {seed}: it does not start: {shortage:?}"
            ));
            ballast.drop_it();
            unit.start().unwrap();
        } else {
            unit.has_exactly(held());
            ballast.drop_it();
        }
    } else {
        ballast.drop_it();
    }
    let some = &sent.refused[..4];
    unit.modality().send(some).complete(some.len()).unwrap();
    unit.has_exactly(held().chain(some));
    all_packed(&unit);
    unit.kill();
    unit.start().unwrap();
    unit.has_exactly(held().chain(some));
    unit.stop();
    format!(
        "{shortage:?}, slices of {side}, reserve {reserve} %: {} held, {} refused with {} inodes and {} bytes free",
        first.len() + sent.held.len() + some.len(),
        sent.refused.len(),
        full.0,
        full.1,
    )
}

/// Packing, too, goes on by itself.
fn all_packed(unit: &Lone) {
    let packed = until(DEADLINE, "packing", || {
        let status = unit.status();
        let mut studies = status["studies"].as_array()?.iter();
        studies
            .all(|s| s["bytes_held"] == s["bytes_to_cross"] && s["set_aside"] == 0)
            .then_some(())
    });
    packed.unwrap_or_else(|error| panic!("{error}: {:#}", unit.status()));
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    let first = campaign_seed();
    for seed in first..first + RUNS * campaign_length() {
        let shortage = if seed.is_multiple_of(2) {
            Shortage::Inodes
        } else {
            Shortage::Space
        };
        report(&format!("disk full: seed {seed}: begins"));
        let outcome = run(seed, shortage);
        report(&format!("disk full: seed {seed}: {outcome}"));
    }
}
