//! Winograd's transforms for 3 × 3 kernels.
//!
//! In one dimension F(m, 3) gives m outputs from n = m + 2 inputs d and three weights g as Aᵀ \[(G g) ⊙ (Bᵀ d)\]; in two
//! dimensions, the transforms go over rows and columns. The gradient of the weights is Gᵀ \[(Bᵀ d) ⊙ (A y)\] for
//! gradients y of the outputs. The matrices are those of Lavin & Gray (arXiv:1509.09308, section 4) for the points
//! 0, ±1, ∞ (m = 2) and 0, ±1, ±2, ∞ (m = 4).
//!
//! All functions here are to be called only on a processor with the instructions of `S`.

use crate::vector::{self, Simd};

/// Numbers per cache line. Positions and rows of tiles are padded by this much, because strides of a power of two would
/// map them all to a few sets of the first-level cache.
pub(super) const LINE: usize = 16;

/// Bᵀ d.
#[inline(always)]
unsafe fn input<S: Simd, const IN: usize>(d: [S::V; IN]) -> [S::V; IN] {
    let mut t = d;
    // SAFETY: the processor has the instructions of `S`.
    unsafe {
        if IN == 4 {
            t[0] = S::sub(d[0], d[2]);
            t[1] = S::add(d[1], d[2]);
            t[2] = S::sub(d[2], d[1]);
            t[3] = S::sub(d[1], d[3]);
        } else {
            let (two, four, five) = (S::splat(2.0), S::splat(4.0), S::splat(-5.0));
            let (even, odd) = (S::fma(S::splat(-4.0), d[2], d[4]), S::fma(S::splat(-4.0), d[1], d[3]));
            let (low, high) = (S::sub(d[4], d[2]), S::mul(two, S::sub(d[3], d[1])));
            t[0] = S::fma(four, d[0], S::fma(five, d[2], d[4]));
            t[1] = S::add(even, odd);
            t[2] = S::sub(even, odd);
            t[3] = S::add(low, high);
            t[4] = S::sub(low, high);
            t[5] = S::fma(four, d[1], S::fma(five, d[3], d[5]));
        }
    }
    t
}

/// Aᵀ m.
#[inline(always)]
pub(super) unsafe fn output<S: Simd, const OUT: usize, const IN: usize>(m: [S::V; IN]) -> [S::V; OUT] {
    let mut y = [m[0]; OUT];
    // SAFETY: as in `input`.
    unsafe {
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        if IN == 4 {
            y[0] = S::add(m[0], sum);
            y[1] = S::sub(difference, m[3]);
        } else {
            let (far, apart) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
            y[0] = S::add(m[0], S::add(sum, far));
            y[1] = S::fma(S::splat(2.0), apart, difference);
            y[2] = S::fma(S::splat(4.0), far, sum);
            y[3] = S::add(S::fma(S::splat(8.0), apart, difference), m[5]);
        }
    }
    y
}

/// A y, the transpose of [`output`].
#[inline(always)]
pub(super) unsafe fn output_gradient<S: Simd, const OUT: usize, const IN: usize>(y: [S::V; OUT]) -> [S::V; IN] {
    let mut m = [y[0]; IN];
    // SAFETY: as in `input`.
    unsafe {
        if IN == 4 {
            m[1] = S::add(y[0], y[1]);
            m[2] = S::sub(y[0], y[1]);
            m[3] = S::sub(S::splat(0.0), y[1]);
        } else {
            let (even, odd) = (S::add(y[0], y[2]), S::add(y[1], y[3]));
            m[1] = S::add(even, odd);
            m[2] = S::sub(even, odd);
            let (even, odd) = (S::fma(S::splat(4.0), y[2], y[0]), S::fma(S::splat(8.0), y[3], S::add(y[1], y[1])));
            m[3] = S::add(even, odd);
            m[4] = S::sub(even, odd);
            m[5] = y[3];
        }
    }
    m
}

/// G g.
#[inline(always)]
unsafe fn weight<S: Simd, const IN: usize>(g: [S::V; 3]) -> [S::V; IN] {
    let mut u = [g[0]; IN];
    // SAFETY: as in `input`.
    unsafe {
        let ends = S::add(g[0], g[2]);
        if IN == 4 {
            let half = S::splat(0.5);
            u[1] = S::mul(half, S::add(ends, g[1]));
            u[2] = S::mul(half, S::sub(ends, g[1]));
            u[3] = g[2];
        } else {
            let sixth = S::splat(-1.0 / 6.0);
            u[0] = S::mul(S::splat(0.25), g[0]);
            u[1] = S::mul(sixth, S::add(ends, g[1]));
            u[2] = S::mul(sixth, S::sub(ends, g[1]));
            let even = S::fma(S::splat(1.0 / 24.0), g[0], S::mul(S::splat(1.0 / 6.0), g[2]));
            let odd = S::mul(S::splat(1.0 / 12.0), g[1]);
            u[3] = S::add(even, odd);
            u[4] = S::sub(even, odd);
            u[5] = g[2];
        }
    }
    u
}

/// Gᵀ u, the transpose of [`weight`].
#[inline(always)]
unsafe fn weight_gradient<S: Simd, const IN: usize>(u: [S::V; IN]) -> [S::V; 3] {
    // SAFETY: as in `input`.
    unsafe {
        let (sum, difference) = (S::add(u[1], u[2]), S::sub(u[1], u[2]));
        if IN == 4 {
            let half = S::splat(0.5);
            [S::fma(half, sum, u[0]), S::mul(half, difference), S::fma(half, sum, u[3])]
        } else {
            let sixth = S::splat(-1.0 / 6.0);
            let (far, apart) = (S::add(u[3], u[4]), S::sub(u[3], u[4]));
            [
                S::fma(S::splat(0.25), u[0], S::fma(sixth, sum, S::mul(S::splat(1.0 / 24.0), far))),
                S::fma(sixth, difference, S::mul(S::splat(1.0 / 12.0), apart)),
                S::fma(sixth, sum, S::fma(S::splat(1.0 / 6.0), far, u[5])),
            ]
        }
    }
}

/// A column of a small matrix in registers.
#[inline(always)]
pub(super) fn column<V: Copy, const ROWS: usize, const COLUMNS: usize>(
    rows: &[[V; COLUMNS]; ROWS],
    j: usize,
) -> [V; ROWS] {
    std::array::from_fn(|i| rows[i][j])
}

/// Transforms the rows of nine taps, each `panel` wide, and writes position i to `to(i)`.
///
/// # Safety
/// There are nine such rows, and room for one at every `to(i)`.
#[inline(always)]
pub(super) unsafe fn transform_weights<S: Simd, const IN: usize>(
    taps: &[f32],
    panel: usize,
    to: impl Fn(usize) -> *mut f32,
) {
    // SAFETY: the caller's promise; a panel is whole vectors wide.
    unsafe {
        for lane in (0..panel).step_by(S::LANES) {
            let mut rows = [[S::splat(0.0); IN]; 3];
            for (u, row) in rows.iter_mut().enumerate() {
                let tap = |v: usize| S::load(taps.as_ptr().add((3 * u + v) * panel + lane));
                *row = weight::<S, IN>([tap(0), tap(1), tap(2)]);
            }
            for j in 0..IN {
                for (i, value) in weight::<S, IN>(column(&rows, j)).into_iter().enumerate() {
                    S::store(to(i * IN + j).add(lane), value);
                }
            }
        }
    }
}

/// Transforms IN × IN pixels of `count` channels at `from`, with `row` numbers from one row to the next, and writes
/// position i to `to` + i · `step`.
///
/// # Safety
/// The pixels can be read, and all positions written.
#[inline(always)]
pub(super) unsafe fn transform_input<S: Simd, const IN: usize>(
    from: *const f32,
    row: usize,
    count: usize,
    to: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut c = 0;
        while c < count {
            let left = count - c;
            let mut rows = [[S::splat(0.0); IN]; IN];
            for (i, line) in rows.iter_mut().enumerate() {
                let mut d = [S::splat(0.0); IN];
                for (j, d) in d.iter_mut().enumerate() {
                    *d = vector::load::<S>(from.add(i * row + j * count + c), left);
                }
                *line = input::<S, IN>(d);
            }
            for j in 0..IN {
                for (i, value) in input::<S, IN>(column(&rows, j)).into_iter().enumerate() {
                    vector::store::<S>(to.add((i * IN + j) * step + c), value, left);
                }
            }
            c += S::LANES;
        }
    }
}

/// Transforms `sum(i)` of all positions i back to the gradients of the nine weights, and hands each to `put`.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn transform_sums<S: Simd, const IN: usize>(sum: impl Fn(usize) -> S::V, put: impl Fn(usize, S::V)) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [[S::splat(0.0); 3]; IN];
        for (i, row) in rows.iter_mut().enumerate() {
            let mut values = [S::splat(0.0); IN];
            for (j, value) in values.iter_mut().enumerate() {
                *value = sum(i * IN + j);
            }
            *row = weight_gradient::<S, IN>(values);
        }
        for v in 0..3 {
            for (u, value) in weight_gradient::<S, IN>(column(&rows, v)).into_iter().enumerate() {
                put(3 * u + v, value);
            }
        }
    }
}
