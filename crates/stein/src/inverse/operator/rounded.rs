//! Numbers rounded to the nearest of a lattice, y = o + d · round((x − o)/d) with a step d and an offset o for each.
//!
//! Its derivative is straight-through: that of y = x, which the rounding follows from afar. The true one is 0 almost everywhere and says
//! nothing.

use super::Operator;

/// A lattice for every number of a sample.
#[derive(Debug, Clone)]
pub struct Rounded {
    steps: Vec<f64>,
    offsets: Vec<f64>,
}

impl Rounded {
    /// With a positive step and an offset for every number.
    ///
    /// # Panics
    /// If there are not as many steps as offsets, which is the caller's broken invariant.
    pub fn new(steps: Vec<f64>, offsets: Vec<f64>) -> Self {
        assert_eq!(steps.len(), offsets.len(), "a number has a step and an offset");
        Self { steps, offsets }
    }
}

impl Operator for Rounded {
    fn inputs(&self) -> usize {
        self.steps.len()
    }

    fn outputs(&self) -> usize {
        self.steps.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let lattices = self.steps.iter().zip(&self.offsets);
        x.iter().zip(lattices).map(|(x, (step, offset))| offset + step * ((x - offset) / step).round()).collect()
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        v.to_vec()
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        w.to_vec()
    }
}
