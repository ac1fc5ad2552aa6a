//! Finds the bytes of a file that the models take over, and what slices belong together.
//!
//! In: any file. Out: where its pixels lie and how, and where in the patient, if it is a DICOM file
//! with native greyscale pixels. Invariant: the answer only steers compression; a wrong one costs
//! bytes, never exactness. May not: refuse a file.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use study::dataset::{Encoding, Tag, Walk};
use study::part10::Part10;

use crate::format::RAW_BYTES_MAX;
use crate::model::Shape;

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
    let data_set = file.get(part10.data_set.clone())?;
    let mut head = Head::default();
    for element in Walk::new(data_set, encoding) {
        let element = element.ok()?;
        let value = data_set.get(element.value.clone())?;
        let number = || encoding.u16(value);
        match element.tag {
            Tag(0x0020, 0x000E) => head.series = value.to_vec(),
            Tag(0x0020, 0x0013) => head.number = numbers(value).first().map_or(0, |n| whole(*n)),
            Tag(0x0020, 0x0032) => head.position = value.to_vec(),
            Tag(0x0020, 0x0037) => head.orientation = value.to_vec(),
            Tag(0x0028, 0x0002) => head.samples = number()?,
            Tag(0x0028, 0x0010) => head.rows = number()?,
            Tag(0x0028, 0x0011) => head.columns = number()?,
            Tag(0x0028, 0x0100) => head.bits = number()?,
            Tag(0x0028, 0x0103) => head.signed = number()?,
            Tag(0x7FE0, 0x0010) => {
                let start = part10.data_set.start + element.value.start;
                let big_endian = encoding == Encoding::ExplicitBig;
                return (!element.undefined_length)
                    .then(|| head.pixels(start, value.len(), big_endian))?;
            }
            _ => {}
        }
    }
    None
}

impl Head {
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
