//! A sampler's whole world: it counts evaluations, draws noise, and remembers what multistep methods look back at.

use std::collections::VecDeque;

use burn::tensor::Tensor;

use super::Request;
use crate::{Condition, Denoiser, Kernel, Result, Schedule, denoiser::score, noise::Draws, rows};

/// How many steps are remembered: as many as the deepest multistep method looks back.
const DEPTH: usize = 3;

/// The denoiser, the noise and the past of one run.
pub struct Eval<'a> {
    denoiser: &'a dyn Denoiser,
    schedule: &'a dyn Schedule,
    given: &'a Condition,
    last_level: Kernel,
    data_variance: f64,
    draws: Draws<'a>,
    evaluations: usize,
    /// Level, next level and denoised batch of the last steps, the latest at the back.
    past: VecDeque<(Kernel, Kernel, Tensor<2>)>,
}

impl<'a> Eval<'a> {
    pub(super) fn new(
        denoiser: &'a dyn Denoiser,
        schedule: &'a dyn Schedule,
        kernels: &[Kernel],
        request: &'a Request,
    ) -> Self {
        let last_level = *kernels.iter().rev().find(|kernel| !kernel.is_clean()).unwrap_or(&kernels[0]);
        Self {
            denoiser,
            schedule,
            given: &request.given,
            last_level,
            data_variance: request.data_variance,
            draws: Draws::new(request),
            evaluations: 0,
            past: VecDeque::with_capacity(DEPTH),
        }
    }

    /// D(x) at one level for the whole batch.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn denoise(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<Tensor<2>> {
        self.evaluations += 1;
        self.denoiser.denoise(x.clone(), &vec![*at; x.dims()[0]], self.given)
    }

    /// D(x) of some rows of the batch, each at its own level.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn denoise_rows(&mut self, x: &Tensor<2>, at: &[Kernel], batch_rows: &[usize]) -> Result<Tensor<2>> {
        self.evaluations += 1;
        self.denoiser.denoise(x.clone(), at, &self.given.select(batch_rows))
    }

    /// The score at one level for the whole batch.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn score(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<Tensor<2>> {
        let denoised = self.denoise(x, at)?;
        Ok(score(x.clone(), denoised, &[*at]))
    }

    /// Fresh standard normal noise of the batch's shape, keyed by (seed, sample, number of the draw), or the next of
    /// the [given](crate::noise::Source::Given) draws.
    ///
    /// # Errors
    /// No given draw is left, or it is not of the batch's shape.
    pub fn noise(&mut self, like: &Tensor<2>) -> Result<Tensor<2>> {
        self.draws.normal(like)
    }

    /// The kernel at a time between the grid's levels.
    pub fn kernel(&self, t: f64) -> Kernel {
        self.schedule.kernel(t)
    }

    /// The kernel of the run's schedule at a noise-to-signal ratio σ/α.
    pub fn kernel_at_noise(&self, noise_to_signal: f64) -> Kernel {
        self.schedule.kernel(self.schedule.time_at(-2.0 * noise_to_signal.ln()))
    }

    /// The cleanest level of the grid that still has noise.
    pub fn last_level(&self) -> &Kernel {
        &self.last_level
    }

    /// Var\[data\] of the prior: mean over the coordinates.
    pub fn data_variance(&self) -> f64 {
        self.data_variance
    }

    /// Calls of the denoiser so far.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Remembers the denoised batch of the step `from` → `to`.
    pub fn remember(&mut self, from: &Kernel, to: &Kernel, denoised: Tensor<2>) {
        if self.past.len() == DEPTH {
            self.past.pop_front();
        }
        self.past.push_back((*from, *to, denoised));
    }

    /// The level and denoised batch of the step that led to `from`, if one was remembered; asked for that level again,
    /// the step before it. Three steps are remembered.
    pub fn previous(&self, from: &Kernel) -> Option<(Kernel, Tensor<2>)> {
        self.past.iter().rev().find(|(_, to, _)| to == from).map(|(at, _, denoised)| (*at, denoised.clone()))
    }
}

/// ε̂ = (x − αD)/σ.
pub(super) fn eps(x: Tensor<2>, denoised: Tensor<2>, at: &Kernel) -> Tensor<2> {
    (x - denoised.mul_scalar(at.alpha)).div_scalar(at.sigma)
}

/// The probability-flow velocity α̇ D + σ̇ ε̂ of rows at their levels.
pub(super) fn velocity(x: Tensor<2>, denoised: Tensor<2>, at: &[Kernel]) -> Tensor<2> {
    let noise: Vec<f64> = at.iter().map(|k| k.d_sigma / k.sigma).collect();
    let signal: Vec<f64> = at.iter().map(|k| k.d_alpha - k.d_sigma * k.alpha / k.sigma).collect();
    rows::scale(x, &noise) + rows::scale(denoised, &signal)
}
