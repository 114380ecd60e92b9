//! Authenticity, AuthPct (Alaa et al. 2022): the share of samples that are farther from their nearest training row than that row is
//! from its own nearest other one.
//!
//! 0 for copies, about one half for fresh draws of the training data's law, more for samples off the data. The reference is
//! the data the model was trained on. Copies that were changed a little may pass; no such score is known to find
//! memorization reliably. The error is a binomial's, for a given reference.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result};

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
            let neighbors = Neighbors::among(&sides.reference);
            let own = neighbors.radii(1).map_err(|error| error.at("reference"))?;
            let nearest = neighbors.of(&sides.samples, 1);
            let authentic = nearest.iter().filter(|near| near[0].squared > own[near[0].place]).count();
            Ok(Measured::share(authentic, nearest.len()))
        }))
    }
}
