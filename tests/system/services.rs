//! The services beside storage, asked for by other people's programs.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use kit::peers::{findscu_worklist, orthanc_commit, pynetdicom_services};
use kit::phantom::{Phantom, write_folder};
use kit::process::Finished;
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig, words};
use serde_json::{Value, json};

use crate::lone::Lone;
use crate::programs;

/// Nothing that a scanner is told may take longer here.
const DEADLINE: Duration = Duration::from_secs(60);

fn lone(place: &Path, settings: &[(&str, &str)]) -> Lone {
    let (folder, aside) = (place.join("place"), place.join("aside"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(&aside).unwrap();
    let mut lone = Lone::new(programs(), &folder, &aside, settings);
    lone.start().unwrap();
    lone
}

/// Takes an order; gives its study.
fn order(lone: &Lone, place: &Path, order: &Value) -> String {
    let file = place.join("order.json");
    std::fs::write(&file, order.to_string()).unwrap();
    let added = lone.command(words(["order", "add", "--json", "--from"], [file]));
    let taken = added.json().unwrap();
    taken["study_instance_uid"].as_str().unwrap().to_owned()
}

fn enter(lone: &Lone, title: &str, port: u16) {
    let port = port.to_string();
    let args = [
        "modality",
        "add",
        "--ae",
        title,
        "--host",
        "127.0.0.1",
        "--port",
        &port,
    ];
    lone.command(words(args, [])).success().unwrap();
}

/// A port that nobody has, and the one after it.
fn free_ports() -> u16 {
    let port = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", port + 1)).is_ok();
    std::iter::repeat_with(port).take(100).find(free).unwrap()
}

#[test]
#[ignore = "needs pynetdicom"]
fn pynetdicom_is_told_what_is_committed_on_the_same_and_on_a_new_association() {
    let place = tempfile::tempdir().unwrap();
    let mut lone = lone(place.path(), &[("AGENT__INTAKE__COMMIT_PATIENCE", "1s")]);
    let folder = place.path().join("study");
    write_folder(&folder, &Phantom::small(31).instances()).unwrap();
    let own = free_ports();
    enter(&lone, "PYNETDICOM", own);
    let (own, folder) = (own.to_string(), folder.to_str().unwrap());
    let said = pynetdicom_services("commit", lone.dicom(), &[&own, folder]);
    let said = said.unwrap().success().unwrap();
    assert!(said.starts_with("committed "), "{said}");
}

#[test]
#[ignore = "needs pynetdicom"]
fn with_level_hub_nothing_is_committed_before_the_hub_has_it() {
    let mut config = WorldConfig::on(Profile::steady(4_000, 4_000, 50, 0.0));
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    config
        .agent_env
        .push(setting("AGENT__INTAKE__COMMIT", "hub"));
    config
        .agent_env
        .push(setting("AGENT__INTAKE__COMMIT_PATIENCE", "1s"));
    let mut world = World::start(programs(), config).unwrap();
    let folder = world.path("study");
    let instances = Phantom::small(34).instances();
    write_folder(&folder, &instances).unwrap();
    let own = free_ports().to_string();
    let args = [
        "modality",
        "add",
        "--ae",
        "PYNETDICOM",
        "--host",
        "127.0.0.1",
        "--port",
        &own,
    ];
    world
        .agent_command(words(args, []))
        .unwrap()
        .success()
        .unwrap();
    let scanner = world.agent().unwrap().address("dicom").unwrap();
    let args = [own.as_str(), folder.to_str().unwrap()];
    let said = pynetdicom_services("commit", scanner, &args).unwrap();
    said.success().unwrap();
    world.hub_has_exactly(&instances).unwrap();
}

#[test]
#[ignore = "needs Orthanc"]
fn orthanc_is_told_what_is_committed() {
    let place = tempfile::tempdir().unwrap();
    let mut lone = lone(place.path(), &[("AGENT__INTAKE__COMMIT_PATIENCE", "1s")]);
    let folder = place.path().join("study");
    write_folder(&folder, &Phantom::small(32).instances()).unwrap();
    let own = free_ports();
    enter(&lone, "ORTHANC", own);
    let said = orthanc_commit(lone.dicom(), own, &folder).unwrap();
    let said = said.success().unwrap();
    assert!(said.starts_with("committed "), "{said}");
}

#[test]
#[ignore = "needs pynetdicom"]
fn a_commitment_outlives_a_kill_of_the_box() {
    // The scanner asks, goes, and the box is killed before it could call: it calls after its start.
    let place = tempfile::tempdir().unwrap();
    let patient = [("AGENT__INTAKE__COMMIT_PATIENCE", "3s")];
    let mut lone = lone(place.path(), &patient);
    let own = free_ports().to_string();
    let title = [
        "modality",
        "add",
        "--ae",
        "LATECOMER",
        "--host",
        "127.0.0.1",
        "--port",
        &own,
    ];
    lone.command(words(title, [])).success().unwrap();
    let asked = pynetdicom_services("ask", lone.dicom(), &[]).unwrap();
    asked.success().unwrap();
    lone.kill();
    lone.start().unwrap();
    let heard = pynetdicom_services("listen", lone.dicom(), &[&own]).unwrap();
    let heard = heard.success().unwrap();
    assert!(heard.starts_with("failed 1"), "{heard}");
}

/// The names that a query in this character set finds.
fn names(lone: &mut Lone, charset: &str, name: &str) -> Vec<(String, String)> {
    let found = pynetdicom_services("worklist", lone.dicom(), &[charset, name]);
    let found = found.unwrap().json().unwrap();
    let row = |row: &Value| {
        assert_eq!(row["station"], "PYNETDICOM", "an order for any station");
        let word = |key: &str| row[key].as_str().unwrap().to_owned();
        (word("charset"), word("name"))
    };
    found.as_array().unwrap().iter().map(row).collect()
}

#[test]
#[ignore = "needs pynetdicom and findscu of dcmtk"]
fn worklists_are_read_in_the_scanners_character_set() {
    let place = tempfile::tempdir().unwrap();
    let mut lone = lone(place.path(), &[]);
    let ivanov = "\u{418}\u{432}\u{430}\u{43d}\u{43e}\u{432}^\u{41e}\u{43b}\u{435}\u{433}";
    let qabbani = "\u{642}\u{628}\u{627}\u{646}\u{64a}^\u{644}\u{646}\u{632}\u{627}\u{631}";
    let yamada = "\u{5c71}\u{7530}^\u{592a}\u{90ce}";
    for name in [ivanov, qabbani, yamada, "Doe^Jane"] {
        let json = json!({ "patient_name": name, "procedure": "CT head" });
        order(&lone, place.path(), &json);
    }
    for (charset, asked, name) in [
        ("ISO_IR 144", "\u{418}*", ivanov),
        ("ISO_IR 127", "\u{642}*", qabbani),
        ("ISO_IR 192", "*\u{592a}\u{90ce}", yamada),
        ("ISO_IR 100", "doe^*", "Doe^Jane"),
    ] {
        let found = names(&mut lone, charset, asked);
        assert_eq!(found, [(charset.to_owned(), name.to_owned())], "{charset}");
    }
    let japanese = names(&mut lone, "\\ISO 2022 IR 87", "\u{5c71}*");
    assert_eq!(japanese.len(), 1);
    assert_eq!(japanese[0].1, yamada);
    let keys = ["0010,0010=D*", "0040,0100[0].0008,0060=CT", "0020,000d"];
    let said = findscu_worklist(lone.dicom(), &keys).unwrap();
    let said = format!("{}{}", said.stdout, said.stderr);
    assert_eq!(said.matches("[Doe^Jane").count(), 1, "{said}");
    assert!(said.contains("[2.25."), "{said}");
}

#[test]
#[ignore = "needs pynetdicom and storescu of dcmtk"]
fn a_performed_step_closes_the_study_and_what_did_not_come_is_found() {
    let place = tempfile::tempdir().unwrap();
    let mut lone = lone(place.path(), &[("AGENT__INTAKE__QUIET_PERIOD", "2s")]);
    let folder = place.path().join("study");
    let instances = Phantom::small(33).instances();
    write_folder(&folder, &instances).unwrap();
    kit::peers::storescu(lone.dicom(), &folder)
        .unwrap()
        .success()
        .unwrap();
    let status = lone.status();
    let study = status["studies"][0]["study_instance_uid"].as_str().unwrap();
    let mut args = vec![study];
    args.extend(instances.iter().map(|i| i.sop.as_str()));
    args.push("1.2.3.4.5.6.7");
    let said: Finished = pynetdicom_services("step", lone.dicom(), &args).unwrap();
    said.success().unwrap();
    let found = until(DEADLINE, "a finding", || {
        let status = lone.status();
        let found = status["studies"][0]["findings"]
            .as_array()?
            .first()?
            .clone();
        Some(found)
    });
    let found = found.unwrap();
    assert_eq!(found["kind"], "instances_missing");
    assert_eq!(
        (&found["severity"], &found["instances"]),
        (&json!("alarm"), &json!(1))
    );
}
