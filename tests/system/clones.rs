//! Clones: a box whose disk was set back, and two boxes with one disk.

use std::path::Path;
use std::time::Duration;

use kit::phantom::Phantom;
use kit::process::{Role, Running};
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig, words};
use serde_json::Value;

use crate::programs;

const DEADLINE: Duration = Duration::from_secs(90);

fn start() -> World {
    let link = Profile::steady(8_000, 8_000, 20, 0.0);
    World::start(programs(), WorldConfig::on(link)).unwrap()
}

/// Copies what is in a folder, as whoever copies a disk does.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// Sends a study and waits until the hub has custody of it.
fn cross(world: &mut World, seed: u64) {
    let phantom = Phantom::small(seed);
    let instances = phantom.instances();
    let sending = world.modality().unwrap().send(&instances);
    sending.complete(instances.len()).unwrap();
    let study = phantom.study();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&instances).unwrap();
}

/// The first unit that the hub has doubts about, once it is as wanted.
fn in_doubt(world: &World, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = until(DEADLINE, "the hub to have doubts", || {
        let args = words(["study", "list", "--json"], []);
        last = world.hub_command(args).ok()?.json().ok()?;
        let unit = &last["units_in_doubt"][0];
        wanted(unit).then(|| unit.clone())
    });
    found.unwrap_or_else(|error| panic!("{error:#}: {last}"))
}

fn wait_for_journal(world: &World, state: &str) {
    until(DEADLINE, "the box to know", || {
        (world.agent_status().ok()?["journal"] == state).then_some(())
    })
    .unwrap();
}

#[test]
fn a_box_whose_disk_was_set_back_is_noticed_and_its_studies_go_on_crossing() {
    let mut world = start();
    cross(&mut world, 1);
    assert_eq!(world.agent_status().unwrap()["journal"], "ok");
    world.take_agent().unwrap().stop().unwrap();
    let (disk, image) = (world.path("agent"), world.path("image"));
    copy(&disk, &image);
    world.start_agent().unwrap();
    cross(&mut world, 2);
    world.take_agent().unwrap().stop().unwrap();

    // Somebody puts the older image back.
    std::fs::remove_dir_all(&disk).unwrap();
    copy(&image, &disk);
    world.start_agent().unwrap();
    wait_for_journal(&world, "set_back");
    let unit = in_doubt(&world, |unit| unit["journal"] == "set_back");
    assert_eq!(unit["hub_journal"], "ok");
    let list = world.hub_command(words(["study", "list"], [])).unwrap();
    let list = list.success().unwrap();
    assert!(list.contains("set back or cloned: quarantine it"), "{list}");

    // What it captures is a patient's all the same.
    cross(&mut world, 3);

    // It has written on, so that there are two histories now.
    world.take_agent().unwrap().stop().unwrap();
    world.start_agent().unwrap();
    wait_for_journal(&world, "forked");
    in_doubt(&world, |unit| unit["journal"] == "forked");
}

#[test]
fn two_boxes_with_one_disk_are_noticed() {
    let mut world = start();
    cross(&mut world, 1);
    world.take_agent().unwrap().stop().unwrap();
    copy(&world.path("agent"), &world.path("clone"));
    world.start_agent().unwrap();
    cross(&mut world, 2);

    // While both call, even before either says anything new.
    let mut command = programs().command(Role::Agent);
    command.args(["serve", "--dicom-port", "0", "--console-port", "0"]);
    command
        .args(["--hub", &world.relay().address().to_string(), "--data"])
        .arg(world.path("clone"));
    let clone = Running::start(command, Role::Agent, &world.path("clone.log")).unwrap();
    let unit = in_doubt(&world, |unit| {
        unit["doubled_calls"].as_u64().is_some_and(|n| n > 0) && unit["journal"] == "set_back"
    });
    assert!(unit["advice"].as_str().unwrap().contains("quarantine"));
    clone.kill().unwrap();
}
