//! CPU kernels of score networks on plain slices of f32.
//!
//! Images are `[N, H, W, C]` (channels last), rows are `[N, C]`, and weights are `[inputs, outputs]`, preceded by the
//! spatial axes, if any; all are dense. Every kernel takes the instruction set to use ([`Isa`]), splits its work over
//! rayon's threads at one level, and gives the same bits whatever the number of threads. It panics if sizes do not match,
//! which is a bug of the caller.

pub mod activation;
pub mod attention;
mod bf16;
pub mod convolution;
mod dense;
mod memory;
pub mod norm;
pub mod optimizer;
pub mod resample;
mod split;
mod tile;
mod vector;

pub use dense::{column_sums, dense, dense_weight_gradient};
pub use memory::Memory;
pub use split::on_one_thread;
pub use vector::Isa;
