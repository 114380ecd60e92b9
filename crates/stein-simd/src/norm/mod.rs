//! Group and layer normalization over channels-last rows, optionally followed by SiLU.
//!
//! Group normalization (Y. Wu, K. He, 2018, arXiv:1803.08494) takes mean and variance over all pixels and the channels of
//! a group; with one group per channel it is instance normalization. Its input `[samples, pixels, channels]` may be given
//! as several tensors concatenated along channels, without ever making the concatenation.
//!
//! The result is y = f(a x + b) with coefficients per sample and channel, computed in three steps: [`moments`],
//! [`coefficients`] and [`normalize`]. The tangent has two: [`tangent_coefficients`] and [`normalize_tangent`]. A
//! convolution can apply the last step of either to its input as it reads it
//! ([`Prologue`](crate::convolution::Prologue)).

mod backward;
mod group;
mod layer;
mod moments;
mod shape;
mod tangent;

pub use backward::{NormGradients, normalize_backward};
pub use group::{Coefficients, coefficients, normalize};
pub use layer::{layer_norm, layer_norm_backward};
pub use moments::{Moments, moments};
pub use shape::NormShape;
pub use tangent::{TangentCoefficients, normalize_tangent, tangent_coefficients};
