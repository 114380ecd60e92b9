//! Denoising diffusion null-space models (Wang et al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space
//! Model", arXiv:2212.00490): of every estimate the part that was measured is replaced, D ← D − A⁺(A D − y), and
//! the next level is α_s D + σ_s (√(1 − η²) ε̂ + η z).
//!
//! With noise in the measurement this is DDNM+ in the form of the published `svd` code: in the coordinates
//! of the decomposition the correction is weakened, by λ_i = √(1 − η²) σ̄ s_i/σ_y where the level's noise σ̄ = σ/α is below that
//! of the measurement, σ_y/s_i, and the fresh noise is lessened by what the measurement brings, λ_i σ_y/s_i. Written out it is
//! the step of [`Ddrm`](super::Ddrm) with η_b = 1; what differs is the start, which is plain noise here, and the travels in time.
//! The code without a decomposition is not followed: it compares ᾱ σ_y with √(1 − ᾱ²), though ᾱ is the square of the signal, and
//! it measures without noise.
//!
//! A travel (theirs, as in RePaint): after every `travel_length` steps noise takes the batch back to where they began,
//! and they are done again, `travel_repeat` times in all. It lets the unmeasured part come to fit the measured one.
//!
//! Published: η = 0.85, 100 steps, no travels. Samples of a measurement without noise fit it to the last digit; they are near the
//! posterior, for the same reasons as DDRM's.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running, ddrm::Bases};
use crate::{Eval, Kernel, Past, Request, Result, grid::MOST_STEPS, numbers::ensure_within};

/// Null-space sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ddnm {
    /// η, the part of a step's noise that is fresh; from 0 to 1, default 0.85.
    pub eta: f64,
    /// Steps that a travel goes back; from 1 to 1,000,000, default 1.
    pub travel_length: usize,
    /// How often these steps are done in all; from 1 to 1,000,000, default 1, no travels.
    pub travel_repeat: usize,
}

impl Default for Ddnm {
    fn default() -> Self {
        Self { eta: 0.85, travel_length: 1, travel_repeat: 1 }
    }
}

impl Method for Ddnm {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method ddnm: eta", self.eta, 0.0..=1.0)?;
        ensure_within("method ddnm: travel_length", self.travel_length, 1..=MOST_STEPS)?;
        ensure_within("method ddnm: travel_repeat", self.travel_repeat, 1..=MOST_STEPS)?;
        problem.linear_gaussian("ddnm").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, bases: Bases::of(problem, "ddnm")?, passed: Vec::new() }))
    }
}

struct Run<'a> {
    of: &'a Ddnm,
    bases: Bases<'a>,
    /// The levels that steps began at since the last travel.
    passed: Vec<Kernel>,
}

impl Run<'_> {
    fn once(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        self.bases.step(x, from, to, self.of.eta, 1.0, eval)
    }
}

impl Running for Run<'_> {
    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let mut x = self.once(x, from, to, eval)?;
        self.passed.push(*from);
        // The last sample stands: there is no way on from a travel that starts at the end.
        if self.passed.len() < self.of.travel_length || to.is_clean() {
            return Ok(x);
        }
        let mut levels = std::mem::take(&mut self.passed);
        levels.push(*to);
        for _ in 1..self.of.travel_repeat {
            x = eval.raise(x, to, &levels[0])?;
            for pair in levels.windows(2) {
                x = self.once(x, &pair[0], &pair[1], eval)?;
            }
        }
        Ok(x)
    }
}
