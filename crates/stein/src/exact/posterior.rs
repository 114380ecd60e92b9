//! The posterior of a mixture given a linear measurement with Gaussian noise, which is a mixture again: with S_k = A Σ_k Aᵀ + s² I and
//! K_k = Σ_k Aᵀ S_k⁻¹, component k has the mean m_k + K_k (y − A m_k), the covariance Σ_k − K_k A Σ_k and the weight
//! w_k N(y; A m_k, S_k) (Bishop 2006, "Pattern Recognition and Machine Learning", eq. 2.116–2.117).

use nalgebra::{DMatrix, DVector};

use super::{GaussianMixture, component::Component};
use crate::{Error, Result, ensure, exact::log_sum_exp};

impl GaussianMixture {
    /// p(x_0 | y) of y `[m]` = A x_0 + N(0, `std`²), with A `[m, dim]` in row order.
    ///
    /// ```
    /// use stein::exact::{Exact, GaussianMixture};
    ///
    /// // Of N(0, I), the first coordinate was measured: 1, with a variance of 1.
    /// let prior = GaussianMixture::isotropic(vec![1.0], vec![vec![0.0, 0.0]], vec![1.0])?;
    /// let posterior = prior.posterior(&[1.0, 0.0], &[1.0], 1.0)?;
    /// let mean = posterior.mean();
    /// assert!((mean[0] - 0.5).abs() < 1e-12 && mean[1].abs() < 1e-12);
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// Sizes that do not fit, and a measurement without noise of what the prior already knows.
    pub fn posterior(&self, a: &[f64], y: &[f64], std: f64) -> Result<Self> {
        let (n, m) = (self.components[0].dim(), y.len());
        ensure!(
            m > 0 && a.len() == m * n,
            "{} numbers are no matrix of {m} rows, one per measurement, and {n} columns",
            a.len()
        );
        let (a, y) = (DMatrix::from_row_slice(m, n, a), DVector::from_column_slice(y));
        let (mut logs, mut components) = (Vec::new(), Vec::new());
        for (weight, prior) in self.weights.iter().zip(&self.components) {
            let covariance = DMatrix::from_row_slice(n, n, &prior.covariance());
            let gain = &covariance * a.transpose();
            let spread = &a * &gain + DMatrix::identity(m, m) * (std * std);
            let Some(root) = spread.cholesky() else {
                return Err(Error::new(
                    "the measurement has no posterior: without noise it measures what the prior already knows",
                ));
            };
            let mean = DVector::from_column_slice(&prior.mean);
            let residual = &y - &a * &mean;
            let white = root.l().solve_lower_triangular(&residual).expect("a Cholesky factor is invertible");
            let log_det: f64 = root.l_dirty().diagonal().iter().map(|d| d.ln()).sum();
            logs.push(weight.ln() - 0.5 * white.norm_squared() - log_det);
            let mean = mean + &gain * root.solve(&residual);
            let left = &covariance - &gain * root.solve(&gain.transpose());
            let rows = (0..n).map(|i| (0..n).map(|j| 0.5 * (left[(i, j)] + left[(j, i)])).collect());
            components.push(Component::full(mean.as_slice().to_vec(), &rows.collect::<Vec<_>>())?);
        }
        let total = log_sum_exp(&logs);
        Self::from_components(logs.iter().map(|log| (log - total).exp()).collect(), components)
    }
}
