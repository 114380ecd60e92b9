//! Exact models: distributions whose every noisy marginal has a known score, density and sampler.
//!
//! They are the truth that samplers, objectives and likelihoods are tested against, and toy data to learn from. All of
//! them work in double precision on the host, row by row, whatever the tensor's device and precision.

mod component;
mod empirical;
mod gaussian;
mod mixture;

pub use empirical::Empirical;
pub use gaussian::Gaussian;
pub use mixture::{GaussianMixture, MixtureFile};

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::{Denoiser, Kernel, Result, ensure, noise, noise::Purpose, rows};

/// A distribution of x_0 whose noisy marginals p_t, the law of α x_0 + σ ε, are known exactly.
pub trait Exact: Denoiser {
    /// Dimension of a row.
    fn dim(&self) -> usize;

    /// ln p_t(x) in nats for rows `x` (row order) at one level. At σ = 0 this is the data's own density; points and
    /// singular covariances have none and need σ > 0 (it is not a number otherwise, nor is their denoiser).
    fn log_density(&self, x: &[f64], at: &Kernel) -> Vec<f64>;

    /// Clean rows in row order, one for every sample number, a function of (seed, number) alone.
    fn draw_clean(&self, seed: u64, samples: &[u64]) -> Vec<f64>;

    /// Mean of the clean data, `[dim]`.
    fn mean(&self) -> Vec<f64>;

    /// Covariance of the clean data, `[dim, dim]` in row order.
    fn covariance(&self) -> Vec<f64>;

    /// Rows of p_t in row order: α x_0 + σ ε.
    fn draw(&self, seed: u64, samples: &[u64], at: &Kernel) -> Vec<f64> {
        let clean = self.draw_clean(seed, samples);
        let eps = noise::normal(seed, samples, Purpose::Perturbation, 0, self.dim());
        clean.iter().zip(&eps).map(|(x0, eps)| at.alpha * x0 + at.sigma * eps).collect()
    }

    /// Mean over the coordinates of their variances: the Var\[data\] of the prior.
    fn variance(&self) -> f64 {
        let (dim, covariance) = (self.dim(), self.covariance());
        (0..dim).map(|i| covariance[i * dim + i]).sum::<f64>() / dim as f64
    }
}

/// Runs a row function over a tensor: `row(x, index, out)` with rows of width `dim`.
fn map_rows(
    x: &Tensor<2>,
    dim: usize,
    levels: usize,
    row: impl Fn(&[f64], usize, &mut [f64]) + Sync,
) -> Result<Tensor<2>> {
    let [count, width] = x.dims();
    ensure!(width == dim, "this exact model is {dim}-dimensional and was given rows of {width} numbers");
    ensure!(levels == count, "{levels} noise levels were given for {count} rows: give one a row");
    let host = rows::host(x);
    let mut out = vec![0.0; host.len()];
    out.par_chunks_mut(dim).enumerate().for_each(|(i, out)| row(&host[i * dim..(i + 1) * dim], i, out));
    Ok(rows::matrix(out, dim, x))
}

/// Turns log-weights into weights that sum to one, and returns the logarithm of their sum; −∞ when all are.
fn normalise(log_weights: &mut [f64]) -> f64 {
    let largest = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    let mut sum = 0.0;
    for weight in log_weights.iter_mut() {
        *weight = (*weight - largest).exp();
        sum += *weight;
    }
    log_weights.iter_mut().for_each(|weight| *weight /= sum);
    largest + sum.ln()
}
