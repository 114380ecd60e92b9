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
//! The smaller r is, the more iterations it takes, from the potentials of a larger r several times fewer: so it starts near the
//! spread of the costs and is divided from stage to stage (Kosowsky & Yuille 1994; Peyré & Cuturi 2019, remark 4.9).
//!
//! Sums over rows are over fixed blocks, in order, so that the plan does not depend on how many threads there are.

use rayon::prelude::*;
use stein_base::transport::{Costs, Plan};

use crate::{Result, ensure};

/// Rows whose part of a sum is one piece of work.
const BLOCK: usize = 64;

/// By how much the regularization is divided from one stage to the next, how many stages there are at most, what the columns may be off by
/// after one, and how many iterations it may take. They move the time, and the result only within the tolerance.
const COOLING: f64 = 4.0;
const MOST_STAGES: f64 = 40.0;
const COARSE: f64 = 0.1;
const FEW: usize = 100;

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
    let (least, most) = costs
        .values()
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), cost| (least.min(*cost), most.max(*cost)));
    let stages = ((most - least) / regularization).log(COOLING).ceil().clamp(0.0, MOST_STAGES) as i32;
    let mut scaled = Scaled::new(costs);
    let (mut off, mut iterations) = (f64::INFINITY, 0);
    for stage in (0..=stages).rev() {
        scaled.cool(regularization * COOLING.powi(stage));
        let (accepted, until) = if stage == 0 {
            (tolerance, max_iterations)
        } else {
            (COARSE.max(tolerance), max_iterations.min(iterations + FEW))
        };
        loop {
            let sums = scaled.column_sums();
            off = scaled.off(&sums);
            if off <= accepted || iterations >= until {
                break;
            }
            scaled.iterate(sums);
            iterations += 1;
        }
    }
    if off <= tolerance {
        return Ok(scaled.plan());
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
    /// With potentials 0 and no plan yet, for [`cool`](Self::cool) to begin with.
    fn new(costs: &'a Costs) -> Self {
        let (n, m) = (costs.rows(), costs.columns());
        Self {
            costs,
            regularization: 1.0,
            of_rows: vec![0.0; n],
            of_columns: vec![0.0; m],
            weights: vec![0.0; n * m],
            rows: vec![1.0; n],
            columns: vec![1.0; m],
        }
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

    /// What the columns are off by in all, given their sums.
    fn off(&self, sums: &[f64]) -> f64 {
        let right = 1.0 / sums.len() as f64;
        sums.iter().zip(&self.columns).map(|(sum, factor)| (sum * factor - right).abs()).sum()
    }

    /// Makes the columns right, given their sums, and then the rows.
    fn iterate(&mut self, sums: Vec<f64>) {
        let (n, m) = (self.rows.len() as f64, self.columns.len() as f64);
        let columns: Vec<f64> = sums.iter().map(|sum| 1.0 / (m * sum)).collect();
        let rows: Vec<f64> = self.row_sums(&columns).iter().map(|sum| 1.0 / (n * sum)).collect();
        let moderate = |factor: &f64| (1.0 / LARGEST_FACTOR..=LARGEST_FACTOR).contains(factor);
        if columns.iter().chain(&rows).all(moderate) {
            (self.columns, self.rows) = (columns, rows);
        } else {
            self.start_over(&sums);
        }
    }

    /// Goes on at another regularization from the potentials of this one.
    fn cool(&mut self, regularization: f64) {
        let ratio = self.regularization / regularization;
        self.of_columns
            .iter_mut()
            .zip(&self.columns)
            .for_each(|(of_column, factor)| *of_column = (*of_column + factor.ln()) * ratio);
        self.regularization = regularization;
        self.fill();
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
