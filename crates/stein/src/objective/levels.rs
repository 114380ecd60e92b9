//! How the levels of training examples are drawn.
//!
//! Distributions of time speak of a place on the schedule's span, from 0 at its cleanest time to 1 at its noisiest, in proportion to
//! time: on the schedules that span \[0, 1\] it is t itself, but for the sliver below t_min. A `shift` moves what was drawn to where
//! σ/α is that many times as large, over the same span, as the grid of that name does ([`shifted_time`]).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::times;
use crate::{
    Kernel, Keys, Purpose, Result, Schedule, ensure,
    numbers::{above, ensure_within},
    schedule::shifted_time,
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
        /// How many times as large σ/α is made; above 0 and at most 1e6, and above 1 for more noise.
        #[serde(default = "unshifted", skip_serializing_if = "is_unshifted")]
        shift: f64,
    },
    /// The logit of the place on the span ~ N(mean, std²): few levels near the ends (Esser et al. 2024, eq. 19).
    ///
    /// On the schedule `rectified` the logit of t is ln(σ/α), so that there it is `log_normal` with nothing to clamp.
    #[serde(alias = "logitnormal")]
    LogitNormal {
        /// Mean of the logit, any number; above 0 for more noise.
        #[serde(default)]
        mean: f64,
        /// Standard deviation of the logit, above 0.
        #[serde(default = "default_logit_std")]
        std: f64,
        /// How many times as large σ/α is made; above 0 and at most 1e6, and above 1 for more noise. Published: 3, at 1024 x 1024 pixels.
        #[serde(default = "unshifted", skip_serializing_if = "is_unshifted")]
        shift: f64,
    },
    /// The place on the span is 1 − u − s (cos²(πu/2) − 1 + u) for a uniform u: more levels in the middle, and some up to the ends
    /// (Esser et al. 2024, eq. 20).
    Mode {
        /// s, from −1, which favors the ends, over 0, which is uniform, to 2/(π − 2) = 1.75.
        #[serde(default = "default_mode_scale")]
        scale: f64,
        /// How many times as large σ/α is made; above 0 and at most 1e6, and above 1 for more noise.
        #[serde(default = "unshifted", skip_serializing_if = "is_unshifted")]
        shift: f64,
    },
    /// The place on the span is 1 − 1/(tan(πu/2) + 1) for a uniform u, with density 2/(π(1 − 2t + 2t²)): on the schedule `rectified`
    /// the levels of the schedule `trigonometric` at uniform times (Esser et al. 2024, eq. 21).
    Cosmap {
        /// How many times as large σ/α is made; above 0 and at most 1e6, and above 1 for more noise.
        #[serde(default = "unshifted", skip_serializing_if = "is_unshifted")]
        shift: f64,
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
        /// σ/α of the level, one of the schedule's; `inf` for the noisy end of one that keeps no signal there, whose estimates lead from
        /// noise to data in one step.
        noise: f64,
    },
}

fn default_log_mean() -> f64 {
    -1.2
}

fn default_log_std() -> f64 {
    1.2
}

fn default_logit_std() -> f64 {
    1.0
}

fn default_mode_scale() -> f64 {
    1.29
}

fn unshifted() -> f64 {
    1.0
}

fn is_unshifted(shift: &f64) -> bool {
    *shift == unshifted()
}

/// EDM's log-normal.
impl Default for LevelDistribution {
    fn default() -> Self {
        Self::LogNormal { mean: default_log_mean(), std: default_log_std() }
    }
}

impl LevelDistribution {
    /// Uniform over the span.
    pub const UNIFORM: Self = Self::Uniform { t_min: None, shift: 1.0 };

    /// Fails, saying which setting and what it may be, if it is none on this schedule.
    pub fn check(&self, schedule: &dyn Schedule) -> Result<()> {
        let (first, last) = schedule.span();
        match *self {
            Self::Uniform { t_min, .. } | Self::Importance { t_min } => {
                let low = t_min.unwrap_or(first);
                ensure!(
                    low < last && schedule.kernel(low).sigma > 1e-12,
                    "objective: t_min = {low} must be a noisy time below {last}"
                );
            }
            Self::LogitNormal { mean, std, .. } => {
                ensure_within("objective: the mean of the logit-normal", mean, -20.0..=20.0)?;
                ensure_within("objective: the std of the logit-normal", std, above(0.0, 10.0))?;
            }
            Self::Mode { scale, .. } => {
                ensure_within("objective: the scale of mode", scale, -1.0..=times::LARGEST_MODE_SCALE)?;
            }
            Self::Cosmap { .. } => {}
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
        if let Self::Uniform { shift, .. }
        | Self::LogitNormal { shift, .. }
        | Self::Mode { shift, .. }
        | Self::Cosmap { shift } = *self
        {
            ensure_within("objective: the shift of the levels", shift, above(0.0, 1e6))?;
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
        let normal = || keys.normal(Purpose::Level, 0, 1).into_iter();
        match *self {
            Self::Uniform { t_min, shift } => placed(schedule, (t_min.unwrap_or(first), last), shift, uniform()),
            Self::LogitNormal { mean, std, shift } => {
                placed(schedule, (first, last), shift, normal().map(|z| times::logit_normal(mean, std, z)))
            }
            Self::Mode { scale, shift } => {
                placed(schedule, (first, last), shift, uniform().map(|u| times::mode(scale, u)))
            }
            Self::Cosmap { shift } => placed(schedule, (first, last), shift, uniform().map(times::cosmap)),
            Self::DiscreteUniform {} => {
                let levels = last + 1.0;
                uniform().map(|u| (schedule.kernel((u * levels).floor()), 1.0)).collect()
            }
            Self::LogNormal { mean, std } => normal()
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

/// The levels at places of a span, 0 its cleanest time and 1 its noisiest, each moved to where σ/α is `shift` times as large. What
/// the places are of is moved the other way before, so that they cover the same span.
fn placed(
    schedule: &dyn Schedule,
    (low, high): (f64, f64),
    shift: f64,
    places: impl Iterator<Item = f64>,
) -> Vec<(Kernel, f64)> {
    let [bottom, top] = [low, high].map(|t| shifted_time(schedule, t, 1.0 / shift));
    places
        .map(|place| shifted_time(schedule, bottom + (top - bottom) * place, shift).clamp(low, high))
        .map(|t| (schedule.kernel(t), 1.0))
        .collect()
}
