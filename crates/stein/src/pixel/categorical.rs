//! A probability of every level: P(k) = softmax(l)_k for as many logits of each channel as there are levels.

use burn::tensor::{Tensor, activation};

use crate::objective::Pixels;

/// Σ ln softmax(l)_k over channels, k being the level next to x: of `x` `[n, channels]` and logits `[n, channels · levels]`, those of a
/// channel next to each other, `[n, 1]`.
pub(super) fn log_probability(x: Tensor<2>, logits: Tensor<2>, pixels: &Pixels) -> Tensor<2> {
    let [n, channels] = x.dims();
    let level = pixels.level(x).int().reshape([n, channels, 1]);
    let logits = logits.reshape([n, channels, pixels.levels as usize]);
    activation::log_softmax(logits, 2).gather(2, level).sum_dim(1).reshape([n, 1])
}

/// The first level whose distribution function is above u: `[n, channels]` of logits `[n, channels · levels]` and uniform numbers
/// `[n, channels]`.
pub(super) fn draw(logits: Tensor<2>, uniforms: Tensor<2>, pixels: &Pixels) -> Tensor<2> {
    let ([n, channels], levels) = (uniforms.dims(), pixels.levels as usize);
    let passed = activation::softmax(logits.reshape([n, channels, levels]), 2).cumsum(2);
    // The last of all levels is what is left, whatever the sum rounds to.
    let passed = passed.narrow(2, 0, levels - 1).lower_equal(uniforms.clone().reshape([n, channels, 1]));
    let zero = Tensor::zeros(passed.dims(), (&uniforms.device(), uniforms.dtype()));
    let level: Tensor<3> = zero.mask_fill(passed, 1.0);
    pixels.value(level.sum_dim(2).reshape([n, channels]))
}
