//! SDEdit (Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations"):
//! a picture, or strokes that stand for one, is noised to a level between, and sampled from there.
//!
//! The picture is A⁺y: y itself where A is the identity, as in the paper, and otherwise the sample of least norm that fits. The
//! measurement is a guide and nothing more; its noise is not asked for, and nothing makes the sample fit it. To keep a part of a
//! picture use [`Replacement`](super::Replacement).
//!
//! `strength` counts steps of the grid: on one that is uniform in t it is the paper's t_0. At the levels above, the observer sees
//! the noised picture, and the denoiser is not asked.
//!
//! The samples are near the posterior at best: the higher the level, the likelier as data and the less like the picture.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{
    Eval, Kernel, Past, Request, Result,
    grid::MOST_STEPS,
    inverse::linear,
    numbers::{above, ensure_within},
    sampler::ddim_step,
};

/// Sampling from the noised picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Sdedit {
    /// Which part of the grid's steps is taken, the last ones, at least one; above 0 and at most 1, default 0.5. Published: 0.3 to
    /// 0.6 of the time, with 0.5 for strokes.
    pub strength: f64,
    /// How often, each time from the last result; from 1 to 1,000,000, default 1. Published: 1 to 3.
    pub repeats: usize,
    /// η of the steps, which are DDIM's, from 0 to 1; default 1, ancestral sampling.
    pub eta: f64,
}

impl Default for Sdedit {
    fn default() -> Self {
        Self { strength: 0.5, repeats: 1, eta: 1.0 }
    }
}

impl Method for Sdedit {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method sdedit: strength", self.strength, above(0.0, 1.0))?;
        ensure_within("method sdedit: repeats", self.repeats, 1..=MOST_STEPS)?;
        ensure_within("method sdedit: eta", self.eta, 0.0..=1.0)?;
        linear(&*problem.operator, "sdedit").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, problem, picture: None, reached: 0 }))
    }
}

struct Run<'a> {
    of: &'a Sdedit,
    problem: &'a Problem,
    /// A⁺y `[rows, n]`, from the start on.
    picture: Option<Tensor<2>>,
    /// The number of the level reached, from the noisiest on.
    reached: usize,
}

impl Run<'_> {
    fn down(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        ddim_step(x, denoised, from, to, self.of.eta, eval)
    }
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let spectrum = linear(&*self.problem.operator, "sdedit")?.spectrum()?;
        let picture = self.problem.each(&prior, |row, _| spectrum.back(self.problem.y(row), &|s| 1.0 / s));
        self.picture = Some(picture.clone());
        let normal = at.sigma / at.prior_std(eval.data_variance());
        Ok(picture.mul_scalar(at.alpha) + prior.mul_scalar(normal))
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let levels = eval.levels();
        let steps = levels.len() - 1;
        let above = steps - ((self.of.strength * steps as f64).round() as usize).max(1);
        self.reached += 1;
        if let Some(picture) = self.picture.clone().filter(|_| self.reached <= above) {
            return ddim_step(x, picture, from, to, 0.0, eval);
        }
        let mut x = self.down(x, from, to, eval)?;
        if self.reached == steps {
            for _ in 1..self.of.repeats {
                eval.show(&x, to)?;
                x = eval.raise(x, to, &levels[above])?;
                for pair in levels[above..].windows(2) {
                    x = self.down(x, &pair[0], &pair[1], eval)?;
                }
            }
        }
        Ok(x)
    }
}
