//! The posterior of an encoder: a normal distribution with independent numbers (Kingma & Welling, arXiv:1312.6114, appendix B).

use crate::{Keys, Purpose, Tensor, noise::normal_like, vae::log_normal};

/// Where logarithms of variances are clamped.
pub const LOG_VARIANCE: [f64; 2] = [-30.0, 20.0];

/// N(μ, diag σ²) of each row, σ² = e^λ.
#[derive(Debug, Clone)]
pub struct DiagonalGaussian {
    mean: Tensor<2>,
    log_variance: Tensor<2>,
}

impl DiagonalGaussian {
    /// Of means and logarithms of variances, `[rows, dim]` each; the latter are clamped to [`LOG_VARIANCE`], beyond which they have no
    /// gradient.
    pub fn new(mean: Tensor<2>, log_variance: Tensor<2>) -> Self {
        let [least, most] = LOG_VARIANCE;
        Self { mean, log_variance: log_variance.clamp(least, most) }
    }

    /// The standard deviations σ, `[rows, dim]`.
    pub fn std(&self) -> Tensor<2> {
        self.log_variance.clone().mul_scalar(0.5).exp()
    }

    /// One sample μ + σ ε of each row, by its key: `[rows, dim]`.
    pub fn sample(&self, keys: &Keys) -> Tensor<2> {
        self.at(normal_like(keys, Purpose::Latent, 0, &self.mean))
    }

    /// The point μ + σ ε of each row, of standard normal numbers ε `[rows, dim]`.
    pub fn at(&self, eps: Tensor<2>) -> Tensor<2> {
        self.mean.clone() + self.std() * eps
    }

    /// ln of the density at points `[rows, dim]`: `[rows, 1]`.
    pub fn log_density(&self, z: Tensor<2>) -> Tensor<2> {
        log_normal(z, self.mean.clone(), self.log_variance.clone().mul_scalar(0.5))
    }

    /// The Kullback-Leibler divergence from another, ½ Σ (λ' − λ + (σ² + (μ − μ')²) / σ'² − 1), `[rows, 1]`.
    pub fn kl_from(&self, other: &Self) -> Tensor<2> {
        let apart = (self.mean.clone() - other.mean.clone()).square();
        let ratio = (self.log_variance.clone().exp() + apart) * other.log_variance.clone().neg().exp();
        let terms = other.log_variance.clone() - self.log_variance.clone() + ratio;
        terms.sub_scalar(1.0).sum_dim(1).mul_scalar(0.5)
    }

    /// Where the density is largest: μ, `[rows, dim]`.
    pub fn mode(self) -> Tensor<2> {
        self.mean
    }

    /// The Kullback-Leibler divergence from the standard normal distribution, ½ Σ (μ² + σ² − 1 − λ), `[rows, 1]`.
    pub fn kl(&self) -> Tensor<2> {
        let variance = self.log_variance.clone().exp();
        let terms = self.mean.clone().square() + variance - self.log_variance.clone();
        terms.sub_scalar(1.0).sum_dim(1).mul_scalar(0.5)
    }
}
