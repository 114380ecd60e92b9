//! Kernel distance (Bińkowski et al. 2018, section 4): the squared maximum mean discrepancy with k(x, y) = (x·y / dim + 1)³.
//!
//! KID is the unbiased form on Inception's features. Unlike the Fréchet distance it has no bias at any number of rows, and is
//! usable from about a thousand. By default it is over all rows, which takes time in n²; the published way is the mean over
//! subsets, by default 100 of 1000 rows, which estimates the same with more noise.
//!
//! The error is the larger one of the jackknife's and that of equal laws, over all rows; of subsets it is the standard deviation of their values, which the part `deviation`
//! has, times the root of the part of the rows that one has.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers::ensure_within};

use crate::{
    Better, Measured, Metric, Needs, Running, Sides, Statistic,
    measured::{deviation, mean},
    subsets::subset,
    two_sample::{Of, discrepancy},
};

/// Squared maximum mean discrepancy with a cubic kernel; KID on Inception features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Which pairs are averaged over.
    pub statistic: Statistic,
    /// Number of random subsets to average over, up to 10000; 0, the default, takes all rows at once.
    pub subsets: usize,
    /// Rows of a subset, at least 2; default 1000.
    pub subset_size: usize,
    /// Seed of the subsets.
    pub seed: u64,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { statistic: Statistic::Unbiased, subsets: 0, subset_size: 1000, seed: 0 }
    }
}

impl Metric for Kernel {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn check(&self) -> Result<()> {
        ensure_within("subsets", self.subsets, 0..=10_000)?;
        ensure_within("subset_size", self.subset_size, 2..)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let it = self.clone();
        Ok(Running::whole(move |sides| it.of(sides)))
    }
}

impl Kernel {
    fn of(&self, sides: &Sides) -> Result<Measured> {
        let dim = sides.samples.dim() as f64;
        let cubic = move |product: f64| (product / dim + 1.0).powi(3);
        let (reference, samples) = (&sides.reference, &sides.samples);
        if self.subsets == 0 {
            return discrepancy(reference, samples, self.statistic, Of::Product(&cubic));
        }
        let least = reference.len().min(samples.len());
        let size = self.subset_size.min(least);
        let values: Vec<f64> = (0..self.subsets as u64)
            .map(|number| {
                let [one, two] = [(reference, 0), (samples, 1)]
                    .map(|(rows, side)| rows.select(subset(self.seed, number, side, rows.len(), size)));
                Ok(discrepancy(&one, &two, self.statistic, Of::Product(&cubic))?.value)
            })
            .collect::<Result<_>>()?;
        let spread = deviation(&values);
        let error = spread.map(|spread| spread * (size as f64 / least as f64).sqrt());
        let measured = Measured::new(mean(&values), error).noted_if(size < self.subset_size, || {
            format!("subsets have {size} rows instead of {}, since there are no more", self.subset_size)
        });
        Ok(match spread {
            Some(spread) => measured.with_part("deviation", spread),
            None => measured,
        })
    }
}
