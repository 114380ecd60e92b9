//! What was measured: y = A(x) + noise for every row of a batch.

use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Linear, Operator, Spectrum, linear};
use crate::{
    Error, Keys, Kind, Purpose, Result, ensure,
    numbers::{above, ensure_within},
    rows,
};

/// The noise of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Noise {
    /// y = A(x) + N(0, std²).
    Gaussian {
        /// Standard deviation, in the units of the measurement; 0 for none, up to 1e12.
        std: f64,
    },
    /// y = Poisson(rate · A(x))/rate: counts, in the units of the measurement, for one that is nowhere negative.
    Poisson {
        /// Counts in one unit of the measurement; above 0, up to 1e12.
        rate: f64,
    },
}

impl Default for Noise {
    fn default() -> Self {
        Self::Gaussian { std: 0.0 }
    }
}

impl Noise {
    /// Fails, saying which number and what it may be, if one is out of range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Gaussian { std } => ensure_within("measurement.noise: std", std, 0.0..=1e12),
            Self::Poisson { rate } => ensure_within("measurement.noise: rate", rate, above(0.0, 1e12)),
        }
    }

    /// The variance of each number of a measurement `[m]` that was made: of counts their own number, one at least (the Gaussian
    /// that stands in for Poisson's law).
    pub fn variances(&self, y: &[f64]) -> Vec<f64> {
        match *self {
            Self::Gaussian { std } => vec![std * std; y.len()],
            Self::Poisson { rate } => y.iter().map(|y| (y * rate).max(1.0) / (rate * rate)).collect(),
        }
    }

    /// A measurement `[rows, m]` with this noise of what there is without `[rows, m]`, drawn by the keys of its rows.
    ///
    /// # Errors
    /// Negative numbers, which have no Poisson law.
    pub fn add(&self, clean: &[f64], keys: &Keys) -> Result<Vec<f64>> {
        let width = clean.len() / keys.len().max(1);
        match *self {
            Self::Gaussian { std } => {
                let normal = keys.normal(Purpose::Measurement, 0, width);
                Ok(clean.iter().zip(normal).map(|(clean, z)| clean + std * z).collect())
            }
            Self::Poisson { rate } => {
                let mut noisy = Vec::with_capacity(clean.len());
                for (row, key) in clean.chunks(width.max(1)).zip(keys.each(Purpose::Measurement, 0)) {
                    let mut generator = key.generator();
                    for &clean in row {
                        noisy.push(stein_base::random::poisson(&mut generator, rate * clean).ok_or_else(|| {
                            Error::new(format!(
                                "the measurement has the value {clean}, and counts have a mean from 0 to 1e15: use Gaussian noise"
                            ))
                        })? / rate);
                    }
                }
                Ok(noisy)
            }
        }
    }
}

/// An operator, its noise, and one measurement for every row of a batch.
#[derive(Debug, Clone)]
pub struct Problem {
    /// A, of states.
    pub operator: Arc<dyn Operator>,
    /// The noise of y.
    pub noise: Noise,
    y: Vec<f64>,
    variances: Vec<f64>,
}

impl Problem {
    /// Measurements y `[rows, m]` in row order.
    ///
    /// # Errors
    /// Numbers that make no whole rows, or are not finite, and noise out of range.
    pub fn new(operator: Arc<dyn Operator>, noise: Noise, y: Vec<f64>) -> Result<Self> {
        noise.check()?;
        let width = operator.outputs();
        ensure!(
            !y.is_empty() && y.len().is_multiple_of(width),
            "{} numbers are no measurement: it has {width}",
            y.len()
        );
        ensure!(y.iter().all(|y| y.is_finite()), "the measurement has a value that is not a finite number");
        let variances = noise.variances(&y);
        Ok(Self { operator, noise, y, variances })
    }

    /// Number of measurements.
    pub fn rows(&self) -> usize {
        self.y.len() / self.operator.outputs()
    }

    /// The measurement `[m]` of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn y(&self, row: usize) -> &[f64] {
        let width = self.operator.outputs();
        &self.y[row * width..(row + 1) * width]
    }

    /// The variance of the noise of each number of a row's measurement `[m]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn variances(&self, row: usize) -> &[f64] {
        let width = self.operator.outputs();
        &self.variances[row * width..(row + 1) * width]
    }

    /// The standard deviation of Gaussian noise; `None` of other noise.
    pub fn std(&self) -> Option<f64> {
        match self.noise {
            Noise::Gaussian { std } => Some(std),
            Noise::Poisson { .. } => None,
        }
    }

    /// The operator and the standard deviation of the noise, of a linear measurement with Gaussian noise.
    ///
    /// # Errors
    /// With the name of the method that asks, for a measurement that is not.
    pub fn linear_gaussian(&self, method: &str) -> Result<(&dyn Linear, f64)> {
        let operator = linear(&*self.operator, method)?;
        let std = self.std().ok_or_else(|| {
            Error::of(
                Kind::Unsupported,
                format!(
                    "method {method} is for Gaussian noise, and this measurement counts: use dps, mmps, daps or tds"
                ),
            )
        })?;
        Ok((operator, std))
    }

    /// The decomposition of the operator and the standard deviation of the noise, where the measurement is linear with Gaussian noise
    /// and its decomposition can be worked out; `None` where not.
    ///
    /// # Errors
    /// A decomposition that fails.
    pub fn decomposition(&self) -> Result<Option<(Arc<dyn Spectrum>, f64)>> {
        let (Some(operator), Some(std)) = (self.operator.linear(), self.std()) else { return Ok(None) };
        match operator.spectrum() {
            Ok(spectrum) => Ok(Some((spectrum, std))),
            Err(error) if error.kind() == Kind::Unsupported => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The measurements of some rows, in the order given: one may be given several times.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let take = |of: &dyn Fn(usize) -> Vec<f64>| rows.iter().flat_map(|&row| of(row)).collect();
        let y = take(&|row| self.y(row).to_vec());
        let variances = take(&|row| self.variances(row).to_vec());
        Self { y, variances, ..self.clone() }
    }

    /// What is left to explain of a row's sample, with each number weighted by its noise where those differ: by the mean variance over its
    /// own, so that equal ones count as they are.
    pub fn weighted(&self, row: usize, residual: &[f64]) -> Vec<f64> {
        if self.std().is_some() {
            return residual.to_vec();
        }
        let variances = self.variances(row);
        let mean = variances.iter().sum::<f64>() / variances.len() as f64;
        residual.iter().zip(variances).map(|(r, variance)| r * mean / variance).collect()
    }

    /// A function of every row of a batch `[rows, n]` and its number, as a batch of the same precision.
    pub fn each(&self, x: &Tensor<2>, f: impl Fn(usize, &[f64]) -> Vec<f64> + Sync) -> Tensor<2> {
        let width = x.dims()[1];
        let out: Vec<Vec<f64>> = rows::host(x).par_chunks(width).enumerate().map(|(row, x)| f(row, x)).collect();
        let width = out.first().map_or(0, Vec::len);
        rows::matrix(out.concat(), width, x)
    }

    /// What is left to explain, y − A(x) `[m]`, of the sample `[n]` of a row.
    pub fn residual(&self, row: usize, x: &[f64]) -> Vec<f64> {
        self.y(row).iter().zip(self.operator.apply(x)).map(|(y, a)| y - a).collect()
    }
}
