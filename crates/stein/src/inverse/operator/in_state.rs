//! An operator of data as one of states, where the codec between the two is a factor and a shift for each number: A'(z) = A(a z + b)
//! − A(b) if A is linear, A(a z + b) if not.
//!
//! For a linear A the measurement itself is moved along, y' = y − A(b), so that A' is linear too.

use std::sync::{Arc, OnceLock};

use super::{Dense, Linear, Operator, Spectrum};
use crate::{Result, ensure};

/// An operator of states.
#[derive(Debug)]
pub struct InState {
    inner: Arc<dyn Operator>,
    scale: Vec<f64>,
    shift: Vec<f64>,
    /// A(b), of a linear operator.
    offset: Option<Vec<f64>>,
    spectrum: OnceLock<Result<Arc<dyn Spectrum>>>,
}

impl InState {
    /// Of states z, where data are `scale` z + `shift`, number by number `[n]`.
    ///
    /// # Errors
    /// Factors or shifts that are not one for each number of a sample, and a factor that is 0 or not finite.
    pub fn new(inner: Arc<dyn Operator>, scale: Vec<f64>, shift: Vec<f64>) -> Result<Self> {
        let n = inner.inputs();
        ensure!(
            scale.len() == n && shift.len() == n && scale.iter().all(|a| a.is_finite() && *a != 0.0),
            "{} factors and {} shifts do not fit samples of {n} numbers: give one of each for each, no factor 0",
            scale.len(),
            shift.len()
        );
        let offset = inner.linear().map(|_| inner.apply(&shift));
        Ok(Self { inner, scale, shift, offset, spectrum: OnceLock::new() })
    }

    /// The measurement y' `[m]` of the state that belongs to a measurement y `[m]` of the data.
    pub fn measurement(&self, y: &[f64]) -> Vec<f64> {
        match &self.offset {
            Some(offset) => y.iter().zip(offset).map(|(y, b)| y - b).collect(),
            None => y.to_vec(),
        }
    }

    /// The measurement `[m]` of the data of a state z `[n]`: A(a z + b).
    pub fn apply_whole(&self, z: &[f64]) -> Vec<f64> {
        self.inner.apply(&self.whole(z))
    }

    /// The data a z + b `[n]` of a state z `[n]`.
    pub fn whole(&self, z: &[f64]) -> Vec<f64> {
        let places = z.iter().zip(&self.scale).zip(&self.shift);
        places.map(|((z, a), b)| a * z + b).collect()
    }

    fn scaled(&self, v: &[f64]) -> Vec<f64> {
        v.iter().zip(&self.scale).map(|(v, a)| a * v).collect()
    }
}

impl Operator for InState {
    fn inputs(&self) -> usize {
        self.inner.inputs()
    }

    fn outputs(&self) -> usize {
        self.inner.outputs()
    }

    fn apply(&self, z: &[f64]) -> Vec<f64> {
        if self.offset.is_some() { self.inner.apply(&self.scaled(z)) } else { self.inner.apply(&self.whole(z)) }
    }

    fn push(&self, z: &[f64], v: &[f64]) -> Vec<f64> {
        self.inner.push(&self.whole(z), &self.scaled(v))
    }

    fn pull(&self, z: &[f64], w: &[f64]) -> Vec<f64> {
        self.scaled(&self.inner.pull(&self.whole(z), w))
    }

    fn linear(&self) -> Option<&dyn Linear> {
        self.offset.is_some().then_some(self as &dyn Linear)
    }
}

impl Linear for InState {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        let make = || -> Result<Arc<dyn Spectrum>> {
            let factor = self.scale[0];
            match self.inner.linear() {
                // One factor for all numbers leaves the bases as they are.
                Some(inner) if self.scale.iter().all(|scale| *scale == factor) => {
                    Ok(Arc::new(Scaled::new(inner.spectrum()?, factor)))
                }
                _ => Dense::of(self)?.spectrum(),
            }
        };
        self.spectrum.get_or_init(make).clone()
    }
}

/// The decomposition of an operator times a factor; where that is negative, U takes its sign.
#[derive(Debug)]
struct Scaled {
    of: Arc<dyn Spectrum>,
    values: Vec<f64>,
    sign: f64,
}

impl Scaled {
    fn new(of: Arc<dyn Spectrum>, factor: f64) -> Self {
        let values = of.values().iter().map(|s| s * factor.abs()).collect();
        Self { of, values, sign: factor.signum() }
    }

    fn signed(&self, of: Vec<f64>) -> Vec<f64> {
        of.into_iter().map(|x| self.sign * x).collect()
    }
}

impl Spectrum for Scaled {
    fn values(&self) -> &[f64] {
        &self.values
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        self.of.sample(c)
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        self.of.coordinates(x)
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        self.signed(self.of.measurement(c))
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        self.signed(self.of.measured(y))
    }

    fn dim(&self) -> usize {
        self.of.dim()
    }
}
