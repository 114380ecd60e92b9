//! Cosine: α(t) = cos θ(t) / cos θ(0), σ = √(1 − α²), θ(t) = (t + s)/(1 + s) · π/2.
//!
//! Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", eq. 17, in continuous time and without
//! their clipping of β: α is exactly 0 at t = 1. The clipped list is [`Discrete`](super::Discrete) with `cosine` levels.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::Schedule;
use crate::{Kernel, Result, numbers::ensure_within};

/// The cosine schedule on \[t_min, 1\].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Cosine {
    /// Offset s that keeps the first steps from being too small; from 0 to 1, default 0.008.
    pub offset: f64,
    /// Cleanest time, in (0, 1): above 0 because dσ/dt is infinite there; default 0.001.
    pub t_min: f64,
}

impl Default for Cosine {
    fn default() -> Self {
        Self { offset: 0.008, t_min: 1e-3 }
    }
}

impl Cosine {
    fn angle(&self, t: f64) -> f64 {
        (t + self.offset) / (1.0 + self.offset) * FRAC_PI_2
    }
}

impl Schedule for Cosine {
    fn kernel(&self, t: f64) -> Kernel {
        let (angle, first) = (self.angle(t), self.angle(0.0));
        let rate = FRAC_PI_2 / (1.0 + self.offset);
        // cos(π/2) is 6e-17 in floating point; at and beyond t = 1 there is no signal, exactly.
        let alpha = if t >= 1.0 { 0.0 } else { angle.cos() / first.cos() };
        // cos²θ(0) − cos²θ = sin(θ − θ(0)) sin(θ + θ(0)): no cancellation near t = 0.
        let sigma = if t >= 1.0 { 1.0 } else { ((angle - first).sin() * (angle + first).sin()).sqrt() / first.cos() };
        let d_alpha = -rate * angle.sin() / first.cos();
        Kernel { t, alpha, sigma, d_alpha, d_sigma: -alpha * d_alpha / sigma }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        // α² = sigmoid(log-SNR); 1 − α² enters through the sine so that both ends keep their digits.
        let first = self.angle(0.0);
        let (alpha_sq, sigma_sq) = (1.0 / (1.0 + (-log_snr).exp()), 1.0 / (1.0 + log_snr.exp()));
        let sin_sq = first.sin().powi(2) + sigma_sq * first.cos().powi(2);
        let angle = sin_sq.sqrt().atan2(alpha_sq.sqrt() * first.cos());
        // Without signal the time is 1 exactly, not to rounding.
        if alpha_sq == 0.0 { 1.0 } else { angle / FRAC_PI_2 * (1.0 + self.offset) - self.offset }
    }

    fn span(&self) -> (f64, f64) {
        (self.t_min, 1.0)
    }

    fn check(&self) -> Result<()> {
        ensure_within("schedule cosine: offset", self.offset, 0.0..=1.0)?;
        super::check_t_min("cosine", self.t_min)
    }
}
