//! The pixel method of version 1: a median predictor over 16-bit pixels, split into byte planes.
//!
//! In: rows of pixels. Out: their residuals as bytes for zstd; and back. The rule is written down
//! in [`format`](mod@crate::format).
//! Invariant: integers only, so that every machine computes the same for ever.
//! May not: change once a version-1 file exists.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use crate::reader::Reader;

/// How the pixels of a span lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Pixels in a row, at least 1.
    pub(crate) columns: u16,
    /// Whether they are two's complement.
    pub(crate) signed: bool,
}

impl Shape {
    /// The four bytes that stand before the zstd frame.
    pub(crate) fn to_bytes(self) -> [u8; 4] {
        let [low, high] = self.columns.to_le_bytes();
        [low, high, u8::from(self.signed), 0]
    }

    /// Takes the four bytes off a payload.
    pub(crate) fn split(payload: &[u8]) -> Option<(Self, &[u8])> {
        let mut reader = Reader::new(payload);
        let columns = reader.u16().filter(|columns| *columns > 0)?;
        let signed = match (reader.u8()?, reader.u8()?) {
            (0, 0) => false,
            (1, 0) => true,
            _ => return None,
        };
        Some((Self { columns, signed }, reader.rest()))
    }

    /// Bytes in a row.
    pub(crate) fn row_bytes(self) -> usize {
        2 * usize::from(self.columns)
    }

    /// What is added to a pixel, modulo 65,536, so that order among pixels is order among numbers.
    fn bias(self) -> u16 {
        if self.signed { 0x8000 } else { 0 }
    }
}

/// Turns whole rows of little-endian pixels into planes of residuals of the same length.
pub(crate) fn split_planes(pixels: &[u8], shape: Shape) -> Vec<u8> {
    let columns = usize::from(shape.columns);
    let mut low = Vec::with_capacity(pixels.len());
    let mut high = Vec::with_capacity(pixels.len() / 2);
    let mut above = vec![0_u16; columns];
    for row in pixels.chunks_exact(shape.row_bytes()) {
        let (pairs, _) = row.as_chunks::<2>();
        let mut neighbours: Option<(u16, u16)> = None;
        for (pair, above) in pairs.iter().zip(&mut above) {
            let pixel = u16::from_le_bytes(*pair).wrapping_add(shape.bias());
            let (west, north_west) = neighbours.unwrap_or((*above, *above));
            let [l, h] = fold(pixel.wrapping_sub(median(west, *above, north_west))).to_le_bytes();
            low.push(l);
            high.push(h);
            neighbours = Some((pixel, *above));
            *above = pixel;
        }
    }
    low.append(&mut high);
    low
}

/// The way back; `None` if the planes are not whole rows.
pub(crate) fn join_planes(planes: &[u8], shape: Shape) -> Option<Vec<u8>> {
    if !planes.len().is_multiple_of(shape.row_bytes()) {
        return None;
    }
    let columns = usize::from(shape.columns);
    let (low, high) = planes.split_at_checked(planes.len() / 2)?;
    let mut pixels = Vec::with_capacity(planes.len());
    let mut above = vec![0_u16; columns];
    for (low, high) in low.chunks_exact(columns).zip(high.chunks_exact(columns)) {
        let mut neighbours: Option<(u16, u16)> = None;
        for ((l, h), above) in low.iter().zip(high).zip(&mut above) {
            let (west, north_west) = neighbours.unwrap_or((*above, *above));
            let difference = unfold(u16::from_le_bytes([*l, *h]));
            let pixel = median(west, *above, north_west).wrapping_add(difference);
            pixels.extend_from_slice(&pixel.wrapping_sub(shape.bias()).to_le_bytes());
            neighbours = Some((pixel, *above));
            *above = pixel;
        }
    }
    Some(pixels)
}

/// The median of west, north and west + north - north-west.
fn median(west: u16, north: u16, north_west: u16) -> u16 {
    let (least, most) = (west.min(north), west.max(north));
    if north_west >= most {
        least
    } else if north_west <= least {
        most
    } else {
        // Between the two, so that nothing is lost to the wrapping.
        west.wrapping_add(north).wrapping_sub(north_west)
    }
}

/// Small differences of either sign become small numbers.
fn fold(difference: u16) -> u16 {
    let sign = if difference & 0x8000 == 0 { 0 } else { 0xFFFF };
    (difference << 1) ^ sign
}

fn unfold(residual: u16) -> u16 {
    let sign = if residual & 1 == 0 { 0 } else { 0xFFFF };
    (residual >> 1) ^ sign
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_rule_is_the_one_written_down() {
        // 10 11 / 12 20: first row from 0 above, W; second row N, then MED(12, 11, 10).
        let shape = Shape {
            columns: 2,
            signed: false,
        };
        let pixels: Vec<u8> = [10_u16, 11, 12, 20]
            .into_iter()
            .flat_map(u16::to_le_bytes)
            .collect();
        // Differences 10, 1, 2, 8 (12 + 11 - 10 is above both: NW <= min, so max, 12).
        assert_eq!(split_planes(&pixels, shape), [20, 2, 4, 16, 0, 0, 0, 0]);
        // -1 and -32768 in signed pixels.
        let shape = Shape {
            columns: 1,
            signed: true,
        };
        let pixels: Vec<u8> = [-1_i16, i16::MIN]
            .into_iter()
            .flat_map(i16::to_le_bytes)
            .collect();
        // 0x7FFF above 0: 2d. Then 0 below 0x7FFF: -2d - 1.
        assert_eq!(split_planes(&pixels, shape), [0xFE, 0xFD, 0xFF, 0xFF]);
    }

    proptest! {
        #[test]
        fn pixels_come_back(
            columns in 1_u16..40,
            signed: bool,
            bytes in prop::collection::vec(any::<u8>(), 0..4000),
        ) {
            let shape = Shape { columns, signed };
            let rows = bytes.len() / shape.row_bytes();
            let pixels = &bytes[..rows * shape.row_bytes()];
            let planes = split_planes(pixels, shape);
            let back = join_planes(&planes, shape);
            prop_assert_eq!(back.as_deref(), Some(pixels));
        }

        #[test]
        fn residuals_are_a_bijection(n: u16) {
            prop_assert_eq!(unfold(fold(n)), n);
        }
    }
}
