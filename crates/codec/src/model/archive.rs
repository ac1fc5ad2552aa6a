//! The model of tier `archive`: four predictors that share their sums, and mixed binary decisions.
//!
//! In: values, or a decoder. Out: a coded slice, or values.
//! Invariant: the encoder and the decoder run the same code on the same numbers.
//! May not: change once files of this format version exist.
//!
//! For each block of columns there are quickly and slowly fading sums over 48 taps. Of each, a
//! nested pair of predictors is solved at once: one with the nearest taps, one with all. They are
//! blended by how well they did nearby. How large the error will be is learned, too. How the
//! value is told is in `decisions`.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values have 16 bits; floats saturate"
)]

use super::decisions::Decisions;
use super::plane::MARGIN;
use super::range::Coder;
use super::scene::{Field, LEVELS, Mean, Near, Scene, Tap, level, mean_rates, tame};
use super::solve::{Sums, Taps, add, dot, fade, joined, solve};

const TAPS: usize = 48;
const QUADS: usize = 13;
/// Columns that share weights.
const BLOCK: usize = 16;
/// Rows between two fits of a block to its quick sums; for the slow ones, twice as many.
const ROWS: usize = 2;
/// What old sums count for after a row.
const KEEP: [f32; 2] = [0.8, 0.96];
/// What the blocks beside count for.
const BESIDE: [&[f32]; 2] = [&[0.4], &[1.0, 0.5]];
const RIDGE: f32 = 1e-4;
/// How many quads of taps the predictors have, by sums.
const NESTED: [[usize; 2]; 2] = [[5, 12], [7, 12]];
const PREDICTORS: usize = 4;

const ALONE: [Tap; 12] = [
    (0, 0, -4),
    (0, -1, -3),
    (0, -1, 1),
    (0, -2, -2),
    (0, -2, 2),
    (0, -2, -6),
    (0, -3, -3),
    (0, -3, 1),
    (0, -4, -1),
    (0, -1, 5),
    (0, 0, -8),
    (0, -1, -7),
];
const WITH_ONE: [Tap; 12] = [
    (0, 0, -4),
    (0, -1, -3),
    (1, 0, -1),
    (0, -1, 1),
    (0, -2, -3),
    (0, -2, 1),
    (1, 1, -2),
    (1, -1, -1),
    (0, -3, -3),
    (0, -3, 1),
    (0, -2, -7),
    (0, -4, -1),
];
const WITH_TWO: [Tap; 12] = [
    (0, 0, -4),
    (0, -1, -3),
    (1, 0, -1),
    (0, -1, 1),
    (2, 0, -1),
    (0, -2, -3),
    (0, -2, 1),
    (1, 1, -2),
    (1, -1, -1),
    (0, -3, -3),
    (0, -3, 1),
    (0, -4, -1),
];

/// Codes a slice; a decoder fills `values` in.
pub(super) fn code(coder: &mut impl Coder, field: &Field, values: &mut [u16]) {
    let mut scene = Scene::new(field);
    let offsets = scene.offsets(match scene.references {
        0 => &ALONE,
        1 => &WITH_ONE,
        _ => &WITH_TWO,
    });
    let width = field.layout.width;
    let mut predictor = Predictor::new(width);
    let mut expected = Expected::new(scene.references);
    let mut bias = Bias::new();
    let mut decisions = Decisions::new();
    let (least, most) = (f32::from(field.least), f32::from(field.most));
    for (y, row) in values.chunks_exact_mut(width).enumerate() {
        scene.begin_row(y);
        let start = field.layout.row(y);
        let mut west = scene.west(start);
        for (x, value) in row.iter_mut().enumerate() {
            let at = start + x;
            if x.is_multiple_of(BLOCK) {
                predictor.begin_block(x / BLOCK, y);
            }
            let near = scene.near(at, &west);
            if scene.run(coder, at, &near, *value) == Some(true) {
                *value = near.west as u16;
                scene.set(at, near.west, 0.0);
                west.push(near.west, 0.0);
                predictor.skip(x);
                continue;
            }
            let means = scene.means(at, &near);
            let mut taps = scene.taps::<12, QUADS>(at, &offsets, &means, &west);
            let guess = predictor.predict(x, &taps);
            let raw = means[0] + guess.blend;
            let errors = scene.errors(at, &west);
            let unrest = [scene.unrest(0, at), scene.unrest(1, at)];
            let scale = expected.error(&errors, &unrest, guess.spread);
            let references = [0, 1].map(|r| {
                r < scene.references && scene.reference(r, at) - means[r + 1] > guess.blend
            });
            let view = View {
                errors,
                unrest,
                around: expected.around,
                scale,
                size: level(scale + 0.06),
                near,
                raw,
                guess,
                references,
            };
            bias.look_up(&view);
            let mean = (raw + bias.offset()).clamp(least, most);
            *value = decisions.code(coder, *value, mean, &view);
            let exact = f32::from(*value);
            bias.learn(exact - raw);
            let error = exact - mean;
            scene.set(at, exact, error);
            west.push(exact, error);
            expected.learn(error.abs(), scale);
            taps[QUADS - 1][0] = exact - means[0];
            predictor.learn(x, y, &taps, &view);
        }
        predictor.end_row();
        scene.end_row(y);
    }
}

/// What the predictors say of a pixel, less the mean of its neighbours.
#[derive(Clone, Copy)]
pub(super) struct Guess {
    each: [f32; PREDICTORS],
    blend: f32,
    /// How far they are from each other.
    pub(super) spread: f32,
}

/// What is known of a pixel before it is coded.
pub(super) struct View {
    pub(super) errors: [f32; 6],
    pub(super) unrest: [f32; 2],
    /// How large the errors around are.
    pub(super) around: f32,
    /// How large the error will be.
    pub(super) scale: f32,
    /// Its level.
    pub(super) size: usize,
    pub(super) near: Near,
    /// The blend of the predictors.
    raw: f32,
    pub(super) guess: Guess,
    /// Whether the references lie above it.
    references: [bool; 2],
}

struct Predictor {
    columns: usize,
    /// Quick and slow, by block.
    sums: [Vec<Sums<TAPS, QUADS>>; 2],
    weights: [Vec<[Taps<QUADS>; 2]>; 2],
    /// Whether anything was learned since the last fit, in the block or beside.
    stale: [Vec<bool>; 2],
    /// What this row adds to the block.
    row: Box<Sums<TAPS, QUADS>>,
    row_is_empty: bool,
    work: Box<Sums<TAPS, QUADS>>,
    /// The predictors' errors in this row and in the one above.
    errors: [Vec<[f32; PREDICTORS]>; 2],
}

impl Predictor {
    fn new(columns: usize) -> Self {
        let blocks = columns.div_ceil(BLOCK);
        let empty: Sums<TAPS, QUADS> = [[[0.0; 4]; QUADS]; TAPS];
        let sums = || vec![empty; blocks];
        let weights = || vec![[[[0.0; 4]; QUADS]; 2]; blocks];
        let errors = || vec![[0.0; PREDICTORS]; columns + 2 * MARGIN];
        Self {
            columns,
            sums: [sums(), sums()],
            weights: [weights(), weights()],
            stale: [vec![false; blocks], vec![false; blocks]],
            row: Box::new(empty),
            row_is_empty: true,
            work: Box::new(empty),
            errors: [errors(), errors()],
        }
    }

    fn begin_block(&mut self, block: usize, y: usize) {
        for which in 0..2 {
            let due = y < 4 || (y + block).is_multiple_of(ROWS * (which + 1));
            if due && self.stale[which][block] {
                joined(&self.sums[which], block, BESIDE[which], &mut self.work);
                let weights = &mut self.weights[which][block];
                solve(&mut self.work, RIDGE, &NESTED[which], weights);
                self.stale[which][block] = false;
            }
        }
    }

    #[inline(always)]
    fn predict(&self, x: usize, taps: &Taps<QUADS>) -> Guess {
        let mut each = [0.0; PREDICTORS];
        let mut votes = [0.0; PREDICTORS];
        let place = x + MARGIN;
        let [here, above] = &self.errors;
        for (i, (guess, vote)) in each.iter_mut().zip(&mut votes).enumerate() {
            let quads = NESTED[i / 2][i % 2];
            let weights = &self.weights[i / 2][x / BLOCK][i % 2];
            *guess = tame(dot(&weights[..quads], &taps[..quads]));
            let nearest = here[place - 1][i] + above[place][i];
            let second = above[place - 1][i] + above[place + 1][i];
            let third = here[place - 2][i] + above[place + 2][i];
            let inverse = 1.0 / (nearest * 2.0 + second + third + 0.3);
            let square = inverse * inverse;
            *vote = square * square;
        }
        let total = (votes[0] + votes[1]) + (votes[2] + votes[3]);
        let sum =
            (votes[0] * each[0] + votes[1] * each[1]) + (votes[2] * each[2] + votes[3] * each[3]);
        let blend = tame(sum / total);
        let [a, b, c, d] = each.map(|guess| (guess - blend).abs());
        Guess {
            each,
            blend,
            spread: ((a + b) + (c + d)) * 0.25,
        }
    }

    /// Ends the pixel that was learned, or one of a run.
    #[inline(always)]
    fn end_pixel(&mut self, x: usize, errors: [f32; PREDICTORS]) {
        self.errors[0][x + MARGIN] = errors;
        let ends = (x + 1).is_multiple_of(BLOCK) || x + 1 == self.columns;
        if ends && !self.row_is_empty {
            self.end_block(x / BLOCK);
        }
    }

    fn skip(&mut self, x: usize) {
        self.end_pixel(x, [0.0; PREDICTORS]);
    }

    fn learn(&mut self, x: usize, y: usize, taps: &Taps<QUADS>, view: &View) {
        if (x + y).is_multiple_of(2) {
            let weight = 1.0 / (view.scale * view.scale + 4.0);
            add(&mut self.row, taps, weight);
            self.row_is_empty = false;
        }
        let exact = taps[QUADS - 1][0];
        let errors = view.guess.each.map(|guess| (exact - guess).abs());
        self.end_pixel(x, errors);
    }

    fn end_block(&mut self, block: usize) {
        let all = self.sums.iter_mut().zip(&mut self.stale).zip(KEEP);
        for ((sums, stale), keep) in all {
            fade(&mut sums[block], keep, Some(&self.row));
            let last = stale.len() - 1;
            stale[block.saturating_sub(1)..=(block + 1).min(last)].fill(true);
        }
        *self.row = [[[0.0; 4]; QUADS]; TAPS];
        self.row_is_empty = true;
    }

    fn end_row(&mut self) {
        let row = &mut self.errors[0];
        let (first, last) = (row[MARGIN], row[MARGIN + self.columns - 1]);
        row[..MARGIN].fill(first);
        row[MARGIN + self.columns..].fill(last);
        self.errors.swap(0, 1);
        // Left of the row that begins lies what is left of the one above.
        let margin: [_; MARGIN] = *self.errors[1].first_chunk().expect("rows have margins");
        self.errors[0][..MARGIN].copy_from_slice(&margin);
    }
}

const FEATURES: usize = 10;

/// How large the error will be: a weighted sum of what is seen, with weights that are learned.
struct Expected {
    weights: [f32; FEATURES],
    features: [f32; FEATURES],
    around: f32,
}

impl Expected {
    fn new(references: usize) -> Self {
        let mut weights = [0.2, 0.2, 0.1, 0.1, 0.06, 0.06, 0.1, 0.1, 0.5, 0.0];
        if references == 0 {
            weights[..6].iter_mut().for_each(|w| *w *= 1.4);
        }
        Self {
            weights,
            features: [0.0; FEATURES],
            around: 0.0,
        }
    }

    #[inline(always)]
    fn error(&mut self, errors: &[f32; 6], unrest: &[f32; 2], spread: f32) -> f32 {
        let [w, n, nw, ne, ww, nee] = errors.map(f32::abs);
        self.around = ((w + n) * 2.0 + (nw + ne) + (ww + nee)) * 0.125;
        let [one, two] = *unrest;
        self.features = [w, n, nw, ne, ww, nee, one, two, spread, 1.0];
        let mut sum = 0.0;
        for (weight, feature) in self.weights.iter().zip(&self.features) {
            sum += weight * feature;
        }
        let floor = self.around * 0.25;
        let sum = if sum > floor { sum } else { floor };
        if sum > 0.02 { sum } else { 0.02 }
    }

    #[inline(always)]
    fn learn(&mut self, error: f32, scale: f32) {
        let bound = scale * 4.0 + 1.0;
        let error = if error < bound { error } else { bound };
        let mut norm = 0.05;
        for feature in &self.features {
            norm += feature * feature;
        }
        let step = 0.002 * (error - scale) / norm;
        for (weight, feature) in self.weights.iter_mut().zip(&self.features) {
            let moved = *weight + step * feature;
            *weight = if moved > 0.0 { moved } else { 0.0 };
        }
    }
}

/// What the blend is wrong by on the whole, by two sorts of circumstances.
struct Bias {
    by_signs: Vec<Mean>,
    by_guesses: Vec<Mean>,
    at: (usize, usize),
    rates: [f32; 65],
}

impl Bias {
    fn new() -> Self {
        Self {
            by_signs: vec![Mean::default(); LEVELS / 2 * 64],
            by_guesses: vec![Mean::default(); (LEVELS / 3 + 1) * 32],
            at: (0, 0),
            rates: mean_rates(),
        }
    }

    #[inline(always)]
    fn look_up(&mut self, view: &View) {
        let [w, n, nw, ne, ..] = view.errors.map(|error| usize::from(error > 0.0));
        let brighter = |value: f32| usize::from(value > view.raw);
        let (west, north) = (brighter(view.near.west), brighter(view.near.north));
        let signs = w + 2 * n + 4 * ne + 8 * west + 16 * north + 32 * nw;
        let above = |i: usize| usize::from(view.guess.each[i] > view.guess.blend);
        let [one, two] = view.references.map(usize::from);
        let guesses = above(0) + 2 * above(2) + 4 * above(3) + 8 * one + 16 * two;
        self.at = (view.size / 2 * 64 + signs, view.size / 3 * 32 + guesses);
    }

    #[inline(always)]
    fn offset(&self) -> f32 {
        (self.by_signs[self.at.0].value + self.by_guesses[self.at.1].value) * 0.5
    }

    #[inline(always)]
    fn learn(&mut self, error: f32) {
        self.by_signs[self.at.0].learn(error, &self.rates);
        self.by_guesses[self.at.1].learn(error, &self.rates);
    }
}
