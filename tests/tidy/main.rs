//! House rules as tests (docs/architecture.md says why each of them is there).
//!
//! Each rule is a function from the tree to a list of complaints; a rule that never complains
//! proves nothing, so each is also shown a tree that breaks it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arrows;
mod config;
mod sources;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}

/// Fails with all complaints at once.
fn silent(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Every file below `folder` whose name ends with `ending`, sorted; without what builds leave.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let generated = ["target", "node_modules", "output"].contains(&name.as_str());
            if path.is_dir() && !generated && !name.starts_with('.') {
                folders.push(path);
            } else if path.is_file() && name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path as the complaints name it.
fn short(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
