//! Phantoms of a head: pictures that are sums of ellipses, the test pictures of tomography and magnetic resonance imaging.
//!
//! The phantom of Shepp and Logan (1974, "The Fourier reconstruction of a head section") with the higher contrast of Toft (1996, "The
//! Radon transform", table B.3): ten ellipses in \[−1, 1\]² whose values add up to something from 0 to 1. To train on, there are others
//! like it: the head is turned, stretched and moved a little, and so is each of the eight ellipses in it, whose values differ as well.

use crate::{Data, DataSet, Split};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use stein_base::{Explain, Key, Purpose, Result, memory::ensure_fits, numbers::ensure_within};

/// Phantoms of a head, `[size, size, 1]`, in \[0, 1\]; the first one held out is Shepp and Logan's own. Picture `i` depends on (`seed`,
/// split, `i`) only, so a larger `count` begins with the same pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields, default)]
pub struct Phantom {
    /// Pixels on each side, from 1 to 4096; default 64.
    pub size: usize,
    /// Pictures in each split, at least 1; default 2000.
    pub count: usize,
    /// How much they differ from Shepp and Logan's, from 0 (not at all) to 2; default 1.
    pub variation: f64,
    /// Seed of the pictures; default 0.
    pub seed: u64,
}

impl Default for Phantom {
    fn default() -> Phantom {
        Phantom { size: 64, count: 2000, variation: 1.0, seed: 0 }
    }
}

/// An ellipse that adds its value to what is under it.
#[derive(Debug, Clone, Copy)]
struct Ellipse {
    value: f64,
    /// Half axes.
    axes: [f64; 2],
    /// To the right and up.
    center: [f64; 2],
    /// Counterclockwise.
    degrees: f64,
}

const fn ellipse(value: f64, a: f64, b: f64, x: f64, y: f64, degrees: f64) -> Ellipse {
    Ellipse { value, axes: [a, b], center: [x, y], degrees }
}

/// The skull, the brain, and eight ellipses in it.
const SHEPP_LOGAN: [Ellipse; 10] = [
    ellipse(1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    ellipse(-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    ellipse(-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    ellipse(-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    ellipse(0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    ellipse(0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    ellipse(0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    ellipse(0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    ellipse(0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    ellipse(0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
];

/// A pixel is the mean of so many points on each side.
const POINTS: usize = 4;

/// The phantom of Shepp and Logan with Toft's contrast: `[size, size]` from the top left, in \[0, 1\].
pub fn shepp_logan(size: usize) -> Vec<f32> {
    picture(&SHEPP_LOGAN, size)
}

fn picture(ellipses: &[Ellipse], size: usize) -> Vec<f32> {
    let side = size * POINTS;
    let mut sums = vec![0.0; size * size];
    for ellipse in ellipses {
        let (sin, cos) = ellipse.degrees.to_radians().sin_cos();
        let reach = ellipse.axes[0].max(ellipse.axes[1]);
        // The points of a side that may be in the ellipse, given how far to the right or down its middle is.
        let near = |middle: f64| {
            let place = |at: f64| ((at + 1.0) / 2.0 * side as f64).clamp(0.0, side as f64);
            place(middle - reach).floor() as usize..place(middle + reach).ceil() as usize
        };
        let coordinate = |point: usize| (2 * point + 1) as f64 / side as f64 - 1.0;
        for row in near(-ellipse.center[1]) {
            let y = -coordinate(row) - ellipse.center[1];
            for column in near(ellipse.center[0]) {
                let x = coordinate(column) - ellipse.center[0];
                let [u, v] = [(cos * x + sin * y) / ellipse.axes[0], (cos * y - sin * x) / ellipse.axes[1]];
                if u * u + v * v <= 1.0 {
                    sums[row / POINTS * size + column / POINTS] += ellipse.value;
                }
            }
        }
    }
    sums.into_iter().map(|sum: f64| (sum / (POINTS * POINTS) as f64).clamp(0.0, 1.0) as f32).collect()
}

/// A head like Shepp and Logan's.
fn varied(key: Key, variation: f64) -> [Ellipse; 10] {
    let mut generator = key.generator();
    // Cut at two standard deviations, so that no ellipse leaves its head.
    let mut normal = |std: f64| {
        let z: f64 = StandardNormal.sample(&mut generator);
        variation * std * z.clamp(-2.0, 2.0)
    };
    // Stretched most and moved, the skull is still inside its picture.
    let (turn, stretch) = (normal(4.0), [0, 1].map(|_| normal(0.03).exp().min(0.95 / 0.92)));
    let shift = [normal(0.01), normal(0.01)];
    let (sin, cos) = turn.to_radians().sin_cos();
    SHEPP_LOGAN.map(|ellipse| {
        let inner = ellipse.axes[0] < 0.5;
        let mut own = |std: f64| if inner { normal(std) } else { 0.0 };
        let [x, y] = [0, 1].map(|axis| stretch[axis] * (ellipse.center[axis] + own(0.02)));
        Ellipse {
            value: ellipse.value * own(0.2).exp(),
            axes: [0, 1].map(|axis| ellipse.axes[axis] * stretch[axis] * own(0.15).exp()),
            center: [cos * x - sin * y + shift[0], sin * x + cos * y + shift[1]],
            degrees: ellipse.degrees + turn + own(8.0),
        }
    })
}

impl DataSet for Phantom {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        ensure_within("phantom: size", self.size, 1..=4096)?;
        ensure_within("phantom: count", self.count, 1..)?;
        ensure_within("phantom: variation", self.variation, 0.0..=2.0)?;
        // Pictures as they are drawn and as they are kept.
        let bytes = 8 * self.count as u128 * (self.size * self.size) as u128;
        ensure_fits(&format!("phantom of count = {} and size = {}", self.count, self.size), bytes)?;
        // The step keeps the splits apart.
        let key = Key::new(self.seed, Purpose::Point).step(split as u64);
        let draw = |i: usize| match (split, i) {
            (Split::Test, 0) => shepp_logan(self.size),
            _ => picture(&varied(key.at(i as u64), self.variation), self.size),
        };
        let pictures: Vec<Vec<f32>> = (0..self.count).into_par_iter().map(draw).collect();
        Data::from_images("phantom", [self.size, self.size, 1], pictures.concat(), None, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn the_phantom_has_its_values_and_its_mass() {
        let size = 200;
        let phantom = shepp_logan(size);
        let at = |x: f64, y: f64| {
            let place = |at: f64| ((at + 1.0) / 2.0 * size as f64) as usize;
            phantom[place(-y) * size + place(x)]
        };
        // Skull, brain, both ventricles, the ellipse above them, a small one below the middle, and what is outside.
        for (x, y, value) in [
            (0.0, 0.9, 1.0),
            (0.003, 0.003, 0.2),
            (0.22, 0.0, 0.0),
            (-0.22, 0.0, 0.0),
            (0.0, 0.4, 0.3),
            (0.0, -0.1, 0.3),
            (0.0, -0.606, 0.3),
            (-0.9, 0.9, 0.0),
        ] {
            assert!((at(x, y) - value).abs() < 1e-6, "{} at {x}, {y}", at(x, y));
        }
        // All ellipses are inside the square of area 4: its mean is Σ value · π a b/4. Points along their borders are off by chance.
        let mass: f64 = SHEPP_LOGAN.iter().map(|e| e.value * PI * e.axes[0] * e.axes[1] / 4.0).sum();
        let mean = phantom.iter().map(|v| f64::from(*v)).sum::<f64>() / (size * size) as f64;
        assert!((mean / mass - 1.0).abs() < 1e-3, "{mean} against {mass}");
    }

    #[test]
    fn a_picture_depends_on_seed_split_and_index_only() {
        let few = Phantom { size: 32, count: 4, ..Phantom::default() };
        let rows = |of: &Phantom, split| of.load(split, None).unwrap().all_rows().unwrap();
        let (train, test) = (rows(&few, Split::Train), rows(&few, Split::Test));
        let many = Phantom { count: 9, ..few.clone() };
        assert_eq!(train, rows(&many, Split::Train)[..train.len()]);
        assert_eq!(test[..1024], shepp_logan(32));
        assert!(train.chunks(1024).chain(test.chunks(1024).skip(1)).all(|picture| picture != &test[..1024]));
        assert_ne!(train, rows(&Phantom { seed: 1, ..few.clone() }, Split::Train));
        assert_eq!(rows(&Phantom { variation: 0.0, ..few.clone() }, Split::Train)[..1024], shepp_logan(32));
        // Heads stay in the picture: its border is black, however they differ.
        let wild = rows(&Phantom { variation: 2.0, size: 256, count: 8, ..few }, Split::Train);
        assert!(wild.iter().all(|value| (0.0..=1.0).contains(value)));
        for picture in wild.chunks(256 * 256) {
            let border = |i: usize| [picture[i], picture[255 * 256 + i], picture[256 * i], picture[256 * i + 255]];
            assert!((0..256).all(|i| border(i) == [0.0; 4]));
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (phantom, part) in [
            (Phantom { size: 0, ..Phantom::default() }, "size"),
            (Phantom { count: 0, ..Phantom::default() }, "count"),
            (Phantom { variation: f64::NAN, ..Phantom::default() }, "variation"),
        ] {
            assert!(phantom.load(Split::Train, None).unwrap_err().to_string().contains(part));
        }
    }
}
