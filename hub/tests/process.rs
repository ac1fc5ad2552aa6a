//! The program from outside: its ready line, its commands, its exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use identity::testing::TestFleet;
use sealing::{KeyFile, Lock, Pin};
use serde_json::Value;

fn hub(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chasqui-hub"));
    command.args(arguments).arg("--data").arg(folder);
    command
}

fn run(arguments: &[&str], folder: &Path) -> Output {
    hub(arguments, folder).output().unwrap()
}

fn folder() -> (tempfile::TempDir, TestFleet) {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::new();
    let store = KeyFile::create(&folder.path().join("store.key")).unwrap();
    let key = fleet.add_hub_with("127.0.0.1:4433", *store.public_key());
    key.save(&folder.path().join("node.key")).unwrap();
    std::fs::write(folder.path().join("fleet.cose"), fleet.document().signed()).unwrap();
    (folder, fleet)
}

/// A hub that serves; it is killed when a test fails.
struct Serving {
    child: Child,
    ready: String,
}

impl Serving {
    fn start(folder: &Path) -> Self {
        let ports = [
            "serve",
            "--link-port",
            "0",
            "--web-port",
            "0",
            "--dicom-port",
            "0",
        ];
        let mut child = hub(&ports, folder).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert!(ready.starts_with("ready link="), "{ready}");
        Self { child, ready }
    }

    fn web(&self) -> &str {
        let at = self.ready.split(" web=http://").nth(1).unwrap();
        at.split_whitespace().next().unwrap()
    }

    fn request(&self, path: &str, token: Option<&str>) -> String {
        let mut stream = TcpStream::connect(self.web()).unwrap();
        let token = token
            .map(|t| format!("Authorization: Bearer {t}\r\n"))
            .unwrap_or_default();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: hub\r\n{token}Connection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let killed = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(killed.success());
        (self.child.wait().unwrap(), started.elapsed())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn it_serves_answers_commands_and_ends_in_order() {
    let (folder, mut fleet) = folder();
    let serving = Serving::start(folder.path());
    assert!(
        serving
            .request("/health/ready", None)
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        serving
            .request("/api/studies", None)
            .starts_with("HTTP/1.1 401")
    );
    assert!(
        serving
            .request("/api/studies", Some("guess"))
            .starts_with("HTTP/1.1 401")
    );
    let token = run(&["token", "--role", "radiologist"], folder.path());
    let token = String::from_utf8(token.stdout).unwrap();
    let studies = serving.request("/api/studies", Some(token.trim()));
    assert!(studies.starts_with("HTTP/1.1 200") && studies.ends_with(r#"{"studies":[]}"#));

    let second = run(&["serve"], folder.path());
    assert_eq!(second.status.code(), Some(1));

    drop(fleet.document());
    let newer = folder.path().join("newer.cose");
    std::fs::write(&newer, fleet.document().signed()).unwrap();
    let applied = run(
        &["fleet", "apply", newer.to_str().unwrap(), "--json"],
        folder.path(),
    );
    let applied: Value = serde_json::from_slice(&applied.stdout).unwrap();
    assert_eq!(
        (&applied["version"], &applied["applied"]),
        (&3.into(), &true.into())
    );

    let (status, took) = serving.terminate();
    assert_eq!(status.code(), Some(0));
    // Far below the 5 s allowed: nobody was waited for in vain.
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn commands_work_when_no_hub_runs() {
    let (folder, _) = folder();
    let list = run(&["study", "list", "--json"], folder.path());
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let nothing = serde_json::json!({ "studies": [], "units_in_doubt": [] });
    assert_eq!(list, nothing);
    let to = folder.path().join("x.dcm");
    let get = run(&["get", "1.2.3", "-o", to.to_str().unwrap()], folder.path());
    assert_eq!(get.status.code(), Some(1));
    assert!(
        String::from_utf8(get.stderr)
            .unwrap()
            .contains("no instance 1.2.3")
    );
    assert!(!to.exists());
    assert!(run(&["diagnose"], folder.path()).status.success());
}

#[test]
fn exit_codes_tell_usage_from_configuration() {
    let (folder, _) = folder();
    assert_eq!(run(&["sing"], folder.path()).status.code(), Some(64));
    assert_eq!(
        run(&["get", "../../x", "-o", "y"], folder.path())
            .status
            .code(),
        Some(64)
    );
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, "[inbox]\nprogres-delay = \"1s\"\n").unwrap();
    let refused = run(
        &["serve", "--config", file.to_str().unwrap()],
        folder.path(),
    );
    assert_eq!(refused.status.code(), Some(78));
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("progres-delay")
    );
    let empty = tempfile::tempdir().unwrap();
    let nowhere = empty.path().join("nowhere");
    for command in [
        &["serve"][..],
        &["study", "list"],
        &["get", "1.2.3", "-o", "y"],
        &["check"],
    ] {
        for folder in [empty.path(), &nowhere] {
            let refused = run(command, folder);
            assert_eq!(refused.status.code(), Some(78), "{command:?}");
            let words = String::from_utf8(refused.stderr).unwrap();
            assert!(words.contains("chasqui-provision hub"), "{words}");
        }
    }
    // A folder that is not a hub's stays as it was.
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    assert!(run(&["check"], folder.path()).status.success());
}

/// Runs a command that must end as a fault of the configuration; gives its words.
fn misconfigured(arguments: &[&str], folder: &Path) -> String {
    let refused = run(arguments, folder);
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    String::from_utf8(refused.stderr).unwrap()
}

#[test]
fn without_its_store_key_the_hub_does_not_start_and_says_what_to_do() {
    let commands = [
        &["serve"][..],
        &["study", "list"],
        &["get", "1.2.3", "-o", "y"],
        &["check"],
    ];
    for command in commands {
        let (folder, _) = folder();
        let key = folder.path().join("store.key");
        let whole = std::fs::read(&key).unwrap();

        let mut damaged = whole.clone();
        damaged[40] ^= 1;
        std::fs::write(&key, &damaged).unwrap();
        let words = misconfigured(command, folder.path());
        assert!(words.contains("put it back from its copy"), "{words}");

        std::fs::remove_file(&key).unwrap();
        let words = misconfigured(command, folder.path());
        assert!(words.contains("store.key"), "{words}");
        assert!(words.contains("store-key"), "{words}");

        KeyFile::create(&key).unwrap();
        let words = misconfigured(command, folder.path());
        assert!(words.contains("right store key back"), "{words}");
    }
    let (folder, _) = folder();
    let (pin, share) = (Pin::new("1234567").unwrap(), None);
    sealing::set_pin(&folder.path().join("store.key"), Lock { pin: &pin, share }).unwrap();
    let words = misconfigured(&["serve"], folder.path());
    assert!(words.contains("has a PIN"), "{words}");
}

#[test]
fn the_store_key_may_lie_elsewhere() {
    let (folder, _) = folder();
    let elsewhere = tempfile::tempdir().unwrap();
    let key = elsewhere.path().join("hub-store.key");
    std::fs::rename(folder.path().join("store.key"), &key).unwrap();
    let file = elsewhere.path().join("hub.toml");
    let text = format!("[archive]\nstore-key = {:?}\n", key.to_str().unwrap());
    std::fs::write(&file, text).unwrap();
    let configured = ["study", "list", "--config", file.to_str().unwrap()];
    assert!(run(&configured, folder.path()).status.success());
    let mut by_environment = hub(&["check"], folder.path());
    by_environment.env("HUB__ARCHIVE__STORE_KEY", &key);
    assert!(by_environment.output().unwrap().status.success());
    misconfigured(&["study", "list"], folder.path());
}

#[test]
fn a_check_reads_what_is_at_rest_with_and_without_a_running_hub() {
    let (folder, _) = folder();
    let expected = serde_json::json!({ "chunks": 0, "bytes": 0, "damaged": [] });
    let check = || {
        let checked = run(&["check", "--json"], folder.path());
        assert!(checked.status.success(), "{checked:?}");
        let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
        checked["at_rest"].clone()
    };
    assert_eq!(check(), expected);
    let serving = Serving::start(folder.path());
    assert_eq!(check(), expected);
    drop(serving);
}

#[test]
fn every_command_tells_its_version() {
    for command in [
        &["serve"][..],
        &["fleet", "apply"],
        &["study", "list"],
        &["study", "show"],
        &["get"],
        &["report", "file"],
        &["token"],
        &["check"],
        &["diagnose"],
    ] {
        let mut asked = Command::new(env!("CARGO_BIN_EXE_chasqui-hub"));
        let told = asked.args(command).arg("--version").output().unwrap();
        assert!(told.status.success(), "{command:?}");
        let words = String::from_utf8(told.stdout).unwrap();
        assert!(words.contains(env!("CARGO_PKG_VERSION")), "{words}");
    }
}

#[test]
fn a_client_that_never_finishes_does_not_hold_the_end_up() {
    let (folder, _) = folder();
    let serving = Serving::start(folder.path());
    let mut dawdler = TcpStream::connect(serving.web()).unwrap();
    dawdler.write_all(b"GET /health/live HTTP/1.1\r\n").unwrap();
    let idle = TcpStream::connect(serving.web()).unwrap();
    let (status, took) = serving.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop((dawdler, idle));
}
