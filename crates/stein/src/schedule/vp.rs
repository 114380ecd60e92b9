//! Variance preserving: α = exp(−B/2), σ = √(1 − exp(−B)) with B(t) = β_min t + (β_max − β_min) t²/2.
//!
//! Song et al. 2021, eq. 33: the continuous limit of DDPM (Ho et al. 2020).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result, ensure};

/// β(t) = β_min + t (β_max − β_min), t in \[t_min, 1\].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Vp {
    /// β at t = 0; at least 1e-9, default 0.1.
    pub beta_min: f64,
    /// β at t = 1; from `beta_min` to 100, default 20.
    pub beta_max: f64,
    /// Cleanest time, in (0, 1): above 0 because dσ/dt is infinite there; default 0.001, at which σ = 0.0105.
    pub t_min: f64,
}

impl Default for Vp {
    fn default() -> Self {
        Self { beta_min: 0.1, beta_max: 20.0, t_min: 1e-3 }
    }
}

impl Vp {
    /// β(t).
    pub(super) fn beta(&self, t: f64) -> f64 {
        self.beta_min + t * (self.beta_max - self.beta_min)
    }

    /// B(t), the integral of β from 0 to t.
    pub(super) fn integral(&self, t: f64) -> f64 {
        t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))
    }

    /// The time at which the integral is `b`: the positive root of the quadratic, in the form that does not cancel.
    pub(super) fn time_of_integral(&self, b: f64) -> f64 {
        2.0 * b / (self.beta_min + (self.beta_min.powi(2) + 2.0 * (self.beta_max - self.beta_min) * b).sqrt())
    }

    /// The check shared with sub-VP, whose parameters these are.
    pub(super) fn check_as(&self, kind: &str) -> Result<()> {
        ensure!(
            1e-9 <= self.beta_min && self.beta_min <= self.beta_max && self.beta_max <= 100.0,
            "schedule {kind}: beta_min = {} and beta_max = {} must satisfy 1e-9 <= beta_min <= beta_max <= 100",
            self.beta_min,
            self.beta_max
        );
        super::check_t_min(kind, self.t_min)
    }
}

impl Schedule for Vp {
    fn kernel(&self, t: f64) -> Kernel {
        let (b, beta) = (self.integral(t), self.beta(t));
        let alpha = (-0.5 * b).exp();
        let sigma = (-(-b).exp_m1()).sqrt();
        // From σ² = 1 − α²: σσ̇ = β α² / 2.
        Kernel { t, alpha, sigma, d_alpha: -0.5 * beta * alpha, d_sigma: 0.5 * beta * alpha * alpha / sigma }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        // σ²/α² = exp(B) − 1, so B = ln(1 + exp(−log-SNR)), written so that nothing overflows.
        self.time_of_integral((-log_snr).max(0.0) + (-log_snr.abs()).exp().ln_1p())
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.0)
    }

    fn check(&self) -> Result<()> {
        self.check_as("vp")
    }
}
