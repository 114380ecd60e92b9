//! The unconditional U-Net of the `diffusers` library, `UNet2DModel`: that of DDPM (Ho et al., arXiv:2006.11239), or
//! with filters that of NCSN++ (Song et al., arXiv:2011.13456).
//!
//! Level ℓ works on images of H/2^ℓ × W/2^ℓ positions and `channels`\[ℓ\] channels. Going down, each level is `blocks`
//! residual blocks, with attention after each where `attention` lists the level, and a change of size; then block,
//! attention, block in the middle; going up, each level is `blocks` + 1 blocks, each fed the latest unused output of
//! the way down besides its own input, and a change of size.
//!
//! Without `filters` sizes change by 3 × 3 convolutions. With `filters` they change inside residual blocks by the
//! filter \[1, 3, 3, 1\], sums are divided by √2, and the image goes along at every size: a linear map of it joins the
//! activations going down, and the output is the sum of an image from every level going up.
//!
//! With positional frequencies the noise number is a step. With `fourier` frequencies it is a noise level σ: the
//! embedding is of ln σ, with sines first, and the output is divided by σ.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use stein::{Context, Result};
use stein_base::Explain;

use super::{
    Takes,
    images::image_network,
    unet_2d_blocks::{Body, BodyPlan, Mixing},
    units::{Norms, check_halvings},
};
use crate::{embedding::EmbeddingConfig, init::Init, ops::Dual};

/// The size and form of a `UNet2DModel`; the default is the network of DDPM for CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Unet2dConfig {
    /// Channels of an image; at least 1, default 3.
    pub inputs: usize,
    /// Channels of the output; at least 1, default 3.
    pub outputs: usize,
    /// Classes the network knows; default 0, for none.
    pub classes: usize,
    /// Channels of every level, the first even; default `[128, 256, 256, 256]`. The embedding is four times as wide as
    /// the first. Height and width of the images have to be divisible by 2^(levels − 1).
    pub channels: Vec<usize>,
    /// Residual blocks per level on the way down; at least 1, default 2.
    pub blocks: usize,
    /// Levels that attend, counted from 0; default `[1]`. The middle always attends.
    pub attention: Vec<usize>,
    /// Levels that attend on the way up, where they are others; default none: those of `attention`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_up: Option<Vec<usize>>,
    /// Channels of an attention head, a divisor of the channels wherever there is attention; default none: one head.
    pub head_channels: Option<usize>,
    /// Groups of group normalizations, a divisor of the channels wherever one stands; default none: the largest divisor of
    /// the channels that is at most a quarter of them and 32. With `filters` it is for the middle and the output, the levels having as
    /// many as for none.
    pub groups: Option<usize>,
    /// What group normalizations add to the variance; positive, default 1e-6.
    pub epsilon: f64,
    /// Divides the sums in the middle; positive, default 1. NCSN++ has √2.
    pub middle_rescale: f64,
    /// Whether sizes change by filters and the image goes along, as in NCSN++; default false.
    pub filters: bool,
    /// Whether a convolution that halves pads below and right only, not all around; default true.
    pub pad_after: bool,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.
    pub dropout: f64,
    /// The features of the noise number; default `positional` with `shift` 1 and `sine_first`. With `fourier` the scale
    /// is of the frequencies f as the weights keep them, for sines and cosines of 2π f ln σ; NCSN++ has 16.
    pub embedding: EmbeddingConfig,
    /// Whether images in \[0, 1\] are mapped to \[−1, 1\] first; default false.
    pub centers: bool,
}

impl Default for Unet2dConfig {
    fn default() -> Self {
        Self {
            inputs: 3,
            outputs: 3,
            classes: 0,
            channels: vec![128, 256, 256, 256],
            blocks: 2,
            attention: vec![1],
            attention_up: None,
            head_channels: None,
            groups: None,
            epsilon: 1e-6,
            middle_rescale: 1.0,
            filters: false,
            pad_after: true,
            dropout: 0.0,
            embedding: EmbeddingConfig::Positional { max_period: 1e4, shift: 1, sine_first: true },
            centers: false,
        }
    }
}

impl Unet2dConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<Unet2d> {
        let first = self.channels.first().copied().unwrap_or(0);
        let levels = matches!(self.embedding, EmbeddingConfig::Fourier { .. });
        let norms = Norms { groups: self.groups, epsilon: self.epsilon };
        let plan = BodyPlan {
            inputs: self.inputs,
            outputs: self.outputs,
            classes: self.classes,
            channels: &self.channels,
            blocks: self.blocks,
            attention: &self.attention,
            attention_up: self.attention_up.as_deref(),
            mixing: Mixing::Own { head: self.head_channels },
            norms,
            attention_norms: norms,
            middle_rescale: self.middle_rescale,
            modulate: false,
            filters: self.filters,
            pad_after: self.pad_after,
            dropout: self.dropout,
            embedding: &self.embedding,
            centers: self.centers,
            features: if levels { 2 * first } else { first },
        };
        Ok(Unet2d { body: plan.build(init)?, levels })
    }
}

/// The network of a [`Unet2dConfig`].
#[derive(Module, Debug)]
pub struct Unet2d {
    body: Body,
    /// Whether noise numbers are levels σ.
    levels: bool,
}

impl Unet2d {
    /// The output `[N, H, W, outputs]` for images that have, with those of the condition beside them, `inputs` channels; the noise
    /// number is a step, or a noise level.
    ///
    /// # Errors
    /// When the images or the context do not fit the network.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        let x =
            Takes { classes: self.body.embedding.classes(), ..Takes::default() }.input(x, context, self.body.inputs)?;
        let [_, height, width, _] = x.dims();
        check_halvings([height, width], self.body.walk.halvings())?;
        let noise = context.noise.clone();
        if !self.levels {
            return self.body.forward(x, noise, context);
        }
        let logarithm = noise.clone().map(Tensor::log, Tensor::recip);
        let y = self.body.forward(x, logarithm, context)?;
        let rows = noise.dims()[0];
        let inverse = noise.map(Tensor::recip, |x| -(x.clone() * x).recip());
        Ok(y * inverse.reshape([rows, 1, 1, 1]))
    }
}

image_network!(Unet2d, Unet2dConfig { inputs, outputs, classes });
