//! Annealed Langevin dynamics: `steps` Langevin steps at every level, with a step size ∝ σ_i²/σ_L².
//!
//! Song & Ermon 2019, algorithm 1, writes x ← x + (a/2) s + √a z with a = ε σ_i²/σ_L²; their code takes x + a s + √(2a) z,
//! twice the step. Song & Ermon 2020 (NCSNv2) follows the code and adds a final denoising step x + σ_L² s.
//!
//! It relaxes at a level and relabels: x/α is carried from level to level, so on schedules with α ≠ 1 it runs on x/α, whose
//! noise is σ/α (D(x; α, σ) = D(x/α; 1, σ/α)). On a grid with `clean = false` the last level is a label only: no step is taken
//! there. It follows no trajectory and has no order. With a single level it is plain Langevin dynamics.
//!
//! With `metropolis` a move to x' is made with probability min(1, e^r) and the row stays otherwise (MALA; Roberts & Tweedie 1996,
//! "Exponential convergence of Langevin distributions and their discrete approximations"):
//!
//! > r = ln p(x') − ln p(x) + ‖x' − x − a s(x)‖²/(4a) − ‖x − x' − a s(x')‖²/(4a)
//!
//! in the code's a, which makes p exactly the law at the level however long the steps are. ln p(x') − ln p(x) is the integral of the score
//! along the way (Sjöberg et al. 2023, arXiv:2307.14012), by Simpson's rule: exact for scores that are cubic there, and otherwise off by
//! O(‖x' − x‖⁵). A field that is the slope of no density, as most networks are, has integrals that depend on the way, and then p is no
//! single law: exact models and energies ([`Potential`](crate::Potential)) have a slope.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{
    Kernel, Result,
    grid::MOST_STEPS,
    numbers::{above, ensure_within},
};

/// Whose step size `epsilon` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// x + (a/2) s + √a z.
    Paper,
    /// x + a s + √(2a) z, the published configurations' meaning.
    Code,
}

/// Annealed Langevin dynamics. Defaults: NCSN's published code, 100 steps per level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Langevin {
    /// ε: the step size at the last level; multiplied by (σ_i/σ_L)² at level i. Default 0.2 σ_L², which for NCSN's σ_L = 0.01
    /// is its published 0.00002; `stein data stats` prints NCSNv2's choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Langevin steps at each level; default 100.
    pub steps: usize,
    /// What ε means; default the code's.
    pub convention: Convention,
    /// Whether to end with the denoised sample x + σ_L² s; default true. Otherwise noise of about σ_L stays.
    pub denoise: bool,
    /// Whether moves are accepted or not by Metropolis's rule, which takes away what finite steps get wrong, at two evaluations a step instead
    /// of one; default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub metropolis: bool,
}

/// NCSN's 0.00002 over its σ_L² = 0.0001.
const RELATIVE_STEP: f64 = 0.2;

impl Default for Langevin {
    fn default() -> Self {
        Self { epsilon: None, steps: 100, convention: Convention::Code, denoise: true, metropolis: false }
    }
}

impl Sampler for Langevin {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let last = eval.last_level().noise_to_signal().powi(2);
        let growth = from.noise_to_signal().powi(2) / last;
        let halved = if self.convention == Convention::Paper { 0.5 } else { 1.0 };
        // a of the code's form, on x/α; on x itself a Langevin step of α² a is the same move.
        let a = self.epsilon.unwrap_or(RELATIVE_STEP * last) * growth * from.alpha.powi(2) * halved;
        let mut x = x;
        let mut known = None;
        for taken in 1..=self.steps {
            let score = match known.take() {
                Some(score) => score,
                None => eval.score(&x, from)?,
            };
            if self.metropolis {
                let (moved, score) = accepted(x, score, a, from, eval)?;
                (x, known) = (moved, Some(score));
            } else {
                let noise = eval.noise(&x)?;
                x = x + score.mul_scalar(a) + noise.mul_scalar((2.0 * a).sqrt());
            }
            if taken < self.steps {
                eval.show(&x, from)?;
            }
        }
        if to.is_clean() && self.denoise {
            return eval.denoise(&x, from);
        }
        Ok(x.mul_scalar(to.alpha / from.alpha))
    }

    fn order(&self) -> Option<u32> {
        None
    }

    fn moves(&self) -> usize {
        self.steps
    }

    fn check(&self) -> Result<()> {
        if let Some(epsilon) = self.epsilon {
            ensure_within("sampler langevin: epsilon", epsilon, above(0.0, 1e9))?;
        }
        ensure_within("sampler langevin: steps", self.steps, 1..=MOST_STEPS)
    }
}

/// Where rows are after a step of length `a` that is made or not, and the score there.
fn accepted(x: Tensor<2>, score: Tensor<2>, a: f64, at: &Kernel, eval: &mut Eval) -> Result<(Tensor<2>, Tensor<2>)> {
    let [count, dim] = x.dims();
    // Two numbers more than a move has: half the sum of their squares is an exponential draw, for Metropolis's test.
    let fresh = eval.noise(&Tensor::zeros([count, dim + 2], (&x.device(), x.dtype())))?;
    let (z, test) = (fresh.clone().narrow(1, 0, dim), fresh.narrow(1, dim, 2));
    let there = x.clone() + score.clone().mul_scalar(a) + z.clone().mul_scalar((2.0 * a).sqrt());
    let way = there.clone() - x.clone();
    let middle = eval.score(&(x.clone() + way.clone().mul_scalar(0.5)), at)?;
    let score_there = eval.score(&there, at)?;
    let mean = (score.clone() + middle.mul_scalar(4.0) + score_there.clone()).div_scalar(6.0);
    let back = (way.clone() + score_there.clone().mul_scalar(a)).square().div_scalar(4.0 * a);
    let ratio = (way * mean + z.square().mul_scalar(0.5) - back).sum_dim(1) + test.square().sum_dim(1).mul_scalar(0.5);
    // A ratio that is not a number is no reason to go.
    let stays = ratio.greater_equal_elem(0.0).bool_not().expand([count, dim]);
    Ok((there.mask_where(stays.clone(), x), score_there.mask_where(stays, score)))
}
