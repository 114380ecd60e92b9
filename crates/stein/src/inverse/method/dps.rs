//! Diffusion posterior sampling (Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems", arXiv:2209.14687):
//! an unconditional step, and then x_s ← x_s − ζ ∇_{x_t} ‖y − A(D(x_t))‖ with the gradient through the denoiser.
//!
//! The paper writes the gradient of the squared norm with ζ_i = ζ'/‖y − A(D)‖; since ∇‖r‖² = 2 ‖r‖ ∇‖r‖, its ζ' is half of `scale`
//! here, which is that of the published code. The norm is each sample's own, where that code takes one over the batch, so that
//! samples do not depend on what is drawn beside them. Numbers of a measurement that differ in their noise, as counts do, are
//! weighted by it, as the paper has it for Poisson noise.
//!
//! The samples are near the posterior: the likelihood at level t is taken for that of the point D(x_t).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{Eval, Kernel, Past, Request, Result, numbers::ensure_within, sampler::ddim_step};

/// Diffusion posterior sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Dps {
    /// The length ζ of the step along the gradient of the norm, from 0 to 1e6; default 1. Published: 0.3 to 1 on pictures from −1 to 1.
    pub scale: f64,
    /// η of the unconditional step, which is DDIM's, from 0 to 1; default 1, ancestral sampling.
    pub eta: f64,
}

impl Default for Dps {
    fn default() -> Self {
        Self { scale: 1.0, eta: 1.0 }
    }
}

impl Method for Dps {
    fn check(&self, _: &Problem) -> Result<()> {
        ensure_within("method dps: scale", self.scale, 0.0..=1e6)?;
        ensure_within("method dps: eta", self.eta, 0.0..=1.0)
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, problem }))
    }
}

struct Run<'a> {
    of: &'a Dps,
    problem: &'a Problem,
}

impl Running for Run<'_> {
    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (denoised, gradient) = eval.pull(&x, from, |denoised| Ok(norm_gradient(self.problem, denoised)))?;
        let stepped = ddim_step(x, denoised, from, to, self.of.eta, eval)?;
        Ok(stepped - gradient.mul_scalar(self.of.scale))
    }
}

/// ∇_x ‖y − A(x)‖ of every row `[rows, n]`, with each number of a measurement weighted by its noise where those differ; 0 where it fits
/// exactly.
pub fn norm_gradient(problem: &Problem, x: &Tensor<2>) -> Tensor<2> {
    problem.each(x, |row, x| {
        let residual = problem.residual(row, x);
        let weighted = problem.weighted(row, &residual);
        let norm = residual.iter().zip(&weighted).map(|(r, w)| r * w).sum::<f64>().sqrt();
        let factor = if norm > 0.0 { -1.0 / norm } else { 0.0 };
        problem.operator.pull(x, &weighted.iter().map(|w| factor * w).collect::<Vec<_>>())
    })
}
