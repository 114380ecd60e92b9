//! The adjoint A* of a linear operator as an operator of its own: a crop becomes a padding with 0, a transform its inverse if it is
//! orthonormal.

use std::sync::{Arc, OnceLock};

use super::{Dense, Linear, Operator, Spectrum};
use crate::Result;

/// A linear operator, the other way round.
#[derive(Debug)]
pub struct Transposed {
    of: Arc<dyn Linear>,
    spectrum: OnceLock<Result<Arc<dyn Spectrum>>>,
}

impl Transposed {
    /// A* of A.
    pub fn new(of: Arc<dyn Linear>) -> Self {
        Self { of, spectrum: OnceLock::new() }
    }
}

impl Operator for Transposed {
    fn inputs(&self) -> usize {
        self.of.outputs()
    }

    fn outputs(&self) -> usize {
        self.of.inputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.of.adjoint(x)
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.of.adjoint(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        self.of.apply(w)
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Transposed {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        self.spectrum.get_or_init(|| Dense::of(self)?.spectrum()).clone()
    }
}
