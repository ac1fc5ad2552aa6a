//! Names of files inside a packed file: relative, with `/`, and never out of the folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};

/// All files below the inputs by the name they get: relative to their folder, in order of names.
///
/// Links to folders are not followed, so that a loop of them is not one here. `output` is left
/// out: an older result may lie in the folder.
pub(crate) fn collect(
    inputs: &[PathBuf],
    output: &Path,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let output = output.canonicalize().ok();
    let mut files = BTreeMap::new();
    for input in inputs {
        let found = std::fs::metadata(input).with_context(|| input.display().to_string())?;
        if found.is_dir() {
            walk(input, &output, &mut files)?;
        } else {
            let name = input.file_name().context("the input has no file name")?;
            add(&mut files, Path::new(name), input.clone())?;
        }
    }
    Ok(files)
}

/// Where a file of this name goes under `folder`; refuses a name that leads out of it.
pub(crate) fn place(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(name);
    let inside = path.components().all(|c| matches!(c, Component::Normal(_)));
    // What the parser of paths forgives is refused too: `a//b`, `a/./b`, `a/`.
    let plain = name
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    if !inside || !plain || name.contains('\0') {
        bail!("the name {name:?} leads out of the folder, refused");
    }
    Ok(folder.join(path))
}

fn walk(
    root: &Path,
    output: &Option<PathBuf>,
    files: &mut BTreeMap<String, PathBuf>,
) -> anyhow::Result<()> {
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let entry = entry.with_context(|| folder.display().to_string())?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                open.push(path);
            } else if path.is_file() && !is_same(&path, output) {
                add(files, path.strip_prefix(root)?, path.clone())?;
            }
        }
    }
    Ok(())
}

fn is_same(path: &Path, output: &Option<PathBuf>) -> bool {
    output.is_some() && path.canonicalize().ok() == *output
}

fn add(files: &mut BTreeMap<String, PathBuf>, name: &Path, path: PathBuf) -> anyhow::Result<()> {
    let parts: Option<Vec<&str>> = name.iter().map(OsStr::to_str).collect();
    let Some(name) = parts.map(|parts| parts.join("/")) else {
        bail!("{}: the name is not UTF-8", path.display());
    };
    if let Some(other) = files.insert(name, path.clone()) {
        bail!(
            "{} and {} would get the same name",
            other.display(),
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\0b",
        ] {
            assert!(place(Path::new("/out"), name).is_err(), "{name:?}");
        }
        assert_eq!(
            place(Path::new("/out"), "a/b.dcm").unwrap(),
            Path::new("/out/a/b.dcm")
        );
        assert_eq!(
            place(Path::new("/out"), "..a").unwrap(),
            Path::new("/out/..a")
        );
    }
}
