//! Operators one after the other, A = A_k ∘ … ∘ A_1: its derivatives are theirs by the chain rule, so that push and pull are
//! transposes as long as each one's are.

use std::sync::{Arc, OnceLock};

use super::{Dense, Linear, Operator, Spectrum};
use crate::Result;

/// Operators, the first one applied first.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Arc<dyn Operator>>,
    spectrum: OnceLock<Result<Arc<dyn Spectrum>>>,
}

impl Chain {
    /// Of operators in the order they are applied.
    ///
    /// # Panics
    /// If there is none, or one does not take what the one before it makes: the caller's broken invariant.
    pub fn new(links: Vec<Arc<dyn Operator>>) -> Self {
        assert!(!links.is_empty(), "a chain has links");
        assert!(links.windows(2).all(|pair| pair[0].outputs() == pair[1].inputs()), "the links of a chain fit");
        Self { links, spectrum: OnceLock::new() }
    }

    /// Where each link is evaluated for a sample.
    fn points(&self, x: &[f64]) -> Vec<Vec<f64>> {
        let mut points = vec![x.to_vec()];
        for link in &self.links[..self.links.len() - 1] {
            points.push(link.apply(&points[points.len() - 1]));
        }
        points
    }
}

impl Operator for Chain {
    fn inputs(&self) -> usize {
        self.links[0].inputs()
    }

    fn outputs(&self) -> usize {
        self.links[self.links.len() - 1].outputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.links.iter().fold(x.to_vec(), |x, link| link.apply(&x))
    }

    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        self.links.iter().zip(self.points(x)).fold(v.to_vec(), |v, (link, x)| link.push(&x, &v))
    }

    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        self.links.iter().zip(self.points(x)).rev().fold(w.to_vec(), |w, (link, x)| link.pull(&x, &w))
    }

    fn linear(&self) -> Option<&dyn Linear> {
        self.links.iter().all(|link| link.linear().is_some()).then_some(self as &dyn Linear)
    }
}

impl Linear for Chain {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        // A linear link has the same derivative everywhere, so none is evaluated.
        self.links.iter().rev().fold(y.to_vec(), |y, link| link.pull(&vec![0.0; link.inputs()], &y))
    }

    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        self.spectrum.get_or_init(|| Dense::of(self)?.spectrum()).clone()
    }
}
