//! Recall (Kynkäänniemi et al. 2019, eq. 2): the share of rows of the reference that lie in some ball around a sample, whose
//! radius is the distance to its k-th nearest other sample.
//!
//! Conventions as for [`Precision`](crate::Precision). Samples far from everything have large balls, so a few strays can raise
//! it. The error is a binomial's, for given samples.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers::ensure_within};

use crate::{Better, Measured, Metric, Needs, Running, Side, neighbors::balls_around};

/// Share of the reference within the samples' neighborhoods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Recall {
    /// Which neighbor gives the radius, at least 1; default 5.
    pub k: usize,
}

impl Default for Recall {
    fn default() -> Self {
        Self { k: 5 }
    }
}

impl Metric for Recall {
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
            let radii = sides.radii(Side::Samples, k)?;
            let counts = balls_around(&sides.reference, &sides.samples, &radii);
            Ok(Measured::share(counts.iter().filter(|&&count| count > 0).count(), counts.len()))
        }))
    }
}
