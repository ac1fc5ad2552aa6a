//! Finds the bytes of a file that the pixel method takes over.
//!
//! In: any file. Out: where its pixels lie and how, if it is a DICOM file with native 16-bit
//! greyscale pixels. Invariant: the answer only steers compression; a wrong one costs bytes, never
//! exactness. May not: refuse a file.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::ops::Range;

use study::dataset::{Encoding, Tag, Walk};
use study::part10::Part10;

use crate::format::RAW_BYTES_MAX;
use crate::planes::Shape;

/// The pixels of a file that can be modelled: whole rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pixels {
    pub(crate) range: Range<usize>,
    pub(crate) shape: Shape,
    /// How many bytes of them go into one unit.
    pub(crate) unit_bytes: usize,
}

/// Finds the pixels of a DICOM file; `None` for anything that is not to be modelled.
pub(crate) fn pixels_of(file: &[u8]) -> Option<Pixels> {
    let part10 = Part10::parse(file).ok()?;
    let encoding = match part10.transfer_syntax.as_str() {
        "1.2.840.10008.1.2" => Encoding::ImplicitLittle,
        "1.2.840.10008.1.2.1" => Encoding::ExplicitLittle,
        _ => return None,
    };
    let data_set = file.get(part10.data_set.clone())?;
    let (mut rows, mut columns, mut bits, mut samples, mut signed) = (0, 0, 0, 0, 0);
    for element in Walk::new(data_set, encoding) {
        let element = element.ok()?;
        let number = || encoding.u16(data_set.get(element.value.clone())?);
        match element.tag {
            Tag(0x0028, 0x0002) => samples = number()?,
            Tag(0x0028, 0x0010) => rows = number()?,
            Tag(0x0028, 0x0011) => columns = number()?,
            Tag(0x0028, 0x0100) => bits = number()?,
            Tag(0x0028, 0x0103) => signed = number()?,
            Tag(0x7FE0, 0x0010) => {
                let fits = samples == 1 && bits == 16 && columns > 0 && !element.undefined_length;
                let shape = Shape {
                    columns,
                    signed: signed == 1,
                };
                let start = part10.data_set.start + element.value.start;
                let bytes = element.value.len() - element.value.len() % shape.row_bytes().max(1);
                return (fits && bytes > 0).then(|| Pixels {
                    range: start..start + bytes,
                    shape,
                    unit_bytes: unit_bytes(shape, rows),
                });
            }
            _ => {}
        }
    }
    None
}

/// As many whole frames as fit into a unit, or else as many rows: a slice is a unit if it can be.
fn unit_bytes(shape: Shape, rows: u16) -> usize {
    let row = shape.row_bytes();
    let frame = row * usize::from(rows).max(1);
    let step = if frame <= RAW_BYTES_MAX { frame } else { row };
    RAW_BYTES_MAX - RAW_BYTES_MAX % step
}
