//! y = scale · x + shift, the same for every number; ln |det| = dim · ln |scale|.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnyCodec, Codec, DataSample, FitCodec};
use crate::{Keys, Result, ensure};

/// A factor and a shift. Default: neither.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Affine {
    /// The factor, not 0, of a size from 1e-12 to 1e12; default 1.
    pub scale: f64,
    /// What is added after it, from −1e12 to 1e12; default 0.
    pub shift: f64,
}

impl Default for Affine {
    fn default() -> Self {
        Self { scale: 1.0, shift: 0.0 }
    }
}

impl FitCodec for Affine {
    fn fit(&self, _: &DataSample) -> Result<AnyCodec> {
        self.check()?;
        Ok((*self).into())
    }
}

impl Codec for Affine {
    fn check(&self) -> Result<()> {
        ensure!(
            (1e-12..=1e12).contains(&self.scale.abs()) && self.shift.abs() <= 1e12,
            "codec affine: scale = {} must be a number other than 0, and shift = {} a number, from -1e12 to 1e12",
            self.scale,
            self.shift
        );
        Ok(())
    }

    fn encode(&self, x: Tensor<2>, _: &Keys) -> Result<Tensor<2>> {
        Ok(x.mul_scalar(self.scale).add_scalar(self.shift))
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        Ok(x.sub_scalar(self.shift).mul_scalar(1.0 / self.scale))
    }

    fn log_det(&self, x: &Tensor<2>, _: &Keys) -> Result<Option<Vec<f64>>> {
        let [rows, dim] = x.dims();
        Ok(Some(vec![dim as f64 * self.scale.abs().ln(); rows]))
    }

    fn range(&self, (low, high): (f64, f64)) -> Option<(f64, f64)> {
        let [a, b] = [low, high].map(|x| self.scale * x + self.shift);
        Some((a.min(b), a.max(b)))
    }
}
