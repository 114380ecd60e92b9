//! y = A x with fewer random sums than there are numbers, on the plane of every channel (Donoho 2006; Candès, Romberg & Tao 2006).
//!
//! Dense rows have independent entries of variance 1/m, so that E |A x|² = |x|². Hadamard rows are m of the n rows of H D/√n, H being
//! Walsh's matrix of ±1 and D random signs: orthonormal, so that all singular values are 1, and n log n operations instead of m n.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::{
    Explain,
    memory::ensure_fits,
    random::{Key, Purpose, below},
};

use super::{Files, Measurement, choose, planes};
use crate::{
    Result, ensure,
    inverse::{Dense, Linear, Operator, PerChannel, Spectrum},
    numbers::{above, ensure_within},
};

/// Random sums.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct CompressedSensing {
    /// What the sums are of; default `gaussian`.
    pub rows: Rows,
    /// Sums for each number of a sample, above 0 and at most 1; default 0.25.
    pub ratio: f64,
    /// Seed of the sums; default 0.
    pub seed: u64,
}

/// The rows of the matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Normal numbers.
    #[default]
    Gaussian,
    /// Random signs.
    Sign,
    /// Rows of Walsh's matrix after random signs; for planes of a power of two of numbers.
    Hadamard,
}

impl Default for CompressedSensing {
    fn default() -> Self {
        Self { rows: Rows::Gaussian, ratio: 0.25, seed: 0 }
    }
}

impl Measurement for CompressedSensing {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        ensure_within("measurement compressed_sensing: ratio", self.ratio, above(0.0, 1.0))?;
        let (n, channels) = planes(shape);
        let m = ((self.ratio * n as f64).round() as usize).max(1);
        let key = Key::new(self.seed, Purpose::Instrument);
        let size = 1.0 / (m as f64).sqrt();
        let plane: Arc<dyn Operator> = match self.rows {
            Rows::Hadamard => Arc::new(Hadamard::new(n, m, key)?),
            dense => {
                // The numbers, and the matrix they are put into.
                let what = format!("measurement compressed_sensing of {m} sums of {n} numbers");
                ensure_fits(&what, 16 * m as u128 * n as u128)?;
                let mut values = vec![0.0; m * n];
                if dense == Rows::Gaussian {
                    key.fill_normal(&mut values);
                    values.iter_mut().for_each(|value| *value *= size);
                } else {
                    let mut generator = key.generator();
                    values
                        .iter_mut()
                        .for_each(|value| *value = if below(&mut generator, 2) == 0 { size } else { -size });
                }
                Arc::new(Dense::new(m, n, &values)?)
            }
        };
        Ok(Arc::new(PerChannel::new(plane, channels)))
    }
}

/// Some rows of H D/√n.
#[derive(Debug, Clone)]
struct Hadamard {
    signs: Vec<f64>,
    /// The rows that are measured, then the others.
    order: Vec<usize>,
    /// As many 1 as rows are measured.
    values: Vec<f64>,
}

impl Hadamard {
    fn new(n: usize, m: usize, key: Key) -> Result<Self> {
        ensure!(
            n.is_power_of_two(),
            "measurement compressed_sensing: rows = \"hadamard\" is for a power of two of numbers, and a plane has {n}: use sign or \
             gaussian"
        );
        let mut generator = key.generator();
        let signs = (0..n).map(|_| if below(&mut generator, 2) == 0 { 1.0 } else { -1.0 }).collect();
        let mut order = choose(key.step(1), &vec![1.0; n], m);
        let mut unseen = vec![true; n];
        order.iter().for_each(|&row| unseen[row] = false);
        order.extend((0..n).filter(|&row| unseen[row]));
        Ok(Self { signs, order, values: vec![1.0; m] })
    }
}

/// H x/√n by butterflies; its own inverse.
fn walsh(mut x: Vec<f64>) -> Vec<f64> {
    let mut half = 1;
    while half < x.len() {
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            low.iter_mut().zip(high).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
        }
        half *= 2;
    }
    let factor = 1.0 / (x.len() as f64).sqrt();
    x.iter_mut().for_each(|x| *x *= factor);
    x
}

impl Operator for Hadamard {
    fn inputs(&self) -> usize {
        self.signs.len()
    }

    fn outputs(&self) -> usize {
        self.values.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut c = self.coordinates(x);
        c.truncate(self.values.len());
        c
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        self.sample(w)
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Hadamard {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Spectrum for Hadamard {
    fn values(&self) -> &[f64] {
        &self.values
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; self.signs.len()];
        self.order.iter().zip(c).for_each(|(&row, c)| x[row] = *c);
        walsh(x).iter().zip(&self.signs).map(|(x, sign)| sign * x).collect()
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        let x = walsh(x.iter().zip(&self.signs).map(|(x, sign)| sign * x).collect());
        self.order.iter().map(|&row| x[row]).collect()
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        c.to_vec()
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        y.to_vec()
    }

    fn dim(&self) -> usize {
        self.signs.len()
    }
}
