//! Encodes a group of files into units.
//!
//! In: whole files and a tier. Out: units in sending order, the table first.
//! Invariant: the same files and tier give the same bytes with the same build; what a decoder of
//! version 1 makes of them is exactly the files.
//! May not: refuse a file for what is in it.

use std::ops::Range;

use study::Digest;
use thiserror::Error;
use zstd::bulk::Compressor;

use crate::format::{
    GROUP_UNITS_MAX, GroupId, Kind, Method, RAW_BYTES_MAX, Span, Tier, UnitHeader,
};
use crate::planes::{Shape, split_planes};
use crate::split::pixels_of;
use crate::table::{FileEntry, GROUP_FILES_MAX, NAME_BYTES_MAX, Planned, compose};

/// Says why files cannot be a group. What is in them is never a reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A group has 1 to 4,096 files.
    #[error("a group has 1 to 4096 files, not {0}")]
    Files(usize),
    /// A name is over 1,024 bytes.
    #[error("the name of file {0} of the group is over 1024 bytes long")]
    Name(usize),
    /// The files need more than 65,536 units.
    #[error("the group's files are too large for one group")]
    TooLarge,
}

/// A file to encode.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The name that the decoder gives back; at most 1,024 bytes.
    pub name: &'a str,
    /// The whole file.
    pub bytes: &'a [u8],
}

/// One encoded unit, as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit(Vec<u8>);

impl Unit {
    /// The unit's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes the unit's bytes out.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Encodes files that belong together, such as neighbouring slices of one series.
///
/// Input and output are in memory together: some 16 to 64 MiB of files make a good group.
pub fn encode_group(sources: &[Source<'_>], tier: Tier) -> Result<Vec<Unit>, EncodeError> {
    if !(1..=GROUP_FILES_MAX).contains(&sources.len()) {
        return Err(EncodeError::Files(sources.len()));
    }
    if let Some(long) = sources.iter().position(|s| s.name.len() > NAME_BYTES_MAX) {
        return Err(EncodeError::Name(long));
    }
    let group = Plan::of(sources);
    let files: Vec<FileEntry> = sources.iter().map(entry).collect();
    let spans: Vec<Planned> = group
        .units
        .iter()
        .map(|unit| Planned {
            span: unit.span(),
            refs: Vec::new(),
        })
        .collect();
    let table = compose(&files, &spans, &group.inline);

    let mut squeezer = Squeezer::new(tier);
    let (table_method, table_payload) = squeezer.squeeze_table(&table);
    let table_pieces: Vec<&[u8]> = table_payload.chunks(RAW_BYTES_MAX).collect();
    let table_units = u32::try_from(table_pieces.len()).map_err(|_| EncodeError::TooLarge)?;
    let units = u32::try_from(table_pieces.len() + group.units.len())
        .ok()
        .filter(|units| *units <= GROUP_UNITS_MAX)
        .ok_or(EncodeError::TooLarge)?;
    let header = |kind, method, number, span| UnitHeader {
        kind,
        method,
        tier,
        group: GroupId::of(&table),
        number,
        units,
        table_units,
        span,
        refs: Vec::new(),
    };

    let mut sealed = Vec::with_capacity(table_pieces.len() + group.units.len());
    let table_bytes = u32::try_from(table.len()).map_err(|_| EncodeError::TooLarge)?;
    let whole_table = Span {
        file: 0,
        offset: 0,
        bytes: table_bytes,
    };
    for (piece, number) in table_pieces.iter().zip(0..) {
        let header = header(Kind::Table, table_method, number, whole_table);
        sealed.push(Unit(header.seal(piece)));
    }
    for (unit, number) in group.units.iter().zip(table_units..) {
        let (method, payload) =
            squeezer.squeeze(&sources[unit.file].bytes[unit.range.clone()], unit.shape);
        sealed.push(Unit(
            header(Kind::Data, method, number, unit.span()).seal(&payload),
        ));
    }
    Ok(sealed)
}

/// Longer stretches of a file than this become units even if they are no pixels.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// How much of all files together stays inline. With 4,096 names and 65,536 units the table stays
/// well under its limit.
const INLINE_TOTAL_MAX: usize = 16 << 20;

/// A data unit to make.
struct DataUnit {
    file: usize,
    range: Range<usize>,
    /// None: bytes that no method but zstd understands.
    shape: Option<Shape>,
}

impl DataUnit {
    fn span(&self) -> Span {
        Span {
            file: u32::try_from(self.file).expect("at most 4,096 files"),
            offset: self.range.start as u64,
            bytes: u32::try_from(self.range.len()).expect("at most 960 KiB"),
        }
    }
}

/// What goes where: pixels and long stretches into units, the rest inline.
#[derive(Default)]
struct Plan {
    units: Vec<DataUnit>,
    inline: Vec<u8>,
}

impl Plan {
    fn of(sources: &[Source<'_>]) -> Self {
        let mut plan = Self::default();
        for (file, source) in sources.iter().enumerate() {
            let mut rest = 0;
            if let Some(pixels) = pixels_of(source.bytes) {
                plan.keep(file, source.bytes, 0..pixels.range.start);
                plan.cut(
                    file,
                    pixels.range.clone(),
                    pixels.unit_bytes,
                    Some(pixels.shape),
                );
                rest = pixels.range.end;
            }
            plan.keep(file, source.bytes, rest..source.bytes.len());
        }
        plan
    }

    /// Plans bytes that are no pixels.
    fn keep(&mut self, file: usize, bytes: &[u8], range: Range<usize>) {
        if range.len() <= INLINE_BYTES_MAX && self.inline.len() + range.len() <= INLINE_TOTAL_MAX {
            self.inline.extend_from_slice(&bytes[range]);
        } else {
            self.cut(file, range, RAW_BYTES_MAX, None);
        }
    }

    fn cut(&mut self, file: usize, range: Range<usize>, step: usize, shape: Option<Shape>) {
        let units = range.clone().step_by(step).map(|start| DataUnit {
            file,
            range: start..range.end.min(start + step),
            shape,
        });
        self.units.extend(units);
    }
}

fn entry(source: &Source<'_>) -> FileEntry {
    FileEntry {
        name: source.name.to_owned(),
        bytes: source.bytes.len() as u64,
        digest: Digest::of(source.bytes),
    }
}

/// The general compressor at the levels of a tier.
struct Squeezer {
    table: Compressor<'static>,
    bytes: Compressor<'static>,
    planes: Compressor<'static>,
}

impl Squeezer {
    fn new(tier: Tier) -> Self {
        // Matches are rare in residuals: the higher levels search long for little.
        let (table, bytes, planes) = match tier {
            Tier::Fast => (3, 3, 1),
            Tier::Link => (12, 12, 9),
            Tier::Archive => (19, 19, 19),
        };
        let at = |level| Compressor::new(level).expect("levels 1 to 19 exist");
        Self {
            table: at(table),
            bytes: at(bytes),
            planes: at(planes),
        }
    }

    fn squeeze_table(&mut self, table: &[u8]) -> (Method, Vec<u8>) {
        smaller(compress(&mut self.table, table), table)
    }

    fn squeeze(&mut self, raw: &[u8], shape: Option<Shape>) -> (Method, Vec<u8>) {
        let Some(shape) = shape else {
            return smaller(compress(&mut self.bytes, raw), raw);
        };
        let frame = compress(&mut self.planes, &split_planes(raw, shape));
        if frame.len() + shape.to_bytes().len() >= raw.len() {
            return smaller(compress(&mut self.bytes, raw), raw);
        }
        (Method::Planes, [&shape.to_bytes()[..], &frame].concat())
    }
}

/// The frame, unless the bytes themselves are no longer.
fn smaller(frame: Vec<u8>, raw: &[u8]) -> (Method, Vec<u8>) {
    if frame.len() < raw.len() {
        (Method::Zstd, frame)
    } else {
        (Method::Stored, raw.to_vec())
    }
}

fn compress(compressor: &mut Compressor<'_>, bytes: &[u8]) -> Vec<u8> {
    compressor
        .compress(bytes)
        .expect("zstd fails on memory only, and its bound is reserved")
}
