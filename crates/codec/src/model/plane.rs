//! Pixels as numbers: bytes to values, and planes with margins for the models to look around in.
//!
//! In: the bytes of whole rows. Out: values in order of brightness; and back.
//! Invariant: bytes to values and back is the identity.
//! May not: know how values are predicted.

/// How the pixels of a span lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    /// Pixels in a row, at least 1.
    pub(crate) columns: u16,
    /// Whether they are two's complement.
    pub(crate) signed: bool,
    /// Whether the more significant byte comes first.
    pub(crate) big_endian: bool,
    /// Whether a pixel has one byte; otherwise it has two.
    pub(crate) single: bool,
}

impl Shape {
    /// Bytes in a row.
    pub(crate) fn row_bytes(self) -> usize {
        usize::from(self.columns) * if self.single { 1 } else { 2 }
    }

    /// What is added to a pixel, modulo its range, so that order among pixels is order among
    /// numbers.
    fn bias(self) -> u16 {
        match (self.signed, self.single) {
            (false, _) => 0,
            (true, false) => 0x8000,
            (true, true) => 0x80,
        }
    }

    /// Reads pixels.
    pub(super) fn values(self, bytes: &[u8]) -> Vec<u16> {
        let bias = self.bias();
        if self.single {
            return bytes.iter().map(|b| u16::from(*b) ^ bias).collect();
        }
        let pairs = bytes.as_chunks::<2>().0.iter();
        if self.big_endian {
            pairs.map(|p| u16::from_be_bytes(*p) ^ bias).collect()
        } else {
            pairs.map(|p| u16::from_le_bytes(*p) ^ bias).collect()
        }
    }

    /// Writes pixels.
    pub(super) fn bytes(self, values: &[u16]) -> Vec<u8> {
        let pixels = values.iter().map(|v| v ^ self.bias());
        if self.single {
            pixels.map(|p| p.to_le_bytes()[0]).collect()
        } else if self.big_endian {
            pixels.flat_map(u16::to_be_bytes).collect()
        } else {
            pixels.flat_map(u16::to_le_bytes).collect()
        }
    }
}

/// How far a model may look beyond any edge.
pub(super) const MARGIN: usize = 8;

/// Where things lie in planes of one size: rows of `width` between margins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) width: usize,
    pub(super) height: usize,
    /// From a pixel to the one below it.
    pub(super) stride: usize,
}

impl Layout {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            stride: width + 2 * MARGIN,
        }
    }

    /// Numbers in a plane.
    pub(super) fn area(self) -> usize {
        self.stride * (self.height + 2 * MARGIN)
    }

    /// Where the first pixel of a row is.
    pub(super) fn row(self, y: usize) -> usize {
        (y + MARGIN) * self.stride + MARGIN
    }

    /// A plane of known pixels; the margins repeat the edges.
    pub(super) fn plane(self, values: &[u16]) -> Vec<f32> {
        let mut plane = vec![0.0; self.area()];
        for (y, row) in values.chunks_exact(self.width).enumerate() {
            let start = self.row(y);
            let line = &mut plane[start - MARGIN..start + self.width + MARGIN];
            for (to, from) in line[MARGIN..].iter_mut().zip(row) {
                *to = f32::from(*from);
            }
            line[..MARGIN].fill(f32::from(row[0]));
            line[MARGIN + self.width..].fill(f32::from(row[self.width - 1]));
        }
        let (first, last) = (MARGIN, MARGIN + self.height - 1);
        for k in 1..=MARGIN {
            let row = |y: usize| y * self.stride..(y + 1) * self.stride;
            plane.copy_within(row(first), row(first - k).start);
            plane.copy_within(row(last), row(last + k).start);
        }
        plane
    }

    /// Begins a row of a plane that is being coded: the left margin repeats the pixel above the
    /// row's first one.
    pub(super) fn begin_row(self, plane: &mut [f32], y: usize) {
        let start = self.row(y);
        let above = plane[start - self.stride];
        plane[start - MARGIN..start].fill(above);
    }

    /// Ends a row of a plane that is being coded: the right margin repeats its last pixel.
    pub(super) fn end_row(self, plane: &mut [f32], y: usize) {
        let end = self.row(y) + self.width;
        let last = plane[end - 1];
        plane[end..end + MARGIN].fill(last);
    }

    /// How restless a plane is at each pixel: the mean distance from the mean of the four
    /// neighbours, over the pixel and those. It stands in for the errors of the plane's own model,
    /// so that what predicts from a plane needs its pixels only.
    pub(super) fn unrest(self, plane: &[f32]) -> Vec<f32> {
        let s = self.stride;
        let area = self.area();
        let mut distance = vec![0.0_f32; area];
        for (y, out) in distance.chunks_exact_mut(s).enumerate().skip(1) {
            let Some(below) = plane.get((y + 1) * s..(y + 2) * s) else {
                break;
            };
            let (above, here) = (&plane[(y - 1) * s..y * s], &plane[y * s..(y + 1) * s]);
            for x in 1..s - 1 {
                let beside = here[x - 1] + here[x + 1];
                let mean = (beside + (above[x] + below[x])) * 0.25;
                out[x] = (here[x] - mean).abs();
            }
        }
        let mut unrest = vec![0.0; area];
        for (y, out) in unrest.chunks_exact_mut(s).enumerate().skip(2) {
            let Some(below) = distance.get((y + 1) * s..(y + 2) * s) else {
                break;
            };
            let (above, here) = (&distance[(y - 1) * s..y * s], &distance[y * s..(y + 1) * s]);
            for x in 1..s - 1 {
                let beside = here[x - 1] + here[x + 1];
                let around = beside + (above[x] + below[x]);
                out[x] = (here[x] * 2.0 + around) * (1.0 / 6.0);
            }
        }
        unrest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_back(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            signed: bool, big_endian: bool, single: bool,
        ) {
            let shape = Shape { columns: 1, signed, big_endian, single };
            let whole = bytes.len() / shape.row_bytes() * shape.row_bytes();
            prop_assert_eq!(shape.bytes(&shape.values(&bytes[..whole])), &bytes[..whole]);
        }
    }

    #[test]
    fn order_is_kept() {
        let shape = Shape {
            columns: 2,
            signed: true,
            big_endian: false,
            single: false,
        };
        let bytes: Vec<u8> = [-2000_i16, -1, 0, 4095]
            .into_iter()
            .flat_map(i16::to_le_bytes)
            .collect();
        assert!(shape.values(&bytes).is_sorted());
    }

    #[test]
    fn margins_repeat_the_edges() {
        let layout = Layout::new(2, 2);
        let plane = layout.plane(&[1, 2, 3, 4]);
        assert_eq!(plane[0], 1.0);
        assert_eq!(plane[layout.area() - 1], 4.0);
        assert_eq!(plane[layout.row(1) - 3], 3.0);
        assert!(
            layout
                .unrest(&layout.plane(&[7; 4]))
                .iter()
                .all(|u| *u == 0.0)
        );
    }
}
