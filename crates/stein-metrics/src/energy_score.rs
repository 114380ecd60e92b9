//! Energy score (Gneiting & Raftery 2007, eq. 22): the continuous ranked probability score of vectors,
//!
//! ```text
//! E|e − o| − E|e − e′| / 2
//! ```
//!
//! with Euclidean norms, in the units of the data. The fair score takes E|e − e′| over different members. The error is s/√n over
//! observations.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result};

use crate::{
    Better, Measured, Metric, Needs, Running,
    ensembles::{self, Scored},
};

/// Energy score.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct EnergyScore {
    /// What is scored.
    pub scored: Scored,
}

impl Metric for EnergyScore {
    fn needs(&self) -> Needs {
        ensembles::NEEDS
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let scored = self.scored;
        Ok(Running::whole(move |sides| {
            let score = |observation: &[f64], members: &[f64]| {
                let members: Vec<&[f64]> = members.chunks_exact(observation.len()).collect();
                let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                let off: f64 = members.iter().map(|member| distance(member, observation)).sum();
                let pairs = members.iter().enumerate();
                let apart: f64 =
                    pairs.map(|(i, one)| members[..i].iter().map(|other| distance(one, other)).sum::<f64>()).sum();
                // Each pair of different members counts both ways, over two.
                off / members.len() as f64 - apart / scored.pairs(members.len())
            };
            Ok(Measured::mean_of(&ensembles::each(sides, score)))
        }))
    }
}
