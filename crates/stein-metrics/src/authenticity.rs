//! Authenticity, AuthPct (Alaa et al. 2022): the share of samples that are farther from their nearest training row than that row is
//! from its own nearest other one.
//!
//! 0 for copies. What fresh draws of the training data's law have depends on how they lie: on normal ones 0.34 in one dimension, 0.5 in
//! five and 0.83 in a hundred, because a row that is nearest to others is one that lies apart. The part `held_out` is that of held-out
//! data, where they are given; a smaller share than theirs tells of copies, a larger one of samples off the data. The reference is
//! the data the model was trained on. Copies that were changed a little may pass; no such score is known to find
//! memorization reliably. The error is a binomial's, for a given reference.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure};

use crate::{Better, Measured, Metric, Needs, Neighbors, Rows, Running, Wanted};

/// Share of samples that are no copies by the distances of the training data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Authenticity {}

impl Metric for Authenticity {
    fn needs(&self) -> Needs {
        Needs { held_out: Wanted::IfGiven, ..Needs::SETS }
    }

    fn better(&self) -> Better {
        Better::Larger
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        Ok(Running::whole(|sides| {
            let n = sides.reference.len();
            ensure!(n > 1, "reference: {n} row has no other one: give more rows");
            let measured = share(&sides.reference, &sides.samples);
            Ok(match sides.held_out.is_empty() {
                true => measured,
                false => measured.with_part("held_out", share(&sides.reference, &sides.held_out).value),
            })
        }))
    }
}

/// The share of some rows that are farther from the nearest row of the reference than that is from its nearest other one.
fn share(reference: &Rows, rows: &Rows) -> Measured {
    let neighbors = Neighbors::among(reference);
    let nearest = neighbors.of(rows, 1);
    // Of the reference only what is nearest to a row matters; it is among its own neighbors, at distance 0.
    let mut places: Vec<usize> = nearest.iter().map(|near| near[0].place).collect();
    places.sort_unstable();
    places.dedup();
    let others = neighbors.of(&reference.select(places.iter().copied()), 2);
    let own: HashMap<usize, f64> = places.into_iter().zip(others.iter().map(|near| near[1].squared)).collect();
    let authentic = nearest.iter().filter(|near| near[0].squared > own[&near[0].place]).count();
    Measured::share(authentic, nearest.len())
}
