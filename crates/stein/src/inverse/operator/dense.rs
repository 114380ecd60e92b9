//! A matrix as an operator, and any linear operator as a matrix.

use std::sync::{Arc, OnceLock};

use faer::Mat;

use super::{DenseSpectrum, Linear, Operator, Spectrum};
use crate::{Result, ensure};

/// y = A x with a matrix A `[m, n]`.
#[derive(Debug, Clone)]
pub struct Dense {
    a: Mat<f64>,
    spectrum: OnceLock<Result<Arc<DenseSpectrum>>>,
}

/// The most numbers of a sample whose dense decomposition is worked out: it takes n² numbers of memory and n³ operations, some
/// twenty seconds here.
pub const MOST_DENSE: usize = 4096;

impl Dense {
    /// Of a matrix `[outputs, inputs]` in row order.
    ///
    /// # Errors
    /// A matrix without rows or columns, of another number of entries, or with one that is not finite.
    pub fn new(outputs: usize, inputs: usize, values: &[f64]) -> Result<Self> {
        ensure!(
            outputs > 0 && inputs > 0 && Some(values.len()) == outputs.checked_mul(inputs),
            "{} numbers are no matrix of {outputs} rows and {inputs} columns",
            values.len()
        );
        ensure!(values.iter().all(|value| value.is_finite()), "the matrix has an entry that is not a finite number");
        Ok(Self { a: Mat::from_fn(outputs, inputs, |i, j| values[i * inputs + j]), spectrum: OnceLock::new() })
    }

    /// The matrix of any linear operator: what it makes of each unit vector.
    ///
    /// # Errors
    /// One of more inputs than [`MOST_DENSE`].
    pub fn of(operator: &dyn Operator) -> Result<Self> {
        let (m, n) = (operator.outputs(), operator.inputs());
        ensure!(
            Kind::Unsupported,
            n <= MOST_DENSE,
            "this measurement of {n} numbers has no singular value decomposition in closed form, and one worked out is for at \
             most {MOST_DENSE}: use a method that does without, such as dps, mmps or daps"
        );
        let zero = vec![0.0; n];
        let mut unit = vec![0.0; n];
        let mut a = Mat::zeros(m, n);
        for j in 0..n {
            unit[j] = 1.0;
            let column = operator.push(&zero, &unit);
            unit[j] = 0.0;
            (0..m).for_each(|i| a[(i, j)] = column[i]);
        }
        Ok(Self { a, spectrum: OnceLock::new() })
    }
}

impl Operator for Dense {
    fn inputs(&self) -> usize {
        self.a.ncols()
    }

    fn outputs(&self) -> usize {
        self.a.nrows()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        // Column by column, as the entries stand in memory.
        let mut y = vec![0.0; self.a.nrows()];
        for (column, x) in self.a.col_iter().zip(x) {
            y.iter_mut().zip(column.iter()).for_each(|(y, a)| *y += a * x);
        }
        y
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        let column = |j| self.a.col(j).iter().zip(w).map(|(a, w)| a * w).sum();
        (0..self.a.ncols()).map(column).collect()
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Dense {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        let spectrum = self.spectrum.get_or_init(|| DenseSpectrum::of(&self.a).map(Arc::new)).clone()?;
        Ok(spectrum)
    }
}
