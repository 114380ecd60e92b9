//! EDM's sampler: Heun's second-order method on dx̄/dσ̄ = (x̄ − D)/σ̄ in x̄ = x/α, σ̄ = σ/α, with churn.
//!
//! Karras et al. 2022, algorithm 2. Before a step, while S_min ≤ σ̄ ≤ S_max, noise raises the level to σ̄(1 + γ) with
//! γ = min(S_churn/N, √2 − 1). The step to σ = 0 is Euler's. Without churn it is deterministic and of order 2.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler, eval::eps};
use crate::{Kernel, Result, ensure, numbers::ensure_within};

/// EDM's Heun. Default: no churn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Heun {
    /// γ = `churn`, the relative rise of the noise level before a step: their S_churn/N; from 0 to 1000, default 0. At most √2 − 1 is used.
    pub churn: f64,
    /// Smallest σ/α at which noise is added: their S_tmin, at least 0; default 0.
    pub churn_min: f64,
    /// Largest σ/α at which noise is added: their S_tmax, at least `churn_min`; default ∞.
    pub churn_max: f64,
    /// Factor on the standard deviation of the added noise: their S_noise; from 0 to 1000, default 1.
    pub churn_noise: f64,
}

impl Default for Heun {
    fn default() -> Self {
        Self { churn: 0.0, churn_min: 0.0, churn_max: f64::INFINITY, churn_noise: 1.0 }
    }
}

impl Sampler for Heun {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (mut x, mut from) = (x, *from);
        let level = from.noise_to_signal();
        if self.churn > 0.0 && (self.churn_min..=self.churn_max).contains(&level) {
            let raised = level * (1.0 + self.churn.min(std::f64::consts::SQRT_2 - 1.0));
            let added = self.churn_noise * (raised * raised - level * level).sqrt();
            let above = eval.kernel_at_noise(raised);
            let noise = eval.noise(&x)?;
            x = (x.div_scalar(from.alpha) + noise.mul_scalar(added)).mul_scalar(above.alpha);
            from = above;
        }
        let denoised = eval.denoise(&x, &from)?;
        let first = eps(x.clone(), denoised, &from);
        let rise = to.noise_to_signal() - from.noise_to_signal();
        let carried = x.mul_scalar(to.alpha / from.alpha);
        let euler = carried.clone() + first.clone().mul_scalar(to.alpha * rise);
        if to.is_clean() {
            return Ok(euler);
        }
        let denoised = eval.denoise(&euler, to)?;
        let second = eps(euler, denoised, to);
        Ok(carried + (first + second).mul_scalar(0.5 * to.alpha * rise))
    }

    fn order(&self) -> Option<u32> {
        (self.churn == 0.0).then_some(2)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.churn_min <= self.churn_max,
            "sampler heun: churn_min = {} must be at most churn_max = {}",
            self.churn_min,
            self.churn_max
        );
        ensure_within("sampler heun: churn", self.churn, 0.0..=1e3)?;
        ensure_within("sampler heun: churn_noise", self.churn_noise, 0.0..=1e3)
    }
}
