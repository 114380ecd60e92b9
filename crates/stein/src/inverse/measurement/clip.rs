//! y = min(max(x, low), high): a sensor that saturates. Its derivative is 1 between the limits and 0 beyond them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement};
use crate::{
    Result, ensure,
    inverse::{Clipped, Operator},
};

/// Numbers cut off at two limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Clip {
    /// The lower limit; default 0.25.
    pub low: f64,
    /// The upper limit, above the lower; default 0.75.
    pub high: f64,
}

impl Default for Clip {
    fn default() -> Self {
        Self { low: 0.25, high: 0.75 }
    }
}

/// Fails unless two limits are in order.
pub(super) fn ensure_limits(measurement: &str, low: f64, high: f64) -> Result<()> {
    ensure!(
        low.is_finite() && high.is_finite() && low < high,
        "measurement {measurement}: low = {low} must be below high = {high}"
    );
    Ok(())
}

impl Measurement for Clip {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        let Self { low, high } = *self;
        ensure_limits("clip", low, high)?;
        Ok(Arc::new(Clipped { count: shape.iter().product(), gain: 1.0, shift: 0.0, low, high }))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        Ok(shape.to_vec())
    }
}
