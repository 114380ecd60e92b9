//! Data-copying test C_T (Meehan et al. 2020, section 3): are samples nearer to the training data than held-out data are?
//!
//! Training rows are cut into cells by k-means. Within a cell, U counts the pairs of a sample and a held-out row in which the sample
//! is farther from the nearest training row of the cell, ties as one half, and
//!
//! ```text
//! Z = (U − n m / 2 + 1/2) / √(n m (n + m + 1) / 12)
//! ```
//!
//! is about standard normal where both are draws of one law. C_T is the mean of Z over the cells, weighted by the share of
//! held-out rows; cells of 20 samples or fewer are left out. Far below 0 the model copies, far above 0 it does not reach the
//! data. As published for features, rows of more than 64 dimensions are first turned into their 64 principal components.
//!
//! The error is that of the weighted mean of standard normal numbers.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure, numbers::ensure_within};

use crate::{
    Batch, Better, Measured, Metric, Moments, Needs, Neighbors, Rows, Running, Sides, Wanted, clusters, matrix,
};

/// Test whether samples are copies of the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Copying {
    /// Number of cells, 1 to 1000; default 3.
    pub cells: usize,
    /// The most principal components, at least 1; default 64.
    pub components: usize,
    /// Seed of the cells.
    pub seed: u64,
}

impl Default for Copying {
    fn default() -> Self {
        Self { cells: 3, components: 64, seed: 0 }
    }
}

/// A cell counts with more samples than this.
const FEW_SAMPLES: usize = 20;

impl Metric for Copying {
    fn needs(&self) -> Needs {
        Needs { held_out: Wanted::Needed, ..Needs::SETS }
    }

    fn better(&self) -> Better {
        Better::Near(0.0)
    }

    fn check(&self) -> Result<()> {
        ensure_within("cells", self.cells, 1..=1000)?;
        ensure_within("components", self.components, 1..)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let it = self.clone();
        Ok(Running::whole(move |sides| it.of(sides)))
    }
}

impl Copying {
    fn of(&self, sides: &Sides) -> Result<Measured> {
        if sides.reference.dim() <= self.components {
            return self.test(&sides.reference, &sides.samples, &sides.held_out);
        }
        let dim = sides.reference.dim();
        let moments = Moments::of(dim, Batch { values: sides.reference.values(), labels: None })?;
        let directions = moments.principal_directions(self.components)?;
        // Distances do not depend on the mean, but digits do.
        let project = |rows: &Rows| -> Result<Rows> {
            const AT_ONCE: usize = 256;
            let mut projected = Vec::with_capacity(rows.len() * self.components);
            for first in (0..rows.len()).step_by(AT_ONCE) {
                let mut block = rows.block(first..rows.len().min(first + AT_ONCE));
                for row in block.chunks_exact_mut(dim) {
                    row.iter_mut().zip(moments.mean()).for_each(|(value, mean)| *value -= mean);
                }
                let height = block.len() / dim;
                let block = faer::MatRef::from_row_major_slice(&block, height, dim);
                let of_block = matrix::product(block, directions.as_ref());
                projected.extend((0..height).flat_map(|i| of_block.row(i).iter().copied().collect::<Vec<_>>()));
            }
            Rows::of(self.components, &projected)
        };
        self.test(&project(&sides.reference)?, &project(&sides.samples)?, &project(&sides.held_out)?)
    }

    fn test(&self, train: &Rows, samples: &Rows, held_out: &Rows) -> Result<Measured> {
        let cells = self.cells;
        ensure!(train.len() >= cells, "{} rows of the reference make no {cells} cells: set fewer `cells`", train.len());
        let centers = clusters::centers(train, cells, self.seed)?;
        let cut = |rows: &Rows| -> Vec<Rows> {
            let near = clusters::nearest(&centers, rows);
            (0..cells).map(|cell| rows.select((0..rows.len()).filter(|&row| near[row].place == cell))).collect()
        };
        let (train, samples, held_out_cells) = (cut(train), cut(samples), cut(held_out));
        let (mut sum, mut weights, mut squares, mut left_out) = (0.0, 0.0, 0.0, 0);
        for ((train, samples), cell) in train.iter().zip(&samples).zip(&held_out_cells) {
            ensure!(
                !train.is_empty() && !cell.is_empty(),
                "a cell has {} training rows and {} held-out rows: give more, or set fewer `cells`",
                train.len(),
                cell.len()
            );
            if samples.len() <= FEW_SAMPLES {
                left_out += 1;
                continue;
            }
            let neighbors = Neighbors::among(train);
            let z = standardized_u(&neighbors.nearest_distances(samples), &neighbors.nearest_distances(cell));
            let weight = cell.len() as f64 / held_out.len() as f64;
            sum += weight * z;
            weights += weight;
            squares += weight * weight;
        }
        ensure!(weights > 0.0, "no cell has more than {FEW_SAMPLES} samples: give more samples, or set fewer `cells`");
        Ok(Measured::new(sum / weights, Some(squares.sqrt() / weights)).noted_if(left_out > 0, || {
            format!("{left_out} of {cells} cells have {FEW_SAMPLES} samples or fewer and are left out")
        }))
    }
}

/// The Mann–Whitney statistic of how often the first numbers exceed the second, less its mean, in standard deviations.
fn standardized_u(one: &[f64], other: &[f64]) -> f64 {
    let mut sorted = other.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let exceeded = |value: &f64| {
        let (below, not_above) =
            (sorted.partition_point(|other| other < value), sorted.partition_point(|other| other <= value));
        (below + not_above) as f64 / 2.0
    };
    let u: f64 = one.iter().map(exceeded).sum();
    let (n, m) = (one.len() as f64, other.len() as f64);
    (u - n * m / 2.0 + 0.5) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}
