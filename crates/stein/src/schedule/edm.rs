//! σ = t, α = 1: time is the noise level.
//!
//! Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1, column "Ours".

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result};

/// σ(t) = t on \[sigma_min, sigma_max\].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Edm {
    /// Smallest noise, in the units of the data; at least 1e-9, default 0.002.
    pub sigma_min: f64,
    /// Largest noise; above `sigma_min` and at most 1e9, default 80.
    pub sigma_max: f64,
}

impl Default for Edm {
    fn default() -> Self {
        Self { sigma_min: 0.002, sigma_max: 80.0 }
    }
}

impl Schedule for Edm {
    fn kernel(&self, t: f64) -> Kernel {
        Kernel { t, alpha: 1.0, sigma: t, d_alpha: 0.0, d_sigma: 1.0 }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        (-0.5 * log_snr).exp()
    }

    fn span(&self) -> (f64, f64) {
        (self.sigma_min, self.sigma_max)
    }

    fn check(&self) -> Result<()> {
        super::check_sigmas("edm", self.sigma_min, self.sigma_max)
    }
}
