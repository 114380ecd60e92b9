//! y = clip(gain x + shift), number by number: what a sensor makes of light it cannot hold.
//!
//! The derivative is the gain where nothing is clipped, the limits themselves included, and 0 elsewhere.

use super::Operator;

/// A line that ends at two limits.
#[derive(Debug, Clone, Copy)]
pub struct Clipped {
    /// Numbers of a sample.
    pub count: usize,
    /// Factor of x.
    pub gain: f64,
    /// Added after it.
    pub shift: f64,
    /// The lower limit.
    pub low: f64,
    /// The upper limit, not below the lower.
    pub high: f64,
}

impl Clipped {
    fn line(&self, x: f64) -> f64 {
        self.gain * x + self.shift
    }

    fn slope(&self, x: f64) -> f64 {
        if (self.low..=self.high).contains(&self.line(x)) { self.gain } else { 0.0 }
    }
}

impl Operator for Clipped {
    fn inputs(&self) -> usize {
        self.count
    }

    fn outputs(&self) -> usize {
        self.count
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        x.iter().map(|x| self.line(*x).clamp(self.low, self.high)).collect()
    }

    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        x.iter().zip(v).map(|(x, v)| self.slope(*x) * v).collect()
    }

    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        self.push(x, w)
    }
}
