//! The number tables of the models: logistic scale, survival functions, rates.
//!
//! In: nothing. Out: tables that are the same on every machine.
//! Invariant: made with `+ - * /` in a pinned order only, so that no mathematics library has a say.
//! May not: change once files of this format version exist.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "every value is in range by construction"
)]

use std::sync::LazyLock;

/// How far logits reach, in 1/256.
pub(super) const LOGIT_MAX: i32 = 3071;
/// How many steps of the survival tables make one scale.
pub(super) const STEPS: f32 = 64.0;
/// How many scales the survival tables reach on either side.
const REACH: f32 = 24.0;
const REACH_STEPS: i32 = 24 * 64;

/// Probabilities are in 1/65,536, logits in 1/256.
pub(super) struct Tables {
    /// Logit of a probability in 1/4,096.
    logit: Vec<i16>,
    /// Probability of a logit.
    probability: Vec<u16>,
    /// How likely a logistic variable of scale 1 lies above a point.
    logistic: Vec<f32>,
    /// How likely a normal variable of deviation 1 lies above a point.
    normal: Vec<f32>,
    /// What a counter that has seen so many events moves by, in 1/65,536.
    rate: [i32; 256],
}

/// The tables, made on first use.
pub(super) static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

impl Tables {
    fn new() -> Self {
        let logit = (0..4096)
            .map(|i| {
                let p = (f64::from(i) + 0.5) / 4096.0;
                (ln(p / (1.0 - p)) * 256.0) as i16
            })
            .collect();
        let probability = (-3072..3072)
            .map(|x| {
                let p = 1.0 / (1.0 + exp(-f64::from(x) / 256.0));
                ((p * 65536.0) as i32).clamp(16, 65520) as u16
            })
            .collect();
        let points = || (0..2 * 1536 + 2_i32).map(|i| f64::from(i - 1536) / 64.0);
        let logistic = points()
            .map(|z| (1.0 / (1.0 + exp(z)) + 1e-9) as f32)
            .collect();
        let mut below = Vec::new();
        let mut sum = 0.0;
        for z in points() {
            below.push(sum);
            let middle = z + 0.5 / 64.0;
            sum += exp(-(middle * middle) / 2.0);
        }
        let normal = below
            .into_iter()
            .map(|part| (1.0 - part / sum + 2e-6) as f32)
            .collect();
        let rate = std::array::from_fn(|n| (65536.0 / (n as f64 + 1.6)) as i32);
        Self {
            logit,
            probability,
            logistic,
            normal,
            rate,
        }
    }

    /// The logit of a probability in 1/65,536.
    #[inline(always)]
    pub(super) fn logit(&self, p: u16) -> i32 {
        i32::from(self.logit[usize::from(p >> 4)])
    }

    /// The logit of a probability from 0 to 1.
    #[inline(always)]
    pub(super) fn logit_of(&self, p: f32) -> i32 {
        i32::from(self.logit[((p * 4096.0) as i32).clamp(0, 4095) as usize])
    }

    /// The probability of a logit.
    #[inline(always)]
    pub(super) fn probability(&self, logit: i32) -> i32 {
        let at = logit.clamp(-LOGIT_MAX, LOGIT_MAX) + 3072;
        i32::from(self.probability[at as usize])
    }

    /// The survival of a logistic variable at `z` scales.
    #[inline(always)]
    pub(super) fn logistic(&self, z: f32) -> f32 {
        self.logistic[place(z)]
    }

    /// The survival of a normal variable at `z` deviations.
    #[inline(always)]
    pub(super) fn normal(&self, z: f32) -> f32 {
        self.normal[place(z)]
    }

    /// A counter's rate after `n` events.
    #[inline(always)]
    pub(super) fn rate(&self, n: u8) -> i32 {
        self.rate[usize::from(n)]
    }
}

#[inline(always)]
fn place(z: f32) -> usize {
    // To i32 is the cheaper way by far.
    (((z + REACH) * STEPS) as i32).clamp(0, 2 * REACH_STEPS) as usize
}

/// e to the power of `x`, from its series.
fn exp(x: f64) -> f64 {
    let parts = x.abs() as i32 + 1;
    let y = x / f64::from(parts) / 16.0;
    let (mut term, mut sum) = (1.0, 1.0);
    for i in 1..14 {
        term *= y / f64::from(i);
        sum += term;
    }
    for _ in 0..4 {
        sum *= sum;
    }
    (0..parts).fold(1.0, |product, _| product * sum)
}

/// The natural logarithm of `x` > 0, from its series.
fn ln(x: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let (mut mantissa, mut exponent) = (x, 0.0);
    while mantissa > 1.5 {
        mantissa /= 2.0;
        exponent += 1.0;
    }
    while mantissa < 0.75 {
        mantissa *= 2.0;
        exponent -= 1.0;
    }
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let (mut power, mut sum) = (z, 0.0);
    for i in 0..40 {
        sum += power / f64::from(2 * i + 1);
        power *= z * z;
    }
    2.0 * sum + exponent * LN_2
}

/// A probability that adapts: fast at first, slower with each event.
#[derive(Clone, Copy)]
pub(super) struct Counter {
    /// In 1/65,536.
    pub(super) p: u16,
    events: u8,
}

impl Counter {
    pub(super) const HALF: Self = Self::at(32768);

    pub(super) const fn at(p: u16) -> Self {
        Self { p, events: 0 }
    }

    /// The probability, within what the range coder takes.
    #[inline(always)]
    pub(super) fn bounded(self) -> u32 {
        u32::from(self.p).clamp(24, 65512)
    }

    #[inline(always)]
    pub(super) fn learn(&mut self, tables: &Tables, bit: bool, events_max: u8) {
        let target = if bit { 65535 } else { 0 };
        let p = i32::from(self.p);
        let step = ((target - p) * (tables.rate(self.events) >> 4)) >> 12;
        // Between p and the target, as the rate is under 1.
        self.p = (p + step) as u16;
        self.events += u8::from(self.events < events_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_agree_with_the_library() {
        for i in -200..=200 {
            let x = f64::from(i) / 10.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-12, "{x}");
            assert!((ln(x.exp()) - x).abs() < 1e-12, "{x}");
        }
    }

    #[test]
    fn a_counter_stays_in_range_and_learns() {
        let mut counter = Counter::HALF;
        for _ in 0..5000 {
            counter.learn(&TABLES, true, 255);
        }
        assert!(counter.p > 65000);
        for _ in 0..5000 {
            counter.learn(&TABLES, false, 255);
        }
        assert!(counter.p < 500);
    }

    #[test]
    fn the_survival_functions_fall() {
        for i in -3000..3000_i16 {
            let z = f32::from(i) / 100.0;
            assert!(TABLES.logistic(z) >= TABLES.logistic(z + 0.01));
            assert!(TABLES.normal(z) >= TABLES.normal(z + 0.01));
        }
        assert!((TABLES.logistic(0.0) - 0.5).abs() < 1e-3);
        assert!((TABLES.normal(0.0) - 0.5).abs() < 1e-2);
    }
}
