//! Continuous ranked probability score (Matheson & Winkler 1976; Gneiting & Raftery 2007, eq. 21) of members e for an observation o:
//!
//! ```text
//! E|e − o| − E|e − e′| / 2
//! ```
//!
//! in the units of the data; the absolute error where there is one member. The fair score takes E|e − e′| over different
//! members and is without bias (Ferro 2014, eq. 6). Of observations of several numbers it is the mean over them. The error is s/√n
//! over observations.

use serde::{Deserialize, Serialize};
use stein_base::{Error, Explain, Result, ensure, numbers::ensure_within};

use crate::{
    Better, Measured, Metric, Needs, Running,
    ensembles::{self, Scored},
    measured::mean,
    quantiles,
};

/// Continuous ranked probability score.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Crps {
    /// What is scored.
    pub scored: Scored,
}

impl Metric for Crps {
    fn needs(&self) -> Needs {
        ensembles::NEEDS
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let scored = self.scored;
        Ok(Running::whole(move |sides| {
            let score = |observation: &[f64], members: &[f64]| {
                let of_each = ensembles::coordinates(observation, members);
                let scores: Vec<f64> = of_each.map(|(observed, members)| crps(observed, members, scored)).collect();
                mean(&scores)
            };
            Ok(Measured::mean_of(&ensembles::each(sides, score)))
        }))
    }
}

/// The continuous ranked probability score of some members for one observation.
///
/// # Errors
/// Fewer than two members.
pub fn ensemble_crps(observation: f64, members: &[f64], scored: Scored) -> Result<f64> {
    ensure!(members.len() > 1, "an ensemble has {} members: give at least two", members.len());
    Ok(crps(observation, members.to_vec(), scored))
}

fn crps(observation: f64, mut members: Vec<f64>, scored: Scored) -> f64 {
    let m = members.len();
    quantiles::sort(&mut members);
    let off = members.iter().map(|member| (member - observation).abs()).sum::<f64>() / m as f64;
    // Of sorted numbers the i-th is the larger one of i pairs and the smaller one of m − 1 − i.
    let apart: f64 = members.iter().enumerate().map(|(i, member)| (2.0 * i as f64 + 1.0 - m as f64) * member).sum();
    off - apart / scored.pairs(m)
}

/// The continuous ranked probability score of a normal law for one observation (Gneiting & Raftery 2007, eq. 21 and below):
/// σ (z (2 Φ(z) − 1) + 2 φ(z) − 1/√π) with z = (o − μ)/σ.
///
/// # Errors
/// A deviation that is not above 0.
pub fn gaussian_crps(mean: f64, deviation: f64, observation: f64) -> Result<f64> {
    ensure_within("deviation", deviation, stein_base::numbers::above(0.0, f64::MAX))?;
    if !(mean.is_finite() && observation.is_finite()) {
        return Err(Error::new(format!("a mean of {mean} and an observation of {observation}: give finite numbers")));
    }
    let z = (observation - mean) / deviation;
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // 2 Φ(z) − 1 = erf(z/√2).
    let inside = libm::erf(z * std::f64::consts::FRAC_1_SQRT_2);
    Ok(deviation * (z * inside + 2.0 * density - std::f64::consts::FRAC_2_SQRT_PI / 2.0))
}
