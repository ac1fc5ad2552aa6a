//! Clocks: whatever the wall clock says, nothing is lost, nothing expires, the order stays.

use std::path::Path;
use std::time::Duration;

use kit::phantom::Phantom;
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig};

use crate::programs;

const DEADLINE: Duration = Duration::from_secs(120);

/// A program's settings under which its wall clock says what stands in `file`; what it measures
/// time with goes on as ever, as it does when somebody sets a clock.
pub(crate) fn faked(file: &Path) -> Vec<(String, String)> {
    let library = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists())
    .expect("libfaketime is installed");
    [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

pub(crate) fn set(file: &Path, time: &str) {
    // At once: who reads it in between would see no time.
    let next = file.with_extension("next");
    std::fs::write(&next, format!("@{time}\n")).unwrap();
    std::fs::rename(next, file).unwrap();
}

#[test]
#[ignore = "needs libfaketime"]
fn a_clock_at_1970_at_2099_and_jumping_back_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (at_box, at_hub) = (folder.path().join("box"), folder.path().join("hub"));
    set(&at_box, "1970-01-01 00:10:00");
    // A voucher has its days, which the hub's clock counts; nothing else has.
    set(&at_hub, "1970-01-01 00:10:00");
    let link = Profile::steady(2_000, 2_000, 50, 0.01);
    let mut config = WorldConfig::on(link);
    config.agent_env.extend(faked(&at_box));
    config.hub_env.extend(faked(&at_hub));
    let mut world = World::start(programs(), config).unwrap();
    let clock = |world: &World| world.agent_status().unwrap()["clock_ms"].as_u64().unwrap();
    assert!(clock(&world) < 86_400_000, "the clock is not faked");

    let mut sent = Vec::new();
    // Where the clocks of the box and of the hub jump while a study is crossing.
    let moves = [
        ("2099-12-31 23:59:00", "2099-01-01 00:00:00"),
        ("1970-01-01 00:00:01", "1970-01-01 00:00:01"),
        ("2026-01-01 00:00:00", "2099-01-01 00:00:00"),
    ];
    for (seed, (box_moves, hub_moves)) in (1..).zip(moves) {
        let phantom = Phantom {
            seed,
            slices: 16,
            side: 256,
        };
        let (study, instances) = (phantom.study(), phantom.instances());
        let sending = world.modality().unwrap().send(&instances);
        sending.complete(instances.len()).unwrap();
        until(DEADLINE, "a part to be at the hub", || {
            let view = world.study_at_agent(&study).ok()??;
            (view["percent_at_hub"].as_u64()? > 10).then_some(())
        })
        .unwrap();
        set(&at_box, box_moves);
        set(&at_hub, hub_moves);
        world
            .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
            .unwrap();
        world.hub_has_exactly(&instances).unwrap();
        sent.push((study, instances));
        // A start with whatever the clock says now.
        world.take_agent().unwrap().stop().unwrap();
        world.start_agent().unwrap();
    }
    let status = world.agent_status().unwrap();
    let order: Vec<_> = status["studies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|study| study["study_instance_uid"].as_str().unwrap().to_owned())
        .collect();
    let came: Vec<_> = sent.iter().map(|(study, _)| study.to_string()).collect();
    assert_eq!(order, came, "studies stand in the order in which they came");
    assert_eq!(
        (&status["enrolled"], &status["journal"]),
        (&true.into(), &"ok".into())
    );
    for (study, instances) in &sent {
        world.agent_has_exactly(instances).unwrap();
        world
            .file_report(study, "nothing")
            .unwrap()
            .success()
            .unwrap();
        let view = world
            .wait_at_agent(study, "report", "final", DEADLINE)
            .unwrap();
        assert_eq!(view["report_verified"], true, "{view}");
    }
}
