//! An autoencoder whose latents are rows of a codebook (van den Oord et al., arXiv:1711.00937; Esser et al.,
//! arXiv:2012.09841), the `VQModel` of the `diffusers` library.
//!
//! z = W_e E(x), e = argmin over the rows of the codebook of ‖z − e‖², position by position, and x ≈ D(W_d e). The gradient
//! goes through the choice as if it were the identity.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor},
};
use serde::{Deserialize, Serialize};
use stein::{Result, ensure};

use super::autoencoder::{Decoder, Encoder, Levels, check_latents};
use crate::{init::Init, layers::Linear, ops::Dual};

/// The size and form of a `VQModel`; the default is that of latent diffusion with images four times smaller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqModelConfig {
    /// Channels of an image; at least 1, default 3.
    pub inputs: usize,
    /// Channels of a decoded image; at least 1, default 3.
    pub outputs: usize,
    /// Channels of the encoder's output and of the decoder's input; at least 1, default 3.
    pub latents: usize,
    /// Rows of the codebook; at least 1, default 8192.
    pub codes: usize,
    /// Width of a row of the codebook; at least 1, default none: that of `latents`.
    pub code_width: Option<usize>,
    /// Channels of every level; default `[128, 256, 512]`. Latents are 2^(levels − 1) times smaller than images.
    pub channels: Vec<usize>,
    /// Residual blocks per level of the encoder; at least 1, default 2. The decoder has one more.
    pub blocks: usize,
    /// Levels that attend, counted from 0; default none.
    pub attention: Vec<usize>,
    /// Whether the middle attends; default true.
    pub middle_attention: bool,
    /// Groups of every group normalization, a divisor of the channels wherever one stands; default 32.
    pub groups: usize,
    /// What diffusion models multiply latents by; default 0.18215. It is not applied here.
    pub scaling: f64,
}

impl Default for VqModelConfig {
    fn default() -> Self {
        Self {
            inputs: 3,
            outputs: 3,
            latents: 3,
            codes: 8192,
            code_width: None,
            channels: vec![128, 256, 512],
            blocks: 2,
            attention: Vec::new(),
            middle_attention: true,
            groups: 32,
            scaling: 0.18215,
        }
    }
}

impl VqModelConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<VqModel> {
        let Self { inputs, outputs, latents, codes, .. } = *self;
        let width = self.code_width.unwrap_or(latents);
        ensure!(
            codes > 0 && width > 0,
            "the codebook is {codes} x {width}: give it rows and a width, such as 8192 x 3"
        );
        ensure!(self.scaling != 0.0, "scaling is 0: give the inverse of the deviation of latents, 1 for none");
        let levels = Levels {
            channels: &self.channels,
            blocks: self.blocks,
            attention: &self.attention,
            middle_attention: self.middle_attention,
            groups: self.groups,
        };
        Ok(VqModel {
            encoder: Encoder::new(&levels, inputs, latents, init)?,
            enter: Linear::new(latents, width, init),
            // Of the deviation of the reference's uniform numbers below 1/codes.
            codes: init.normal([codes, width], 1.0 / (codes as f64 * 3f64.sqrt())),
            leave: Linear::new(width, latents, init),
            decoder: Decoder::new(&levels, latents, outputs, init)?,
        })
    }
}

/// The network of a [`VqModelConfig`].
#[derive(Module, Debug)]
pub struct VqModel {
    encoder: Encoder,
    enter: Linear,
    codes: Param<Tensor<2>>,
    leave: Linear,
    decoder: Decoder,
}

/// Latents and the rows of the codebook next to them.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The rows, with the gradient and the tangent of the latents: `[N, h, w, code_width]`.
    pub values: Dual<4>,
    /// The rows, with the gradient of the codebook; for the losses that draw them together.
    pub rows: Tensor<4>,
    /// Which rows: `[N · h · w]`.
    pub indices: Tensor<1, Int>,
}

impl VqModel {
    /// Latents of images, before quantization: `[N, H, W, inputs]` to `[N, h, w, code_width]`.
    ///
    /// # Errors
    /// When the images have other channels or are too small.
    pub fn encode(&self, x: Dual<4>) -> Result<Dual<4>> {
        Ok(self.enter.forward(self.encoder.forward(x)?))
    }

    /// The rows of the codebook next to latents `[N, h, w, code_width]`.
    ///
    /// # Errors
    /// When the latents have other channels.
    pub fn quantize(&self, latents: Dual<4>) -> Result<Quantized> {
        let codes = self.codes.val();
        let [count, width] = codes.dims();
        check_latents(&latents, width)?;
        let [n, height, wide, _] = latents.dims();
        let positions = n * height * wide;
        let fixed = codes.clone().detach();
        // ‖z − e‖² without ‖z‖², which is the same for all rows.
        let lengths = (fixed.clone() * fixed.clone()).sum_dim(1).reshape([1, count]);
        let products = latents.value.clone().detach().reshape([positions, width]).matmul(fixed.transpose());
        let indices = (lengths - products * 2.0).argmin(1).reshape([positions]);
        let rows = codes.select(0, indices.clone()).reshape([n, height, wide, width]);
        let value = latents.value.clone() + (rows.clone() - latents.value).detach();
        Ok(Quantized { values: Dual { value, tangent: latents.tangent }, rows, indices })
    }

    /// Images of latents, quantized first: `[N, h, w, code_width]` to `[N, H, W, outputs]`.
    ///
    /// # Errors
    /// When the latents have other channels.
    pub fn decode(&self, latents: Dual<4>) -> Result<Dual<4>> {
        self.decoder.forward(self.leave.forward(self.quantize(latents)?.values))
    }
}
