//! Order: what is urgent overtakes, whoever says so, and an overview comes before its gaps.

#![expect(clippy::print_stdout, reason = "what was measured is said")]

use std::time::Duration;

use kit::phantom::Phantom;
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig, words};
use serde_json::Value;
use study::StudyUid;

use crate::counts::repeated_in_all;
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(120);

/// A study that is on its way, and takes a while.
fn crossing(profile: Profile, slices: u16) -> (World, Phantom) {
    let mut world = World::start(programs(), WorldConfig::on(profile)).unwrap();
    let large = Phantom {
        seed: 41,
        slices,
        side: 256,
    };
    send(&mut world, &large);
    until(DEADLINE, "a part of the study to be at the hub", || {
        let view = world.study_at_agent(&large.study()).ok()??;
        (view["percent_at_hub"].as_u64()? >= 3).then_some(())
    })
    .unwrap();
    (world, large)
}

/// A study that is packed to its end before the link opens, so that the order is not that of packing;
/// small slices on a thin link, so that it is not that of decoding either.
fn packed() -> (World, Phantom) {
    let profile = Profile::steady(48, 48, 100, 0.0);
    let mut world = World::start(programs(), WorldConfig::on(profile)).unwrap();
    world.relay().switch(false).unwrap();
    let large = Phantom {
        seed: 41,
        slices: 64,
        side: 64,
    };
    send(&mut world, &large);
    until(DEADLINE, "the study to be packed", || {
        let log = world.agent().ok()?.log().ok()?;
        log.contains("closed=true").then_some(())
    })
    .unwrap();
    world.relay().switch(true).unwrap();
    until(DEADLINE, "the study to be known at the hub", || {
        world.study_at_hub(&large.study()).ok()?
    })
    .unwrap();
    (world, large)
}

fn send(world: &mut World, phantom: &Phantom) {
    let instances = phantom.instances();
    let sending = world.modality().unwrap().send(&instances);
    sending.complete(instances.len()).unwrap();
}

fn at_hub(world: &World, study: &StudyUid) {
    world
        .wait_at_agent(study, "custody", "at_hub", DEADLINE)
        .unwrap();
}

fn is_at_hub(world: &World, study: &StudyUid) -> bool {
    let view = world.study_at_agent(study).unwrap().unwrap();
    view["custody"] == "at_hub"
}

/// Tells the hub what is wanted of the box.
fn wish(world: &World, what: &str, study: &StudyUid, more: &[&str]) {
    let args = [&["study", what, study.as_str()][..], more].concat();
    let args = args.into_iter().map(Into::into);
    world.hub_command(args).unwrap().success().unwrap();
}

#[test]
fn the_hub_says_in_the_middle_of_a_transfer_what_is_urgent() {
    let (mut world, large) = crossing(Profile::steady(1_000, 1_000, 100, 0.0), 64);
    let other = Phantom::small(42);
    send(&mut world, &other);
    wish(&world, "priority", &large.study(), &["bulk"]);
    at_hub(&world, &other.study());
    assert!(!is_at_hub(&world, &large.study()));
    let said = world.study_at_agent(&large.study()).unwrap().unwrap();
    assert_eq!(said["priority"], "bulk");

    wish(&world, "priority", &large.study(), &["stat"]);
    world
        .wait_at_agent(&large.study(), "priority", "stat", DEADLINE)
        .unwrap();
    at_hub(&world, &large.study());
    until(DEADLINE, "the box's word at the hub", || {
        let view = world.study_at_hub(&large.study()).ok()??;
        (view["priority"] == "stat").then_some(())
    })
    .unwrap();
    world.hub_has_exactly(&large.instances()).unwrap();
    assert_eq!(repeated_in_all(&mut world), Some(0));
}

/// The slices that can be read at the hub.
fn readable(world: &World, study: &StudyUid) -> Vec<String> {
    let args = words(["study", "show", study.as_str(), "--json"], []);
    let shown: Value = world.hub_command(args).unwrap().json().unwrap();
    let list = shown["studies"][0]["instance_list"].as_array().unwrap();
    list.iter()
        .map(|instance| instance["sop_instance_uid"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_overview_of_the_whole_volume_is_there_before_its_gaps() {
    let (world, large) = packed();
    let study = large.study();
    // Every 8th slice of each of the four groups that the box packs.
    let overview: Vec<String> = (0..64)
        .step_by(8)
        .map(|n| large.sop(n).as_str().to_owned())
        .collect();
    let seen = until(DEADLINE, "the overview", || {
        let seen = readable(&world, &study);
        overview
            .iter()
            .all(|sop| seen.contains(sop))
            .then_some(seen)
    })
    .unwrap();
    assert!(seen.len() < 40, "{} of 64 were there", seen.len());
}

#[test]
fn priors_go_before_the_rest_of_the_bulk_when_the_hub_asks() {
    let (mut world, large) = crossing(Profile::steady(500, 500, 100, 0.0), 48);
    let bulk = [Phantom::small(51), Phantom::small(52)];
    for phantom in &bulk {
        send(&mut world, phantom);
        let args = words(["priority", phantom.study().as_str(), "bulk"], []);
        world.agent_command(args).unwrap().success().unwrap();
    }
    wish(&world, "priors", &large.study(), &[]);
    let log = until(DEADLINE, "the box to look for priors", || {
        let log = world.agent().ok()?.log().ok()?;
        log.contains("priors that are wanted go first")
            .then_some(log)
    })
    .unwrap();
    // Each phantom is a patient of their own.
    assert!(log.contains("priors=0"), "{log}");
}

/// When a program said something of a study, milliseconds of the day.
fn said_at(log: &str, what: &str, study: &StudyUid) -> Option<u64> {
    let of_it = |line: &&str| line.contains(what) && line.contains(study.as_str());
    let stamp = log.lines().find(of_it)?.split(' ').next()?;
    let time = stamp.split_once('T')?.1.get(..12)?;
    let mut parts = time.split([':', '.']).map(str::parse::<u64>);
    let mut next = || parts.next()?.ok();
    let (hours, minutes, seconds, ms) = (next()?, next()?, next()?, next()?);
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + ms)
}

/// From the offer of a STAT study in the middle of a transfer until the hub has its manifest.
fn stat_takes_ms(profile: Profile) -> u64 {
    let (mut world, large) = crossing(profile, 64);
    let stat = Phantom {
        seed: 43,
        slices: 2,
        side: 256,
    };
    send(&mut world, &stat);
    let args = words(["priority", stat.study().as_str(), "stat"], []);
    world.agent_command(args).unwrap().success().unwrap();
    at_hub(&world, &stat.study());
    assert!(!is_at_hub(&world, &large.study()), "it was over already");
    let offered = world.agent().unwrap().log().unwrap();
    let offered = said_at(&offered, "made a revision", &stat.study()).unwrap();
    let heard = world.hub().unwrap().log().unwrap();
    let heard = said_at(&heard, "study offered", &stat.study()).unwrap();
    // Across midnight, too.
    (heard + 86_400_000 - offered) % 86_400_000
}

#[test]
fn stat_is_on_the_wire_within_one_chunk_and_a_round_trip() {
    // A chunk of these slices has less than 48 kB.
    for (name, profile, rate_kbit, rtt_ms) in [
        ("geo", Profile::geo(), 2_000, 600),
        (
            "bgan without loss",
            Profile::steady(256, 384, 450, 0.0),
            256,
            900,
        ),
    ] {
        let took_ms = stat_takes_ms(profile);
        let chunk_ms = 48 * 8 * 1_000 / rate_kbit;
        println!("{name}: {took_ms} ms from the offer at the box to the manifest at the hub");
        assert!(
            took_ms <= rtt_ms / 2 + chunk_ms + rtt_ms,
            "{name}: {took_ms} ms"
        );
    }
}
