//! `ctpack info`: what is in a packed file, without decoding it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use codec::{FileEntry, Kind, UnitHeader};
use serde_json::{Value, json};

use crate::Report;
use crate::archive::{Archive, Group};

pub(crate) fn run(input: &Path) -> anyhow::Result<Report> {
    let (mut archive, bytes_packed) = Archive::open(input)?;
    let (mut files, mut tiers) = (Vec::new(), BTreeSet::new());
    let (mut groups, mut bytes_original, mut bytes_tables) = (0_u64, 0_u64, 0_u64);
    let mut text = format!(
        "{:>6} {:>10}    {:>9} {:>7} {:<8} {:64} name\n",
        "number", "bytes", "packed", "share", "method", "BLAKE3"
    );
    while let Some(group) = archive.next_group(|_| false)? {
        groups += 1;
        tiers.extend(group.units.iter().map(|(unit, _)| unit.tier));
        bytes_tables += size_of(&group, |unit| unit.kind == Kind::Table);
        for (number, index, file) in group.files() {
            bytes_original += file.bytes;
            files.push(describe(&group, number, index, file, &mut text)?);
        }
    }
    let complete = archive.is_whole();
    let tier: Vec<&str> = tiers.iter().map(|tier| tier.as_str()).collect();
    let count = files.len();
    writeln!(
        text,
        "{count} files in {groups} groups, tier {}: {bytes_original} bytes -> {bytes_packed} bytes ({})",
        tier.join("+"),
        percent(bytes_packed, bytes_original),
    )?;
    write!(
        text,
        "tables and headers {bytes_tables} bytes; in each group a spread over the slices goes first; "
    )?;
    write!(
        text,
        "{}",
        if complete { "complete" } else { "NOT COMPLETE" }
    )?;
    Ok(Report {
        done: true,
        json: json!({
            "format_version": 2,
            "complete": complete,
            "faults": archive.faults,
            "tier": tier.join("+"),
            "order": "spread",
            "instances": count,
            "groups": groups,
            "bytes_original": bytes_original,
            "bytes_packed": bytes_packed,
            "bytes_tables": bytes_tables,
            "files": files,
        }),
        text,
        warnings: archive.faults,
    })
}

/// A share in percent, for people.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let tenths = part.saturating_mul(1000) / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn describe(
    group: &Group,
    number: u64,
    index: usize,
    file: &FileEntry,
    text: &mut String,
) -> anyhow::Result<Value> {
    let of_file =
        |unit: &UnitHeader| unit.kind == Kind::Data && usize::try_from(unit.span.file) == Ok(index);
    let bytes_units = size_of(group, of_file);
    let methods: BTreeSet<&str> = group
        .units
        .iter()
        .filter(|(unit, _)| of_file(unit))
        .map(|(unit, _)| unit.method.as_str())
        .collect();
    let methods: Vec<&str> = methods.into_iter().collect();
    let method = if methods.is_empty() {
        "table".into()
    } else {
        methods.join("+")
    };
    writeln!(
        text,
        "{number:6} {:>10} -> {bytes_units:>9} {:>7} {method:<8} {} {}",
        file.bytes,
        percent(bytes_units, file.bytes),
        file.digest,
        file.name
    )?;
    Ok(json!({
        "number": number,
        "name": file.name,
        "bytes": file.bytes,
        "digest": file.digest.to_string(),
        "bytes_units": bytes_units,
        "method": method,
        "units": group.decoder.units_of(index),
        "group": group.units.first().map(|(unit, _)| unit.group.to_string()),
    }))
}

fn size_of(group: &Group, of: impl Fn(&UnitHeader) -> bool) -> u64 {
    group
        .units
        .iter()
        .filter(|(unit, _)| of(unit))
        .map(|(_, bytes)| *bytes as u64)
        .sum()
}
