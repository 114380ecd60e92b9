//! Linear algebra in double precision.
//!
//! Where work is shared between threads it is cut by a constant, not by how many threads there are, so that sums have one order.

use faer::{
    Accum, Mat, MatMut, MatRef, Par,
    diag::{Diag, DiagMut},
    dyn_stack::{MemBuffer, MemStack},
    linalg::{
        cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch},
        evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch},
        matmul::{
            matmul,
            triangular::{self, BlockStructure},
        },
        svd::{ComputeSvdVectors, svd, svd_scratch},
    },
};
use stein_base::{Error, Kind, Result};

/// How work on one large matrix is cut: the number is a part of the result, in its last bits.
fn cut() -> Par {
    Par::rayon(16)
}

fn stack(scratch: faer::dyn_stack::StackReq) -> MemBuffer {
    MemBuffer::new(scratch)
}

fn failed(what: &str) -> Error {
    Error::of(Kind::NotFinite, format!("{what} did not converge: the values are too large or too small to be squared"))
}

/// Adds Xᵀ X of rows `x` `[n, dim]` to the lower triangle of `to`.
pub(crate) fn add_gram(x: &[f64], to: MatMut<f64>) {
    let dim = to.nrows();
    // Rows in row order are the columns of the transpose.
    let x = MatRef::from_column_major_slice(x, dim, x.len() / dim);
    let (whole, lower) = (BlockStructure::Rectangular, BlockStructure::TriangularLower);
    triangular::matmul(to, lower, Accum::Add, x, whole, x.transpose(), whole, 1.0, cut());
}

/// A B.
pub(crate) fn product(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut to = Mat::zeros(a.nrows(), b.ncols());
    matmul(to.as_mut(), Accum::Replace, a, b, 1.0, cut());
    to
}

/// F S Fᵀ of a symmetric S: the lower triangle.
pub(crate) fn congruence(factor: MatRef<f64>, symmetric: MatRef<f64>) -> Mat<f64> {
    let half = product(factor, symmetric);
    let mut to = Mat::zeros(factor.nrows(), factor.nrows());
    let (whole, lower) = (BlockStructure::Rectangular, BlockStructure::TriangularLower);
    triangular::matmul(to.as_mut(), lower, Accum::Replace, half.as_ref(), whole, factor.transpose(), whole, 1.0, cut());
    to
}

/// The upper triangular F with Fᵀ F = S by Cholesky; `None` if S is not positive definite.
fn cholesky(symmetric: MatRef<f64>) -> Option<Mat<f64>> {
    let dim = symmetric.nrows();
    let mut lower = symmetric.to_owned();
    let mut memory = stack(cholesky_in_place_scratch::<f64>(dim, cut(), Default::default()));
    let memory = MemStack::new(&mut memory);
    cholesky_in_place(lower.as_mut(), LltRegularization::default(), cut(), memory, Default::default()).ok()?;
    Some(Mat::from_fn(dim, dim, |i, j| if j >= i { lower[(j, i)] } else { 0.0 }))
}

/// Some F `[rank, dim]` with Fᵀ F = S, of a symmetric S without negative eigenvalues.
///
/// # Errors
/// Values that overflow.
pub(crate) fn factor(symmetric: MatRef<f64>) -> Result<Mat<f64>> {
    if let Some(factor) = cholesky(symmetric) {
        return Ok(factor);
    }
    // Eigenvalues of rounding size belong to directions in which nothing varies.
    let (values, vectors) = eigen(symmetric)?;
    let largest = values.last().copied().unwrap_or_default();
    let smallest = largest * f64::EPSILON * values.len() as f64;
    let kept: Vec<usize> = (0..values.len()).filter(|&i| values[i] > smallest).collect();
    Ok(Mat::from_fn(kept.len(), values.len(), |i, j| values[kept[i]].sqrt() * vectors[(j, kept[i])]))
}

/// The eigenvalues of a symmetric matrix of which the lower triangle is given, in rising order.
///
/// # Errors
/// Values that overflow.
pub(crate) fn eigenvalues(symmetric: MatRef<f64>) -> Result<Vec<f64>> {
    let mut values = Diag::zeros(symmetric.nrows());
    evd(symmetric, values.as_mut(), None)?;
    Ok(values.column_vector().iter().copied().collect())
}

/// The same with the eigenvectors, the columns of a matrix.
///
/// # Errors
/// Values that overflow.
pub(crate) fn eigen(symmetric: MatRef<f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let dim = symmetric.nrows();
    let (mut values, mut vectors) = (Diag::zeros(dim), Mat::zeros(dim, dim));
    evd(symmetric, values.as_mut(), Some(vectors.as_mut()))?;
    Ok((values.column_vector().iter().copied().collect(), vectors))
}

fn evd(symmetric: MatRef<f64>, values: DiagMut<f64>, vectors: Option<MatMut<f64>>) -> Result<()> {
    let wanted = if vectors.is_some() { ComputeEigenvectors::Yes } else { ComputeEigenvectors::No };
    let mut memory = stack(self_adjoint_evd_scratch::<f64>(symmetric.nrows(), wanted, cut(), Default::default()));
    self_adjoint_evd(symmetric, values, vectors, cut(), MemStack::new(&mut memory), Default::default())
        .map_err(|_| failed("the eigenvalues of a covariance"))
}

/// The sum of the singular values of a matrix.
///
/// # Errors
/// Values that overflow.
pub(crate) fn nuclear_norm(matrix: MatRef<f64>) -> Result<f64> {
    let (rows, columns) = matrix.shape();
    let mut values = Diag::zeros(rows.min(columns));
    let none = ComputeSvdVectors::No;
    let mut memory = stack(svd_scratch::<f64>(rows, columns, none, none, cut(), Default::default()));
    svd(matrix, values.as_mut(), None, None, cut(), MemStack::new(&mut memory), Default::default())
        .map_err(|_| failed("the singular values of a product of covariances"))?;
    Ok(values.column_vector().iter().sum())
}
