//! What the adaptive models see of a slice while they code it: the pixels so far, the reference
//! slices, and their own errors so far.
//!
//! In: pixels one by one. Out: neighbourhoods. Invariant: what is seen at a pixel follows from the
//! pixels before it and from the references, so that both sides of the coder see the same.
//! May not: see a pixel before it is coded.

use super::plane::{Layout, MARGIN};
use super::range::Coder;
use super::solve::{Quad, Taps};
use super::tables::{Counter, TABLES};

/// Four taps in a row: the plane (0: the slice itself, 1 and 2: the references), rows down and
/// columns right of the pixel.
pub(super) type Tap = (usize, isize, isize);

/// What is known before the first pixel.
pub(super) struct Field {
    pub(super) layout: Layout,
    /// The least and the greatest of the values.
    pub(super) least: u16,
    pub(super) most: u16,
    /// The values of up to two slices of the same size.
    pub(super) references: Vec<Vec<u16>>,
}

/// The neighbours that are looked at for themselves.
#[derive(Clone, Copy)]
pub(super) struct Near {
    pub(super) west: f32,
    pub(super) north: f32,
    pub(super) north_west: f32,
    pub(super) north_east: f32,
    pub(super) west_west: f32,
}

/// The last pixels of the row so far, and their errors.
///
/// They are in the planes, too; from there they would have to be read while they are still being
/// written, which is slow.
#[derive(Clone, Copy)]
pub(super) struct West {
    /// The nearest last.
    pub(super) values: Quad,
    /// The nearest last.
    errors: [f32; 2],
}

impl West {
    /// Takes a pixel in.
    #[inline(always)]
    pub(super) fn push(&mut self, value: f32, error: f32) {
        self.values = [self.values[1], self.values[2], self.values[3], value];
        self.errors = [self.errors[1], error];
    }
}

pub(super) struct Scene {
    pub(super) layout: Layout,
    pub(super) references: usize,
    /// The slice, then the references.
    planes: Vec<f32>,
    /// What was predicted wrongly, with its sign; 0 in the margin above.
    errors: Vec<f32>,
    /// Of each reference.
    unrest: Vec<Vec<f32>>,
    runs: [Counter; 10],
}

impl Scene {
    pub(super) fn new(field: &Field) -> Self {
        let layout = field.layout;
        let references: Vec<Vec<f32>> = field
            .references
            .iter()
            .take(2)
            .map(|values| layout.plane(values))
            .collect();
        let unrest = references.iter().map(|r| layout.unrest(r)).collect();
        let mut planes = vec![0.0; layout.area()];
        // What lies above the first row.
        let above = MARGIN * layout.stride;
        match references.first() {
            Some(reference) => planes[..above].copy_from_slice(&reference[..above]),
            None => planes[..above].fill(f32::from(field.least)),
        }
        planes.extend(references.iter().flatten());
        Self {
            layout,
            references: references.len(),
            planes,
            errors: vec![0.0; layout.area()],
            unrest,
            runs: [Counter::at(60000); 10],
        }
    }

    /// Where quads of taps lie from a pixel, and in which plane.
    pub(super) fn offsets<const N: usize>(&self, taps: &[Tap; N]) -> [(isize, usize); N] {
        let signed = |n: usize| isize::try_from(n).expect("planes are small");
        let (area, stride) = (signed(self.layout.area()), signed(self.layout.stride));
        taps.map(|(plane, down, right)| (signed(plane) * area + down * stride + right, plane))
    }

    pub(super) fn begin_row(&mut self, y: usize) {
        self.layout.begin_row(&mut self.planes, y);
        self.layout.begin_row(&mut self.errors, y);
    }

    pub(super) fn end_row(&mut self, y: usize) {
        self.layout.end_row(&mut self.planes, y);
        self.layout.end_row(&mut self.errors, y);
    }

    /// What lies west of a row's first pixel.
    pub(super) fn west(&self, at: usize) -> West {
        West {
            values: self.stretch(at - 4).to_owned(),
            errors: [self.errors[at - 2], self.errors[at - 1]],
        }
    }

    #[inline(always)]
    pub(super) fn near(&self, at: usize, west: &West) -> Near {
        let [north_west, north, north_east] = self.stretch(at - self.layout.stride - 1);
        Near {
            west: west.values[3],
            north: *north,
            north_west: *north_west,
            north_east: *north_east,
            west_west: west.values[2],
        }
    }

    /// Some numbers of the planes, one after the other.
    #[inline(always)]
    pub(super) fn stretch<const N: usize>(&self, from: usize) -> &[f32; N] {
        self.planes[from..]
            .first_chunk()
            .expect("margins are wider than any look")
    }

    /// The means of the four nearest neighbours, in the slice and at the same places in the
    /// references.
    #[inline(always)]
    pub(super) fn means(&self, at: usize, near: &Near) -> [f32; 3] {
        let mut means = [0.0; 3];
        means[0] = ((near.west + near.north) + (near.north_west + near.north_east)) * 0.25;
        for (plane, mean) in means
            .iter_mut()
            .enumerate()
            .take(1 + self.references)
            .skip(1)
        {
            let at = at + plane * self.layout.area();
            let [north_west, north, north_east] = self.stretch(at - self.layout.stride - 1);
            *mean = ((self.planes[at - 1] + north) + (north_west + north_east)) * 0.25;
        }
        means
    }

    /// The levels around each of the pixels of a block, as far as they are known at its beginning.
    pub(super) fn levels<const N: usize>(&self, plane: usize, from: usize, levels: &mut [f32; N]) {
        let from = from + plane * self.layout.area();
        let above = from - self.layout.stride;
        let (north, before) = (self.stretch::<N>(above), self.stretch::<N>(above - 1));
        let after = self.stretch::<N>(above + 1);
        let fourth = if plane == 0 { above } else { from - 1 };
        let fourth = self.stretch::<N>(fourth);
        for (x, level) in levels.iter_mut().enumerate() {
            *level = ((fourth[x] + north[x]) + (before[x] + after[x])) * 0.25;
        }
    }

    /// The quads of taps less the means of their planes; the first is that to the west.
    #[inline(always)]
    pub(super) fn taps<const N: usize, const Q: usize>(
        &self,
        at: usize,
        offsets: &[(isize, usize); N],
        means: &[f32; 3],
        west: &West,
    ) -> Taps<Q> {
        let mut taps = [[0.0; 4]; Q];
        taps[0] = west.values.map(|value| value - means[0]);
        for (quad, (offset, plane)) in taps.iter_mut().zip(offsets).skip(1) {
            let source: &Quad = self.stretch(at.wrapping_add_signed(*offset));
            let mean = means[*plane];
            *quad = source.map(|value| value - mean);
        }
        taps
    }

    /// A reference's pixel at the same place; 0 without one.
    #[inline(always)]
    pub(super) fn reference(&self, which: usize, at: usize) -> f32 {
        if which < self.references {
            self.planes[at + (which + 1) * self.layout.area()]
        } else {
            0.0
        }
    }

    /// A reference's unrest at the same place; 0 without one.
    #[inline(always)]
    pub(super) fn unrest(&self, which: usize, at: usize) -> f32 {
        self.unrest.get(which).map_or(0.0, |unrest| unrest[at])
    }

    /// The errors to the west, north, north-west, north-east, and two steps west and north-east.
    #[inline(always)]
    pub(super) fn errors(&self, at: usize, west: &West) -> [f32; 6] {
        let above = &self.errors[at - self.layout.stride - 1..][..4];
        let [west_west, west] = west.errors;
        [west, above[1], above[0], above[2], west_west, above[3]]
    }

    /// Where all neighbours are equal, codes whether the pixel is equal to them; `None` elsewhere.
    #[inline(always)]
    pub(super) fn run(
        &mut self,
        coder: &mut impl Coder,
        at: usize,
        near: &Near,
        value: u16,
    ) -> Option<bool> {
        let level = near.west;
        let flat = level == near.north
            && level == near.north_west
            && level == near.north_east
            && level == near.west_west;
        if !flat {
            return None;
        }
        let agree = |which| usize::from(self.reference(which, at) == level);
        let context = match self.references {
            0 => 0,
            1 => 1 + agree(0),
            _ => 1 + agree(0) + agree(1),
        };
        let higher = self.planes[at - 2 * self.layout.stride] == level;
        let counter = &mut self.runs[2 * context + usize::from(higher)];
        let bit = coder.bit(f32::from(value) == level, counter.bounded());
        counter.learn(&TABLES, bit, 250);
        Some(bit)
    }

    /// Takes a pixel in.
    #[inline(always)]
    pub(super) fn set(&mut self, at: usize, value: f32, error: f32) {
        self.planes[at] = value;
        self.errors[at] = error;
    }
}

/// How many levels there are.
pub(super) const LEVELS: usize = 64;

/// The level of a positive number: four to an octave, from 1/2.
#[inline(always)]
pub(super) fn level(number: f32) -> usize {
    // What is no number has no sign that all machines agree on.
    let number = if number > 0.0 { number } else { 0.0 };
    // The exponent and the two highest bits below it.
    let steps = number.to_bits() >> 21;
    const HALF: u32 = 126 << 2;
    ((steps.max(HALF) - HALF) as usize).min(LEVELS - 1)
}

/// A number in the middle of a level.
#[expect(clippy::cast_precision_loss, reason = "levels are few")]
pub(super) fn middle(level: usize) -> f32 {
    let (octave, quarter) = ((level + 12) / 4, (level + 12) % 4);
    (4.5 + quarter as f32) * (1_u64 << octave) as f32 / 64.0
}

/// Keeps a number within what can be computed with.
#[inline(always)]
pub(super) fn tame(number: f32) -> f32 {
    if number.abs() < 1e6 { number } else { 0.0 }
}

/// A running mean that learns slower and slower.
#[derive(Clone, Copy, Default)]
pub(super) struct Mean {
    pub(super) value: f32,
    events: u8,
}

impl Mean {
    #[inline(always)]
    pub(super) fn learn(&mut self, sample: f32, rates: &[f32; 65]) {
        self.value += (sample - self.value) * rates[usize::from(self.events)];
        self.events += u8::from(self.events < 64);
    }
}

/// The rates of [`Mean::learn`].
pub(super) fn mean_rates() -> [f32; 65] {
    let mut rates = [0.0; 65];
    let mut events = 3.0;
    for rate in &mut rates {
        *rate = 1.0 / events;
        events += 1.0;
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_and_their_middles_lie_in_them() {
        assert_eq!(level(-1.0), 0);
        assert_eq!(level(f32::NAN), 0);
        assert_eq!(level(f32::INFINITY), LEVELS - 1);
        for l in 0..LEVELS {
            assert_eq!(level(middle(l)), l);
        }
    }
}
