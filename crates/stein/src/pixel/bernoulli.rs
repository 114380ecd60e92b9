//! Two levels: P(upper) = sigmoid(l) for one logit l of each channel.

use burn::tensor::{Tensor, activation};

use crate::objective::Pixels;

/// b ln sigmoid(l) + (1 − b) ln sigmoid(−l), summed over channels: of `x` `[n, channels]` and logits `[n, channels]`, `[n, 1]`. b is 0 at the
/// lower level and 1 at the upper.
pub(super) fn log_probability(x: Tensor<2>, logits: Tensor<2>, pixels: &Pixels) -> Tensor<2> {
    let upper = x.sub_scalar(pixels.low).div_scalar(pixels.high - pixels.low);
    let lower = upper.clone().neg().add_scalar(1.0);
    (upper * activation::log_sigmoid(logits.clone()) + lower * activation::log_sigmoid(-logits)).sum_dim(1)
}

/// The upper level where u < sigmoid(l): `[n, channels]` of as many logits and uniform numbers.
pub(super) fn draw(logits: Tensor<2>, uniforms: Tensor<2>, pixels: &Pixels) -> Tensor<2> {
    let low = logits.zeros_like().add_scalar(pixels.low);
    low.mask_fill(uniforms.lower(activation::sigmoid(logits)), pixels.high)
}
