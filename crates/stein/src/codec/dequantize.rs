//! y = (level + u)/levels for x = level/(levels − 1), u uniform in (0, 1): data of equally spaced values from 0 to 1 spread over
//! intervals that fill \[0, 1\], so that they have a density (Theis et al. 2016, "A Note on the Evaluation of Generative
//! Models", section 3.1).
//!
//! ln |det| = dim · ln ((levels − 1)/levels), of the line through the levels at fixed u. The probability of a sample is its
//! density in x times the spacing of the values, (levels − 1)^{−dim}.
//!
//! u is drawn at the centers of equal parts of the interval, as many as the precision of x tells apart with room to spare, so that
//! decoding gives the level back for every u.

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnyCodec, Codec, DataSample, FitCodec};
use crate::{Keys, Purpose, Result, ensure, numbers::ensure_within, rows};

/// Levels spread over their intervals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Dequantize {
    /// How many values a number can have, from 2 to 65,536; default what the data say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<u32>,
}

impl FitCodec for Dequantize {
    fn fit(&self, sample: &DataSample) -> Result<AnyCodec> {
        let Some(levels) = self.levels.or(sample.levels) else {
            return Err(crate::Error::new(
                "codec dequantize: these data do not say how many values their numbers can have: give levels",
            ));
        };
        let codec = Dequantized { levels };
        codec.check()?;
        Ok(codec.into())
    }
}

/// [`Dequantize`], fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Dequantized {
    /// How many values a number can have, at least 2.
    pub levels: u32,
}

/// The levels of pictures.
impl Default for Dequantized {
    fn default() -> Self {
        Self { levels: 256 }
    }
}

impl Dequantized {
    fn count(&self) -> f64 {
        f64::from(self.levels)
    }

    /// Into how many parts an interval is cut: a 16th of what a number just below 1 tells apart.
    fn parts(&self, kind: DType) -> Result<f64> {
        let digits = match kind {
            DType::F64 => 52,
            DType::F16 => 10,
            DType::BF16 => 7,
            _ => 23,
        };
        let bits = digits - (self.count().log2().ceil() as i32) - 4;
        ensure!(bits >= 0, "codec dequantize: numbers of this precision do not tell {} levels apart", self.levels);
        Ok(f64::from(bits).exp2())
    }
}

impl Codec for Dequantized {
    fn check(&self) -> Result<()> {
        ensure_within("codec dequantize: levels", self.levels, 2..=1 << 16)
    }

    fn encode(&self, x: Tensor<2>, keys: &Keys) -> Result<Tensor<2>> {
        let [count, dim] = x.dims();
        ensure!(keys.len() == count, "codec dequantize: {} keys were given for {count} rows", keys.len());
        let parts = self.parts(x.dtype())?;
        let u = keys.uniforms(Purpose::Dequantize, 0, dim).into_iter().map(|u| ((u * parts).floor() + 0.5) / parts);
        let u = rows::matrix(u.collect(), dim, &x);
        let level = x.mul_scalar(self.count() - 1.0).round().clamp(0.0, self.count() - 1.0);
        Ok((level + u).mul_scalar(1.0 / self.count()))
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        let level = x.mul_scalar(self.count()).floor().clamp(0.0, self.count() - 1.0);
        Ok(level.mul_scalar(1.0 / (self.count() - 1.0)))
    }

    fn log_det(&self, x: &Tensor<2>, _: &Keys) -> Result<Option<Vec<f64>>> {
        let [rows, dim] = x.dims();
        Ok(Some(vec![dim as f64 * (-1.0 / self.count()).ln_1p(); rows]))
    }

    fn range(&self, data: (f64, f64)) -> Option<(f64, f64)> {
        // The intervals of the lowest and the highest value, from end to end.
        let level = |x: f64| (x * (self.count() - 1.0)).round();
        Some((level(data.0) / self.count(), (level(data.1) + 1.0) / self.count()))
    }
}
