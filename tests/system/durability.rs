//! Durability: the box is killed right when it says that it holds something, and it holds it.
//!
//! `CHASQUI_CAMPAIGN=N` makes the campaign N times as long (20: the figures of the promise),
//! `CHASQUI_SEED=S` lets it begin with another seed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::seeded::Seeded;
use kit::world::words;
use rustix::process::{Pid, Signal, kill_process};

use crate::lone::{Lone, campaign_length, campaign_seed, report};
use crate::programs;
use crate::small_disk::SmallDisk;

/// Rounds of a campaign of length 1.
const ROUNDS: u64 = 16;

/// Rounds after which a new box takes over, as all that a box holds is looked at in every round.
const ROUNDS_OF_A_BOX: u64 = 8;

/// Associations that send at the same time.
const ASSOCIATIONS: usize = 4;

/// Instances that wait to be sent when a round begins.
const WAITING: usize = 56;

/// The box acknowledges at least so many before it is killed, and less than so many more.
const ACKNOWLEDGED_MIN: u64 = 20;
const ACKNOWLEDGED_MORE: u64 = 28;

/// Rounds with a disk that forgets, of a campaign of length 1.
const DARK_ROUNDS: u64 = 8;
const DISK_BYTES: u64 = 96 << 20;
const DISK_INODES: u32 = 1024;

/// Boxes that do not sync and of which one must lose something.
const UNSYNCED_LIVES: u64 = 5;

const SETTINGS: [(&str, &str); 4] = [
    // So that kills meet packing and new segments as well as intake.
    ("AGENT__PACK__BATCH_INSTANCES", "4"),
    ("AGENT__PACK__BATCH_DELAY", "50ms"),
    ("AGENT__INTAKE__QUIET_PERIOD", "300ms"),
    ("AGENT__VAULT__SEGMENT_BYTES", "256 KiB"),
];

/// What the promise counts (issue 3), reached by a campaign of length 20.
const LONG_CAMPAIGN: u64 = 20;
const PROMISED_ROUNDS: u64 = 300;
const PROMISED_ACKNOWLEDGED: u64 = 6_000;

/// When the power goes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// By who got it, as soon as this acknowledgement is there.
    Acknowledged(u64),
    /// So long after that acknowledgement, whatever the box is doing then.
    After(u64, Duration),
}

impl Moment {
    fn draw(round: u64, dice: &mut Seeded) -> Self {
        let count = ACKNOWLEDGED_MIN + dice.below(ACKNOWLEDGED_MORE);
        if round.is_multiple_of(2) {
            return Self::Acknowledged(count);
        }
        Self::After(count, Duration::from_micros(dice.below(60_000)))
    }

    fn count(self) -> u64 {
        match self {
            Self::Acknowledged(count) | Self::After(count, _) => count,
        }
    }
}

/// Four scanners, and somebody at the power switch.
struct Round<'a> {
    address: SocketAddr,
    moment: Moment,
    strike: &'a (dyn Fn() + Sync),
    waiting: Mutex<VecDeque<Instance>>,
    acknowledged: AtomicU64,
}

impl Round<'_> {
    /// Sends until the box is dead; gives what it acknowledged.
    fn run(&self) -> Vec<Instance> {
        std::thread::scope(|scope| {
            let scanners: Vec<_> = (0..ASSOCIATIONS)
                .map(|_| scope.spawn(|| self.scan()))
                .collect();
            scanners
                .into_iter()
                .flat_map(|scanner| scanner.join().unwrap())
                .collect()
        })
    }

    /// One association; what it takes and the box does not acknowledge waits again.
    fn scan(&self) -> Vec<Instance> {
        let mut share = self.take();
        let mut held = Vec::new();
        let modality = Modality::new(self.address).unwrap();
        modality.send_watched(&share, |instance, answer| {
            let before = self.acknowledged.load(Ordering::SeqCst);
            if !answer.status.is_success() {
                // A box whose disk is dark says so, if it still says something.
                assert!(before >= self.moment.count(), "{answer:?}");
                return;
            }
            held.push(instance.clone());
            if self.acknowledged.fetch_add(1, Ordering::SeqCst) + 1 == self.moment.count() {
                if let Moment::After(_, length) = self.moment {
                    std::thread::park_timeout(length);
                }
                (self.strike)();
            }
        });
        share.retain(|instance| held.iter().all(|held| held.sop != instance.sop));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(share);
        held
    }

    fn take(&self) -> Vec<Instance> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let share = waiting.len().min(WAITING / ASSOCIATIONS);
        waiting.drain(..share).collect()
    }
}

/// Slices of two studies, of which one is too large for one write.
fn fresh(seed: u64) -> impl Iterator<Item = Instance> {
    let of = |side, seed| Phantom {
        seed,
        slices: 40,
        side,
    };
    let (small, large) = (of(48, seed), of(144, seed));
    (0..40).flat_map(move |slice| [small.slice(slice), large.slice(slice)])
}

/// What a campaign came to.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    on_acknowledgement: u64,
    acknowledged: u64,
    looked_at: u64,
}

/// What loses its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    /// The processor: the box is killed.
    Processor,
    /// The disk as well: it forgets what was not synced.
    Disk,
    /// The same under a box that believes to sync and does not.
    DiskUnsynced,
}

/// The life of one box; it loses its power at the end of each of its rounds.
///
/// An error when something that was acknowledged is not there.
fn life(seed: u64, rounds: u64, loses: Loses, tally: &mut Tally) -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let disk = (loses != Loses::Processor)
        .then(|| SmallDisk::mount(place.path(), DISK_BYTES, DISK_INODES));
    let folder = disk.as_ref().map_or(place.path(), SmallDisk::path);
    let mut unit = Lone::new(programs(), folder, place.path(), &SETTINGS);
    let mut dice = Seeded::new(seed);
    let (mut held, mut waiting) = (Vec::new(), VecDeque::new());
    for number in 0..rounds {
        if loses == Loses::DiskUnsynced && number == 1 {
            // From here on, as there must be a box that can forget.
            unit.wrap(without_syncs());
        }
        unit.start()?;
        // Of the rounds before.
        unit.look_at(&held)?;
        tally.looked_at += held.len() as u64;

        let missing = WAITING.saturating_sub(waiting.len());
        waiting.extend(fresh(seed << 16 | number).take(missing));
        let moment = Moment::draw(number, &mut dice);
        let switch = disk.as_ref().map(|disk| Mutex::new(disk.switch()));
        let box_pid = pid(unit.running().pid());
        let strike = || match &switch {
            Some(switch) => switch.lock().unwrap().cut(),
            None => kill_process(box_pid, Signal::KILL).unwrap(),
        };
        let round = Round {
            address: unit.dicom(),
            moment,
            strike: &strike,
            waiting: Mutex::new(waiting),
            acknowledged: AtomicU64::new(0),
        };
        let acknowledged = round.run();
        assert!(acknowledged.len() as u64 >= moment.count(), "{moment:?}");
        tally.rounds += 1;
        tally.on_acknowledgement += u64::from(matches!(moment, Moment::Acknowledged(_)));
        tally.acknowledged += acknowledged.len() as u64;
        held.extend(acknowledged);
        waiting = round.waiting.into_inner().unwrap();
        unit.kill();
        drop(switch);
        if let Some(disk) = &disk {
            disk.power_on();
        }
    }
    unit.start()?;
    unit.look_at(&held)?;
    // What was not acknowledged may have come all the same; it is taken again as if it had not.
    let rest: Vec<_> = waiting.into();
    unit.modality().send(&rest).complete(rest.len())?;
    held.extend(rest);
    unit.look_at(&held)?;
    tally.looked_at += held.len() as u64;
    at_the_end(&mut unit, &held, loses);
    Ok(())
}

/// The system says of every sync that it was done, and does none.
fn without_syncs() -> impl Iterator<Item = OsString> {
    let inject = "inject=fsync,fdatasync:retval=0";
    // -D: the box stays our child, so that a kill hits it.
    words(
        ["strace", "-f", "-D", "-q", "-o", "/dev/null", "-e", inject],
        [],
    )
}

fn at_the_end(unit: &mut Lone, held: &[Instance], loses: Loses) {
    let status = unit.status();
    let studies = status["studies"].as_array().unwrap();
    let sum = |word: &str| {
        studies
            .iter()
            .map(|s| s[word].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(sum("instances"), held.len() as u64, "{status}");
    assert_eq!(sum("conflicts"), 0, "{status}");
    assert_eq!(sum("set_aside"), 0, "{status}");
    let log = unit.running().log().unwrap();
    // A power cut is no matter for a person; a disk that fails is.
    let calls: Vec<_> = log.lines().filter(|l| l.contains(" ERROR ")).collect();
    assert!(loses != Loses::Processor || calls.is_empty(), "{calls:#?}");
    unit.stop();
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

#[test]
fn a_box_killed_on_its_acknowledgement_holds_every_byte_it_acknowledged() {
    let length = campaign_length();
    let lives = ROUNDS * length / ROUNDS_OF_A_BOX;
    let first = campaign_seed();
    let mut tally = Tally::default();
    report(&format!(
        "durability: seeds {first} to {}",
        first + lives - 1
    ));
    for seed in first..first + lives {
        life(seed, ROUNDS_OF_A_BOX, Loses::Processor, &mut tally)
            .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        report(&format!("durability: seed {seed}: so far {tally:?}"));
    }
    assert_eq!(tally.on_acknowledgement * 2, tally.rounds);
    if length >= LONG_CAMPAIGN {
        assert!(tally.rounds >= PROMISED_ROUNDS, "{tally:?}");
        assert!(tally.acknowledged >= PROMISED_ACKNOWLEDGED, "{tally:?}");
    }
}

#[test]
#[ignore = "needs root, loop devices and python3"]
fn a_box_whose_disk_forgets_what_was_not_synced_holds_every_byte_it_acknowledged() {
    let first = campaign_seed();
    let lives = DARK_ROUNDS * campaign_length() / ROUNDS_OF_A_BOX;
    let mut tally = Tally::default();
    for seed in first..first + lives {
        life(seed, ROUNDS_OF_A_BOX, Loses::Disk, &mut tally)
            .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        report(&format!("dark disk: seed {seed}: so far {tally:?}"));
    }
}

#[test]
#[ignore = "needs root, loop devices, python3 and strace"]
fn a_box_that_does_not_sync_is_seen_to_lose_what_it_acknowledged() {
    let first = campaign_seed();
    // The index lacks the instance, or leads to where nothing is, or has nothing left itself.
    let gone = [
        "is held in this box",
        "does not exist",
        "is damaged",
        "the index is missing",
    ];
    let lost = (first..first + UNSYNCED_LIVES).find_map(|seed| {
        let error = life(seed, 2, Loses::DiskUnsynced, &mut Tally::default()).err()?;
        let said = format!("seed {seed}: {error:#}");
        gone.iter()
            .any(|words| said.contains(words))
            .then_some(said)
    });
    let lost = lost.expect("the test of the dark disk sees what is not synced");
    report(&format!("dark disk without syncs: {lost}"));
}
