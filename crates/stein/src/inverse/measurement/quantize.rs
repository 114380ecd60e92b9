//! y = the nearest of L levels between two limits: few bits for a number.
//!
//! Its derivative is straight-through: 1 between the limits, as if nothing were rounded, and 0 beyond them. The true one is 0 almost
//! everywhere and says nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, clip::ensure_limits};
use crate::{
    Result,
    inverse::{Chain, Clipped, Operator, Rounded},
    numbers::ensure_within,
};

/// Numbers rounded to a few levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Quantize {
    /// Levels, from 2 to 65536; default 8.
    pub levels: u32,
    /// The lowest level; default 0.
    pub low: f64,
    /// The highest level, above the lowest; default 1.
    pub high: f64,
}

impl Default for Quantize {
    fn default() -> Self {
        Self { levels: 8, low: 0.0, high: 1.0 }
    }
}

impl Measurement for Quantize {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        let Self { levels, low, high } = *self;
        ensure_within("measurement quantize: levels", levels, 2..=65536)?;
        ensure_limits("quantize", low, high)?;
        let count = shape.iter().product();
        let step = (high - low) / f64::from(levels - 1);
        Ok(Arc::new(Chain::new(vec![
            Arc::new(Clipped { count, gain: 1.0, shift: 0.0, low, high }),
            Arc::new(Rounded::new(vec![step; count], vec![low; count])),
        ])))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        Ok(shape.to_vec())
    }
}
