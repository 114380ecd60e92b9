//! The Kronecker product A ⊗ B of two linear operators: samples are arrays `[n, k]` in row order, A works down every column and B along
//! every row. A picture's planes, its channels, and what is separable over its height and width are such.
//!
//! With A = U_A diag(s_A) V_Aᵀ and B likewise, the singular values are the products of both, and the bases the products of the bases, so
//! that two small decompositions make a large one.

use std::sync::Arc;

use super::{Linear, Operator, Spectrum, spectrum::NEGLIGIBLE};
use crate::Result;

/// One linear operator down the columns, one along the rows.
#[derive(Debug)]
pub struct Kronecker {
    down: Arc<dyn Linear>,
    along: Arc<dyn Linear>,
}

impl Kronecker {
    /// `down` ⊗ `along`.
    pub fn new(down: Arc<dyn Linear>, along: Arc<dyn Linear>) -> Self {
        Self { down, along }
    }
}

impl Operator for Kronecker {
    fn inputs(&self) -> usize {
        self.down.inputs() * self.along.inputs()
    }

    fn outputs(&self) -> usize {
        self.down.outputs() * self.along.outputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let x = on_columns(x, self.along.inputs(), |_, column| self.down.apply(column));
        on_rows(&x, self.along.inputs(), |row| self.along.apply(row))
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        let w = on_rows(w, self.along.outputs(), |row| self.along.adjoint(row));
        on_columns(&w, self.along.inputs(), |_, column| self.down.adjoint(column))
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Kronecker {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        let size = [self.down.outputs(), self.along.outputs()];
        Ok(Arc::new(Products::new(self.down.spectrum()?, self.along.spectrum()?, size)))
    }
}

/// The decomposition of a Kronecker product.
#[derive(Debug)]
pub(super) struct Products {
    down: Arc<dyn Spectrum>,
    along: Arc<dyn Spectrum>,
    /// Numbers of a measurement down a column and along a row.
    size: [usize; 2],
    values: Vec<f64>,
    /// The places of the singular values in an array `[r_A, r_B]`.
    seen: Vec<usize>,
    /// The places of the coordinates in an array `[n, k]`.
    order: Vec<usize>,
}

impl Products {
    pub(super) fn new(down: Arc<dyn Spectrum>, along: Arc<dyn Spectrum>, size: [usize; 2]) -> Self {
        let (rank, width) = (along.values().len(), along.dim());
        let all: Vec<f64> = down.values().iter().flat_map(|a| along.values().iter().map(move |b| a * b)).collect();
        let least = NEGLIGIBLE * all.iter().copied().fold(0.0, f64::max);
        let seen: Vec<usize> = (0..all.len()).filter(|&place| all[place] > least).collect();
        let values = seen.iter().map(|&place| all[place]).collect();
        let mut order: Vec<usize> = seen.iter().map(|place| place / rank * width + place % rank).collect();
        let mut unseen = vec![true; down.dim() * width];
        order.iter().for_each(|&place| unseen[place] = false);
        order.extend((0..unseen.len()).filter(|&place| unseen[place]));
        Self { down, along, size, values, seen, order }
    }
}

impl Spectrum for Products {
    fn values(&self) -> &[f64] {
        &self.values
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        let width = self.along.dim();
        let c = scatter(c, &self.order, self.order.len());
        let x = on_columns(&c, width, |_, column| self.down.sample(column));
        on_rows(&x, width, |row| self.along.sample(row))
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        let width = self.along.dim();
        let c = on_columns(x, width, |_, column| self.down.coordinates(column));
        let c = on_rows(&c, width, |row| self.along.coordinates(row));
        self.order.iter().map(|&place| c[place]).collect()
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        if self.values.is_empty() {
            return vec![0.0; self.size[0] * self.size[1]];
        }
        let rank = self.along.values().len();
        let c = scatter(c, &self.seen, self.down.values().len() * rank);
        let y = on_columns(&c, rank, |_, column| self.down.measurement(column));
        on_rows(&y, rank, |row| self.along.measurement(row))
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        if self.values.is_empty() {
            return Vec::new();
        }
        let rank = self.along.values().len();
        let c = on_rows(y, self.size[1], |row| self.along.measured(row));
        let c = on_columns(&c, rank, |_, column| self.down.measured(column));
        self.seen.iter().map(|&place| c[place]).collect()
    }

    fn dim(&self) -> usize {
        self.order.len()
    }
}

/// Numbers at their places among `size`, 0 elsewhere.
fn scatter(c: &[f64], places: &[usize], size: usize) -> Vec<f64> {
    let mut out = vec![0.0; size];
    places.iter().zip(c).for_each(|(&place, c)| out[place] = *c);
    out
}

/// One column of an array of so many in row order.
pub(super) fn column(x: &[f64], columns: usize, number: usize) -> Vec<f64> {
    x.iter().skip(number).step_by(columns).copied().collect()
}

/// What f makes of every column and its number, side by side.
pub(super) fn on_columns(x: &[f64], columns: usize, f: impl Fn(usize, &[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut out = Vec::new();
    for number in 0..columns {
        let made = f(number, &column(x, columns, number));
        if number == 0 {
            out = vec![0.0; made.len() * columns];
        }
        made.into_iter().enumerate().for_each(|(row, value)| out[row * columns + number] = value);
    }
    out
}

/// What f makes of every row of a width, one after the other.
fn on_rows(x: &[f64], width: usize, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    x.chunks(width).flat_map(f).collect()
}
