//! The discriminator of pix2pix (Isola et al., arXiv:1611.07004, section 3.2.2), in the form latent diffusion trains autoencoders with:
//! convolutions of 4 × 4 taps that say of overlapping patches whether they look real.
//!
//! A convolution of stride 2 and leaky relu; n − 1 more of stride 2 and one of stride 1, each with twice the channels of the one before, up to
//! eight times the first, batch normalization and leaky relu; and one to a single logit. The slope below 0 is 0.2.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Network, Result, ensure};
use stein_base::Explain;

use super::{BuildNetwork, check_width, images::height_width_channels};
use crate::{
    init::Init,
    layers::{BatchNorm, Conv},
    ops::{self, Activation, Dual},
};

/// Taps down and across.
const TAPS: usize = 4;
/// Standard deviation of the initial weights, and of the factors of norms about 1.
const STD: f64 = 0.02;
/// Most times the channels double.
const DOUBLINGS: usize = 3;

/// The size of a [`PatchDiscriminator`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct PatchDiscriminatorConfig {
    /// Channels of the first layer, at least 1; default 64.
    pub channels: usize,
    /// Layers n of stride 2, at least 1; default 3, whose logits are of patches of 70 × 70.
    pub layers: usize,
}

impl Default for PatchDiscriminatorConfig {
    fn default() -> Self {
        Self { channels: 64, layers: 3 }
    }
}

impl BuildNetwork for PatchDiscriminatorConfig {
    type Net = PatchDiscriminator;

    fn build(&self, shape: &[usize], _: usize, init: &mut Init) -> Result<PatchDiscriminator> {
        let Self { channels, layers } = *self;
        let shape = height_width_channels(shape)?;
        ensure!(
            channels > 0 && layers > 0,
            "a discriminator of {layers} layers of {channels} channels is none: give 1 or more"
        );
        let side = shape[0].min(shape[1]);
        // Two more layers take a place each.
        let least = 3usize.checked_shl(layers as u32).filter(|least| least >> layers == 3).unwrap_or(usize::MAX);
        ensure!(
            side >= least,
            "pictures of {} x {} are too small for a discriminator of {layers} layers, which takes {least} x {least}: give fewer layers",
            shape[0],
            shape[1]
        );
        let conv = |inputs: usize, outputs: usize, init: &mut Init| Conv::scaled([TAPS; 2], inputs, outputs, STD, init);
        let first = conv(shape[2], channels, init);
        let mut inputs = channels;
        let mut inner = Vec::new();
        for layer in 1..=layers {
            init.at_level((layer + 1).min(layers));
            let outputs = channels << layer.min(DOUBLINGS);
            let conv = conv(inputs, outputs, init).without_bias();
            inner.push(Inner { conv, norm: BatchNorm::new(outputs, STD, init) });
            inputs = outputs;
        }
        Ok(PatchDiscriminator { first, inner, last: conv(inputs, 1, init), shape })
    }
}

/// The network of a [`PatchDiscriminatorConfig`]. Its output for rows that are pictures is a row of logits, one for each patch.
#[derive(Module, Debug)]
pub struct PatchDiscriminator {
    first: Conv,
    inner: Vec<Inner>,
    last: Conv,
    shape: [usize; 3],
}

/// A convolution, batch normalization and leaky relu.
#[derive(Module, Debug)]
struct Inner {
    conv: Conv,
    norm: BatchNorm,
}

impl Network for PatchDiscriminator {
    fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
        let [height, width, channels] = self.shape;
        check_width(&x, height * width * channels)?;
        let rows = x.dims()[0];
        let padded = |conv: &Conv, stride: usize, h: Dual<4>| {
            ops::conv2d(vec![h], ops::Conv { stride, pad: [1; 4], ..conv.plain() })
        };
        let h = padded(&self.first, 2, x.reshape([rows, height, width, channels]));
        let mut h = ops::activate(h, Activation::LeakyRelu);
        for (i, Inner { conv, norm }) in self.inner.iter().enumerate() {
            let stride = if i + 1 < self.inner.len() { 2 } else { 1 };
            h = norm.forward(padded(conv, stride, h), Activation::LeakyRelu);
        }
        let logits = padded(&self.last, 1, h);
        let [_, down, across, _] = logits.dims();
        Ok(logits.reshape([rows, down * across]))
    }
}
