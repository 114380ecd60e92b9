//! DiffPIR (Zhu et al. 2023, "Denoising Diffusion Models for Plug-and-Play Image Restoration", arXiv:2305.08995):
//! the estimate is moved toward the measurement by a proximal step, and renoised.
//!
//! x̂_0 = argmin_x ‖y − A x‖² + ρ ‖x − D‖² with ρ = λ σ_y²/σ̄², σ̄ = σ/α, which the decomposition solves: D + V
//! diag(s/(s² + ρ)) Uᵀ (y − A D), without noise D + A⁺(y − A D). Then x_s = α_s x̂_0 + σ_s (√(1 − ζ) ε̂ + √ζ z) with ε̂ = (x_t −
//! α_t x̂_0)/σ_t.
//!
//! Published: λ = 7, ζ = 0.3, 100 steps. Both σ_y and σ are in the units of states here. The published code has σ_y for pictures
//! in \[0, 1\] and σ for pictures in \[−1, 1\], twice as wide, so that its λ acts like a fourth of ours: `lambda` = 1.75 is its
//! 7. It leaves out the proximal step of the last level; here that is what makes samples of a measurement without noise fit it to
//! the last digit.
//!
//! The samples are near the posterior. With λ = 1 the proximal step is the mean of p(x_0 | x_t, y) for x_0 | x_t ~ N(D, σ̄² I), a
//! Gaussian that is too wide where σ is large.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{
    Eval, Kernel, Past, Request, Result, denoiser,
    inverse::Spectrum,
    numbers::{above, ensure_within},
};

/// Plug-and-play restoration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DiffPir {
    /// λ, the weight of the denoiser against the measurement; above 0, at most 1e6, default 7.
    pub lambda: f64,
    /// ζ, the part of a step's variance that is fresh; from 0 to 1, default 0.3.
    pub zeta: f64,
}

impl Default for DiffPir {
    fn default() -> Self {
        Self { lambda: 7.0, zeta: 0.3 }
    }
}

impl Method for DiffPir {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method diffpir: lambda", self.lambda, above(0.0, 1e6))?;
        ensure_within("method diffpir: zeta", self.zeta, 0.0..=1.0)?;
        problem.linear_gaussian("diffpir").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        let (operator, std) = problem.linear_gaussian("diffpir")?;
        Ok(Box::new(Run { of: self, problem, spectrum: operator.spectrum()?, std }))
    }
}

struct Run<'a> {
    of: &'a DiffPir,
    problem: &'a Problem,
    spectrum: Arc<dyn Spectrum>,
    std: f64,
}

impl Running for Run<'_> {
    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let rho = self.of.lambda * (self.std / from.noise_to_signal()).powi(2);
        let denoised = eval.denoise(&x, from)?;
        let moved = self.problem.each(&denoised, |row, denoised| {
            let toward = self.spectrum.back(&self.problem.residual(row, denoised), &|s| s / (s * s + rho));
            denoised.iter().zip(toward).map(|(denoised, toward)| denoised + toward).collect()
        });
        let clean = moved.clone().mul_scalar(to.alpha);
        if to.is_clean() {
            return Ok(clean);
        }
        let found = denoiser::eps(x.into(), moved.into(), from.into()).value;
        let fresh = eval.interval_noise(from, to, &clean)?;
        let zeta = self.of.zeta;
        Ok(clean + found.mul_scalar(to.sigma * (1.0 - zeta).sqrt()) + fresh.mul_scalar(to.sigma * zeta.sqrt()))
    }
}
