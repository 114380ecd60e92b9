//! Ensembles: to each observation belong as many samples, its members, which say how likely what is.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{Content, Needs, Pairing, Sides, Wanted};

/// Observations with their ensembles.
pub(crate) const NEEDS: Needs = Needs {
    reference: true,
    held_out: Wanted::No,
    labels: false,
    pairs: Pairing::Ensembles,
    content: Content::Numbers,
};

/// What a score is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Scored {
    /// The law that members are drawn from: without bias for any number of them.
    #[default]
    Fair,
    /// The members as they are, all of equal weight: better the more there are.
    Ensemble,
}

impl Scored {
    /// Of how many pairs of m members a mean distance is the mean, each pair counted both ways.
    pub(crate) fn pairs(self, m: usize) -> f64 {
        match self {
            Self::Fair => (m * (m - 1)) as f64,
            Self::Ensemble => (m * m) as f64,
        }
    }
}

/// Something about each observation `[dim]` and its members `[m, dim]`.
pub(crate) fn each<T: Send>(sides: &Sides, of: impl Fn(&[f64], &[f64]) -> T + Sync) -> Vec<T> {
    let members = sides.samples.len() / sides.reference.len();
    let one = |row: usize| {
        let observation = sides.reference.block(row..row + 1);
        of(&observation, &sides.samples.block(row * members..(row + 1) * members))
    };
    (0..sides.reference.len()).into_par_iter().map(one).collect()
}

/// The observed numbers one by one, each with its members.
pub(crate) fn coordinates<'a>(
    observation: &'a [f64],
    members: &'a [f64],
) -> impl Iterator<Item = (f64, Vec<f64>)> + 'a {
    let dim = observation.len();
    (0..dim).map(move |c| (observation[c], members.iter().skip(c).step_by(dim).copied().collect()))
}
