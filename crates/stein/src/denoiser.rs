//! The denoiser: what stands between all that is learned and all that is numerical.

use burn::tensor::Tensor;

use crate::{Condition, Kernel, Result, rows};

/// An estimate of E\[x_0 given x_t\].
///
/// By Tweedie's formula (Efron 2011) it is the score: ∇ log p_t(x) = (α D − x)/σ².
pub trait Denoiser {
    /// D(x; α, σ) `[rows, dim]` for noisy rows `x` `[rows, dim]`, each at its own level `at[row]`.
    ///
    /// # Errors
    /// When the shape or the condition is not one this denoiser knows, or the level is one it is not defined at.
    fn denoise(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>>;
}

/// The score (α D − x)/σ² `[rows, dim]` of rows `x` given the denoised rows, both `[rows, dim]`; `at` is one level a row, or one
/// for all. Not finite at σ = 0.
pub fn score(x: Tensor<2>, denoised: Tensor<2>, at: &[Kernel]) -> Tensor<2> {
    let signal: Vec<f64> = at.iter().map(|k| k.alpha / k.sigma.powi(2)).collect();
    let noise: Vec<f64> = at.iter().map(|k| -1.0 / k.sigma.powi(2)).collect();
    rows::scale(denoised, &signal) + rows::scale(x, &noise)
}

/// A denoiser or a flow map whose estimate is kept inside an interval, as DDPM's sampler does with x̂_0 (Ho et al. 2020, their code).
///
/// The result is no posterior mean of anything: for sampling only.
#[derive(Debug, Clone)]
pub struct Clamp<D> {
    /// What is clamped.
    pub inner: D,
    /// Lower and upper bound, in the range it works in.
    pub bounds: (f64, f64),
}

impl<D: Denoiser> Denoiser for Clamp<D> {
    fn denoise(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        Ok(self.inner.denoise(x, at, given)?.clamp(self.bounds.0, self.bounds.1))
    }
}

impl<D: Denoiser + ?Sized> Denoiser for &D {
    fn denoise(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        (**self).denoise(x, at, given)
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn denoise(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        (**self).denoise(x, at, given)
    }
}
