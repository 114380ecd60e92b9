//! The same operator on the plane of every channel: samples `[n, channels]` with the channels last, and measurements `[m, channels]`
//! likewise. The decomposition of a linear one is the plane's for every channel, worked out once.

use std::sync::Arc;

use super::{
    Gather, Linear, Operator, Spectrum,
    kronecker::{Products, column, on_columns},
};
use crate::{Error, Kind, Result};

/// An operator of planes, on every channel.
#[derive(Debug)]
pub struct PerChannel {
    plane: Arc<dyn Operator>,
    channels: usize,
}

impl PerChannel {
    /// Of an operator of planes.
    pub fn new(plane: Arc<dyn Operator>, channels: usize) -> Self {
        Self { plane, channels }
    }
}

impl Operator for PerChannel {
    fn inputs(&self) -> usize {
        self.plane.inputs() * self.channels
    }

    fn outputs(&self) -> usize {
        self.plane.outputs() * self.channels
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        on_columns(x, self.channels, |_, plane| self.plane.apply(plane))
    }

    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        on_columns(v, self.channels, |channel, v| self.plane.push(&column(x, self.channels, channel), v))
    }

    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        on_columns(w, self.channels, |channel, w| self.plane.pull(&column(x, self.channels, channel), w))
    }

    fn linear(&self) -> Option<&dyn Linear> {
        self.plane.linear().map(|_| self as &dyn Linear)
    }
}

impl Linear for PerChannel {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        let plane = self.plane.linear().ok_or_else(|| {
            Error::of(Kind::Unsupported, "this measurement is not linear and has no singular value decomposition")
        })?;
        let same = Gather::all(self.channels)?.spectrum()?;
        Ok(Arc::new(Products::new(plane.spectrum()?, same, [self.plane.outputs(), self.channels])))
    }
}
