//! One Gaussian N(m, U Λ Uᵀ) under noise: x_t ~ N(αm, U (α²Λ + σ²) Uᵀ) and
//! E\[x_0 given x_t\] = m + U αΛ/(α²Λ + σ²) Uᵀ (x_t − αm) (the Wiener filter).

use nalgebra::{DMatrix, SymmetricEigen};

use crate::{Error, Kernel, Result, ensure};

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
        let centred: Vec<f64> = x.iter().zip(&self.mean).map(|(x, m)| x - alpha * m).collect();
        match &self.axes {
            None => centred,
            Some(axes) => (0..self.dim()).map(|j| (0..self.dim()).map(|i| axes[(i, j)] * centred[i]).sum()).collect(),
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
                let total = at.alpha.powi(2) * variance + at.sigma.powi(2);
                -0.5 * (z * z / total + (std::f64::consts::TAU * total).ln())
            })
            .sum()
    }

    /// Adds `weight · E[x_0 given x, this component]` to `out`.
    pub(super) fn add_denoised(&self, x: &[f64], at: &Kernel, weight: f64, out: &mut [f64]) {
        let mut z = self.in_axes(x, at.alpha);
        for (z, variance) in z.iter_mut().zip(&self.variances) {
            *z *= at.alpha * variance / (at.alpha.powi(2) * variance + at.sigma.powi(2));
        }
        self.add_from_axes(&z, weight, out);
    }

    /// m + U √Λ ε.
    pub(super) fn place(&self, eps: &[f64], out: &mut [f64]) {
        let z: Vec<f64> = eps.iter().zip(&self.variances).map(|(eps, variance)| eps * variance.sqrt()).collect();
        out.fill(0.0);
        self.add_from_axes(&z, 1.0, out);
    }

    /// Adds `weight · (Σ + (m − centre)(m − centre)ᵀ)` to `out`, `[dim, dim]` in row order.
    pub(super) fn add_second_moment(&self, centre: &[f64], weight: f64, out: &mut [f64]) {
        let dim = self.dim();
        for i in 0..dim {
            for j in 0..dim {
                let own = match &self.axes {
                    None if i == j => self.variances[i],
                    None => 0.0,
                    Some(axes) => (0..dim).map(|k| axes[(i, k)] * self.variances[k] * axes[(j, k)]).sum(),
                };
                out[i * dim + j] += weight * (own + (self.mean[i] - centre[i]) * (self.mean[j] - centre[j]));
            }
        }
    }
}

fn check_mean(mean: &[f64]) -> Result<()> {
    ensure!(!mean.is_empty(), "a mean is empty: give it one number a dimension");
    ensure!(mean.iter().all(|m| m.is_finite()), "a mean has an entry that is not a finite number");
    Ok(())
}
