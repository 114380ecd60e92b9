//! Three numbers that say whether class-conditional samples are good: are they of their class, as varied as the data, and
//! not copies of it.

use rayon::prelude::*;
use stein::Result;
use stein_data::Data;

/// Nearest neighbors among labeled rows, by Euclidean distance.
pub struct Neighbors {
    rows: Vec<f32>,
    labels: Vec<usize>,
    dim: usize,
}

impl Neighbors {
    /// The rows of a labeled data set; `None` if it has no labels.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn of(data: &Data) -> Result<Option<Self>> {
        let Some(labels) = data.labels.clone() else { return Ok(None) };
        Ok(Some(Self { rows: data.all_rows()?, labels, dim: data.dim() }))
    }

    /// The `k` nearest rows of each of `values` (row order), as (squared distance, label), the nearest first.
    fn nearest(&self, values: &[f32], k: usize) -> Vec<Vec<(f32, usize)>> {
        values
            .par_chunks_exact(self.dim)
            .map(|value| {
                let mut best: Vec<(f32, usize)> = Vec::with_capacity(k + 1);
                for (row, &label) in self.rows.chunks_exact(self.dim).zip(&self.labels) {
                    let distance: f32 = row.iter().zip(value).map(|(a, b)| (a - b).powi(2)).sum();
                    if best.len() < k || distance < best[best.len() - 1].0 {
                        let place = best.partition_point(|(other, _)| *other <= distance);
                        best.insert(place, (distance, label));
                        best.truncate(k);
                    }
                }
                best
            })
            .collect()
    }

    /// The class of each of `values` by majority among its `k` nearest rows; a tie goes to the nearer.
    pub fn classify(&self, values: &[f32], k: usize) -> Vec<usize> {
        let vote = |near: &Vec<(f32, usize)>| {
            let count = |label: usize| near.iter().filter(|(_, other)| *other == label).count();
            // `max_by_key` takes the last of equals, so the nearest comes last.
            near.iter().rev().map(|&(_, label)| label).max_by_key(|&label| count(label)).unwrap_or_default()
        };
        self.nearest(values, k).iter().map(vote).collect()
    }

    /// Mean distance of `values` to their nearest row.
    pub fn mean_distance(&self, values: &[f32]) -> f64 {
        let nearest = self.nearest(values, 1);
        nearest.iter().map(|near| f64::from(near[0].0).sqrt()).sum::<f64>() / nearest.len() as f64
    }
}

/// Root mean squared distance of rows to the mean of their class.
pub fn within_class_spread(values: &[f32], labels: &[usize], dim: usize) -> f64 {
    let classes = labels.iter().max().map_or(0, |last| last + 1);
    let mut sums = vec![0.0; classes * dim];
    let mut counts = vec![0.0; classes];
    for (row, &label) in values.chunks_exact(dim).zip(labels) {
        counts[label] += 1.0;
        sums[label * dim..(label + 1) * dim].iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    let squared = |row: &[f32], label: usize| -> f64 {
        let mean = sums[label * dim..(label + 1) * dim].iter().map(|sum| sum / counts[label]);
        row.iter().zip(mean).map(|(v, mean)| (f64::from(*v) - mean).powi(2)).sum()
    };
    let total: f64 = values.chunks_exact(dim).zip(labels).map(|(row, &label)| squared(row, label)).sum();
    (total / labels.len() as f64).sqrt()
}

/// The three numbers, and the same classifier on held-out data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Part of the samples that 5 nearest neighbors among the training data give the class they were drawn for.
    pub agreement: f64,
    /// The same for the test data and their labels: what agreement can be expected of real data.
    pub agreement_of_test: f64,
    /// Within-class spread of the samples over that of the training data.
    pub spread: f64,
    /// Mean distance of the samples to the nearest training example over that of the test data. Copies would give 0.
    pub novelty: f64,
}

impl Quality {
    /// Compares samples (`values` in row order, drawn for `labels`) with labeled data; `None` if the data have no labels.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn of(values: &[f32], labels: &[usize], train: &Data, test: &Data) -> Result<Option<Self>> {
        let dim = train.dim();
        let (Some(neighbors), Some(train_labels), Some(test_labels)) =
            (Neighbors::of(train)?, train.labels.as_ref(), test.labels.as_ref())
        else {
            return Ok(None);
        };
        let (train_values, test_values) = (train.all_rows()?, test.all_rows()?);
        let agreement = |values: &[f32], labels: &[usize]| {
            let right = neighbors.classify(values, 5).iter().zip(labels).filter(|(a, b)| a == b).count();
            right as f64 / labels.len() as f64
        };
        Ok(Some(Self {
            agreement: agreement(values, labels),
            agreement_of_test: agreement(&test_values, test_labels),
            spread: within_class_spread(values, labels, dim) / within_class_spread(&train_values, train_labels, dim),
            novelty: neighbors.mean_distance(values) / neighbors.mean_distance(&test_values),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, rows: Vec<f32>, labels: Vec<usize>) -> Data {
        let names = |names: [&str; 2]| names.map(String::from).to_vec();
        Data::from_rows(name, names(["x", "y"]), rows, Some(labels), names(["a", "b"])).unwrap()
    }

    fn square() -> Data {
        let rows = vec![0.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 6.0];
        named("square", rows, vec![0, 0, 1, 1])
    }

    #[test]
    fn neighbors_classify_and_measure() {
        let neighbors = Neighbors::of(&square()).unwrap().unwrap();
        assert_eq!(neighbors.classify(&[0.1, 0.1, 4.0, 5.0], 1), [0, 1]);
        // A tie of one vote each among two: the nearer wins.
        assert_eq!(neighbors.classify(&[2.6, 3.4], 4), [1]);
        assert!((neighbors.mean_distance(&[3.0, 0.0, 5.0, 5.0]) - 1.5).abs() < 1e-6);
    }

    #[test]
    fn spread_is_the_root_of_the_mean_within_class_variance() {
        let data = square();
        let spread = within_class_spread(&data.all_rows().unwrap(), data.labels.as_ref().unwrap(), 2);
        assert!((spread - 0.5).abs() < 1e-9, "every point is 1/2 from its class's mean: {spread}");
    }

    #[test]
    fn copies_have_no_novelty() {
        let data = square();
        let shifted = named("shifted", vec![0.0, 2.0], vec![0]);
        let quality =
            Quality::of(&data.all_rows().unwrap(), data.labels.as_ref().unwrap(), &data, &shifted).unwrap().unwrap();
        assert_eq!((quality.novelty, quality.spread), (0.0, 1.0));
    }
}
