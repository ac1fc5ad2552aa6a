//! The model of tier `fast`: weights per stripe and prefix codes per context, both sent.
//!
//! In: values, or a coded slice. Out: the other.
//! Invariant: a prediction is a sum in one pinned order, so that the encoder, which computes many
//! at once, and the decoder, which cannot, agree.
//! May not: change once files of this format version exist.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "values have 16 bits; floats saturate"
)]

use super::plane::{Layout, MARGIN};
use super::prefix::{Decoding, Encoding, Reader, Writer};
use super::scene::Field;
use super::solve::{Sums, Taps, add, solve};

/// Rows that share weights.
const STRIPE: usize = 64;
/// Rows down and columns right. The last two of the slice itself are those that a decoder has to
/// wait for.
const TAPS: [(isize, isize); 10] = [
    (-2, 0),
    (-2, -1),
    (-2, 1),
    (-1, 2),
    (-1, -2),
    (-1, -1),
    (-1, 1),
    (-1, 0),
    (0, -2),
    (0, -1),
];
/// In the reference; the pixel at the same place first.
const REFERENCE_TAPS: [(isize, isize); 9] = [
    (0, 0),
    (0, 1),
    (0, -1),
    (1, 0),
    (-1, 0),
    (-1, -1),
    (-1, 1),
    (1, -1),
    (1, 1),
];
const TAPS_MAX: usize = TAPS.len() + REFERENCE_TAPS.len();
/// The least step of a weight is 1/4,096.
const ONE: f32 = 4096.0;

/// Contexts, by the errors around; in the first there are none.
const CONTEXTS: usize = 28;
/// Errors in steps of a context's own; the outer two are open.
const SYMBOLS: usize = 44;
const CENTRE: i32 = 21;
const OUTER: [usize; 2] = [0, SYMBOLS - 1];
/// The code for the lengths of runs without errors, and the one for the errors that end them.
const RUN: usize = CONTEXTS;
const RUN_END: usize = CONTEXTS + 1;
const CODES: usize = CONTEXTS + 2;
/// No error counts for more.
const ERROR_MAX: u32 = 400;
const SUM_MAX: usize = 10 * ERROR_MAX as usize;

/// Weights of the taps of the slice, then of the reference.
type Weights = [f32; TAPS_MAX];

/// A slice and its reference, with what leads to a tap.
struct Sight<'a> {
    layout: Layout,
    plane: &'a [f32],
    reference: Option<&'a [f32]>,
}

/// Codes a slice, behind the bytes given.
pub(super) fn encode(field: &Field, values: &[u16], mut out: Vec<u8>) -> Vec<u8> {
    let layout = field.layout;
    let reference = field.references.first().map(|values| layout.plane(values));
    let mut plane = Vec::new();
    begin(&mut plane, field, reference.as_deref());
    for (y, row) in values.chunks_exact(layout.width).enumerate() {
        let start = layout.row(y);
        for (to, from) in plane[start..].iter_mut().zip(row) {
            *to = f32::from(*from);
        }
        layout.begin_row(&mut plane, y);
        layout.end_row(&mut plane, y);
    }
    let sight = Sight {
        layout,
        plane: &plane,
        reference: reference.as_deref(),
    };
    let mut errors = Errors::new(layout);
    let mut predicted = vec![0.0; layout.width];
    let (least, most) = (f32::from(field.least), f32::from(field.most));
    for top in (0..layout.height).step_by(STRIPE) {
        let end = (top + STRIPE).min(layout.height);
        let weights = fit(&sight, top..end);
        write_weights(&weights, reference.is_some(), &mut out);
        for y in top..end {
            let start = layout.row(y);
            predicted.fill(0.0);
            sight.sum_known(&weights, y, &mut predicted);
            let (two_west, west) = (&plane[start - 2..], &plane[start - 1..]);
            let exact = &values[y * layout.width..];
            let known = predicted.iter().zip(two_west).zip(west).zip(exact);
            for (error, (((p, two_west), west), exact)) in errors.row_mut(y).iter_mut().zip(known) {
                let p = p + weights[8] * two_west;
                let p = p + weights[9] * west;
                *error = i32::from(*exact) - rounded(p, least, most);
            }
        }
    }
    write_errors(&mut errors, out)
}

/// Decodes a slice; `None` if the bytes are none.
pub(super) fn decode(field: &Field, bytes: &[u8]) -> Option<Vec<u16>> {
    let layout = field.layout;
    let reference = field.references.first().map(|values| layout.plane(values));
    let mut plane = Vec::new();
    begin(&mut plane, field, reference.as_deref());
    let (stripes, rest) = read_weights(bytes, layout.height.div_ceil(STRIPE), reference.is_some())?;
    let (least, most) = (f32::from(field.least), f32::from(field.most));
    let mut tokens = Tokens::new(rest)?;
    let mut errors = Errors::new(layout);
    let mut values = Vec::with_capacity(layout.width * layout.height);
    let mut predicted = vec![0.0; layout.width];
    for y in 0..layout.height {
        layout.begin_row(&mut plane, y);
        let weights = &stripes[y / STRIPE];
        predicted.fill(0.0);
        let sight = Sight {
            layout,
            plane: &plane,
            reference: reference.as_deref(),
        };
        sight.sum_known(weights, y, &mut predicted);
        let start = layout.row(y);
        tokens.begin_row();
        errors.begin_row(y);
        for (x, known) in predicted.iter().enumerate() {
            let at = start + x;
            let p = known + weights[8] * plane[at - 2];
            let p = p + weights[9] * plane[at - 1];
            let error = tokens.error(errors.sum(y, x), layout.width - x)?;
            let value = (rounded(p, least, most) + error).clamp(0, 0xFFFF);
            errors.set(y, x, error);
            plane[at] = value as f32;
            values.push(value as u16);
        }
        layout.end_row(&mut plane, y);
        errors.end_row(y);
    }
    Some(values)
}

/// Makes a plane of which only what lies above is known.
fn begin(plane: &mut Vec<f32>, field: &Field, reference: Option<&[f32]>) {
    plane.resize(field.layout.area(), 0.0);
    let above = MARGIN * field.layout.stride;
    match reference {
        Some(reference) => plane[..above].copy_from_slice(&reference[..above]),
        None => plane[..above].fill(f32::from(field.least)),
    }
}

/// The nearest whole number within bounds that have 16 bits, the even one of two.
#[inline(always)]
fn rounded(p: f32, least: f32, most: f32) -> i32 {
    let p = if p > least { p } else { least };
    let p = if p < most { p } else { most };
    // At this height floats are whole numbers.
    ((p + 8_388_608.0).to_bits() & 0x7F_FFFF) as i32
}

impl Sight<'_> {
    /// Adds up, for a row, all that does not lie in it: the reference's taps, then the slice's but
    /// the last two.
    fn sum_known(&self, weights: &Weights, y: usize, out: &mut [f32]) {
        let start = self.layout.row(y);
        let (own, other) = weights.split_at(TAPS.len());
        let mut add_up = |plane: &[f32], taps: &[(isize, isize)], weights: &[f32]| {
            let (fours, rest) = weights.as_chunks::<4>();
            let row = |tap: usize| &plane[start.wrapping_add_signed(self.offset(taps[tap]))..];
            for (i, [w0, w1, w2, w3]) in fours.iter().enumerate() {
                let pairs = row(4 * i).iter().zip(row(4 * i + 1));
                let others = row(4 * i + 2).iter().zip(row(4 * i + 3));
                for ((sum, (a, b)), (c, d)) in out.iter_mut().zip(pairs).zip(others) {
                    *sum = *sum + w0 * a + w1 * b + w2 * c + w3 * d;
                }
            }
            for (weight, tap) in rest.iter().zip(4 * fours.len()..) {
                for (sum, value) in out.iter_mut().zip(row(tap)) {
                    *sum += weight * value;
                }
            }
        };
        if let Some(reference) = self.reference {
            add_up(reference, &REFERENCE_TAPS, other);
        }
        add_up(self.plane, &TAPS[..8], &own[..8]);
    }

    fn offset(&self, (down, right): (isize, isize)) -> isize {
        down * self.layout.stride as isize + right
    }

    /// A pixel's taps less the means of the four nearest, in the slice and in the reference.
    fn taps(&self, at: usize) -> Taps<6> {
        let mut taps = [[0.0; 4]; 6];
        let cells = taps.as_flattened_mut();
        let mut gather = |plane: &[f32], offsets: &[(isize, isize)], first: usize| {
            let mean = self.mean(plane, at);
            for (cell, tap) in cells[first..].iter_mut().zip(offsets) {
                *cell = plane[at.wrapping_add_signed(self.offset(*tap))] - mean;
            }
            mean
        };
        let mean = gather(self.plane, &TAPS, 0);
        if let Some(reference) = self.reference {
            gather(reference, &REFERENCE_TAPS, TAPS.len());
        }
        taps[5][0] = self.plane[at] - mean;
        taps
    }

    fn mean(&self, plane: &[f32], at: usize) -> f32 {
        let above = at - self.layout.stride;
        ((plane[at - 1] + plane[above]) + (plane[above - 1] + plane[above + 1])) * 0.25
    }
}

/// Finds the weights for some rows from a sixteenth of their pixels.
fn fit(sight: &Sight<'_>, rows: std::ops::Range<usize>) -> Weights {
    let mut sums: Sums<20, 6> = [[[0.0; 4]; 6]; 20];
    let stride = sight.layout.stride;
    for y in rows.step_by(4) {
        for x in (y / 4 % 4..sight.layout.width).step_by(4) {
            let at = sight.layout.row(y) + x;
            let plane = sight.plane;
            let (west, north) = (plane[at - 1], plane[at - stride]);
            let (north_west, north_east) = (plane[at - stride - 1], plane[at - stride + 1]);
            let slope = (west - north_west).abs()
                + ((north - north_west).abs() + (north - north_east).abs());
            if slope > 0.0 || west != plane[at] {
                add(&mut sums, &sight.taps(at), 1.0 / (slope * slope + 30.0));
            }
        }
    }
    let mut solved = [[[0.0; 4]; 6]];
    solve(&mut sums, 1e-5, &[5], &mut solved);
    let mut weights: Weights = [0.0; TAPS_MAX];
    weights.copy_from_slice(&solved[0].as_flattened()[..TAPS_MAX]);
    let (own, other) = weights.split_at_mut(TAPS.len());
    // What was taken off as means goes back to where it came from, so that the slice's weights
    // make 1 and the reference's 0: level ground is predicted exactly.
    let open = (1.0 - own.iter().sum::<f32>()) * 0.25;
    [5, 6, 7, 9].into_iter().for_each(|tap| own[tap] += open);
    snap(own, 9, 1.0);
    if sight.reference.is_some() {
        let open = other.iter().sum::<f32>() * 0.25;
        [2, 4, 5, 6].into_iter().for_each(|tap| other[tap] -= open);
        snap(other, 0, 0.0);
    } else {
        other.fill(0.0);
    }
    weights
}

/// Rounds weights to whole steps; one of them takes what the sum is off by.
fn snap(weights: &mut [f32], last: usize, total: f32) {
    for weight in weights.iter_mut() {
        *weight = ((*weight).clamp(-7.0, 7.0) * ONE) as i32 as f32 / ONE;
    }
    let off = total - weights.iter().sum::<f32>();
    weights[last] = (weights[last] + off).clamp(-7.0, 7.0);
}

fn write_weights(weights: &Weights, referenced: bool, out: &mut Vec<u8>) {
    let count = if referenced { TAPS_MAX } else { TAPS.len() };
    for weight in &weights[..count] {
        out.extend_from_slice(&((weight * ONE) as i16).to_le_bytes());
    }
}

fn read_weights(bytes: &[u8], stripes: usize, referenced: bool) -> Option<(Vec<Weights>, &[u8])> {
    let count = if referenced { TAPS_MAX } else { TAPS.len() };
    let (head, rest) = bytes.split_at_checked(2 * count * stripes)?;
    let stripes = head.chunks_exact(2 * count).map(|stripe| {
        let mut weights = [0.0; TAPS_MAX];
        for (weight, pair) in weights.iter_mut().zip(stripe.as_chunks::<2>().0) {
            *weight = f32::from(i16::from_le_bytes(*pair)) / ONE;
        }
        weights
    });
    Some((stripes.collect(), rest))
}

/// Errors of a slice in rows with margins, and how large they are.
struct Errors {
    layout: Layout,
    errors: Vec<i32>,
    sizes: Vec<u16>,
}

impl Errors {
    fn new(layout: Layout) -> Self {
        let area = layout.stride * (layout.height + 1);
        Self {
            layout,
            errors: vec![0; area],
            sizes: vec![0; area],
        }
    }

    /// Where a row begins; there is one above the first.
    fn start(&self, y: usize) -> usize {
        (y + 1) * self.layout.stride + MARGIN
    }

    fn row_mut(&mut self, y: usize) -> &mut [i32] {
        let start = self.start(y);
        &mut self.errors[start..start + self.layout.width]
    }

    #[inline(always)]
    fn set(&mut self, y: usize, x: usize, error: i32) {
        let start = self.start(y);
        self.sizes[start + x] = error.unsigned_abs().min(ERROR_MAX) as u16;
    }

    /// Left of a row lies what is above its first pixel, right of it what its last one has.
    fn begin_row(&mut self, y: usize) {
        let start = self.start(y);
        let above = self.sizes[start - self.layout.stride];
        self.sizes[start - MARGIN..start].fill(above);
    }

    fn end_row(&mut self, y: usize) {
        let end = self.start(y) + self.layout.width;
        let last = self.sizes[end - 1];
        self.sizes[end..end + MARGIN].fill(last);
    }

    /// The sum of the errors around, with weights that make 10.
    #[inline(always)]
    fn sum(&self, y: usize, x: usize) -> usize {
        let at = self.start(y) + x;
        let above = &self.sizes[at - self.layout.stride - 1..][..4];
        let beside = &self.sizes[at - 2..][..2];
        usize::from((beside[1] + above[1]) * 3 + beside[0] + above[0] + above[2] + above[3])
    }

    /// The same for a whole row, into contexts.
    fn contexts(&self, y: usize, contexts: &Contexts, out: &mut [u8]) {
        let (start, width) = (self.start(y), self.layout.width);
        let beside = &self.sizes[start - 2..start + width];
        let above = &self.sizes[start - self.layout.stride - 1..][..width + 3];
        let mut sums = vec![0_u16; width];
        for (x, sum) in sums.iter_mut().enumerate() {
            *sum = (beside[x + 1] + above[x + 1]) * 3
                + beside[x]
                + above[x]
                + above[x + 2]
                + above[x + 3];
        }
        for (context, sum) in out.iter_mut().zip(sums) {
            *context = contexts.table[usize::from(sum)];
        }
    }
}

/// Which context a sum of errors has, and in which steps errors are told there.
struct Contexts {
    table: Vec<u8>,
    /// A step is 2 to the power of this.
    steps: [u32; CONTEXTS],
}

impl Contexts {
    fn new() -> Self {
        let table: Vec<u8> = (0..=SUM_MAX as u32)
            .map(|sum| {
                let Some(octave) = (2 * sum).checked_ilog2() else {
                    return 0;
                };
                let quarter = ((2 * sum) << (31 - octave) >> 29) & 3;
                (((4 * octave - 3 + quarter) * 3 / 4) as u8).clamp(1, CONTEXTS as u8 - 1)
            })
            .collect();
        let mut steps = [0; CONTEXTS];
        for (sum, context) in (0_u32..).zip(&table) {
            // An error is about an eighth of the sum; a step is about a fifth of an error.
            steps[usize::from(*context)] = (sum / 36).max(1).ilog2();
        }
        Self { table, steps }
    }

    #[inline(always)]
    fn of(&self, sum: usize) -> usize {
        usize::from(self.table[sum])
    }
}

/// What is written for a pixel: how often each symbol of each code, then the symbols.
fn write_errors(errors: &mut Errors, mut out: Vec<u8>) -> Vec<u8> {
    let (width, height) = (errors.layout.width, errors.layout.height);
    for (size, error) in errors.sizes.iter_mut().zip(&errors.errors) {
        *size = error.unsigned_abs().min(ERROR_MAX) as u16;
    }
    let table = Contexts::new();
    let mut contexts = vec![0; width * height];
    let mut counts = [[0_u32; SYMBOLS]; CODES];
    let mut runs = Vec::new();
    for (y, row) in contexts.chunks_exact_mut(width).enumerate() {
        errors.begin_row(y);
        errors.end_row(y);
        errors.contexts(y, &table, row);
        let errors = &errors.row_mut(y)[..];
        let mut x = 0;
        while x < width {
            let mut context = usize::from(row[x]);
            if context == 0 {
                let run = errors[x..].iter().take_while(|error| **error == 0).count();
                runs.push(run as u32);
                counts[RUN][(run + 1).ilog2() as usize] += 1;
                x += run;
                if x == width {
                    break;
                }
                context = RUN_END;
            }
            counts[context][symbol(errors[x], table.step(context)).0] += 1;
            x += 1;
        }
    }
    out.reserve(width * height);
    let mut writer = Writer::new(out);
    let codes: Vec<Encoding> = counts
        .iter()
        .map(|counts| Encoding::new(counts, &mut writer))
        .collect();
    let mut runs = runs.into_iter();
    for (y, row) in contexts.chunks_exact(width).enumerate() {
        let errors = &errors.row_mut(y)[..];
        write_row(&mut writer, &codes, &table, row, errors, &mut runs);
    }
    writer.finish()
}

fn write_row(
    writer: &mut Writer,
    codes: &[Encoding],
    table: &Contexts,
    contexts: &[u8],
    errors: &[i32],
    runs: &mut impl Iterator<Item = u32>,
) {
    let mut x = 0;
    while x < errors.len() {
        let mut context = usize::from(contexts[x]);
        if context == 0 {
            let run = runs.next().unwrap_or_default();
            let bits = (run + 1).ilog2();
            let (code, length) = codes[RUN].code(bits as usize);
            writer.put(code, length);
            writer.put((run + 1) & ((1 << bits) - 1), bits);
            x += run as usize;
            if x == errors.len() {
                break;
            }
            context = RUN_END;
        }
        let error = errors[x];
        let step = table.step(context);
        let (symbol, steps) = symbol(error, step);
        let low = (error & ((1 << step) - 1)) as u32;
        let (code, length) = codes[context].code(symbol);
        if OUTER.contains(&symbol) {
            writer.put(code, length);
            let far = if symbol == 0 {
                1 - steps - CENTRE
            } else {
                steps - CENTRE
            };
            let far = far as u32;
            let bits = far.ilog2();
            writer.put(bits, 5);
            writer.put(far & ((1 << bits) - 1), bits);
            writer.put(low, step);
        } else {
            writer.put(code | (low << length), length + step);
        }
        x += 1;
    }
}

impl Contexts {
    #[inline(always)]
    fn step(&self, context: usize) -> u32 {
        self.steps.get(context).copied().unwrap_or(0)
    }
}

/// The symbol of an error, and the error in steps.
#[inline(always)]
fn symbol(error: i32, step: u32) -> (usize, i32) {
    let steps = error >> step;
    let symbol = (steps + CENTRE).clamp(0, SYMBOLS as i32 - 1);
    (symbol as usize, steps)
}

/// Reads the errors of a slice, one by one.
struct Tokens<'a> {
    reader: Reader<'a>,
    codes: Vec<Decoding>,
    contexts: Contexts,
    /// How many pixels to come have no error.
    zeros: usize,
    /// Whether the pixel after those is known to have one.
    ends: bool,
}

impl<'a> Tokens<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let codes = (0..CODES).map(|_| Decoding::read(&mut reader, SYMBOLS));
        Some(Self {
            codes: codes.collect::<Option<Vec<_>>>()?,
            reader,
            contexts: Contexts::new(),
            zeros: 0,
            ends: false,
        })
    }

    fn begin_row(&mut self) {
        self.zeros = 0;
        self.ends = false;
    }

    /// The next error, with the sum of those around and the number of pixels left in the row.
    #[inline(always)]
    fn error(&mut self, sum: usize, left: usize) -> Option<i32> {
        if self.zeros > 0 {
            self.zeros -= 1;
            return Some(0);
        }
        let mut context = self.contexts.of(sum);
        if self.ends {
            self.ends = false;
            context = RUN_END;
        } else if context == 0 {
            let zeros = self.run(left)?;
            if zeros > 0 {
                self.zeros = zeros - 1;
                self.ends = true;
                return Some(0);
            }
            context = RUN_END;
        }
        self.reader.fill();
        let step = self.contexts.step(context);
        let symbol = self.reader.symbol(&self.codes[context]);
        let mut steps = symbol as i32 - CENTRE;
        if OUTER.contains(&symbol) {
            let bits = self.reader.number(5).min(18);
            let far = ((1 << bits) | self.reader.number(bits)) as i32;
            steps = if symbol == 0 {
                1 - far - CENTRE
            } else {
                far + CENTRE
            };
            self.reader.fill();
        }
        Some((steps << step) | self.reader.take(step) as i32)
    }

    /// The length of a run.
    fn run(&mut self, left: usize) -> Option<usize> {
        self.reader.fill();
        let bits = self.reader.symbol(&self.codes[RUN]) as u32;
        let zeros = ((1_u64 << bits.min(17)) | u64::from(self.reader.take(bits.min(17)))) - 1;
        usize::try_from(zeros).ok().filter(|zeros| *zeros <= left)
    }
}
