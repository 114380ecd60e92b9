//! Coverage (Naeem et al. 2020, section 3.1): the share of rows of the reference with a sample in their ball, whose radius is the
//! distance to the k-th nearest other row of the reference.
//!
//! Samples of the reference's law, as many as it has rows, cover 1 − 2^(−k) of a large one (their section 3.2). Strays among the samples
//! cannot raise it, unlike recall. The error is a binomial's.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers::ensure_within};

use crate::{Better, Measured, Metric, Needs, Running, Side, neighbors::balls_with_points};

/// Share of the reference's neighborhoods that have a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Coverage {
    /// Which neighbor gives the radius, at least 1; default 5.
    pub k: usize,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { k: 5 }
    }
}

impl Metric for Coverage {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Larger
    }

    fn check(&self) -> Result<()> {
        ensure_within("k", self.k, 1..)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let k = self.k;
        Ok(Running::whole(move |sides| {
            let radii = sides.radii(Side::Reference, k)?;
            let covered = balls_with_points(&sides.reference, &radii, &sides.samples);
            Ok(Measured::share(covered.iter().filter(|&&covered| covered).count(), covered.len()))
        }))
    }
}
