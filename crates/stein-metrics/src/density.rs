//! Density (Naeem et al. 2020, section 3.1): in how many balls around rows of the reference a sample lies, over k, on average. The radius
//! of a ball is the distance to the k-th nearest other row of the reference.
//!
//! 1 is expected for samples of the reference's law; more where samples gather where the reference is dense. A row that is far from
//! all others has one large ball of many, so that it counts little, unlike in precision. The error is s/√n over samples, for
//! a given reference.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers::ensure_within};

use crate::{Better, Measured, Metric, Needs, Running, Side, neighbors::balls_around};

/// Mean number of the reference's neighborhoods around a sample, over k.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Density {
    /// Which neighbor gives the radius, at least 1; default 5.
    pub k: usize,
}

impl Default for Density {
    fn default() -> Self {
        Self { k: 5 }
    }
}

impl Metric for Density {
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
            let densities: Vec<f64> = counts.iter().map(|&count| f64::from(count) / k as f64).collect();
            Ok(Measured::mean_of(&densities))
        }))
    }
}
