//! One study, all the way: scanner, box, link, hub, report, box.

use std::time::Duration;

use kit::phantom::Phantom;
use kit::relay::Profile;
use kit::world::{World, WorldConfig, words};

use crate::programs;

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_study_reaches_the_hub_byte_for_byte_and_its_report_comes_back() {
    let link = Profile::steady(4_000, 4_000, 50, 0.01);
    let mut world = World::start(programs(), WorldConfig::on(link)).unwrap();
    let phantom = Phantom::small(1);
    let instances = phantom.instances();
    let study = phantom.study();

    let modality = world.modality().unwrap();
    assert!(modality.echo().unwrap().is_success());
    modality.send(&instances).complete(instances.len()).unwrap();
    world.agent_has_exactly(&instances).unwrap();

    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&instances).unwrap();
    let at_hub = world.study_at_hub(&study).unwrap().unwrap();
    assert_eq!(at_hub["instances"], instances.len());
    assert_eq!(at_hub["readable"], true);

    world
        .file_report(&study, "No acute finding in a phantom.")
        .unwrap()
        .success()
        .unwrap();
    world
        .wait_at_agent(&study, "report", "final", DEADLINE)
        .unwrap();
    let print = world
        .agent_command(words(["report", "print", study.as_str()], []))
        .unwrap();
    assert!(
        print
            .success()
            .unwrap()
            .contains("No acute finding in a phantom.")
    );

    assert!(world.take_agent().unwrap().stop().unwrap().success());
    assert!(world.take_hub().unwrap().stop().unwrap().success());
}
