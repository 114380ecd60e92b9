//! Measurements: what a file says of an operator, made into one for samples of some shape. One file each.
//!
//! A sample's shape is that of the data: `[height, width, channels]` of pictures in \[0, 1\], `[length, channels]` of a series, `[dim]` of a
//! row. Operators of pictures work on the plane of every channel alike, unless they say otherwise.

mod identity;
mod matrix;

pub use identity::Identity;
pub use matrix::Matrix;

use std::sync::Arc;

use stein_base::registry;

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
    }
}

/// Height, width and channels of pictures.
///
/// # Errors
/// Samples that are none, with the name of the measurement.
pub(super) fn picture(shape: &[usize], measurement: &str) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(shape).map_err(|_| {
        Error::new(format!("measurement {measurement} is of pictures, and these samples have the shape {shape:?}"))
    })
}
