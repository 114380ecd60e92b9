//! Agreement: the share of samples that a k-nearest-neighbor classifier among the labeled rows of the reference gives the class they
//! were drawn for.
//!
//! A tie goes to the class of the nearer row. No classifier is right always: the part `held_out` is the same share of held-out
//! data, if those are given with labels, and what can be expected of samples. The error is a binomial's, for a given
//! reference.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers::ensure_within};

use crate::{Better, Measured, Metric, Needs, Neighbors, Rows, Running, Wanted};

/// Share of samples of the class they were drawn for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Agreement {
    /// How many neighbors vote, at least 1; default 5.
    pub k: usize,
}

impl Default for Agreement {
    fn default() -> Self {
        Self { k: 5 }
    }
}

impl Metric for Agreement {
    fn needs(&self) -> Needs {
        Needs { labels: true, held_out: Wanted::IfGiven, ..Needs::SETS }
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
            let neighbors = Neighbors::among(&sides.reference);
            let share = |rows: &Rows, labels: &[u32]| -> Result<Measured> {
                let said = neighbors.classify(rows, k)?;
                Ok(Measured::share(said.iter().zip(labels).filter(|(said, label)| said == label).count(), said.len()))
            };
            let labels = sides.samples.labels().expect("the session checks that samples have labels");
            let measured = share(&sides.samples, labels)?;
            Ok(match sides.held_out.labels().filter(|labels| !labels.is_empty()) {
                Some(labels) => measured.with_part("held_out", share(&sides.held_out, labels)?.value),
                None => measured,
            })
        }))
    }
}
