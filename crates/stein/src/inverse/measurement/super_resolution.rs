//! y = a picture f times smaller, or a series f times shorter, which super-resolution goes back from.
//!
//! `mean` takes the mean of every block of f × f. `bicubic` is an antialiased reduction: the weight of a pixel at the distance t, in
//! pixels of the small picture, is the cubic of Keys (1981) with a = −1/2,
//!
//! ```text
//! h(t) = (a+2)|t|³ − (a+3)|t|² + 1 for |t| ≤ 1,   a|t|³ − 5a|t|² + 8a|t| − 4a for 1 < |t| < 2,
//! ```
//!
//! on 4f pixels, normalized to sum to 1, with the picture mirrored at its borders (its last pixel twice), as DDRM (Kawar et al. 2022) has
//! it. Both are separable, so that their decompositions are those of one small matrix for the height and one for the width.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, picture_or_series};
use crate::{
    Result, ensure,
    inverse::{Kronecker, Operator, PerChannel, Sparse},
    numbers::ensure_within,
};

/// A smaller picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct SuperResolution {
    /// f, how many times smaller, at least 2; a divisor of height and width, or of the length of a series; default 4.
    pub factor: usize,
    /// How pixels are taken together; default `mean`.
    pub filter: Filter,
}

/// How pixels are taken together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The mean of a block.
    #[default]
    #[serde(alias = "average")]
    Mean,
    /// The cubic with a = −1/2, stretched by the factor.
    Bicubic,
}

impl Default for SuperResolution {
    fn default() -> Self {
        Self { factor: 4, filter: Filter::Mean }
    }
}

impl SuperResolution {
    /// Height, width and channels of a measurement.
    fn size(&self, shape: &[usize]) -> Result<[usize; 3]> {
        let [height, width, channels] = picture_or_series(shape, "super_resolution")?;
        ensure_within("measurement super_resolution: factor", self.factor, 2..)?;
        let fits = |side: usize| side.is_multiple_of(self.factor);
        let series = shape.len() == 2;
        ensure!(
            fits(height) && (series || fits(width)),
            "measurement super_resolution: factor = {} does not divide {}: give a divisor",
            self.factor,
            if series { format!("the length {height}") } else { format!("the picture's {height} x {width} pixels") }
        );
        Ok([height / self.factor, if series { 1 } else { width / self.factor }, channels])
    }

    /// The reduction of one side.
    fn side(&self, long: usize, short: usize) -> Sparse {
        let factor = long / short;
        match self.filter {
            Filter::Bicubic if factor > 1 => {
                Sparse::new(long, &(0..short).map(|place| bicubic(place, factor, long)).collect::<Vec<_>>())
            }
            _ => block_means(long, factor),
        }
    }
}

/// The means of every `factor` numbers of a side.
pub(super) fn block_means(long: usize, factor: usize) -> Sparse {
    let block = |place: usize| (place * factor..(place + 1) * factor).map(|i| (i, 1.0 / factor as f64)).collect();
    Sparse::new(long, &(0..long / factor).map(block).collect::<Vec<_>>())
}

/// The weights of a pixel of the small side.
fn bicubic(place: usize, factor: usize, long: usize) -> Vec<(usize, f64)> {
    let center = (place as f64 + 0.5) * factor as f64 - 0.5;
    let reach = 2 * factor as i64;
    let first = center.floor() as i64 - reach;
    let taps = (first..=first + 2 * reach + 1).map(|i| (i, cubic((i as f64 - center) / factor as f64)));
    let taps: Vec<(i64, f64)> = taps.filter(|(_, weight)| *weight != 0.0).collect();
    let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
    let mirrored = |i: i64| {
        let i = i.rem_euclid(2 * long as i64) as usize;
        i.min(2 * long - 1 - i)
    };
    taps.into_iter().map(|(i, weight)| (mirrored(i), weight / sum)).collect()
}

fn cubic(t: f64) -> f64 {
    const A: f64 = -0.5;
    match t.abs() {
        t if t <= 1.0 => ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0,
        t if t < 2.0 => ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A,
        _ => 0.0,
    }
}

impl Measurement for SuperResolution {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        let [rows, columns, channels] = self.size(shape)?;
        let [height, width, _] = picture_or_series(shape, "super_resolution")?;
        let plane = Kronecker::new(Arc::new(self.side(height, rows)), Arc::new(self.side(width, columns)));
        Ok(Arc::new(PerChannel::new(Arc::new(plane), channels)))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        let [rows, columns, channels] = self.size(shape)?;
        Ok(if shape.len() == 2 { vec![rows, channels] } else { vec![rows, columns, channels] })
    }
}
