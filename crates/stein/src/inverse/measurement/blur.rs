//! y = h ∗ x on the plane of every channel: a convolution with a point spread function h, y_n = Σ_k h_k x_{n−k}.
//!
//! `circular` goes on at the opposite border, so that the Fourier basis diagonalizes it. `reflect` mirrors the picture at its borders
//! without doubling the last pixel, as DPS (Chung et al. 2023) pads; of a kernel that is a product of one for the height and one for the
//! width the decomposition is that of two small matrices.
//!
//! A motion is the path of a camera: a Gaussian process in the plane with the Matérn covariance of smoothness 5/2 over unit time,
//! ρ(d) = (1 + √5 d/l + 5d²/(3l²)) e^{−√5 d/l}, whose standard deviation is in halves of the kernel (deepinv's generator of motion blur).

use std::sync::Arc;

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, picture_or_series};
use crate::{
    Error, Key, Purpose, Result, ensure,
    inverse::{Chain, Convolution, Gather, Kronecker, Operator, PerChannel, Sparse},
    numbers::{above, ensure_within},
};

/// A blurred picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Blur {
    /// The point spread function; default Gaussian with a standard deviation of 1 pixel.
    pub kernel: BlurKernel,
    /// What is beyond the borders; default `circular`.
    pub boundary: Boundary,
}

/// A point spread function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BlurKernel {
    /// A Gaussian at the middles of the pixels, normalized to sum to 1.
    Gaussian {
        /// Standard deviation in pixels, or steps of a series; above 0, up to 1e6; default 1.
        #[serde(default = "one")]
        std: f64,
        /// Standard deviation along the rows of pixels, in the same range; default the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std_along: Option<f64>,
        /// Pixels on each side, at most the picture's; default 2⌈4 std⌉ + 1, or the largest odd number that fits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<usize>,
    },
    /// The mean of a box.
    Uniform {
        /// Pixels on each side of the box, at most the picture's; default 5.
        #[serde(default = "five")]
        size: usize,
    },
    /// A camera that moved on a random path.
    Motion {
        /// Pixels on each side, at least 2 and at most the picture's; default a quarter of the shorter side, made odd.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<usize>,
        /// Standard deviation of the path, in halves of the kernel's size; above 0, up to 1; default 0.25.
        #[serde(default = "quarter")]
        std: f64,
        /// l, the time over which the path keeps its course, where the whole takes 1; from 0.01 to 100, default 0.3.
        #[serde(default = "third")]
        length_scale: f64,
        /// Seed of the path; default 0.
        #[serde(default)]
        seed: u64,
    },
    /// A kernel of a file.
    File {
        /// A `.npy` file `[height, width]`, or of one number for each step of a series, taken as it is; or a picture, divided by its sum.
        file: String,
    },
}

fn one() -> f64 {
    1.0
}

fn five() -> usize {
    5
}

fn quarter() -> f64 {
    0.25
}

fn third() -> f64 {
    0.3
}

impl Default for BlurKernel {
    fn default() -> Self {
        Self::Gaussian { std: one(), std_along: None, size: None }
    }
}

/// What is beyond the borders of a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// The opposite side.
    #[default]
    Circular,
    /// Its mirror image, without the last pixel.
    Reflect,
}

/// A point spread function as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSpread {
    /// Height and width.
    pub size: [usize; 2],
    /// `[height, width]` in row order; the pixel it belongs to is at half of the size rounded down.
    pub values: Vec<f64>,
    /// The factors of the height and of the width, of which it is the product.
    pub factors: Option<[Vec<f64>; 2]>,
}

impl PointSpread {
    fn product(down: Vec<f64>, along: Vec<f64>) -> Self {
        let values = down.iter().flat_map(|a| along.iter().map(move |b| a * b)).collect();
        Self { size: [down.len(), along.len()], values, factors: Some([down, along]) }
    }
}

impl BlurKernel {
    /// The kernel for samples of a shape.
    ///
    /// # Errors
    /// A parameter out of range, a kernel larger than the picture, and a file that cannot be read.
    pub fn points(&self, shape: &[usize], files: &dyn Files) -> Result<PointSpread> {
        let [height, width, _] = picture_or_series(shape, "blur")?;
        // A series has one column, and nothing to blur along it.
        let series = shape.len() == 2;
        let kernel = match self {
            Self::Gaussian { std, std_along, size } => {
                let taps = |name: &str, std: f64, side: usize, size: Option<usize>| -> Result<Vec<f64>> {
                    ensure_within(&format!("measurement blur: kernel.{name}"), std, above(0.0, 1e6))?;
                    let size = size.unwrap_or((2 * (4.0 * std).ceil() as usize + 1).min((side - 1) / 2 * 2 + 1));
                    ensure_within("measurement blur: kernel.size", size, 1..)?;
                    Ok(gaussian(std, size))
                };
                let down = taps("std", *std, height, *size)?;
                let along = taps("std_along", std_along.unwrap_or(*std), width, if series { Some(1) } else { *size })?;
                PointSpread::product(down, along)
            }
            Self::Uniform { size } => {
                ensure_within("measurement blur: kernel.size", *size, 1..)?;
                let taps = |size: usize| vec![1.0 / size as f64; size];
                PointSpread::product(taps(*size), taps(if series { 1 } else { *size }))
            }
            Self::Motion { size, std, length_scale, seed } => {
                ensure_within("measurement blur: kernel.std", *std, above(0.0, 1.0))?;
                ensure_within("measurement blur: kernel.length_scale", *length_scale, 0.01..=100.0)?;
                let size = size.unwrap_or((height.min(width) / 4).max(2) | 1);
                ensure_within("measurement blur: kernel.size", size, 2..)?;
                ensure_fits([size, size], [height, width])?;
                motion(size, *std, *length_scale, *seed)
            }
            Self::File { file } => from_file(file, files)?,
        };
        ensure_fits(kernel.size, [height, width])?;
        Ok(kernel)
    }
}

fn ensure_fits([rows, columns]: [usize; 2], [height, width]: [usize; 2]) -> Result<()> {
    ensure!(
        rows <= height && columns <= width,
        "measurement blur: a kernel of {rows} x {columns} is larger than the picture of {height} x {width}: give a smaller one"
    );
    Ok(())
}

fn gaussian(std: f64, size: usize) -> Vec<f64> {
    let middle = (size / 2) as f64;
    let taps: Vec<f64> = (0..size).map(|i| (-0.5 * ((i as f64 - middle) / std).powi(2)).exp()).collect();
    let sum: f64 = taps.iter().sum();
    taps.into_iter().map(|tap| tap / sum).collect()
}

fn from_file(file: &str, files: &dyn Files) -> Result<PointSpread> {
    if !file.ends_with(".npy") {
        let (values, size) = files.picture(file)?;
        let sum: f64 = values.iter().sum();
        ensure!(sum > 0.0, "measurement blur: the kernel {file} is black: give a picture with something in it");
        return Ok(PointSpread { size, values: values.iter().map(|value| value / sum).collect(), factors: None });
    }
    let (values, size) = files.array(file)?;
    let size = match size[..] {
        [rows, columns] if rows > 0 && columns > 0 => [rows, columns],
        [rows] if rows > 0 => [rows, 1],
        _ => {
            return Err(Error::new(format!(
                "measurement blur: the kernel {file} has the shape {size:?}: give an array of height and width"
            )));
        }
    };
    ensure!(
        values.iter().all(|value| value.is_finite()),
        "measurement blur: the kernel {file} has a value that is not a finite number"
    );
    Ok(PointSpread { size, values, factors: None })
}

/// Points of the path the process is drawn at; between them it is a line.
const KNOTS: usize = 65;

/// Points of the path that are counted between two of those.
const BETWEEN: usize = 16;

fn motion(size: usize, std: f64, length: f64, seed: u64) -> PointSpread {
    let covariance = DMatrix::from_fn(KNOTS, KNOTS, |i, j| {
        let d = 5f64.sqrt() * i.abs_diff(j) as f64 / (KNOTS - 1) as f64 / length;
        // What rounding takes from so smooth a covariance is given back on its diagonal.
        (1.0 + d + d * d / 3.0) * (-d).exp() + if i == j { 1e-9 } else { 0.0 }
    });
    let factor = covariance.cholesky().expect("a Matérn covariance with a ridge is positive definite").l();
    let key = Key::new(seed, Purpose::Instrument);
    let half = (size - 1) as f64 / 2.0;
    let path: [Vec<f64>; 2] = [0, 1].map(|axis| {
        let mut normal = vec![0.0; KNOTS];
        key.step(axis).fill_normal(&mut normal);
        let knots = &factor * DVector::from_vec(normal) * (std * half);
        let fractions = (0..BETWEEN).map(|part| part as f64 / BETWEEN as f64);
        let points: Vec<f64> = (0..KNOTS - 1)
            .flat_map(|i| fractions.clone().map(move |part| (i, part)))
            .map(|(i, part)| (1.0 - part) * knots[i] + part * knots[i + 1])
            .collect();
        let mean = points.iter().sum::<f64>() / points.len() as f64;
        // What would leave the kernel stays at its border.
        points.into_iter().map(|point| (point - mean + (size / 2) as f64).clamp(0.0, (size - 1) as f64)).collect()
    });
    let mut values = vec![0.0; size * size];
    for (row, column) in path[0].iter().zip(&path[1]) {
        // A point belongs to the four pixels around it. At the far border the next pixel is none, and has no part.
        let shares = |at: f64| {
            let near = at.floor() as usize;
            [(near, 1.0 - at.fract()), ((near + 1).min(size - 1), at.fract())]
        };
        for (row, of_row) in shares(*row) {
            for (column, of_column) in shares(*column) {
                values[row * size + column] += of_row * of_column;
            }
        }
    }
    let sum: f64 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
    PointSpread { size: [size, size], values, factors: None }
}

/// The place that stands for one beyond the borders.
fn reflected(place: i64, side: usize) -> usize {
    if side == 1 {
        return 0;
    }
    let period = 2 * (side - 1);
    let place = place.rem_euclid(period as i64) as usize;
    place.min(period - place)
}

/// The convolution of one side, mirrored at its ends.
fn reflected_side(side: usize, taps: &[f64]) -> Sparse {
    let row = |place: usize| {
        let source = move |k: usize| reflected(place as i64 - (k as i64 - (taps.len() / 2) as i64), side);
        taps.iter().enumerate().map(|(k, tap)| (source(k), *tap)).collect()
    };
    Sparse::new(side, &(0..side).map(row).collect::<Vec<Vec<(usize, f64)>>>())
}

/// Padding by reflection, a circular convolution of what that gives, and its middle.
fn padded([height, width]: [usize; 2], kernel: &PointSpread) -> Result<Chain> {
    let [rows, columns] = kernel.size;
    let size = [height + rows - 1, width + columns - 1];
    let (top, left) = (rows - 1 - rows / 2, columns - 1 - columns / 2);
    let places = (0..size[0]).flat_map(|row| (0..size[1]).map(move |column| (row, column)));
    let pad = places.map(|(row, column)| {
        reflected(row as i64 - top as i64, height) * width + reflected(column as i64 - left as i64, width)
    });
    let crop = (0..height).flat_map(|row| (0..width).map(move |column| (row + top) * size[1] + column + left));
    Ok(Chain::new(vec![
        Arc::new(Gather::new(height * width, pad.collect())?),
        Arc::new(Convolution::new(size, &kernel.values, kernel.size)),
        Arc::new(Gather::new(size[0] * size[1], crop.collect())?),
    ]))
}

impl Measurement for Blur {
    fn operator(&self, shape: &[usize], files: &dyn Files) -> Result<Arc<dyn Operator>> {
        let [height, width, channels] = picture_or_series(shape, "blur")?;
        let kernel = self.kernel.points(shape, files)?;
        let plane: Arc<dyn Operator> = match (self.boundary, &kernel.factors) {
            (Boundary::Circular, _) => Arc::new(Convolution::new([height, width], &kernel.values, kernel.size)),
            (Boundary::Reflect, Some([down, along])) => {
                Arc::new(Kronecker::new(Arc::new(reflected_side(height, down)), Arc::new(reflected_side(width, along))))
            }
            (Boundary::Reflect, None) => Arc::new(padded([height, width], &kernel)?),
        };
        Ok(Arc::new(PerChannel::new(plane, channels)))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        Ok(shape.to_vec())
    }
}
