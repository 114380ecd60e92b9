//! Pseudo-inverse guidance, ΠGDM (Song, Vahdat, Mardani & Kautz 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems"):
//! the score of p(y | x_t) is that of N(y; A D, r² AAᵀ + σ_y²), as if x_0 given x_t were N(D, r² I):
//!
//! g = J_Dᵀ Aᵀ (r² AAᵀ + σ_y²)⁻¹ (y − A D), with r² = σ̄² v/(σ̄² + v), σ̄ = σ/α,
//!
//! which is J_Dᵀ (A⁺y − A⁺A D)/r² for a measurement without noise. r² is the variance of x_0 given x_t of data N(m, v I); the paper has
//! v = 1.
//!
//! With `weight = "score"` g is added to the model's score, so that D becomes D + (σ²/α) g in DDIM's step. Where the prior is N(m,
//! v I) and `data_variance` is v, that is E\[x_0 given x_t, y\], and in the limit of many steps the samples are draws of the
//! posterior; elsewhere they are near it. The paper adds α_s α_t r² g to the unconditional step instead (`published`), with r² so
//! that g stays bounded. That is not the score's share of a step and does not shrink with it: it suits the 20 to 100 steps it was
//! chosen for, and overshoots with more. The paper's α belong to a variance-preserving schedule; in x/α it is the same on every
//! one.
//!
//! The paper's authors published no code. That of RED-diff, by some of them, has the line without noise only, and r² of it cancels
//! the 1/r².

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{
    Eval, Kernel, Past, Request, Result,
    numbers::{above, ensure_within},
    sampler::ddim_step,
};

/// How much of the gradient a step takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// As a part of the score: D + (σ²/α) g for D.
    #[default]
    Score,
    /// α_s α_t r² g beside the unconditional step.
    Published,
}

/// Pseudo-inverse guidance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Pigdm {
    /// v, the variance of each number of the data; positive and at most 1e12, default 1, as published.
    pub data_variance: f64,
    /// η of the step, which is DDIM's, from 0 to 1; default 1, ancestral sampling. Published: 0 in RED-diff's code, 0.2 in
    /// InverseBench's, with 100 steps.
    pub eta: f64,
    /// How much of the gradient a step takes; default the score's part.
    pub weight: Weight,
}

impl Default for Pigdm {
    fn default() -> Self {
        Self { data_variance: 1.0, eta: 1.0, weight: Weight::Score }
    }
}

impl Pigdm {
    /// r² at a level.
    pub fn variance(&self, at: &Kernel) -> f64 {
        let clock = at.noise_to_signal().powi(2);
        clock * self.data_variance / (clock + self.data_variance)
    }

    /// Aᵀ (r² AAᵀ + σ_y²)⁻¹ (y − A D) of every row `[rows, n]` of estimates D at a level; where A has no singular value, 0.
    ///
    /// # Errors
    /// A problem that is not linear and Gaussian, and those of the decomposition.
    pub fn direction(&self, problem: &Problem, denoised: &Tensor<2>, at: &Kernel) -> Result<Tensor<2>> {
        let (linear, std) = problem.linear_gaussian("pigdm")?;
        let (spectrum, variance) = (linear.spectrum()?, self.variance(at));
        Ok(problem.each(denoised, |row, denoised| {
            spectrum.back(&problem.residual(row, denoised), &|s| s / (variance * s * s + std * std))
        }))
    }
}

impl Method for Pigdm {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method pigdm: data_variance", self.data_variance, above(0.0, 1e12))?;
        ensure_within("method pigdm: eta", self.eta, 0.0..=1.0)?;
        problem.linear_gaussian("pigdm").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, problem }))
    }
}

struct Run<'a> {
    of: &'a Pigdm,
    problem: &'a Problem,
}

impl Running for Run<'_> {
    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (denoised, gradient) = eval.pull(&x, from, |denoised| self.of.direction(self.problem, denoised, from))?;
        match self.of.weight {
            Weight::Score => {
                let given = denoised + gradient.mul_scalar(from.sigma.powi(2) / from.alpha);
                ddim_step(x, given, from, to, self.of.eta, eval)
            }
            Weight::Published => {
                let share = from.alpha * to.alpha * self.of.variance(from);
                Ok(ddim_step(x, denoised, from, to, self.of.eta, eval)? + gradient.mul_scalar(share))
            }
        }
    }
}
