//! Products of the small matrices that attention is made of, and how they are packed.

use crate::{
    tile::{Before, Panel, Rows, Segment, cut, panel_width, tile, with_vectors},
    vector::{self, Simd},
};

/// A matrix product, C\[m, n\] = Σ a\[m · row + k · step\] B\[k, n\], with B in panels.
pub(super) struct Product {
    pub(super) a: *const f32,
    pub(super) row: usize,
    pub(super) step: usize,
    /// Values of m.
    pub(super) rows: usize,
    /// Values of k.
    pub(super) count: usize,
    pub(super) b: *const f32,
    pub(super) c: Rows,
}

/// Computes the products in order.
///
/// # Safety
/// A, B and C are in bounds; B has whole panels of `panel_width` of C's columns.
#[inline(always)]
pub(super) unsafe fn products<S: Simd>(all: &[Product]) {
    for one in all {
        let width = panel_width::<S>(one.c.columns);
        // SAFETY: the caller's promise.
        unsafe { with_vectors!(S, width, product(one)) };
    }
}

/// # Safety
/// As [`products`].
#[inline(always)]
unsafe fn product<S: Simd, const N: usize>(one: &Product) {
    let Product { a, row, step, rows, count, b, c } = *one;
    let panel = N * S::LANES;
    for column in (0..c.columns).step_by(panel) {
        for (from, rows) in cut(rows, S::ROWS) {
            // SAFETY: the caller's promise.
            unsafe {
                let segment = Segment { a: a.add(from * row), row, count };
                let before = match c.before {
                    Before::Scaled(factors) => Before::Scaled(factors.add(from)),
                    other => other,
                };
                let c = Rows { to: c.to.add(from * c.row + column), columns: c.columns - column, before, ..c };
                tile::<S, N, _>(rows, &[segment], step, Panel { b: b.add(column * count), stride: panel }, &c);
            }
        }
    }
}

/// The columns, rounded up to whole panels.
#[inline(always)]
pub(super) fn padded<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of(panel_width::<S>(columns))
}

/// Copies `count` rows of `columns` numbers into panels `[count, panel]`, with zeros beyond the last column.
///
/// # Safety
/// The rows, `row` numbers apart, can be read; `to` has `count` rows of [`padded`] columns.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd>(from: *const f32, row: usize, count: usize, columns: usize, to: &mut [f32]) {
    let panel = panel_width::<S>(columns);
    let mut to = to.as_mut_ptr();
    for first in (0..columns).step_by(panel) {
        for i in 0..count {
            for column in (first..first + panel).step_by(S::LANES) {
                // SAFETY: the caller's promise; nothing is read beyond the columns.
                unsafe {
                    let mut x = S::splat(0.0);
                    if column < columns {
                        x = vector::load::<S>(from.add(i * row + column), columns - column);
                    }
                    S::store(to, x);
                    to = to.add(S::LANES);
                }
            }
        }
    }
}

/// Copies `count` rows of `depth` numbers, times `factor`, into the columns of panels `[depth, panel]`, with zeros beyond
/// the last.
///
/// # Safety
/// The rows, `row` numbers apart, can be read; `to` has `depth` rows of [`padded`] columns.
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd>(
    from: *const f32,
    row: usize,
    count: usize,
    depth: usize,
    factor: f32,
    to: &mut [f32],
) {
    let panel = panel_width::<S>(count);
    for (p, to) in to.chunks_exact_mut(depth * panel).enumerate().take(count.div_ceil(panel)) {
        for column in 0..panel {
            let i = p * panel + column;
            // SAFETY: the caller's promise; row i is only read if there is one.
            unsafe {
                let to = to.as_mut_ptr().add(column);
                if i < count {
                    let from = from.add(i * row);
                    for c in 0..depth {
                        *to.add(c * panel) = factor * *from.add(c);
                    }
                } else {
                    for c in 0..depth {
                        *to.add(c * panel) = 0.0;
                    }
                }
            }
        }
    }
}
