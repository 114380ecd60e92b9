//! Numbers of a sample picked by their places, y_j = x_{from(j)}: masks and crops, and with places that are picked several times
//! paddings and repetitions.
//!
//! Its decomposition needs no arithmetic: a place that is picked k times has the singular value √k, its own unit vector in V, and 1/√k
//! at each of the k numbers in U.

use std::sync::Arc;

use super::{Linear, Operator, Spectrum};
use crate::{Error, Result, ensure};

/// Some of the numbers of a sample, in any order.
#[derive(Debug, Clone)]
pub struct Gather {
    from: Vec<usize>,
    /// √k of every picked place, in the order of the places.
    values: Vec<f64>,
    /// The places of a sample: those that are picked, then the others.
    places: Vec<usize>,
    /// Where each number of a measurement has its place in `places`.
    ranks: Vec<usize>,
}

impl Gather {
    /// The numbers of a sample of `inputs` at the places `from`.
    ///
    /// # Errors
    /// No place at all, and one that is not in a sample.
    pub fn new(inputs: usize, from: Vec<usize>) -> Result<Self> {
        ensure!(!from.is_empty(), "nothing of the sample is measured: leave at least one of its {inputs} numbers");
        if let Some(place) = from.iter().find(|place| **place >= inputs) {
            return Err(Error::new(format!(
                "there is no number {place} in a sample of {inputs}, which are counted from 0"
            )));
        }
        let mut times = vec![0_usize; inputs];
        from.iter().for_each(|&place| times[place] += 1);
        let (mut places, unpicked): (Vec<usize>, Vec<usize>) = (0..inputs).partition(|&place| times[place] > 0);
        let values = places.iter().map(|&place| (times[place] as f64).sqrt()).collect();
        let mut rank_of = vec![0; inputs];
        places.iter().enumerate().for_each(|(rank, &place)| rank_of[place] = rank);
        let ranks = from.iter().map(|&place| rank_of[place]).collect();
        places.extend(unpicked);
        Ok(Self { from, values, places, ranks })
    }

    /// A sample as it is: the identity.
    ///
    /// # Errors
    /// Samples without numbers.
    pub fn all(inputs: usize) -> Result<Self> {
        Self::new(inputs, (0..inputs).collect())
    }
}

impl Operator for Gather {
    fn inputs(&self) -> usize {
        self.places.len()
    }

    fn outputs(&self) -> usize {
        self.from.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.from.iter().map(|&place| x[place]).collect()
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; self.places.len()];
        self.from.iter().zip(w).for_each(|(&place, w)| x[place] += w);
        x
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Gather {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Spectrum for Gather {
    fn values(&self) -> &[f64] {
        &self.values
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; c.len()];
        self.places.iter().zip(c).for_each(|(&place, c)| x[place] = *c);
        x
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        self.places.iter().map(|&place| x[place]).collect()
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        self.ranks.iter().map(|&rank| c[rank] / self.values[rank]).collect()
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        let mut c = vec![0.0; self.values.len()];
        self.ranks.iter().zip(y).for_each(|(&rank, y)| c[rank] += y / self.values[rank]);
        c
    }

    fn dim(&self) -> usize {
        self.places.len()
    }
}
