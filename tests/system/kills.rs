//! Kills: box, hub or relay lose their power at random moments of a transfer, and nothing that was
//! acknowledged is lost, and nothing that the hub held is sent again.
//!
//! `CHASQUI_CAMPAIGN=N` makes the campaign N times as long, `CHASQUI_SEED=S` plays one seed again.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::relay::Profile;
use kit::seeded::Seeded;
use kit::wait::until;
use kit::world::{World, WorldConfig};
use serde_json::Value;
use study::StudyUid;

use crate::counts::{RelayBytes, repeated_in_all};
use crate::programs;

const LENGTH_VARIABLE: &str = "CHASQUI_CAMPAIGN";
const SEED_VARIABLE: &str = "CHASQUI_SEED";

/// Seeds of a campaign of length 1.
const SEEDS: u64 = 6;

/// For all that must come at last, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(90);

/// What may cross twice for each kill: what had left and was not durable when it happened. That is
/// the link's product of rate and round trip and its queue (12 kB each), what the hub gathers
/// before it syncs (200 ms, 25 kB), and a new handshake and greeting (8 kB).
const BYTES_PER_KILL: u64 = 56 << 10;

/// Packet headers, acknowledgements, journal and manifests, in percent of the chunks.
const OVERHEAD_PERCENT: u64 = 10;
/// The same, whatever the size of the study.
const OVERHEAD_BYTES: u64 = 24 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Box,
    Hub,
    Relay,
}

/// When it happens.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After so long.
    After(Duration),
    /// Right on the scanner's next acknowledgement.
    Acknowledged,
}

#[derive(Debug, Clone, Copy)]
struct Strike {
    moment: Moment,
    victim: Victim,
    /// How long it stays without power.
    dark: Duration,
}

impl Strike {
    fn draw(dice: &mut Seeded) -> Self {
        let victim = match dice.below(3) {
            0 => Victim::Box,
            1 => Victim::Hub,
            _ => Victim::Relay,
        };
        let moment = match dice.below(3) {
            0 => Moment::Acknowledged,
            _ => Moment::After(Duration::from_millis(dice.below(1_500))),
        };
        let dark = Duration::from_millis(dice.below(800));
        Self {
            moment,
            victim,
            dark,
        }
    }
}

/// A scanner that sends until the box has acknowledged everything, over as many associations as
/// that takes; at its own pace, as slices are made one after the other.
struct Scanner {
    address: Arc<Mutex<Option<SocketAddr>>>,
    acknowledged: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Scanner {
    fn start(instances: Vec<Instance>, mut dice: Seeded) -> Self {
        let address = Arc::new(Mutex::new(None));
        let (told, acknowledged) = channel();
        let seen = address.clone();
        let thread = std::thread::spawn(move || scan(&instances, &seen, &told, || dice.below(250)));
        Self {
            address,
            acknowledged,
            thread,
        }
    }

    /// Tells it where the box is, if anywhere.
    fn point_to(&self, address: Option<SocketAddr>) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Waits for the moment; an acknowledgement that comes no more is not waited for.
    fn wait(&self, moment: Moment) {
        match moment {
            Moment::Acknowledged => {
                while self.acknowledged.try_recv().is_ok() {}
                let _ = self.acknowledged.recv_timeout(Duration::from_secs(2));
            }
            Moment::After(length) => pass(length),
        }
    }

    /// Waits until everything is acknowledged.
    fn finish(self) {
        let waited = until(DEADLINE, "every acknowledgement", || {
            self.thread.is_finished().then_some(())
        });
        waited.unwrap();
        self.thread.join().unwrap();
    }
}

fn scan(
    instances: &[Instance],
    address: &Mutex<Option<SocketAddr>>,
    told: &Sender<()>,
    mut gap_ms: impl FnMut() -> u64,
) {
    let begun = Instant::now();
    let mut held = BTreeSet::new();
    while held.len() < instances.len() && begun.elapsed() < DEADLINE {
        let Some(address) = *address.lock().unwrap_or_else(PoisonError::into_inner) else {
            pass(Duration::from_millis(20));
            continue;
        };
        let left: Vec<_> = instances
            .iter()
            .filter(|i| !held.contains(&i.sop))
            .cloned()
            .collect();
        let sending = Modality::new(address)
            .unwrap()
            .send_watched(&left, |instance, answer| {
                if answer.status.is_success() {
                    held.insert(instance.sop.clone());
                    // Nobody listens any more when the strikes are over.
                    let _ = told.send(());
                }
                pass(Duration::from_millis(gap_ms()));
            });
        if sending.broken.is_some() {
            pass(Duration::from_millis(50));
        }
    }
    assert_eq!(held.len(), instances.len(), "not everything was taken");
}

/// Lets time pass: the pace of a scanner, the moment of a strike.
fn pass(length: Duration) {
    let (_open, never) = channel::<()>();
    assert_eq!(never.recv_timeout(length), Err(RecvTimeoutError::Timeout));
}

/// What happened, and what it took.
#[derive(Default)]
struct Tally {
    strikes: Vec<Strike>,
    bytes_to_cross: u64,
    bytes_up: u64,
    /// None when the hub does not count.
    repeated_bytes: Option<u64>,
}

impl Tally {
    fn kills(&self, victim: Victim) -> usize {
        self.strikes.iter().filter(|s| s.victim == victim).count()
    }

    fn bytes_allowed(&self) -> u64 {
        self.bytes_to_cross * (100 + OVERHEAD_PERCENT) / 100
            + OVERHEAD_BYTES
            + BYTES_PER_KILL * self.strikes.len() as u64
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} kills ({} box, {} hub, {} relay), {} bytes to cross, {} crossed of {} allowed, {} repeated",
            self.strikes.len(),
            self.kills(Victim::Box),
            self.kills(Victim::Hub),
            self.kills(Victim::Relay),
            self.bytes_to_cross,
            self.bytes_up,
            self.bytes_allowed(),
            self.repeated_bytes
                .map_or("not counted".to_owned(), |bytes| bytes.to_string()),
        )
    }
}

fn config(seed: u64) -> WorldConfig {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut config = WorldConfig::on(Profile::steady(1_000, 1_000, 50, 0.01));
    config.seed = seed;
    config.agent_env.extend([
        // Several revisions, so that kills meet manifests as well as chunks.
        set("AGENT__PACK__BATCH_INSTANCES", "4"),
        set("AGENT__PACK__BATCH_DELAY", "500ms"),
        set("AGENT__LINK__REDIAL_DELAY_MAX", "1s"),
    ]);
    config
        .hub_env
        .push(set("HUB__INBOX__PROGRESS_BYTES", "32 KiB"));
    config
}

/// Cuts somebody's power, and gives it back.
fn strike(world: &mut World, scanner: &Scanner, strike: Strike, relay: &mut RelayBytes) {
    scanner.wait(strike.moment);
    match strike.victim {
        Victim::Box => {
            world.take_agent().unwrap().kill().unwrap();
            scanner.point_to(None);
            pass(strike.dark);
            world.start_agent().unwrap();
            let address = world.agent().unwrap().address("dicom").unwrap();
            scanner.point_to(Some(address));
        }
        Victim::Hub => {
            world.take_hub().unwrap().kill().unwrap();
            pass(strike.dark);
            world.start_hub().unwrap();
        }
        Victim::Relay => {
            relay.note(world);
            world.relay().kill().unwrap();
            pass(strike.dark);
            world.relay().restart().unwrap();
        }
    }
}

fn at_hub(world: &World, study: &StudyUid, instances: usize) -> Option<Value> {
    let view = world.study_at_agent(study).ok()??;
    (view["custody"] == "at_hub" && view["instances"] == instances).then_some(view)
}

/// One transfer with its kills, and all that must be true after it.
fn trial(seed: u64) -> Tally {
    let mut dice = Seeded::new(seed);
    let mut world = World::start(programs(), config(seed)).unwrap();
    let phantom = Phantom {
        seed,
        slices: 16,
        side: 256,
    };
    let (study, instances) = (phantom.study(), phantom.instances());
    let scanner = Scanner::start(instances.clone(), dice.clone());
    scanner.point_to(Some(world.agent().unwrap().address("dicom").unwrap()));

    let (mut tally, mut relay) = (Tally::default(), RelayBytes::default());
    for _ in 0..3 + dice.below(4) {
        if at_hub(&world, &study, instances.len()).is_some() {
            break;
        }
        let next = Strike::draw(&mut dice);
        tally.strikes.push(next);
        strike(&mut world, &scanner, next, &mut relay);
    }
    scanner.finish();
    let view = until(DEADLINE, "custody at the hub", || {
        at_hub(&world, &study, instances.len())
    });
    let view = view.unwrap_or_else(|e| {
        panic!(
            "{e}: {:?}, {:?}",
            world.study_at_agent(&study),
            tally.strikes
        )
    });

    end_state(&mut world, &study, &view, &instances);
    relay.note(&mut world);
    tally.bytes_up = relay.up;
    tally.bytes_to_cross = view["bytes_to_cross"].as_u64().unwrap();
    tally.repeated_bytes = repeated_in_all(&mut world);
    tally
}

/// It is the same whoever was killed.
fn end_state(world: &mut World, study: &StudyUid, view: &Value, instances: &[Instance]) {
    world.agent_has_exactly(instances).unwrap();
    world.hub_has_exactly(instances).unwrap();
    assert_eq!(view["percent_at_hub"], 100, "{view}");
    assert_eq!(view["conflicts"], 0, "{view}");
    assert_eq!(view["refused"], Value::Null, "{view}");
    let hub = world.study_at_hub(study).unwrap().unwrap();
    assert_eq!(hub["instances"], instances.len(), "{hub}");
    assert_eq!(hub["custody"], "at_hub", "{hub}");
    assert_eq!(hub["readable"], true, "{hub}");
    assert_eq!(hub["bytes_original"], view["bytes_original"], "{hub}");
    for log in [
        world.agent().unwrap().log().unwrap(),
        world.hub().unwrap().log().unwrap(),
    ] {
        // A power cut is no matter for a person.
        let calls: Vec<_> = log.lines().filter(|l| l.contains(" ERROR ")).collect();
        assert!(calls.is_empty(), "{calls:#?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| {
        panic!("{variable} is a number, not `{text}`");
    }))
}

#[test]
fn kills_lose_nothing_that_was_acknowledged_and_repeat_nothing_that_was_held() {
    let seeds = match number(SEED_VARIABLE) {
        Some(seed) => vec![seed],
        None => (1..=SEEDS * number(LENGTH_VARIABLE).unwrap_or(1)).collect(),
    };
    // Not by the macros, whose text the test runner keeps to itself.
    let mut out = std::io::stderr();
    let count = seeds.len();
    writeln!(
        out,
        "kill campaign: {count} seeds, {SEED_VARIABLE}=N plays one again"
    )
    .unwrap();
    for seed in seeds {
        writeln!(out, "kill campaign: seed {seed}").unwrap();
        let tally = trial(seed);
        writeln!(out, "kill campaign: seed {seed}: {tally}").unwrap();
        assert!(
            tally.bytes_up <= tally.bytes_allowed(),
            "seed {seed}: {tally}"
        );
        assert_eq!(tally.repeated_bytes, Some(0), "seed {seed}: {tally}");
    }
}
