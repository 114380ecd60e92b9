//! The discretized mixture of logistics (Salimans et al., arXiv:1701.05517, section 2.1 and 2.2).
//!
//! > P(x) = Σ_k π_k Π_c \[σ((x_c + h − μ_ck)/s_ck) − σ((x_c − h − μ_ck)/s_ck)\] ,  s ≥ e⁻⁷ ,
//!
//! with half a bin h, where the lowest level takes all that is below it and the highest all that is above (equation 2). Of three channels the
//! means are μ_2 + α x_1 and μ_3 + β x_1 + γ x_2 (equation 3), α, β and γ being hyperbolic tangents. With two levels it is a mixture of
//! Bernoulli laws.
//!
//! Where a component's probability of a bin is 10⁻⁵ or less, it is taken as the density in the middle times the width of the bin, whose logarithm
//! keeps a gradient; so probabilities sum to 1 but for about 10⁻⁵ a bin.

use burn::tensor::{
    Tensor,
    activation::{log_sigmoid, log_softmax, sigmoid, softmax},
};

use crate::objective::Pixels;

/// Below this ln s is taken as it, without a gradient.
const LEAST_LOG_SCALE: f64 = -7.0;
/// Up to this a probability is taken as the density times the width of the bin.
const SMALL: f64 = 1e-5;
/// Keeps the gradient of ln P finite where that is not looked at.
const LEAST: f64 = 1e-12;

/// The mixtures of n pixels, of K components and C channels, 1 or 3.
#[derive(Debug, Clone)]
pub struct LogisticMixture {
    /// ln π + constant, `[n, K]`.
    logits: Tensor<2>,
    /// μ, `[n, C, K]`.
    means: Tensor<3>,
    /// ln s, of the same shape.
    log_scales: Tensor<3>,
    /// α, β and γ, `[n, 3, K]`; none of a single channel.
    coefficients: Option<Tensor<3>>,
}

impl LogisticMixture {
    /// How many numbers a component has: its logit, two for each channel, and three coefficients where there are three.
    pub fn numbers_per_component(channels: usize) -> usize {
        1 + channels * parts(channels)
    }

    /// Of numbers `[n, K · numbers_per_component]` as published: the logits, then for each channel the means, the logarithms of the scales,
    /// and, of three channels, one of the coefficients before their tanh, in the order α, β, γ; K of each.
    ///
    /// # Panics
    /// If there are neither 1 nor 3 channels, or their width is no multiple of what a component has.
    pub fn of(numbers: Tensor<2>, channels: usize) -> Self {
        assert!(channels == 1 || channels == 3, "a logistic mixture is of 1 or 3 channels, not of {channels}");
        let [n, width] = numbers.dims();
        let own = Self::numbers_per_component(channels);
        assert!(width.is_multiple_of(own), "{width} numbers are no multiple of the {own} of a component");
        let k = width / own;
        let logits = numbers.clone().narrow(1, 0, k);
        let rest = numbers.narrow(1, k, width - k).reshape([n, channels, parts(channels) * k]);
        let part = |part: usize| rest.clone().narrow(2, part * k, k);
        let coefficients = (channels == 3).then(|| part(2).tanh());
        Self { logits, means: part(0), log_scales: part(1).clamp_min(LEAST_LOG_SCALE), coefficients }
    }

    /// Σ π μ of pixels of one channel, `[n, 1]`: the mean before the law is cut into bins.
    pub fn mean(&self) -> Tensor<2> {
        let [n, _, k] = self.means.dims();
        (softmax(self.logits.clone(), 1) * self.means.clone().reshape([n, k])).sum_dim(1)
    }

    /// ln P of pixels `x` `[n, C]`: `[n, 1]`.
    pub fn log_probability(&self, x: Tensor<2>, pixels: &Pixels) -> Tensor<2> {
        let Pixels { low, high, .. } = *pixels;
        let half = pixels.half_bin();
        let ([n, channels], [_, _, k]) = (x.dims(), self.means.dims());
        let x = x.reshape([n, channels, 1]).expand([n, channels, k]);
        let mut centered = x.clone() - self.means.clone();
        if let Some(coefficients) = &self.coefficients {
            let [first, second] = [0, 1].map(|channel| x.clone().narrow(1, channel, 1));
            let [alpha, beta, gamma] = [0, 1, 2].map(|part| coefficients.clone().narrow(1, part, 1));
            let moved = vec![first.zeros_like(), alpha * first.clone(), beta * first + gamma * second];
            centered = centered - Tensor::cat(moved, 1);
        }
        let narrow = self.log_scales.clone().neg().exp();
        let upper = narrow.clone() * centered.clone().add_scalar(half);
        let lower = narrow.clone() * centered.clone().sub_scalar(half);
        let middle = narrow * centered;
        let inside = sigmoid(upper.clone()) - sigmoid(lower.clone());
        let density = log_sigmoid(middle.clone()) + log_sigmoid(-middle) - self.log_scales.clone();
        let small = inside.clone().lower_equal_elem(SMALL);
        let each = inside.clamp_min(LEAST).log().mask_where(small, density.add_scalar((2.0 * half).ln()));
        let each = each.mask_where(x.clone().greater_elem(high - half), log_sigmoid(-lower));
        let each = each.mask_where(x.lower_elem(low + half), log_sigmoid(upper));
        let joint = each.sum_dim(1).reshape([n, k]) + log_softmax(self.logits.clone(), 1);
        let largest = joint.clone().detach().max_dim(1);
        (joint - largest.clone()).exp().sum_dim(1).log() + largest
    }

    /// Pixels `[n, C]` of uniform numbers in \[0, 1\] `[n, K + C]`: the component is argmax(logit − ln(−ln u)) over the first K, and a channel
    /// μ + s (ln u − ln(1 − u)), kept in the range of the levels. `rounded` takes the level next to it before it moves the means of the
    /// following channels, which makes the sample one of the distribution that is learned; the published code does not round.
    pub fn draw(&self, uniforms: Tensor<2>, pixels: &Pixels, rounded: bool) -> Tensor<2> {
        let [n, channels, k] = self.means.dims();
        let gumbel = uniforms.clone().narrow(1, 0, k).log().neg().log().neg();
        let chosen = (self.logits.clone() + gumbel).argmax(1).reshape([n, 1, 1]);
        let pick = |of: &Tensor<3>| {
            let parts = of.dims()[1];
            of.clone().gather(2, chosen.clone().expand([n, parts, 1])).reshape([n, parts])
        };
        let u = uniforms.narrow(1, k, channels);
        let x = pick(&self.means) + pick(&self.log_scales).exp() * (u.clone().log() - u.neg().add_scalar(1.0).log());
        let settled = |x: Tensor<2>| {
            if rounded { pixels.value(pixels.level(x)) } else { x.clamp(pixels.low, pixels.high) }
        };
        let Some(coefficients) = &self.coefficients else { return settled(x) };
        let [first, second, third] = [0, 1, 2].map(|channel| x.clone().narrow(1, channel, 1));
        let coefficients = pick(coefficients);
        let [alpha, beta, gamma] = [0, 1, 2].map(|part| coefficients.clone().narrow(1, part, 1));
        let first = settled(first);
        let second = settled(second + alpha * first.clone());
        let third = settled(third + beta * first.clone() + gamma * second.clone());
        Tensor::cat(vec![first, second, third], 1)
    }
}

/// The parts of a channel's numbers: means, scales, and a coefficient where there are three channels.
fn parts(channels: usize) -> usize {
    if channels == 3 { 3 } else { 2 }
}
