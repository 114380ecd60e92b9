//! Variance preserving with a signal that falls in a straight line: α = 1 − t, σ = √(1 − α²).
//!
//! `LinearVPScheduler` of flow_matching (Lipman et al. 2024, "Flow Matching Guide and Code", section 4.8), whose time grows towards
//! the data; here it grows towards the noise. Near the data σ = √(t(2 − t)) rises like √(2t).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result};

/// α = 1 − t, σ = √(1 − α²) on \[t_min, 1\]; no signal at all at t = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct LinearVp {
    /// Cleanest time, in (0, 1), where σ = √(2 t_min): above 0 because dσ/dt is infinite at 0; default 0.00001.
    pub t_min: f64,
}

impl Default for LinearVp {
    fn default() -> Self {
        Self { t_min: 1e-5 }
    }
}

impl Schedule for LinearVp {
    fn kernel(&self, t: f64) -> Kernel {
        let alpha = 1.0 - t;
        // 1 − α² as a product, which does not cancel near the data.
        let sigma = (t * (2.0 - t)).sqrt();
        Kernel { t, alpha, sigma, d_alpha: -1.0, d_sigma: alpha / sigma }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        // α² = sigmoid(log-SNR), and 1 − α = σ²/(1 + α) keeps its digits near the data.
        let (alpha_sq, sigma_sq) = (1.0 / (1.0 + (-log_snr).exp()), 1.0 / (1.0 + log_snr.exp()));
        sigma_sq / (1.0 + alpha_sq.sqrt())
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.0)
    }

    fn check(&self) -> Result<()> {
        super::check_t_min("linear_vp", self.t_min)
    }
}
