//! Energy distance (Székely & Rizzo 2013, eq. 2.1): 2 E|x − y| − E|x − x′| − E|y − y′|.
//!
//! It is 0 for equal laws only, in the units of the data, and has no setting to tune. In one dimension it is twice the integral of
//! the squared difference of the distribution functions; `scipy.stats.energy_distance` is the root of the biased form. By
//! default it is that biased form, as published, which averages over all pairs and is never negative. The error is the
//! larger one of the jackknife's and that of equal laws.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result};

use crate::{
    Better, Metric, Needs, Running, Statistic,
    two_sample::{Of, discrepancy},
};

/// Energy distance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Energy {
    /// Which pairs are averaged over.
    pub statistic: Statistic,
}

impl Default for Energy {
    fn default() -> Self {
        Self { statistic: Statistic::Biased }
    }
}

impl Metric for Energy {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let statistic = self.statistic;
        let distance = |squared: f64| -squared.sqrt();
        Ok(Running::whole(move |sides| {
            discrepancy(&sides.reference, &sides.samples, statistic, Of::SquaredDistance(&distance))
        }))
    }
}
