//! Reads a packed file group by group, past damage and up to a tear.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail};
use codec::container::{HEAD_BYTES, Seal, TRAILER_BYTES, TRAILER_MAGIC, is_head};
use codec::{DecodeError, Decoder, FileEntry, HEADER_BYTES, Kind, Limits, UnitHeader, unit_bytes};

/// One group as far as it could be read.
pub(crate) struct Group {
    /// The number of its first file in the whole packed file, from 1.
    pub(crate) first: u64,
    /// Holds the wanted files, those that are ready.
    pub(crate) decoder: Decoder,
    /// The headers of its units and their sizes.
    pub(crate) units: Vec<(UnitHeader, usize)>,
}

impl Group {
    /// The group's files with their numbers in the whole packed file; none if the table is lost.
    pub(crate) fn files(&self) -> impl Iterator<Item = (u64, usize, &FileEntry)> {
        let files = self.decoder.files().unwrap_or_default();
        (self.first..)
            .zip(files)
            .enumerate()
            .map(|(index, (number, file))| (number, index, file))
    }
}

/// A packed file, read from the front.
pub(crate) struct Archive {
    file: BufReader<File>,
    seal: Seal,
    files: u64,
    pending: Option<(UnitHeader, Vec<u8>)>,
    end: Option<End>,
    /// What was found wrong so far, one line each.
    pub(crate) faults: Vec<String>,
}

enum End {
    Whole,
    Torn,
}

impl Archive {
    /// Opens a packed file; gives its size too.
    pub(crate) fn open(path: &Path) -> anyhow::Result<(Self, u64)> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let bytes = file
            .metadata()
            .with_context(|| path.display().to_string())?
            .len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        if !is_head(&read_up_to(&mut file, HEAD_BYTES)?) {
            bail!("{}: not a packed file of format version 2", path.display());
        }
        let archive = Self {
            file,
            seal: Seal::default(),
            files: 0,
            pending: None,
            end: None,
            faults: Vec::new(),
        };
        Ok((archive, bytes))
    }

    /// Whether the file was read to its end and nothing was wrong.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.end, Some(End::Whole)) && self.faults.is_empty()
    }

    /// Reads the next group, and decodes the files whose numbers (from 1) are wanted.
    pub(crate) fn next_group(
        &mut self,
        wanted: impl Fn(u64) -> bool,
    ) -> anyhow::Result<Option<Group>> {
        let Some((header, unit)) = self.next_unit()? else {
            return Ok(None);
        };
        let id = header.group;
        let limits = Limits {
            held_bytes: HELD_BYTES_MAX,
            ..Limits::default()
        };
        let mut group = Group {
            first: self.files + 1,
            decoder: Decoder::new(limits),
            units: Vec::new(),
        };
        let mut needed = None;
        self.pending = Some((header, unit));
        while let Some((header, unit)) = self.next_unit()? {
            let begins_again = group
                .units
                .last()
                .is_some_and(|(h, _)| header.number <= h.number);
            if header.group != id || begins_again {
                self.pending = Some((header, unit));
                break;
            }
            let skip = needed
                .as_ref()
                .is_some_and(|n: &BTreeSet<u32>| !n.contains(&header.number));
            if header.kind == Kind::Table || !skip {
                self.note(group.decoder.push(&unit));
            }
            if needed.is_none() && group.decoder.files().is_some() {
                needed = Some(needed_units(&group, &wanted));
            }
            group.units.push((header, unit.len()));
        }
        self.files += group.decoder.files().unwrap_or_default().len() as u64;
        Ok(Some(group))
    }

    fn note(&mut self, pushed: Result<(), DecodeError>) {
        match pushed {
            // One line about the table is enough; without it no data unit is of use.
            Err(DecodeError::TableMissing) | Ok(()) => {}
            Err(error) => self.faults.push(error.to_string()),
        }
    }

    /// The next unit that is whole; `None` at the end or at a tear.
    fn next_unit(&mut self) -> anyhow::Result<Option<(UnitHeader, Vec<u8>)>> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        while self.end.is_none() {
            let mut unit = read_up_to(&mut self.file, TRAILER_BYTES)?;
            if unit.starts_with(&TRAILER_MAGIC) {
                self.trailer(&unit)?;
                break;
            }
            self.extend(&mut unit, HEADER_BYTES)?;
            let Ok(Some(bytes)) = unit_bytes(&unit) else {
                self.tear();
                break;
            };
            if !self.extend(&mut unit, bytes)? {
                self.tear();
                break;
            }
            self.seal.add_unit(&unit);
            match UnitHeader::parse(&unit) {
                Ok(header) => return Ok(Some((header, unit))),
                Err(error) => self.faults.push(error.to_string()),
            }
        }
        Ok(None)
    }

    fn trailer(&mut self, trailer: &[u8]) -> anyhow::Result<()> {
        let nothing_follows = read_up_to(&mut self.file, 1)?.is_empty();
        if nothing_follows && trailer == self.seal.trailer() {
            self.end = Some(End::Whole);
        } else {
            self.faults
                .push("the trailer does not belong to the units before it".into());
            self.end = Some(End::Torn);
        }
        Ok(())
    }

    fn tear(&mut self) {
        self.faults
            .push("the file is torn: what follows is no whole unit".into());
        self.end = Some(End::Torn);
    }

    /// Reads on to `bytes` bytes; false if the file ends before.
    fn extend(&mut self, unit: &mut Vec<u8>, bytes: usize) -> anyhow::Result<bool> {
        let more = read_up_to(&mut self.file, bytes.saturating_sub(unit.len()))?;
        unit.extend_from_slice(&more);
        Ok(unit.len() == bytes)
    }
}

/// The largest single file that is unpacked, as it makes a group of its own.
pub(crate) const HELD_BYTES_MAX: usize = 8 << 30;

fn needed_units(group: &Group, wanted: impl Fn(u64) -> bool) -> BTreeSet<u32> {
    group
        .files()
        .filter(|(number, _, _)| wanted(*number))
        .flat_map(|(_, index, _)| group.decoder.units_of(index).unwrap_or_default())
        .collect()
}

fn read_up_to(file: &mut impl Read, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    file.take(bytes as u64).read_to_end(&mut read)?;
    Ok(read)
}
