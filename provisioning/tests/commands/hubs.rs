//! What is made for a hub, and what is never overwritten.

use super::*;

#[test]
fn a_hub_folder_holds_the_key_that_the_fleet_lists() {
    let place = Place::with_hub();
    let key = NodeKey::load(&place.path("hub/node.key")).unwrap();
    let own = FleetDocument::parse_own(&fs::read(place.path("hub/fleet.cose")).unwrap()).unwrap();
    assert_eq!(own.version(), 2);
    assert_eq!(
        own.hub(&key.id()).unwrap().address.as_str(),
        "hub.example.org:4433"
    );
    assert_eq!(
        (mode(&place.path("hub")), mode(&place.path("hub/node.key"))),
        (0o700, 0o600)
    );
    let again = [
        "hub",
        "fleet",
        "--name",
        "lima",
        "--address",
        "x:1",
        "-o",
        "hub2",
    ];
    assert!(
        place
            .refused(1, &again)
            .contains("a hub named lima already")
    );
    let over = [
        "hub",
        "fleet",
        "--name",
        "cusco",
        "--address",
        "x:1",
        "-o",
        "hub",
    ];
    assert!(place.refused(1, &over).contains("not overwritten"));
}

#[test]
fn a_hub_gets_a_store_key_that_the_fleet_and_its_vouchers_name() {
    let place = Place::with_hub();
    let file = place.path("hub/store.key");
    assert_eq!(mode(&file), 0o600);
    let key = KeyFile::load(&file).unwrap();
    assert!(matches!(key, KeyFile::Plain(_)), "no PIN");
    let store = *key.public_key();
    assert_eq!(place.document().body().hubs[0].store, store);
    let own = FleetDocument::parse_own(&fs::read(place.path("hub/fleet.cose")).unwrap()).unwrap();
    assert_eq!(own.body().hubs[0].store, store);
    place.done(&["unit", "fleet", "--site", "Clinic A", "-o", "a.voucher"]);
    assert_eq!(place.voucher("a.voucher").terms().hub.store, store);

    let hub = ["hub", "fleet", "--address", "x:1", "--name"];
    let said = place.done(&[&hub[..], &["cusco", "-o", "cusco"]].concat());
    let cusco = KeyFile::load(&place.path("cusco/store.key")).unwrap();
    assert_ne!(*cusco.public_key(), store);
    assert_eq!(said["store_key"], cusco.public_key().id().to_string());
    let said = place.run(&[&hub[..], &["quito", "-o", "quito"]].concat());
    let quito = KeyFile::load(&place.path("quito/store.key")).unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains(&quito.public_key().id().to_string()),
        "{said}"
    );
}

// With a store key goes everything that was ever sealed to it.
#[test]
fn a_store_key_is_never_overwritten() {
    let place = Place::with_hub();
    let again = ["hub", "fleet", "--address", "x:1", "-o", "hub", "--name"];
    place.refused(1, &[&again[..], &["lima"]].concat());
    for gone in ["node.key", "fleet.cose"] {
        fs::remove_file(place.path("hub").join(gone)).unwrap();
        let said = place.refused(1, &[&again[..], &["cusco"]].concat());
        assert!(said.contains("not overwritten"), "{said}");
    }
    let said = place.refused(1, &[&again[..], &["cusco"]].concat());
    assert!(said.contains("store.key exists"), "{said}");
}

#[test]
fn a_hub_that_could_not_be_listed_leaves_no_key_that_bars_the_next_try() {
    let place = Place::with_hub();
    place.add_radiologist();
    let before = place.snapshot();
    let hub = ["hub", "fleet", "--name", "cusco", "--address", "x:1", "-o"];
    // The keys still fit on this disk, the document does not.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_chasqui-provision"))
        .args(hub)
        .arg("cusco")
        .current_dir(place.0.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("fleet.cose"), "{said}");
    assert_eq!(place.snapshot(), before);
    place.done(&[&hub[..], &["cusco"]].concat());
}
