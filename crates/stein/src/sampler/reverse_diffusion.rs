//! Reverse diffusion: the forward transition x_t = ρ x_s + G z, discretized backwards in the same way:
//! x_s = (2 − ρ) x_t + G² s + G z with ρ = α_t/α_s, G² = σ_t² − ρ²σ_s².
//!
//! Song et al. 2021, appendix E, eq. 46, with its cases VE, x + (σ_t² − σ_s²) s + …, and VP, (2 − √(1−β)) x + β s + √β z. Their
//! predictor for VE. No noise is added in the step to σ = 0.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{Kernel, Result};

/// The reverse-diffusion predictor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct ReverseDiffusion {}

impl Sampler for ReverseDiffusion {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (ratio, variance) = from.transition_from(to);
        let score = eval.score(&x, from)?;
        let mean = x.mul_scalar(2.0 - ratio) + score.mul_scalar(variance);
        Ok(if to.is_clean() { mean } else { eval.interval_noise(from, to, &mean)?.mul_scalar(variance.sqrt()) + mean })
    }

    fn order(&self) -> Option<u32> {
        None
    }
}
