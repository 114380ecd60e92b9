//! Distributions of the time of straight paths, on \[0, 1\] with the noise at 1, as functions of what is drawn.
//!
//! Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", section 3.1, whose time grows with
//! noise as ours does. [`LevelDistribution`](crate::LevelDistribution) draws from them on any schedule.

use std::f64::consts::{FRAC_PI_2, PI};

/// t = sigmoid(mean + std z) of a standard normal z: the logit-normal distribution (eq. 19). On straight paths ln(σ/α) is the logit of
/// t, and so ln(σ/α) ~ N(mean, std²).
pub fn logit_normal(mean: f64, std: f64, z: f64) -> f64 {
    1.0 / (1.0 + (-(mean + std * z)).exp())
}

/// The largest scale s at which [`mode`] still falls with u, 2/(π − 2) = 1.75.
pub const LARGEST_MODE_SCALE: f64 = 2.0 / (PI - 2.0);

/// t = 1 − u − s (cos²(πu/2) − 1 + u) of a uniform u: more of the middle where the scale s is above 0, more of the ends where it is
/// below, uniform at 0 (eq. 20). From −1 to 2/(π − 2) it takes every value from 1 to 0 once.
pub fn mode(scale: f64, u: f64) -> f64 {
    1.0 - u - scale * ((FRAC_PI_2 * u).cos().powi(2) - 1.0 + u)
}

/// t = 1 − 1/(tan(πu/2) + 1) of a uniform u in \[0, 1): σ/α = t/(1 − t) = tan(πu/2), the levels of the trigonometric path at uniform
/// times (eq. 21). Its density is 2/(π (1 − 2t + 2t²)).
pub fn cosmap(u: f64) -> f64 {
    let (sin, cos) = (FRAC_PI_2 * u).sin_cos();
    sin / (sin + cos)
}
