//! An autoencoder whose latents are rows of a codebook (van den Oord et al., arXiv:1711.00937; Esser et al.,
//! arXiv:2012.09841), the `VQModel` of the `diffusers` library.
//!
//! z = W_e E(x), e = argmin over the rows of the codebook of ‖z − e‖², position by position, and x ≈ D(W_d e). The gradient
//! goes through the choice as if it were the identity.

use burn::{
    module::{Module, Param},
    tensor::{IndexingUpdateOp, Int, Tensor},
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
    /// Residual blocks per level of the encoder; default 2, 0 only where all levels have the same channels. The decoder has one more.
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

/// The rows of a codebook `[codes, width]` next to latents `[N, h, w, width]`; of equally near ones the first.
pub fn quantize(latents: Dual<4>, codes: Tensor<2>) -> Quantized {
    let ([count, width], [n, height, wide, _]) = (codes.dims(), latents.dims());
    let positions = n * height * wide;
    let fixed = codes.clone().detach();
    // ‖z − e‖² without ‖z‖², which is the same for all rows.
    let lengths = (fixed.clone() * fixed.clone()).sum_dim(1).reshape([1, count]);
    let products = latents.value.clone().detach().reshape([positions, width]).matmul(fixed.transpose());
    let indices = (lengths - products * 2.0).argmin(1).reshape([positions]);
    let rows = codes.select(0, indices.clone()).reshape([n, height, wide, width]);
    let value = latents.value.clone() + (rows.clone() - latents.value).detach();
    Quantized { values: Dual { value, tangent: latents.tangent }, rows, indices }
}

/// What moves a codebook without gradients (van den Oord et al., arXiv:1711.00937, appendix A.1): moving averages of how many latents
/// chose a row, N ← γ N + (1 − γ) n, and of their sum, m ← γ m + (1 − γ) Σ z, with the row e = m/N.
///
/// Both begin at 0, so that e is a weighted mean of latents from the first step on. A row that no latent has chosen for so long that N
/// has vanished stays where it is.
#[derive(Module, Debug)]
pub struct CodeAverages {
    counts: Param<Tensor<1>>,
    sums: Param<Tensor<1>>,
    decay: f64,
}

/// The least N with a mean.
const LEAST_COUNT: f64 = 1e-20;

impl CodeAverages {
    /// For a codebook of this many rows and this width; `decay` is γ, in \[0, 1).
    pub fn new(codes: usize, width: usize, decay: f64, init: &mut Init) -> Self {
        let [counts, sums] = [codes, codes.saturating_mul(width)].map(|count| {
            let zeros = init.normals(count, 0.0);
            init.frozen([count], zeros)
        });
        Self { counts, sums, decay }
    }

    /// N `[codes, 1]`, m `[codes, width]` and the codebook `[codes, width]` after latents `[N, h, w, width]` have chosen rows of it.
    pub fn moved(&self, latents: Tensor<4>, indices: Tensor<1, Int>, codes: Tensor<2>) -> [Tensor<2>; 3] {
        let [count, width] = codes.dims();
        let [latents, codes] = [latents.reshape([-1, width as i32]), codes].map(Tensor::detach);
        let sum = |of: Tensor<2>| {
            let width = of.dims()[1];
            let zeros = Tensor::zeros([count, width], (&of.device(), of.dtype()));
            zeros.select_assign(0, indices.clone(), of, IndexingUpdateOp::Add)
        };
        let mean = |old: Tensor<1>, new: Tensor<2>| old.reshape(new.dims()) * self.decay + new * (1.0 - self.decay);
        let counts = mean(self.counts.val(), sum(latents.clone().narrow(1, 0, 1).ones_like()));
        let sums = mean(self.sums.val(), sum(latents));
        let gone = counts.clone().lower_elem(LEAST_COUNT).expand([count, width]);
        let moved = (sums.clone() / counts.clone().clamp_min(LEAST_COUNT)).mask_where(gone, codes);
        [counts, sums, moved]
    }
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
        let [_, width] = codes.dims();
        check_latents(&latents, width)?;
        Ok(quantize(latents, codes))
    }

    /// Images of latents, quantized first: `[N, h, w, code_width]` to `[N, H, W, outputs]`.
    ///
    /// # Errors
    /// When the latents have other channels.
    pub fn decode(&self, latents: Dual<4>) -> Result<Dual<4>> {
        Ok(self.decoder.last_layer(self.features(self.quantize(latents)?.values)?))
    }

    /// What comes before the last layer of the decoder, of rows of the codebook `[N, h, w, code_width]`, which are not chosen anew.
    ///
    /// # Errors
    /// When they have another width.
    pub fn features(&self, values: Dual<4>) -> Result<Dual<4>> {
        check_latents(&values, self.codes.dims()[1])?;
        self.decoder.features(self.leave.forward(values))
    }

    /// The decoder, for its last layer.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The codebook, `[codes, code_width]`.
    pub fn codes(&self) -> Tensor<2> {
        self.codes.val()
    }
}
