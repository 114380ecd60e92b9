//! Dynamic thresholding (Saharia et al. 2022, "Imagen", arXiv:2205.11487, section 2.3): a row whose values leave the data's range is
//! clamped at a high percentile s of their size and divided by s, so that strong guidance does not saturate it.
//!
//! In units where the data lie in [−1, 1], D' = clamp(D/s, −1, 1) with s = max(1, percentile of |D|).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Surroundings, Wrapper, clamp::clamp};
use crate::{Condition, Denoiser, Dual, Estimate, Levels, Result, ensure, estimate};

/// Dynamic thresholding of estimates, for pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicThreshold {
    /// The part of a row's values that stays unclamped, in (0, 1]; default 0.995.
    pub percentile: f64,
}

impl Default for DynamicThreshold {
    fn default() -> Self {
        Self { percentile: 0.995 }
    }
}

impl Wrapper for DynamicThreshold {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        ensure!(
            self.percentile > 0.0 && self.percentile <= 1.0,
            "percentile = {} must be above 0 and at most 1",
            self.percentile
        );
        let Some((low, high)) = around.range() else {
            return Err(crate::Error::new("these data have no range to threshold at: it is for pictures"));
        };
        Ok(Arc::new(Thresholded {
            inner,
            center: 0.5 * (low + high),
            half: 0.5 * (high - low),
            percentile: self.percentile,
        }))
    }
}

/// A denoiser whose estimates are thresholded, in units where the data lie in center ± half.
struct Thresholded {
    inner: Arc<dyn Denoiser>,
    center: f64,
    half: f64,
    percentile: f64,
}

impl Thresholded {
    /// The percentile of each row's sizes `[rows, 1]`, interpolated between its neighbors, for rows `x` `[rows, dim]`. Its tangent is
    /// that of the values it lies between.
    fn percentiles(&self, x: Dual<2>) -> Dual<2> {
        let sizes = x.map(|x| x.abs(), |x| x.sign());
        let last = sizes.dims()[1] - 1;
        let place = self.percentile * last as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        let order = sizes.value.clone().inner().argsort(1);
        let ranked = |rank: usize| {
            let index = order.clone().narrow(1, rank.min(last), 1);
            sizes.clone().linear(|sizes| sizes.gather(1, index.clone()))
        };
        ranked(below).linear(|size| size.mul_scalar(1.0 - part))
            + ranked(below + 1).linear(|size| size.mul_scalar(part))
    }

    /// The rows divided and clamped.
    fn threshold(&self, mean: Dual<2>) -> Dual<2> {
        let shape = mean.dims();
        let x = mean.shift(|x| x.sub_scalar(self.center)).linear(|x| x.mul_scalar(1.0 / self.half));
        let threshold = clamp(self.percentiles(x.clone()), 1.0, f64::INFINITY);
        let inverse = threshold.map(|s| s.recip(), |s| -s.square().recip());
        let scaled = clamp(x * inverse.linear(|inverse| inverse.expand(shape)), -1.0, 1.0);
        scaled.linear(|x| x.mul_scalar(self.half)).shift(|x| x.add_scalar(self.center))
    }
}

impl Denoiser for Thresholded {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        estimate(&self.inner, x, at, given)?.reshape(|mean| Ok(self.threshold(mean)))
    }
}
