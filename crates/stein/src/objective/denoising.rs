//! Denoising score matching (Vincent 2011): draw a level and ε, regress the raw output F on a·x_0 + b·ε with a weight.
//!
//! L = E w(t) ‖F − (a x_0 + b ε)‖² / dim. Weight 1 with the right prediction *is* DDPM's L_simple (eps), NCSN's σ² weighting
//! (eps), EDM's λ (edm), conditional flow matching (velocity) and the v-loss. The other weights are given on the error of
//! x̂_0 and enter through x̂_0's factor: an error of F is an error of x̂_0 times c_out, so w = λ c_out².

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Examples, LevelDistribution, Objective, Perturbed};
use crate::{
    AnySchedule, Context, Dual, Factors, Kernel, Network, Potential, Preconditioned, Prediction, Result, ensure,
    gradient,
    numbers::{above, ensure_within},
    rows,
};

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

/// Denoising score matching: how levels are drawn, and their weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Denoising {
    /// How levels are drawn; default EDM's log-normal.
    pub levels: LevelDistribution,
    /// How they are weighted; default `unit`.
    pub weighting: Weighting,
}

/// What EDM draws, with weight 1.
impl Default for Denoising {
    fn default() -> Self {
        Self { levels: LevelDistribution::default(), weighting: Weighting::Unit {} }
    }
}

impl Objective for Denoising {
    fn check(&self, schedule: &AnySchedule) -> Result<()> {
        self.levels.check(&**schedule)?;
        ensure!(
            schedule.kernel(schedule.span().1).alpha > 0.0 || !matches!(self.weighting, Weighting::Likelihood {}),
            "objective: the likelihood weight g² is infinite where alpha = 0, which this schedule reaches"
        );
        match self.weighting {
            Weighting::MinSnr { gamma } => ensure_within("objective: gamma of min_snr", gamma, above(0.0, 1e9)),
            Weighting::Edm { sigma_data } => ensure_within("objective: sigma_data of edm", sigma_data, above(0.0, 1e6)),
            _ => Ok(()),
        }
    }

    fn loss(&self, model: &Preconditioned<&dyn Network>, examples: &Examples) -> Result<Tensor<1>> {
        Ok(self.errors(model, examples)?.0.mean())
    }
}

impl Denoising {
    /// The weighted squared errors `[rows, dim]`, whose mean is the loss, and the level of each row: for losses that weigh levels by something
    /// that is learned too.
    ///
    /// # Errors
    /// As [`loss`](Objective::loss).
    pub fn errors(
        &self,
        model: &Preconditioned<&dyn Network>,
        examples: &Examples,
    ) -> Result<(Tensor<2>, Vec<Kernel>)> {
        let noisy = Perturbed::of(examples, &self.levels, model)?;
        let (raw, _) = model.raw(noisy.x.clone().into(), noisy.levels(), examples.given, Some(examples.keys))?;
        let errors = self.errors_of(model.settings.prediction, &noisy, raw.value);
        Ok((errors, noisy.at))
    }
    /// The same of a raw output.
    fn errors_of(&self, prediction: Prediction, noisy: &Perturbed, raw: Tensor<2>) -> Tensor<2> {
        let target = noisy.mix(|at| prediction.target(at));
        let weight = |at: &Kernel| self.weighting.weight(at, prediction.skip_and_out(at).1);
        rows::scale((raw - target).square(), &Factors::Each(noisy.weights(weight)))
    }

    /// The loss of a network F = ∇ψ that is the slope of a potential, `[1]`, with its gradient by the weights of `learning`, which is a second
    /// derivative of ψ: with the slope u = ∂L/∂F of the loss held constant, ∂L/∂w = ∂/∂w Σ u · ∇ψ(x; w), a Jacobian-vector product of ψ along
    /// u whose tangent is on the tape of w. `model` has the same weights as constants.
    ///
    /// # Errors
    /// As [`loss`](Objective::loss); a network without tangents.
    pub fn potential_loss<N: Network>(
        &self,
        model: &Preconditioned<Potential<N>>,
        learning: &Potential<impl Network>,
        examples: &Examples,
    ) -> Result<Tensor<1>> {
        let noisy = Perturbed::of(examples, &self.levels, &model.view())?;
        let (at, dropout) = (noisy.levels(), Some(examples.keys));
        let (raw, _) = model.raw(noisy.x.clone().into(), at, examples.given, dropout)?;
        let (loss, u) = gradient(raw.value, |raw| {
            let loss = self.errors_of(model.settings.prediction, &noisy, raw).mean();
            Ok((loss.clone().reshape([1, 1]), loss))
        })?;
        let (x, noise) = model.inputs(noisy.x.clone().into(), at);
        let context = Context { noise, second: None, given: examples.given, dropout };
        let along = learning.value(Dual::new(x.value, u), &context)?.tangent_or_zero().sum();
        Ok(along.clone() - along.detach() + loss.reshape([1]))
    }
}
