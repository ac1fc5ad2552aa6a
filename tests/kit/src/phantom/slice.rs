//! The scanner: samples the head into pixels and adds the noise of its kernel.

use super::anatomy::{FIELD_MM, Head};
use crate::seeded::mix;

/// Stored value of Hounsfield 0; the rescale intercept is its negative.
pub(super) const INTERCEPT: f32 = 1024.0;

/// Stored outside the circle that a scanner reconstructs.
pub(super) const PADDING: u16 = 0;

/// Twelve bits.
const STORED_MAX: f32 = 4095.0;

/// Standard deviation in soft tissue at one millimetre of thickness.
const NOISE_HU: f32 = 6.5;

/// Pixels of one slice, row by row.
pub(super) fn pixels(
    head: &Head,
    z_mm: f32,
    thickness_mm: f32,
    side: usize,
    seed: u64,
) -> Vec<u16> {
    let pitch = FIELD_MM / side as f32;
    let middle = side as f32 / 2.0 - 0.5;
    let tissue = smoothed(
        &grid(side, |column, row| {
            let (x, y) = (
                (column as f32 - middle) * pitch,
                (row as f32 - middle) * pitch,
            );
            head.at(x, y, z_mm, pitch.max(0.9))
        }),
        side,
        4.0,
    );
    // A kernel leaves neighbouring pixels alike: white noise through the same 1-2-1 filter.
    let noise = smoothed(
        &grid(side, |column, row| {
            white(seed ^ ((row * side + column) as u64))
        }),
        side,
        2.0,
    );
    let sigma = NOISE_HU / thickness_mm.sqrt().max(0.5);
    grid(side, |column, row| {
        let place = row * side + column;
        let (x, y) = (
            (column as f32 - middle) * pitch,
            (row as f32 - middle) * pitch,
        );
        let radius = (x * x + y * y).sqrt();
        if radius > FIELD_MM / 2.0 {
            return PADDING;
        }
        // Rays through the middle of the head have crossed most bone.
        let dose = if tissue[place] < -700.0 {
            0.55
        } else {
            1.25 - radius / 180.0
        };
        let stored = tissue[place] + INTERCEPT + sigma * dose * noise[place] / FILTER_GAIN;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to twelve bits; the padding value stays free"
        )]
        let stored = stored.round().clamp(f32::from(PADDING) + 1.0, STORED_MAX) as u16;
        stored
    })
}

/// What the 1-2-1 filter leaves of white noise in two dimensions: (1 + 4 + 1) / 16.
const FILTER_GAIN: f32 = 0.375;

fn grid<T>(side: usize, mut at: impl FnMut(usize, usize) -> T) -> Vec<T> {
    let mut cells = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            cells.push(at(column, row));
        }
    }
    cells
}

/// Filters rows and columns with 1, `centre`, 1.
fn smoothed(cells: &[f32], side: usize, centre: f32) -> Vec<f32> {
    let last = side - 1;
    let three = |a: f32, b: f32, c: f32| (a + centre * b + c) / (centre + 2.0);
    let rows = grid(side, |column, row| {
        let line = &cells[row * side..][..side];
        three(
            line[column.saturating_sub(1)],
            line[column],
            line[(column + 1).min(last)],
        )
    });
    grid(side, |column, row| {
        let up = rows[row.saturating_sub(1) * side + column];
        let down = rows[(row + 1).min(last) * side + column];
        three(up, rows[row * side + column], down)
    })
}

/// Noise of standard deviation 1, near enough to normal: the sum of four even draws.
fn white(seed: u64) -> f32 {
    let bits = mix(seed);
    let sum: u64 = (0..4)
        .map(|quarter| (bits >> (16 * quarter)) & 0xFFFF)
        .sum();
    // Four even draws over 0..65536 have mean 131070 and deviation 37837.
    (sum as f32 - 131_070.0) / 37_837.0
}
