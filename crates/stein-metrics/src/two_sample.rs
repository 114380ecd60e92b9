//! Statistics of a kernel over two sets of rows, X of n and Y of m:
//!
//!     E k(x, x′) + E k(y, y′) − 2 E k(x, y)
//!
//! With a positive definite k it is the squared maximum mean discrepancy (Gretton et al. 2012, lemma 6), and with k = −|x − y| the
//! energy distance. The V-statistic averages over all n², m² and n m pairs: biased, never negative. The U-statistic leaves
//! out pairs of a row with itself: unbiased, and below zero by chance where both laws are the same.
//!
//! The error is the jackknife's: every row of either side is left out once, at no cost beyond the sums of its row. Where both
//! laws are the same it is too large, up to √2-fold, since the statistic's first-order term then vanishes.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure};

use crate::{Measured, Rows, neighbors::Pairs};

/// Which pairs are averaged over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Pairs of different rows: without bias, may be negative.
    #[default]
    Unbiased,
    /// All pairs: biased upward by about 1/n, never negative.
    Biased,
}

/// What a kernel is a function of.
#[derive(Clone, Copy)]
pub(crate) enum Of<'a> {
    /// k = f(x·y).
    Product(&'a (dyn Fn(f64) -> f64 + Sync)),
    /// k = f(|x − y|²).
    SquaredDistance(&'a (dyn Fn(f64) -> f64 + Sync)),
}

impl Of<'_> {
    /// For each row of one set the sum over another.
    fn sums(self, one: &Rows, other: &Rows) -> Vec<f64> {
        let pairs = Pairs::new(one, other);
        let add =
            |f: &dyn Fn(f64) -> f64, sum: &mut f64, values: &[f64]| *sum += values.iter().map(|&v| f(v)).sum::<f64>();
        match self {
            Self::Product(f) => pairs.products(|_| 0.0, |sum, _, _, values| add(f, sum, values)),
            Self::SquaredDistance(f) => pairs.distances(|_| 0.0, |sum, _, _, values| add(f, sum, values)),
        }
    }

    /// For each row of a set the sum over the other rows, and the kernel with itself.
    fn sums_within(self, rows: &Rows) -> (Vec<f64>, Vec<f64>) {
        let pairs = Pairs::new(rows, rows);
        let add = |f: &dyn Fn(f64) -> f64, sums: &mut (f64, f64), row: usize, first: usize, values: &[f64]| {
            for (place, &value) in (first..).zip(values) {
                *(if place == row { &mut sums.1 } else { &mut sums.0 }) += f(value);
            }
        };
        let start = |_| (0.0, 0.0);
        let sums = match self {
            Self::Product(f) => pairs.products(start, |sums, row, first, values| add(f, sums, row, first, values)),
            Self::SquaredDistance(f) => {
                pairs.distances(start, |sums, row, first, values| add(f, sums, row, first, values))
            }
        };
        sums.into_iter().unzip()
    }
}

/// One set's sums of a kernel.
struct Within {
    /// Over other rows, for each row.
    others: Vec<f64>,
    /// With itself, for each row.
    own: Vec<f64>,
    /// Over the rows of the other set, for each row.
    across: Vec<f64>,
}

impl Within {
    fn of(kernel: Of, rows: &Rows, other: &Rows) -> Self {
        let (others, own) = kernel.sums_within(rows);
        Self { others, own, across: kernel.sums(rows, other) }
    }

    /// The mean over pairs of this set, given the sums over pairs of different rows and of each with itself.
    fn mean(statistic: Statistic, others: f64, own: f64, n: f64) -> f64 {
        match statistic {
            Statistic::Unbiased => others / (n * (n - 1.0)),
            Statistic::Biased => (others + own) / (n * n),
        }
    }

    fn whole(&self, statistic: Statistic) -> f64 {
        Self::mean(statistic, self.others.iter().sum(), self.own.iter().sum(), self.others.len() as f64)
    }

    /// The jackknife's variance of the statistic by leaving out each row of this set, `m` the rows of the other.
    fn variance(&self, statistic: Statistic, m: f64) -> f64 {
        let n = self.others.len() as f64;
        let [others, own, across] = [&self.others, &self.own, &self.across].map(|sums| sums.iter().sum::<f64>());
        let without: Vec<f64> = (0..self.others.len())
            .map(|i| {
                let within = Self::mean(statistic, others - 2.0 * self.others[i], own - self.own[i], n - 1.0);
                within - 2.0 * (across - self.across[i]) / ((n - 1.0) * m)
            })
            .collect();
        let mean = without.iter().sum::<f64>() / n;
        (n - 1.0) / n * without.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
    }
}

/// The statistic with its error.
///
/// # Errors
/// Fewer than two rows of a side.
pub(crate) fn discrepancy(x: &Rows, y: &Rows, statistic: Statistic, kernel: Of) -> Result<Measured> {
    let (n, m) = (x.len(), y.len());
    ensure!(n > 1 && m > 1, "there are {n} rows of the reference and {m} samples: give at least two of each");
    let (x, y) = (Within::of(kernel, x, y), Within::of(kernel, y, x));
    let across = x.across.iter().sum::<f64>() / (n as f64 * m as f64);
    let value = x.whole(statistic) + y.whole(statistic) - 2.0 * across;
    let error = (n > 2 && m > 2).then(|| (x.variance(statistic, m as f64) + y.variance(statistic, n as f64)).sqrt());
    Ok(Measured::new(value, error))
}
