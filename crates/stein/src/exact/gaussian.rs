//! A Gaussian with any covariance: the model for which everything is known in closed form.

use super::{Exact, check_classless, component::Component, in_double};
use crate::{Condition, Denoiser, Dual, Estimate, Kernel, Keys, Levels, Purpose, Result};

/// x_0 ~ N(m, Σ).
#[derive(Debug, Clone)]
pub struct Gaussian(Component);

impl Gaussian {
    /// The Gaussian of this mean `[dim]` and covariance `[dim][dim]`.
    ///
    /// # Errors
    /// Sizes that do not fit, entries that are not finite, a matrix that is no covariance.
    pub fn new(mean: Vec<f64>, covariance: &[Vec<f64>]) -> Result<Self> {
        Ok(Self(Component::full(mean, covariance)?))
    }

    /// The variance along each principal axis `[dim]`, in no particular order. The Bayes error follows: E‖x_0 − D‖² = Σ_i λ_i σ²/(α²λ_i + σ²).
    pub fn variances(&self) -> &[f64] {
        &self.0.variances
    }
}

impl Denoiser for Gaussian {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        check_classless(given)?;
        in_double(x, self.dim(), |x| Ok(self.0.denoised(self.0.axes_of(x, at), at)))
    }
}

impl Exact for Gaussian {
    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn log_density(&self, x: &[f64], at: &Kernel) -> Vec<f64> {
        x.chunks_exact(self.dim()).map(|x| self.0.log_density(x, at)).collect()
    }

    fn draw_clean(&self, keys: &Keys) -> Vec<f64> {
        let eps = keys.normal(Purpose::Model, 1, self.dim());
        let mut out = vec![0.0; eps.len()];
        for (out, eps) in out.chunks_exact_mut(self.dim()).zip(eps.chunks_exact(self.dim())) {
            self.0.place(eps, out);
        }
        out
    }

    fn mean(&self) -> Vec<f64> {
        self.0.mean.clone()
    }

    fn covariance(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.dim().pow(2)];
        self.0.add_second_moment(&self.0.mean, 1.0, &mut out);
        out
    }
}
