//! y = sums along parallel rays through the plane of every channel, from many sides: computed tomography, the Radon transform.
//!
//! The ray of angle θ and distance s from the middle is s (cos θ, sin θ) + t (−sin θ, cos θ), with x to the right and y up. A number is
//! Σ_pixels length of the ray in the pixel × its value (Siddon 1985), with lengths in widths of the picture: along a disk of value 1 it is
//! the chord. Projection and back-projection go through the same lengths, so that one is exactly the other's adjoint.

use std::{f64::consts::PI, sync::Arc};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::{Explain, memory::ensure_fits};

use super::{Files, Measurement, picture};
use crate::{
    Result, ensure,
    inverse::{Operator, PerChannel, Sparse},
    numbers::ensure_within,
};

/// Sums along rays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ct {
    /// Angles, spread evenly from `start` to below `end`; from 1 to 100,000, default 60.
    pub angles: usize,
    /// The first angle in degrees; default 0, rays that run up.
    pub start: f64,
    /// Where the angles end, in degrees, above `start`; default 180. Less is a limited angle.
    pub end: f64,
    /// Rays of an angle, one pixel apart and around the middle; from 1 to 100,000, default as many as cross the picture's diagonal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detectors: Option<usize>,
}

impl Default for Ct {
    fn default() -> Self {
        Self { angles: 60, start: 0.0, end: 180.0, detectors: None }
    }
}

impl Ct {
    /// Rays of an angle; where they are not given, even or odd as the width, so that upright ones run through the middles of pixels.
    fn rays(&self, height: usize, width: usize) -> usize {
        self.detectors.unwrap_or_else(|| {
            let diagonal = (height as f64).hypot(width as f64).ceil() as usize;
            diagonal + (diagonal - width) % 2
        })
    }
}

impl Measurement for Ct {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        let [height, width, channels] = picture(shape, "ct")?;
        ensure_within("measurement ct: angles", self.angles, 1..=100_000)?;
        let rays = self.rays(height, width);
        ensure_within("measurement ct: detectors", rays, 1..=100_000)?;
        ensure!(
            self.start.is_finite() && self.end.is_finite() && self.start < self.end,
            "measurement ct: start = {} must be below end = {}",
            self.start,
            self.end
        );
        // A ray crosses at most height + width pixels; an entry takes 16 bytes as it is found, and 12 as it is kept.
        let crossings = (self.angles * rays) as u128 * (height + width) as u128;
        ensure_fits(&format!("measurement ct of {} angles and {rays} detectors", self.angles), 28 * crossings)?;
        let ray = |number: usize| {
            let part = (number / rays) as f64 / self.angles as f64;
            let angle = (self.start + (self.end - self.start) * part) * PI / 180.0;
            let distance = (number % rays) as f64 - (rays - 1) as f64 / 2.0;
            lengths([height, width], angle, distance)
        };
        let rows: Vec<Vec<(usize, f64)>> = (0..self.angles * rays).into_par_iter().map(ray).collect();
        Ok(Arc::new(PerChannel::new(Arc::new(Sparse::new(height * width, &rows)), channels)))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        let [height, width, channels] = picture(shape, "ct")?;
        Ok(vec![self.angles, self.rays(height, width), channels])
    }
}

/// The pixels a ray crosses, and its length in each in widths of the picture. A ray along the border of two rows or columns belongs to
/// one of them.
fn lengths([height, width]: [usize; 2], angle: f64, distance: f64) -> Vec<(usize, f64)> {
    let (sin, cos) = angle.sin_cos();
    // In pixels, from the lower left corner.
    let start = [distance * cos + width as f64 / 2.0, distance * sin + height as f64 / 2.0];
    let direction = [-sin, cos];
    let mut crossings: Vec<f64> = Vec::new();
    for ((from, along), lines) in start.into_iter().zip(direction).zip([width, height]) {
        // Below this the ray leaves no row or column within a picture of any size.
        if along.abs() > 1e-12 {
            crossings.extend((0..=lines).map(|line| (line as f64 - from) / along));
        }
    }
    crossings.sort_by(f64::total_cmp);
    let pieces = crossings.windows(2).filter_map(|pair| {
        let middle = 0.5 * (pair[0] + pair[1]);
        let [x, y] = [0, 1].map(|axis| (start[axis] + middle * direction[axis]).floor());
        let inside = (0.0..width as f64).contains(&x) && (0.0..height as f64).contains(&y);
        let length = pair[1] - pair[0];
        (inside && length > 0.0).then(|| ((height - 1 - y as usize) * width + x as usize, length / width as f64))
    });
    pieces.collect()
}
