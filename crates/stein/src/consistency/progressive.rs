//! Progressive distillation (Salimans and Ho 2022, arXiv:2202.00512, algorithm 2): a denoiser learns to make one deterministic step where
//! its teacher makes two, becomes the teacher, and learns to halve the steps again.
//!
//! The teacher's two steps of DDIM from σ_1 over σ_2 to σ_3 (σ = σ_t/α_t, x̂ = x/α) are one step with the estimate
//! D̃ = (σ_1 x̂_3 − σ_3 x̂_1)/(σ_1 − σ_3), on which the student's D(x_1) is regressed. What is learned is no posterior mean but the
//! estimate that suits steps of this length; it is a denoiser for the sampler and the grid it was distilled with.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Metric, PairWeighting, RowLosses, Solver, pair};
use crate::{
    Denoiser, Examples, Grid, Kernel, Keys, Network, Preconditioned, Purpose, Result, Schedule, Tensor, ensure, rows,
};

/// How many steps the student makes: `first` for `stage` training steps, and then half as many; stages of two steps and of one last
/// twice as long (as in the code of Song et al. 2023), the last to the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Halving {
    /// Steps at first, a power of two from 1 to 65536; default 16.
    pub first: usize,
    /// Training steps of a stage, at least 1; default 1000.
    pub stage: u64,
}

impl Default for Halving {
    fn default() -> Self {
        Self { first: 16, stage: 1000 }
    }
}

impl Halving {
    /// Fails unless its numbers are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.first.is_power_of_two() && self.first <= 65536,
            "halving.first = {} must be a power of two from 1 to 65536",
            self.first
        );
        ensure!(self.stage > 0, "halving.stage is 0: give the training steps of a stage");
        Ok(())
    }

    /// The steps of the student at training step k.
    pub fn at(&self, step: u64) -> usize {
        let mut steps = self.first;
        let mut left = step;
        loop {
            let lasts = if steps <= 2 { 2 * self.stage } else { self.stage };
            if steps == 1 || left < lasts {
                return steps;
            }
            left -= lasts;
            steps /= 2;
        }
    }

    /// Whether the student becomes the teacher after training step k.
    pub fn ends(&self, step: u64) -> bool {
        self.at(step) != self.at(step + 1)
    }
}

/// Three levels of each row, the noisiest first: a step of the student, and where the teacher's two meet.
pub struct Halves {
    /// Where both start.
    pub from: Vec<Kernel>,
    /// After the teacher's first step.
    pub middle: Vec<Kernel>,
    /// Where both end.
    pub to: Vec<Kernel>,
}

impl Halves {
    /// Steps of a grid of so many between the ends of a schedule, ρ = 7, each as likely.
    ///
    /// # Errors
    /// A schedule that has no such levels.
    pub fn drawn(steps: usize, schedule: &dyn Schedule, keys: &Keys) -> Result<Self> {
        let levels = Grid { clean: false, ..Grid::karras(2 * steps) }.kernels(schedule)?;
        let mut drawn = Self { from: Vec::new(), middle: Vec::new(), to: Vec::new() };
        for u in keys.uniform(Purpose::Level, 0) {
            let i = 2 * (u * steps as f64) as usize;
            drawn.from.push(levels[i]);
            drawn.middle.push(levels[i + 1]);
            drawn.to.push(levels[i + 2]);
        }
        Ok(drawn)
    }

    /// The loss of every row: the weighted distance of the student's estimate from the one that the teacher's two steps amount to.
    ///
    /// # Errors
    /// Those of the networks.
    pub fn losses(
        self,
        student: &Preconditioned<&dyn Network>,
        teacher: &dyn Denoiser,
        examples: &Examples,
        eps: &Tensor<2>,
        dropout: Option<&Keys>,
        (metric, weighting): (Metric, PairWeighting),
    ) -> Result<RowLosses> {
        let Self { from, middle, to } = self;
        let x = pair::noisy(examples.x0, eps, &from);
        let half = Solver::Euler.step(teacher, &x, &from, &middle, examples.given)?;
        let end = Solver::Euler.step(teacher, &half, &middle, &to, examples.given)?;
        // Of the noisier level in the length of the step.
        let part = |from: &Kernel, to: &Kernel| 1.0 / (1.0 - to.noise_to_signal() / from.noise_to_signal());
        let target = rows::scale(end, &pair::with(&from, &to, |from, to| part(from, to) / to.alpha))
            - rows::scale(x.clone(), &pair::with(&from, &to, |from, to| (part(from, to) - 1.0) / from.alpha));
        let denoised = student.estimate_at(x.into(), (&from[..]).into(), examples.given, dropout)?.mean.value;
        let weights = pair::with(&from, &to, |from, to| weighting.weight(from, to));
        Ok(RowLosses { losses: rows::scale(metric.of(denoised - target), &weights), at: from })
    }
}
