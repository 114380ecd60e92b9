//! Wasserstein distance between both sides as they are, points of equal weights: the root of the least mean cost of moving one to the
//! other,
//!
//! ```text
//! W_p = ( min over couplings of E |x − y|^p )^(1/p)
//! ```
//!
//! with Euclidean distances, in the units of the data. It is exact for any numbers of rows: by sorting in one dimension,
//! otherwise by optimal transport on all pairs. Sets of the same law are n^(−1/dim) apart, slow in many dimensions, so compare
//! with the value between two sets of real data of the same sizes.
//!
//! The error is that of five parts, whose own distances are larger; it tells the scatter, not that bias.

use serde::{Deserialize, Serialize};
use stein_base::{
    Explain, Result, ensure,
    numbers::ensure_within,
    transport::{self, Costs, LARGEST},
};

use crate::{Better, Measured, Metric, Needs, Rows, Running, neighbors::Pairs, quantiles, subsets::error_of_parts};

/// Exact Wasserstein distance, W_p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Wasserstein {
    /// The power p of distances, 1 or 2; default 2.
    pub p: u32,
}

impl Default for Wasserstein {
    fn default() -> Self {
        Self { p: 2 }
    }
}

impl Metric for Wasserstein {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn check(&self) -> Result<()> {
        ensure_within("p", self.p, 1..=2)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let p = self.p;
        Ok(Running::whole(move |sides| {
            let distance = |one: &Rows, other: &Rows| distance(one, other, p);
            let value = distance(&sides.reference, &sides.samples)?;
            Ok(Measured::new(value, error_of_parts(&sides.reference, &sides.samples, distance)?))
        }))
    }
}

fn distance(one: &Rows, other: &Rows, p: u32) -> Result<f64> {
    let power = if one.dim() == 1 {
        let [one, other] = [one, other].map(|rows| {
            let mut values = rows.block(0..rows.len());
            quantiles::sort(&mut values);
            values
        });
        quantiles::distance_to_the_power(&one, &other, p)
    } else {
        let (n, m) = (one.len(), other.len());
        ensure!(
            n.saturating_mul(m) <= LARGEST,
            "exact transport between {n} and {m} rows needs {} costs and takes too long above {LARGEST}: give fewer rows, such as \
             5000 a side, or measure `sliced_wasserstein`",
            n as u128 * m as u128
        );
        let cost = |squared: f64| if p == 1 { squared.sqrt() } else { squared };
        let costs = Pairs::new(one, other).distances(
            |_| Vec::with_capacity(m),
            |costs: &mut Vec<f64>, _, _, squared| costs.extend(squared.iter().map(|&squared| cost(squared))),
        );
        let mut all = Vec::with_capacity(n * m);
        costs.into_iter().for_each(|costs| all.extend(costs));
        transport::least_cost(&Costs::new(all, m)?)
    };
    Ok(power.powf(1.0 / f64::from(p)))
}
