//! EDM's sampler: Heun's second-order method on dx̄/dσ̄ = (x̄ − D)/σ̄ in x̄ = x/α, σ̄ = σ/α, with [churn](super::Churn); and the same
//! with Euler's first-order step.
//!
//! Karras et al. 2022, algorithm 2; Euler's is their algorithm without its lines 6 to 8, which k-diffusion calls `euler`. The step to
//! σ = 0 is Euler's in both. Without churn they are deterministic, and Euler's is [DDIM](super::Ddim).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Churn, Eval, Past, Sampler, eval::transfer};
use crate::{Kernel, Result};

/// EDM's Heun. Default: no churn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Heun {
    /// Noise added before every step; default none.
    pub churn: Churn,
}

impl Sampler for Heun {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (x, from) = self.churn.raise(x, from, eval)?;
        heun(x, &from, to, eval)
    }

    fn order(&self) -> Option<u32> {
        self.churn.is_off().then_some(2)
    }

    fn check(&self) -> Result<()> {
        self.churn.check("heun")
    }
}

/// One step of Heun's method.
pub(super) fn heun(x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
    let first = eval.eps(&x, from)?;
    let euler = transfer(x.clone(), first.clone(), from, to);
    if to.is_clean() {
        return Ok(euler);
    }
    let second = eval.eps(&euler, to)?;
    Ok(transfer(x, (first + second).mul_scalar(0.5), from, to))
}

/// EDM's sampler with Euler's step. Default: no churn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct EdmEuler {
    /// Noise added before every step; default none.
    pub churn: Churn,
}

impl Sampler for EdmEuler {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (x, from) = self.churn.raise(x, from, eval)?;
        let eps = eval.eps(&x, &from)?;
        Ok(transfer(x, eps, &from, to))
    }

    fn order(&self) -> Option<u32> {
        self.churn.is_off().then_some(1)
    }

    fn check(&self) -> Result<()> {
        self.churn.check("edm_euler")
    }
}
