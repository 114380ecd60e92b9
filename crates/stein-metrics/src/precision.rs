//! Precision (Kynkäänniemi et al. 2019, eq. 2): the share of samples that lie in some ball around a row of the reference, whose
//! radius is the distance to its k-th nearest other row of the reference.
//!
//! As in the reference code of density and coverage (Naeem et al. 2020), a sample lies in a ball if it is strictly nearer than the
//! radius, and k is 5 by default; the first authors' code has k = 3 and counts equality. It is high for samples that all look
//! alike, so read it with recall. The error is a binomial's, for a given reference.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers::ensure_within};

use crate::{Better, Measured, Metric, Needs, Running, Side, neighbors::balls_around};

/// Share of samples within the reference's neighborhoods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Precision {
    /// Which neighbor gives the radius, at least 1; default 5.
    pub k: usize,
}

impl Default for Precision {
    fn default() -> Self {
        Self { k: 5 }
    }
}

impl Metric for Precision {
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
            let counts = balls_around(&sides.samples, &sides.reference, &radii);
            Ok(Measured::share(counts.iter().filter(|&&count| count > 0).count(), counts.len()))
        }))
    }
}
