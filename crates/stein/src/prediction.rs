//! What a network predicts: a linear functional a·x_0 + b·ε of the clean sample and the noise.
//!
//! | prediction | (a, b) | paper |
//! |---|---|---|
//! | x0 | (1, 0) | Ho et al. 2020, section 3.2 |
//! | eps | (0, 1) | Ho et al. 2020, eq. 11 |
//! | score | (0, −1/σ) | Vincent 2011; Song & Ermon 2019 |
//! | sigma_score | (0, −1) | Karras et al. 2022, table 1 (VE) |
//! | v | (−σ, α) | Salimans & Ho 2022, section 4 |
//! | velocity | (α̇, σ̇) | Lipman et al. 2023; Liu et al. 2023 |
//! | edm | (σ/(σ_d r), −ασ_d/r), r² = σ² + α²σ_d² | Karras et al. 2022, eq. 7 and table 1 |
//!
//! From x = αx_0 + σε and F = a x_0 + b ε follows x̂_0 = c_skip x + c_out F with det = αb − σa, c_skip = b/det,
//! c_out = −σ/det: one 2×2 solve. The edm row is theirs with the sign that makes c_out positive.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Kernel, Result,
    numbers::{above, ensure_within},
};

/// What the network's raw output stands for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Prediction {
    /// The clean sample.
    #[serde(alias = "x_0", alias = "x_start", alias = "sample")]
    X0 {},
    /// The noise.
    #[serde(alias = "epsilon", alias = "noise")]
    Eps {},
    /// The score ∇ log p of the noisy data.
    Score {},
    /// σ times the score, which is −ε.
    SigmaScore {},
    /// v = α ε − σ x_0.
    #[serde(alias = "v_prediction")]
    V {},
    /// The probability-flow velocity α̇ x_0 + σ̇ ε, which flow matching learns.
    #[serde(alias = "flow", alias = "flow_prediction")]
    Velocity {},
    /// EDM's unit-variance target.
    Edm {
        /// Standard deviation of the data, in the units the model works in; above 0.
        #[serde(default = "default_sigma_data")]
        sigma_data: f64,
    },
}

fn default_sigma_data() -> f64 {
    0.5
}

impl Prediction {
    /// One of each, with published parameters.
    pub fn all() -> [Self; 7] {
        [
            Self::X0 {},
            Self::Eps {},
            Self::Score {},
            Self::SigmaScore {},
            Self::V {},
            Self::Velocity {},
            Self::Edm { sigma_data: default_sigma_data() },
        ]
    }

    /// Its name in files.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::X0 {} => "x0",
            Self::Eps {} => "eps",
            Self::Score {} => "score",
            Self::SigmaScore {} => "sigma_score",
            Self::V {} => "v",
            Self::Velocity {} => "velocity",
            Self::Edm { .. } => "edm",
        }
    }

    /// (a, b) at a level with σ > 0.
    pub fn target(&self, at: &Kernel) -> (f64, f64) {
        match *self {
            Self::X0 {} => (1.0, 0.0),
            Self::Eps {} => (0.0, 1.0),
            Self::Score {} => (0.0, -1.0 / at.sigma),
            Self::SigmaScore {} => (0.0, -1.0),
            Self::V {} => (-at.sigma, at.alpha),
            Self::Velocity {} => (at.d_alpha, at.d_sigma),
            Self::Edm { sigma_data } => {
                let r = (at.alpha * sigma_data).hypot(at.sigma);
                (at.sigma / (sigma_data * r), -at.alpha * sigma_data / r)
            }
        }
    }

    /// (c_skip, c_out) of x̂_0 = c_skip x + c_out F. Infinite where F does not determine x̂_0: eps, score and sigma_score at α = 0.
    pub fn skip_and_out(&self, at: &Kernel) -> (f64, f64) {
        let (a, b) = self.target(at);
        let det = at.alpha * b - at.sigma * a;
        (b / det, -at.sigma / det)
    }

    /// Fails if a parameter is out of range.
    pub fn check(&self) -> Result<()> {
        if let Self::Edm { sigma_data } = *self {
            ensure_within("prediction edm: sigma_data", sigma_data, above(0.0, 1e6))?;
        }
        Ok(())
    }
}
