//! Reading records back, alone or in runs.

use std::io;
use std::ops::Range;

use crate::disk::DiskFile;
use crate::error::{Damage, StoreError};
use crate::name::Location;
use crate::record::{FIXED_BYTES, Fixed, Head, Record};
use crate::segments::Segments;

impl Segments {
    /// Reads a record and verifies its digest; from any thread, also while the writer appends.
    pub fn read(&self, location: &Location) -> Result<Record, StoreError> {
        let file = self.file(&location.segment)?;
        read_record(file.as_ref(), location)
    }

    /// Does what [`Segments::read`] does, with the bytes from the medium and not from the kernel's memory.
    pub fn read_from_disk(&self, location: &Location) -> Result<Record, StoreError> {
        let file = self.file(&location.segment)?;
        forget(file.as_ref(), location)?;
        read_record(file.as_ref(), location)
    }

    /// Reads what [`Work::append_run`](crate::Work::append_run) has appended, each record with its own place, and
    /// verifies every digest. One damaged record fails the whole; [`Segments::split_run`] finds the others.
    ///
    /// Takes as much memory as the run is long; a run of which the segment does not have all is refused first.
    pub fn read_run(&self, run: &Location) -> Result<Vec<(Location, Record)>, StoreError> {
        let file = self.file(&run.segment)?;
        read_records(file.as_ref(), run)
    }

    /// Does what [`Segments::read_run`] does, with the bytes from the medium and not from the kernel's memory.
    pub fn read_run_from_disk(
        &self,
        run: &Location,
    ) -> Result<Vec<(Location, Record)>, StoreError> {
        let file = self.file(&run.segment)?;
        forget(file.as_ref(), run)?;
        read_records(file.as_ref(), run)
    }

    /// The places of the records of a run. Reads their headers and no body.
    pub fn split_run(&self, run: &Location) -> Result<Vec<Location>, StoreError> {
        let file = self.file(&run.segment)?;
        split(file.as_ref(), run)
    }
}

fn read_records(
    file: &dyn DiskFile,
    run: &Location,
) -> Result<Vec<(Location, Record)>, StoreError> {
    split(file, run)?
        .into_iter()
        .map(|location| {
            let record = read_record(file, &location)?;
            Ok((location, record))
        })
        .collect()
}

fn split(file: &dyn DiskFile, run: &Location) -> Result<Vec<Location>, StoreError> {
    let range = whole_range(file, run)?;
    let mut locations = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let rest = Location {
            offset: at,
            bytes: range.end - at,
            ..run.clone()
        };
        let head = head_within(file, &rest)?;
        let location = Location {
            bytes: record_bytes(&head, &rest)?,
            ..rest
        };
        at += location.bytes;
        locations.push(location);
    }
    Ok(locations)
}

fn read_record(file: &dyn DiskFile, location: &Location) -> Result<Record, StoreError> {
    whole_range(file, location)?;
    let head = head_within(file, location)?;
    if record_bytes(&head, location)? != location.bytes {
        return Err(damaged(location, Damage::Length));
    }
    let body_bytes =
        usize::try_from(head.body_bytes).map_err(|_| damaged(location, Damage::Length))?;
    let mut body = vec![0; body_bytes];
    file.read_exact_at(&mut body, location.offset + head.head_bytes)
        .map_err(StoreError::io("read", &location.segment))?;
    Record::from_stored(head, body).map_err(|damage| damaged(location, damage))
}

/// The bytes of a place, which the segment must have all.
fn whole_range(file: &dyn DiskFile, location: &Location) -> Result<Range<u64>, StoreError> {
    let segment_bytes = file
        .bytes()
        .map_err(StoreError::io("read", &location.segment))?;
    location
        .offset
        .checked_add(location.bytes)
        .filter(|end| location.bytes > 0 && *end <= segment_bytes)
        .map(|end| location.offset..end)
        .ok_or_else(|| damaged(location, Damage::Short))
}

fn head_within(file: &dyn DiskFile, location: &Location) -> Result<Head, StoreError> {
    read_head(file, location.offset, location.offset + location.bytes)
        .map_err(StoreError::io("read", &location.segment))?
        .map_err(|damage| damaged(location, damage))
}

/// How long a record is that must fit into `room`.
fn record_bytes(head: &Head, room: &Location) -> Result<u64, StoreError> {
    head.head_bytes
        .checked_add(head.body_bytes)
        .filter(|bytes| *bytes <= room.bytes)
        .ok_or_else(|| damaged(room, Damage::Length))
}

fn damaged(location: &Location, damage: Damage) -> StoreError {
    StoreError::Damaged {
        location: location.clone(),
        damage,
    }
}

fn forget(file: &dyn DiskFile, location: &Location) -> Result<(), StoreError> {
    let range = location.offset..location.offset.saturating_add(location.bytes);
    file.forget_cached(range)
        .map_err(StoreError::io("read again", &location.segment))
}

/// Reads the header at `offset` of a record that must end at or before `end`.
pub(crate) fn read_head(
    file: &dyn DiskFile,
    offset: u64,
    end: u64,
) -> io::Result<Result<Head, Damage>> {
    let room = end.saturating_sub(offset);
    if room < FIXED_BYTES as u64 {
        return Ok(Err(Damage::Short));
    }
    let mut fixed = [0; FIXED_BYTES];
    file.read_exact_at(&mut fixed, offset)?;
    let fixed = match Fixed::parse(fixed) {
        Ok(fixed) => fixed,
        Err(damage) => return Ok(Err(damage)),
    };
    let mut rest = vec![0; fixed.rest_bytes()];
    if room < (FIXED_BYTES + rest.len()) as u64 {
        return Ok(Err(Damage::Short));
    }
    file.read_exact_at(&mut rest, offset + FIXED_BYTES as u64)?;
    Ok(fixed.finish(&rest))
}
