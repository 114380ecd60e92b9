//! Novelty: the mean distance of samples to the nearest training row over that of held-out data.
//!
//! 0 for copies, 1 for samples as far from the training data as real data are. The reference is the data the model was trained on.
//! Blurred or noisy samples are off in their own way, so read it with a metric of quality. The error is that of a ratio of two
//! means, for a given reference.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure};

use crate::{
    Better, Measured, Metric, Needs, Neighbors, Running, Wanted,
    measured::{mean, standard_error},
};

/// Distance to the training data over that of held-out data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Novelty {}

impl Metric for Novelty {
    fn needs(&self) -> Needs {
        Needs { held_out: Wanted::Needed, ..Needs::SETS }
    }

    fn better(&self) -> Better {
        Better::Near(1.0)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        Ok(Running::whole(|sides| {
            let neighbors = Neighbors::among(&sides.reference);
            let [samples, held_out] = [&sides.samples, &sides.held_out].map(|rows| neighbors.nearest_distances(rows));
            let (ours, theirs) = (mean(&samples), mean(&held_out));
            ensure!(theirs > 0.0, "all held-out rows are in the reference: hold out rows the model was not trained on");
            let error = standard_error(&samples)
                .zip(standard_error(&held_out))
                .map(|(one, other)| (one / theirs).hypot(ours / theirs * other / theirs));
            Ok(Measured::new(ours / theirs, error)
                .with_part("distance_of_samples", ours)
                .with_part("distance_of_held_out", theirs))
        }))
    }
}
