//! Who may use whom. A new arrow needs a page in docs/decisions and a line here.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use crate::{files, root, short, silent};

/// Package, and the packages of the workspace it may use. `system-tests` may use all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("study", &[]),
    ("identity", &[]),
    ("power-link", &[]),
    ("telemetry", &[]),
    ("viewer", &[]),
    ("print", &[]),
    ("clock", &[]),
    ("control", &[]),
    ("settings", &[]),
    ("codec", &["study"]),
    ("sealing", &["identity"]),
    ("store", &["study"]),
    ("journal", &["study", "identity"]),
    ("dimse", &["study"]),
    ("dicomweb", &["study"]),
    ("update", &["identity"]),
    ("supervisor", &["power-link"]),
    ("sync-proto", &["study", "journal"]),
    ("report", &["identity", "study", "print"]),
    ("sync-quic", &["sync-proto", "identity", "journal", "study"]),
    (
        "bundle",
        &["sync-quic", "sync-proto", "identity", "journal", "study"],
    ),
    (
        "agent",
        &[
            "bundle",
            "study",
            "identity",
            "power-link",
            "telemetry",
            "viewer",
            "print",
            "clock",
            "control",
            "settings",
            "sealing",
            "codec",
            "store",
            "journal",
            "dimse",
            "dicomweb",
            "update",
            "sync-proto",
            "report",
            "sync-quic",
        ],
    ),
    (
        "hub",
        &[
            "bundle",
            "study",
            "identity",
            "telemetry",
            "viewer",
            "print",
            "clock",
            "control",
            "settings",
            "sealing",
            "codec",
            "store",
            "journal",
            "dimse",
            "dicomweb",
            "update",
            "sync-proto",
            "report",
            "sync-quic",
        ],
    ),
    ("fuzz", &["codec", "study"]),
    (
        "provisioning",
        &["identity", "sealing", "update", "telemetry"],
    ),
];

const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

const MAY_USE_ALL: &str = "system-tests";

/// Manifests of the workspace by package name, without the root's.
fn manifests() -> BTreeMap<String, Table> {
    let root = root();
    files(&root, "Cargo.toml")
        .into_iter()
        .filter(|path| *path != root.join("Cargo.toml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let manifest: Table = text.parse().unwrap();
            let name = manifest["package"]["name"].as_str().unwrap().to_owned();
            // Folder and package carry the same name, but for the tests.
            let folder = path
                .parent()
                .unwrap()
                .file_name()
                .unwrap()
                .to_string_lossy();
            assert!(
                name == folder || name == MAY_USE_ALL,
                "{} is named {name}",
                short(&path)
            );
            (name, manifest)
        })
        .collect()
}

/// Dependencies of these kinds, also those of a target.
fn used(manifest: &Table, kinds: &[&str]) -> Vec<(String, Value)> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    tables
        .into_iter()
        .flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()))
        .flat_map(|table| {
            table
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
        })
        .collect()
}

fn allowed(package: &str) -> Option<&'static [&'static str]> {
    let (_, arrows) = ALLOWED.iter().find(|(name, _)| *name == package)?;
    Some(arrows)
}

/// All that is linked with a package: its arrows, and theirs.
fn reachable(package: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<_> = allowed(package).unwrap_or_default().to_vec();
    while let Some(name) = next.pop() {
        if found.insert(name) {
            next.extend(allowed(name).unwrap_or_default());
        }
    }
    found
}

fn forbidden(manifests: &BTreeMap<String, Table>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (package, manifest) in manifests {
        if package == MAY_USE_ALL {
            continue;
        }
        let Some(arrows) = allowed(package) else {
            complaints.push(format!("{package} is in nobody's list of arrows"));
            continue;
        };
        let within = |name: &String| manifests.contains_key(name);
        let optional = |value: &Value| value.get("optional") == Some(&Value::Boolean(true));
        let (for_tests, code): (Vec<_>, Vec<_>) =
            used(manifest, &["dependencies", "build-dependencies"])
                .into_iter()
                .partition(|(_, value)| optional(value));
        let wrong = code
            .iter()
            .filter(|(name, _)| within(name) && !arrows.contains(&name.as_str()));
        complaints.extend(wrong.map(|(name, _)| format!("{package} may not use {name}")));
        // Tests, and doubles behind a feature, may name what is linked anyway; a crate's tests
        // switch on its own doubles.
        let linked = reachable(package);
        let wrong = for_tests
            .into_iter()
            .chain(used(manifest, &["dev-dependencies"]))
            .filter(|(name, _)| within(name) && name != package && !linked.contains(name.as_str()));
        complaints.extend(wrong.map(|(name, _)| format!("tests of {package} may not use {name}")));
    }
    complaints
}

/// Versions stand in the root manifest, and everything comes from the registry.
fn unpinned(manifests: &BTreeMap<String, Table>, workspace: &Table) -> Vec<String> {
    let mut complaints = Vec::new();
    for (package, manifest) in manifests {
        for (name, value) in used(manifest, &KINDS) {
            // A crate that switches on its own doubles for its tests names its folder.
            if name != *package && value.get("workspace") != Some(&Value::Boolean(true)) {
                complaints.push(format!(
                    "{package}: {name} is not pinned in the root manifest"
                ));
            }
        }
    }
    if workspace.contains_key("patch") || workspace.contains_key("replace") {
        complaints.push("the root manifest patches a dependency".to_owned());
    }
    for (name, value) in workspace["workspace"]["dependencies"].as_table().unwrap() {
        if value.get("git").is_some() {
            complaints.push(format!("{name} comes from git"));
        }
    }
    complaints
}

fn workspace() -> Table {
    std::fs::read_to_string(root().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn every_arrow_is_allowed() {
    silent(forbidden(&manifests()));
}

#[test]
fn every_dependency_is_pinned_in_the_root_manifest() {
    silent(unpinned(&manifests(), &workspace()));
}

#[test]
fn every_library_has_the_shared_lints() {
    let bare = manifests().into_iter().filter(|(_, manifest)| {
        manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            != Some(&Value::Boolean(true))
    });
    silent(
        bare.map(|(package, _)| format!("{package} does not take the workspace's lints"))
            .collect(),
    );
}

#[test]
fn a_wrong_arrow_is_seen() {
    let one = |text: &str| text.parse::<Table>().unwrap();
    let tree = BTreeMap::from([
        (
            "study".to_owned(),
            one("[target.'cfg(unix)'.dev-dependencies]\nagent.workspace = true"),
        ),
        (
            "agent".to_owned(),
            one("[dependencies]\nhub.workspace = true\nstudy.workspace = true"),
        ),
        ("hub".to_owned(), one("[dependencies]\nserde = \"1\"")),
        ("novel".to_owned(), Table::new()),
    ]);
    assert_eq!(
        forbidden(&tree),
        [
            "agent may not use hub",
            "novel is in nobody's list of arrows",
            "tests of study may not use agent",
        ]
    );
    let workspace = one("patch.x = 1\n[workspace.dependencies]\ny = { git = \"z\" }");
    assert_eq!(
        unpinned(&tree, &workspace),
        [
            "hub: serde is not pinned in the root manifest",
            "the root manifest patches a dependency",
            "y comes from git",
        ]
    );
}
