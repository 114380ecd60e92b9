//! A quarter circle between data and noise: α = cos(πt/2), σ = sin(πt/2).
//!
//! Albergo & Vanden-Eijnden 2023, "Building Normalizing Flows with Stochastic Interpolants", eq. 5; the generalized variance
//! preserving path (GVP) of Ma et al. 2024, "SiT", table 1, and `CosineScheduler` of flow_matching. Both let time grow towards the
//! data; here it grows towards the noise. α² + σ² = 1, and with the time πt/2 it is TrigFlow with unit data. [`Cosine`](super::Cosine)
//! without an offset has the same α and σ.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result};

/// α = cos(πt/2), σ = sin(πt/2) on \[t_min, 1\]; no signal at all at t = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Trigonometric {
    /// Cleanest time, in (0, 1): above 0 because ε̂ is 0/0 there; default 0.001.
    pub t_min: f64,
}

impl Default for Trigonometric {
    fn default() -> Self {
        Self { t_min: 1e-3 }
    }
}

impl Schedule for Trigonometric {
    fn kernel(&self, t: f64) -> Kernel {
        let angle = FRAC_PI_2 * t;
        // cos(π/2) is 6e-17 in floating point; at and beyond t = 1 there is no signal, exactly.
        let (alpha, sigma) = if t >= 1.0 { (0.0, 1.0) } else { (angle.cos(), angle.sin()) };
        Kernel { t, alpha, sigma, d_alpha: -FRAC_PI_2 * sigma, d_sigma: FRAC_PI_2 * alpha }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        (-0.5 * log_snr).exp().atan() / FRAC_PI_2
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.0)
    }

    fn check(&self) -> Result<()> {
        super::check_t_min("trigonometric", self.t_min)
    }
}
