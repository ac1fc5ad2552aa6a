//! Flips: one bit on a disk turns over, and what is damaged is never given out as good.
//!
//! `CHASQUI_CAMPAIGN=N` makes the campaign N times as long (20: the figures of the promise),
//! `CHASQUI_SEED=S` lets it begin with another seed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::process::{Finished, Role, Running};
use kit::relay::Profile;
use kit::seeded::Seeded;
use kit::wait::until;
use kit::world::{World, WorldConfig, words};
use study::SopInstanceUid;

use crate::lone::{Lone, campaign_length, campaign_seed, renamed, report, write_list};
use crate::programs;

/// Flips of a campaign of length 1, in each of the two folders.
const FLIPS: u64 = 100;

/// Every so many flips the program is made to serve, which must end in `ready` or in words.
const SERVE_EVERY: u64 = 10;

const WORKERS: u64 = 2;

const DEADLINE: Duration = Duration::from_secs(60);

/// How far from a UID those flips lie that shall hit what the index says of an instance.
const BESIDE_UID_BYTES: u64 = 100;

/// The folder of a program that was killed, and what it must give out.
struct Still {
    role: Role,
    folder: PathBuf,
    kept: BTreeMap<SopInstanceUid, Instance>,
    /// Files in which a bit may turn over; the index is named twice, as it has no digests.
    files: Vec<PathBuf>,
}

/// How the flips were taken.
#[derive(Debug, Default)]
struct Tally {
    flips: u64,
    /// Every instance was given out as it was.
    harmless: u64,
    /// Something was refused in words.
    found: u64,
    /// Instances that were said to be damaged or unreadable.
    instances_refused: u64,
    /// Instances of which the program said that it never had them.
    instances_forgotten: u64,
    serves_refused: u64,
    /// Segments that a program let go because of a flip.
    segments_gone: u64,
}

impl Still {
    fn new(role: Role, folder: PathBuf, kept: Vec<Instance>) -> Self {
        let index = folder.join("index.sqlite");
        let wal = folder.join("index.sqlite-wal");
        assert!(
            wal.metadata().unwrap().len() > 0,
            "it was not ended in order"
        );
        let segments = segments(&folder);
        let files = std::iter::repeat_n([index, wal], segments.len())
            .flatten()
            .chain(segments);
        Self {
            role,
            files: files.collect(),
            folder,
            kept: kept.into_iter().map(|i| (i.sop.clone(), i)).collect(),
        }
    }

    /// A file and a bit of it.
    fn place(&self, dice: &mut Seeded) -> (PathBuf, u64) {
        let pick =
            |dice: &mut Seeded, count: usize| usize::try_from(dice.below(count as u64)).unwrap();
        let file = self.files[pick(dice, self.files.len())].clone();
        let bytes = std::fs::read(&file).unwrap();
        let uid = self.kept.keys().nth(pick(dice, self.kept.len())).unwrap();
        let uid = uid.as_str().as_bytes();
        let named: Vec<_> = bytes
            .windows(uid.len())
            .enumerate()
            .filter(|(_, window)| *window == uid)
            .map(|(at, _)| at as u64)
            .collect();
        let length = bytes.len() as u64;
        let byte = match dice.below(4) {
            _ if named.is_empty() => dice.below(length),
            0 => dice.below(length),
            // The UID's last digit: one bit makes another instance's UID of it.
            1 => named[pick(dice, named.len())] + uid.len() as u64 - 1,
            _ => {
                let row = named[pick(dice, named.len())];
                let span = uid.len() as u64 + 2 * BESIDE_UID_BYTES;
                (row.saturating_sub(BESIDE_UID_BYTES) + dice.below(span)).min(length - 1)
            }
        };
        (file, byte * 8 + dice.below(8))
    }

    /// Turns one bit over in a copy of the folder and looks at what the program then says.
    fn flip(&self, seed: u64, serve: bool, tally: &Mutex<Tally>) {
        let (file, bit) = self.place(&mut Seeded::new(seed));
        let name = file.strip_prefix(&self.folder).unwrap();
        let what = format!("seed {seed}: bit {bit} of {}", name.display());
        let place = memory_folder();
        let copy = place.path().join("copy");
        copy_folder(&self.folder, &copy);
        turn(&copy.join(name), bit);

        let running = serve.then(|| self.serve(&copy, place.path()));
        let mut seen = Tally {
            flips: 1,
            ..Tally::default()
        };
        seen.serves_refused = u64::from(matches!(running, Some(None)));
        self.ask_for_all(&copy, place.path(), &what, &mut seen);
        if let Some(Some(mut running)) = running {
            assert_eq!(running.ended().unwrap(), None, "{what}: it still serves");
        }
        let left = segments(&copy);
        let gone = segments(&self.folder)
            .iter()
            .filter(|path| !left.contains(&copy.join(path.strip_prefix(&self.folder).unwrap())))
            // A program that serves goes on packing, and lets go what it has packed.
            .filter(|_| !serve)
            .count();
        let refused = seen.instances_refused + seen.instances_forgotten;
        let mut tally = tally.lock().unwrap();
        tally.flips += 1;
        tally.harmless += u64::from(refused == 0 && seen.serves_refused == 0);
        tally.found += u64::from(refused + seen.serves_refused > 0);
        tally.instances_refused += seen.instances_refused;
        tally.instances_forgotten += seen.instances_forgotten;
        tally.serves_refused += seen.serves_refused;
        tally.segments_gone += gone as u64;
        if seen.instances_forgotten > 0 {
            report(&format!(
                "flips: {what}: {} forgotten, {gone} segments gone",
                seen.instances_forgotten
            ));
        }
    }

    /// Lets the program serve; none when it says in words why it does not.
    fn serve(&self, copy: &Path, place: &Path) -> Option<Running> {
        let mut command = programs().command(self.role);
        command.args(["serve", "--dicom-port", "0"]);
        match self.role {
            Role::Agent => command.args(["--console-port", "0"]),
            Role::Hub | Role::Provision | Role::Relay => {
                command.args(["--link-port", "0", "--web-port", "0"])
            }
        };
        command.arg("--data").arg(copy);
        let log = place.join("log");
        match Running::start(command, self.role, &log) {
            Ok(running) => Some(running),
            Err(error) => {
                let said = std::fs::read_to_string(log).unwrap();
                assert!(said.contains("chasqui-"), "{error}: in words: {said}");
                assert!(!said.contains("panicked"), "{said}");
                None
            }
        }
    }

    /// Asks for every instance; after a refusal goes on behind it.
    fn ask_for_all(&self, copy: &Path, place: &Path, what: &str, seen: &mut Tally) {
        let mut left: Vec<_> = self.kept.keys().collect();
        let (list, output) = (place.join("list"), place.join("got"));
        while !left.is_empty() {
            // The program asks for them in the order of the list, which is that of their names.
            write_list(&list, left.iter().copied());
            std::fs::create_dir_all(&output).unwrap();
            let data = words(["--data"], [copy.to_owned()]);
            let args = words(["get", "--list"], [list.clone()])
                .chain(words(["-o"], [output.clone()]))
                .chain(data);
            let args: Vec<_> = args.collect();
            let finished = programs().run(self.role, &args).unwrap();
            let given = self.compare(&output, what);
            std::fs::remove_dir_all(&output).unwrap();
            if finished.code == Some(0) {
                assert_eq!(given, left.len(), "{what}: it gives all or says so");
                return;
            }
            in_words(&finished, what);
            let forgotten =
                finished.stderr.contains("is held") || finished.stderr.contains("no instance");
            seen.instances_forgotten += u64::from(forgotten);
            seen.instances_refused += u64::from(!forgotten);
            left.drain(..=given);
        }
    }

    /// How many files there are; each must be what was kept under its name.
    fn compare(&self, output: &Path, what: &str) -> usize {
        let files = std::fs::read_dir(output).unwrap();
        let files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        for file in &files {
            let name = file.file_stem().and_then(OsStr::to_str).unwrap();
            let asked = SopInstanceUid::parse(name).unwrap();
            let exact = std::fs::read(file).unwrap() == self.kept[&asked].file;
            assert!(exact, "{what}: other bytes are given out as {asked}");
        }
        files.len()
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("segments")).unwrap();
    let mut segments: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    segments
}

/// A refusal is one exit code of the contract and a line that says why.
fn in_words(finished: &Finished, what: &str) {
    let known = matches!(finished.code, Some(1 | 70 | 78));
    let said = &finished.stderr;
    assert!(known && !said.is_empty(), "{what}: {finished:?}");
    assert!(!said.contains("panicked"), "{what}: {said}");
}

/// Copies are many and need not last.
fn memory_folder() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Everything but what SQLite makes anew, and sockets.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_dir() {
            copy_folder(&path, &to.join(name));
        } else if path.is_file() && name != "index.sqlite-shm" {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

fn turn(file: &Path, bit: u64) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
    std::fs::write(file, bytes).unwrap();
}

fn campaign(still: &Still) -> Tally {
    let tally = Mutex::default();
    let first = campaign_seed();
    let end = first + FLIPS * campaign_length();
    let name = format!("{:?}", still.role);
    report(&format!("flips: {name}: seeds {first} to {}", end - 1));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let tally = &tally;
            scope.spawn(move || {
                for seed in (first..end).filter(|seed| seed % WORKERS == worker) {
                    still.flip(seed, seed.is_multiple_of(SERVE_EVERY), tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    report(&format!("flips: {name}: {tally:?}"));
    tally
}

/// Slices of a study and their neighbours, whose UIDs differ from theirs in one bit, as the UIDs
/// of many scanners do.
fn slices(seed: u64, count: u16) -> Vec<Instance> {
    let phantom = phantom(seed);
    (0..count)
        .map(|index| phantom.slice(index))
        .flat_map(|slice| [neighbour(&slice), slice])
        .collect()
}

fn phantom(seed: u64) -> Phantom {
    Phantom {
        seed,
        slices: 12,
        side: 32,
    }
}

fn neighbour(slice: &Instance) -> Instance {
    let uid = slice.sop.as_str();
    // The digits are paired so: 0 and 1, 2 and 3 and so on.
    let digit = char::from(uid.as_bytes()[uid.len() - 1] ^ 1);
    let mut neighbour = renamed(slice, &[(uid, &digit.to_string())]);
    // The last byte is one of a pixel.
    *neighbour.file.last_mut().unwrap() ^= 1;
    neighbour
}

fn store(modality: Modality, instances: &[Instance]) {
    let sending = modality.send(instances);
    sending.complete(instances.len()).unwrap();
}

/// What the programs themselves give out while all is well.
fn as_kept(sent: &[Instance], get: impl Fn(&SopInstanceUid) -> Instance) -> Vec<Instance> {
    let one = |sent: &Instance| {
        let got = get(&sent.sop);
        kit::world::same(sent, &got).unwrap();
        got
    };
    sent.iter().map(one).collect()
}

#[test]
fn no_flipped_bit_in_a_box_is_ever_given_out() {
    let place = tempfile::tempdir().unwrap();
    let settings = [
        ("AGENT__PACK__BATCH_INSTANCES", "12"),
        ("AGENT__PACK__BATCH_DELAY", "1h"),
        ("AGENT__INTAKE__QUIET_PERIOD", "1h"),
    ];
    let mut unit = Lone::new(programs(), place.path(), place.path(), &settings);
    unit.start().unwrap();
    let mut sent = slices(1, 6);
    store(unit.modality(), &sent);
    let packed = |unit: &Lone, study: usize| {
        until(DEADLINE, "packing", || {
            (unit.status()["studies"][study]["revision"] == 1).then_some(())
        })
        .unwrap();
    };
    packed(&unit, 0);
    // In order: these are in the index itself, what follows is in its WAL.
    unit.stop();
    unit.start().unwrap();
    // The third study is too small to be packed.
    let more = [slices(2, 6), slices(3, 2)].concat();
    store(unit.modality(), &more);
    packed(&unit, 1);
    sent.extend(more);
    let kept = as_kept(&sent, |sop| unit.copies(sop, 1).remove(0));
    unit.kill();

    let still = Still::new(Role::Agent, unit.folder().to_owned(), kept);
    let tally = campaign(&still);
    assert!(tally.found > 0 && tally.harmless > 0, "{tally:?}");
}

#[test]
fn no_flipped_bit_in_a_hub_is_ever_given_out() {
    let mut world = World::start(programs(), WorldConfig::on(Profile::none())).unwrap();
    let mut sent = Vec::new();
    for seed in [1, 2] {
        let study = slices(seed, 6);
        store(world.modality().unwrap(), &study);
        let uid = phantom(seed).study();
        world
            .wait_at_agent(&uid, "custody", "at_hub", DEADLINE)
            .unwrap();
        sent.extend(study);
        if seed == 1 {
            // In order: this one is in the index itself, the other in its WAL.
            assert!(world.take_hub().unwrap().stop().unwrap().success());
            world.start_hub().unwrap();
        }
    }
    let kept = as_kept(&sent, |sop| world.get_from_hub(sop).unwrap());
    world.take_hub().unwrap().kill().unwrap();

    let still = Still::new(Role::Hub, world.path("hub"), kept);
    let tally = campaign(&still);
    assert!(tally.found > 0 && tally.harmless > 0, "{tally:?}");
}
