//! The model of tier `link`: one predictor of 32 taps, and 16 adaptive buckets for its errors.
//!
//! In: values, or a decoder. Out: a coded slice, or values.
//! Invariant: the encoder and the decoder run the same code on the same numbers.
//! May not: change once files of this format version exist.
//!
//! The predictor is fitted again and again, for each block of columns, to the pixels a little above
//! and beside; a quarter of the pixels is enough for that. How large the error will be is told from
//! the errors around and from the references; by that, two sets of bucket probabilities are chosen
//! and averaged. Bits within a bucket are nearly even: the highest adapts, the rest are sent plain.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "values have 16 bits; floats saturate"
)]

use super::range::{Begins, Coder};
use super::scene::{Field, LEVELS, Mean, Scene, Tap, West, level, mean_rates, middle, tame};
use super::solve::{Lessons, Sums, Taps, fade, joined, solve};
use super::tables::{Counter, TABLES};

const TAPS: usize = 32;
const QUADS: usize = 9;
/// Columns that share weights.
const BLOCK: usize = 32;
/// One of so many pixels is learned from.
const EVERY: usize = 4;
const LESSONS: usize = BLOCK / EVERY;
/// Rows between two fits of a block.
const ROWS: usize = 4;
/// What old sums count for after a fit.
const KEEP: f32 = 0.75;
/// What the blocks beside count for.
const BESIDE: f32 = 0.5;
const RIDGE: f32 = 1e-4;

const ALONE: [Tap; 8] = [
    (0, 0, -4),
    (0, -1, -4),
    (0, -1, 0),
    (0, -2, -3),
    (0, -2, 1),
    (0, -3, -2),
    (0, -1, 4),
    (0, -3, 2),
];
const WITH_ONE: [Tap; 8] = [
    (0, 0, -4),
    (0, -1, -3),
    (0, -1, 1),
    (0, -2, -3),
    (0, -2, 1),
    (1, 0, -1),
    (1, 1, -2),
    (0, -3, -2),
];
const WITH_TWO: [Tap; 8] = [
    (0, 0, -4),
    (0, -1, -3),
    (0, -1, 1),
    (0, -2, -3),
    (0, -2, 1),
    (1, 0, -1),
    (2, 0, -1),
    (0, -3, -2),
];

/// Codes a slice; a decoder fills `values` in.
pub(super) fn code(coder: &mut impl Coder, field: &Field, values: &mut [u16]) {
    let mut scene = Scene::new(field);
    let offsets = scene.offsets(match scene.references {
        0 => &ALONE,
        1 => &WITH_ONE,
        _ => &WITH_TWO,
    });
    let mut predictor = Predictor::new(field.layout.width);
    let mut expected = Expected::default();
    let mut buckets = Buckets::new();
    let mut bias = vec![Mean::default(); LEVELS / 2 * 32];
    let rates = mean_rates();
    let mut ahead = Ahead::new();
    let mut lessons = Lessons::new();
    let (least, most) = (f32::from(field.least), f32::from(field.most));
    for (y, row) in values.chunks_exact_mut(field.layout.width).enumerate() {
        scene.begin_row(y);
        let mut at = field.layout.row(y);
        let mut west = scene.west(at);
        for (block, values) in row.chunks_mut(BLOCK).enumerate() {
            predictor.begin_block(block, y);
            ahead.ready = false;
            for (x, value) in values.iter_mut().enumerate() {
                let at = at + x;
                let near = scene.near(at, &west);
                if scene.run(coder, at, &near, *value) == Some(true) {
                    *value = near.west as u16;
                    scene.set(at, near.west, 0.0);
                    west.push(near.west, 0.0);
                    continue;
                }
                if !ahead.ready {
                    ahead.look(&scene, at - x, &offsets, predictor.weights(block));
                }
                let raw = ahead.predict(x, &west, predictor.weights(block));
                let errors = scene.errors(at, &west);
                let unrest = scene.unrest(0, at);
                let scale = expected.error(&errors, unrest, scene.references > 0);
                let size = level(scale + 0.06);
                let signs = usize::from(errors[0] > 0.0)
                    + 2 * usize::from(errors[1] > 0.0)
                    + 4 * usize::from(errors[3] > 0.0)
                    + 8 * usize::from(near.west > raw)
                    + 16 * usize::from(near.north > raw);
                let bias = &mut bias[size / 2 * 32 + signs];
                let mean = (raw + bias.value).clamp(least, most);
                *value = buckets.code(coder, *value, mean, size, [errors[0], errors[1]], scale);
                let exact = f32::from(*value);
                bias.learn(exact - raw, &rates);
                let error = exact - mean;
                expected.learn(error, unrest);
                if (x + y).is_multiple_of(EVERY) {
                    let means = ahead.means.map(|means| means[x]);
                    let mut taps = scene.taps::<8, QUADS>(at, &offsets, &means, &west);
                    taps[QUADS - 1][0] = exact - means[0];
                    lessons.note(&taps, 1.0 / (scale * scale + 4.0));
                }
                scene.set(at, exact, error);
                west.push(exact, error);
            }
            predictor.learn(block, &mut lessons);
            at += values.len();
        }
        expected.end_row();
        scene.end_row(y);
    }
}

struct Predictor {
    sums: Vec<Sums<TAPS, QUADS>>,
    weights: Vec<[Taps<QUADS>; 1]>,
    /// Whether anything was learned since the last fit, in the block or beside.
    stale: Vec<bool>,
    work: Box<Sums<TAPS, QUADS>>,
}

impl Predictor {
    fn new(columns: usize) -> Self {
        let blocks = columns.div_ceil(BLOCK);
        Self {
            sums: vec![[[[0.0; 4]; QUADS]; TAPS]; blocks],
            weights: vec![[[[0.0; 4]; QUADS]]; blocks],
            stale: vec![false; blocks],
            work: Box::new([[[0.0; 4]; QUADS]; TAPS]),
        }
    }

    fn begin_block(&mut self, block: usize, y: usize) {
        let due = y < ROWS || (y + block).is_multiple_of(ROWS);
        if due && self.stale[block] {
            joined(&self.sums, block, &[BESIDE], &mut self.work);
            solve(
                &mut self.work,
                RIDGE,
                &[QUADS - 1],
                &mut self.weights[block],
            );
            fade(&mut self.sums[block], KEEP, None);
            self.stale[block] = false;
        }
    }

    #[inline(always)]
    fn weights(&self, block: usize) -> &Taps<QUADS> {
        &self.weights[block][0]
    }

    /// Learns what was seen of a block in one row.
    fn learn(&mut self, block: usize, lessons: &mut Lessons<QUADS, LESSONS>) {
        if lessons.add_to(&mut self.sums[block]) {
            let last = self.stale.len() - 1;
            self.stale[block.saturating_sub(1)..=(block + 1).min(last)].fill(true);
        }
    }
}

/// What can be said of a block's pixels in one row before the first of them is known: all but what
/// the pixels to the west add.
struct Ahead {
    ready: bool,
    /// The level that taps are told from, in each plane.
    means: [[f32; BLOCK]; 3],
    /// The level of the slice, and the share of all taps but the first four.
    base: [f32; BLOCK],
}

impl Ahead {
    fn new() -> Self {
        Self {
            ready: false,
            means: [[0.0; BLOCK]; 3],
            base: [0.0; BLOCK],
        }
    }

    /// Looks at the block that begins at `from`.
    fn look(
        &mut self,
        scene: &Scene,
        from: usize,
        offsets: &[(isize, usize); 8],
        weights: &Taps<QUADS>,
    ) {
        self.ready = true;
        for (plane, means) in self.means.iter_mut().enumerate().take(1 + scene.references) {
            scene.levels(plane, from, means);
        }
        let mut sum = [0.0; BLOCK];
        for ((offset, plane), [w0, w1, w2, w3]) in offsets.iter().zip(weights).skip(1) {
            let from = from.wrapping_add_signed(*offset);
            let [t0, t1, t2, t3] = [0, 1, 2, 3].map(|tap| scene.stretch::<BLOCK>(from + tap));
            let means = &self.means[*plane];
            for x in 0..BLOCK {
                let m = means[x];
                let left = (t0[x] - m) * w0 + (t1[x] - m) * w1;
                let right = (t2[x] - m) * w2 + (t3[x] - m) * w3;
                sum[x] += left + right;
            }
        }
        for ((base, sum), mean) in self.base.iter_mut().zip(sum).zip(&self.means[0]) {
            *base = mean + tame(sum);
        }
    }

    #[inline(always)]
    fn predict(&self, x: usize, west: &West, weights: &Taps<QUADS>) -> f32 {
        let mean = self.means[0][x];
        let [a, b, c, d] = west.values;
        let [w0, w1, w2, w3] = weights[0];
        let far = (a - mean) * w0 + (b - mean) * w1;
        let near = (c - mean) * w2 + far;
        self.base[x] + tame(near + (d - mean) * w3)
    }
}

/// How large the error will be.
struct Expected {
    errors: f32,
    unrest: f32,
    /// What unrest in the reference means for the error here.
    ratio: f32,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            errors: 0.0,
            unrest: 0.0,
            ratio: 0.7,
        }
    }
}

impl Expected {
    #[inline(always)]
    fn error(&self, errors: &[f32; 6], unrest: f32, referenced: bool) -> f32 {
        let [w, n, nw, ne, ww, nee] = errors.map(f32::abs);
        let around = ((w + n) * 2.0 + (nw + ne) + (ww + nee)) * 0.125;
        if referenced {
            around * 0.65 + unrest * self.ratio * 0.35
        } else {
            around
        }
    }

    #[inline(always)]
    fn learn(&mut self, error: f32, unrest: f32) {
        self.errors += error.abs();
        self.unrest += unrest;
    }

    fn end_row(&mut self) {
        self.ratio = self.errors / (self.unrest + 0.1);
        self.errors *= 0.95;
        self.unrest *= 0.95;
    }
}

/// Where 16 buckets begin, in 1/2^28.
type Shares = [i32; 16];
const WHOLE: i32 = 1 << 28;
/// What every bucket keeps whatever happens.
const FLOOR: i32 = 1 << 13;
/// The bucket that begins at the mean.
const CENTRE: i32 = 8;

struct Buckets {
    /// By level: the width of a bucket is 2 to the power of this.
    width: [u32; LEVELS],
    /// By level and the mean's fraction.
    by_mean: Vec<Shares>,
    /// By level and the two nearest errors.
    by_errors: Vec<Shares>,
    /// What shares move to after each bucket.
    targets: [Shares; 16],
    /// By level and bucket: the highest bit within.
    upper_half: Vec<Counter>,
    /// How far beyond the outer buckets, as a number of bits.
    beyond: [Counter; 20],
}

impl Buckets {
    fn new() -> Self {
        let width = std::array::from_fn(|size| (middle(size) as u32).max(1).ilog2());
        let targets = std::array::from_fn(|bucket| {
            std::array::from_fn(|i| {
                let begin = i as i32 * FLOOR;
                begin + if i > bucket { WHOLE - 16 * FLOOR } else { 0 }
            })
        });
        let shares = |size: usize, fraction| initial(size, width[size], fraction);
        Self {
            width,
            by_mean: (0..LEVELS * 4)
                .map(|i| shares(i / 4, 0.125 + 0.25 * f32::from((i % 4) as u8)))
                .collect(),
            by_errors: (0..LEVELS * 9).map(|i| shares(i / 9, 0.5)).collect(),
            targets,
            upper_half: vec![Counter::HALF; LEVELS * 16],
            beyond: [Counter::HALF; 20],
        }
    }

    #[inline(always)]
    fn code(
        &mut self,
        coder: &mut impl Coder,
        value: u16,
        mean: f32,
        size: usize,
        errors: [f32; 2],
        scale: f32,
    ) -> u16 {
        // The mean is no less than 0: its whole part and its quarters in one step.
        let quarters = (mean * 4.0) as i32;
        let (centre, fraction) = (quarters >> 2, (quarters & 3) as usize);
        let width = self.width[size];
        let rank = |error: f32| {
            let error = error.abs();
            usize::from(error > scale * 0.6) + usize::from(error > scale * 1.4)
        };
        let one = &mut self.by_mean[4 * size + fraction];
        let two = &mut self.by_errors[9 * size + 3 * rank(errors[0]) + rank(errors[1])];
        // Copies: that they lie apart is then plain to see, and they are worked on four at a time.
        let (a, b) = (*one, *two);
        let begins: Begins = std::array::from_fn(|i| (a[i] + b[i]) >> 13);
        let distance = i32::from(value) - centre;
        let bucket = ((distance >> width) + CENTRE).clamp(0, 15) as usize;
        let bucket = coder.symbol(bucket, &begins) & 15;
        let target = &self.targets[bucket];
        *one = std::array::from_fn(|i| a[i] + ((target[i] - a[i]) >> 8));
        *two = std::array::from_fn(|i| b[i] + ((target[i] - b[i]) >> 7));
        let mut steps = bucket as i32 - CENTRE;
        if bucket == 0 || bucket == 15 {
            steps = self.code_beyond(coder, distance >> width, bucket == 15);
        }
        let mut decoded = steps << width;
        if width > 0 {
            let half = width - 1;
            let counter = &mut self.upper_half[16 * size + bucket];
            let upper = coder.bit((distance >> half) & 1 == 1, counter.bounded());
            counter.learn(&TABLES, upper, 250);
            decoded += i32::from(upper) << half;
            if half > 0 {
                let low = (distance & ((1 << half) - 1)) as u32;
                decoded += coder.number(low, half) as i32;
            }
        }
        // Only bytes that no encoder made lead out of range.
        (centre + decoded).clamp(0, 0xFFFF) as u16
    }

    /// Codes the steps of a value in or beyond an outer bucket.
    #[cold]
    fn code_beyond(&mut self, coder: &mut impl Coder, steps: i32, above: bool) -> i32 {
        let far = if above { steps - 7 } else { -8 - steps };
        // At least 1 where it is used: the encoder comes here with far >= 0.
        let number = far.max(0) as u32 + 1;
        let mut bits = 0;
        for counter in &mut self.beyond[..17] {
            let more = coder.bit(bits < number.ilog2(), counter.bounded());
            counter.learn(&TABLES, more, 250);
            if !more {
                break;
            }
            bits += 1;
        }
        let low = coder.number(number & ((1 << bits) - 1), bits);
        // No farther than any encoder goes, so that nothing overflows.
        let far = (((1 << bits) | low) as i32 - 1).min(70_000);
        if above { 7 + far } else { -8 - far }
    }
}

/// The shares that a logistic error of a level gives, with the mean's fraction.
fn initial(size: usize, width: u32, fraction: f32) -> Shares {
    let scale = middle(size) * 0.62 + 0.06;
    std::array::from_fn(|i| {
        if i == 0 {
            return 0;
        }
        let begin = ((i as i32 - CENTRE) << width) as f32 - 0.5 - fraction;
        let below = 1.0 - TABLES.logistic(begin / scale);
        (below * (WHOLE - 16 * FLOOR) as f32) as i32 + i as i32 * FLOOR
    })
}
