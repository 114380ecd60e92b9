//! One Gaussian N(m, U Λ Uᵀ) under noise: x_t ~ N(αm, U (α²Λ + σ²) Uᵀ) and
//! E\[x_0 given x_t\] = m + U αΛ/(α²Λ + σ²) Uᵀ (x_t − αm) (the Wiener filter).

use nalgebra::{DMatrix, SymmetricEigen};

use super::table;
use crate::{Dual, Error, Kernel, Levels, Result, ensure, rows};

/// A Gaussian with its covariance in its own axes.
#[derive(Debug, Clone)]
pub(super) struct Component {
    pub(super) mean: Vec<f64>,
    /// Λ: the variance along each axis.
    pub(super) variances: Vec<f64>,
    /// U, axes in columns; `None` when they are the coordinates.
    axes: Option<DMatrix<f64>>,
}

impl Component {
    pub(super) fn isotropic(mean: Vec<f64>, std: f64) -> Result<Self> {
        ensure!(std >= 0.0 && std.is_finite(), "a standard deviation is {std}, it must be at least 0");
        check_mean(&mean)?;
        Ok(Self { variances: vec![std * std; mean.len()], mean, axes: None })
    }

    pub(super) fn full(mean: Vec<f64>, covariance: &[Vec<f64>]) -> Result<Self> {
        check_mean(&mean)?;
        let dim = mean.len();
        ensure!(
            covariance.len() == dim && covariance.iter().all(|row| row.len() == dim),
            "a covariance is not {dim} x {dim}, the size its mean asks for"
        );
        let matrix = DMatrix::from_fn(dim, dim, |i, j| covariance[i][j]);
        let scale = matrix.amax();
        ensure!(matrix.iter().all(|v| v.is_finite()), "a covariance has an entry that is not a finite number");
        ensure!((&matrix - matrix.transpose()).amax() <= 1e-9 * scale, "a covariance is not symmetric");
        let eigen = SymmetricEigen::try_new(matrix, f64::EPSILON, 0)
            .ok_or_else(|| Error::new("a covariance has no eigendecomposition: check its entries"))?;
        ensure!(
            eigen.eigenvalues.iter().all(|&value| value >= -1e-9 * scale),
            "a covariance has a negative eigenvalue, so it is the covariance of nothing"
        );
        // Rounding can leave a tiny negative where the variance is 0.
        let variances = eigen.eigenvalues.iter().map(|value| value.max(0.0)).collect();
        Ok(Self { mean, variances, axes: Some(eigen.eigenvectors) })
    }

    pub(super) fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Uᵀ(x − αm).
    fn in_axes(&self, x: &[f64], alpha: f64) -> Vec<f64> {
        let centered: Vec<f64> = x.iter().zip(&self.mean).map(|(x, m)| x - alpha * m).collect();
        match &self.axes {
            None => centered,
            Some(axes) => (0..self.dim()).map(|j| (0..self.dim()).map(|i| axes[(i, j)] * centered[i]).sum()).collect(),
        }
    }

    /// Adds `weight · (m + U z)` to `out`.
    fn add_from_axes(&self, z: &[f64], weight: f64, out: &mut [f64]) {
        for (i, out) in out.iter_mut().enumerate() {
            let moved = match &self.axes {
                None => z[i],
                Some(axes) => z.iter().enumerate().map(|(j, z)| axes[(i, j)] * z).sum(),
            };
            *out += weight * (self.mean[i] + moved);
        }
    }

    /// ln N(x; αm, α²Σ + σ²).
    pub(super) fn log_density(&self, x: &[f64], at: &Kernel) -> f64 {
        self.in_axes(x, at.alpha)
            .iter()
            .zip(&self.variances)
            .map(|(z, variance)| {
                let total = total(at, *variance);
                -0.5 * (z * z / total + (std::f64::consts::TAU * total).ln())
            })
            .sum()
    }

    /// Uᵀ(x − αm) of rows `x` `[rows, dim]`.
    pub(super) fn axes_of(&self, x: Dual<2>, at: Levels) -> Dual<2> {
        let offset = table(at, &self.mean, |at, mean| at.alpha * mean, &x.value);
        let centered = x.shift(|x| x - offset);
        match &self.axes {
            None => centered,
            Some(axes) => {
                // Column-major memory read in row order is the transpose.
                let axes = rows::matrix(axes.transpose().as_slice().to_vec(), self.dim(), &centered.value);
                centered.linear(|x| x.matmul(axes.clone()))
            }
        }
    }

    /// ln N(x; αm, α²Σ + σ²) `[rows, 1]` from the rows in its axes.
    pub(super) fn log_densities(&self, in_axes: Dual<2>, at: Levels) -> Dual<2> {
        let like = in_axes.value.clone();
        let of = |f: &dyn Fn(f64) -> f64| table(at, &self.variances, |at, variance| f(total(at, variance)), &like);
        let precision = Dual::from(of(&|total| -0.5 / total).expand(like.dims()));
        let constant = of(&|total| -0.5 * (std::f64::consts::TAU * total).ln()).sum_dim(1);
        (in_axes.clone() * in_axes * precision).linear(|x| x.sum_dim(1)).shift(|x| x + constant)
    }

    /// E\[x_0 given x, this component\] `[rows, dim]` from the rows in its axes.
    pub(super) fn denoised(&self, in_axes: Dual<2>, at: Levels) -> Dual<2> {
        let like = in_axes.value.clone();
        let gain = table(at, &self.variances, |at, variance| at.alpha * variance / total(at, variance), &like);
        let filtered = in_axes.linear(|x| x * gain.clone());
        let moved = match &self.axes {
            None => filtered,
            Some(axes) => {
                let back = rows::matrix(axes.as_slice().to_vec(), self.dim(), &like);
                filtered.linear(|x| x.matmul(back.clone()))
            }
        };
        let mean = rows::matrix(self.mean.clone(), self.dim(), &like);
        moved.shift(|x| x + mean)
    }

    /// m + U √Λ ε.
    pub(super) fn place(&self, eps: &[f64], out: &mut [f64]) {
        let z: Vec<f64> = eps.iter().zip(&self.variances).map(|(eps, variance)| eps * variance.sqrt()).collect();
        out.fill(0.0);
        self.add_from_axes(&z, 1.0, out);
    }

    /// Σ `[dim, dim]` in row order.
    pub(super) fn covariance(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.dim().pow(2)];
        self.add_second_moment(&self.mean, 1.0, &mut out);
        out
    }

    /// Adds `weight · (Σ + (m − center)(m − center)ᵀ)` to `out`, `[dim, dim]` in row order.
    pub(super) fn add_second_moment(&self, center: &[f64], weight: f64, out: &mut [f64]) {
        let dim = self.dim();
        for i in 0..dim {
            for j in 0..dim {
                let own = match &self.axes {
                    None if i == j => self.variances[i],
                    None => 0.0,
                    Some(axes) => (0..dim).map(|k| axes[(i, k)] * self.variances[k] * axes[(j, k)]).sum(),
                };
                out[i * dim + j] += weight * (own + (self.mean[i] - center[i]) * (self.mean[j] - center[j]));
            }
        }
    }
}

fn check_mean(mean: &[f64]) -> Result<()> {
    ensure!(!mean.is_empty(), "a mean is empty: give it one number per dimension");
    ensure!(mean.iter().all(|m| m.is_finite()), "a mean has an entry that is not a finite number");
    Ok(())
}

/// The variance of α x_0 + σ ε along an axis.
fn total(at: &Kernel, variance: f64) -> f64 {
    at.alpha.powi(2) * variance + at.sigma.powi(2)
}
