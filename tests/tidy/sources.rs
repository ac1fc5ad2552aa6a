//! Rules that every source file keeps.

use std::path::{Path, PathBuf};

use crate::{files, root, short, silent};

/// Lines of a file without its tests.
const LINES_MAX: usize = 600;

/// Lines at the top of a room's file in which its contract must stand.
const CONTRACT: [&str; 4] = ["In:", "Out:", "Invariant:", "May not:"];

fn each(rule: impl Fn(&Path, &str) -> Vec<String>) {
    let mut complaints = Vec::new();
    for path in files(&root(), ".rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        complaints.extend(
            rule(&path, &text)
                .into_iter()
                .map(|what| format!("{}: {what}", short(&path))),
        );
    }
    silent(complaints);
}

/// Up to the module of tests at the bottom of the file.
fn without_tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| *line != "#[cfg(test)]")
}

fn too_long(text: &str) -> Vec<String> {
    let lines = without_tests(text).count();
    if lines > LINES_MAX {
        vec![format!("{lines} lines, {LINES_MAX} are allowed")]
    } else {
        vec![]
    }
}

fn not_ascii(text: &str) -> Vec<String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.is_ascii());
    lines
        .map(|(number, _)| format!("line {number} is not ASCII"))
        .collect()
}

/// A mark of unfinished work says where the rest is written down: `(#12)` or `(decisions/0003)`.
fn loose_end(text: &str) -> Vec<String> {
    let mark = concat!("TO", "DO");
    let loose = |line: &str| {
        line.split_once(mark).is_some_and(|(_, rest)| {
            let place = rest
                .strip_prefix("(#")
                .or_else(|| rest.strip_prefix("(decisions/"));
            !place.is_some_and(|place| place.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let lines = (1..).zip(text.lines()).filter(|(_, line)| loose(line));
    lines
        .map(|(number, _)| format!("line {number} leaves work without saying where"))
        .collect()
}

fn no_contract(text: &str) -> Vec<String> {
    let head: Vec<_> = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .collect();
    let missing = CONTRACT
        .iter()
        .filter(|word| !head.iter().any(|line| line.contains(**word)));
    missing
        .map(|word| format!("the contract has no `{word}`"))
        .collect()
}

/// The file that opens a room: each library, and each module folder of a program.
fn rooms() -> Vec<PathBuf> {
    let mut rooms = Vec::new();
    for folder in std::fs::read_dir(root().join("crates")).unwrap() {
        rooms.push(folder.unwrap().path().join("src/lib.rs"));
    }
    rooms.push(root().join("tests/kit/src/lib.rs"));
    for program in ["agent", "hub", "provisioning"] {
        for entry in std::fs::read_dir(root().join(program).join("src")).unwrap() {
            let path = entry.unwrap().path();
            // A room that began as one file may keep its parts beside it.
            let file = path.with_extension("rs");
            if path.is_dir() {
                rooms.push(if file.exists() {
                    file
                } else {
                    path.join("mod.rs")
                });
            }
        }
    }
    rooms.sort();
    rooms
}

/// The command line and what joins the rooms are the way in, not rooms.
const DOORS: [&str; 3] = ["cli", "commands", "run"];

#[test]
fn no_file_is_too_long() {
    // A file of tests and nothing else may list as many cases as there are.
    each(|path, text| {
        if path.ends_with("tests.rs") {
            vec![]
        } else {
            too_long(text)
        }
    });
}

#[test]
fn sources_are_ascii() {
    each(|_, text| not_ascii(text));
}

#[test]
fn no_work_is_left_without_a_place() {
    each(|_, text| loose_end(text));
}

#[test]
fn every_room_opens_with_its_contract() {
    let is_door = |path: &Path| {
        let names = [path.file_stem(), path.parent().and_then(Path::file_name)];
        names
            .into_iter()
            .flatten()
            .any(|name| DOORS.iter().any(|door| name == *door))
    };
    let mut complaints = Vec::new();
    for path in rooms().into_iter().filter(|path| !is_door(path)) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        complaints.extend(
            no_contract(&text)
                .into_iter()
                .map(|what| format!("{}: {what}", short(&path))),
        );
    }
    silent(complaints);
}

#[test]
fn every_system_test_is_part_of_the_binary() {
    let folder = root().join("tests/system");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    let unlisted = files(&folder, ".rs").into_iter().filter(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        name != "main" && !main.lines().any(|line| line == format!("mod {name};"))
    });
    silent(
        unlisted
            .map(|path| format!("{} is not in main.rs", short(&path)))
            .collect(),
    );
}

#[test]
fn broken_rules_are_seen() {
    assert_eq!(too_long(&"x\n".repeat(601)).len(), 1);
    assert_eq!(
        too_long(&format!("x\n#[cfg(test)]\n{}", "x\n".repeat(900))).len(),
        0
    );
    assert_eq!(not_ascii("a\n\u{e9}\n"), ["line 2 is not ASCII"]);
    let mark = concat!("TO", "DO");
    assert_eq!(loose_end(&format!("// {mark}: later")).len(), 1);
    assert_eq!(
        loose_end(&format!("// {mark}(#12): later\n// {mark}(decisions/0003)")).len(),
        0
    );
    assert_eq!(
        no_contract("//! Room.\n//! In: a. Out: b.\n//! Invariant: c.\nIn code").len(),
        1
    );
}
