//! Couplings: which row of the source, noise or another data set, goes with which row of the data in a minibatch.
//!
//! Flow matching learns the mean of straight paths from source to data. Paths of independent pairs cross, and the mean is curved;
//! pairs that are near each other cross less, so that fewer steps sample as well and the loss has less variance (Pooladian et al. 2023,
//! "Multisample flow matching"; Tong et al. 2024, "Improving and generalizing flow-based generative models with minibatch optimal
//! transport", section 3). The cost of a pair is its squared Euclidean distance, [`squared_distances`].
//!
//! What is paired is a minibatch, so the coupling is that of the whole laws only in the limit of large batches. Since the rows of a batch are exchangeable, any
//! pairing leaves both marginals as they are. Within classes the same
//! holds of every class, and across classes it does not: a class then gets the noise that is near it, not a normal one, while
//! sampling starts from normal noise (Cheng & Schwing 2025, "The curse of conditions", arXiv 2503.10636).

mod sinkhorn;

pub use sinkhorn::sinkhorn;

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
/// Exact transport and its types, which the distance between two sets is measured with too.
pub use stein_base::transport::{Costs, LARGEST, Plan, least_cost, plan};
use stein_base::{Explain, distances, transport::assignment};

use crate::{
    Error, Keys, Purpose, Result, Tensor, ensure,
    numbers::{above, ensure_within},
    rows,
};

/// Which row of the source goes with which row of the data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Coupling {
    /// As they come, row i with row i.
    Independent {},
    /// The pairing of least total squared distance within the minibatch, exactly (Pooladian et al. 2023; Tong et al. 2024).
    ///
    /// It is a permutation: every row of the data and of the source is used once. The published code of Tong et al. draws pairs from
    /// the plan with replacement instead, and so leaves out about 37 % of a batch and repeats others.
    #[serde(alias = "ot", alias = "exact")]
    OptimalTransport {
        /// Whether only rows of the same class are paired, which a class-conditional model needs: paired across classes, the noise of a
        /// class is not normal, and sampling from normal noise is wrong (Cheng & Schwing 2025).
        #[serde(default)]
        within_class: bool,
    },
    /// For every row of the data a row of the source drawn from the entropic plan within the minibatch: closer to independent the larger
    /// `regularization` is. Every row of the data is used once, rows of the source once on average.
    ///
    /// The plan is accepted when its column sums are off by 0.001 in all: that moves less than one draw in a batch of 1000.
    #[serde(alias = "sinkhorn")]
    Entropic {
        /// Weight of the entropy, in the units of squared distances, above 0; for a Schrödinger bridge of noise σ it is 2 σ².
        regularization: f64,
        /// Iterations after which the plan must be right; from 1 to 1,000,000, default 10,000.
        #[serde(default = "default_max_iterations")]
        max_iterations: usize,
        /// As of `optimal_transport`.
        #[serde(default)]
        within_class: bool,
    },
}

fn default_max_iterations() -> usize {
    10_000
}

/// How far the column sums of an entropic plan may be off in all. Half of it is the chance that a draw is another than it would be from the
/// exact plan; the scatter of n draws over the columns is of order one per column, so that this is lost in it for any batch.
const TOLERANCE: f64 = 1e-3;

/// Pairs as they come.
impl Default for Coupling {
    fn default() -> Self {
        Self::Independent {}
    }
}

/// The class of every row of both sides; rows without one are a class of their own.
#[derive(Debug, Clone, Copy)]
pub struct Classes<'a> {
    /// Of the data.
    pub data: &'a [Option<u32>],
    /// Of the source.
    pub source: &'a [Option<u32>],
}

impl<'a> Classes<'a> {
    /// The classes of data whose source has none, such as noise: row i of the source belongs to the class of row i of the data.
    pub fn of_data(data: &'a [Option<u32>]) -> Self {
        Self { data, source: data }
    }
}

impl Coupling {
    /// Fails unless its settings are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        if let Self::Entropic { regularization, max_iterations, .. } = *self {
            ensure_within("coupling: regularization", regularization, above(0.0, 1e12))?;
            ensure_within("coupling: max_iterations", max_iterations, 1..=1_000_000)?;
        }
        Ok(())
    }

    /// Whether rows are paired within classes only, so that [`pair`](Self::pair) needs them.
    pub fn within_class(&self) -> bool {
        match *self {
            Self::Independent {} => false,
            Self::OptimalTransport { within_class } | Self::Entropic { within_class, .. } => within_class,
        }
    }

    /// For every row of `data` `[rows, dim]` the row of `source` `[rows, dim]` that goes with it. What is drawn is keyed by the row of the
    /// data, whose keys these are.
    ///
    /// # Errors
    /// Sides of other sizes, a single row, too many rows, numbers that are not finite, classes that are missing or do not pair, and an
    /// entropic plan that is not found.
    pub fn pair(
        &self,
        data: &Tensor<2>,
        source: &Tensor<2>,
        classes: Option<Classes>,
        keys: &Keys,
    ) -> Result<Vec<usize>> {
        self.check()?;
        let ([n, dim], [m, source_dim]) = (data.dims(), source.dims());
        ensure!(
            n == m && dim == source_dim,
            "coupling: {n} rows of {dim} values cannot be paired with {m} rows of {source_dim}: give as many of the same size"
        );
        if let Self::Independent {} = self {
            return Ok((0..n).collect());
        }
        ensure!(
            n > 1,
            "coupling: there is nothing to choose in a batch of {n}: train on batches of 2 rows or more, or set kind = \"independent\""
        );
        ensure!(dim > 0, "coupling: rows of no values have no distance: give rows of 1 value or more");
        ensure!(
            n.saturating_mul(n) <= LARGEST,
            "coupling: {n} rows have more than {LARGEST} pairs: train on batches of 5000 rows or fewer, or set kind = \"independent\""
        );
        ensure!(keys.len() == n, "coupling: there are {} keys for {n} rows: give one per row", keys.len());
        let uniforms = match self {
            Self::Entropic { .. } => keys.uniform(Purpose::Coupling, 0),
            _ => Vec::new(),
        };
        let (data, source) = (rows::host(data), rows::host(source));
        if !self.within_class() {
            return self.pair_all(&data, &source, dim, &uniforms);
        }
        let groups = groups(n, classes)?;
        let of_group = |(own, others): &(Vec<usize>, Vec<usize>)| {
            let gather = |values: &[f64], places: &[usize]| -> Vec<f64> {
                places.iter().flat_map(|&place| &values[place * dim..][..dim]).copied().collect()
            };
            let uniforms: Vec<f64> = own.iter().filter_map(|&place| uniforms.get(place).copied()).collect();
            let paired = self.pair_all(&gather(&data, own), &gather(&source, others), dim, &uniforms)?;
            Ok(paired.into_iter().map(|place| others[place]).collect())
        };
        let paired: Vec<Vec<usize>> = groups.par_iter().map(of_group).collect::<Result<_>>()?;
        let mut all = vec![0; n];
        for ((own, _), paired) in groups.iter().zip(paired) {
            own.iter().zip(paired).for_each(|(&place, other)| all[place] = other);
        }
        Ok(all)
    }

    /// The same without classes, of rows of `dim` values; a uniform number for each row if one is drawn for it.
    fn pair_all(&self, data: &[f64], source: &[f64], dim: usize, uniforms: &[f64]) -> Result<Vec<usize>> {
        let costs = squared_distances(data, source, dim)?;
        match *self {
            Self::Independent {} => Ok((0..costs.rows()).collect()),
            Self::OptimalTransport { .. } => assignment(&costs),
            Self::Entropic { regularization, max_iterations, .. } => {
                let plan = sinkhorn(&costs, regularization, TOLERANCE, max_iterations)?;
                Ok(uniforms.iter().enumerate().map(|(row, &u)| pick(plan.row(row), u)).collect())
            }
        }
    }
}

/// The rows of each class on both sides, in ascending order.
fn groups(rows: usize, classes: Option<Classes>) -> Result<Vec<(Vec<usize>, Vec<usize>)>> {
    let Some(Classes { data, source }) = classes else {
        return Err(Error::new(
            "coupling: within_class needs classes, and these data have none: set within_class = false",
        ));
    };
    ensure!(
        data.len() == rows && source.len() == rows,
        "coupling: there are {} classes of the data and {} of the source for {rows} rows: give one per row",
        data.len(),
        source.len()
    );
    let mut groups = BTreeMap::<Option<u32>, (Vec<usize>, Vec<usize>)>::new();
    data.iter().enumerate().for_each(|(place, class)| groups.entry(*class).or_default().0.push(place));
    source.iter().enumerate().for_each(|(place, class)| groups.entry(*class).or_default().1.push(place));
    for (class, (own, others)) in &groups {
        let class = class.map_or("no class".into(), |class| format!("class {class}"));
        ensure!(
            own.len() == others.len(),
            "coupling: classes that do not pair: {} rows of the data have {class} and {} of the source: draw both sides with as many of \
             every class, or set within_class = false",
            own.len(),
            others.len()
        );
    }
    Ok(groups.into_values().collect())
}

/// |x_i − y_j|² of rows x of the data and y of the source, each of `dim` values.
///
/// # Errors
/// Rows that are none, that are not whole, or whose distance is not a finite number.
pub fn squared_distances(data: &[f64], source: &[f64], dim: usize) -> Result<Costs> {
    // Blocks are a part of the result, in its last bits, so their size is fixed.
    const BLOCK: usize = 64;
    ensure!(
        dim > 0
            && data.len().is_multiple_of(dim)
            && source.len().is_multiple_of(dim)
            && !data.is_empty()
            && !source.is_empty(),
        "coupling: {} and {} values are no rows of {dim}: give whole rows",
        data.len(),
        source.len()
    );
    let columns = source.len() / dim;
    let mut costs = vec![0.0; data.len() / dim * columns];
    let blocks = costs.par_chunks_mut(BLOCK * columns).zip(data.par_chunks(BLOCK * dim));
    blocks.for_each(|(costs, data)| distances::squared(data, source, dim, costs));
    Costs::new(costs, columns)
}

/// The first place k at which (w_0 + … + w_k)/Σw is above u, of weights at least 0 and not all 0: a place with chance w_k/Σw, for a
/// uniform u in [0, 1). Of the row of a plan it is the sink of a source, of all of a plan a pair, k = i m + j.
pub fn pick(weights: &[f64], u: f64) -> usize {
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let first = weights.iter().position(|weight| {
        sum += weight;
        sum / total > u
    });
    first.expect("the last sum is the total, and u is below 1")
}
