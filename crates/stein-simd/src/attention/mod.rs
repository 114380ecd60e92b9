//! Attention: softmax(scale · q kᵀ) v for every head, its gradients and its tangent, without the matrix of scores.
//!
//! Keys are taken a block at a time, with the largest score so far and the sum of exponentials kept beside the output, and
//! both are rescaled as the largest grows (M. Milakov, N. Gimelshein, arXiv:1805.02867; M. Rabe, C. Staats,
//! arXiv:2112.05682). The backward pass and the tangent compute the scores again from the logarithms of those sums (T. Dao
//! et al., *FlashAttention*, arXiv:2205.14135).

mod backward;
mod forward;
mod product;
mod shape;
mod tangent;

pub use backward::attention_backward;
pub use forward::attention;
pub use shape::AttentionShape;
pub use tangent::attention_tangent;
