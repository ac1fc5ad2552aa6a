//! The program as scripts call it: exit codes, JSON, damage, names.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use codec::container::{HEAD, Seal};
use codec::{Source, Tier, encode_group};
use common::{Slice, mixed_files};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with files, and room for results.
struct Bench {
    root: TempDir,
}

impl Bench {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let bench = Self {
            root: TempDir::new().unwrap(),
        };
        for (name, bytes) in files {
            let path = bench.at("in").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ctpack"))
            .args(arguments)
            .current_dir(self.root.path())
            .output()
            .unwrap()
    }

    fn code(&self, arguments: &[&str]) -> i32 {
        self.run(arguments).status.code().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.run(arguments).stdout).unwrap()
    }
}

/// Names and bytes below a folder.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn slices(count: u64) -> Vec<(String, Vec<u8>)> {
    (1..=count)
        .map(|n| (format!("{n:03}.dcm"), Slice::small(n).file()))
        .collect()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.clone()))
        .collect()
}

#[test]
fn files_come_back_with_their_names_in_every_tier() {
    let bench = Bench::new(&mixed_files());
    for tier in ["fast", "link", "archive"] {
        assert_eq!(
            bench.code(&["encode", "in", "-o", "x.ctp", "--tier", tier]),
            0
        );
        assert_eq!(bench.code(&["verify", "x.ctp", "in"]), 0);
        assert_eq!(bench.code(&["decode", "x.ctp", "-o", tier]), 0);
        assert_eq!(contents(&bench.at(tier)), contents(&bench.at("in")));
        assert_eq!(bench.json(&["info", "x.ctp", "--json"])["tier"], tier);
    }
    assert!(!bench.at("x.ctp.partial").exists());
}

#[test]
fn compressed_sources_come_back_and_are_modelled() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/codec");
    let files: Vec<_> = ["jpeg-70-signed.dcm", "rle-dcmtk-frames.dcm"]
        .map(|name| (name, std::fs::read(format!("{folder}/{name}")).unwrap()))
        .to_vec();
    let bench = Bench::new(&files);
    assert_eq!(bench.code(&["encode", "in", "-o", "x.ctp"]), 0);
    assert_eq!(bench.code(&["verify", "x.ctp", "in"]), 0);
    let info = bench.json(&["info", "x.ctp", "--json"]);
    assert_eq!(info["files"][0]["method"], "link");
    assert_eq!(info["files"][1]["method"], "link");
}

#[test]
fn many_groups_on_several_threads_keep_their_order() {
    let files = slices(150);
    let bench = Bench::new(&borrowed(&files));
    let report = bench.json(&["encode", "in", "-o", "3.ctp", "--threads", "3", "--json"]);
    assert_eq!(report["groups"], 3);
    assert_eq!(report["instances"], 150);
    assert_eq!(
        bench.code(&["encode", "in", "-o", "1.ctp", "--threads", "1"]),
        0
    );
    assert_eq!(
        std::fs::read(bench.at("1.ctp")).unwrap(),
        std::fs::read(bench.at("3.ctp")).unwrap()
    );
    let info = bench.json(&["info", "3.ctp", "--json"]);
    assert_eq!(info["complete"], true);
    for (index, (name, bytes)) in files.iter().enumerate() {
        let file = &info["files"][index];
        assert_eq!(file["number"], index + 1);
        assert_eq!(file["name"], name.as_str());
        assert_eq!(file["digest"], study::Digest::of(bytes).to_string());
    }
}

#[test]
fn a_share_of_the_files_can_be_had() {
    let files = slices(70);
    let bench = Bench::new(&borrowed(&files));
    assert_eq!(bench.code(&["encode", "in", "-o", "x.ctp"]), 0);
    assert_eq!(
        bench.code(&["decode", "x.ctp", "-o", "some", "--only", "63..66"]),
        0
    );
    assert_eq!(contents(&bench.at("some")), files[62..66]);
    assert_eq!(
        bench.code(&["decode", "x.ctp", "-o", "first", "--first", "3"]),
        0
    );
    assert_eq!(contents(&bench.at("first")), files[..3]);
}

#[test]
fn a_torn_file_gives_all_before_the_tear() {
    let files = slices(70);
    let bench = Bench::new(&borrowed(&files));
    assert_eq!(bench.code(&["encode", "in", "-o", "x.ctp"]), 0);
    let packed = std::fs::read(bench.at("x.ctp")).unwrap();
    let mut most = 0;
    for part in 1..=20 {
        let cut = (packed.len() - 1) * part / 20;
        std::fs::write(bench.at("torn.ctp"), &packed[..cut]).unwrap();
        let out = format!("out{part}");
        assert_eq!(bench.code(&["decode", "torn.ctp", "-o", &out]), 1);
        let got = contents(&bench.at(&out));
        // A spread over the slices goes first, so that they are not the first ones by name.
        assert!(got.iter().all(|file| files.contains(file)));
        assert!(got.len() >= most);
        most = got.len();
        assert_eq!(bench.code(&["verify", "torn.ctp", "in"]), 1);
        assert_eq!(
            bench.json(&["info", "torn.ctp", "--json"])["complete"],
            false
        );
    }
    // Nothing but the trailer is missing.
    assert_eq!(most, 70);
}

#[test]
fn flipped_bits_are_found_and_cost_no_other_file() {
    let files = slices(20);
    let bench = Bench::new(&borrowed(&files));
    assert_eq!(bench.code(&["encode", "in", "-o", "x.ctp"]), 0);
    let packed = std::fs::read(bench.at("x.ctp")).unwrap();
    for step in 0..60 {
        let at = 8 + (packed.len() - 9) * step / 59;
        let mut damaged = packed.clone();
        damaged[at] ^= 1 << (step % 8);
        std::fs::write(bench.at("damaged.ctp"), &damaged).unwrap();
        assert_eq!(bench.code(&["verify", "damaged.ctp", "in"]), 1, "byte {at}");
        let out = format!("out{step}");
        assert_eq!(bench.code(&["decode", "damaged.ctp", "-o", &out]), 1);
        assert!(
            contents(&bench.at(&out))
                .iter()
                .all(|file| files.contains(file))
        );
    }
    // In the payload of the last data unit: all files but its own come out.
    let mut damaged = packed.clone();
    damaged[packed.len() - 60] ^= 1;
    std::fs::write(bench.at("damaged.ctp"), &damaged).unwrap();
    assert_eq!(bench.code(&["decode", "damaged.ctp", "-o", "most"]), 1);
    assert_eq!(contents(&bench.at("most")), files[..19]);
}

#[test]
fn verify_sees_any_difference() {
    let bench = Bench::new(&borrowed(&slices(3)));
    assert_eq!(bench.code(&["encode", "in", "-o", "x.ctp"]), 0);
    let path = bench.at("in/002.dcm");
    let bytes = std::fs::read(&path).unwrap();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    for other in [Some(changed), Some([&bytes[..], b"\0"].concat()), None] {
        match other {
            Some(other) => std::fs::write(&path, other).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        assert_eq!(bench.code(&["verify", "x.ctp", "in"]), 1);
    }
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(bench.code(&["verify", "x.ctp", "in"]), 0);
}

#[test]
fn a_name_that_leads_out_of_the_folder_is_not_written() {
    let bench = Bench::new(&[]);
    let sources = ["../evil", "good", "/tmp/evil", "a/../../evil"].map(|name| Source {
        name,
        bytes: name.as_bytes(),
    });
    let mut seal = Seal::default();
    let mut packed = HEAD.to_vec();
    for unit in encode_group(&sources, Tier::Fast).unwrap() {
        seal.add_unit(unit.as_bytes());
        packed.extend(unit.as_bytes());
    }
    packed.extend(seal.trailer());
    std::fs::write(bench.at("x.ctp"), packed).unwrap();
    let output = bench.run(&["decode", "x.ctp", "-o", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("leads out of the folder"));
    assert_eq!(
        contents(&bench.at("out")),
        [("good".to_owned(), b"good".to_vec())]
    );
    assert!(!bench.at("evil").exists());
}

#[test]
fn exit_codes_are_those_that_scripts_rely_on() {
    let bench = Bench::new(&mixed_files());
    assert_eq!(bench.code(&["--help"]), 0);
    assert_eq!(bench.code(&["--version"]), 0);
    for usage in [
        &["encode", "in"][..],
        &[],
        &["pack"],
        &["encode", "in", "-o", "x.ctp", "--tier", "best"],
        &["decode", "x.ctp", "-o", "y", "--only", "0..1"],
        &[
            "decode", "x.ctp", "-o", "y", "--only", "1..2", "--first", "2",
        ],
    ] {
        assert_eq!(bench.code(usage), 64, "{usage:?}");
    }
    assert_eq!(bench.code(&["encode", "missing", "-o", "x.ctp"]), 1);
    assert_eq!(bench.code(&["info", "missing"]), 1);
    assert_eq!(bench.code(&["info", "in/note.txt"]), 1);
    assert_eq!(
        bench.code(&["encode", "in/note.txt", "in/note.txt", "-o", "x.ctp"]),
        1
    );
    assert!(!bench.at("x.ctp").exists());
}

#[test]
fn single_files_and_an_output_inside_the_folder_are_fine() {
    let bench = Bench::new(&mixed_files());
    for _ in 0..2 {
        assert_eq!(bench.code(&["encode", "in", "-o", "in/x.ctp"]), 0);
        assert_eq!(bench.json(&["info", "in/x.ctp", "--json"])["instances"], 11);
    }
    assert_eq!(
        bench.code(&["encode", "in/a/signed.dcm", "in/empty", "-o", "y.ctp"]),
        0
    );
    assert_eq!(bench.code(&["decode", "y.ctp", "-o", "out"]), 0);
    let names: Vec<String> = contents(&bench.at("out"))
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(names, ["empty", "signed.dcm"]);
}
