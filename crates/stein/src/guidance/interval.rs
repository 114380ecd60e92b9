//! Guidance in an interval of levels only (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and
//! Distribution Quality in Diffusion Models", arXiv:2404.07724): elsewhere the model is left alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Surroundings, Wrapper};
use crate::{Condition, Denoiser, Dual, Estimate, Kernel, Levels, Result, ensure, estimate, rows};

/// The wrappers before this one act where low ≤ σ/α ≤ high. Default: everywhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Interval {
    /// The lowest σ/α at which they act, at least 0; default 0.
    pub low: f64,
    /// The highest σ/α at which they act, above `low`; default ∞.
    pub high: f64,
}

impl Default for Interval {
    fn default() -> Self {
        Self { low: 0.0, high: f64::INFINITY }
    }
}

impl Wrapper for Interval {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        bare: &Arc<dyn Denoiser>,
        _: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        ensure!(
            self.low >= 0.0 && self.low < self.high,
            "low = {} must be at least 0 and below high = {}",
            self.low,
            self.high
        );
        Ok(Arc::new(Within { inner, bare: Arc::clone(bare), interval: self.clone() }))
    }
}

/// One denoiser inside an interval of levels, another outside.
struct Within {
    inner: Arc<dyn Denoiser>,
    bare: Arc<dyn Denoiser>,
    interval: Interval,
}

impl Within {
    fn holds(&self, level: &Kernel) -> bool {
        (self.interval.low..=self.interval.high).contains(&level.noise_to_signal())
    }

    /// The estimate of some rows of a batch with a level each.
    fn some(
        &self,
        inside: bool,
        x: &Dual<2>,
        levels: &[Kernel],
        chosen: &[usize],
        given: &Condition,
    ) -> Result<Estimate> {
        let denoiser = if inside { &self.inner } else { &self.bare };
        let levels: Vec<Kernel> = chosen.iter().map(|&row| levels[row]).collect();
        let x = x.clone().linear(|x| rows::select(x, chosen));
        estimate(denoiser, x, Levels::Each(&levels), &given.select(chosen))
    }
}

impl Denoiser for Within {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let levels = at.kernels();
        let (within, without): (Vec<usize>, Vec<usize>) = (0..levels.len()).partition(|&row| self.holds(&levels[row]));
        if without.is_empty() {
            return estimate(&self.inner, x, at, given);
        }
        if within.is_empty() {
            return estimate(&self.bare, x, at, given);
        }
        // Rows on both sides: each side by itself, and back in order.
        let inside = self.some(true, &x, levels, &within, given)?;
        let outside = self.some(false, &x, levels, &without, given)?;
        let mut back = vec![0; levels.len()];
        within.iter().chain(&without).enumerate().for_each(|(place, &row)| back[row] = place);
        Ok(inside.then(outside).linear(|both| rows::select(both, &back)))
    }
}
