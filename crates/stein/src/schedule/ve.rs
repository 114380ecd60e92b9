//! Variance exploding: α = 1, σ(t) = σ_min (σ_max/σ_min)^t on \[0, 1\].
//!
//! Song et al. 2021, eq. 30 and 31; as in their code the kernel's variance is σ(t)² at all times. σ_min and σ_max after Song & Ermon 2020: σ_max near the largest distance between two data points.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result};

/// σ(t) = σ_min (σ_max/σ_min)^t, t in \[0, 1\].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ve {
    /// Smallest noise, in the units of the data; at least 1e-9, default 0.01.
    pub sigma_min: f64,
    /// Largest noise; above `sigma_min` and at most 1e9, default 50. That is for CIFAR-10.
    pub sigma_max: f64,
}

impl Default for Ve {
    fn default() -> Self {
        Self { sigma_min: 0.01, sigma_max: 50.0 }
    }
}

impl Ve {
    fn log_ratio(&self) -> f64 {
        (self.sigma_max / self.sigma_min).ln()
    }
}

impl Schedule for Ve {
    fn kernel(&self, t: f64) -> Kernel {
        let sigma = self.sigma_min * (self.log_ratio() * t).exp();
        Kernel { t, alpha: 1.0, sigma, d_alpha: 0.0, d_sigma: sigma * self.log_ratio() }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        (-0.5 * log_snr - self.sigma_min.ln()) / self.log_ratio()
    }

    fn span(&self) -> (f64, f64) {
        (0.0, 1.0)
    }

    fn check(&self) -> Result<()> {
        super::check_sigmas("ve", self.sigma_min, self.sigma_max)
    }
}
