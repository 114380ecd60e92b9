//! Guidance in an interval of levels only (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and
//! Distribution Quality in Diffusion Models", arXiv:2404.07724): elsewhere the model is left alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Surroundings, Wrapper};
use crate::{Condition, Denoiser, Dual, Estimate, Kernel, Levels, Result, ensure, estimate, rows};

/// The wrappers before this one act where low ≤ σ/α ≤ high. Default: everywhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Interval {
    /// The lowest σ/α; default 0.
    pub low: f64,
    /// The highest σ/α; default infinite.
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
    fn at(&self, level: &Kernel) -> &dyn Denoiser {
        if (self.interval.low..=self.interval.high).contains(&level.noise_to_signal()) {
            &self.inner
        } else {
            &self.bare
        }
    }
}

impl Denoiser for Within {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let inside = |level: &Kernel| (self.interval.low..=self.interval.high).contains(&level.noise_to_signal());
        let all = at.kernels();
        if let Levels::Each(levels) = at
            && all.iter().any(inside)
            && !all.iter().all(inside)
        {
            // Rows on both sides: each side by itself, and back in order.
            let (within, without): (Vec<usize>, Vec<usize>) = (0..levels.len()).partition(|&row| inside(&levels[row]));
            let part = |chosen: &[usize], denoiser: &dyn Denoiser| {
                let levels: Vec<Kernel> = chosen.iter().map(|&row| levels[row]).collect();
                let x = x.clone().linear(|x| rows::select(x, chosen));
                estimate(denoiser, x, Levels::Each(&levels), &given.select(chosen))
            };
            let (first, second) = (part(&within, &self.inner)?, part(&without, &self.bare)?);
            let mut back = vec![0; levels.len()];
            within.iter().chain(&without).enumerate().for_each(|(place, &row)| back[row] = place);
            let join = |a, b| rows::select(burn::tensor::Tensor::cat(vec![a, b], 0), &back);
            return Ok(Estimate {
                mean: Dual::cat(vec![first.mean, second.mean], 0).linear(|mean| rows::select(mean, &back)),
                variance: first.variance.zip(second.variance).map(|(a, b)| join(a, b)),
            });
        }
        match all.first() {
            Some(level) => estimate(self.at(level), x, at, given),
            None => Ok(x.into()),
        }
    }
}
