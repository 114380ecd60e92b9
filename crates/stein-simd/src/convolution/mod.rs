//! Convolution of channels-last images: the value, the gradient of its input, the gradient of its weights.
//!
//! y\[n, i, j, o\] = scale · (Σ x\[n, s i + u − top, s j + v − left, c\] w\[u, v, c, o\] + bias\[o\] + shift\[n, o\] +
//! residual\[n, i, j, o\]), where x is zero outside of the image. The input may be several tensors concatenated along
//! channels, may be upsampled (nearest neighbor), and may pass through f(a x + b) (a normalization and SiLU) on its way
//! in, or through the tangent of that; none of these intermediate tensors is ever written to memory as a whole.
//!
//! There are two methods in f32. *Direct*: rows of the input are copied, with their zero border, into a band that stays
//! in cache, and a register tile of pixels × outputs is summed over taps and channels. *Winograd* (Lavin & Gray,
//! arXiv:1509.09308) F(m × m, 3 × 3): for each m × m tile of outputs the (m + 2)² inputs are transformed, multiplied by
//! transformed weights as (m + 2)² matrix products, and transformed back; that takes 9 m² / (m + 2)² times fewer
//! multiplications, 2.25 for m = 2 and 4 for m = 4, and its rounding error is a few times that of the direct sum.
//!
//! In *bf16*, inputs and weights of the direct method are rounded to the upper half of an f32, eight significant bits;
//! products are exact, and the sums and everything added to them are in f32.

mod bands;
mod epilogue;
mod forward;
mod gradient;
mod input;
mod method;
mod shape;
mod transform;
mod weights;

pub use epilogue::Epilogue;
pub use forward::{convolve, input_gradient};
pub use gradient::{weight_gradient, weight_gradient_by};
pub use input::{Input, Prologue};
pub use method::Method;
pub use shape::Shape;
pub use weights::Weights;

pub(crate) use epilogue::Out;
