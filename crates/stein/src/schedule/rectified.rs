//! Straight lines between data and noise: α = 1 − t, σ = σ_min + (1 − σ_min) t.
//!
//! Liu et al. 2023, "Flow Straight and Fast", eq. 1, with σ_min = 0; Lipman et al. 2023, "Flow Matching for Generative Modeling",
//! eq. 20 to 22, where a sample keeps noise of σ_min at t = 0. Both let time grow towards the data; here, as everywhere, it grows
//! towards the noise.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{SMALLEST_SIGMA, Schedule};
use crate::{Kernel, Result, numbers::ensure_within};

/// α = 1 − t, σ = σ_min + (1 − σ_min) t on \[t_min, 1\]; no signal at all at t = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Rectified {
    /// Cleanest time, in (0, 1): above 0 because ε̂ is 0/0 there, or 0 where `sigma_min` is not; default 0.001.
    pub t_min: f64,
    /// Noise left at t = 0, σ_min, from 0 to below 1; default 0.
    pub sigma_min: f64,
}

impl Default for Rectified {
    fn default() -> Self {
        Self { t_min: 1e-3, sigma_min: 0.0 }
    }
}

impl Schedule for Rectified {
    fn kernel(&self, t: f64) -> Kernel {
        let rise = 1.0 - self.sigma_min;
        Kernel { t, alpha: 1.0 - t, sigma: self.sigma_min + rise * t, d_alpha: -1.0, d_sigma: rise }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        // σ_min + (1 − σ_min) t = (1 − t) σ/α solved for t, with whichever of σ/α and α/σ does not overflow.
        let (rise, small) = (1.0 - self.sigma_min, (-0.5 * log_snr.abs()).exp());
        if log_snr < 0.0 {
            (1.0 - self.sigma_min * small) / (1.0 + rise * small)
        } else {
            (small - self.sigma_min) / (small + rise)
        }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.0)
    }

    fn check(&self) -> Result<()> {
        ensure_within("schedule rectified: sigma_min", self.sigma_min, 0.0..1.0)?;
        if self.sigma_min >= SMALLEST_SIGMA {
            ensure_within("schedule rectified: t_min", self.t_min, 0.0..1.0)
        } else {
            super::check_t_min("rectified", self.t_min)
        }
    }
}
