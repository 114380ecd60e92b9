//! y = clip(gain (x − center) + center, 0, 1): a picture with more contrast than a file has room for. DAPS (Zhang et al. 2024) has
//! clip(2x, −1, 1) of pictures in \[−1, 1\], which is a gain of 2 around 0.5 here; with `center` = 0 it is clip(gain x).
//!
//! Its derivative is the gain where nothing is cut off and 0 elsewhere.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, picture};
use crate::{
    Result,
    inverse::{Clipped, Operator},
    numbers::{above, ensure_within},
};

/// More contrast than there is room for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Hdr {
    /// Factor on the contrast, above 0, up to 1e6; default 2.
    pub gain: f64,
    /// The value that stays as it is, from 0 to 1; default 0.5.
    pub center: f64,
}

impl Default for Hdr {
    fn default() -> Self {
        Self { gain: 2.0, center: 0.5 }
    }
}

impl Measurement for Hdr {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        picture(shape, "hdr")?;
        ensure_within("measurement hdr: gain", self.gain, above(0.0, 1e6))?;
        ensure_within("measurement hdr: center", self.center, 0.0..=1.0)?;
        let (gain, shift) = (self.gain, self.center * (1.0 - self.gain));
        Ok(Arc::new(Clipped { count: shape.iter().product(), gain, shift, low: 0.0, high: 1.0 }))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        Ok(shape.to_vec())
    }
}
