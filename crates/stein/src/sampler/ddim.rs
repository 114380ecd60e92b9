//! DDIM: x_s = α_s D + √(σ_s² − v) ε̂ + √v z, v = η² times the posterior variance.
//!
//! Song, Meng & Ermon 2021, eq. 12 and 16. η = 0 is the Euler step of the probability-flow ODE in σ/α (order 1); η = 1 is
//! [`Ancestral`](super::Ancestral) with the posterior's variance. Works from α = 0 and to σ = 0.
//! CFG++ takes ε̂ of another estimate than D.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler, eval::eps};
use crate::{Kernel, Result, ensure};

/// DDIM with noise `eta`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ddim {
    /// Factor on the posterior's standard deviation, in [0, 1]; default 0, deterministic.
    pub eta: f64,
}

impl Sampler for Ddim {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let estimate = eval.estimate(&x, from)?;
        let denoised = estimate.mean.value;
        let noise = eps(x, estimate.guided.noise.unwrap_or_else(|| denoised.clone()), from);
        along(denoised, noise, from, to, self.eta, eval)
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.0).then_some(1)
    }

    fn starts_without_signal(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        ensure!((0.0..=1.0).contains(&self.eta), "sampler ddim: eta = {} must lie between 0 and 1", self.eta);
        Ok(())
    }
}

/// The step with a given estimate of the data: methods for inverse problems have their own.
pub(crate) fn ddim_step(
    x: Tensor<2>,
    denoised: Tensor<2>,
    from: &Kernel,
    to: &Kernel,
    eta: f64,
    eval: &mut Eval,
) -> Result<Tensor<2>> {
    let noise = eps(x, denoised.clone(), from);
    along(denoised, noise, from, to, eta, eval)
}

/// The mean of the step whose noise has a variance.
pub(crate) fn ddim_mean(x: Tensor<2>, denoised: Tensor<2>, from: &Kernel, to: &Kernel, variance: f64) -> Tensor<2> {
    let noise = eps(x, denoised.clone(), from);
    mean(denoised, noise, to, variance)
}

fn mean(denoised: Tensor<2>, noise: Tensor<2>, to: &Kernel, variance: f64) -> Tensor<2> {
    let direction = (to.sigma.powi(2) - variance).max(0.0).sqrt();
    denoised.mul_scalar(to.alpha) + noise.mul_scalar(direction)
}

/// From an estimate of the data along one of the noise.
fn along(
    denoised: Tensor<2>,
    noise: Tensor<2>,
    from: &Kernel,
    to: &Kernel,
    eta: f64,
    eval: &mut Eval,
) -> Result<Tensor<2>> {
    let variance = eta.powi(2) * from.posterior_variance(to);
    let mean = mean(denoised, noise, to, variance);
    Ok(if variance > 0.0 { eval.interval_noise(from, to, &mean)?.mul_scalar(variance.sqrt()) + mean } else { mean })
}
