//! RePaint (Lugmayr et al. 2022, "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", algorithm 1): ancestral
//! steps after which what is known is drawn anew at its level, and jumps back up, by the forward process, from which the same steps are
//! taken again, so that the unknown is brought into harmony with the known.
//!
//! Of T noisy levels, numbered from 0 at the cleanest, every `jump_length`-th below T − `jump_length` is run to `resamplings` times
//! in all: after each but the last time the batch is noised `jump_length` levels up. The published code goes up level by level,
//! which has the law of one jump. With 250 levels, jumps of 10 and 10 times it asks the denoiser 2410 times, ten times as often as
//! without.
//!
//! The paper has a mask; this is for any linear operator, by its [coordinates](super::known). Of a measurement with noise they are
//! held down to the level of that noise, and only the rest of the level's noise is added. A measurement without noise is met
//! exactly.
//!
//! The samples are near the posterior: what is known is drawn anew beside an unknown that was made for another draw of it.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running, known::Known};
use crate::{Eval, Kernel, Past, Request, Result, grid::MOST_STEPS, numbers::ensure_within, sampler::ddim_step};

/// Ancestral sampling beside what is known, with jumps back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct RePaint {
    /// How many levels a jump goes up; from 1 to 1,000,000, default 10, as published. A grid of no more levels has no jump.
    pub jump_length: usize,
    /// How often every jump's levels are run through; from 1, without jumps, to 1,000,000; default 10, as published.
    pub resamplings: usize,
}

impl Default for RePaint {
    fn default() -> Self {
        Self { jump_length: 10, resamplings: 10 }
    }
}

impl Method for RePaint {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method repaint: jump_length", self.jump_length, 1..=MOST_STEPS)?;
        ensure_within("method repaint: resamplings", self.resamplings, 1..=MOST_STEPS)?;
        problem.linear_gaussian("repaint").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, known: Known::of(problem, "repaint")?, reached: 0 }))
    }
}

struct Run<'a> {
    of: &'a RePaint,
    known: Known,
    /// The number of the level reached, from the noisiest on.
    reached: usize,
}

impl Run<'_> {
    fn down(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        let stepped = ddim_step(x, denoised, from, to, 1.0, eval)?;
        self.known.redraw(&stepped, to, eval)
    }

    /// Whether jumps start at the level reached.
    fn jumps(&self, levels: &[Kernel]) -> bool {
        let noisy = levels.iter().filter(|level| !level.is_clean()).count();
        let cleaner = noisy.checked_sub(self.reached + 1);
        cleaner.is_some_and(|t| t.is_multiple_of(self.of.jump_length) && t + self.of.jump_length < noisy)
    }
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        Ok(self.known.start(&prior, at, eval))
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let mut x = self.down(x, from, to, eval)?;
        self.reached += 1;
        let levels = eval.levels();
        if self.jumps(levels) {
            let again = &levels[self.reached - self.of.jump_length..=self.reached];
            for _ in 1..self.of.resamplings {
                eval.show(&x, to)?;
                x = eval.raise(x, to, &again[0])?;
                for pair in again.windows(2) {
                    x = self.down(x, &pair[0], &pair[1], eval)?;
                }
            }
        }
        Ok(x)
    }
}
