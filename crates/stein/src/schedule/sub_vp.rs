//! Sub-variance preserving: α = exp(−B/2) as in VP, σ = 1 − exp(−B).
//!
//! Song et al. 2021, eq. 12 (section 3.4; kernel: eq. 29): VP's drift with a variance never above VP's; made for likelihoods.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Schedule, Vp};
use crate::{Kernel, Result};

/// α of VP with σ = 1 − α², t in \[t_min, 1\]. Parameters as in [`Vp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct SubVp {
    /// β at t = 0; at least 1e-9, default 0.1.
    pub beta_min: f64,
    /// β at t = 1; from `beta_min` to 100, default 20.
    pub beta_max: f64,
    /// Cleanest time, in (0, 1); default 0.001, at which σ = 0.00011.
    pub t_min: f64,
}

impl Default for SubVp {
    fn default() -> Self {
        let Vp { beta_min, beta_max, t_min } = Vp::default();
        Self { beta_min, beta_max, t_min }
    }
}

impl SubVp {
    fn vp(&self) -> Vp {
        Vp { beta_min: self.beta_min, beta_max: self.beta_max, t_min: self.t_min }
    }
}

impl Schedule for SubVp {
    fn kernel(&self, t: f64) -> Kernel {
        let (b, beta) = (self.vp().integral(t), self.vp().beta(t));
        let alpha = (-0.5 * b).exp();
        Kernel { t, alpha, sigma: -(-b).exp_m1(), d_alpha: -0.5 * beta * alpha, d_sigma: beta * alpha * alpha }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        // σ/α = exp(B/2) − exp(−B/2) = 2 sinh(B/2).
        self.vp().time_of_integral(2.0 * (0.5 * (-0.5 * log_snr).exp()).asinh())
    }

    fn span(&self) -> (f64, f64) {
        self.vp().span()
    }

    fn check(&self) -> Result<()> {
        self.vp().check_as("sub_vp")
    }
}
