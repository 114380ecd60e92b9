//! Churn: noise that is added before a step of an ODE sampler, which then starts from the raised level.
//!
//! Karras et al. 2022, algorithm 2, in x̄ = x/α and σ̄ = σ/α: where S_min ≤ σ̄ ≤ S_max the level rises to σ̂ = σ̄(1 + γ), γ =
//! min(S_churn/N, √2 − 1) on a grid of N steps, and x̄ by √(σ̂² − σ̄²) S_noise z.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Eval;
use crate::{Kernel, Result, ensure, numbers::ensure_within};

/// How much noise is added before every step. Default: none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Churn {
    /// S_churn, the noise of a whole run: a step raises its level by the factor 1 + min(S_churn/N, √2 − 1), where N is the number of
    /// steps; from 0 to 1,000,000, default 0.
    pub s_churn: f64,
    /// S_min, the smallest σ/α at which noise is added; at least 0, default 0.
    pub s_min: f64,
    /// S_max, the largest σ/α at which noise is added; at least `s_min`, default ∞.
    pub s_max: f64,
    /// S_noise, the factor on the standard deviation of the added noise; from 0 to 1000, default 1.
    pub s_noise: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { s_churn: 0.0, s_min: 0.0, s_max: f64::INFINITY, s_noise: 1.0 }
    }
}

impl Churn {
    /// Whether no noise is added.
    pub(super) fn is_off(&self) -> bool {
        self.s_churn == 0.0
    }

    /// The batch and its level with the noise of one step of the run.
    pub(super) fn raise(&self, x: Tensor<2>, from: &Kernel, eval: &mut Eval) -> Result<(Tensor<2>, Kernel)> {
        let gamma = self.s_churn / eval.steps() as f64;
        self.raise_by(gamma, x, from, eval)
    }

    /// The same by this γ, whatever the number of steps.
    pub(super) fn raise_by(
        &self,
        gamma: f64,
        x: Tensor<2>,
        from: &Kernel,
        eval: &mut Eval,
    ) -> Result<(Tensor<2>, Kernel)> {
        let level = from.noise_to_signal();
        if gamma == 0.0 || !(self.s_min..=self.s_max).contains(&level) {
            return Ok((x, *from));
        }
        let raised = level * (1.0 + gamma.min(std::f64::consts::SQRT_2 - 1.0));
        let above = eval.kernel_at_noise(raised);
        let added = self.s_noise * (raised * raised - level * level).sqrt();
        let noise = eval.noise(&x)?;
        let x = (x.div_scalar(from.alpha) + noise.mul_scalar(added)).mul_scalar(above.alpha);
        Ok((x, above))
    }

    /// Fails, saying which, unless the numbers are in their ranges.
    pub(super) fn check(&self, sampler: &str) -> Result<()> {
        let Self { s_churn, s_min, s_max, s_noise } = *self;
        ensure!(s_min <= s_max, "sampler {sampler}: churn: s_min = {s_min} must be at most s_max = {s_max}");
        ensure_within(&format!("sampler {sampler}: churn: s_churn"), s_churn, 0.0..=1e6)?;
        ensure_within(&format!("sampler {sampler}: churn: s_noise"), s_noise, 0.0..=1e3)
    }
}
