//! Manifold-constrained gradients (Chung, Sim, Ryu & Ye 2022, "Improving Diffusion Models for Inverse Problems using Manifold
//! Constraints", arXiv:2206.00941): an unconditional step, one down the gradient ∇_{x_t} ‖y − A D(x_t)‖
//! through the denoiser, as [`Dps`](super::Dps) takes it, and then the projection x_s ← (I − A⁺A) x_s + A⁺ y_s onto the noised
//! measurement y_s.
//!
//! The norm is each sample's own, where the published code takes one over the batch. That projects onto y noised by all of σ_s,
//! also where y has noise itself, and so puts that noise into the samples (Chung et al. 2023, "Diffusion Posterior Sampling for
//! General Noisy Inverse Problems"). Here a [coordinate](super::known) is projected down to the level of its own noise, with the
//! rest of the level's noise only, and left to the gradient below. A measurement without noise is met exactly.
//!
//! The samples are near the posterior.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running, dps::norm_gradient, known::Known};
use crate::{Eval, Kernel, Past, Request, Result, numbers::ensure_within, sampler::ddim_step};

/// The gradient of the misfit, and a projection onto the measurement at every level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Mcg {
    /// The length of the step along the gradient of the norm, from 0 to 1e6; default 1, as published for inpainting.
    pub scale: f64,
    /// η of the unconditional step, which is DDIM's, from 0 to 1; default 1, ancestral sampling, as published.
    pub eta: f64,
}

impl Default for Mcg {
    fn default() -> Self {
        Self { scale: 1.0, eta: 1.0 }
    }
}

impl Method for Mcg {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method mcg: scale", self.scale, 0.0..=1e6)?;
        ensure_within("method mcg: eta", self.eta, 0.0..=1.0)?;
        problem.linear_gaussian("mcg").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, problem, known: Known::of(problem, "mcg")? }))
    }
}

struct Run<'a> {
    of: &'a Mcg,
    problem: &'a Problem,
    known: Known,
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        Ok(self.known.start(&prior, at, eval))
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (denoised, gradient) = eval.pull(&x, from, |denoised| Ok(norm_gradient(self.problem, denoised)))?;
        let stepped = ddim_step(x, denoised, from, to, self.of.eta, eval)?;
        self.known.redraw(&(stepped - gradient.mul_scalar(self.of.scale)), to, eval)
    }
}
