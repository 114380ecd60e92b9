//! y_j = std (x_j − m_j)/s_j with the mean and standard deviation of every column; ln |det| = Σ ln (std/s_j).
//!
//! The standard deviation is that of the sample as a whole population, √(mean of (x − m)²).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnyCodec, Codec, DataSample, FitCodec, check_width};
use crate::{
    Error, Keys, Result, ensure,
    numbers::{above, ensure_within},
    rows,
};

/// Every column to mean 0 and a standard deviation. A constant column is only centered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Standardize {
    /// The standard deviation of the states; positive and at most 1e6, default 1.
    pub std: f64,
}

impl Default for Standardize {
    fn default() -> Self {
        Self { std: 1.0 }
    }
}

impl FitCodec for Standardize {
    fn fit(&self, sample: &DataSample) -> Result<AnyCodec> {
        ensure_within("codec standardize: std", self.std, above(0.0, 1e6))?;
        sample.check()?;
        let count = sample.rows() as f64;
        let (mean, scale) = (0..sample.dim)
            .map(|column| {
                let values = sample.column(column);
                let mean = values.clone().sum::<f64>() / count;
                let variance = values.clone().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                // Told by the values: the mean of equal ones may be off by rounding.
                let constant = values.clone().all(|x| Some(x) == values.clone().next());
                (mean, if constant { 1.0 } else { self.std / variance.sqrt() })
            })
            .unzip();
        Ok(Standardized { mean, scale }.into())
    }
}

/// [`Standardize`], fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(try_from = "Columns", into = "Columns")]
pub struct Standardized {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

#[derive(Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
struct Columns {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

impl TryFrom<Columns> for Standardized {
    type Error = Error;

    fn try_from(Columns { mean, scale }: Columns) -> Result<Self> {
        ensure!(
            !mean.is_empty()
                && mean.len() == scale.len()
                && mean.iter().all(|mean| mean.is_finite())
                && scale.iter().all(|scale| *scale > 0.0 && scale.is_finite()),
            "codec standardize: it needs a mean and a positive scale per column, all finite"
        );
        Ok(Self { mean, scale })
    }
}

impl From<Standardized> for Columns {
    fn from(Standardized { mean, scale }: Standardized) -> Self {
        Self { mean, scale }
    }
}

/// One column that has mean 0 and standard deviation 1 already.
impl Default for Standardized {
    fn default() -> Self {
        Self { mean: vec![0.0], scale: vec![1.0] }
    }
}

impl Standardized {
    /// The mean and the factor of every column, as rows that are used for all.
    fn tables(&self, x: &Tensor<2>) -> Result<[Tensor<2>; 2]> {
        let dim = self.mean.len();
        check_width("standardize", dim, x.dims()[1])?;
        Ok([&self.mean, &self.scale].map(|values| rows::matrix(values.clone(), dim, x)))
    }
}

impl Codec for Standardized {
    fn state(&self, data: &[usize]) -> Result<Vec<usize>> {
        check_width("standardize", self.mean.len(), data.iter().product())?;
        Ok(data.to_vec())
    }

    fn encode(&self, x: Tensor<2>, _: &Keys) -> Result<Tensor<2>> {
        let [mean, scale] = self.tables(&x)?;
        Ok((x - mean) * scale)
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        let [mean, scale] = self.tables(&x)?;
        Ok(x / scale + mean)
    }

    fn log_det(&self, x: &Tensor<2>, _: &Keys) -> Result<Option<Vec<f64>>> {
        let [rows, dim] = x.dims();
        check_width("standardize", self.mean.len(), dim)?;
        Ok(Some(vec![self.scale.iter().map(|scale| scale.ln()).sum(); rows]))
    }
}
