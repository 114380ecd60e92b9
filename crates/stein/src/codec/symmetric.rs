//! y = 2x − 1: pictures in \[0, 1\] as denoisers know them, in \[−1, 1\].

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Affine, AnyCodec, Codec, DataSample, FitCodec};
use crate::{Keys, Result};

/// From \[0, 1\] to \[−1, 1\].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Symmetric {}

const MAP: Affine = Affine { scale: 2.0, shift: -1.0 };

impl FitCodec for Symmetric {
    fn fit(&self, _: &DataSample) -> Result<AnyCodec> {
        Ok((*self).into())
    }
}

impl Codec for Symmetric {
    fn encode(&self, x: Tensor<2>, keys: &Keys) -> Result<Tensor<2>> {
        MAP.encode(x, keys)
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        MAP.decode(x)
    }

    fn log_det(&self, x: &Tensor<2>, keys: &Keys) -> Result<Option<Vec<f64>>> {
        MAP.log_det(x, keys)
    }

    fn range(&self, data: (f64, f64)) -> Option<(f64, f64)> {
        MAP.range(data)
    }
}
