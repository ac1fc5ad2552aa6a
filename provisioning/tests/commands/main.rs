//! The commands of `chasqui-provision`, run as an operator runs them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use identity::{
    Credential, EnrolRefusal, EnrolRequest, FleetDocument, NodeKey, Standing, Voucher,
    load_sealed_key,
};
use sealing::{KeyFile, StoreKey};
use serde_json::Value;
use tempfile::TempDir;

mod hubs;

/// A place for one fleet, and the program at work in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With a fleet and one hub.
    fn with_hub() -> Self {
        let place = Self::new();
        place.done(&["init", "fleet"]);
        place.done(&[
            "hub",
            "fleet",
            "--name",
            "lima",
            "--address",
            "hub.example.org:4433",
            "-o",
            "hub",
        ]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_chasqui-provision"))
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Runs what must succeed; gives its JSON.
    fn done(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs what must fail with `code` and changes nothing; gives what it said.
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let before = self.snapshot();
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
        assert_eq!(self.snapshot(), before, "{arguments:?} changed something");
        said
    }

    /// Every file with its content.
    fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut folders = vec![self.0.path().to_path_buf()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().unwrap() != "lock" {
                    found.push((path.clone(), fs::read(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    fn document(&self) -> FleetDocument {
        FleetDocument::parse_own(&fs::read(self.path("fleet/fleet.cose")).unwrap()).unwrap()
    }

    fn voucher(&self, name: &str) -> Voucher {
        Voucher::parse(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn list(&self) -> Vec<Value> {
        self.done(&["list", "fleet"])["entries"]
            .as_array()
            .unwrap()
            .clone()
    }

    fn add_radiologist(&self) -> Value {
        fs::write(self.path("passphrase"), "correct horse battery\n").unwrap();
        self.done(&[
            "radiologist",
            "fleet",
            "--name",
            "Dr. A. Reader",
            "--licence",
            "CMP 12345",
            "--valid-until",
            "2099-12-31",
            "--new-key",
            "reader.key",
            "--passphrase-file",
            "passphrase",
            "-o",
            "reader.cred",
        ])
    }
}

/// A new box asks to join.
fn request(voucher: &Voucher) -> Vec<u8> {
    let store = *StoreKey::generate().public_key();
    EnrolRequest::sign(voucher, &NodeKey::generate(), &store, 0)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_makes_an_owner_only_fleet_of_three_root_keys() {
    let place = Place::new();
    let said = place.done(&["init", "fleet"]);
    let document = place.document();
    assert_eq!(said["fleet"], document.fleet().to_string());
    assert_eq!(document.version(), 1);
    let root = document.root().body();
    assert_eq!((root.threshold, root.keys.len()), (2, 3));
    assert_eq!(mode(&place.path("fleet")), 0o700);
    for (file, id) in [
        ("root/root-1.key", root.keys[0]),
        ("root/root-2.key", root.keys[1]),
        ("root/root-3.key", root.keys[2]),
        ("issuing.key", root.issuing),
        ("release.key", root.release),
    ] {
        let path = place.path("fleet").join(file);
        assert_eq!(mode(&path), 0o600, "{file}");
        assert_eq!(NodeKey::load(&path).unwrap().id(), id, "{file}");
    }
    assert_eq!(
        fs::read_dir(place.0.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn init_overwrites_nothing() {
    let place = Place::new();
    place.done(&["init", "fleet"]);
    let said = place.refused(1, &["init", "fleet"]);
    assert!(said.contains("never overwritten"), "{said}");
    fs::write(place.path("file"), "x").unwrap();
    place.refused(1, &["init", "file"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.done(&["init", "empty/"]);
    place.done(&["init", "new/"]);
    assert_eq!(mode(&place.path("empty")), 0o700);
}

#[test]
fn daily_work_needs_no_root_key() {
    let place = Place::with_hub();
    fs::remove_dir_all(place.path("fleet/root")).unwrap();
    place.done(&["unit", "fleet", "--site", "Clinic A", "-o", "a.voucher"]);
}

#[test]
fn a_voucher_enrols_a_box_at_the_hub_it_was_made_for() {
    let place = Place::with_hub();
    let held = place.document();
    let said = place.done(&[
        "unit",
        "fleet",
        "--site",
        "Clinic A",
        "--consent",
        "emergency",
        "-o",
        "a.voucher",
    ]);
    let voucher = place.voucher("a.voucher");
    assert_eq!(said["id"], voucher.terms().id.to_string());
    assert_eq!(voucher.terms().consent.as_str(), "emergency");
    assert_eq!(mode(&place.path("a.voucher")), 0o600);
    let hub = NodeKey::load(&place.path("hub/node.key")).unwrap();
    let request = request(&voucher);
    let now_ms = voucher.terms().made_at_ms;
    // The hub's copy of the fleet document is older than the voucher.
    assert!(EnrolRequest::verify(&request, &held, &hub.id(), now_ms).is_ok());
    assert_eq!(place.document().supersedes(&held), Ok(Standing::Newer));
    assert!(place.document().voucher(&voucher.terms().id).is_some());
}

#[test]
fn a_voucher_needs_a_hub_and_says_which() {
    let place = Place::new();
    place.done(&["init", "fleet"]);
    let unit = ["unit", "fleet", "--site", "Clinic A", "-o", "a.voucher"];
    assert!(place.refused(1, &unit).contains("no hub yet"));
    for name in ["lima", "cusco"] {
        place.done(&[
            "hub",
            "fleet",
            "--name",
            name,
            "--address",
            "x:1",
            "-o",
            name,
        ]);
    }
    assert!(place.refused(1, &unit).contains("say which with --hub"));
    assert!(
        place
            .refused(1, &[&unit[..], &["--hub", "quito"]].concat())
            .contains("no hub named quito")
    );
    place.done(&[&unit[..], &["--hub", "cusco"]].concat());
    let cusco = NodeKey::load(&place.path("cusco/node.key")).unwrap();
    assert_eq!(place.voucher("a.voucher").terms().hub.key, cusco.id());
    assert!(
        place
            .refused(1, &[&unit[..], &["--hub", "lima"]].concat())
            .contains("not overwritten")
    );
}

#[test]
fn a_radiologist_gets_a_sealed_key_and_a_credential() {
    let place = Place::with_hub();
    let said = place.add_radiologist();
    let key = load_sealed_key(&place.path("reader.key"), b"correct horse battery").unwrap();
    assert_eq!(said["id"], key.id().to_string());
    assert!(load_sealed_key(&place.path("reader.key"), b"wrong").is_err());
    let document = place.document();
    let signed = fs::read(place.path("reader.cred")).unwrap();
    let credential = Credential::verify(&signed, document.root()).unwrap();
    let now_ms = document.body().made_at_ms;
    assert_eq!(document.credential_at(&key.id(), now_ms), Ok(&credential));
    assert_eq!(credential.name.as_str(), "Dr. A. Reader");
    assert_eq!(mode(&place.path("reader.key")), 0o600);
}

#[test]
fn a_radiologist_may_bring_a_public_key() {
    let place = Place::with_hub();
    fs::write(place.path("passphrase"), "secret\n").unwrap();
    let made = place.done(&["new-key", "own.key", "--passphrase-file", "passphrase"]);
    let radiologist = |public, output| {
        [
            "radiologist",
            "fleet",
            "--name",
            "Dr. B",
            "--licence",
            "L",
            "--valid-until",
            "2099-01-01",
            "--public-key",
            public,
            "-o",
            output,
        ]
    };
    let said = place.done(&radiologist("own.key.pub", "b.cred"));
    assert_eq!(said["id"], made["key"]);
    assert!(
        place
            .refused(1, &radiologist("own.key.pub", "c.cred"))
            .contains("has a credential already")
    );
    assert!(
        place
            .refused(1, &radiologist("passphrase", "c.cred"))
            .contains("holds no public key")
    );
}

#[test]
fn wrong_usage_is_exit_64_and_touches_nothing() {
    let place = Place::with_hub();
    let base = [
        "radiologist",
        "fleet",
        "--name",
        "N",
        "--licence",
        "L",
        "-o",
        "c",
    ];
    for more in [
        &["--valid-until", "2099-02-30", "--public-key", "x"][..],
        &["--valid-until", "2099-01-01"],
        &["--valid-until", "2099-01-01", "--new-key", "k"],
        &[
            "--valid-until",
            "2099-01-01",
            "--new-key",
            "k",
            "--public-key",
            "p",
            "--passphrase-file",
            "f",
        ],
    ] {
        place.refused(64, &[&base[..], more].concat());
    }
    place.refused(64, &["unit", "fleet", "--site", "\u{1b}[2J", "-o", "v"]);
    place.refused(
        64,
        &[
            "unit",
            "fleet",
            "--site",
            "A",
            "--consent",
            "never",
            "-o",
            "v",
        ],
    );
    place.refused(
        64,
        &[
            "hub",
            "fleet",
            "--name",
            "x",
            "--address",
            "nowhere",
            "-o",
            "h",
        ],
    );
    place.refused(64, &["nonsense"]);
    assert_eq!(place.run(&["--help"]).status.code(), Some(0));
    assert_eq!(place.run(&["--version"]).status.code(), Some(0));
}

#[test]
fn what_is_no_fleet_is_refused() {
    let place = Place::with_hub();
    assert!(place.refused(1, &["list", "nowhere"]).contains("nowhere"));
    assert!(
        place
            .refused(1, &["unit", "hub", "--site", "A", "-o", "v"])
            .contains("issuing.key")
    );
    // An issuing key of another fleet.
    place.done(&["init", "other"]);
    fs::copy(
        place.path("other/issuing.key"),
        place.path("fleet/issuing.key"),
    )
    .unwrap();
    let said = place.refused(1, &["unit", "fleet", "--site", "A", "-o", "v"]);
    assert!(said.contains("not the issuing key"), "{said}");
    fs::write(place.path("fleet/fleet.cose"), "x").unwrap();
    let said = place.refused(1, &["list", "fleet"]);
    assert!(said.contains("the fleet document is not right: "), "{said}");
}

#[test]
fn each_command_is_the_next_version() {
    let place = Place::with_hub();
    assert_eq!(
        place.done(&["unit", "fleet", "--site", "A", "-o", "a.voucher"])["version"],
        3
    );
    assert_eq!(place.add_radiologist()["version"], 4);
    assert_eq!(
        place.done(&["revoke", "fleet", "A", "--reason", "lost"])["version"],
        5
    );
    assert_eq!(place.document().version(), 5);
}

#[test]
fn a_revoked_voucher_enrols_nobody() {
    let place = Place::with_hub();
    place.done(&["unit", "fleet", "--site", "Clinic A", "-o", "a.voucher"]);
    let voucher = place.voucher("a.voucher");
    let id = voucher.terms().id.to_string();
    place.done(&["revoke", "fleet", &id[..8], "--reason", "lost in the post"]);
    let document = place.document();
    let hub = voucher.terms().hub.key;
    let request = request(&voucher);
    let refused = EnrolRequest::verify(&request, &document, &hub, 0).unwrap_err();
    assert_eq!(refused, EnrolRefusal::VoucherRevoked);
    assert!(
        place
            .refused(1, &["revoke", "fleet", &id, "--reason", "again"])
            .contains("was revoked on")
    );
}

#[test]
fn a_box_is_revoked_by_its_key_and_a_guess_is_refused() {
    let place = Place::with_hub();
    let unit = NodeKey::generate().id();
    let said = place.done(&["revoke", "fleet", &unit.to_string(), "--reason", "stolen"]);
    assert_eq!(said["kind"], "unit");
    assert!(place.document().revocation(&unit).is_some());
    assert!(
        place
            .refused(1, &["revoke", "fleet", "deadbeef", "--reason", "x"])
            .contains("lists nothing as")
    );
    for site in ["v1", "v2"] {
        place.done(&["unit", "fleet", "--site", "Clinic A", "-o", site]);
    }
    assert!(
        place
            .refused(1, &["revoke", "fleet", "Clinic A", "--reason", "x"])
            .contains("could be 2 things")
    );
    let issuing = place.document().root().body().issuing.to_string();
    let said = place.refused(1, &["revoke", "fleet", &issuing, "--reason", "x"]);
    assert!(said.contains("replaced by a new root"), "{said}");
}

#[test]
fn renewing_prolongs() {
    let place = Place::with_hub();
    place.done(&[
        "unit",
        "fleet",
        "--site",
        "Clinic A",
        "--valid-days",
        "1",
        "-o",
        "a.voucher",
    ]);
    place.done(&["renew", "fleet", "Clinic A", "--valid-until", "2098-12-31"]);
    let voucher = place.voucher("a.voucher");
    let late = voucher.terms().not_after_ms + 1;
    let request = request(&voucher);
    let hub = voucher.terms().hub.key;
    assert!(EnrolRequest::verify(&request, &place.document(), &hub, late).is_ok());
    let key = place.add_radiologist()["id"].as_str().unwrap().to_string();
    place.done(&[
        "renew",
        "fleet",
        &key,
        "--valid-until",
        "2100-12-31",
        "-o",
        "renewed.cred",
    ]);
    let document = place.document();
    let renewed = fs::read(place.path("renewed.cred")).unwrap();
    let renewed = Credential::verify(&renewed, document.root()).unwrap();
    assert_eq!(
        document.credential_at(&renewed.key, renewed.valid_until_ms),
        Ok(&renewed)
    );
    assert!(
        place
            .refused(1, &["renew", "fleet", "lima"])
            .contains("needs no renewal")
    );
    place.done(&["renew", "fleet", &key]);
    place.done(&["revoke", "fleet", "Dr. A. Reader", "--reason", "retired"]);
    assert!(
        place
            .refused(1, &["renew", "fleet", &key])
            .contains("was revoked on")
    );
}

#[test]
fn list_shows_everything() {
    let place = Place::with_hub();
    place.done(&["unit", "fleet", "--site", "Clinic A", "-o", "a.voucher"]);
    place.add_radiologist();
    let unit = NodeKey::generate().id().to_string();
    place.done(&["revoke", "fleet", &unit, "--reason", "stolen"]);
    place.done(&["revoke", "fleet", "lima", "--reason", "moved"]);
    let rows: Vec<_> = place.list();
    let row =
        |n: usize| ["kind", "name", "state"].map(|f| rows[n][f].as_str().unwrap().to_string());
    assert_eq!(row(0), ["hub", "lima", "revoked"]);
    assert_eq!(row(1), ["voucher", "Clinic A", "open"]);
    assert_eq!(row(2), ["radiologist", "Dr. A. Reader", "valid"]);
    assert_eq!(row(3), ["unit", "", "revoked"]);
    assert_eq!(rows[3]["id"], unit);
    let store = place.document().body().hubs[0].store.id().to_string();
    assert_eq!(rows[0]["store_key"], store);
    assert!(rows[1..].iter().all(|row| row["store_key"].is_null()));
    let output = place.run(&["list", "fleet"]);
    let table = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "KIND",
        "Clinic A",
        "licence CMP 12345",
        "2099-12-31",
        &format!("hub.example.org:4433, store key {store}, revoked"),
        &unit[..16],
    ] {
        assert!(table.contains(expected), "{expected} in\n{table}");
    }
}

#[test]
fn two_commands_at_once_do_not_lose_a_version() {
    let place = Place::with_hub();
    let (mut made, mut busy) = (0, 0);
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|n| {
                let place = &place;
                scope.spawn(move || {
                    place.run(&[
                        "unit",
                        "fleet",
                        "--site",
                        "Clinic A",
                        "-o",
                        &format!("{n}.voucher"),
                    ])
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for output in outputs {
        if output.status.success() {
            made += 1;
        } else {
            assert!(String::from_utf8_lossy(&output.stderr).contains("another command"));
            busy += 1;
        }
    }
    assert_eq!(made + busy, 8);
    assert!(made > 0);
    assert_eq!(place.document().version(), 2 + made);
    assert_eq!(place.document().body().vouchers.len() as u64, made);
}
