//! Agreement: the share of samples that a k-nearest-neighbor classifier among the labeled rows of the reference gives the class they
//! were drawn for.
//!
//! A tie goes to the class of the nearer row. No classifier is right always: the part `held_out` is the same share of held-out
//! data, if those are given with labels, and what can be expected of samples. With `by_class` the part `class 3` is the share of the
//! samples drawn for class 3. The error is a binomial's, for a given reference.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, numbers::ensure_within};

use crate::{Better, Measured, Metric, Needs, Neighbors, Rows, Running, Wanted};

/// Share of samples of the class they were drawn for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Agreement {
    /// How many neighbors vote, at least 1; default 5.
    pub k: usize,
    /// Whether each class has a part of its own; default false.
    pub by_class: bool,
}

impl Agreement {
    /// What the names of parts begin with that are of a class; its number follows.
    pub const OF_CLASS: &str = "class ";
}

impl Default for Agreement {
    fn default() -> Self {
        Self { k: 5, by_class: false }
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
        let &Self { k, by_class } = self;
        Ok(Running::whole(move |sides| {
            let neighbors = Neighbors::among(&sides.reference);
            // Whether each row is said to be of its own class.
            let right = |rows: &Rows, labels: &[u32]| -> Result<Vec<bool>> {
                let said = neighbors.classify(rows, k)?;
                Ok(said.iter().zip(labels).map(|(said, label)| said == label).collect())
            };
            let share = |right: &[bool]| Measured::share(right.iter().filter(|&&right| right).count(), right.len());
            let labels = sides.samples.labels().expect("the session checks that samples have labels");
            let of_samples = right(&sides.samples, labels)?;
            let mut measured = share(&of_samples);
            if let Some(labels) = sides.held_out.labels().filter(|labels| !labels.is_empty()) {
                measured = measured.with_part("held_out", share(&right(&sides.held_out, labels)?).value);
            }
            let classes: BTreeSet<u32> = labels.iter().copied().filter(|_| by_class).collect();
            for class in classes {
                let own: Vec<bool> = of_samples
                    .iter()
                    .zip(labels)
                    .filter(|(_, label)| **label == class)
                    .map(|(right, _)| *right)
                    .collect();
                measured = measured.with_part(format!("{}{class}", Self::OF_CLASS), share(&own).value);
            }
            Ok(measured)
        }))
    }
}
