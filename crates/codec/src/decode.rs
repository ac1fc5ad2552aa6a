//! Decodes the units of a group back into files.
//!
//! In: units from outside, table units before data units, otherwise in any order; what comes before
//! what it predicts from waits. Out: the files that are complete.
//! Invariant: a file that is given out has the digest that its table says;
//! memory stays within the [`Limits`] whatever the bytes say.
//! May not: panic on bytes from outside, trust a length, give out a file in part.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::{BTreeMap, BTreeSet};

use study::Digest;
use thiserror::Error;
use zstd::bulk::Decompressor;

use crate::format::{GroupId, Kind, Method, UnitHeader, require};
use crate::model::{self, Model};
use crate::native::rebuild;
use crate::planes::join_planes;
use crate::table::{FileEntry, Piece, TABLE_BYTES_MAX, Table};

/// Says why a unit is not accepted, or a file not given out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes do not begin like a unit.
    #[error("the bytes are not a unit")]
    NotAUnit,
    /// The unit is shorter or longer than it says.
    #[error("the unit has not the length that it says")]
    Length,
    /// A format version that this program does not know.
    #[error("the unit has format version {0}, this program knows version 2")]
    UnknownVersion(u8),
    /// A method that this program does not know.
    #[error("the unit is coded with method {0}, which this program does not know")]
    UnknownMethod(u8),
    /// The unit's bytes do not have its digest.
    #[error("the unit is damaged")]
    Damaged,
    /// A number is over what the format or the caller allows.
    #[error("the unit is over a limit: {0}")]
    OverLimit(&'static str),
    /// The unit is whole, but says things that cannot be true together.
    #[error("the unit contradicts itself or its group: {0}")]
    Inconsistent(&'static str),
    /// The unit is of another group than those before it.
    #[error("the unit belongs to another group")]
    OtherGroup,
    /// A data unit came before the table was complete.
    #[error("a data unit came before the group's table")]
    TableMissing,
    /// The payload of this unit does not decode.
    #[error("the payload of unit {0} cannot be decoded")]
    Payload(u32),
    /// The group has no file with this number.
    #[error("the group has no file {0}")]
    NoSuchFile(usize),
    /// Not all units of the file are there.
    #[error("file {0} is not complete")]
    Incomplete(usize),
    /// The file's bytes do not have the digest that the table says.
    #[error("file {0} does not have its digest")]
    FileDigest(usize),
}

/// How much memory a [`Decoder`] may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the table.
    pub table_bytes: usize,
    /// Decoded bytes of data units held at one time, and bytes of those that wait for others.
    pub held_bytes: usize,
}

impl Default for Limits {
    /// Any table that the format allows, and 1 GiB.
    fn default() -> Self {
        Self {
            table_bytes: TABLE_BYTES_MAX,
            held_bytes: 1 << 30,
        }
    }
}

/// Puts the files of one group together again.
///
/// Only the data units of the files that are wanted need be pushed; see [`Decoder::units_of`].
pub struct Decoder {
    limits: Limits,
    first: Option<UnitHeader>,
    pieces: BTreeMap<u32, Vec<u8>>,
    table: Option<Table>,
    held: BTreeMap<u32, Vec<u8>>,
    /// Units that came before what they predict from.
    waiting: BTreeMap<u32, Waiting>,
    held_bytes: usize,
}

struct Waiting {
    header: UnitHeader,
    payload: Vec<u8>,
}

impl Decoder {
    /// Begins a group.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            first: None,
            pieces: BTreeMap::new(),
            table: None,
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// Takes a unit in. The first one says which group it is; one that came before is no error.
    ///
    /// After an error the decoder is as it was before, or as new if the error is in the table. An
    /// error may be one of a unit that waited for this one; [`DecodeError::Payload`] names it, it
    /// is let go, and this one is held.
    pub fn push(&mut self, unit: &[u8]) -> Result<(), DecodeError> {
        let (header, payload) = UnitHeader::split(unit)?;
        if let Some(first) = &self.first {
            require(header.group == first.group, DecodeError::OtherGroup)?;
            require(
                (header.units, header.table_units) == (first.units, first.table_units),
                DecodeError::Inconsistent("units in the group"),
            )?;
        }
        match header.kind {
            Kind::Table => self.push_table(&header, payload),
            Kind::Data => self.push_data(&header, payload),
        }
    }

    /// The group's files, once its table units are in.
    pub fn files(&self) -> Option<&[FileEntry]> {
        self.table.as_ref().map(|table| table.files.as_slice())
    }

    /// The numbers of the data units that a file needs, with those they predict from, ascending;
    /// `None` before the table is in or if there is no such file.
    pub fn units_of(&self, index: usize) -> Option<Vec<u32>> {
        let table = self.table.as_ref()?;
        let table_units = self.first.as_ref()?.table_units;
        let mut open: Vec<u32> = own_units(table.pieces.get(index)?).collect();
        let mut needed: BTreeSet<u32> = open.iter().copied().collect();
        while let Some(number) = open.pop() {
            let planned = table
                .plan
                .get(usize::try_from(number - table_units).ok()?)?;
            open.extend(planned.refs.iter().filter(|r| needed.insert(**r)));
        }
        Some(needed.into_iter().collect())
    }

    /// Whether [`Decoder::file`] has all it needs for this file.
    pub fn ready(&self, index: usize) -> bool {
        let pieces = self
            .table
            .as_ref()
            .and_then(|table| table.pieces.get(index));
        pieces.is_some_and(|pieces| own_units(pieces).all(|unit| self.held.contains_key(&unit)))
    }

    /// The exact bytes of a file; its digest is checked.
    pub fn file(&self, index: usize) -> Result<Vec<u8>, DecodeError> {
        let table = self.table.as_ref().ok_or(DecodeError::TableMissing)?;
        let (Some(entry), Some(pieces)) = (table.files.get(index), table.pieces.get(index)) else {
            return Err(DecodeError::NoSuchFile(index));
        };
        require(self.ready(index), DecodeError::Incomplete(index))?;
        let native_bytes = table.native_bytes.get(index).copied().flatten();
        // Every piece is in memory, so that the sum of them is a size that can be had.
        let kept = usize::try_from(native_bytes.unwrap_or(entry.bytes)).unwrap_or_default();
        let mut file = Vec::with_capacity(kept);
        for piece in pieces {
            file.extend_from_slice(match piece {
                Piece::Inline(range) => table.inline(range.clone()),
                Piece::Unit(unit) => self.held.get(unit).map(Vec::as_slice).unwrap_or_default(),
            });
        }
        if native_bytes.is_some() {
            file = rebuild(&file, entry.bytes).ok_or(DecodeError::FileDigest(index))?;
        }
        require(
            Digest::of(&file) == entry.digest,
            DecodeError::FileDigest(index),
        )?;
        Ok(file)
    }

    fn push_table(&mut self, header: &UnitHeader, payload: &[u8]) -> Result<(), DecodeError> {
        if self.table.is_some() {
            return Ok(());
        }
        let bytes = usize::try_from(header.span.bytes).unwrap_or(usize::MAX);
        let bytes_max = self.limits.table_bytes.min(TABLE_BYTES_MAX);
        require(bytes <= bytes_max, DecodeError::OverLimit("table"))?;
        if let Some(first) = &self.first {
            require(
                (header.method, header.span) == (first.method, first.span),
                DecodeError::Inconsistent("table units"),
            )?;
        }
        if self.pieces.contains_key(&header.number) {
            return Ok(());
        }
        // Compressed, a table is no longer than it is: more than that is never gathered.
        let gathered: usize = self.pieces.values().map(Vec::len).sum();
        require(
            gathered + payload.len() <= bytes,
            DecodeError::Inconsistent("table units"),
        )?;
        self.pieces.insert(header.number, payload.to_vec());
        self.first.get_or_insert_with(|| header.clone());
        if self.pieces.len() < usize::try_from(header.table_units).unwrap_or(usize::MAX) {
            return Ok(());
        }
        let joined: Vec<u8> = std::mem::take(&mut self.pieces)
            .into_values()
            .flatten()
            .collect();
        match read_table(header, &joined) {
            Ok(table) => {
                self.table = Some(table);
                Ok(())
            }
            Err(error) => {
                self.first = None;
                Err(error)
            }
        }
    }

    fn push_data(&mut self, header: &UnitHeader, payload: &[u8]) -> Result<(), DecodeError> {
        let table = self.table.as_ref().ok_or(DecodeError::TableMissing)?;
        let planned = header
            .number
            .checked_sub(header.table_units)
            .and_then(|index| table.plan.get(usize::try_from(index).ok()?))
            .ok_or(DecodeError::Inconsistent("unit numbers"))?;
        require(
            planned.span == header.span,
            DecodeError::Inconsistent("span"),
        )?;
        require(
            header.refs.iter().all(|r| planned.refs.contains(r)),
            DecodeError::Inconsistent("refs"),
        )?;
        let known = |number| self.held.contains_key(&number);
        if known(header.number) || self.waiting.contains_key(&header.number) {
            return Ok(());
        }
        let ready = header.refs.iter().all(|r| known(*r));
        let waits = if ready { 0 } else { payload.len() };
        let bytes = usize::try_from(header.span.bytes).unwrap_or(usize::MAX);
        let held_bytes = self.held_bytes.saturating_add(bytes).saturating_add(waits);
        require(
            held_bytes <= self.limits.held_bytes,
            DecodeError::OverLimit("bytes held"),
        )?;
        if ready {
            let raw = self.decode(header, payload)?;
            self.held.insert(header.number, raw);
            self.held_bytes = held_bytes;
            return self.wake();
        }
        let waiting = Waiting {
            header: header.clone(),
            payload: payload.to_vec(),
        };
        self.waiting.insert(header.number, waiting);
        self.held_bytes = held_bytes;
        Ok(())
    }

    /// Decodes the units that wait for nothing any more. A unit predicts from lower numbers only,
    /// so that one pass is enough.
    fn wake(&mut self) -> Result<(), DecodeError> {
        let mut first_error = Ok(());
        for (number, unit) in std::mem::take(&mut self.waiting) {
            if !unit.header.refs.iter().all(|r| self.held.contains_key(r)) {
                self.waiting.insert(number, unit);
                continue;
            }
            self.held_bytes -= unit.payload.len();
            match self.decode(&unit.header, &unit.payload) {
                Ok(raw) => {
                    self.held.insert(number, raw);
                }
                Err(error) => {
                    let bytes = usize::try_from(unit.header.span.bytes).unwrap_or_default();
                    self.held_bytes -= bytes;
                    first_error = first_error.and(Err(error));
                }
            }
        }
        first_error
    }

    /// Decodes a data unit whose references are held.
    fn decode(&self, header: &UnitHeader, payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let references = header
            .refs
            .iter()
            .map(|r| self.held.get(r).map(Vec::as_slice));
        match references.collect::<Option<Vec<&[u8]>>>() {
            Some(references) => decode(header, payload, &references),
            None => Err(DecodeError::Inconsistent("refs")),
        }
    }
}

fn own_units(pieces: &[Piece]) -> impl Iterator<Item = u32> {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Unit(unit) => Some(*unit),
        Piece::Inline(_) => None,
    })
}

fn read_table(header: &UnitHeader, joined: &[u8]) -> Result<Table, DecodeError> {
    let table = decode(header, joined, &[])?;
    require(
        GroupId::of(&table) == header.group,
        DecodeError::Inconsistent("group id"),
    )?;
    Table::parse(table, header.table_units, header.units - header.table_units)
}

/// Decodes a payload to exactly as many bytes as the header says.
fn decode(
    header: &UnitHeader,
    payload: &[u8],
    references: &[&[u8]],
) -> Result<Vec<u8>, DecodeError> {
    let bytes = usize::try_from(header.span.bytes).unwrap_or(usize::MAX);
    let modelled = |model| model::decode(model, payload, bytes, references);
    let raw = match header.method {
        Method::Stored => Some(payload.to_vec()),
        Method::Zstd => expand(payload, bytes),
        Method::Planes => expand(payload, bytes).and_then(|planes| join_planes(&planes)),
        Method::Fast => modelled(Model::Fast),
        Method::Link => modelled(Model::Link),
        Method::Archive => modelled(Model::Archive),
    };
    raw.filter(|raw| raw.len() == bytes)
        .ok_or(DecodeError::Payload(header.number))
}

/// Expands one zstd frame, to no more than `bytes_max` bytes.
fn expand(frame: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    Decompressor::new().ok()?.decompress(frame, bytes_max).ok()
}
