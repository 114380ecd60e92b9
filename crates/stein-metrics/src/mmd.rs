//! Squared maximum mean discrepancy with a Gaussian kernel, k(x, y) = exp(−|x − y|² / 2σ²) (Gretton et al. 2012).
//!
//! It is 0 for equal laws only, and at most 2. What it sees depends on σ: by default that is the median of the distances
//! between rows of both sides (at most 1000 of them, spread evenly), which the part `sigma` has; values for two medians
//! cannot be compared. The error is the larger one of the jackknife's and that of equal laws.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure, numbers};

use crate::{
    Better, Measured, Metric, Needs, Rows, Running, Sides, Statistic,
    neighbors::Pairs,
    two_sample::{Of, discrepancy},
};

/// Squared maximum mean discrepancy with a Gaussian kernel.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Mmd {
    /// The kernel's standard deviation σ, above 0 and in the units of the data; by default the median distance.
    pub sigma: Option<f64>,
    /// Which pairs are averaged over.
    pub statistic: Statistic,
}

impl Metric for Mmd {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn check(&self) -> Result<()> {
        self.sigma.map_or(Ok(()), |sigma| numbers::ensure_within("sigma", sigma, numbers::above(0.0, f64::MAX)))
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let it = self.clone();
        Ok(Running::whole(move |sides| it.of(sides)))
    }
}

impl Mmd {
    fn of(&self, sides: &Sides) -> Result<Measured> {
        let sigma = match self.sigma {
            Some(sigma) => sigma,
            None => median_distance(&sides.reference, &sides.samples)?,
        };
        let gaussian = move |squared: f64| (-squared / (2.0 * sigma * sigma)).exp();
        let measured = discrepancy(&sides.reference, &sides.samples, self.statistic, Of::SquaredDistance(&gaussian))?;
        Ok(measured.with_part("sigma", sigma))
    }
}

/// The median distance between different rows of both sets together.
fn median_distance(one: &Rows, other: &Rows) -> Result<f64> {
    const MOST: usize = 500;
    let spread = |rows: &Rows| {
        let taken = rows.len().min(MOST);
        rows.select((0..taken).map(|i| i * rows.len() / taken))
    };
    let mut pooled = spread(one);
    let other = spread(other);
    pooled.push(&crate::Batch { values: other.values(), labels: None });
    let pairs = Pairs::new(&pooled, &pooled);
    let later = pairs.distances(
        |_| Vec::new(),
        |found: &mut Vec<f64>, row, first, distances| {
            found.extend((first..).zip(distances).filter(|(place, _)| *place > row).map(|(_, squared)| *squared));
        },
    );
    let mut squared: Vec<f64> = later.into_iter().flatten().collect();
    let middle = squared.len() / 2;
    let median = squared.select_nth_unstable_by(middle, f64::total_cmp).1.sqrt();
    ensure!(median > 0.0, "most rows are equal, so their median distance is 0: set `sigma`");
    Ok(median)
}
