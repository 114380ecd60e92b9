//! Denoising diffusion restoration models (Kawar et al. 2022, "Denoising Diffusion Restoration Models", arXiv:2201.11793):
//! sampling in the coordinates Vᵀx of the singular value decomposition A = U diag(s) Vᵀ, where a measurement is one noisy number
//! ȳ_i = (Uᵀy)_i/s_i = x̄_i + N(0, (σ_y/s_i)²) for each coordinate that is measured, and says nothing of the others.
//!
//! In x/α, whose noise is σ̄ = σ/α, a coordinate goes to the next level σ̄ by
//!
//! | coordinate | mean | variance |
//! |---|---|---|
//! | not measured | D + √(1 − η²) σ̄ ε̂ | η² σ̄² |
//! | σ̄ < σ_y/s | D + √(1 − η²) σ̄ (ȳ − D)/(σ_y/s) | η² σ̄² |
//! | σ̄ ≥ σ_y/s | D + η_b (ȳ − D) | σ̄² − η_b² (σ_y/s)² |
//!
//! and starts, where the start is at least that noisy, from ȳ with the variance σ̄² − (σ_y/s)². Published: η = 0.85, η_b = 1, 20
//! steps.
//!
//! With σ_y = 0 the third line holds down to σ̄ = 0, so that the samples fit the measurement to the last digit. The published
//! code compares by > there, and takes measured coordinates for unmeasured ones in its last step. With σ_y > 0 the last step is D
//! itself, as the table says. It also drops singular values below 1e-3 to 3e-2, by operator; here those that are 0 to rounding
//! are.
//!
//! The samples are near the posterior: no step knows how sure the denoiser is of a coordinate, nor that coordinates depend on
//! each other.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running, known::Known};
use crate::{Eval, Kernel, Past, Request, Result, denoiser, inverse::Spectrum, numbers::ensure_within, rows};

/// Denoising diffusion restoration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ddrm {
    /// η, the part of a step's noise that is fresh, in coordinates that are not measured or with more noise than the level; from 0 to 1,
    /// default 0.85.
    pub eta: f64,
    /// η_b, how much of a measured number is taken over at levels above its noise; from 0 to 1, default 1.
    pub eta_b: f64,
}

impl Default for Ddrm {
    fn default() -> Self {
        Self { eta: 0.85, eta_b: 1.0 }
    }
}

impl Method for Ddrm {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method ddrm: eta", self.eta, 0.0..=1.0)?;
        ensure_within("method ddrm: eta_b", self.eta_b, 0.0..=1.0)?;
        problem.linear_gaussian("ddrm").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, bases: Bases::of(problem, "ddrm")?, known: Known::of(problem, "ddrm")? }))
    }
}

struct Run<'a> {
    of: &'a Ddrm,
    bases: Bases<'a>,
    known: Known,
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        Ok(self.known.start(&prior, at, eval))
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        self.bases.step(x, from, to, self.of.eta, self.of.eta_b, eval)
    }
}

/// A problem in the bases of its decomposition.
pub(super) struct Bases<'a> {
    problem: &'a Problem,
    spectrum: Arc<dyn Spectrum>,
    std: f64,
}

impl<'a> Bases<'a> {
    pub(super) fn of(problem: &'a Problem, method: &str) -> Result<Self> {
        let (operator, std) = problem.linear_gaussian(method)?;
        Ok(Self { problem, spectrum: operator.spectrum()?, std })
    }

    /// The step of the table above.
    pub(super) fn step(
        &self,
        x: Tensor<2>,
        from: &Kernel,
        to: &Kernel,
        eta: f64,
        eta_b: f64,
        eval: &mut Eval,
    ) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        // Noise has the same law in every orthonormal basis, so these are coordinates as they are drawn.
        let fresh = if to.is_clean() { x.zeros_like() } else { eval.interval_noise(from, to, &x)? };
        let found = rows::host(&denoiser::eps(x.into(), denoised.clone().into(), from.into()).value);
        let (fresh, level) = (rows::host(&fresh), to.noise_to_signal());
        let (n, kept) = (self.spectrum.dim(), (1.0 - eta * eta).sqrt());
        Ok(self.problem.each(&denoised, |row, denoised| {
            let own = row * n..(row + 1) * n;
            let mut c = self.spectrum.coordinates(denoised);
            let found = self.spectrum.coordinates(&found[own.clone()]);
            let fresh = &fresh[own];
            let (measured, values) = (self.spectrum.measured(self.problem.y(row)), self.spectrum.values());
            for i in 0..n {
                let random = eta * level * fresh[i];
                match values.get(i) {
                    None => c[i] += kept * level * found[i] + random,
                    Some(s) => {
                        let (noise, miss) = (self.std / s, measured[i] / s - c[i]);
                        c[i] += if level < noise {
                            kept * level * miss / noise + random
                        } else {
                            eta_b * miss + (level.powi(2) - (eta_b * noise).powi(2)).sqrt() * fresh[i]
                        };
                    }
                }
                c[i] *= to.alpha;
            }
            self.spectrum.sample(&c)
        }))
    }
}
