//! A matrix of few entries as an operator. Both directions go through the same entries, so that the adjoint is exact whatever they are.

use std::sync::{Arc, OnceLock};

use super::{Dense, Linear, Operator, Spectrum};
use crate::Result;

/// y = A x with a matrix A that is given row by row.
#[derive(Debug)]
pub struct Sparse {
    inputs: usize,
    /// Where the entries of each row end.
    ends: Vec<usize>,
    columns: Vec<u32>,
    entries: Vec<f64>,
    spectrum: OnceLock<Result<Arc<dyn Spectrum>>>,
}

impl Sparse {
    /// Of rows of columns and entries; entries of the same column add up.
    ///
    /// # Panics
    /// If a column is not below `inputs`, or above 2³²: the caller's broken invariant.
    pub fn new(inputs: usize, rows: &[Vec<(usize, f64)>]) -> Self {
        let all = || rows.iter().flatten();
        assert!(all().all(|(column, _)| *column < inputs), "the columns of a matrix are below their number");
        let narrow = |column: &usize| u32::try_from(*column).expect("a matrix has fewer than 2³² columns");
        let ends = rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        });
        Self {
            inputs,
            ends: ends.collect(),
            columns: all().map(|(column, _)| narrow(column)).collect(),
            entries: all().map(|(_, entry)| *entry).collect(),
            spectrum: OnceLock::new(),
        }
    }

    /// The columns and entries of a row.
    fn row(&self, row: usize) -> impl Iterator<Item = (usize, f64)> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        let own = start..self.ends[row];
        self.columns[own.clone()].iter().map(|column| *column as usize).zip(self.entries[own].iter().copied())
    }
}

impl Operator for Sparse {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn outputs(&self) -> usize {
        self.ends.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        (0..self.ends.len()).map(|row| self.row(row).map(|(column, entry)| entry * x[column]).sum()).collect()
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; self.inputs];
        for (row, w) in w.iter().enumerate() {
            self.row(row).for_each(|(column, entry)| x[column] += entry * w);
        }
        x
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Sparse {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        self.spectrum.get_or_init(|| Dense::of(self)?.spectrum()).clone()
    }
}
