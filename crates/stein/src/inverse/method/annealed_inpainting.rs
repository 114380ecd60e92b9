//! Annealed Langevin dynamics with what is known held (Song & Ermon 2019, "Generative Modeling by Estimating Gradients of the Data
//! Distribution", its appendix on inpainting): at every level `steps` Langevin steps on what is not known, beside
//! the known with noise of the level.
//!
//! A level is relaxed at and then relabeled: x/α is carried to the next, and what is held gets its next noise. The paper draws that
//! noise anew at every level; here it is one draw for each sample, scaled from level to level, so that the known moves no further than
//! it must. It is for any linear operator, by its [coordinates](super::known), where the paper has a mask, and measurements may have
//! noise. The run ends with the estimate D, which the paper leaves out and Song & Ermon 2020 ("Improved Techniques for Training
//! Score-Based Generative Models") add: noise of the last level would stay in the samples.
//!
//! With many steps of a small size every level is drawn from p(x_s | y), so that the samples are draws of the posterior whatever the
//! prior, as [replacement's](super::Replacement) are. It needs more of them, since no step but these moves what is not known.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running, known::Known};
use crate::{
    Eval, Kernel, Past, Request, Result,
    grid::MOST_STEPS,
    numbers::{above, ensure_within},
};

/// Langevin steps at every level, beside what is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct AnnealedInpainting {
    /// Langevin steps at every level; from 1 to 1,000,000, default 100, as published for ten levels.
    pub steps: usize,
    /// The size a of a step x + a ∇ log p + √(2a) z over σ²; positive and at most 1, default 0.2. Published: 0.00002 at σ = 0.01,
    /// which is 0.2, in the code's meaning; the paper's algorithm takes half of it.
    pub step_size: f64,
}

impl Default for AnnealedInpainting {
    fn default() -> Self {
        Self { steps: 100, step_size: 0.2 }
    }
}

impl Method for AnnealedInpainting {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method annealed_inpainting: steps", self.steps, 1..=MOST_STEPS)?;
        ensure_within("method annealed_inpainting: step_size", self.step_size, above(0.0, 1.0))?;
        problem.linear_gaussian("annealed_inpainting").map(|_| ())
    }

    fn law(&self) -> Law {
        Law::Posterior
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, known: Known::of(problem, "annealed_inpainting")? }))
    }
}

struct Run<'a> {
    of: &'a AnnealedInpainting,
    known: Known,
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        Ok(self.known.start(&prior, at, eval))
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let mut x = x;
        for _ in 0..self.of.steps {
            x = self.known.langevin(&x, from, self.of.step_size, eval)?;
        }
        let goal = if to.is_clean() { eval.denoise(&x, from)? } else { x.clone().div_scalar(from.alpha) };
        self.known.step(&x, &goal, [from, to], 0.0, eval)
    }
}
