//! One file with which a stranger checks images and report, without the box and without a network.

use std::path::Path;
use std::time::Duration;

use kit::phantom::{Phantom, write_folder};
use kit::process::{Finished, Programs, Role};
use kit::relay::Profile;
use kit::world::{Consent, World, WorldConfig, words};
use serde_json::Value;

use crate::programs;

const DEADLINE: Duration = Duration::from_secs(60);

fn export(world: &World, study: &str, to: &Path) -> Finished {
    let args = words(["proof", "export", study, "-o"], [to.to_owned()]);
    world.agent_command(args).unwrap()
}

/// What the stranger runs: no folder of a box is named.
fn verify<const N: usize>(proof: &Path, options: [&str; N]) -> Finished {
    let args = words(["proof", "verify"], [proof.to_owned()]).chain(words(options, []));
    let args: Vec<_> = args.collect();
    Programs::run(&programs(), Role::Agent, &args).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_stranger_checks_images_and_report_with_one_file() {
    let world = World::start(programs(), WorldConfig::on(Profile::none()));
    let mut world = world.unwrap();
    let phantom = Phantom::small(21);
    let (study, instances) = (phantom.study(), phantom.instances());
    let (proof, folder) = (world.path("proof"), world.path("images"));
    let images = folder.to_str().unwrap().to_owned();
    write_folder(&folder, &instances).unwrap();

    let sent = world.modality().unwrap().send(&instances);
    sent.complete(instances.len()).unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    let filed = world.file_report(&study, "No acute finding in a phantom.");
    filed.unwrap().success().unwrap();
    world
        .wait_at_agent(&study, "report", "final", DEADLINE)
        .unwrap();

    // The same while the box runs and while it does not, but for when it was made.
    let running = export(&world, study.as_str(), &proof);
    assert_eq!(running.stderr, "");
    running.success().unwrap();
    assert!(world.take_agent().unwrap().stop().unwrap().success());
    assert!(world.take_hub().unwrap().stop().unwrap().success());
    let alone = world.path("alone");
    export(&world, study.as_str(), &alone).success().unwrap();
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert_eq!(size(&alone), size(&proof));

    let list = words(["list"], [world.path("fleet")]).chain(words(["--json"], []));
    let list = world.provision(list).unwrap().json().unwrap();
    let fleet = list["fleet"].as_str().unwrap();
    let said = verify(&proof, [&images, "--fleet", fleet]);
    let said = said.success().unwrap();
    assert!(said.contains("No acute finding in a phantom."), "{said}");
    assert!(said.contains("papers and images are unaltered"), "{said}");

    let said = verify(&proof, ["--json"]).json().unwrap();
    assert_eq!(said["fleet"], fleet);
    assert_eq!(said["study_instance_uid"], study.as_str());
    assert_eq!(said["instances"], instances.len());
    assert_eq!(said["reports"][0]["report"]["status"], "final");
    assert_eq!(said["folder"], Value::Null);
    assert_eq!(said["not_shown"], serde_json::json!([]));
    let other = "0".repeat(64);
    let refused = verify(&proof, ["--fleet", &other]).failure(1).unwrap();
    assert!(refused.contains("another fleet"), "{refused}");

    // A bit of an image, a missing image, a bit of a paper.
    let first = folder.join("0001.dcm");
    flip(&first, instances[0].file.len() - 1);
    let refused = verify(&proof, [&images]).failure(1).unwrap();
    assert!(refused.contains(instances[0].sop.as_str()), "{refused}");
    std::fs::remove_file(&first).unwrap();
    let said = verify(&proof, [&images, "--json"]);
    assert_eq!(said.code, Some(1));
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    let missing = &said["folder"]["missing"];
    assert_eq!(missing.as_array().unwrap().len(), 1);
    assert_eq!(missing[0]["sop_instance_uid"], instances[0].sop.as_str());
    let bytes = std::fs::read(&proof).unwrap();
    let finding = b"No acute finding";
    let at = bytes.windows(finding.len()).position(|w| w == finding);
    flip(&proof, at.unwrap());
    let refused = verify(&proof, []).failure(1).unwrap();
    assert!(refused.contains("report no. 1"), "{refused}");
}

#[test]
fn a_proof_of_what_has_not_crossed_says_so_and_waits_for_consent() {
    let config = WorldConfig {
        consent: Consent::Ask,
        ..WorldConfig::on(Profile::none())
    };
    let mut world = World::start(programs(), config).unwrap();
    let phantom = Phantom::small(22);
    let (study, instances) = (phantom.study(), phantom.instances());
    let proof = world.path("proof");
    let unknown = export(&world, study.as_str(), &proof).failure(1).unwrap();
    assert!(unknown.contains("no study"), "{unknown}");
    // The fleet document comes with the first contact.
    kit::wait::until(DEADLINE, "the fleet document", || {
        world
            .path("agent")
            .join("fleet.cose")
            .exists()
            .then_some(())
    })
    .unwrap();
    assert!(world.take_hub().unwrap().stop().unwrap().success());

    let sent = world.modality().unwrap().send(&instances);
    sent.complete(instances.len()).unwrap();
    let refused = export(&world, study.as_str(), &proof).failure(1).unwrap();
    assert!(refused.contains("waits for consent"), "{refused}");
    assert!(!proof.exists());

    let consent = words(
        ["consent", study.as_str(), "--basis", "spoken", "--by", "AB"],
        [],
    );
    world.agent_command(consent).unwrap().success().unwrap();
    let exported = kit::wait::until(DEADLINE, "the whole study in a revision", || {
        let exported = export(&world, study.as_str(), &proof);
        let is_whole = exported.code == Some(0)
            && !exported.stderr.contains("in no revision yet")
            && !exported.stderr.contains("the end of the study");
        is_whole.then_some(exported)
    });
    assert!(exported.unwrap().stderr.contains("the hub's receipt"));
    let folder = world.path("images");
    write_folder(&folder, &instances).unwrap();
    let images = folder.to_str().unwrap();
    let said = verify(&proof, [images, "--json"]).json().unwrap();
    assert_eq!(said["receipts"], serde_json::json!([]));
    let not_shown = said["not_shown"].to_string();
    assert!(not_shown.contains("the hub's receipt"), "{not_shown}");
}
