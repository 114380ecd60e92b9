//! Squared Euclidean distances between the rows of two blocks, in double precision.
//!
//! In many dimensions |a − b|² = |a|² + |b|² − 2 a·b comes from a product of the blocks, which takes a fraction of the time of
//! differences. Its rounding is at most 4 dim ε (|a|² + |b|²); where the distance is too little of that sum for its digits, it is worked
//! out from the differences, so that [`margin`] is all that a distance is off, and copies are at distance 0. Rows far from the origin
//! and close to each other lose the advantage: subtract what they share first.

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};

/// Up to this many dimensions, differences are as fast as products.
pub const FEW_DIMENSIONS: usize = 16;

/// How little of |a|² + |b|² a distance may be before its digits are lost.
const CANCELED: f64 = 1e-2;

/// How far a squared distance of rows of this many values may be off, as a part of it; 0 if not at all.
pub fn margin(dim: usize) -> f64 {
    if dim > FEW_DIMENSIONS { 4.0 * dim as f64 * f64::EPSILON / CANCELED } else { 0.0 }
}

/// The squared distance of each row of `one` `[n, dim]` to each of `other` `[m, dim]`, written to `to` `[n, m]`; on this thread alone.
///
/// # Panics
/// If the sizes are others, which is the caller's broken invariant.
pub fn squared(one: &[f64], other: &[f64], dim: usize, to: &mut [f64]) {
    let columns = other.len() / dim;
    assert_eq!(to.len() * dim, one.len() * columns, "there is a place for every pair of rows");
    if dim <= FEW_DIMENSIONS {
        return differences(one, other, dim, to);
    }
    products(one, other, dim, to);
    let norms = |block: &[f64]| -> Vec<f64> {
        block.chunks_exact(dim).map(|row| row.iter().map(|value| value * value).sum()).collect()
    };
    let (one_norms, other_norms) = (norms(one), norms(other));
    for ((distances, row), norm) in to.chunks_exact_mut(columns).zip(one.chunks_exact(dim)).zip(one_norms) {
        for ((distance, other), other_norm) in distances.iter_mut().zip(other.chunks_exact(dim)).zip(&other_norms) {
            let norms = norm + other_norm;
            *distance = norms - 2.0 * *distance;
            if *distance < CANCELED * norms {
                *distance = row.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum();
            }
        }
    }
}

/// A Bᵀ of rows `a` `[n, dim]` and `b` `[m, dim]`, written to `to` `[n, m]`; on this thread alone.
///
/// # Panics
/// If the sizes are others, which is the caller's broken invariant.
pub fn products(a: &[f64], b: &[f64], dim: usize, to: &mut [f64]) {
    let (n, m) = (a.len() / dim, b.len() / dim);
    let to = MatMut::from_row_major_slice_mut(to, n, m);
    let (a, b) = (MatRef::from_row_major_slice(a, n, dim), MatRef::from_row_major_slice(b, m, dim));
    matmul(to, Accum::Replace, a, b.transpose(), 1.0, Par::Seq);
}

/// Squared distances from differences, one coordinate after the other.
fn differences(one: &[f64], other: &[f64], dim: usize, to: &mut [f64]) {
    let columns = other.len() / dim;
    let turned: Vec<f64> = (0..other.len()).map(|i| other[i % columns * dim + i / columns]).collect();
    for (row, distances) in one.chunks_exact(dim).zip(to.chunks_exact_mut(columns)) {
        distances.fill(0.0);
        for (value, column) in row.iter().zip(turned.chunks_exact(columns)) {
            distances.iter_mut().zip(column).for_each(|(sum, other)| *sum += (value - other).powi(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keys, Purpose};

    #[test]
    fn distances_are_those_of_differences() {
        for (dim, shift) in [(1, 0.0), (3, 5.0), (16, 0.0), (17, 0.0), (64, 0.0), (64, 1e4)] {
            let rows = |seed| -> Vec<f64> {
                let normal = Keys::range(seed, 0, 9).normal(Purpose::Point, 0, dim);
                normal.into_iter().map(|value| value + shift).collect()
            };
            let (one, other) = (rows(1), rows(2)[..5 * dim].to_vec());
            let mut found = vec![0.0; 9 * 5];
            squared(&one, &other, dim, &mut found);
            for (at, &found) in found.iter().enumerate() {
                let (a, b) = (&one[at / 5 * dim..][..dim], &other[at % 5 * dim..][..dim]);
                let expected: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
                // A sum of dim squares in another order is off by its own rounding at most.
                let allowed = (margin(dim) + dim as f64 * f64::EPSILON) * expected;
                assert!((found - expected).abs() <= allowed, "{dim} dimensions: {found}, {expected}");
            }
            let mut own = vec![f64::NAN; 81];
            squared(&one, &one, dim, &mut own);
            assert!((0..9).all(|i| own[i * 10] == 0.0), "copies are at distance 0");
        }
    }
}
