//! The one denoising objective: draw a level and ε, regress the raw output F on a·x_0 + b·ε with a weight.
//!
//! L = E w(t) ‖F − (a x_0 + b ε)‖² / dim. Weight 1 with the right prediction *is* DDPM's L_simple (eps), NCSN's σ² weighting
//! (eps), EDM's λ (edm), conditional flow matching (velocity) and the v-loss. The other weights are given on the error of
//! x̂_0 and enter through x̂_0's factor: an error of F is an error of x̂_0 times c_out, so w = λ c_out².

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Condition, Factors, Kernel, Keys, Levels, Network, Preconditioned, Purpose, Result, Schedule, ensure, noise,
    numbers::{above, ensure_within},
    rows,
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
}

fn default_log_mean() -> f64 {
    -1.2
}

fn default_log_std() -> f64 {
    1.2
}

/// The weight of a level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Weighting {
    /// 1 on the raw output.
    Unit {},
    /// 1 on the error of ε, whatever is predicted: DDPM's L_simple, NCSN's λ = σ² on that of the score.
    #[serde(alias = "simple", alias = "l_simple")]
    Eps {},
    /// g² on the score's error (Song et al. 2021): λ = g² α²/σ⁴.
    Likelihood {},
    /// min(SNR, γ) on the error of x̂_0 (Hang et al. 2023, eq. 8; γ = 5).
    #[serde(alias = "minsnr", alias = "min_snr_gamma")]
    MinSnr {
        /// γ, the largest weight on the error of x̂_0; above 0.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// EDM's λ = (σ² + α²σ_d²)/(σσ_d)² on the error of x̂_0 (Karras et al. 2022, table 1).
    Edm {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
    },
}

fn default_gamma() -> f64 {
    5.0
}

impl Weighting {
    /// w at a level with σ > 0: the weight on ‖F − target‖², for a raw output whose error reaches x̂_0 times `out`.
    pub fn weight(&self, at: &Kernel, out: f64) -> f64 {
        match *self {
            Self::Unit {} => 1.0,
            Self::Eps {} => at.log_snr().exp() * out.powi(2),
            Self::Likelihood {} => at.diffusion_squared() * at.alpha.powi(2) / at.sigma.powi(4) * out.powi(2),
            Self::MinSnr { gamma } => at.log_snr().exp().min(gamma) * out.powi(2),
            Self::Edm { sigma_data } => {
                (at.sigma.powi(2) + (at.alpha * sigma_data).powi(2)) / (at.sigma * sigma_data).powi(2) * out.powi(2)
            }
        }
    }
}

/// Levels and weights: all there is to choose in denoising score matching.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// How levels are drawn.
    pub levels: LevelDistribution,
    /// How they are weighted.
    pub weighting: Weighting,
}

impl Objective {
    /// Fails if the level distribution or weighting cannot be used on this schedule.
    pub fn check(&self, schedule: &dyn Schedule) -> Result<()> {
        let (first, last) = schedule.span();
        match self.levels {
            LevelDistribution::Uniform { t_min } | LevelDistribution::Importance { t_min } => {
                let low = t_min.unwrap_or(first);
                ensure!(
                    low < last && schedule.kernel(low).sigma > 1e-12,
                    "objective: t_min = {low} must be a noisy time below {last}"
                );
            }
            LevelDistribution::DiscreteUniform {} => {
                ensure!(schedule.levels().is_some(), "objective: discrete_uniform levels need the discrete schedule")
            }
            LevelDistribution::LogNormal { mean, std } => {
                ensure_within("objective: the mean of the log-normal", mean, -20.0..=20.0)?;
                ensure_within("objective: the std of the log-normal", std, above(0.0, 10.0))?;
            }
        }
        let infinite = schedule.kernel(last).alpha == 0.0;
        ensure!(
            !infinite || !matches!(self.levels, LevelDistribution::Importance { .. }),
            "objective: importance levels are uniform in log-SNR, which this schedule takes to minus infinity"
        );
        ensure!(
            !infinite || !matches!(self.weighting, Weighting::Likelihood {}),
            "objective: the likelihood weight g² is infinite where alpha = 0, which this schedule reaches"
        );
        match self.weighting {
            Weighting::MinSnr { gamma } => {
                ensure_within("objective: gamma of min_snr", gamma, above(0.0, 1e9))?;
            }
            Weighting::Edm { sigma_data } => {
                ensure_within("objective: sigma_data of edm", sigma_data, above(0.0, 1e6))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// One level and factor per example; the factor on the loss undoes importance sampling. The schedule must have passed
    /// [`check`](Self::check), which is not repeated here.
    pub fn draw_levels(&self, schedule: &dyn Schedule, keys: &Keys) -> Vec<(Kernel, f64)> {
        let (first, last) = schedule.span();
        let uniform = || keys.uniform(Purpose::Level, 0).into_iter();
        match self.levels {
            LevelDistribution::Uniform { t_min } => {
                let low = t_min.unwrap_or(first);
                uniform().map(|u| (schedule.kernel(low + (last - low) * u), 1.0)).collect()
            }
            LevelDistribution::DiscreteUniform {} => {
                let levels = last + 1.0;
                uniform().map(|u| (schedule.kernel((u * levels).floor()), 1.0)).collect()
            }
            LevelDistribution::LogNormal { mean, std } => keys
                .normal(Purpose::Level, 0, 1)
                .into_iter()
                .map(|z| schedule.time_at(-2.0 * (mean + std * z)).clamp(first, last))
                .map(|t| (schedule.kernel(t), 1.0))
                .collect(),
            LevelDistribution::Importance { t_min } => {
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

    /// The loss of a batch of clean rows `x0` `[rows, dim]`; `keys` has the number of each training example, which keys its level,
    /// its noise and what the network drops, so that cutting a batch differently changes nothing.
    ///
    /// Returns the mean over rows and dimensions, a tensor `[1]` that can be differentiated.
    ///
    /// ```
    /// use stein::{
    ///     Condition, Context, Device, Dual, Edm, Keys, LevelDistribution, Network, Objective, Precondition, Preconditioned,
    ///     Result, Tensor, Weighting, exact::{Exact, GaussianMixture}, rows,
    /// };
    ///
    /// /// F = θ x, with one parameter.
    /// struct Linear(Tensor<2>);
    ///
    /// impl Network for Linear {
    ///     fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
    ///         Ok(x.linear(|x| x * self.0.clone()))
    ///     }
    /// }
    ///
    /// let theta = rows::matrix(vec![0.1], 1, &rows::exact()).autodiff().require_grad();
    /// let model = Preconditioned::new(Linear(theta.clone()), Precondition::edm(5.0), Edm::default().into())?;
    /// let objective =
    ///     Objective { levels: LevelDistribution::LogNormal { mean: -1.2, std: 1.2 }, weighting: Weighting::Unit {} };
    /// objective.check(&*model.schedule)?;
    /// // Examples 0 to 63 of this epoch.
    /// let keys = Keys::range(0, 0, 64);
    /// let x0 = rows::matrix(GaussianMixture::ncsn().draw_clean(&keys), 2, &theta);
    /// let gradients = objective.loss(&model, x0, &Condition::none(), &keys)?.backward();
    /// assert_eq!(theta.grad(&gradients).map(|slope| slope.dims()), Some([1, 1]));
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// A number of keys or conditions that is not that of the rows, and those of the network.
    pub fn loss<N: Network>(
        &self,
        model: &Preconditioned<N>,
        x0: Tensor<2>,
        given: &Condition,
        keys: &Keys,
    ) -> Result<Tensor<1>> {
        let count = x0.dims()[0];
        ensure!(keys.len() == count, "{} keys were given for {count} training examples: give one per row", keys.len());
        given.check(count)?;
        let drawn = self.draw_levels(&*model.schedule, keys);
        let at: Vec<Kernel> = drawn.iter().map(|(at, _)| *at).collect();
        let levels = Levels::Each(&at);
        let eps = noise::normal_like(keys, Purpose::Perturbation, 0, &x0);
        let mix = |on_x0: Factors, on_eps: Factors| rows::scale(x0.clone(), &on_x0) + rows::scale(eps.clone(), &on_eps);
        let x = mix(levels.factors(|k| k.alpha), levels.factors(|k| k.sigma));
        let prediction = model.settings.prediction;
        let target = mix(levels.factors(|k| prediction.target(k).0), levels.factors(|k| prediction.target(k).1));
        let (raw, _) = model.raw(x.into(), levels, given, Some(keys))?;
        let weights =
            drawn.iter().map(|(at, ratio)| ratio * self.weighting.weight(at, prediction.skip_and_out(at).1)).collect();
        Ok(rows::scale((raw.value - target).square(), &Factors::Each(weights)).mean())
    }
}
