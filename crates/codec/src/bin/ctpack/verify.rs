//! `ctpack verify`: the packed files against those in a folder.

use std::path::Path;

use anyhow::bail;
use serde_json::json;

use crate::Report;
use crate::archive::{Archive, Group};
use crate::names;
use crate::progress::Progress;

pub(crate) fn run(input: &Path, folder: &Path) -> anyhow::Result<Report> {
    let (mut archive, bytes) = Archive::open(input)?;
    let mut progress = Progress::new("verifying", bytes);
    let (mut equal, mut faults) = (0_u64, Vec::new());
    while let Some(group) = archive.next_group(|_| true)? {
        for (number, index, file) in group.files() {
            match compare(&group, index, &file.name, folder) {
                Ok(()) => equal += 1,
                Err(error) => faults.push(format!("file {number} ({}): {error:#}", file.name)),
            }
        }
        progress.add(group.units.iter().map(|(_, bytes)| *bytes as u64).sum());
    }
    drop(progress);
    let done = archive.is_whole() && faults.is_empty();
    let mut warnings = archive.faults;
    warnings.append(&mut faults);
    Ok(Report {
        done,
        json: json!({ "equal": done, "files_equal": equal, "faults": warnings }),
        text: format!(
            "{equal} files equal{}",
            if done { "" } else { ", but not all is well" }
        ),
        warnings,
    })
}

fn compare(group: &Group, index: usize, name: &str, folder: &Path) -> anyhow::Result<()> {
    let path = names::place(folder, name)?;
    let packed = group.decoder.file(index)?;
    if std::fs::read(&path)? != packed {
        bail!("the bytes differ");
    }
    Ok(())
}
