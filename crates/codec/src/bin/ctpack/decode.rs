//! `ctpack decode`: the files again, byte for byte, as many as are whole.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use serde_json::json;

use crate::Report;
use crate::archive::{Archive, Group};
use crate::names;
use crate::progress::Progress;

/// Which files, counted from 1; both ends included.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    from: u64,
    to: u64,
}

impl Numbers {
    pub(crate) fn first(count: u64) -> Self {
        Self { from: 1, to: count }
    }

    fn contains(self, number: u64) -> bool {
        (self.from..=self.to).contains(&number)
    }
}

impl Default for Numbers {
    /// All files.
    fn default() -> Self {
        Self {
            from: 1,
            to: u64::MAX,
        }
    }
}

impl FromStr for Numbers {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parsed = text.split_once("..").and_then(|(from, to)| {
            Some(Self {
                from: from.parse().ok()?,
                to: to.parse().ok()?,
            })
        });
        parsed
            .filter(|numbers| 1 <= numbers.from && numbers.from <= numbers.to)
            .ok_or_else(|| anyhow!("expected two numbers such as 3..7, counted from 1"))
    }
}

pub(crate) fn run(input: &Path, output: &Path, wanted: Numbers) -> anyhow::Result<Report> {
    let (mut archive, bytes) = Archive::open(input)?;
    std::fs::create_dir_all(output).with_context(|| output.display().to_string())?;
    let mut progress = Progress::new("decoding", bytes);
    let (mut written, mut lost) = (Vec::new(), Vec::new());
    while let Some(group) = archive.next_group(|number| wanted.contains(number))? {
        for (number, index, file) in group.files().filter(|(n, _, _)| wanted.contains(*n)) {
            match write(&group, index, &file.name, output) {
                Ok(()) => written.push(number),
                Err(error) => lost.push(format!("file {number}: {error:#}")),
            }
        }
        progress.add(group.units.iter().map(|(_, bytes)| *bytes as u64).sum());
    }
    drop(progress);
    let done = archive.is_whole() && lost.is_empty();
    let mut warnings = archive.faults;
    warnings.append(&mut lost);
    Ok(Report {
        done,
        json: json!({ "complete": done, "files": written, "faults": warnings }),
        text: format!("{} files written to {}", written.len(), output.display()),
        warnings,
    })
}

fn write(group: &Group, index: usize, name: &str, output: &Path) -> anyhow::Result<()> {
    let path = names::place(output, name)?;
    let bytes = group.decoder.file(index)?;
    let folder = path.parent().unwrap_or(output);
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    file.write_all(&bytes)
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_from_one_and_include_both_ends() {
        let numbers: Numbers = "3..5".parse().unwrap();
        assert_eq!(
            (1..9).filter(|n| numbers.contains(*n)).collect::<Vec<_>>(),
            [3, 4, 5]
        );
        for text in ["0..3", "5..3", "3", "..", "a..b", "-1..2"] {
            assert!(text.parse::<Numbers>().is_err(), "{text}");
        }
    }
}
