//! What a thief finds: nothing of a patient, and a locked box that goes on working.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::phantom::{Instance, Phantom};
use kit::process::Finished;
use kit::relay::Profile;
use kit::world::{World, WorldConfig, words};

use crate::programs;

const DEADLINE: Duration = Duration::from_secs(90);
/// In every data set of a phantom.
const NAME: &str = "PHANTOM^HEAD";
/// In the report.
const FINDING: &str = "Canary finding beside the aorta";

fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .flat_map(|entry| files(&entry.unwrap().path()))
        .collect()
}

/// Files under `path` with this text in ASCII or UTF-16, or with it in their names.
fn with_text(path: &Path, text: &str) -> Vec<PathBuf> {
    let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    let needles = [
        text.as_bytes().to_vec(),
        wide(u16::to_le_bytes),
        wide(u16::to_be_bytes),
    ];
    let holds = |file: &PathBuf| {
        let is_socket = std::os::unix::fs::FileTypeExt::is_socket;
        if is_socket(&std::fs::metadata(file).unwrap().file_type()) {
            return false;
        }
        let bytes = std::fs::read(file).unwrap();
        let in_name = file.to_string_lossy().contains(text);
        let found = |needle: &Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
        in_name || needles.iter().any(found)
    };
    files(path).into_iter().filter(holds).collect()
}

fn send(world: &mut World, instances: &[Instance]) {
    let sent = world.modality().unwrap().send(instances);
    sent.complete(instances.len()).unwrap();
}

fn agent<const W: usize>(world: &World, args: [&str; W]) -> Finished {
    world.agent_command(words(args, [])).unwrap()
}

fn vault(world: &World) -> String {
    let status = world.agent_status().unwrap();
    status["vault"].as_str().unwrap().to_owned()
}

#[test]
fn no_byte_at_rest_or_in_a_log_speaks_of_a_patient() {
    let temp = tempfile::tempdir().unwrap();
    let temp_word = temp.path().to_str().unwrap().to_owned();
    let mut config = WorldConfig::on(Profile::steady(8_000, 8_000, 20, 0.01));
    for env in [&mut config.agent_env, &mut config.hub_env] {
        env.push(("TMPDIR".to_owned(), temp_word.clone()));
        env.push(("CHASQUI_LOG".to_owned(), "trace".to_owned()));
    }
    let mut world = World::start(programs(), config).unwrap();
    let (phantom, waiting) = (Phantom::small(31), Phantom::small(32));
    let study = phantom.study();
    send(&mut world, &phantom.instances());
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    let filed = world.file_report(&study, FINDING);
    filed.unwrap().success().unwrap();
    world
        .wait_at_agent(&study, "report", "final", DEADLINE)
        .unwrap();
    // One that lies in the box as it was taken in.
    send(&mut world, &waiting.instances());
    let in_clear = ["agent", "hub", "agent.log", "hub.log", "relay.log"].map(|p| world.path(p));
    for text in [NAME, FINDING] {
        for place in in_clear.iter().chain([&temp.path().to_owned()]) {
            let found = with_text(place, text);
            assert!(found.is_empty(), "{found:?}");
        }
    }
    // The search finds what is there: the report as it was handed in, a UID in the index.
    assert_eq!(with_text(&world.path("report.json"), FINDING).len(), 1);
    assert!(!with_text(&world.path("agent"), study.as_str()).is_empty());
}

#[test]
fn a_locked_box_takes_in_and_sends_and_reads_nothing_back() {
    // What has come is not packed before the power goes.
    let mut config = WorldConfig::on(Profile::none());
    let quiet = ("AGENT__INTAKE__QUIET_PERIOD".to_owned(), "4s".to_owned());
    let delay = ("AGENT__PACK__BATCH_DELAY".to_owned(), "1h".to_owned());
    config.agent_env = vec![quiet, delay];
    let mut world = World::start(programs(), config).unwrap();
    assert_eq!(vault(&world), "open_no_pin");
    let pin = world.path("pin");
    std::fs::write(&pin, "correct horse battery\n").unwrap();
    let pin_word = pin.to_str().unwrap().to_owned();
    agent(&world, ["pin", "set", "--pin-file", &pin_word])
        .success()
        .unwrap();
    assert_eq!(vault(&world), "unlocked");

    let phantom = Phantom::small(33);
    let (study, instances) = (phantom.study(), phantom.instances());
    let (first, rest) = instances.split_at(instances.len() / 2);
    send(&mut world, first);
    world.agent_has_exactly(first).unwrap();
    world.take_agent().unwrap().kill().unwrap();

    world.start_agent().unwrap();
    assert_eq!(vault(&world), "locked");
    send(&mut world, rest);
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&instances).unwrap();
    let filed = world.file_report(&study, FINDING);
    filed.unwrap().success().unwrap();
    let said = world
        .wait_at_agent(&study, "report", "final", DEADLINE)
        .unwrap();
    assert_eq!(said["report_verified"], false);

    let (sop, out) = (instances[0].sop.as_str(), world.path("out"));
    let out = out.to_str().unwrap();
    for refused in [
        agent(&world, ["get", sop, "-o", out]),
        agent(&world, ["report", "get", study.as_str()]),
        agent(&world, ["report", "print", study.as_str()]),
        agent(&world, ["proof", "export", study.as_str(), "-o", out]),
    ] {
        let text = refused.failure(1).unwrap();
        assert!(text.contains("vault is locked"), "{text}");
    }

    let list = agent(&world, ["report", "list", "--json"]).json().unwrap();
    assert_eq!(list["reports"][0]["status"], "final", "{list}");
    assert_eq!(
        list["reports"][0]["valid"],
        serde_json::Value::Null,
        "{list}"
    );

    std::fs::write(&pin, "wrong horse battery\n").unwrap();
    let refused = agent(&world, ["pin", "unlock", "--pin-file", &pin_word]);
    assert!(refused.failure(1).unwrap().contains("the PIN is wrong"));
    std::fs::write(&pin, "correct horse battery\n").unwrap();
    agent(&world, ["pin", "unlock", "--pin-file", &pin_word])
        .success()
        .unwrap();
    world.agent_has_exactly(&instances).unwrap();
    let print = agent(&world, ["report", "print", study.as_str()]);
    assert!(print.success().unwrap().contains(FINDING));
    let said = world.study_at_agent(&study).unwrap().unwrap();
    assert_eq!(said["report_verified"], true);

    agent(&world, ["pin", "lock"]).success().unwrap();
    let refused = agent(&world, ["get", sop, "-o", out]);
    assert!(refused.failure(1).unwrap().contains("vault is locked"));
    // The same while the box does not run.
    assert!(world.take_agent().unwrap().stop().unwrap().success());
    let refused = agent(&world, ["get", sop, "-o", out]);
    assert!(refused.failure(1).unwrap().contains("vault is locked"));
}
