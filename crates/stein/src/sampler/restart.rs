//! Restart sampling: the probability-flow ODE with jumps back to noisier levels, from which it runs again.
//!
//! Xu et al. 2023, "Restart Sampling for Improving Generative Processes", algorithm 1, with [EDM's Heun](super::Heun) as the ODE's method:
//! once the level nearest to t_min is reached, √(t_max² − t_min²) S_noise z takes x̄ = x/α back to t_max, and Heun's method down again on
//! a grid of its own, K times over. Noise shrinks the errors of the steps above it, the ODE makes few of its own.
//!
//! Their published code has S_noise = 0 where it is not set, which restarts without noise; their commands set 1.003.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Churn, Eval, Past, Sampler, heun::heun};
use crate::{
    Grid, Kernel, Result, Spacing, ensure,
    grid::MOST_STEPS,
    numbers::{above, ensure_within},
};

/// One interval that is run through again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// t_min, the σ/α it starts from and ends at: the nearest level of the grid is taken; positive.
    pub low: f64,
    /// t_max, the σ/α it goes back to; above `low`.
    pub high: f64,
    /// Levels on the way down, both ends included; from 2 to 1,000,000.
    pub levels: usize,
    /// K, how many times; from 1 to 1,000,000.
    pub times: usize,
}

/// Restart sampling; without intervals it is [`Heun`](super::Heun). Default: the paper's interval for CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// The intervals; default the one of the paper for CIFAR-10, from 0.06 to 0.3 with three levels, twice.
    pub intervals: Vec<Interval>,
    /// ρ of the levels in an interval; positive and at most 1000, default 7.
    pub rho: f64,
    /// S_noise, the factor on the standard deviation of the noise of a jump and of churn; from 0 to 1000, default 1.
    pub s_noise: f64,
    /// γ, by how much a step of an interval raises its level, between `s_min` and `s_max`; from 0 to √2 − 1, default 0.
    pub gamma: f64,
    /// The smallest σ/α at which γ acts; at least 0, default 0.
    pub s_min: f64,
    /// The largest σ/α at which γ acts; at least `s_min`, default ∞.
    pub s_max: f64,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            intervals: vec![Interval { low: 0.06, high: 0.3, levels: 3, times: 2 }],
            rho: 7.0,
            s_noise: 1.0,
            gamma: 0.0,
            s_min: 0.0,
            s_max: f64::INFINITY,
        }
    }
}

impl Sampler for Restart {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let mut x = heun(x, from, to, eval)?;
        let churn = Churn { s_churn: 0.0, s_min: self.s_min, s_max: self.s_max, s_noise: self.s_noise };
        for interval in &self.intervals {
            let low = to.noise_to_signal();
            if !eval.is_nearest(to, interval.low) || low >= interval.high {
                continue;
            }
            let levels = eval.grid(&Grid {
                spacing: Spacing::Karras { rho: self.rho },
                steps: interval.levels - 1,
                start: Some(eval.kernel_at_noise(interval.high).t),
                end: Some(to.t),
                clean: false,
            })?;
            for _ in 0..interval.times {
                let jump = self.s_noise * (interval.high.powi(2) - low.powi(2)).sqrt();
                let noise = eval.noise(&x)?;
                x = (x.div_scalar(to.alpha) + noise.mul_scalar(jump)).mul_scalar(levels[0].alpha);
                for pair in levels.windows(2) {
                    let (raised, above) = churn.raise_by(self.gamma, x, &pair[0], eval)?;
                    x = heun(raised, &above, &pair[1], eval)?;
                }
            }
        }
        Ok(x)
    }

    fn order(&self) -> Option<u32> {
        self.intervals.is_empty().then_some(2)
    }

    fn check(&self) -> Result<()> {
        for Interval { low, high, levels, times } in &self.intervals {
            ensure_within("sampler restart: low of an interval", *low, above(0.0, 1e6))?;
            ensure!(
                low < high,
                "sampler restart: an interval from low = {low} must end at a higher level: high = {high}"
            );
            ensure_within("sampler restart: levels of an interval", *levels, 2..=MOST_STEPS)?;
            ensure_within("sampler restart: times of an interval", *times, 1..=MOST_STEPS)?;
        }
        ensure_within("sampler restart: rho", self.rho, above(0.0, 1e3))?;
        ensure_within("sampler restart: s_noise", self.s_noise, 0.0..=1e3)?;
        ensure_within("sampler restart: gamma", self.gamma, 0.0..=std::f64::consts::SQRT_2 - 1.0)?;
        ensure!(
            self.s_min <= self.s_max,
            "sampler restart: s_min = {} must be at most s_max = {}",
            self.s_min,
            self.s_max
        );
        Ok(())
    }
}
