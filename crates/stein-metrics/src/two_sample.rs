//! Statistics of a kernel over two sets of rows, X of n and Y of m:
//!
//! ```text
//! E k(x, x′) + E k(y, y′) − 2 E k(x, y)
//! ```
//!
//! With a positive definite k it is the squared maximum mean discrepancy (Gretton et al. 2012, lemma 6), and with k = −|x − y| the
//! energy distance. The V-statistic averages over all n², m² and n m pairs: biased, never negative. The U-statistic leaves
//! out pairs of a row with itself: unbiased, and below zero by chance where both laws are the same.
//!
//! The error is the jackknife's: every row of either side is left out once, at no cost beyond the sums of its row. Where both
//! laws are the same the first-order term of the statistic vanishes, and with it what the jackknife sees may; so the error is at
//! least that of the second-order term alone, 2 ζ/n(n − 1) + 2 ζ/m(m − 1) + 4 ζ/nm under the root, with ζ the variance
//! of k over pairs that is left when the means over either row are taken off (Hoeffding 1948, section 5).

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

/// Sums of a kernel for one row: of its values, and of their squares.
#[derive(Clone, Copy, Default)]
struct Sums {
    first: f64,
    second: f64,
}

impl Sums {
    fn add(&mut self, value: f64) {
        self.first += value;
        self.second += value * value;
    }
}

impl Of<'_> {
    /// For each row of one set the sums over another.
    fn sums(self, one: &Rows, other: &Rows) -> Vec<Sums> {
        let pairs = Pairs::new(one, other);
        let start = |_| Sums::default();
        let add = |f: &dyn Fn(f64) -> f64, sums: &mut Sums, values: &[f64]| values.iter().for_each(|&v| sums.add(f(v)));
        match self {
            Self::Product(f) => pairs.products(start, |sums, _, _, values| add(f, sums, values)),
            Self::SquaredDistance(f) => pairs.distances(start, |sums, _, _, values| add(f, sums, values)),
        }
    }

    /// For each row of a set the sums over the other rows, and the kernel with itself.
    fn sums_within(self, rows: &Rows) -> (Vec<Sums>, Vec<f64>) {
        let pairs = Pairs::new(rows, rows);
        let add = |f: &dyn Fn(f64) -> f64, sums: &mut (Sums, f64), row: usize, first: usize, values: &[f64]| {
            for (place, &value) in (first..).zip(values) {
                match place == row {
                    true => sums.1 = f(value),
                    false => sums.0.add(f(value)),
                }
            }
        };
        let start = |_| (Sums::default(), 0.0);
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
    others: Vec<Sums>,
    /// With itself, for each row.
    own: Vec<f64>,
    /// Over the rows of the other set, for each row.
    across: Vec<Sums>,
}

impl Within {
    fn of(kernel: Of, rows: &Rows, other: &Rows) -> Self {
        let (others, own) = kernel.sums_within(rows);
        Self { others, own, across: kernel.sums(rows, other) }
    }

    fn rows(&self) -> f64 {
        self.own.len() as f64
    }

    /// The mean over pairs of this set, given the sums over pairs of different rows and of each with itself.
    fn mean(statistic: Statistic, others: f64, own: f64, n: f64) -> f64 {
        match statistic {
            Statistic::Unbiased => others / (n * (n - 1.0)),
            Statistic::Biased => (others + own) / (n * n),
        }
    }

    fn whole(&self, statistic: Statistic) -> f64 {
        Self::mean(statistic, total(&self.others), self.own.iter().sum(), self.rows())
    }

    /// The jackknife's variance of the statistic by leaving out each row of this set, `m` the rows of the other.
    fn variance(&self, statistic: Statistic, m: f64) -> f64 {
        let n = self.rows();
        let (others, own, across) = (total(&self.others), self.own.iter().sum::<f64>(), total(&self.across));
        let without: Vec<f64> = (0..self.own.len())
            .map(|i| {
                let within = Self::mean(statistic, others - 2.0 * self.others[i].first, own - self.own[i], n - 1.0);
                within - 2.0 * (across - self.across[i].first) / ((n - 1.0) * m)
            })
            .collect();
        let mean = without.iter().sum::<f64>() / n;
        (n - 1.0) / n * without.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
    }
}

fn total(sums: &[Sums]) -> f64 {
    sums.iter().map(|sums| sums.first).sum()
}

/// The variance of k(x, y) that neither x nor y alone explain, by the sums of each x over `m` y and of each y over `n` x.
fn interaction(of_x: &[Sums], m: f64, of_y: &[Sums], n: f64) -> f64 {
    let pairs = of_x.len() as f64 * m;
    let of_means = |sums: &[Sums], count: f64| -> f64 {
        sums.iter().map(|sums| (sums.first / count).powi(2)).sum::<f64>() / sums.len() as f64
    };
    let squares = of_x.iter().map(|sums| sums.second).sum::<f64>() / pairs;
    (squares - of_means(of_x, m) - of_means(of_y, n) + (total(of_x) / pairs).powi(2)).max(0.0)
}

/// The statistic with its error.
///
/// # Errors
/// Fewer than two rows of a side.
pub(crate) fn discrepancy(x: &Rows, y: &Rows, statistic: Statistic, kernel: Of) -> Result<Measured> {
    let (n, m) = (x.len(), y.len());
    ensure!(n > 1 && m > 1, "there are {n} rows of the reference and {m} samples: give at least two of each");
    let (x, y) = (Within::of(kernel, x, y), Within::of(kernel, y, x));
    let (rows, others) = (n as f64, m as f64);
    let value = x.whole(statistic) + y.whole(statistic) - 2.0 * total(&x.across) / (rows * others);
    let jackknife = x.variance(statistic, others) + y.variance(statistic, rows);
    let of_equal = 2.0 * interaction(&x.others, rows - 1.0, &x.others, rows - 1.0) / (rows * (rows - 1.0))
        + 2.0 * interaction(&y.others, others - 1.0, &y.others, others - 1.0) / (others * (others - 1.0))
        + 4.0 * interaction(&x.across, others, &y.across, rows) / (rows * others);
    Ok(Measured::new(value, (n > 2 && m > 2).then(|| jackknife.max(of_equal).sqrt())))
}
