//! A hub on the fault file system: what it gave a receipt for is there when the power is back, and
//! what it lost of the rest is sent again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use kit::fault_fs::FaultFs;
use kit::phantom::{Instance, Phantom};
use kit::process::finish;
use kit::relay::Profile;
use kit::seeded::Seeded;
use kit::wait::until;
use kit::world::{World, WorldConfig};
use study::StudyUid;

use crate::fault_fs::{INDEX_LOG, ROUNDS, Tally, loss, seen_to_lose, unless_dark};
use crate::lone::{campaign_length, campaign_seed, report};
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(120);

/// A round takes about so many operations, and a start.
const OPERATIONS_OF_A_ROUND: u64 = 120;
const OPERATIONS_OF_A_START: u64 = 40;

/// A study of a round, and whether the box has been told that the hub has it.
struct Sent {
    study: StudyUid,
    instances: Vec<Instance>,
    receipted: bool,
}

fn config(seed: u64) -> WorldConfig {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut config = WorldConfig::on(Profile::steady(20_000, 20_000, 5, 0.0));
    config.seed = seed;
    config.agent_env.extend([
        // Several revisions, so that cuts meet manifests and receipts as well as chunks.
        set("AGENT__PACK__BATCH_INSTANCES", "4"),
        set("AGENT__PACK__BATCH_DELAY", "100ms"),
        set("AGENT__LINK__REDIAL_DELAY_MAX", "1s"),
    ]);
    config
        .hub_env
        .push(set("HUB__INBOX__PROGRESS_BYTES", "32 KiB"));
    config
}

/// Puts what lies in a folder on a file system that forgets, and mounts that in its place.
fn move_onto_fault_fs(folder: &Path) -> anyhow::Result<FaultFs> {
    let before = folder.with_extension("before");
    std::fs::rename(folder, &before)?;
    std::fs::create_dir(folder)?;
    let disk = FaultFs::mount(folder)?;
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(before.join(".")).arg(folder);
    finish(copy, DEADLINE)?.success()?;
    disk.sync_all();
    Ok(disk)
}

/// A hub that loses its power once in each round, now and then when everything has its receipt. With
/// `deaf` always then, and syncs of what is named so are not done.
///
/// An error when something is missing that the hub gave a receipt for, or that never comes.
fn life(seed: u64, rounds: u64, deaf: Option<&str>, tally: &mut Tally) -> anyhow::Result<()> {
    let mut world = World::start(programs(), config(seed))?;
    anyhow::ensure!(world.take_hub()?.stop()?.success(), "the hub ends in order");
    let mut disk = move_onto_fault_fs(&world.path("hub"))?;
    if let Some(part) = deaf {
        disk.ignore_syncs_of(part);
    }
    let mut dice = Seeded::new(seed);
    let mut sent: Vec<Sent> = Vec::new();
    for round in 0..rounds {
        let before = disk.operations();
        sent.push(send(&mut world, seed << 16 | round)?);
        let on_receipt = deaf.is_some() || round % 3 == 1;
        if !on_receipt && dice.below(4) == 0 {
            disk.cut_after(1 + dice.below(OPERATIONS_OF_A_START));
        }
        let started = world.start_hub();
        if !disk.is_dark() {
            started?;
            unless_dark(&disk, is_there(&world, &sent, tally))?;
            if !on_receipt {
                disk.cut_after(1 + dice.below(OPERATIONS_OF_A_ROUND));
            }
            wait_for_the_cut(&world, &disk, &sent)?;
        } else {
            tally.at_start += 1;
        }
        tally.at_operation += u64::from(disk.is_dark());
        disk.power_cut();
        if let Ok(hub) = world.take_hub() {
            hub.kill()?;
        }
        note_receipts(&world, &mut sent, tally);
        tally.rounds += 1;
        tally.operations += disk.operations() - before;
        disk.power_on(loss(&mut dice))?;
    }
    world.start_hub()?;
    is_there(&world, &sent, tally)?;
    for sent in &mut sent {
        world.wait_at_agent(&sent.study, "custody", "at_hub", DEADLINE)?;
        sent.receipted = true;
    }
    is_there(&world, &sent, tally)?;
    // Before the folder that it is in is removed.
    world.take_hub()?.kill()?;
    drop(disk);
    Ok(())
}

/// A study that the box acknowledges; its hub need not run.
fn send(world: &mut World, seed: u64) -> anyhow::Result<Sent> {
    let phantom = Phantom {
        seed,
        slices: 10,
        side: 128,
    };
    let instances = phantom.instances();
    world
        .modality()?
        .send(&instances)
        .complete(instances.len())?;
    Ok(Sent {
        study: phantom.study(),
        instances,
        receipted: false,
    })
}

/// Until the power is cut, or there is nothing left at which it could be.
fn wait_for_the_cut(world: &World, disk: &FaultFs, sent: &[Sent]) -> anyhow::Result<()> {
    until(DEADLINE, "the cut, or everything at the hub", || {
        (disk.is_dark() || sent.iter().all(|sent| at_hub(world, &sent.study))).then_some(())
    })
}

fn note_receipts(world: &World, sent: &mut [Sent], tally: &mut Tally) {
    for sent in sent.iter_mut().filter(|sent| !sent.receipted) {
        sent.receipted = at_hub(world, &sent.study);
        tally.acknowledged += u64::from(sent.receipted);
    }
}

fn at_hub(world: &World, study: &StudyUid) -> bool {
    let view = world.study_at_agent(study).unwrap();
    view.is_some_and(|view| view["custody"] == "at_hub")
}

/// An error unless the hub has all that it gave a receipt for.
fn is_there(world: &World, sent: &[Sent], tally: &mut Tally) -> anyhow::Result<()> {
    for sent in sent.iter().filter(|sent| sent.receipted) {
        world
            .hub_has_exactly(&sent.instances)
            .with_context(|| format!("of study {}, which has its receipt", sent.study))?;
        tally.looked_at += sent.instances.len() as u64;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_hub_holds_what_it_receipted_and_gets_again_what_it_lost_before() {
    let (first, length) = (campaign_seed(), campaign_length());
    let mut tally = Tally::default();
    report(&format!(
        "fault fs, hub: seeds {first} to {}",
        first + length - 1
    ));
    for seed in first..first + length {
        life(seed, ROUNDS, None, &mut tally)
            .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        report(&format!("fault fs, hub: seed {seed}: so far {tally:?}"));
    }
    tally.keeps_the_promise(length);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_hub_whose_index_is_not_synced_is_seen_to_lose_what_it_receipted() {
    seen_to_lose(
        "a hub without syncs of its index",
        &["has its receipt"],
        |seed| life(seed, 3, Some(INDEX_LOG), &mut Tally::default()),
    );
}
