//! The operator A of a measurement y = A(x): what it makes of a sample, its derivatives both ways and, where it is linear, its
//! singular value decomposition.
//!
//! Operators work on one sample at a time, on the host and in double precision, whatever the network does: beside a network's
//! evaluation they cost nothing, and data consistency is solved to the last digits. A sample is its numbers in row order: images
//! `[height, width, channels]`, series `[length, channels]`.

mod block_diagonal;
mod chain;
mod clipped;
mod convolution;
mod dense;
mod fourier;
mod gather;
mod in_state;
mod kronecker;
mod per_channel;
mod rounded;
mod sparse;
mod spectrum;
mod transposed;

pub use block_diagonal::BlockDiagonal;
pub use chain::Chain;
pub use clipped::Clipped;
pub use convolution::Convolution;
pub use dense::{Dense, MOST_DENSE};
pub use fourier::{Complex, Fourier, FourierBasis};
pub(in crate::inverse) use fourier::{complex, pairs};
pub use gather::Gather;
pub use in_state::InState;
pub use kronecker::Kronecker;
pub use per_channel::PerChannel;
pub use rounded::Rounded;
pub use sparse::Sparse;
pub use spectrum::{DenseSpectrum, Spectrum};
pub use transposed::Transposed;

use std::sync::Arc;

use crate::{Error, Kind, Result};

/// What a measurement makes of a sample.
pub trait Operator: std::fmt::Debug + Send + Sync {
    /// Numbers of a sample, n.
    fn inputs(&self) -> usize;

    /// Numbers of a measurement, m.
    fn outputs(&self) -> usize;

    /// A(x) `[m]` of a sample `[n]`.
    fn apply(&self, x: &[f64]) -> Vec<f64>;

    /// J_A(x) v `[m]`, the derivative at x `[n]` along v `[n]`; of a linear operator A v.
    fn push(&self, x: &[f64], v: &[f64]) -> Vec<f64>;

    /// J_A(x)ᵀ w `[n]`, the derivative at x `[n]` back from w `[m]`; of a linear operator its adjoint A* w.
    fn pull(&self, x: &[f64], w: &[f64]) -> Vec<f64>;

    /// The operator as a linear one, if it is.
    fn linear(&self) -> Option<&dyn Linear> {
        None
    }
}

/// A linear operator.
pub trait Linear: Operator {
    /// A* y `[n]` of `[m]`: the derivative back, which is the same at every sample.
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        self.pull(&vec![0.0; self.inputs()], y)
    }

    /// The singular value decomposition.
    ///
    /// # Errors
    /// An operator whose decomposition would not fit in memory or time.
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>>;
}

/// The operator as a linear one.
///
/// # Errors
/// With the name of the method, for one that is not.
pub fn linear<'a>(operator: &'a dyn Operator, method: &str) -> Result<&'a dyn Linear> {
    operator.linear().ok_or_else(|| {
        Error::of(
            Kind::Unsupported,
            format!("method {method} is for linear measurements, and this one is not: use dps, daps or tds"),
        )
    })
}
