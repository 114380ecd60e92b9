//! Classifier two-sample test (Lopez-Paz & Oquab 2017, C2ST-NN): how well a k-nearest-neighbor classifier tells samples from the
//! reference.
//!
//! As many rows of each side as the smaller one has are drawn from the seed. One half of each is what the classifier knows, and
//! the share of the other halves that it gives the right side is the value: one half for equal laws, 1 for laws that are told
//! apart. The error is the binomial's, for a given first half, so that at equal laws the value is within two errors of
//! one half in 19 of 20 cases.

use serde::{Deserialize, Serialize};
use stein_base::{Error, Explain, Result, ensure};

use crate::{Batch, Better, Measured, Metric, Needs, Neighbors, Rows, Running, Sides, subsets::subset};

/// Classifier two-sample test by nearest neighbors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct C2st {
    /// How many neighbors vote, an odd number; default 5.
    pub k: usize,
    /// Seed of the halves.
    pub seed: u64,
}

impl Default for C2st {
    fn default() -> Self {
        Self { k: 5, seed: 0 }
    }
}

impl Metric for C2st {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Near(0.5)
    }

    fn check(&self) -> Result<()> {
        if self.k.is_multiple_of(2) {
            return Err(Error::new(format!("k is {}: give an odd number, so that there are no ties", self.k)));
        }
        Ok(())
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let it = self.clone();
        Ok(Running::whole(move |sides| it.of(sides)))
    }
}

impl C2st {
    fn of(&self, sides: &Sides) -> Result<Measured> {
        let n = sides.reference.len().min(sides.samples.len());
        let half = n / 2;
        ensure!(2 * half >= self.k && half > 0, "{n} rows a side are too few for {} neighbors: give more", self.k);
        let (mut known, mut asked) = (Rows::new(sides.samples.dim()), Rows::new(sides.samples.dim()));
        for (label, rows) in [(0, &sides.reference), (1, &sides.samples)] {
            // One order for both sides: a row that stands at the same place of both is known twice or asked twice, and says nothing.
            let places = subset(self.seed, 0, 0, rows.len(), n);
            for (half, places) in [(&mut known, &places[..half]), (&mut asked, &places[half..])] {
                let rows = rows.select(places.iter().copied());
                half.push(&Batch { values: rows.values(), labels: Some(&vec![label; rows.len()]) });
            }
        }
        let said = Neighbors::among(&known).classify(&asked, self.k)?;
        let truth = asked.labels().expect("all rows were given one").iter();
        Ok(Measured::share(said.iter().zip(truth).filter(|(said, truth)| said == truth).count(), said.len()))
    }
}
