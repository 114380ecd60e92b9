//! Entropic optimal transport by Sinkhorn's iteration: of all plans P whose rows sum to 1/n and whose columns sum to 1/m, the one of least
//!
//! ```text
//! Σ P_ij c_ij + r Σ P_ij ln P_ij ,        P_ij = exp((f_i + g_j − c_ij)/r)
//! ```
//!
//! with a regularization r > 0 in the units of the costs (Cuturi 2013; Peyré & Cuturi 2019, eq. 4.2 and 4.3). As r → 0 it becomes the
//! plan of least cost, as r → ∞ that of independent draws. Each iteration makes the columns right and then the rows, by changing the
//! potentials g and f.
//!
//! exp(−c/r) itself is 0 in floating point for costs above 745 r, and whole rows of it are at usual settings; so P is worked out from
//! the potentials, with the largest exponent of each row taken off (Peyré & Cuturi 2019, section 4.4). In between, iterations multiply
//! rows and columns of P by factors, which takes no exponentials, until a factor would leave e^±100 (Schmitzer 2019, section 3.1): what
//! P has lost to underflow is then still below e^−500.
//!
//! Sums over rows are over fixed blocks, in order, so that the plan does not depend on how many threads there are.

use rayon::prelude::*;
use stein_base::transport::{Costs, Plan};

use crate::{Result, ensure};

/// Rows whose part of a sum is one piece of work.
const BLOCK: usize = 64;

/// Factors of rows and columns stay between 1/this and this, e^100.
const LARGEST_FACTOR: f64 = 2.6881171418161356e43;

/// A sum of a column from which its logarithm is known to all digits, whatever has underflowed.
const SMALLEST_SUM: f64 = 1e-250;

/// The entropic plan between n sources of weight 1/n and m sinks of weight 1/m. Its rows are right to rounding; its columns are off by at
/// most the tolerance, Σ_j |Σ_i P_ij − 1/m|, which is twice the chance that must be moved to make them right.
///
/// # Errors
/// A regularization, tolerance or number of iterations that is not above 0, and columns that are further off after that many iterations.
pub fn sinkhorn(costs: &Costs, regularization: f64, tolerance: f64, max_iterations: usize) -> Result<Plan> {
    ensure!(
        regularization > 0.0 && regularization.is_finite() && tolerance > 0.0 && max_iterations > 0,
        "sinkhorn: the regularization {regularization}, the tolerance {tolerance} and the number of iterations {max_iterations} must be \
         above 0"
    );
    let (n, m) = (costs.rows(), costs.columns());
    let mut scaled = Scaled::new(costs, regularization);
    let mut off = f64::INFINITY;
    for _ in 0..=max_iterations {
        let sums = scaled.column_sums();
        off = sums.iter().zip(&scaled.columns).map(|(sum, factor)| (sum * factor - 1.0 / m as f64).abs()).sum();
        if off <= tolerance {
            return Ok(scaled.plan());
        }
        let columns: Vec<f64> = sums.iter().map(|sum| 1.0 / (m as f64 * sum)).collect();
        let rows: Vec<f64> = scaled.row_sums(&columns).iter().map(|sum| 1.0 / (n as f64 * sum)).collect();
        let moderate = |factor: &f64| (1.0 / LARGEST_FACTOR..=LARGEST_FACTOR).contains(factor);
        if columns.iter().chain(&rows).all(moderate) {
            (scaled.columns, scaled.rows) = (columns, rows);
        } else {
            scaled.start_over(&sums);
        }
    }
    Err(crate::Error::new(format!(
        "sinkhorn: after {max_iterations} iterations at regularization {regularization} the plan's columns are off by {off:.1e} and not by at \
         most {tolerance:.0e}: raise family.coupling.regularization or family.coupling.max_iterations"
    )))
}

/// A plan with factors on its rows and columns.
struct Scaled<'a> {
    costs: &'a Costs,
    regularization: f64,
    /// f/r and g/r without the factors.
    of_rows: Vec<f64>,
    of_columns: Vec<f64>,
    /// exp(f/r + g/r − c/r), whose rows sum to 1/n.
    weights: Vec<f64>,
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl<'a> Scaled<'a> {
    fn new(costs: &'a Costs, regularization: f64) -> Self {
        let (n, m) = (costs.rows(), costs.columns());
        let mut scaled = Self {
            costs,
            regularization,
            of_rows: vec![0.0; n],
            of_columns: vec![0.0; m],
            weights: vec![0.0; n * m],
            rows: vec![1.0; n],
            columns: vec![1.0; m],
        };
        scaled.fill();
        scaled
    }

    /// Works the plan out from g, with rows that are right.
    fn fill(&mut self) {
        let (r, log_n) = (self.regularization, (self.costs.rows() as f64).ln());
        let (m, of_columns, costs) = (self.costs.columns(), &self.of_columns, self.costs);
        let rows = self.weights.par_chunks_mut(m).zip(&mut self.of_rows).enumerate();
        rows.for_each(|(i, (weights, of_row))| {
            for ((weight, of_column), cost) in weights.iter_mut().zip(of_columns).zip(costs.row(i)) {
                *weight = of_column - cost / r;
            }
            let largest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            weights.iter_mut().for_each(|weight| *weight = (*weight - largest).exp());
            let sum: f64 = weights.iter().sum();
            let factor = 1.0 / (sum * costs.rows() as f64);
            weights.iter_mut().for_each(|weight| *weight *= factor);
            *of_row = -(largest + sum.ln() + log_n);
        });
        self.rows.fill(1.0);
        self.columns.fill(1.0);
    }

    /// Makes the columns right by g, given their sums, and works the plan out anew.
    fn start_over(&mut self, sums: &[f64]) {
        let (n, m) = (self.costs.rows(), self.costs.columns());
        let log_m = (m as f64).ln();
        for (j, (sum, of_column)) in sums.iter().zip(&mut self.of_columns).enumerate() {
            if *sum > SMALLEST_SUM {
                *of_column -= log_m + sum.ln();
            } else {
                let exponents =
                    (0..n).map(|i| self.of_rows[i] + self.rows[i].ln() - self.costs.row(i)[j] / self.regularization);
                let exponents: Vec<f64> = exponents.collect();
                let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = exponents.iter().map(|exponent| (exponent - largest).exp()).sum();
                *of_column = -(largest + sum.ln() + log_m);
            }
        }
        self.fill();
    }

    /// What every column sums to with the factors of the rows, and without its own.
    fn column_sums(&self) -> Vec<f64> {
        let m = self.costs.columns();
        let of_block = |(weights, rows): (&[f64], &[f64])| {
            let mut sums = vec![0.0; m];
            for (weights, factor) in weights.chunks_exact(m).zip(rows) {
                sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * factor);
            }
            sums
        };
        let blocks: Vec<_> =
            self.weights.par_chunks(BLOCK * m).zip(self.rows.par_chunks(BLOCK)).map(of_block).collect();
        blocks.into_iter().fold(vec![0.0; m], |mut sums, block| {
            sums.iter_mut().zip(block).for_each(|(sum, part)| *sum += part);
            sums
        })
    }

    /// What every row sums to with these factors of the columns, and without its own.
    fn row_sums(&self, columns: &[f64]) -> Vec<f64> {
        const LANES: usize = 8;
        let sum = |weights: &[f64]| {
            let mut lanes = [0.0; LANES];
            let ((weights, rest), (factors, rest_of_factors)) =
                (weights.as_chunks::<LANES>(), columns.as_chunks::<LANES>());
            for (weights, factors) in weights.iter().zip(factors) {
                lanes
                    .iter_mut()
                    .zip(weights.iter().zip(factors))
                    .for_each(|(sum, (weight, factor))| *sum += weight * factor);
            }
            let rest = rest.iter().zip(rest_of_factors).map(|(weight, factor)| weight * factor);
            lanes.into_iter().chain(rest).sum()
        };
        self.weights.par_chunks(self.costs.columns()).with_min_len(BLOCK).map(sum).collect()
    }

    fn plan(mut self) -> Plan {
        let m = self.costs.columns();
        let columns = &self.columns;
        self.weights.par_chunks_mut(m).zip(&self.rows).for_each(|(weights, row)| {
            weights.iter_mut().zip(columns).for_each(|(weight, column)| *weight *= row * column);
        });
        Plan { weights: self.weights, columns: m }
    }
}
