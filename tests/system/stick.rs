//! A stick in a truck: studies to the hub, receipts and reports back, with no link or beside one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::phantom::{Instance, Phantom};
use kit::process::Finished;
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{Consent, World, WorldConfig, words};
use serde_json::Value;
use study::StudyUid;

use crate::counts::repeated_in_all;
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(60);
const PIN: &str = "4711-long-enough";

/// A stick is any folder.
fn stick(world: &World, name: &str) -> PathBuf {
    let path = world.path(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn bundle<const W: usize>(verb: &str, stick: &Path, more: [&str; W]) -> Vec<OsString> {
    let args = words(["bundle", verb], [stick.to_owned()]);
    args.chain(words(more, [])).collect()
}

fn export_box(world: &World, stick: &Path) -> Value {
    let args = bundle("export", stick, ["--json", "--part-size", "64 KiB"]);
    let output = world.agent_command(args).unwrap().json().unwrap();
    assert_eq!(output["safe_to_remove"], true);
    output
}

fn export_hub(world: &World, stick: &Path) -> Value {
    let args = bundle("export", stick, ["--json"]);
    world.hub_command(args).unwrap().json().unwrap()
}

fn import_box(world: &World, stick: &Path) -> Value {
    let args = bundle("import", stick, ["--json", "--remove-imported"]);
    world.agent_command(args).unwrap().json().unwrap()
}

fn import_hub(world: &World, stick: &Path) -> Value {
    let args = bundle("import", stick, ["--json"]);
    world.hub_command(args).unwrap().json().unwrap()
}

fn states(output: &Value) -> Vec<&str> {
    let bundles = output["bundles"].as_array().unwrap();
    bundles
        .iter()
        .map(|line| line["state"].as_str().unwrap())
        .collect()
}

fn send(world: &mut World, instances: &[Instance]) {
    let sent = world.modality().unwrap().send(instances);
    sent.complete(instances.len()).unwrap();
}

/// One trip of the truck, there and back.
fn trip(world: &World, stick: &Path) {
    export_box(world, stick);
    import_hub(world, stick);
    export_hub(world, stick);
    import_box(world, stick);
}

/// Has the truck drive until the box says that the hub has the study.
fn drive(world: &World, stick: &Path, study: &StudyUid) {
    let arrived = until(DEADLINE, "custody to come back by stick", || {
        trip(world, stick);
        let view = world.study_at_agent(study).ok()??;
        (view["custody"] == "at_hub").then_some(view)
    });
    assert_eq!(arrived.unwrap()["percent_at_hub"], 100);
}

/// A box that a voucher was carried to, with a PIN, on a link that is down for good.
fn never_linked(consent: Consent) -> World {
    let mut config = WorldConfig::on(Profile::steady(8_000, 8_000, 20, 0.0));
    config.consent = consent;
    let mut world = World::without_unit(programs(), config).unwrap();
    world.relay().switch(false).unwrap();
    let (voucher, pin) = (world.voucher().unwrap(), world.path("pin"));
    fs::write(&pin, PIN).unwrap();
    let args = words(["enrol", "--offline", "--voucher"], [voucher]);
    let args = args.chain(words(["--pin-file"], [pin]));
    let enrolled = world.agent_command(args).unwrap().success().unwrap();
    assert_eq!(enrolled.trim(), "request_pending");
    world.start_agent().unwrap();
    world
}

fn unlock(world: &World) -> Finished {
    let args = words(["pin", "unlock", "--pin-file"], [world.path("pin")]);
    world.agent_command(args).unwrap()
}

#[test]
fn a_box_that_never_had_a_link_is_enrolled_emptied_and_answered_by_stick() {
    let mut world = never_linked(Consent::Emergency);
    let phantom = Phantom::small(71);
    let (study, instances) = (phantom.study(), phantom.instances());
    send(&mut world, &instances);
    let stick = stick(&world, "stick");
    drive(&world, &stick, &study);
    world.hub_has_exactly(&instances).unwrap();
    let status = world.agent_status().unwrap();
    assert_eq!(status["vault"], "locked", "no PIN was needed for any of it");
    assert_eq!(status["enrolled"], true);

    world
        .file_report(&study, "no bleeding")
        .unwrap()
        .success()
        .unwrap();
    trip(&world, &stick);
    unlock(&world).success().unwrap();
    world
        .wait_at_agent(&study, "report", "final", DEADLINE)
        .unwrap();
    let args = words(["report", "print", study.as_str()], []);
    let printed = world.agent_command(args).unwrap().success().unwrap();
    assert!(
        printed.contains("no bleeding") && printed.contains("A. Reader"),
        "{printed}"
    );

    // The same stick again changes nothing; what was imported is known by its first bytes.
    let again = import_hub(&world, &stick);
    assert!(
        states(&again)
            .iter()
            .all(|state| *state == "known" || *state == "not_for_us")
    );
    assert_eq!(world.relay().counters().unwrap().up.delivered, 0);
}

#[test]
fn what_waits_for_consent_stays_and_a_revoked_box_is_not_listened_to() {
    let mut world = never_linked(Consent::Ask);
    let phantom = Phantom::small(72);
    let study = phantom.study();
    send(&mut world, &phantom.instances());
    until(DEADLINE, "the study to be packed", || {
        let view = world.study_at_agent(&study).ok()??;
        (view["revision"].as_u64()? > 0).then_some(())
    })
    .unwrap();
    let (before, after) = (stick(&world, "before"), stick(&world, "after"));
    let output = export_box(&world, &before);
    assert_eq!(output["bundles"][0]["revisions"], 0);
    let consent = ["consent", study.as_str(), "--basis", "spoken", "--by", "AB"];
    world
        .agent_command(words(consent, []))
        .unwrap()
        .success()
        .unwrap();
    let output = export_box(&world, &after);
    assert!(output["bundles"][0]["revisions"].as_u64().unwrap() > 0);

    assert_eq!(states(&import_hub(&world, &before)), ["imported"]);
    let unit = world.agent_status().unwrap()["unit"]
        .as_str()
        .unwrap()
        .to_owned();
    let revoke =
        words(["revoke"], [world.path("fleet")]).chain(words([&unit, "--reason", "stolen"], []));
    world.provision(revoke).unwrap().success().unwrap();
    world.apply_fleet().unwrap();
    let refused = world.hub_command(bundle("import", &after, [])).unwrap();
    let printed = refused.stdout.clone();
    refused.failure(1).unwrap();
    assert!(
        printed.contains("REFUSED") && printed.contains("was revoked"),
        "{printed}"
    );
    assert!(world.study_at_hub(&study).unwrap().is_none());
}

/// How often the hub has passed custody, and how often of a revision that it had passed before.
fn custody_passed(world: &mut World) -> (usize, usize) {
    let log = world.hub().unwrap().log().unwrap();
    let lines = log.lines().filter(|line| line.contains("custody passed"));
    let words = |line: &str| {
        line.split_once("custody passed")
            .map(|(_, rest)| rest.to_owned())
    };
    let all: Vec<String> = lines.filter_map(words).collect();
    let different: BTreeSet<&String> = all.iter().collect();
    (all.len(), all.len() - different.len())
}

/// A box with a link, and a study that it has not sent yet.
fn cut_off(seed: u64) -> (World, StudyUid, Vec<Instance>) {
    let profile = Profile::steady(8_000, 8_000, 20, 0.0);
    let mut world = World::start(programs(), WorldConfig::on(profile)).unwrap();
    world.relay().switch(false).unwrap();
    let phantom = Phantom::small(seed);
    let (study, instances) = (phantom.study(), phantom.instances());
    send(&mut world, &instances);
    until(DEADLINE, "the study to be packed", || {
        let view = world.study_at_agent(&study).ok()??;
        (view["revision"].as_u64()? > 0).then_some(())
    })
    .unwrap();
    (world, study, instances)
}

#[test]
fn what_came_by_stick_is_not_sent_again_by_link() {
    let (mut world, study, instances) = cut_off(73);
    let stick = stick(&world, "stick");
    until(DEADLINE, "the hub to have all of it", || {
        export_box(&world, &stick);
        import_hub(&world, &stick);
        let view = world.study_at_hub(&study).ok()??;
        (view["custody"] == "at_hub").then_some(())
    })
    .unwrap();
    let before = world.relay().counters().unwrap().up.delivered_bytes;
    world.relay().switch(true).unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&instances).unwrap();
    let by_link = world.relay().counters().unwrap().up.delivered_bytes - before;
    let bytes = world.study_at_agent(&study).unwrap().unwrap()["bytes_to_cross"].as_u64();
    assert!(
        by_link < bytes.unwrap() / 2,
        "{by_link} of {bytes:?} crossed by link"
    );
    assert_eq!(custody_passed(&mut world).1, 0);
    assert_eq!(repeated_in_all(&mut world), Some(0));
}

#[test]
fn what_came_by_link_counts_once_when_the_stick_comes_later() {
    let (mut world, study, instances) = cut_off(74);
    let stick = stick(&world, "stick");
    export_box(&world, &stick);
    world.relay().switch(true).unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    let passed = custody_passed(&mut world);
    let line = import_hub(&world, &stick)["bundles"][0].clone();
    assert_eq!(line["state"], "imported");
    assert_eq!(
        (line["revisions"].as_u64(), line["records"].as_u64()),
        (Some(0), Some(0))
    );
    assert!(line["revisions_known"].as_u64().unwrap() > 0);
    world.hub_has_exactly(&instances).unwrap();
    assert_eq!(custody_passed(&mut world), passed);
    // An old bundle is no sign of a disk that was set back.
    assert_eq!(world.agent_status().unwrap()["journal"], "ok");
    let doubts = world
        .hub_command(words(["study", "list", "--json"], []))
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(doubts["units_in_doubt"].as_array().unwrap().len(), 0);
}

#[test]
fn half_by_link_and_the_rest_by_stick_is_one_study() {
    let profile = Profile::steady(1_000, 1_000, 50, 0.0);
    let mut world = World::start(programs(), WorldConfig::on(profile)).unwrap();
    let phantom = Phantom {
        seed: 75,
        slices: 24,
        side: 256,
    };
    let (study, instances) = (phantom.study(), phantom.instances());
    send(&mut world, &instances);
    until(DEADLINE, "half of it to cross", || {
        let view = world.study_at_agent(&study).ok()??;
        (view["percent_at_hub"].as_u64()? >= 40).then_some(())
    })
    .unwrap();
    world.relay().switch(false).unwrap();
    let stick = stick(&world, "stick");
    until(DEADLINE, "the hub to have all of it", || {
        export_box(&world, &stick);
        import_hub(&world, &stick);
        let view = world.study_at_hub(&study).ok()??;
        (view["custody"] == "at_hub").then_some(())
    })
    .unwrap();
    world.hub_has_exactly(&instances).unwrap();
    world.relay().switch(true).unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    assert_eq!(custody_passed(&mut world).1, 0);
    assert_eq!(repeated_in_all(&mut world), Some(0));
}

#[test]
fn what_is_no_stick_or_no_bundle_is_named() {
    let world = never_linked(Consent::Emergency);
    let said = |verb, path: &Path| {
        let finished = world.agent_command(bundle(verb, path, [])).unwrap();
        finished.failure(1).unwrap()
    };
    let missing = said("export", &world.path("nothing"));
    assert!(
        missing.contains("is the stick plugged in and mounted?"),
        "{missing}"
    );
    assert!(said("export", &world.path("pin")).contains("is not a folder"));
    let empty = stick(&world, "empty");
    let nothing = world.agent_command(bundle("import", &empty, [])).unwrap();
    assert_eq!(nothing.success().unwrap(), "no bundle on it\n");
    let exported = world.agent_command(bundle("export", &empty, [])).unwrap();
    assert!(exported.stderr.contains("is the stick mounted there?"));
    assert!(exported.success().unwrap().ends_with("safe to remove\n"));
    // The box's own bundle is for the hub; a torn one for the hub is refused in words.
    let own = world.agent_command(bundle("import", &empty, [])).unwrap();
    assert!(own.success().unwrap().contains("left alone: 1"));
    let folder = fs::read_dir(empty.join("CHASQUI"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let part = folder.join("PART0001.AGE");
    let bytes = fs::read(&part).unwrap();
    fs::write(&part, &bytes[..bytes.len() - 1]).unwrap();
    let torn = world.hub_command(bundle("import", &empty, [])).unwrap();
    assert!(torn.stdout.contains("REFUSED"), "{}", torn.stdout);
    torn.failure(1).unwrap();
    let size = bundle("export", &empty, ["--part-size", "5 GiB"]);
    world.agent_command(size).unwrap().failure(64).unwrap();
}
