//! Least squares: sums of products, and the weights that follow from them.
//!
//! In: neighbourhoods with the pixel they belong to. Out: weights.
//! Invariant: f32 with `+ - * /` in the order written here, four lanes at a time, so that every
//! machine computes the same.
//! May not: use a fused or reordered operation; change once files of this format version exist.

/// Four lanes.
pub(super) type Quad = [f32; 4];

/// A neighbourhood of `Q - 1` quads; the last quad holds the pixel itself and three zeros.
pub(super) type Taps<const Q: usize> = [Quad; Q];

/// The upper triangle of the sums of products of `K = 4 * (Q - 1)` taps and the pixel, by quads.
pub(super) type Sums<const K: usize, const Q: usize> = [[Quad; Q]; K];

#[inline(always)]
pub(super) fn scaled(a: Quad, s: f32) -> Quad {
    [a[0] * s, a[1] * s, a[2] * s, a[3] * s]
}

#[inline(always)]
fn product(a: Quad, b: Quad) -> Quad {
    [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
}

#[inline(always)]
pub(super) fn sum(a: Quad, b: Quad) -> Quad {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
}

/// The weighted sum of a neighbourhood.
#[inline(always)]
pub(super) fn dot(weights: &[Quad], taps: &[Quad]) -> f32 {
    let (mut a, mut b) = ([0.0; 4], [0.0; 4]);
    let (weights, last_weights) = weights.as_chunks::<2>();
    let (taps, last_taps) = taps.as_chunks::<2>();
    for (w, t) in weights.iter().zip(taps) {
        a = sum(a, product(w[0], t[0]));
        b = sum(b, product(w[1], t[1]));
    }
    if let ([w], [t]) = (last_weights, last_taps) {
        a = sum(a, product(*w, *t));
    }
    let c = sum(a, b);
    (c[0] + c[1]) + (c[2] + c[3])
}

/// Adds one neighbourhood to the sums.
#[inline(always)]
pub(super) fn add<const K: usize, const Q: usize>(
    sums: &mut Sums<K, Q>,
    taps: &Taps<Q>,
    weight: f32,
) {
    let (rows, _) = sums.as_chunks_mut::<4>();
    for (q, [r0, r1, r2, r3]) in rows.iter_mut().enumerate() {
        let [s0, s1, s2, s3] = scaled(taps[q], weight);
        for g in q..Q {
            let t = taps[g];
            r0[g] = sum(r0[g], scaled(t, s0));
            r1[g] = sum(r1[g], scaled(t, s1));
            r2[g] = sum(r2[g], scaled(t, s2));
            r3[g] = sum(r3[g], scaled(t, s3));
        }
    }
}

/// Neighbourhoods that wait to be added to the sums together: the sums are then read and written
/// once for all of them. What comes out is what [`add`] would have made of each in turn.
pub(super) struct Lessons<const Q: usize, const N: usize> {
    taps: [Taps<Q>; N],
    /// 0 from `count` on: those are added too, and change nothing.
    weights: [f32; N],
    count: usize,
}

impl<const Q: usize, const N: usize> Lessons<Q, N> {
    pub(super) fn new() -> Self {
        Self {
            taps: [[[0.0; 4]; Q]; N],
            weights: [0.0; N],
            count: 0,
        }
    }

    /// Takes one of at most `N` in.
    #[inline(always)]
    pub(super) fn note(&mut self, taps: &Taps<Q>, weight: f32) {
        self.taps[self.count] = *taps;
        self.weights[self.count] = weight;
        self.count += 1;
    }

    /// Adds them to the sums, and is empty again; false if it was before.
    pub(super) fn add_to<const K: usize>(&mut self, sums: &mut Sums<K, Q>) -> bool {
        if self.count == 0 {
            return false;
        }
        let (rows, _) = sums.as_chunks_mut::<4>();
        for (q, [r0, r1, r2, r3]) in rows.iter_mut().enumerate() {
            let shares: [[Quad; 4]; N] = std::array::from_fn(|n| {
                scaled(self.taps[n][q], self.weights[n]).map(|lane| [lane; 4])
            });
            for g in q..Q {
                let (mut a, mut b, mut c, mut d) = (r0[g], r1[g], r2[g], r3[g]);
                for (taps, [s0, s1, s2, s3]) in self.taps.iter().zip(&shares) {
                    let t = taps[g];
                    a = sum(a, product(t, *s0));
                    b = sum(b, product(t, *s1));
                    c = sum(c, product(t, *s2));
                    d = sum(d, product(t, *s3));
                }
                (r0[g], r1[g], r2[g], r3[g]) = (a, b, c, d);
            }
        }
        self.weights = [0.0; N];
        self.count = 0;
        true
    }
}

/// Lets old sums fade and adds new ones.
pub(super) fn fade<const K: usize, const Q: usize>(
    sums: &mut Sums<K, Q>,
    keep: f32,
    new: Option<&Sums<K, Q>>,
) {
    for (i, row) in sums.iter_mut().enumerate() {
        for (q, cell) in row.iter_mut().enumerate().skip(i / 4) {
            *cell = scaled(*cell, keep);
            if let Some(new) = new {
                *cell = sum(*cell, new[i][q]);
            }
        }
    }
}

/// The sums of some blocks, each with its weight.
pub(super) fn joined<const K: usize, const Q: usize>(
    blocks: &[Sums<K, Q>],
    at: usize,
    weights: &[f32],
    out: &mut Sums<K, Q>,
) {
    let last = blocks.len() - 1;
    for (i, row) in out.iter_mut().enumerate() {
        for (q, cell) in row.iter_mut().enumerate().skip(i / 4) {
            *cell = blocks[at][i][q];
            for (distance, weight) in (1..).zip(weights) {
                let (left, right) = (at.saturating_sub(distance), (at + distance).min(last));
                let both = sum(blocks[left][i][q], blocks[right][i][q]);
                *cell = sum(*cell, scaled(both, *weight));
            }
        }
    }
}

/// Solves for the weights, of nested models at once: `quads[n]` of the first quads go into
/// `out[n]`. Leaves `out` as it is where the sums are too thin. Destroys the sums.
pub(super) fn solve<const K: usize, const Q: usize>(
    sums: &mut Sums<K, Q>,
    ridge: f32,
    quads: &[usize],
    out: &mut [Taps<Q>],
) {
    let mut trace = 0.0;
    for (i, row) in sums.iter().enumerate() {
        trace += row[i / 4][i % 4];
    }
    let lift = ridge * (trace / K as f32) + 1e-3;
    for (i, row) in sums.iter_mut().enumerate() {
        row[i / 4][i % 4] += lift;
    }
    let mut inverse = [0.0; K];
    if !eliminate(sums, &mut inverse) {
        return;
    }
    for (&n, weights) in quads.iter().zip(out) {
        *weights = [[0.0; 4]; Q];
        for i in (0..4 * n).rev() {
            let q = i / 4;
            // The weights of this tap and those before it in its quad are still 0.
            let rest = dot(&sums[i][q..n], &weights[q..n]);
            weights[q][i % 4] = (sums[i][Q - 1][0] - rest) * inverse[i];
        }
    }
}

/// Gaussian elimination, four pivots at a time; false if a pivot is too small.
fn eliminate<const K: usize, const Q: usize>(
    sums: &mut Sums<K, Q>,
    inverse: &mut [f32; K],
) -> bool {
    let mut rest = sums.as_chunks_mut::<4>().0;
    for (q, inverse) in inverse.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let Some((pivots, below)) = rest.split_first_mut() else {
            break;
        };
        for j in 0..4 {
            let row = pivots[j];
            let pivot = row[q][j];
            // Not a number is not above either.
            if !matches!(pivot.partial_cmp(&1e-6), Some(std::cmp::Ordering::Greater)) {
                return false;
            }
            inverse[j] = 1.0 / pivot;
            for i in j + 1..4 {
                let s = -(row[q][i] * inverse[j]);
                for (cell, p) in pivots[i][q..].iter_mut().zip(&row[q..]) {
                    *cell = sum(*cell, scaled(*p, s));
                }
            }
        }
        for (rows, c) in below.iter_mut().zip(q + 1..) {
            subtract(rows, pivots, inverse, c);
        }
        rest = below;
    }
    true
}

/// Takes four pivots' share off four rows, from their own quad on.
#[inline(always)]
fn subtract<const Q: usize>(
    rows: &mut [[Quad; Q]; 4],
    pivots: &[[Quad; Q]; 4],
    inverse: &[f32; 4],
    from: usize,
) {
    let [p0, p1, p2, p3] = pivots;
    // Each share four times over, ready to be multiplied with four numbers.
    let share = |l: usize| -> [Quad; 4] {
        std::array::from_fn(|j| [-(pivots[j][from][l] * inverse[j]); 4])
    };
    let shares = [share(0), share(1), share(2), share(3)];
    let [r0, r1, r2, r3] = rows;
    for g in from..Q {
        let (a, b, c, d) = (p0[g], p1[g], p2[g], p3[g]);
        let less = |cell: Quad, [sa, sb, sc, sd]: &[Quad; 4]| {
            let ab = sum(product(a, *sa), product(b, *sb));
            let cd = sum(product(c, *sc), product(d, *sd));
            sum(cell, sum(ab, cd))
        };
        r0[g] = less(r0[g], &shares[0]);
        r1[g] = less(r1[g], &shares[1]);
        r2[g] = less(r2[g], &shares[2]);
        r3[g] = less(r3[g], &shares[3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_of_a_known_rule_are_found() {
        let mut seed = 1_u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u8::try_from(seed >> 24).unwrap()) - 128.0
        };
        let mut sums: Sums<8, 3> = [[[0.0; 4]; 3]; 8];
        for _ in 0..500 {
            let mut taps = [[0.0; 4]; 3];
            taps[..2].fill_with(|| [next(), next(), next(), next()]);
            taps[2][0] = 0.5 * taps[0][0] - 0.25 * taps[0][3] + 0.75 * taps[1][2];
            add(&mut sums, &taps, 0.01);
        }
        let mut weights = [[[0.0; 4]; 3]; 2];
        solve(&mut sums, 1e-7, &[1, 2], &mut weights);
        let expected = [0.5, 0.0, 0.0, -0.25, 0.0, 0.0, 0.75, 0.0];
        for (i, e) in expected.into_iter().enumerate() {
            assert!((weights[1][i / 4][i % 4] - e).abs() < 1e-3);
            assert!(i >= 4 || (weights[0][0][i] - e).abs() < 0.2);
        }
        // Nothing known, nothing changed.
        let before = weights;
        solve(&mut [[[f32::NAN; 4]; 3]; 8], 1e-7, &[1, 2], &mut weights);
        assert_eq!(weights, before);
    }
}
