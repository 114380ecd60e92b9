//! Points in the plane drawn from known densities, the toy problems of the score-based literature.
//!
//! Two Gaussians is the example of NCSN (Song & Ermon, arXiv:1907.05600, section 3.2.2); the other shapes follow the
//! generators of FFJORD (Grathwohl et al., arXiv:1810.01367), so that pictures compare with published ones.

use crate::{Data, DataSet, Split};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    f64::consts::{FRAC_1_SQRT_2, PI, TAU},
    path::Path,
};
use stein_base::{
    Explain, Key, Purpose, Result, explain,
    memory::ensure_fits,
    names,
    random::{below, uniform},
};

/// Points in the plane. Row `i` depends on (`seed`, split, `i`) only, so a larger `count` begins with the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields, default)]
pub struct Points2d {
    /// The density; default `two_gaussians`.
    pub shape: Pattern,
    /// Rows in each split, at least 1; default 50000.
    pub count: usize,
    /// Seed of the points; default 0.
    pub seed: u64,
}

impl Default for Points2d {
    fn default() -> Points2d {
        Points2d { shape: Pattern::TwoGaussians, count: 50_000, seed: 0 }
    }
}

/// A density in the plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// 1/5 N((−5, −5), I) + 4/5 N((5, 5), I); the class is the Gaussian.
    #[serde(alias = "2gaussians")]
    TwoGaussians,
    /// Equal Gaussians of standard deviation 0.5/√2 on a circle of radius 4/√2; the class is the Gaussian.
    #[serde(alias = "8gaussians")]
    EightGaussians,
    /// Two interleaved half circles of radius 2 with noise of 0.2; the class is the moon.
    #[serde(alias = "two_moons")]
    Moons,
    /// A spiral from radius 0.94 to 2.83 with noise of 0.2; no classes.
    SwissRoll,
    /// The uniform density on every other square of side 2 in [−4, 4)²; no classes.
    Checkerboard,
    /// Four circles of radii 0.75, 1.5, 2.25 and 3 with noise of 0.08; the class is the circle.
    Rings,
    /// Five bent arms; the class is the arm.
    Pinwheel,
}

/// A mixture of isotropic Gaussians: weights that sum to 1, means and standard deviations.
pub type Mixture = (Vec<f64>, Vec<[f64; 2]>, Vec<f64>);

impl Pattern {
    /// All shapes with their names, in files and on the command line.
    const ALL: [(&str, Pattern); 7] = [
        ("two_gaussians", Pattern::TwoGaussians),
        ("eight_gaussians", Pattern::EightGaussians),
        ("moons", Pattern::Moons),
        ("swiss_roll", Pattern::SwissRoll),
        ("checkerboard", Pattern::Checkerboard),
        ("rings", Pattern::Rings),
        ("pinwheel", Pattern::Pinwheel),
    ];

    /// The shape called `name`.
    ///
    /// # Errors
    /// When there is no such name: the sentence lists those there are, the nearest first.
    pub fn named(name: &str) -> Result<Pattern> {
        match Self::ALL.iter().find(|(known, _)| *known == explain::ours::<Self>(name)) {
            Some(&(_, pattern)) => Ok(pattern),
            None => Err(names::unknown("shape of points2d", name, &Self::ALL.map(|(known, _)| known))),
        }
    }

    fn name(self) -> &'static str {
        Pattern::ALL.iter().find(|(_, pattern)| *pattern == self).expect("every shape is listed").0
    }

    /// The number of parts that are classes; 0 for none.
    fn parts(self) -> usize {
        match self {
            Pattern::TwoGaussians | Pattern::Moons => 2,
            Pattern::EightGaussians => 8,
            Pattern::SwissRoll | Pattern::Checkerboard => 0,
            Pattern::Rings => 4,
            Pattern::Pinwheel => 5,
        }
    }

    fn mixture(self) -> Option<Mixture> {
        match self {
            Pattern::TwoGaussians => Some((vec![0.2, 0.8], vec![[-5.0, -5.0], [5.0, 5.0]], vec![1.0; 2])),
            Pattern::EightGaussians => {
                let mean = |k: usize| polar(4.0 * FRAC_1_SQRT_2, TAU * k as f64 / 8.0);
                Some((vec![0.125; 8], (0..8).map(mean).collect(), vec![0.5 * FRAC_1_SQRT_2; 8]))
            }
            _ => None,
        }
    }

    /// One point and its part.
    fn draw(self, mixture: Option<&Mixture>, rng: &mut ChaCha8Rng) -> ([f64; 2], usize) {
        if let Some((weights, means, stds)) = mixture {
            let u = uniform(rng);
            let mut below = 0.0;
            let part = weights.iter().position(|w| {
                below += w;
                u < below
            });
            let part = part.unwrap_or(weights.len() - 1); // the weights may sum to a hair less than 1
            return (noisy(means[part], stds[part], rng), part);
        }
        let part = below(rng, self.parts().max(1));
        let point = match self {
            Pattern::TwoGaussians | Pattern::EightGaussians => unreachable!("these are mixtures"),
            Pattern::Moons => {
                let [x, y] = polar(2.0, PI * uniform(rng));
                noisy(if part == 0 { [x - 1.0, y - 0.2] } else { [1.0 - x, 0.8 - y] }, 0.2, rng)
            }
            Pattern::SwissRoll => {
                let t = 1.5 * PI * (1.0 + 2.0 * uniform(rng));
                noisy(polar(t / 5.0, t), 0.2, rng)
            }
            Pattern::Checkerboard => {
                let x = 4.0 * uniform(rng) - 2.0;
                let y = uniform(rng) - 2.0 * below(rng, 2) as f64 + x.floor().rem_euclid(2.0);
                [2.0 * x, 2.0 * y]
            }
            Pattern::Rings => noisy(polar(0.75 * (part + 1) as f64, TAU * uniform(rng)), 0.08, rng),
            Pattern::Pinwheel => {
                let [x, y] = [1.0 + 0.3 * normal(rng), 0.1 * normal(rng)];
                let (sin, cos) = (TAU * part as f64 / 5.0 + 0.25 * x.exp()).sin_cos();
                [2.0 * (cos * x + sin * y), 2.0 * (cos * y - sin * x)]
            }
        };
        (point, part)
    }
}

fn polar(radius: f64, angle: f64) -> [f64; 2] {
    [radius * angle.cos(), radius * angle.sin()]
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

fn noisy([x, y]: [f64; 2], std: f64, rng: &mut ChaCha8Rng) -> [f64; 2] {
    [x + std * normal(rng), y + std * normal(rng)]
}

impl Points2d {
    /// The exact density where it is a mixture of Gaussians: `two_gaussians` and `eight_gaussians`.
    pub fn mixture(&self) -> Option<Mixture> {
        self.shape.mixture()
    }
}

impl DataSet for Points2d {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        // Both coordinates and the class, as they are drawn and as they are kept.
        ensure_fits(&format!("points2d of count = {}", self.count), 40 * self.count as u128)?;
        let mixture = self.mixture();
        // The step keeps the splits apart.
        let key = Key::new(self.seed, Purpose::Point).step(split as u64);
        let draw = |i: usize| self.shape.draw(mixture.as_ref(), &mut key.at(i as u64).generator());
        let (points, parts): (Vec<[f64; 2]>, Vec<usize>) = (0..self.count).into_par_iter().map(draw).unzip();
        let values = points.iter().flatten().map(|&v| v as f32).collect();
        let class_names: Vec<String> = (0..self.shape.parts()).map(|part| part.to_string()).collect();
        let labels = (!class_names.is_empty()).then_some(parts);
        let name = format!("points2d/{}", self.shape.name());
        Data::from_rows(&name, vec!["x".into(), "y".into()], values, labels, class_names)
    }

    fn shorthand(&self, rest: &str) -> Option<(&'static str, String)> {
        Some(("shape", explain::ours::<Pattern>(rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(source: &Points2d, split: Split) -> Vec<f32> {
        source.load(split, None).unwrap().all_rows().unwrap()
    }

    #[test]
    fn a_row_depends_on_seed_split_and_index_only() {
        for (name, shape) in Pattern::ALL {
            assert_eq!(Pattern::named(name).unwrap(), shape);
            let few = Points2d { shape, count: 10, seed: 3 };
            let many = Points2d { count: 1000, ..few.clone() };
            let other = Points2d { seed: 4, ..few.clone() };
            assert_eq!(rows(&few, Split::Train), rows(&many, Split::Train)[..20]);
            assert_ne!(rows(&few, Split::Train), rows(&few, Split::Test));
            assert_ne!(rows(&few, Split::Train), rows(&other, Split::Train));
            assert!(rows(&many, Split::Train).iter().all(|v| v.abs() < 10.0));
        }
        assert_eq!(Pattern::named("swiss-roll").unwrap(), Pattern::SwissRoll);
    }

    #[test]
    fn mixtures_have_the_moments_they_claim() {
        for shape in [Pattern::TwoGaussians, Pattern::EightGaussians] {
            let source = Points2d { shape, ..Points2d::default() };
            let (weights, means, stds) = source.mixture().unwrap();
            let data = source.load(Split::Train, None).unwrap();
            let (rows, labels) = (data.all_rows().unwrap(), data.labels.as_ref().unwrap());
            for (part, (weight, mean)) in weights.iter().zip(&means).enumerate() {
                let own = || rows.chunks(2).zip(labels).filter(|(_, l)| **l == part).map(|(row, _)| row);
                let n = own().count() as f64;
                assert!((n / 50_000.0 - weight).abs() < 0.01, "{shape:?} {part}: {n}");
                for (d, mean) in mean.iter().enumerate() {
                    let got = own().map(|r| f64::from(r[d])).sum::<f64>() / n;
                    let var = own().map(|r| (f64::from(r[d]) - got).powi(2)).sum::<f64>() / n;
                    assert!((got - mean).abs() < 0.05 && (var.sqrt() / stds[part] - 1.0).abs() < 0.05);
                }
            }
        }
    }

    #[test]
    fn the_checkerboard_is_one() {
        let source = Points2d { shape: Pattern::Checkerboard, ..Points2d::default() };
        for row in rows(&source, Split::Train).chunks(2) {
            let [x, y] = [(row[0] / 2.0).floor() as i32, (row[1] / 2.0).floor() as i32];
            assert!((x + y) % 2 == 0 && (-2..2).contains(&x) && (-2..2).contains(&y), "{row:?}");
        }
    }
}
