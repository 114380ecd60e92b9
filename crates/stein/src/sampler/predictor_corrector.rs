//! Predictor–corrector: at every level some Langevin steps that keep it (the corrector), then a step to the next (the
//! predictor).
//!
//! With a predictor that cannot reach σ = 0 the last level is denoised without a correction.
//!
//! Song et al. 2021, algorithms 1–5. Their code corrects first and then predicts, and so does this by default; their
//! algorithm 1 prints the other order. The corrector's step is 2a (snr ‖z‖/‖s‖)² (`langevin`) or 2a (snr σ)²
//! (`annealed`), a = 1 for VE and 1 − β_i = (α_t/α_s)² for VP. The published snr are for their data: 0.16 on CIFAR-10
//! (0.176 for `annealed`).
//!
//! The norms of `langevin` are a sample's own; the reference code averages them over the batch (`batch_langevin`),
//! which makes an image depend on its batch-mates. In many dimensions a norm is close to its mean and the two agree. In
//! few it is not: near a mode ‖s‖ → 0 and the step would have no bound, so (‖z‖/‖s‖)² is kept to σ² + α² Var\[data\],
//! what the Cramér–Rao bound E‖s‖² ≥ dim/(σ² + α² Var\[data\]) leaves to a typical score; and a step that depends on x
//! changes what Langevin dynamics converges to. `annealed` has neither trouble and is the default; use `langevin` for
//! images.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnySampler, Eval, Past, ReverseDiffusion, Sampler};
use crate::{
    Kernel, Result, ensure,
    grid::MOST_STEPS,
    numbers::{above, ensure_within},
};

/// How the corrector chooses its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Corrector {
    /// From the norms of noise and score, sample by sample; for data of many dimensions.
    Langevin,
    /// From the norms of noise and score averaged over the batch, without a bound: the published code's. A sample
    /// depends on its batch-mates.
    BatchLangevin,
    /// From σ, as annealed Langevin dynamics does.
    Annealed,
}

/// A predictor and a corrector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct PredictorCorrector {
    /// Any sampler that steps on a grid; default reverse diffusion.
    pub predictor: Box<AnySampler>,
    /// The corrector; default `annealed`.
    pub corrector: Corrector,
    /// Corrector steps per level; at most 1,000,000, default 1. With 0 this is the predictor.
    pub steps: usize,
    /// Target signal-to-noise ratio r of a corrector step; positive and at most 1000, default 0.16.
    pub snr: f64,
    /// Whether the corrector acts before the predictor; default true.
    pub corrector_first: bool,
}

impl Default for PredictorCorrector {
    fn default() -> Self {
        Self {
            predictor: Box::new(ReverseDiffusion {}.into()),
            corrector: Corrector::Annealed,
            steps: 1,
            snr: 0.16,
            corrector_first: true,
        }
    }
}

impl PredictorCorrector {
    fn correct(&self, mut x: Tensor<2>, at: &Kernel, a: f64, eval: &mut Eval) -> Result<Tensor<2>> {
        for taken in 1..=self.steps {
            let score = eval.score(&x, at)?;
            let noise = eval.noise(&x)?;
            let norm = |rows: &Tensor<2>| rows.clone().square().sum_dim(1).sqrt();
            let from_ratio = |ratio: Tensor<2>| ratio.mul_scalar(self.snr).square().mul_scalar(2.0 * a);
            x = match self.corrector {
                Corrector::Langevin => {
                    let largest = at.prior_std(eval.data_variance());
                    let step = from_ratio((norm(&noise) / norm(&score)).clamp_max(largest));
                    x + score * step.clone() + noise * step.mul_scalar(2.0).sqrt()
                }
                Corrector::BatchLangevin => {
                    let step = from_ratio(norm(&noise).mean_dim(0) / norm(&score).mean_dim(0));
                    x + score * step.clone() + noise * step.mul_scalar(2.0).sqrt()
                }
                Corrector::Annealed => {
                    let step = 2.0 * a * (self.snr * at.sigma).powi(2);
                    x + score.mul_scalar(step) + noise.mul_scalar((2.0 * step).sqrt())
                }
            };
            if self.corrector_first || taken < self.steps {
                eval.show(&x, at)?;
            }
        }
        Ok(x)
    }
}

impl Sampler for PredictorCorrector {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let a = (from.alpha / to.alpha).powi(2);
        if self.corrector_first {
            let corrected = self.correct(x, from, a, eval)?;
            self.predictor.step(corrected, from, to, eval, past)
        } else {
            let predicted = self.predictor.step(x, from, to, eval, past)?;
            if to.is_clean() || self.steps == 0 {
                return Ok(predicted);
            }
            eval.show(&predicted, to)?;
            self.correct(predicted, to, a, eval)
        }
    }

    fn order(&self) -> Option<u32> {
        if self.steps == 0 { self.predictor.order() } else { None }
    }

    fn moves(&self) -> usize {
        self.steps + self.predictor.moves()
    }

    fn reaches_clean(&self) -> bool {
        self.predictor.reaches_clean()
    }

    fn starts_without_signal(&self) -> bool {
        self.predictor.starts_without_signal() && (self.steps == 0 || !self.corrector_first)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            !self.predictor.adaptive() && !matches!(*self.predictor, AnySampler::PredictorCorrector(_)),
            "sampler predictor_corrector: {} cannot be its predictor, which must step on a grid by itself",
            self.predictor.kind()
        );
        ensure_within("sampler predictor_corrector: snr", self.snr, above(0.0, 1e3))?;
        ensure_within("sampler predictor_corrector: steps", self.steps, ..=MOST_STEPS)?;
        self.predictor.check()
    }
}
