//! How far two images of a flow map are apart, and what that counts at a level.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Kernel, Result, Tensor,
    numbers::{above, ensure_within},
};

/// A distance of two rows of D numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Metric {
    /// The mean square ‖a − b‖²/D.
    L2 {},
    /// The mean absolute difference ‖a − b‖₁/D.
    L1 {},
    /// √(‖a − b‖² + c²) − c over the whole row (Song and Dhariwal 2023).
    #[serde(alias = "huber")]
    PseudoHuber {
        /// Where the square turns into the norm, c; at least 0 and at most 1e6, default 0.00054 √D.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        c: Option<f64>,
    },
}

impl Metric {
    /// Fails unless its numbers are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::PseudoHuber { c: Some(c) } => ensure_within("objective: c of the metric pseudo_huber", c, 0.0..=1e6),
            _ => Ok(()),
        }
    }

    /// The distances `[rows, 1]` of rows that differ by `difference` `[rows, dim]`.
    pub fn of(&self, difference: Tensor<2>) -> Tensor<2> {
        let dim = difference.dims()[1] as f64;
        match *self {
            Self::L2 {} => difference.square().mean_dim(1),
            Self::L1 {} => difference.abs().mean_dim(1),
            Self::PseudoHuber { c } => {
                let c = c.unwrap_or(0.00054 * dim.sqrt());
                // With c = 0 the norm, whose slope at equal rows is taken as 0.
                let least = if c == 0.0 { f64::from(f32::MIN_POSITIVE) } else { 0.0 };
                (difference.square().sum_dim(1).add_scalar(c * c + least)).sqrt().sub_scalar(c)
            }
        }
    }
}

/// What a pair of levels counts, σ = σ_t/α_t being the noisier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PairWeighting {
    /// 1 (Song et al. 2023).
    #[serde(alias = "uniform")]
    Unit {},
    /// 1/σ² + 1/σ_d², EDM's.
    #[serde(alias = "karras")]
    Edm {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
    },
    /// 1/σ².
    Snr {},
    /// 1/σ² + 1.
    SnrPlusOne {},
    /// max(1/σ², 1).
    TruncatedSnr {},
    /// 1/(σ − σ_s), one over the length of the step (Song and Dhariwal 2023).
    Interval {},
}

impl PairWeighting {
    /// Fails unless its numbers are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Edm { sigma_data } => ensure_within("objective: sigma_data of edm", sigma_data, above(0.0, 1e6)),
            _ => Ok(()),
        }
    }

    /// The weight of a step from a level to a cleaner one.
    pub fn weight(&self, from: &Kernel, to: &Kernel) -> f64 {
        let sigma = from.noise_to_signal();
        match *self {
            Self::Unit {} => 1.0,
            Self::Edm { sigma_data } => sigma.powi(-2) + sigma_data.powi(-2),
            Self::Snr {} => sigma.powi(-2),
            Self::SnrPlusOne {} => sigma.powi(-2) + 1.0,
            Self::TruncatedSnr {} => sigma.powi(-2).max(1.0),
            Self::Interval {} => 1.0 / (sigma - to.noise_to_signal()),
        }
    }
}
