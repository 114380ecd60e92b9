//! Dynamic thresholding (Saharia et al. 2022, "Imagen", arXiv:2205.11487, section 2.3): a row whose values leave the data's range is
//! clamped at a high percentile s of their size and divided by s, so that strong guidance does not saturate it.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Surroundings, Wrapper};
use crate::{Condition, Denoiser, Dual, Estimate, Levels, Result, ensure, estimate, rows};

/// Dynamic thresholding of estimates, for pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// The percentile of each row's sizes, at least `half`, interpolated between its neighbors. Where two values are close the
    /// derivative of a percentile is that of the value it picks; it is taken as a constant of the row.
    fn thresholds(&self, x: &Tensor<2>) -> Vec<f64> {
        let dim = x.dims()[1];
        let place = self.percentile * (dim - 1) as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        rows::host(x)
            .chunks_exact(dim)
            .map(|row| {
                let mut sizes: Vec<f64> = row.iter().map(|x| (x - self.center).abs()).collect();
                sizes.sort_unstable_by(f64::total_cmp);
                let above = sizes[(below + 1).min(dim - 1)];
                (sizes[below] + part * (above - sizes[below])).max(self.half)
            })
            .collect()
    }
}

impl Denoiser for Thresholded {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let inner = estimate(&self.inner, x, at, given)?;
        let thresholds = self.thresholds(&inner.mean.value);
        let like = &inner.mean.value;
        let [s, factor] = [1.0, self.half].map(|half| {
            let numbers = thresholds.iter().map(|s| if half == 1.0 { *s } else { half / s }).collect::<Vec<_>>();
            rows::column(&numbers, like)
        });
        let wide = s.expand(like.dims());
        let clamped = inner
            .mean
            .shift(|x| x.sub_scalar(self.center))
            .map(|x| x.min_pair(wide.clone()).max_pair(-wide.clone()), |x| x.abs().lower_equal(wide.clone()).float());
        let mean = clamped.linear(|x| x * factor.clone()).shift(|x| x.add_scalar(self.center));
        Ok(Estimate { mean, ..inner })
    }
}
