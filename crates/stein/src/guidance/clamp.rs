//! Estimates kept inside an interval, as DDPM's sampler does with x̂_0 (Ho et al. 2020, their code).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Surroundings, Wrapper};
use crate::{Condition, Denoiser, Dual, Estimate, FlowMap, Kernel, Levels, Result, ensure, estimate, rows};

/// The largest bound.
const MOST: f64 = 1e6;

/// Keeps estimates of x_0 inside an interval. Default: what the data lie in, which is the range of pictures, and that of each column
/// of rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Clamp {
    /// The lower bound, in the units the model works in, from −1e6 to 1e6; default that of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The upper bound, as the lower one; default that of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl Clamp {
    /// Lower and upper bound, of all numbers of a state or of each.
    ///
    /// # Errors
    /// Bounds that are left out where those of the data are not known, or that fall.
    pub fn bounds(&self, around: &dyn Surroundings) -> Result<Vec<(f64, f64)>> {
        let given = self.low.zip(self.high).map(|bounds| vec![bounds]);
        let Some(mut bounds) = given.or_else(|| around.bounds()) else {
            return Err(crate::Error::new("these data have no range to keep estimates in: give low and high"));
        };
        for (low, high) in &mut bounds {
            (*low, *high) = (self.low.unwrap_or(*low), self.high.unwrap_or(*high));
            // A column may have one value only.
            ensure!(
                *low <= *high && low.abs().max(high.abs()) <= MOST,
                "low = {low} must be below high = {high}, and both from -{MOST} to {MOST}"
            );
        }
        Ok(bounds)
    }
}

impl Wrapper for Clamp {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        Ok(Arc::new(Clamped { inner, bounds: self.bounds(around)? }))
    }
}

/// Every number kept inside an interval: the derivative is 1 inside and 0 outside, as the engine has it.
pub(super) fn clamp(x: Dual<2>, low: f64, high: f64) -> Dual<2> {
    x.map(
        |x| x.clamp(low, high),
        |x| {
            let outside = x.clone().lower_elem(low).bool_or(x.clone().greater_elem(high));
            x.ones_like().mask_fill(outside, 0.0)
        },
    )
}

/// A denoiser or a flow map whose result is kept inside an interval.
#[derive(Debug, Clone)]
pub struct Clamped<D> {
    /// What is clamped.
    pub inner: D,
    /// Lower and upper bound in the units it works in, of all numbers of a state or of each.
    pub bounds: Vec<(f64, f64)>,
}

impl<D> Clamped<D> {
    fn clamp(&self, x: Dual<2>) -> Result<Dual<2>> {
        let shape = x.dims();
        match &self.bounds[..] {
            &[(low, high)] => Ok(clamp(x, low, high)),
            each => {
                ensure!(each.len() == shape[1], "{} bounds do not fit states of {} numbers", each.len(), shape[1]);
                let row = |bound: fn(&(f64, f64)) -> f64| {
                    rows::matrix(each.iter().map(bound).collect(), each.len(), &x.value).expand(shape)
                };
                let (low, high) = (row(|bounds| bounds.0), row(|bounds| bounds.1));
                let outside = x.value.clone().lower(low.clone()).bool_or(x.value.clone().greater(high.clone()));
                Ok(x.map(|x| x.max_pair(low).min_pair(high), |x| x.ones_like().mask_fill(outside, 0.0)))
            }
        }
    }
}

impl<D: Denoiser> Denoiser for Clamped<D> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        estimate(&self.inner, x, at, given)?.reshape(|mean| self.clamp(mean))
    }
}

impl<M: FlowMap> FlowMap for Clamped<M> {
    fn carry(&self, x: Dual<2>, from: Levels, to: Levels, given: &Condition) -> Result<Dual<2>> {
        self.clamp(self.inner.carry(x, from, to, given)?)
    }

    fn end(&self) -> Option<Kernel> {
        self.inner.end()
    }
}
