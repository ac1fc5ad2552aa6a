//! How tier `archive` tells a value: by mixed binary decisions.
//!
//! In: a value, or a decoder; and what is known of the pixel. Out: coded decisions, or the value.
//! Invariant: the encoder and the decoder run the same code on the same numbers.
//! May not: change once files of this format version exist.
//!
//! A value is told by a few decisions: above or below the mean, how many buckets away, where in the
//! bucket. Each is predicted by a logistic and a normal distribution and by five counters, which
//! two sets of weights mix.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values have 16 bits; floats saturate"
)]

use super::archive::View;
use super::range::Coder;
use super::scene::{LEVELS, level};
use super::tables::{Counter, TABLES};

/// Kinds of decisions.
const NODES: usize = 48;
const COUNTERS: usize = 5;
const INPUTS: usize = COUNTERS + 2;
/// In 1/65,536: the counters' weights, then those of the distributions.
const FIRST_WEIGHTS: [i32; INPUTS] = [12000, 12000, 12000, 12000, 12000, 8000, 8000];
const WEIGHT_MAX: i32 = 1 << 18;

/// Where a pixel's counters and weights begin.
struct Place {
    counters: [usize; COUNTERS],
    weights: [usize; 2],
}

/// Tells values.
pub(super) struct Decisions {
    counters: [Vec<Counter>; COUNTERS],
    weights: [Vec<[i32; INPUTS]>; 2],
}

impl Decisions {
    pub(super) fn new() -> Self {
        let counters = |contexts: usize| vec![Counter::HALF; contexts * NODES];
        let weights = || vec![FIRST_WEIGHTS; LEVELS * NODES];
        Self {
            counters: [
                counters(LEVELS * 8),
                counters(256),
                counters(LEVELS * 8),
                counters(LEVELS * 8),
                counters(1024),
            ],
            weights: [weights(), weights()],
        }
    }

    /// Codes a value, given the mean that is expected.
    #[inline(always)]
    pub(super) fn code(
        &mut self,
        coder: &mut impl Coder,
        value: u16,
        mean: f32,
        view: &View,
    ) -> u16 {
        let edge = mean as i32 + 1;
        let base = edge as f32 - 0.5 - mean;
        let width = (view.scale as i32).max(1).ilog2().min(14);
        let place = place(mean, width as usize, view);
        let tails = Tails {
            logistic: 1.0 / (view.scale * 0.62 + 0.10),
            normal: 1.0 / (view.scale * 1.15 + 0.15),
        };
        let value = i32::from(value);
        let beyond = tails.beyond(base);
        let above = self.decide(coder, value >= edge, &place, 0, beyond);
        let away = if above {
            value - edge
        } else {
            edge - 1 - value
        };
        let from = if above {
            Stretch {
                base,
                outer: beyond,
                side: 0,
            }
        } else {
            let outer = beyond.map(|p| 1.0 - p);
            Stretch {
                base: -base,
                outer,
                side: 1,
            }
        };
        let away = self.code_away(coder, away, width, &place, &tails, from);
        let value = if above { edge + away } else { edge - 1 - away };
        // Only bytes that no encoder made lead out of range.
        value.clamp(0, 0xFFFF) as u16
    }

    /// Codes how far a value is from the edge beside the mean.
    #[inline(always)]
    fn code_away(
        &mut self,
        coder: &mut impl Coder,
        away: i32,
        bits: u32,
        place: &Place,
        tails: &Tails,
        from: Stretch,
    ) -> i32 {
        let Stretch {
            base,
            mut outer,
            side,
        } = from;
        let (mut low, mut buckets) = (0_i32, 0_u32);
        let (mut width, mut inner);
        loop {
            width = 1_i32 << (bits + buckets.saturating_sub(2)).min(20);
            inner = tails.beyond(base + (low + width) as f32);
            let node = 1 + side + 2 * buckets.min(8) as usize;
            let p = [0, 1].map(|i| inner[i] / outer[i]);
            let farther = self.decide(coder, away >= low + width, place, node, p);
            if !farther || buckets == 18 {
                break;
            }
            outer = inner;
            low += width;
            buckets += 1;
        }
        let mut depth = 0;
        let mut upper = 0;
        while width > 1 {
            width /= 2;
            let middle = low + width;
            let beyond = tails.beyond(base + middle as f32);
            let p = [0, 1].map(|i| (beyond[i] - inner[i]) / (outer[i] - inner[i] + 1e-9));
            let bucket = buckets.min(3) as usize;
            let bit = match depth {
                0 => self.decide(coder, away >= middle, place, 20 + 4 * side + bucket, p),
                1 => self.decide(coder, away >= middle, place, 28 + 4 * upper + bucket, p),
                _ => {
                    let p = ((p[0] + p[1]) * 32768.0) as i32;
                    coder.bit(away >= middle, p.clamp(2048, 63488) as u32)
                }
            };
            depth += 1;
            upper = usize::from(bit);
            if bit {
                (low, outer) = (middle, beyond);
            } else {
                inner = beyond;
            }
        }
        low
    }

    /// Codes one decision; `p` is what the two distributions say.
    #[inline(always)]
    fn decide(
        &mut self,
        coder: &mut impl Coder,
        bit: bool,
        place: &Place,
        node: usize,
        p: [f32; 2],
    ) -> bool {
        let tables = &*TABLES;
        let mut inputs = [0; INPUTS];
        for (i, input) in inputs.iter_mut().enumerate() {
            *input = match i.checked_sub(COUNTERS) {
                Some(i) => tables.logit_of(p[i]),
                None => tables.logit(self.counters[i][place.counters[i] + node].p),
            };
        }
        let [one, two] = &mut self.weights;
        let one = &mut one[place.weights[0] + node];
        let two = &mut two[place.weights[1] + node];
        let mixed = |weights: &[i32; INPUTS]| {
            let mut sum = 0;
            for (weight, input) in weights.iter().zip(&inputs) {
                sum += i64::from(*weight) * i64::from(*input);
            }
            tables.probability((sum >> 16) as i32)
        };
        let (a, b) = (mixed(one), mixed(two));
        let bit = coder.bit(bit, ((a + b) / 2).clamp(24, 65512) as u32);
        let target = if bit { 65535 } else { 0 };
        for (weights, p) in [(one, a), (two, b)] {
            for (weight, input) in weights.iter_mut().zip(&inputs) {
                let step = (input * (target - p) + (1 << 13)) >> 14;
                *weight = (*weight + step).clamp(-WEIGHT_MAX, WEIGHT_MAX);
            }
        }
        for (counters, at) in self.counters.iter_mut().zip(place.counters) {
            counters[at + node].learn(tables, bit, 255);
        }
        bit
    }
}

/// The circumstances of a pixel.
#[inline(always)]
fn place(mean: f32, width: usize, view: &View) -> Place {
    let fraction = ((mean - (mean as i32) as f32) * 8.0) as i32;
    let [w, n, ..] = view.errors;
    let octave = |number: f32| level(number + 0.06) / 4;
    let signs =
        usize::from(w > 0.0) + 2 * usize::from(n > 0.0) + 4 * usize::from(mean > view.near.west);
    let spread = level(view.guess.spread + 0.06);
    let apart = usize::from(view.guess.spread > view.scale * 0.3)
        + usize::from(view.guess.spread > view.scale);
    let [one, two] = view.unrest.map(octave);
    let contexts = [
        view.size * 8 + fraction.clamp(0, 7) as usize,
        octave(w.abs()) * 16 + octave(n.abs()),
        level(view.around + 0.06) * 8 + signs,
        spread * 8 + view.size / 8,
        view.size / 4 * 64 + one * 4 + two / 4,
    ];
    let mixers = [width, (spread / 4 * 3 + apart).min(LEVELS - 1)];
    Place {
        counters: contexts.map(|context| context * NODES),
        weights: mixers.map(|mixer| mixer * NODES),
    }
}

/// The part of a distribution that is left.
struct Stretch {
    /// How far its inner end is from the mean.
    base: f32,
    /// How likely a value is this far away or farther.
    outer: [f32; 2],
    /// 0 above the mean, 1 below.
    side: usize,
}

/// The inverse scales of the two distributions.
struct Tails {
    logistic: f32,
    normal: f32,
}

impl Tails {
    /// How likely a value is farther away than this.
    #[inline(always)]
    fn beyond(&self, distance: f32) -> [f32; 2] {
        [
            TABLES.logistic(distance * self.logistic),
            TABLES.normal(distance * self.normal),
        ]
    }
}
