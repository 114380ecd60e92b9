//! Ancestral sampling: x_s ~ q(x_s given x_t, x_0 = D), whose mean is (α_t/α_s)(σ_s²/σ_t²) x_t + α_s (v/σ_t²) D with
//! v = σ_t² − (α_t/α_s)² σ_s².
//!
//! Ho et al. 2020, eq. 7 and algorithm 2 (VP); Song et al. 2021, appendix F, eq. 47 (VE): one formula in α and σ. The
//! variance is the posterior's (their σ² = β̃, "fixed small"), the forward transition's (σ² = β, "fixed large"), or what the network
//! learned between the two, ln Σ = v ln β + (1 − v) ln β̃ (Nichol & Dhariwal 2021, eq. 15). No noise is added in the step to σ = 0.
//!
//! Guidance by a gradient g of ln p(y given x_t) moves D by (σ_t²/α_t) g, or, as published by Dhariwal & Nichol 2021, algorithm 1, the mean
//! of the step by Σ g; both agree where steps are small.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{Error, Kernel, Kind, Result, names};

/// Which variance the noise has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// β̃, the variance of q(x_s given x_t, x_0): right for data that are a single point.
    #[default]
    Posterior,
    /// β, the variance of q(x_t given x_s): right for data that are N(0, I). DDPM's published CIFAR-10 samples.
    Forward,
    /// Between the two where the network says, number by number; for networks that learn variances.
    Learned,
}

impl Variance {
    /// Every name.
    pub const NAMES: [&str; 3] = ["posterior", "forward", "learned"];

    /// The one of that name.
    ///
    /// # Errors
    /// Another name, answered with the known ones.
    pub fn named(name: &str) -> Result<Self> {
        match name.to_lowercase().as_str() {
            "posterior" | "fixed_small" => Ok(Self::Posterior),
            "forward" | "fixed_large" => Ok(Self::Forward),
            "learned" => Ok(Self::Learned),
            _ => Err(names::unknown("variance", name, &Self::NAMES)),
        }
    }
}

/// What the gradient of guidance moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum GradientMoves {
    /// The score, and with it the estimate of x_0, as in every other sampler.
    #[default]
    Score,
    /// The mean of the step, by its variance times the gradient: Dhariwal & Nichol's published samples. In the step to σ = 0, where β̃ is
    /// 0, they take that of the step before for learned and forward variances.
    Mean,
}

/// Ancestral sampling.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ancestral {
    /// Variance of the noise; default the posterior's.
    pub variance: Variance,
    /// What the gradient of a classifier moves; default the score. Other guidance is not by a gradient.
    pub gradient: GradientMoves,
}

impl Ancestral {
    /// A batch times the standard deviation of a step whose variances β and β̃ these are.
    fn deviate(&self, x: Tensor<2>, learned: Option<&Tensor<2>>, forward: f64, posterior: f64) -> Result<Tensor<2>> {
        Ok(match self.variance {
            Variance::Posterior => x.mul_scalar(posterior.sqrt()),
            Variance::Forward => x.mul_scalar(forward.sqrt()),
            Variance::Learned => {
                let Some(part) = learned else {
                    return Err(Error::of(
                        Kind::Unsupported,
                        "sampler ancestral: this model has not learned variances: use variance = \"posterior\" or \"forward\"",
                    ));
                };
                // √Σ = β̃^{1/2} (β/β̃)^{v/2}.
                let deviation = part.clone().mul_scalar(0.5 * (forward / posterior).ln()).exp();
                x * deviation.mul_scalar(posterior.sqrt())
            }
        })
    }
}

impl Sampler for Ancestral {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let estimate = eval.estimate(&x, from)?;
        let learned = estimate.variance.clone();
        let moved = estimate.guided.moved.clone().filter(|_| self.gradient == GradientMoves::Mean);
        let mean = estimate.into_mean()?.value;
        let (denoised, gradient) = match moved {
            Some(moved) => (moved.from, Some(moved.gradient)),
            None => (mean, None),
        };
        let (ratio, forward) = from.transition_from(to);
        let on_x = ratio * (to.sigma / from.sigma).powi(2);
        let on_denoised = to.alpha * forward / from.sigma.powi(2);
        let mut mean = x.mul_scalar(on_x) + denoised.mul_scalar(on_denoised);
        let posterior = from.posterior_variance(to);
        // A run of one step has none before it.
        let before = eval.posterior_variance_before(from);
        if let Some(gradient) = gradient.filter(|_| !to.is_clean() || before > 0.0) {
            let (forward, posterior) = match (to.is_clean(), self.variance) {
                (false, _) | (true, Variance::Posterior) => (forward, posterior),
                (true, Variance::Forward) => (before, posterior),
                (true, Variance::Learned) => (forward, before),
            };
            let half = self.deviate(gradient, learned.as_ref(), forward, posterior)?;
            mean = mean + self.deviate(half, learned.as_ref(), forward, posterior)?;
        }
        if to.is_clean() {
            return Ok(mean);
        }
        let noise = eval.interval_noise(from, to, &mean)?;
        Ok(mean + self.deviate(noise, learned.as_ref(), forward, posterior)?)
    }

    fn order(&self) -> Option<u32> {
        None
    }

    fn starts_without_signal(&self) -> bool {
        true
    }
}
