//! y = A x with the matrix of a file, of samples of any shape, whose numbers stand in row order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement};
use crate::{
    Error, Result, ensure,
    inverse::{Dense, Operator},
};

/// A matrix times the numbers of a sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Matrix {
    /// A `.npy` file of the matrix `[measured, numbers of a sample]`.
    pub file: String,
    /// Its rows, instead of a file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Vec<f64>>,
}

impl Measurement for Matrix {
    fn operator(&self, shape: &[usize], files: &dyn Files) -> Result<Arc<dyn Operator>> {
        ensure!(
            self.file.is_empty() != self.rows.is_empty(),
            "measurement matrix: give the matrix as a file, file = \"a.npy\", or as its rows, rows = [[1.0, 0.0], [0.0, 1.0]]"
        );
        let dim: usize = shape.iter().product();
        let (values, size) = if self.rows.is_empty() {
            files.array(&self.file)?
        } else {
            ensure!(
                self.rows.iter().all(|row| row.len() == self.rows[0].len()),
                "measurement matrix: its rows differ in length"
            );
            (self.rows.concat(), vec![self.rows.len(), self.rows[0].len()])
        };
        match size[..] {
            [outputs, inputs] if inputs == dim => Ok(Arc::new(Dense::new(outputs, inputs, &values)?)),
            _ => Err(Error::new(format!(
                "measurement matrix: an array of shape {size:?} is no matrix for samples of {dim} numbers: its rows have as many"
            ))),
        }
    }
}
