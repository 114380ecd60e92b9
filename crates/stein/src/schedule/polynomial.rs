//! Convex paths of any power: α = (1 − t)ⁿ, σ = 1 − α.
//!
//! `PolynomialConvexScheduler` of flow_matching (Lipman et al. 2024, "Flow Matching Guide and Code", section 4.8), whose time grows
//! towards the data; here it grows towards the noise. n = 1 is [`Rectified`](super::Rectified); above it the signal goes early, below
//! it late.
//!
//! The span ends a little before t = 1. There the velocity α̇ x_0 + σ̇ ε = n(1 − t)ⁿ⁻¹ (ε − x_0) is infinite for n < 1, and for n > 1 it
//! is 0 whatever the data are, so that no network can be asked for it.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result, ensure, numbers::ensure_within};

/// α = (1 − t)ⁿ, σ = 1 − α, from t_min to where α = alpha_min.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Polynomial {
    /// n, from 0.25 to 10; default 2.
    pub exponent: f64,
    /// Cleanest time, in (0, 1): above 0 because ε̂ is 0/0 there; default 0.001.
    pub t_min: f64,
    /// α at the noisiest time, from 1e-6 to 0.1; default 0.001.
    pub alpha_min: f64,
}

impl Default for Polynomial {
    fn default() -> Self {
        Self { exponent: 2.0, t_min: 1e-3, alpha_min: 1e-3 }
    }
}

/// Times closer to 1 than this are not told apart well enough.
const NEAREST: f64 = 1e-12;

impl Polynomial {
    /// 1 − t at the noisiest time.
    fn rest(&self) -> f64 {
        self.alpha_min.powf(1.0 / self.exponent)
    }
}

impl Schedule for Polynomial {
    fn kernel(&self, t: f64) -> Kernel {
        let n = self.exponent;
        let slope = n * (1.0 - t).powf(n - 1.0);
        // 1 − (1 − t)ⁿ without cancellation near the data.
        let sigma = -(n * (-t).ln_1p()).exp_m1();
        Kernel { t, alpha: (1.0 - t).powf(n), sigma, d_alpha: -slope, d_sigma: slope }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        // α + σ = 1, so α = 1/(1 + σ/α) and 1 − t = (1 + σ/α)^(−1/n).
        -(-(-0.5 * log_snr).exp().ln_1p() / self.exponent).exp_m1()
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.0 - self.rest())
    }

    fn check(&self) -> Result<()> {
        ensure_within("schedule polynomial: exponent", self.exponent, 0.25..=10.0)?;
        ensure_within("schedule polynomial: alpha_min", self.alpha_min, 1e-6..=0.1)?;
        super::check_t_min("polynomial", self.t_min)?;
        let (first, last) = self.span();
        ensure!(
            first < last && self.rest() >= NEAREST,
            "schedule polynomial: with exponent = {} the signal falls to alpha_min = {} at t = 1 - {:e}, which must lie above t_min = {} \
             and not within {NEAREST:e} of 1: change alpha_min",
            self.exponent,
            self.alpha_min,
            self.rest(),
            self.t_min
        );
        Ok(())
    }
}
