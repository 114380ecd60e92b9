//! Matrices of linear layers, in f64 on the host: factors, inverse, determinant. They are small, one number of a row or channel a side.

use burn::tensor::Tensor;
use stein::{Error, Result, rows};

/// P L U = A by partial pivoting, of a square matrix in row order.
pub(super) struct Factors {
    /// Row i of L U is row `order[i]` of A.
    pub(super) order: Vec<usize>,
    /// L below the diagonal, whose own is ones, and U.
    pub(super) both: Vec<f64>,
}

impl Factors {
    /// None for a matrix that is singular or not finite.
    pub(super) fn of(matrix: Vec<f64>, size: usize) -> Option<Self> {
        let (mut order, mut both): (Vec<usize>, _) = ((0..size).collect(), matrix);
        for column in 0..size {
            let size_at = |row: &usize| both[row * size + column].abs();
            let pivot = (column..size).max_by(|a, b| size_at(a).total_cmp(&size_at(b)))?;
            if !(size_at(&pivot) > 0.0 && size_at(&pivot).is_finite()) {
                return None;
            }
            order.swap(column, pivot);
            (0..size).for_each(|k| both.swap(column * size + k, pivot * size + k));
            let (above, below) = both.split_at_mut((column + 1) * size);
            let above = &above[column * size..];
            for row in below.chunks_exact_mut(size) {
                row[column] /= above[column];
                let factor = row[column];
                row[column + 1..].iter_mut().zip(&above[column + 1..]).for_each(|(x, above)| *x -= factor * above);
            }
        }
        Some(Self { order, both })
    }

    /// The diagonal of U.
    pub(super) fn diagonal(&self) -> impl Iterator<Item = f64> {
        self.both.iter().step_by(self.order.len() + 1).copied()
    }

    /// A⁻¹ in row order.
    fn inverse(&self) -> Vec<f64> {
        let size = self.order.len();
        let mut inverse = vec![0.0; size * size];
        self.order.iter().enumerate().for_each(|(row, &from)| inverse[row * size + from] = 1.0);
        // Row `to` less a multiple of row `from`.
        let subtract = |inverse: &mut [f64], to: usize, from: usize| {
            let factor = self.both[to * size + from];
            for k in 0..size {
                inverse[to * size + k] -= factor * inverse[from * size + k];
            }
        };
        for row in 0..size {
            (0..row).for_each(|above| subtract(&mut inverse, row, above));
        }
        for row in (0..size).rev() {
            (row + 1..size).for_each(|below| subtract(&mut inverse, row, below));
            let pivot = self.both[row * size + row];
            inverse[row * size..][..size].iter_mut().for_each(|x| *x /= pivot);
        }
        inverse
    }
}

/// A⁻¹ and ln|det A| of a square matrix, as constants.
pub(super) fn inverse(matrix: &Tensor<2>) -> Result<(Tensor<2>, f64)> {
    let size = matrix.dims()[0];
    let factors = Factors::of(rows::host(matrix), size).ok_or_else(|| {
        Error::of(
            stein::Kind::NotFinite,
            "a linear layer of a flow has become singular, and has no inverse: train it with a smaller rate",
        )
    })?;
    let log_det = factors.diagonal().map(|pivot| pivot.abs().ln()).sum();
    Ok((rows::matrix(factors.inverse(), size, &matrix.clone().detach()), log_det))
}

/// L (U + diag d) of the numbers below and above the diagonals of two matrices, L having ones on its own.
pub(super) fn product(lower: Tensor<2>, upper: Tensor<2>, diagonal: Tensor<1>) -> Tensor<2> {
    let size = diagonal.dims()[0];
    let one = Tensor::<2>::eye(size, &lower.device()).cast(lower.dtype());
    (lower.tril(-1) + one.clone()).matmul(upper.triu(1) + one * diagonal.reshape([1, size]))
}

/// A random rotation or reflection of independent normal numbers in row order: its rows made orthonormal one after the other (Gram & Schmidt).
pub(super) fn rotation(normals: &[f32], size: usize) -> Vec<f64> {
    let mut all: Vec<f64> = normals.iter().map(|&x| f64::from(x)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for at in 0..size {
        let (before, row) = all.split_at_mut(at * size);
        let row = &mut row[..size];
        for other in before.chunks_exact(size) {
            let part = dot(row, other);
            row.iter_mut().zip(other).for_each(|(x, other)| *x -= part * other);
        }
        let length = dot(row, row).sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    all
}
