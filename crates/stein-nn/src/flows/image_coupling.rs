//! The coupling of images (Kingma & Dhariwal, arXiv:1807.03039, section 3.3): the first half of the channels stays, and a small convolutional
//! network makes of it what the second half is moved by,
//!
//! y_b = (x_b + t) · sigmoid(s + 2),  or additive, y_b = x_b + t,
//!
//! with (s, t) = K₃ relu(W₂ relu(K₁ x_a)). The last convolution starts at zero.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation::sigmoid, ops::PadMode},
};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Mapped, over_rows};
use crate::{
    init::Init,
    layers::{Conv, Linear},
    ops::{self, Activation, Dual},
};

/// Standard deviation of the first weights of its two first layers.
const STD: f64 = 0.05;

/// What a coupling of images does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum ImageCouplingKind {
    /// A shift and a scale.
    Affine,
    /// A shift alone, whose determinant is 1.
    Additive,
}

/// A convolution of 3 × 3 taps that starts at zero, sees ones beyond the border, and multiplies every channel by e³ˢ for a trained s.
#[derive(Module, Debug)]
pub struct ZeroConv {
    conv: Conv,
    scale: Param<Tensor<1>>,
}

impl ZeroConv {
    /// Of these channels.
    pub fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self { conv: Conv::zero(inputs, outputs, init), scale: init.constant(outputs, 0.0) }
    }

    /// Of images `[N, H, W, inputs]`: `[N, H, W, outputs]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let padded = x.pad([(1, 1), (1, 1), (0, 0)], PadMode::Constant(1.0));
        let y = ops::conv2d(vec![padded.into()], ops::Conv { pad: [0; 4], ..self.conv.plain() }).value;
        y * (self.scale.val() * 3.0).exp().reshape([1, 1, 1, -1])
    }
}

/// The coupling, of images `[N, H, W, channels]`.
#[derive(Module, Debug)]
pub struct ImageCoupling {
    first: Conv,
    second: Linear,
    last: ZeroConv,
    affine: bool,
}

impl ImageCoupling {
    /// Of an even number of channels, with `hidden` ones within its network.
    pub fn new(channels: usize, hidden: usize, kind: ImageCouplingKind, init: &mut Init) -> Self {
        let affine = kind == ImageCouplingKind::Affine;
        let outputs = if affine { channels } else { channels / 2 };
        Self {
            first: Conv::scaled([3, 3], channels / 2, hidden, STD, init),
            second: Linear::scaled(hidden, hidden, STD, init),
            last: ZeroConv::new(hidden, outputs, init),
            affine,
        }
    }

    /// What stays, what moves, the shift and the scale.
    fn parts(&self, x: Tensor<4>) -> [Tensor<4>; 4] {
        let [stays, goes] = halves(x);
        let relu = |h: Dual<4>| ops::activate(h, Activation::Relu);
        let hidden = relu(self.second.forward(relu(self.first.forward(stays.clone().into()))));
        let out = self.last.forward(hidden.value);
        let [scale, shift] = if self.affine {
            let [scale, shift] = halves(out);
            [sigmoid(scale + 2.0), shift]
        } else {
            [out.ones_like(), out]
        };
        [stays, goes, shift, scale]
    }

    /// y of `x`.
    pub fn forward(&self, x: Tensor<4>) -> Mapped<4> {
        let [stays, goes, shift, scale] = self.parts(x);
        (Tensor::cat(vec![stays, (goes + shift) * scale.clone()], 3), log_det(scale))
    }

    /// x of `y`.
    pub fn inverse(&self, y: Tensor<4>) -> Mapped<4> {
        let [stays, goes, shift, scale] = self.parts(y);
        (Tensor::cat(vec![stays, goes / scale.clone() - shift], 3), -log_det(scale))
    }
}

fn log_det(scale: Tensor<4>) -> Tensor<1> {
    let count = scale.dims()[0] as i32;
    over_rows(scale.log().reshape([count, -1]))
}

/// The two halves of the channels.
pub(super) fn halves(x: Tensor<4>) -> [Tensor<4>; 2] {
    let half = x.dims()[3] / 2;
    [x.clone().narrow(3, 0, half), x.narrow(3, half, half)]
}
