//! Authenticity, AuthPct (Alaa et al. 2022): the share of samples that are farther from their nearest training row than that row is
//! from its own nearest other one.
//!
//! 0 for copies, about one half for fresh draws of the training data's law, more for samples off the data. The reference is
//! the data the model was trained on. Copies that were changed a little may pass; no such score is known to find
//! memorization reliably. The error is a binomial's, for a given reference.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure};

use crate::{Better, Measured, Metric, Needs, Neighbors, Running};

/// Share of samples that are no copies by the distances of the training data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Authenticity {}

impl Metric for Authenticity {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Near(0.5)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        Ok(Running::whole(|sides| {
            let n = sides.reference.len();
            ensure!(n > 1, "reference: {n} row has no other one: give more rows");
            let neighbors = Neighbors::among(&sides.reference);
            let nearest = neighbors.of(&sides.samples, 1);
            // Of the reference only what is nearest to a sample matters; a row is among its own neighbors, at distance 0.
            let mut places: Vec<usize> = nearest.iter().map(|near| near[0].place).collect();
            places.sort_unstable();
            places.dedup();
            let others = neighbors.of(&sides.reference.select(places.iter().copied()), 2);
            let own: HashMap<usize, f64> = places.into_iter().zip(others.iter().map(|near| near[1].squared)).collect();
            let authentic = nearest.iter().filter(|near| near[0].squared > own[&near[0].place]).count();
            Ok(Measured::share(authentic, nearest.len()))
        }))
    }
}
