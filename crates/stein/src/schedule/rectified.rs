//! Straight lines between data and noise: α = 1 − t, σ = t.
//!
//! Liu et al. 2023, "Flow Straight and Fast", eq. 1; Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 22
//! with σ_min = 0. Both let time grow towards the data; here, as everywhere, it grows towards the noise.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result};

/// α = 1 − t, σ = t on \[t_min, 1\]; no signal at all at t = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Rectified {
    /// Cleanest time, in (0, 1): above 0 because ε̂ is 0/0 there; default 0.001.
    pub t_min: f64,
}

impl Default for Rectified {
    fn default() -> Self {
        Self { t_min: 1e-3 }
    }
}

impl Schedule for Rectified {
    fn kernel(&self, t: f64) -> Kernel {
        Kernel { t, alpha: 1.0 - t, sigma: t, d_alpha: -1.0, d_sigma: 1.0 }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        1.0 / (1.0 + (0.5 * log_snr).exp())
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.0)
    }

    fn check(&self) -> Result<()> {
        super::check_t_min("rectified", self.t_min)
    }
}
