//! A Gaussian with any covariance: the model for which everything is known in closed form.

use burn::tensor::Tensor;

use super::{Exact, component::Component, map_rows};
use crate::{Condition, Denoiser, Kernel, Result, ensure, noise, noise::Purpose};

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
    fn denoise(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        ensure!(given.class.is_none(), "this exact model has no classes: leave the condition out");
        map_rows(&x, self.dim(), at.len(), |x, i, out| self.0.add_denoised(x, &at[i], 1.0, out))
    }
}

impl Exact for Gaussian {
    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn log_density(&self, x: &[f64], at: &Kernel) -> Vec<f64> {
        x.chunks_exact(self.dim()).map(|x| self.0.log_density(x, at)).collect()
    }

    fn draw_clean(&self, seed: u64, samples: &[u64]) -> Vec<f64> {
        let eps = noise::normal(seed, samples, Purpose::Model, 1, self.dim());
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
