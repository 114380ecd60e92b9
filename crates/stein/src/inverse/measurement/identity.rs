//! y = x: the sample itself, for denoising.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement};
use crate::{
    Result,
    inverse::{Linear, Operator, Spectrum},
};

/// The sample itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Identity {}

impl Measurement for Identity {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        Ok(Arc::new(Same(vec![1.0; shape.iter().product()])))
    }

    fn keeps_range(&self) -> bool {
        true
    }

    fn reads_samples(&self) -> bool {
        true
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        Ok(shape.to_vec())
    }
}

/// The identity, with its singular values, which are 1.
#[derive(Debug, Clone)]
struct Same(Vec<f64>);

impl Operator for Same {
    fn inputs(&self) -> usize {
        self.0.len()
    }

    fn outputs(&self) -> usize {
        self.0.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        x.to_vec()
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        v.to_vec()
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        w.to_vec()
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Same {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        y.to_vec()
    }

    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Spectrum for Same {
    fn values(&self) -> &[f64] {
        &self.0
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        c.to_vec()
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        x.to_vec()
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        c.to_vec()
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        y.to_vec()
    }

    fn dim(&self) -> usize {
        self.0.len()
    }
}
