//! Distances between all pairs of rows, and nearest neighbors, by brute force.
//!
//! Distances come from [products of blocks of rows](distances), off by at most [`Pairs::margin`]. Whoever compares distances asks for
//! the exact one where the margin does not decide, so neighbors and counts are those of exact distances, and copies are at
//! distance 0.
//!
//! Blocks have fixed sizes and are visited in order, so that sums do not depend on threads or batches.

use rayon::prelude::*;
use stein_base::{Result, distances, ensure};

use crate::Rows;

/// All pairs of a row of one set with one of another.
pub(crate) struct Pairs<'a> {
    one: &'a Rows,
    other: &'a Rows,
    /// Subtracted from all rows, which leaves distances as they are and their digits more.
    center: Vec<f64>,
}

impl<'a> Pairs<'a> {
    pub fn new(one: &'a Rows, other: &'a Rows) -> Self {
        assert_eq!(one.dim(), other.dim(), "distances are between rows of one size");
        let center = if one.dim() > distances::FEW_DIMENSIONS { other.mean() } else { vec![0.0; one.dim()] };
        Self { one, other, center }
    }

    /// How far a squared distance that is handed out may be off, as a part of it; 0 if not at all.
    pub fn margin(&self) -> f64 {
        distances::margin(self.one.dim())
    }

    /// The squared distance of a pair from its differences.
    pub fn exact(&self, one: usize, other: usize) -> f64 {
        self.one.squared_distance(one, self.other, other)
    }

    /// Whether the squared distance of a pair is below a bound, given how far it was said to be.
    pub fn is_below(&self, bound: f64, said: f64, one: usize, other: usize) -> bool {
        let margin = bound * self.margin();
        if (said - bound).abs() > margin { said < bound } else { self.exact(one, other) < bound }
    }

    /// Shows each row of the first set its squared distances to the second, block by block in order: `visit` is given what
    /// became of the row so far, its place, the place of the block's first row, and the distances.
    pub fn distances<T: Send>(
        &self,
        start: impl Fn(usize) -> T + Sync,
        visit: impl Fn(&mut T, usize, usize, &[f64]) + Sync,
    ) -> Vec<T> {
        let dim = self.one.dim();
        let center = |mut block: Vec<f64>| {
            for row in block.chunks_exact_mut(dim) {
                row.iter_mut().zip(&self.center).for_each(|(value, center)| *value -= center);
            }
            block
        };
        let fill = |one: &[f64], other: &[f64], tile: &mut [f64]| distances::squared(one, other, dim, tile);
        blocks(self.one, self.other, center, fill, start, visit)
    }

    /// The same of products a·b.
    pub fn products<T: Send>(
        &self,
        start: impl Fn(usize) -> T + Sync,
        visit: impl Fn(&mut T, usize, usize, &[f64]) + Sync,
    ) -> Vec<T> {
        let dim = self.one.dim();
        let fill = |one: &[f64], other: &[f64], tile: &mut [f64]| distances::products(one, other, dim, tile);
        blocks(self.one, self.other, |block| block, fill, start, visit)
    }
}

fn blocks<T: Send>(
    one: &Rows,
    other: &Rows,
    prepare: impl Fn(Vec<f64>) -> Vec<f64> + Sync,
    fill: impl Fn(&[f64], &[f64], &mut [f64]) + Sync,
    start: impl Fn(usize) -> T + Sync,
    visit: impl Fn(&mut T, usize, usize, &[f64]) + Sync,
) -> Vec<T> {
    // A block has at most about four million values.
    let most = ((1 << 22) / one.dim()).max(16);
    let (across, along) = (most.min(256), most.min(512));
    let chunks: Vec<usize> = (0..one.len()).step_by(across).collect();
    let of_chunk = |&first: &usize| {
        let range = first..one.len().min(first + across);
        let block = prepare(one.block(range.clone()));
        let mut states: Vec<T> = range.clone().map(&start).collect();
        let mut tile = vec![0.0; range.len() * along];
        for other_first in (0..other.len()).step_by(along) {
            let other_block = prepare(other.block(other_first..other.len().min(other_first + along)));
            let columns = other_block.len() / other.dim();
            let tile = &mut tile[..range.len() * columns];
            fill(&block, &other_block, tile);
            for ((state, row), distances) in states.iter_mut().zip(range.clone()).zip(tile.chunks_exact(columns)) {
                visit(state, row, other_first, distances);
            }
        }
        states
    };
    chunks.par_iter().flat_map_iter(of_chunk).collect()
}

/// A neighbor of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbor {
    /// Its place among the rows.
    pub place: usize,
    /// Squared Euclidean distance.
    pub squared: f64,
}

impl Neighbor {
    /// Euclidean distance.
    pub fn distance(&self) -> f64 {
        self.squared.sqrt()
    }
}

/// Rows to look for neighbors among.
#[derive(Debug, Clone, Copy)]
pub struct Neighbors<'a>(&'a Rows);

impl<'a> Neighbors<'a> {
    /// Looks among these rows.
    pub fn among(rows: &'a Rows) -> Self {
        Self(rows)
    }

    /// The `k` nearest rows of each of others, the nearest first; of equally near ones the first. Fewer than `k` where there
    /// are fewer rows.
    ///
    /// # Panics
    /// If the others have rows of another number of values, which is the caller's broken invariant.
    pub fn of(&self, others: &Rows, k: usize) -> Vec<Vec<Neighbor>> {
        self.search(others, k, false)
    }

    /// The `k` nearest other rows of each of the rows themselves.
    pub fn of_themselves(&self, k: usize) -> Vec<Vec<Neighbor>> {
        self.search(self.0, k, true)
    }

    /// The squared distance of each row to its `k`-th nearest other row.
    ///
    /// # Errors
    /// Too few rows.
    pub fn radii(&self, k: usize) -> Result<Vec<f64>> {
        let n = self.0.len();
        ensure!(n > k, "{n} rows have no {k} other ones each: give more rows or set a smaller `k`");
        Ok(self.of_themselves(k).iter().map(|near| near[k - 1].squared).collect())
    }

    fn search(&self, others: &Rows, k: usize, themselves: bool) -> Vec<Vec<Neighbor>> {
        let pairs = Pairs::new(others, self.0);
        let widened = 1.0 + 2.0 * pairs.margin();
        let visit = |near: &mut Vec<Neighbor>, row: usize, first: usize, distances: &[f64]| {
            let farthest = |near: &Vec<Neighbor>| match near.last() {
                Some(last) if near.len() == k => last.squared,
                _ => f64::INFINITY,
            };
            let mut bound = farthest(near) * widened;
            for (place, &said) in (first..).zip(distances) {
                if said > bound || (themselves && place == row) {
                    continue;
                }
                let squared = pairs.exact(row, place);
                if squared < farthest(near) {
                    let at = near.partition_point(|other| other.squared <= squared);
                    near.insert(at, Neighbor { place, squared });
                    near.truncate(k);
                    bound = farthest(near) * widened;
                }
            }
        };
        pairs.distances(|_| Vec::with_capacity(k + 1), visit)
    }

    /// The class of each of others by majority among its `k` nearest rows; a tie goes to the class of the nearer one.
    ///
    /// # Errors
    /// Rows without labels, too few rows.
    pub fn classify(&self, others: &Rows, k: usize) -> Result<Vec<u32>> {
        let Some(labels) = self.0.labels() else {
            return Err(stein_base::Error::new("rows without labels cannot classify others: give each row its class"));
        };
        ensure!(
            self.0.len() >= k,
            "{} rows have no {k} nearest ones: give more rows or set a smaller `k`",
            self.0.len()
        );
        let vote = |near: &Vec<Neighbor>| {
            let count = |label: u32| near.iter().filter(|other| labels[other.place] == label).count();
            // The last of equals is taken, so the nearest comes last.
            let label = near.iter().rev().map(|other| labels[other.place]).max_by_key(|&label| count(label));
            label.expect("there is at least one neighbor")
        };
        Ok(self.of(others, k).iter().map(vote).collect())
    }

    /// The distance of each of others to its nearest row; infinite where there are no rows.
    ///
    /// # Panics
    /// As [`of`](Self::of).
    pub fn nearest_distances(&self, others: &Rows) -> Vec<f64> {
        self.of(others, 1).iter().map(|near| near.first().map_or(f64::INFINITY, Neighbor::distance)).collect()
    }
}

/// For each point, in how many balls it lies: strictly nearer to the center than the root of the squared radius.
pub(crate) fn balls_around(points: &Rows, centers: &Rows, radii: &[f64]) -> Vec<u32> {
    let pairs = Pairs::new(points, centers);
    let visit = |count: &mut u32, point: usize, first: usize, distances: &[f64]| {
        for (place, &said) in (first..).zip(distances) {
            *count += u32::from(pairs.is_below(radii[place], said, point, place));
        }
    };
    pairs.distances(|_| 0, visit)
}

/// For each ball, whether it has a point inside.
pub(crate) fn balls_with_points(centers: &Rows, radii: &[f64], points: &Rows) -> Vec<bool> {
    let pairs = Pairs::new(centers, points);
    let visit = |found: &mut bool, center: usize, first: usize, distances: &[f64]| {
        let mut inside = (first..).zip(distances);
        *found = *found || inside.any(|(place, &said)| pairs.is_below(radii[center], said, center, place));
    };
    pairs.distances(|_| false, visit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stein_base::{Keys, Purpose};

    fn normal(seed: u64, rows: usize, dim: usize, shift: f64) -> Rows {
        let values: Vec<f64> =
            Keys::range(seed, 0, rows).normal(Purpose::Point, 0, dim).iter().map(|value| value + shift).collect();
        Rows::of(dim, &values).unwrap()
    }

    /// Sorting all exact distances is the definition; in few and many dimensions, far from zero, with copies and ties.
    #[test]
    fn neighbors_are_those_of_sorted_exact_distances() {
        for (dim, shift) in [(1, 0.0), (3, 1e6), (40, 0.0), (40, 1e4)] {
            let rows = normal(1, 700, dim, shift);
            let others = normal(2, 150, dim, shift);
            let mut all = others.block(0..150);
            all.extend(rows.block(10..40));
            let others = Rows::of(dim, &all).unwrap();
            let found = Neighbors::among(&rows).of(&others, 4);
            for (i, near) in found.iter().enumerate() {
                let mut expected: Vec<(f64, usize)> =
                    (0..rows.len()).map(|j| (others.squared_distance(i, &rows, j), j)).collect();
                expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
                let near: Vec<(f64, usize)> = near.iter().map(|near| (near.squared, near.place)).collect();
                assert_eq!(near, expected[..4], "dim {dim}, row {i}");
            }
            assert_eq!(found[155][0], Neighbor { place: 15, squared: 0.0 });
        }
    }

    #[test]
    fn rows_classify_by_majority_and_the_nearer_wins_a_tie() {
        let square = Rows::of(2, Batch::from(&[0.0f32, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 6.0][..]).labeled(&[0, 0, 1, 1]));
        let square = square.unwrap();
        let neighbors = Neighbors::among(&square);
        let others = Rows::of(2, &[0.1f32, 0.1, 4.0, 5.0][..]).unwrap();
        assert_eq!(neighbors.classify(&others, 1).unwrap(), [0, 1]);
        let between = Rows::of(2, &[2.6f32, 3.4][..]).unwrap();
        assert_eq!(neighbors.classify(&between, 4).unwrap(), [1]);
    }

    use crate::Batch;
}
