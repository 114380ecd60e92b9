//! y = Σ_c w_c x_c at every pixel: the gray picture of one in color, which colorization goes back from. DDRM's (Kawar et al. 2022) is the
//! mean of the channels.
//!
//! Its one singular value is |w|, at every pixel.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, picture};
use crate::{
    Result, ensure,
    inverse::{Dense, Gather, Kronecker, Operator},
};

/// One gray value for each pixel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Colorize {
    /// The weight of each channel, not all 0; default equal ones that sum to 1. Luma has 0.299, 0.587 and 0.114.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
}

impl Measurement for Colorize {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        let [height, width, channels] = picture(shape, "colorize")?;
        ensure!(channels > 1, "measurement colorize is of pictures in color, and these have one channel");
        let weights =
            if self.weights.is_empty() { vec![1.0 / channels as f64; channels] } else { self.weights.clone() };
        ensure!(
            weights.len() == channels && weights.iter().any(|weight| *weight != 0.0),
            "measurement colorize: weights = {weights:?} must be {channels} numbers, one for each channel, that are not all 0"
        );
        let gray = Dense::new(1, channels, &weights)?;
        Ok(Arc::new(Kronecker::new(Arc::new(Gather::all(height * width)?), Arc::new(gray))))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        let [height, width, _] = picture(shape, "colorize")?;
        Ok(vec![height, width, 1])
    }
}
