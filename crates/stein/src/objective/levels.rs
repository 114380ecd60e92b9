//! How the levels of training examples are drawn.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Kernel, Keys, Purpose, Result, Schedule, ensure,
    numbers::{above, ensure_within},
};

/// How the level of a training example is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LevelDistribution {
    /// t uniform over the schedule's span, or from `t_min` (Score-SDE trains from 0.00001).
    Uniform {
        /// The cleanest time to draw instead of the schedule's; a noisy time below the end of its span.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        t_min: Option<f64>,
    },
    /// A trained level of a discrete schedule, all equally likely (NCSN, DDPM).
    #[serde(alias = "discrete")]
    DiscreteUniform {},
    /// ln(σ/α) ~ N(mean, std²), clamped to the span, whose ends get the rest of its mass (Karras et al. 2022: −1.2, 1.2).
    #[serde(alias = "lognormal")]
    LogNormal {
        /// Mean of ln(σ/α), any number.
        #[serde(default = "default_log_mean")]
        mean: f64,
        /// Standard deviation of ln(σ/α), above 0.
        #[serde(default = "default_log_std")]
        std: f64,
    },
    /// Density ∝ g²/σ², and the loss times (uniform density)/(this density), so that its expectation is the uniform one's
    /// with less variance under likelihood weighting (Song et al. 2021, "Maximum Likelihood Training", section 5.1).
    ///
    /// g²/σ² is −d log-SNR/dt, so this is the uniform distribution in log-SNR.
    Importance {
        /// The cleanest time to draw instead of the schedule's; a noisy time below the end of its span.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        t_min: Option<f64>,
    },
    /// One level for all (Vincent 2011): what is learned is the score at that level alone.
    Single {
        /// σ/α of the level, one of the schedule's.
        noise: f64,
    },
}

fn default_log_mean() -> f64 {
    -1.2
}

fn default_log_std() -> f64 {
    1.2
}

/// EDM's log-normal.
impl Default for LevelDistribution {
    fn default() -> Self {
        Self::LogNormal { mean: default_log_mean(), std: default_log_std() }
    }
}

impl LevelDistribution {
    /// Fails, saying which setting and what it may be, if it is none on this schedule.
    pub fn check(&self, schedule: &dyn Schedule) -> Result<()> {
        let (first, last) = schedule.span();
        match *self {
            Self::Uniform { t_min } | Self::Importance { t_min } => {
                let low = t_min.unwrap_or(first);
                ensure!(
                    low < last && schedule.kernel(low).sigma > 1e-12,
                    "objective: t_min = {low} must be a noisy time below {last}"
                );
            }
            Self::DiscreteUniform {} => {
                ensure!(schedule.levels().is_some(), "objective: discrete_uniform levels need the discrete schedule");
            }
            Self::LogNormal { mean, std } => {
                ensure_within("objective: the mean of the log-normal", mean, -20.0..=20.0)?;
                ensure_within("objective: the std of the log-normal", std, above(0.0, 10.0))?;
            }
            Self::Single { noise } => {
                let (least, most) = (schedule.kernel(first).noise_to_signal(), schedule.kernel(last).noise_to_signal());
                ensure!(
                    noise > 0.0 && noise >= least * (1.0 - 1e-9) && noise <= most * (1.0 + 1e-9),
                    "objective: the noise {noise} of a single level is not among the schedule's, from {least} to {most}"
                );
            }
        }
        ensure!(
            schedule.kernel(last).alpha > 0.0 || !matches!(self, Self::Importance { .. }),
            "objective: importance levels are uniform in log-SNR, which this schedule takes to minus infinity"
        );
        Ok(())
    }

    /// One level and factor per example; the factor on the loss undoes importance sampling. The schedule must have passed
    /// [`check`](Self::check), which is not repeated here.
    pub fn draw(&self, schedule: &dyn Schedule, keys: &Keys) -> Vec<(Kernel, f64)> {
        let (first, last) = schedule.span();
        let uniform = || keys.uniform(Purpose::Level, 0).into_iter();
        match *self {
            Self::Uniform { t_min } => {
                let low = t_min.unwrap_or(first);
                uniform().map(|u| (schedule.kernel(low + (last - low) * u), 1.0)).collect()
            }
            Self::DiscreteUniform {} => {
                let levels = last + 1.0;
                uniform().map(|u| (schedule.kernel((u * levels).floor()), 1.0)).collect()
            }
            Self::LogNormal { mean, std } => keys
                .normal(Purpose::Level, 0, 1)
                .into_iter()
                .map(|z| schedule.time_at(-2.0 * (mean + std * z)).clamp(first, last))
                .map(|t| (schedule.kernel(t), 1.0))
                .collect(),
            Self::Single { noise } => {
                let t = schedule.time_at(-2.0 * noise.ln()).clamp(first, last);
                vec![(schedule.kernel(t), 1.0); keys.len()]
            }
            Self::Importance { t_min } => {
                let low = t_min.unwrap_or(first);
                let (top, bottom) = (schedule.kernel(low).log_snr(), schedule.kernel(last).log_snr());
                uniform()
                    .map(|u| {
                        let at = schedule.kernel(schedule.time_at(top + (bottom - top) * u));
                        let density = at.diffusion_squared() / at.sigma.powi(2) / (top - bottom);
                        (at, 1.0 / ((last - low) * density))
                    })
                    .collect()
            }
        }
    }
}
