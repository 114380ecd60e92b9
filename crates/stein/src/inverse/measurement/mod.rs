//! Measurements: what a file says of an operator, made into one for samples of some shape. One file each.
//!
//! A sample's shape is that of the data: `[height, width, channels]` of pictures in \[0, 1\], `[length, channels]` of a series, `[dim]` of a
//! row. Operators of pictures work on the plane of every channel alike, unless they say otherwise.

mod blur;
mod clip;
mod colorize;
mod compressed_sensing;
mod ct;
mod hdr;
mod identity;
mod inpaint;
mod jpeg;
mod matrix;
mod mri;
mod phase_retrieval;
mod quantize;
mod super_resolution;

pub use blur::{Blur, BlurKernel, Boundary, PointSpread};
pub use clip::Clip;
pub use colorize::Colorize;
pub use compressed_sensing::{CompressedSensing, Rows};
pub use ct::Ct;
pub use hdr::Hdr;
pub use identity::Identity;
pub use inpaint::{Inpaint, Mask};
pub use jpeg::{Chroma, Jpeg};
pub use matrix::Matrix;
pub use mri::{Lines, Mri};
pub use phase_retrieval::{Magnitude, PhaseRetrieval};
pub use quantize::Quantize;
pub use super_resolution::{Filter, SuperResolution};

use std::sync::Arc;

use stein_base::{Key, random::uniform, registry};

use super::Operator;
use crate::{Error, Result};

/// The files a measurement may name.
pub trait Files {
    /// The numbers of a `.npy` file and their shape.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn array(&self, path: &str) -> Result<(Vec<f64>, Vec<usize>)>;

    /// A gray picture `[height, width]` in \[0, 1\], with height and width.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn picture(&self, path: &str) -> Result<(Vec<f64>, [usize; 2])>;
}

/// No files at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn array(&self, path: &str) -> Result<(Vec<f64>, Vec<usize>)> {
        Err(Error::new(format!("there is no file {path} here")))
    }

    fn picture(&self, path: &str) -> Result<(Vec<f64>, [usize; 2])> {
        Err(Error::new(format!("there is no file {path} here")))
    }
}

/// What is measured of samples.
pub trait Measurement: std::fmt::Debug + Send + Sync {
    /// The operator for samples of a shape.
    ///
    /// # Errors
    /// A parameter out of range, samples the measurement does not fit, and files that cannot be read.
    fn operator(&self, shape: &[usize], files: &dyn Files) -> Result<Arc<dyn Operator>>;

    /// Whether a measurement of numbers in a range lies in that range itself.
    fn keeps_range(&self) -> bool {
        false
    }

    /// Whether a damaged sample, of the shape of a whole one, holds what is measured: the measurement of it is the measurement.
    fn reads_samples(&self) -> bool {
        false
    }

    /// The shape of a measurement of such samples, to write or show it; one list of numbers where it has no other.
    ///
    /// # Errors
    /// As [`operator`](Self::operator).
    fn shape(&self, shape: &[usize], files: &dyn Files) -> Result<Vec<usize>> {
        Ok(vec![self.operator(shape, files)?.outputs()])
    }
}

registry! {
    /// Every measurement, tagged by `kind` in files.
    AnyMeasurement, "measurement": Measurement {
        /// The sample itself: with noise, denoising.
        "identity" | "denoising" | "none" => Identity,
        /// A matrix times the numbers of a sample.
        "matrix" | "linear" => Matrix,
        /// Some of the pixels, steps or columns, the others missing.
        "inpaint" | "inpainting" | "mask" => Inpaint,
        /// The gray picture of one in color.
        "colorize" | "colorization" => Colorize,
        /// A smaller picture, or a shorter series: means of blocks, or a bicubic reduction.
        "super_resolution" | "downsample" => SuperResolution,
        /// A blurred picture: Gaussian, uniform, of a motion, or with a kernel of a file.
        "blur" | "deblur" => Blur,
        /// Random sums of all numbers, fewer than there are.
        "compressed_sensing" => CompressedSensing,
        /// Some lines of the frequencies of a picture, seen by one or several coils.
        "mri" => Mri,
        /// Sums along parallel rays through a picture, from many sides.
        "ct" | "radon" | "tomography" => Ct,
        /// The magnitudes of the frequencies of a picture, without their phases.
        "phase_retrieval" => PhaseRetrieval,
        /// A picture with more contrast than there is room for.
        "hdr" | "high_dynamic_range" => Hdr,
        /// Numbers cut off at two limits.
        "clip" | "saturation" | "declip" => Clip,
        /// Numbers rounded to a few levels.
        "quantize" | "quantization" => Quantize,
        /// A picture after compression as JPEG.
        "jpeg" => Jpeg,
    }
}

/// The numbers of the plane of a channel, and how many channels there are: a row is one plane.
fn planes(shape: &[usize]) -> (usize, usize) {
    match shape {
        [places @ .., channels] if !places.is_empty() => (places.iter().product(), *channels),
        _ => (shape.iter().product(), 1),
    }
}

/// Height, width and channels of pictures, or of series, whose width is 1.
///
/// # Errors
/// Other samples, with the name of the measurement.
fn picture_or_series(shape: &[usize], measurement: &str) -> Result<[usize; 3]> {
    match *shape {
        [height, width, channels] => Ok([height, width, channels]),
        [length, channels] => Ok([length, 1, channels]),
        _ => Err(Error::new(format!(
            "measurement {measurement} is of pictures and series, and these samples have the shape {shape:?}"
        ))),
    }
}

/// `count` of the numbers below `weights.len()`, drawn without replacement with chances in the ratio of their positive weights, in
/// ascending order.
///
/// Each gets a waiting time of its own, exponential with its weight as the rate, and the first ones are taken (Efraimidis and
/// Spirakis 2006).
fn choose(key: Key, weights: &[f64], count: usize) -> Vec<usize> {
    let mut generator = key.generator();
    let times = weights.iter().map(|weight| -(1.0 - uniform(&mut generator)).ln() / weight);
    let mut numbers: Vec<(f64, usize)> = times.enumerate().map(|(number, time)| (time, number)).collect();
    numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut chosen: Vec<usize> = numbers.into_iter().take(count).map(|(_, number)| number).collect();
    chosen.sort_unstable();
    chosen
}

/// Height, width and channels of pictures.
///
/// # Errors
/// Samples that are none, with the name of the measurement.
fn picture(shape: &[usize], measurement: &str) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(shape).map_err(|_| {
        Error::new(format!("measurement {measurement} is of pictures, and these samples have the shape {shape:?}"))
    })
}
