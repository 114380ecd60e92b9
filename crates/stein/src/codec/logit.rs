//! y = ln s/(1 − s) with s = margin + (1 − 2 margin) x, from \[0, 1\] to the line (Dinh et al. 2017, "Density Estimation Using Real
//! NVP", section 4.1): ln |dy/dx| = ln (1 − 2 margin) − ln s − ln (1 − s).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnyCodec, Codec, DataSample, FitCodec, extremes};
use crate::{Keys, Result, ensure, rows};

/// From \[0, 1\] to the line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Logit {
    /// How far 0 and 1 are kept from where the logarithm is infinite, in (0, 0.5); default 0.000001. Real NVP has 0.05.
    pub margin: f64,
}

impl Default for Logit {
    fn default() -> Self {
        Self { margin: 1e-6 }
    }
}

impl Logit {
    /// s and 1 − s, each from the end it is near, so that neither loses digits.
    fn parts(&self, x: &Tensor<2>) -> Result<[Tensor<2>; 2]> {
        if let Some((low, high)) = extremes(x) {
            ensure!(
                low >= 0.0 && high <= 1.0,
                "codec logit: the data reach from {low} to {high}, and it takes values from 0 to 1"
            );
        }
        let part = |x: Tensor<2>| x.mul_scalar(1.0 - 2.0 * self.margin).add_scalar(self.margin);
        Ok([part(x.clone()), part(x.clone().neg().add_scalar(1.0))])
    }
}

impl FitCodec for Logit {
    fn fit(&self, _: &DataSample) -> Result<AnyCodec> {
        self.check()?;
        Ok((*self).into())
    }
}

impl Codec for Logit {
    fn check(&self) -> Result<()> {
        ensure!(
            self.margin >= 1e-12 && self.margin < 0.5,
            "codec logit: margin = {} must lie between 0 and 0.5, and not below 1e-12",
            self.margin
        );
        Ok(())
    }

    fn encode(&self, x: Tensor<2>, _: &Keys) -> Result<Tensor<2>> {
        let [s, rest] = self.parts(&x)?;
        Ok(s.log() - rest.log())
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        // 1/(1 + e^{−y}): far to either side it is 1 or 0.
        let s = x.neg().exp().add_scalar(1.0).recip();
        Ok(s.sub_scalar(self.margin).mul_scalar(1.0 / (1.0 - 2.0 * self.margin)))
    }

    fn log_det(&self, x: &Tensor<2>, _: &Keys) -> Result<Option<Vec<f64>>> {
        let [s, rest] = self.parts(x)?;
        let slopes = -(s.log() + rest.log()).add_scalar(-(1.0 - 2.0 * self.margin).ln());
        Ok(Some(rows::host(&slopes.sum_dim(1))))
    }
}
