//! Mend: what rots on the box's disk is found, never given out, and comes back from the hub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::phantom::{Instance, Phantom};
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig, words};
use store::rusqlite::{Connection, OpenFlags};
use study::StudyUid;

use crate::programs;

const DAMAGED: u16 = 15;
const CHUNKS_WANTED: u16 = 16;

const DEADLINE: Duration = Duration::from_secs(60);

/// How many bytes apart bits turn over in a segment: so that none of its larger records is spared.
const APART_BYTES: usize = 20_000;

fn segments(world: &World, program: &str, family: &str) -> Vec<PathBuf> {
    let folder = world.path(program).join("segments");
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let of_family = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(family)
    };
    let mut paths: Vec<_> = paths.filter(of_family).collect();
    paths.sort();
    paths
}

/// Turns bits over where the file lies, all along it.
fn rot(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    for at in (100..bytes.len()).step_by(APART_BYTES) {
        bytes[at] ^= 1;
    }
    std::fs::write(path, bytes).unwrap();
}

fn damaged(world: &World, study: &StudyUid) -> u64 {
    let view = world.study_at_agent(study).unwrap().unwrap();
    view["damaged"].as_u64().unwrap()
}

/// No instance is given out that is not the one that was sent; says how many are.
fn given_out(world: &World, instances: &[Instance]) -> usize {
    let given = instances.iter().filter(|sent| {
        let got = world.get_from_agent(&sent.sop);
        got.is_ok_and(|got| {
            kit::world::same(sent, &got).unwrap();
            true
        })
    });
    given.count()
}

/// How many facts of a kind the box's journal has at the hub.
fn said(world: &World, kind: u16) -> u64 {
    let index = world.path("hub").join("index.sqlite");
    let sql = Connection::open_with_flags(index, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = "SELECT count(*) FROM record WHERE author = stream AND kind = ?1";
    sql.query_row(count, [kind], |row| row.get(0)).unwrap()
}

fn scrub(world: &World) -> kit::process::Finished {
    world.agent_command(words(["scrub"], [])).unwrap()
}

#[test]
fn what_rots_after_custody_has_passed_comes_back_from_the_hub_by_itself() {
    let link = Profile::steady(8_000, 8_000, 20, 0.01);
    let mut world = World::start(programs(), WorldConfig::on(link)).unwrap();
    let phantom = Phantom::small(7);
    let (study, instances) = (phantom.study(), phantom.instances());
    let sending = world.modality().unwrap().send(&instances);
    sending.complete(instances.len()).unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    assert_eq!(scrub(&world).code, Some(0));

    world.relay().switch(false).unwrap();
    segments(&world, "agent", "packed")
        .iter()
        .for_each(|path| rot(path));
    let found = scrub(&world);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(damaged(&world, &study) > 0);
    assert!(given_out(&world, &instances) < instances.len());

    world.relay().switch(true).unwrap();
    until(DEADLINE, "the hub to give back what was lost", || {
        (damaged(&world, &study) == 0).then_some(())
    })
    .unwrap();
    world.agent_has_exactly(&instances).unwrap();
    let found = scrub(&world);
    assert_eq!(found.code, Some(0), "{found:?}");
    // Damage and asking, and that it is whole and nothing is wanted any more.
    until(DEADLINE, "the box's journal to say so at the hub", || {
        let both = said(&world, DAMAGED) >= 2 && said(&world, CHUNKS_WANTED) >= 2;
        both.then_some(())
    })
    .unwrap();
    // Nothing of it was the hub's loss.
    world.hub_has_exactly(&instances).unwrap();
    assert!(world.take_agent().unwrap().stop().unwrap().success());
    world.start_agent().unwrap();
    world.agent_has_exactly(&instances).unwrap();
}

#[test]
fn what_rots_before_custody_has_passed_is_an_alarm_and_is_never_given_out() {
    let link = Profile::steady(8_000, 8_000, 20, 0.0);
    let mut world = World::start(programs(), WorldConfig::on(link)).unwrap();
    world.relay().switch(false).unwrap();
    let rotten = Phantom::small(8);
    let (study, instances) = (rotten.study(), rotten.instances());
    let sending = world.modality().unwrap().send(&instances);
    sending.complete(instances.len()).unwrap();
    until(DEADLINE, "the study to be packed", || {
        let packed = segments(&world, "agent", "intake").is_empty()
            && !segments(&world, "agent", "packed").is_empty();
        packed.then_some(())
    })
    .unwrap();
    segments(&world, "agent", "packed")
        .iter()
        .for_each(|path| rot(path));
    assert_eq!(scrub(&world).code, Some(1));
    assert!(damaged(&world, &study) > 0);

    // It holds up nobody else.
    let sound = Phantom::small(9);
    let others = sound.instances();
    let sending = world.modality().unwrap().send(&others);
    sending.complete(others.len()).unwrap();
    world.relay().switch(true).unwrap();
    world
        .wait_at_agent(&sound.study(), "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&others).unwrap();
    assert_ne!(
        world.study_at_agent(&study).unwrap().unwrap()["custody"],
        "at_hub"
    );
    assert!(given_out(&world, &instances) < instances.len());
    assert_eq!(scrub(&world).code, Some(1));
}

#[test]
fn what_rots_at_the_hub_after_its_receipt_comes_again_from_the_box_by_itself() {
    let link = Profile::steady(8_000, 8_000, 20, 0.01);
    let mut world = World::start(programs(), WorldConfig::on(link)).unwrap();
    let phantom = Phantom::small(10);
    let (study, instances) = (phantom.study(), phantom.instances());
    let sending = world.modality().unwrap().send(&instances);
    sending.complete(instances.len()).unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    segments(&world, "hub", "packed")
        .iter()
        .for_each(|path| rot(path));
    assert!(world.hub_has_exactly(&instances).is_err());

    let check = || world.hub_command(words(["check"], [])).unwrap();
    let found = check();
    assert_ne!(found.code, Some(0), "{found:?}");
    until(
        DEADLINE,
        "the box to give again what the hub has lost",
        || world.hub_has_exactly(&instances).ok(),
    )
    .unwrap();
    let found = check();
    assert_eq!(found.code, Some(0), "{found:?}");
    let view = world.study_at_agent(&study).unwrap().unwrap();
    assert_eq!(view["custody"], "at_hub");
}
