//! Spread: the root mean squared distance of samples to the mean of their class, over that of the reference.
//!
//! 1 for samples as varied as the reference within their classes, less where a model draws what is usual only. The error is that
//! of a ratio of two roots of means, for given means of the classes.

use serde::{Deserialize, Serialize};
use stein_base::{Error, Explain, Result, ensure};

use crate::{
    Better, Measured, Metric, Needs, Rows, Running,
    measured::{mean, standard_error},
};

/// Within-class spread over that of the reference.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Spread {}

impl Metric for Spread {
    fn needs(&self) -> Needs {
        Needs { labels: true, ..Needs::SETS }
    }

    fn better(&self) -> Better {
        Better::Near(1.0)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        Ok(Running::whole(|sides| {
            let samples = squared_distances(&sides.samples)?;
            let reference = squared_distances(&sides.reference)?;
            let (ours, theirs) = (mean(&samples).sqrt(), mean(&reference).sqrt());
            ensure!(
                theirs > 0.0,
                "all rows of the reference are the mean of their class, so there is no spread to compare with"
            );
            // d√v = dv / 2√v.
            let error = standard_error(&samples).zip(standard_error(&reference)).map(|(one, other)| {
                let of_samples = if ours > 0.0 { one / (2.0 * ours) } else { 0.0 };
                (of_samples / theirs).hypot(ours / theirs * other / (2.0 * theirs * theirs))
            });
            Ok(Measured::new(ours / theirs, error).with_part("samples", ours).with_part("reference", theirs))
        }))
    }
}

/// The root mean squared distance of rows to the mean of their class.
///
/// # Errors
/// Rows without labels.
pub fn within_class_spread(rows: &Rows) -> Result<f64> {
    Ok(mean(&squared_distances(rows)?).sqrt())
}

/// The squared distance of each row to the mean of its class.
fn squared_distances(rows: &Rows) -> Result<Vec<f64>> {
    let Some(labels) = rows.labels() else {
        return Err(Error::new("rows without labels have no classes to spread within: give each row its class"));
    };
    let mut members: std::collections::BTreeMap<u32, Vec<usize>> = Default::default();
    labels.iter().enumerate().for_each(|(row, &label)| members.entry(label).or_default().push(row));
    let mut squared = vec![0.0; rows.len()];
    for places in members.into_values() {
        let class = rows.select(places.iter().copied());
        let mean = Rows::of(rows.dim(), &class.mean())?;
        for (place, row) in places.into_iter().enumerate() {
            squared[row] = class.squared_distance(place, &mean, 0);
        }
    }
    Ok(squared)
}
