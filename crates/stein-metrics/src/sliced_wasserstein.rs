//! Sliced Wasserstein distance (Bonneel et al. 2015): optimal transport of projections to directions θ on the unit sphere,
//!
//! ```text
//! SW_p = ( mean over θ of W_p^p(θ·x, θ·y) )^(1/p)
//! ```
//!
//! The mean is taken before the root. Transport on a line is exact for any numbers of rows, by sorting, so that a million
//! rows take seconds. In dim dimensions the value is about 1/√dim of the Wasserstein distance. Directions are drawn from the
//! seed; direction i is the same whatever their number.
//!
//! The error has two independent parts, added as variances: of the directions, s/√n of W_p^p carried through the root
//! (the part `error_of_directions`), and of the samples, by five parts of the rows on the same directions.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::{Explain, Key, Result, distances, ensure, numbers::ensure_within};

use crate::{
    Better, Measured, Metric, Needs, Rows, Running, Sides,
    measured::{mean, standard_error},
    quantiles,
    subsets::{PURPOSE, error_of_parts},
};

/// Sliced Wasserstein distance, SW_p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct SlicedWasserstein {
    /// The power p of distances, 1 or 2; default 2.
    pub p: u32,
    /// Number of random directions, 1 to 100000; default 64.
    pub projections: usize,
    /// Seed of the directions.
    pub seed: u64,
}

impl Default for SlicedWasserstein {
    fn default() -> Self {
        Self { p: 2, projections: 64, seed: 0 }
    }
}

impl Metric for SlicedWasserstein {
    fn needs(&self) -> Needs {
        Needs::SETS
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn check(&self) -> Result<()> {
        ensure_within("p", self.p, 1..=2)?;
        ensure_within("projections", self.projections, 1..=100_000)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let it = self.clone();
        Ok(Running::whole(move |sides| it.of(sides)))
    }
}

impl SlicedWasserstein {
    fn of(&self, sides: &Sides) -> Result<Measured> {
        let dim = sides.samples.dim();
        let directions = directions(self.seed, self.projections, dim);
        let root = |powers: &[f64]| mean(powers).powf(1.0 / f64::from(self.p));
        let powers = sliced_wasserstein(&sides.reference, &sides.samples, &directions, self.p)?;
        let value = root(&powers);
        // d(P^(1/p)) = P^(1/p − 1)/p dP, and at P = 0 nothing varies. On a line there is one direction.
        let slope = if value > 0.0 { value.powi(1 - self.p as i32) / f64::from(self.p) } else { 0.0 };
        let of_directions = if dim == 1 { Some(0.0) } else { standard_error(&powers).map(|error| slope * error) };
        let of_rows = error_of_parts(&sides.reference, &sides.samples, |one, other| {
            Ok(root(&sliced_wasserstein(one, other, &directions, self.p)?))
        })?;
        let error = of_rows.zip(of_directions).map(|(rows, directions)| rows.hypot(directions));
        let measured = Measured::new(value, error);
        Ok(match of_directions {
            Some(error) => measured.with_part("error_of_directions", error),
            None => measured,
        })
    }
}

/// Unit vectors, `[count, dim]`, evenly spread over the sphere.
fn directions(seed: u64, count: usize, dim: usize) -> Vec<f64> {
    let mut directions = vec![0.0; count * dim];
    for (number, direction) in directions.chunks_exact_mut(dim).enumerate() {
        Key::new(seed, PURPOSE).at(number as u64).step(1 << 32).fill_normal(direction);
        let length = direction.iter().map(|value| value * value).sum::<f64>().sqrt();
        direction.iter_mut().for_each(|value| *value /= length);
    }
    directions
}

/// W_p^p, p 1 or 2, of the projections of two sets of rows to each direction of `directions` `[count, dim]`, which are used as
/// they are.
///
/// # Errors
/// Another power, no rows, directions of another size than the rows.
pub fn sliced_wasserstein(one: &Rows, other: &Rows, directions: &[f64], p: u32) -> Result<Vec<f64>> {
    // Directions of one group are projected to together.
    const GROUP: usize = 8;
    let dim = one.dim();
    ensure_within("p", p, 1..=2)?;
    ensure!(!one.is_empty() && !other.is_empty(), "one side has no rows: give some of both");
    ensure!(
        Kind::Mismatch,
        other.dim() == dim && !directions.is_empty() && directions.len().is_multiple_of(dim),
        "rows of {dim} and {} values and {} values of directions do not belong together",
        other.dim(),
        directions.len()
    );
    let of_group = |group: &[f64]| -> Vec<f64> {
        let [one, other] = [one, other].map(|rows| projections(rows, group));
        let pairs = one.into_iter().zip(other);
        pairs.map(|(one, other)| quantiles::distance_to_the_power(&one, &other, p)).collect()
    };
    Ok(directions.par_chunks(GROUP * dim).flat_map_iter(of_group).collect())
}

/// The sorted projections of all rows to each of some directions.
fn projections(rows: &Rows, directions: &[f64]) -> Vec<Vec<f64>> {
    let (dim, count) = (rows.dim(), directions.len() / rows.dim());
    let at_once = ((1 << 16) / dim).max(64);
    let mut projected: Vec<Vec<f64>> = (0..count).map(|_| Vec::with_capacity(rows.len())).collect();
    let mut tile = vec![0.0; at_once * count];
    for first in (0..rows.len()).step_by(at_once) {
        let block = rows.block(first..rows.len().min(first + at_once));
        let height = block.len() / dim;
        distances::products(&block, directions, dim, &mut tile[..height * count]);
        for (number, projected) in projected.iter_mut().enumerate() {
            projected.extend(tile[..height * count].iter().skip(number).step_by(count));
        }
    }
    projected.iter_mut().for_each(|projected| quantiles::sort(projected));
    projected
}
