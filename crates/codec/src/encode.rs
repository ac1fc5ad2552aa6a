//! Encodes a group of files into units.
//!
//! In: whole files and a tier. Out: units in sending order, the table first.
//! Invariant: the same files and tier give the same bytes with the same build; what a decoder of
//! version 2 makes of them is exactly the files.
//! May not: refuse a file for what is in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use study::Digest;
use thiserror::Error;
use zstd::bulk::Compressor;

use crate::format::{
    GROUP_UNITS_MAX, GroupId, Kind, Method, RAW_BYTES_MAX, Span, Tier, UnitHeader,
};
use crate::model::{self, Model, Shape};
use crate::native::Native;
use crate::order::{Order, Turn, order};
use crate::planes::split_planes;
use crate::split::{Pixels, pixels_of};
use crate::table::{FileEntry, GROUP_FILES_MAX, Kept, NAME_BYTES_MAX, Planned, compose};

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
    encode_group_in(Order::Spread, sources, tier)
}

/// Encodes as [`encode_group`] does, with the slices in the order given.
pub fn encode_group_in(
    order: Order,
    sources: &[Source<'_>],
    tier: Tier,
) -> Result<Vec<Unit>, EncodeError> {
    if !(1..=GROUP_FILES_MAX).contains(&sources.len()) {
        return Err(EncodeError::Files(sources.len()));
    }
    if let Some(long) = sources.iter().position(|s| s.name.len() > NAME_BYTES_MAX) {
        return Err(EncodeError::Name(long));
    }
    let contents: Vec<Content<'_>> = sources.iter().map(Content::of).collect();
    let group = Plan::of(&contents, order);
    let files: Vec<Kept> = sources.iter().zip(&contents).map(kept).collect();
    let spans: Vec<Planned> = group
        .units
        .iter()
        .map(|unit| Planned {
            span: unit.span(),
            refs: unit.references.clone(),
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
    let header = |kind, method, number, span, refs| UnitHeader {
        kind,
        method,
        tier,
        group: GroupId::of(&table),
        number,
        units,
        table_units,
        span,
        refs,
    };

    let mut sealed = Vec::with_capacity(table_pieces.len() + group.units.len());
    let table_bytes = u32::try_from(table.len()).map_err(|_| EncodeError::TooLarge)?;
    let whole_table = Span {
        file: 0,
        offset: 0,
        bytes: table_bytes,
    };
    for (piece, number) in table_pieces.iter().zip(0..) {
        let header = header(Kind::Table, table_method, number, whole_table, Vec::new());
        sealed.push(Unit(header.seal(piece)));
    }
    for (unit, number) in group.units.iter().zip(table_units..) {
        let raw = |unit: &DataUnit| &contents[unit.file].bytes[unit.range.clone()];
        let references: Vec<&[u8]> = unit
            .references
            .iter()
            .filter_map(|r| group.units.get(usize::try_from(*r).ok()?).map(raw))
            .collect();
        let (method, payload) = squeezer.squeeze(raw(unit), unit.shape, &references);
        let refs = match method {
            Method::Stored | Method::Zstd | Method::Planes => Vec::new(),
            Method::Fast | Method::Link | Method::Archive => {
                unit.references.iter().map(|r| r + table_units).collect()
            }
        };
        let header = header(Kind::Data, method, number, unit.span(), refs);
        sealed.push(Unit(header.seal(&payload)));
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
    /// The units it is predicted from, counted from the first data unit.
    references: Vec<u32>,
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

/// What is coded of a file: itself, or its native form.
struct Content<'a> {
    bytes: Cow<'a, [u8]>,
    pixels: Option<Pixels>,
}

impl<'a> Content<'a> {
    fn of(source: &Source<'a>) -> Self {
        match Native::of(source.bytes) {
            Some(native) => Self {
                bytes: Cow::Owned(native.bytes),
                pixels: Some(native.pixels),
            },
            None => Self {
                bytes: Cow::Borrowed(source.bytes),
                pixels: pixels_of(source.bytes),
            },
        }
    }
}

/// What goes where: pixels and long stretches into units, the rest inline.
#[derive(Default)]
struct Plan {
    units: Vec<DataUnit>,
    inline: Vec<u8>,
}

/// What slices have in common that may be predicted from each other: series, orientation, shape,
/// length, and which part of a slice they are.
type Stack = (Vec<u8>, Shape, usize, usize);

/// A unit of pixels that has no turn yet.
struct Slice {
    stack: Stack,
    place: f64,
    number: i64,
    unit: DataUnit,
}

impl Plan {
    fn of(contents: &[Content<'_>], order: Order) -> Self {
        let mut plan = Self::default();
        let mut slices = Vec::new();
        for (file, Content { bytes, pixels }) in contents.iter().enumerate() {
            let mut rest = 0;
            if let Some(pixels) = pixels {
                plan.keep(file, bytes, 0..pixels.range.start);
                rest = pixels.range.end;
                cut_pixels(file, pixels, &mut slices);
            }
            plan.keep(file, bytes, rest..bytes.len());
        }
        // What has no pixels is small or odd, and goes first.
        plan.take_turns(slices, order);
        plan
    }

    /// Plans bytes that are no pixels.
    fn keep(&mut self, file: usize, bytes: &[u8], range: Range<usize>) {
        if range.len() <= INLINE_BYTES_MAX && self.inline.len() + range.len() <= INLINE_TOTAL_MAX {
            self.inline.extend_from_slice(&bytes[range]);
        } else {
            let units = steps(range, RAW_BYTES_MAX).map(|range| DataUnit {
                file,
                range,
                shape: None,
                references: Vec::new(),
            });
            self.units.extend(units);
        }
    }

    /// Plans slices in the order in which they are sent.
    fn take_turns(&mut self, mut slices: Vec<Slice>, in_order: Order) {
        // Equal places, as in a slice that is taken again and again, keep the order of numbers.
        slices.sort_by(|a, b| a.place.total_cmp(&b.place).then(a.number.cmp(&b.number)));
        let mut stacks: BTreeMap<&Stack, Vec<usize>> = BTreeMap::new();
        for (index, slice) in slices.iter().enumerate() {
            stacks.entry(&slice.stack).or_default().push(index);
        }
        let turns = order(&stacks.into_values().collect::<Vec<_>>(), in_order);
        let mut slices: Vec<Option<DataUnit>> = slices.into_iter().map(|s| Some(s.unit)).collect();
        let mut numbers: BTreeMap<usize, u32> = BTreeMap::new();
        for Turn { slice, references } in turns {
            let Some(mut unit) = slices[slice].take() else {
                continue;
            };
            unit.references = references.iter().map(|r| numbers[r]).collect();
            // Too many for numbers is too many for a group, which is found later.
            numbers.insert(slice, u32::try_from(self.units.len()).unwrap_or(u32::MAX));
            self.units.push(unit);
        }
    }
}

/// Cuts a file's pixels into slices, or into parts of slices.
fn cut_pixels(file: usize, pixels: &Pixels, slices: &mut Vec<Slice>) {
    for (range, index) in steps(pixels.range.clone(), pixels.unit_bytes).zip(0..) {
        let frame = i64::try_from(index).unwrap_or(i64::MAX);
        let (part, number) = if pixels.many_frames {
            (0, frame)
        } else {
            (index, pixels.number)
        };
        slices.push(Slice {
            stack: (pixels.stack.clone(), pixels.shape, range.len(), part),
            place: pixels.place,
            number,
            unit: DataUnit {
                file,
                range,
                shape: Some(pixels.shape),
                references: Vec::new(),
            },
        });
    }
}

fn steps(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(step)
        .map(move |start| start..end.min(start + step))
}

fn kept((source, content): (&Source<'_>, &Content<'_>)) -> Kept {
    Kept {
        entry: FileEntry {
            name: source.name.to_owned(),
            bytes: source.bytes.len() as u64,
            digest: Digest::of(source.bytes),
        },
        native_bytes: match &content.bytes {
            Cow::Owned(native) => Some(native.len() as u64),
            Cow::Borrowed(_) => None,
        },
    }
}

/// The general compressor at the levels of a tier.
struct Squeezer {
    tier: Tier,
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
            tier,
            table: at(table),
            bytes: at(bytes),
            planes: at(planes),
        }
    }

    fn squeeze_table(&mut self, table: &[u8]) -> (Method, Vec<u8>) {
        smaller(compress(&mut self.table, table), table)
    }

    fn squeeze(
        &mut self,
        raw: &[u8],
        shape: Option<Shape>,
        references: &[&[u8]],
    ) -> (Method, Vec<u8>) {
        let Some(shape) = shape else {
            return smaller(compress(&mut self.bytes, raw), raw);
        };
        let (method, model) = match self.tier {
            Tier::Fast => (Method::Fast, Model::Fast),
            Tier::Link => (Method::Link, Model::Link),
            Tier::Archive => (Method::Archive, Model::Archive),
        };
        match model::encode(model, raw, shape, references) {
            Some(payload) if payload.len() < raw.len() / 32 * 15 => (method, payload),
            // Noise of less than a byte, or nothing to model: perhaps zstd makes more of it.
            payload => {
                let plain = self.squeeze_plain(raw, shape);
                match payload {
                    Some(payload) if payload.len() < plain.1.len() => (method, payload),
                    Some(_) | None => plain,
                }
            }
        }
    }

    /// Pixels without a model.
    fn squeeze_plain(&mut self, raw: &[u8], shape: Shape) -> (Method, Vec<u8>) {
        let whole = smaller(compress(&mut self.bytes, raw), raw);
        let planes = if shape.single {
            None
        } else {
            split_planes(raw)
        };
        match planes.map(|planes| compress(&mut self.planes, &planes)) {
            Some(frame) if frame.len() < whole.1.len() => (Method::Planes, frame),
            Some(_) | None => whole,
        }
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
