//! Iterative latent variable refinement (Choi et al. 2021, "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models"):
//! after every step x_s ← x_s − Φ(x_s) + Φ(q(reference, s)), what Φ sees of the sample becomes what it sees of the
//! noised reference.
//!
//! The paper's Φ shrinks pictures and enlarges them again; here it is the projection A⁺A of any linear operator, and the reference
//! A⁺y, so that the measurement is what the sample shares with it. Its noise is drawn anew at every level, and only what the
//! measurement's own does not make up. Below the level `until` the reference is followed no longer: the paper's way to samples that
//! are only like it. With `until` = 0 a measurement without noise is met exactly.
//!
//! The published code noises the reference to the level that the step starts from, and puts it into a sample at the level where it ends;
//! here both are at the same.
//!
//! The samples are near the posterior, as [RePaint's](super::RePaint), whose steps without jumps these are.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running, known::Known};
use crate::{Eval, Kernel, Past, Request, Result, numbers::ensure_within, sampler::ddim_step};

/// Steps after which the measured part is that of a noised reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ilvr {
    /// The noise level σ/α below which the reference is not followed, from 0 to 1e6; default 0, down to the end. Published: 0.72,
    /// which is step 20 of 100 on DDPM's linear schedule.
    pub until: f64,
    /// η of the step, which is DDIM's, from 0 to 1; default 1, ancestral sampling, as published.
    pub eta: f64,
}

impl Default for Ilvr {
    fn default() -> Self {
        Self { until: 0.0, eta: 1.0 }
    }
}

impl Method for Ilvr {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method ilvr: until", self.until, 0.0..=1e6)?;
        ensure_within("method ilvr: eta", self.eta, 0.0..=1.0)?;
        problem.linear_gaussian("ilvr").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, known: Known::of(problem, "ilvr")? }))
    }
}

struct Run<'a> {
    of: &'a Ilvr,
    known: Known,
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        Ok(self.known.start(&prior, at, eval))
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        let stepped = ddim_step(x, denoised, from, to, self.of.eta, eval)?;
        if to.noise_to_signal() < self.of.until { Ok(stepped) } else { self.known.redraw(&stepped, to, eval) }
    }
}
