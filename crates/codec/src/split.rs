//! Finds the bytes of a file that the models take over, and what slices belong together.
//!
//! In: any file. Out: where its pixels lie and how, and where in the patient, if it is a DICOM file
//! with greyscale pixels, native or compressed in a way that can be done again. Invariant: the answer only steers compression; a wrong one costs
//! bytes, never exactness. May not: refuse a file.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use study::dataset::{Element, Encoding, Tag, Walk};
use study::part10::Part10;

use crate::format::RAW_BYTES_MAX;
use crate::model::Shape;
use crate::reader::Reader;

/// The pixels of a file that can be modelled: whole rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pixels {
    pub(crate) range: Range<usize>,
    pub(crate) shape: Shape,
    /// How many bytes of them go into one unit.
    pub(crate) unit_bytes: usize,
    /// Whether they are more than one frame.
    pub(crate) many_frames: bool,
    /// Series and orientation: slices predict from slices that have the same.
    pub(crate) stack: Vec<u8>,
    /// Where the slice lies along the stack.
    pub(crate) place: f64,
    /// Its instance number, or 0.
    pub(crate) number: i64,
}

/// What an image says of itself before its pixels.
#[derive(Default)]
struct Head {
    rows: u16,
    columns: u16,
    bits: u16,
    samples: u16,
    signed: u16,
    series: Vec<u8>,
    orientation: Vec<u8>,
    position: Vec<u8>,
    number: i64,
}

/// Finds the pixels of a DICOM file; `None` for anything that is not to be modelled.
pub(crate) fn pixels_of(file: &[u8]) -> Option<Pixels> {
    let part10 = Part10::parse(file).ok()?;
    let encoding = match part10.transfer_syntax.as_str() {
        "1.2.840.10008.1.2" => Encoding::ImplicitLittle,
        "1.2.840.10008.1.2.1" => Encoding::ExplicitLittle,
        "1.2.840.10008.1.2.2" => Encoding::ExplicitBig,
        _ => return None,
    };
    let (head, element) = Head::read(file, &part10, encoding)?;
    let start = part10.data_set.start + element.value.start;
    let big_endian = encoding == Encoding::ExplicitBig;
    (!element.undefined_length).then(|| head.pixels(start, element.value.len(), big_endian))?
}

/// How the pixels of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compressed {
    Rle,
    JpegLossless,
}

/// A file whose pixels are compressed in a way that can be done again.
pub(crate) struct Source {
    pub(crate) transfer_syntax: Compressed,
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) signed: bool,
    /// The frames, one fragment each.
    pub(crate) fragments: Vec<Range<usize>>,
    head: Head,
}

/// Finds the compressed frames of a DICOM file; `None` if it has none, or none that are known here.
pub(crate) fn compressed_of(file: &[u8]) -> Option<Source> {
    let part10 = Part10::parse(file).ok()?;
    let transfer_syntax = match part10.transfer_syntax.as_str() {
        "1.2.840.10008.1.2.5" => Compressed::Rle,
        "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70" => Compressed::JpegLossless,
        _ => return None,
    };
    let (head, element) = Head::read(file, &part10, Encoding::ExplicitLittle)?;
    let range =
        part10.data_set.start + element.value.start..part10.data_set.start + element.value.end;
    let mut rest = Reader::new(
        file.get(range.clone())
            .filter(|_| element.undefined_length)?,
    );
    let mut fragments = Vec::new();
    while !rest.rest().is_empty() {
        // Item, and its length (PS3.5 A.4).
        if rest.array() != Some([0xFE, 0xFF, 0x00, 0xE0]) {
            return None;
        }
        let length = usize::try_from(rest.u32()?).ok()?;
        let start = range.end - rest.rest().len();
        rest.take(length)?;
        fragments.push(start..start + length);
    }
    // The first item is the offset table.
    (fragments.len() >= 2).then(|| fragments.remove(0))?;
    let modelled = head.samples == 1 && matches!(head.bits, 8 | 16) && head.rows > 0;
    (modelled && head.columns > 0).then_some(Source {
        transfer_syntax,
        rows: head.rows,
        columns: head.columns,
        signed: head.signed == 1,
        fragments,
        head,
    })
}

impl Source {
    /// Bytes of a sample.
    pub(crate) fn sample_bytes(&self) -> usize {
        usize::from(self.head.bits / 8)
    }

    /// What is known of its pixels, once they lie there in little endian.
    pub(crate) fn pixels(self, range: Range<usize>) -> Option<Pixels> {
        self.head.pixels(range.start, range.len(), false)
    }
}

impl Head {
    /// Walks to the pixels; gives what came before them, and where they are in the data set.
    fn read(file: &[u8], part10: &Part10, encoding: Encoding) -> Option<(Self, Element)> {
        let data_set = file.get(part10.data_set.clone())?;
        let mut head = Self::default();
        for element in Walk::new(data_set, encoding) {
            let element = element.ok()?;
            let value = data_set.get(element.value.clone())?;
            let number = || encoding.u16(value);
            match element.tag {
                Tag(0x0020, 0x000E) => head.series = value.to_vec(),
                Tag(0x0020, 0x0013) => {
                    head.number = numbers(value).first().map_or(0, |n| whole(*n));
                }
                Tag(0x0020, 0x0032) => head.position = value.to_vec(),
                Tag(0x0020, 0x0037) => head.orientation = value.to_vec(),
                Tag(0x0028, 0x0002) => head.samples = number()?,
                Tag(0x0028, 0x0010) => head.rows = number()?,
                Tag(0x0028, 0x0011) => head.columns = number()?,
                Tag(0x0028, 0x0100) => head.bits = number()?,
                Tag(0x0028, 0x0103) => head.signed = number()?,
                Tag(0x7FE0, 0x0010) => return Some((head, element)),
                _ => {}
            }
        }
        None
    }

    fn pixels(self, start: usize, bytes: usize, big_endian: bool) -> Option<Pixels> {
        let shape = Shape {
            columns: self.columns,
            signed: self.signed == 1,
            big_endian,
            single: self.bits == 8,
        };
        let row = shape.row_bytes();
        let fits = self.samples == 1 && matches!(self.bits, 8 | 16) && row > 0;
        let bytes = bytes - bytes % row.max(1);
        let frame = row * usize::from(self.rows).max(1);
        (fits && bytes > 0).then(|| Pixels {
            range: start..start + bytes,
            shape,
            unit_bytes: unit_bytes(row, frame),
            many_frames: bytes >= 2 * frame,
            place: along(&numbers(&self.orientation), &numbers(&self.position)),
            number: self.number,
            stack: [self.series, self.orientation].concat(),
        })
    }
}

/// As many whole frames as fit into a unit, or else as many rows: a slice is a unit if it can be.
fn unit_bytes(row: usize, frame: usize) -> usize {
    let step = if frame <= RAW_BYTES_MAX { frame } else { row };
    RAW_BYTES_MAX - RAW_BYTES_MAX % step
}

/// The finite numbers of a value of several decimal strings.
fn numbers(value: &[u8]) -> Vec<f64> {
    let text = String::from_utf8_lossy(value);
    let parts = text
        .split('\\')
        .map(|part| part.trim_matches([' ', '\0']).parse());
    parts
        .map(|number| number.ok().filter(|n: &f64| n.is_finite()).unwrap_or(0.0))
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "saturates")]
fn whole(number: f64) -> i64 {
    number as i64
}

/// How far along the normal of its plane an image lies (PS3.3 C.7.6.2.1.1).
fn along(orientation: &[f64], position: &[f64]) -> f64 {
    let (&[a, b, c, d, e, f], &[x, y, z]) = (orientation, position) else {
        return 0.0;
    };
    (b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z
}
