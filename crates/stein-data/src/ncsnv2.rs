//! The noise levels and the Langevin step of NCSNv2 from the data alone (Song & Ermon, arXiv:2006.09011).
//!
//! Φ is the normal distribution function, D the dimension, γ the ratio of neighboring levels, T the steps per level.
//!
//! - Technique 1: σ₁ is the largest distance between two samples.
//! - Technique 2: γ solves Φ(√(2D)(γ−1) + 3γ) − Φ(√(2D)(γ−1) − 3γ) = p. The paper says p ≈ 0.5; the published
//!   configurations all have p = 0.567, which is used here. Read to three digits, it gives their number of levels to 1%.
//!   In few dimensions every γ passes, so γ is at most 100^(1/9) ≈ 1.67, the spacing of NCSN's ten levels.
//! - Technique 4: ε minimizes |s_T²/σ² − 1|, the excess of the variance after the T steps of a level, with a = ε/σ_L²,
//!   b = 2a/(1 − (1−a)²) and s_T²/σ² = (1−a)^(2T) (γ² − b) + b.

use stein_base::{Result, ensure};

/// The overlap p of neighboring levels in the published configurations.
const OVERLAP: f64 = 0.567;

/// What NCSNv2 derives from the data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ncsnv2 {
    /// The number of levels L, at least 2, geometric from σ₁ to σ_L.
    pub levels: usize,
    /// σ_i / σ_(i+1) with these levels, above 1.
    pub ratio: f64,
    /// The step ε: a Langevin step at level i is ε σ_i² / σ_L² (`step_lr` of the reference).
    pub eps: f64,
    /// s_T²/σ² at this ε; 1 were ideal.
    pub residual: f64,
}

/// The settings for data of `dim` values from level `sigma_1` to `sigma_l` (units of the data) with `steps_each`
/// Langevin steps at every level.
///
/// # Errors
/// When not 0 < `sigma_l` < `sigma_1`, or `dim` or `steps_each` is 0.
pub fn ncsnv2(dim: usize, sigma_1: f64, sigma_l: f64, steps_each: usize) -> Result<Ncsnv2> {
    ensure!(
        sigma_l > 0.0 && sigma_l < sigma_1 && sigma_1.is_finite() && dim > 0 && steps_each > 0,
        "NCSNv2 has no levels from {sigma_1} to {sigma_l} in {dim} dimensions with {steps_each} steps each: the first must \
         exceed the last, and all be above 0"
    );
    let (mut low, mut high) = (1.0, 100f64.powf(1.0 / 9.0));
    if overlap(dim, high) < OVERLAP {
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            *(if overlap(dim, middle) > OVERLAP { &mut low } else { &mut high }) = middle;
        }
    }
    let span = (sigma_1 / sigma_l).ln();
    let levels = (span / high.ln() - 1e-9).ceil() as usize + 1; // less a hair for rounding
    let ratio = (span / (levels - 1) as f64).exp();
    let (eps, residual) = step(ratio, sigma_l, steps_each);
    Ok(Ncsnv2 { levels, ratio, eps, residual })
}

/// The left side of technique 2.
fn overlap(dim: usize, ratio: f64) -> f64 {
    let phi = |z: f64| 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2);
    let shift = (2.0 * dim as f64).sqrt() * (ratio - 1.0);
    phi(shift + 3.0 * ratio) - phi(shift - 3.0 * ratio)
}

/// Technique 4: ε and s_T²/σ² there. The excess may have more than one valley in ε, so a fine grid in ln a finds the
/// deepest and a golden section its floor.
fn step(ratio: f64, sigma_l: f64, steps_each: usize) -> (f64, f64) {
    let variance = |ln_a: f64| {
        let a = ln_a.exp();
        let b = 2.0 / (2.0 - a); // 2a/(1 − (1−a)²), without its 0/0
        (1.0 - a).powf(2.0 * steps_each as f64) * (ratio * ratio - b) + b
    };
    let excess = |ln_a: f64| (variance(ln_a) - 1.0).abs();
    const POINTS: usize = 4000;
    let bottom = 1e-9f64.ln();
    let at = |k: usize| bottom * (1.0 - k as f64 / POINTS as f64);
    let best = (1..POINTS).min_by(|&i, &j| excess(at(i)).total_cmp(&excess(at(j)))).expect("the grid has points");
    let (mut low, mut high) = (at(best - 1), at(best + 1));
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    for _ in 0..60 {
        let (left, right) = (high - golden * (high - low), low + golden * (high - low));
        if excess(left) < excess(right) { high = right } else { low = left }
    }
    let ln_a = 0.5 * (low + high);
    (ln_a.exp() * sigma_l * sigma_l, variance(ln_a))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published configurations: dim, σ₁, L, T, `step_lr`; then ε and the residual that technique 4 gives at
    /// their L, computed independently.
    const PUBLISHED: [(usize, f64, usize, usize, f64, f64, f64); 4] = [
        (3 * 32 * 32, 50.0, 232, 5, 6.2e-6, 6.18e-6, 1.0555),
        (3 * 64 * 64, 90.0, 500, 5, 3.3e-6, 3.34e-6, 1.0314),
        (3 * 128 * 128, 190.0, 1086, 3, 1.8e-6, 1.77e-6, 1.0174),
        (3 * 256 * 256, 348.0, 2311, 3, 0.9e-6, 8.9e-7, 1.0089),
    ];

    #[test]
    fn gives_the_published_configurations() {
        for (dim, sigma_1, levels, steps_each, step_lr, eps, residual) in PUBLISHED {
            let ratio = (sigma_1 / 0.01).powf(1.0 / (levels - 1) as f64);
            assert!((overlap(dim, ratio) - OVERLAP).abs() < 1e-3, "{}", overlap(dim, ratio));
            let (got_eps, got_residual) = step(ratio, 0.01, steps_each);
            assert!((got_eps / eps - 1.0).abs() < 0.005 && (got_residual - residual).abs() < 1e-4, "{got_eps}");
            // p was read to three digits: the levels follow to 1%, and ε with them to 3% (it is published in two).
            let got = ncsnv2(dim, sigma_1, 0.01, steps_each).unwrap();
            assert!((got.levels as f64 / levels as f64 - 1.0).abs() < 0.01, "{got:?}");
            assert!((got.eps / step_lr - 1.0).abs() < 0.03, "{got:?}");
        }
    }

    #[test]
    fn few_dimensions_and_bad_levels() {
        let plane = ncsnv2(2, 10.0, 0.1, 10).unwrap();
        assert_eq!(plane.levels, 10);
        assert!(plane.residual.is_finite() && plane.eps > 0.0);
        assert!(ncsnv2(2, 0.01, 0.01, 5).is_err() && ncsnv2(0, 1.0, 0.01, 5).is_err());
    }
}
