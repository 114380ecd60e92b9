//! Exact models: distributions whose every noisy marginal has a known score, density and sampler.
//!
//! They are the truth that samplers, objectives and likelihoods are tested against, and toy data to learn from. All of
//! them compute in double precision, whatever the precision of the rows they are given, and are made of tensor operations: they
//! are differentiable like any other denoiser.

mod component;
mod empirical;
mod gaussian;
mod mixture;
mod posterior;

pub use empirical::Empirical;
pub use gaussian::Gaussian;
pub use mixture::{GaussianMixture, MixtureFile};

use burn::tensor::{DType, Tensor};

use crate::{Condition, Denoiser, Dual, Estimate, Kernel, Keys, Levels, Purpose, Result, ensure, rows};

/// A distribution of x_0 whose noisy marginals p_t, the law of α x_0 + σ ε, are known exactly.
pub trait Exact: Denoiser {
    /// Dimension of a row.
    fn dim(&self) -> usize;

    /// ln p_t(x) in nats for rows `x` (row order) at one level. At σ = 0 this is the data's own density; points and
    /// singular covariances have none and need σ > 0 (it is not a number otherwise, nor is their denoiser).
    fn log_density(&self, x: &[f64], at: &Kernel) -> Vec<f64>;

    /// Clean rows in row order, one per key, each a function of its key alone.
    fn draw_clean(&self, keys: &Keys) -> Vec<f64>;

    /// Mean of the clean data, `[dim]`.
    fn mean(&self) -> Vec<f64>;

    /// Covariance of the clean data, `[dim, dim]` in row order.
    fn covariance(&self) -> Vec<f64>;

    /// Rows of p_t in row order: α x_0 + σ ε.
    fn draw(&self, keys: &Keys, at: &Kernel) -> Vec<f64> {
        let clean = self.draw_clean(keys);
        let eps = keys.normal(Purpose::Perturbation, 0, self.dim());
        clean.iter().zip(&eps).map(|(x0, eps)| at.alpha * x0 + at.sigma * eps).collect()
    }

    /// Mean over the coordinates of their variances: the Var\[data\] of the prior.
    fn variance(&self) -> f64 {
        let (dim, covariance) = (self.dim(), self.covariance());
        (0..dim).map(|i| covariance[i * dim + i]).sum::<f64>() / dim as f64
    }
}

/// What an exact denoiser makes of rows, in double precision and back in that of `x`.
fn in_double(x: Dual<2>, dim: usize, f: impl FnOnce(Dual<2>) -> Result<Dual<2>>) -> Result<Estimate> {
    let width = x.dims()[1];
    ensure!(width == dim, "this exact model is {dim}-dimensional and was given rows of {width} numbers");
    let kind = x.value.dtype();
    Ok(f(x.linear(|x| x.cast(DType::F64)))?.linear(|x| x.cast(kind)).into())
}

/// A number of every level and column, `[rows, columns]`, or `[1, columns]` where the rows share a level.
fn table(at: Levels, columns: &[f64], f: impl Fn(&Kernel, f64) -> f64, like: &Tensor<2>) -> Tensor<2> {
    let values = at.kernels().iter().flat_map(|at| columns.iter().map(|&column| f(at, column))).collect();
    rows::matrix(values, columns.len(), like)
}

/// Fails if a class was given to a model that has none.
fn check_classless(given: &Condition) -> Result<()> {
    ensure!(given.class.iter().flatten().all(Option::is_none), "this exact model has no classes: leave the class out");
    Ok(())
}

/// ln Σ exp, −∞ where all are.
fn log_sum_exp(logs: &[f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + logs.iter().map(|log| (log - largest).exp()).sum::<f64>().ln()
}
