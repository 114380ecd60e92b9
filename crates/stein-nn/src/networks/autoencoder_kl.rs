//! The variational autoencoder of latent diffusion (Rombach et al., arXiv:2112.10752; Kingma & Welling,
//! arXiv:1312.6114), the `AutoencoderKL` of the `diffusers` library.
//!
//! \[μ, λ\] = W_e E(x), with z ~ N(μ, diag σ²), σ = exp(½ clamp(λ, −30, 20)), and x ≈ D(W_d z).

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use stein::{Result, autoencoder::LOG_VARIANCE, ensure};

use super::autoencoder::{Decoder, Encoder, Levels, check_latents};
use crate::{init::Init, layers::Linear, ops::Dual};

/// The size and form of an `AutoencoderKL`; the default is that of Stable Diffusion 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderKlConfig {
    /// Channels of an image; at least 1, default 3.
    pub inputs: usize,
    /// Channels of a decoded image; at least 1, default 3.
    pub outputs: usize,
    /// Channels of latents; at least 1, default 4.
    pub latents: usize,
    /// Channels of every level; default `[128, 256, 512, 512]`. Latents are 2^(levels − 1) times smaller than images.
    pub channels: Vec<usize>,
    /// Residual blocks per level of the encoder; default 2, 0 only where all levels have the same channels. The decoder has one more.
    pub blocks: usize,
    /// Levels that attend, counted from 0; default none.
    pub attention: Vec<usize>,
    /// Whether the middle attends; default true.
    pub middle_attention: bool,
    /// Groups of every group normalization, a divisor of the channels wherever one stands; default 32.
    pub groups: usize,
    /// Whether a linear map follows the encoder; default true.
    pub map_moments: bool,
    /// Whether a linear map precedes the decoder; default true.
    pub map_latents: bool,
    /// What diffusion models multiply latents by, after the shift; default 0.18215. It is not applied here.
    pub scaling: f64,
    /// What diffusion models subtract from latents; default 0. It is not applied here.
    pub shift: f64,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            inputs: 3,
            outputs: 3,
            latents: 4,
            channels: vec![128, 256, 512, 512],
            blocks: 2,
            attention: Vec::new(),
            middle_attention: true,
            groups: 32,
            map_moments: true,
            map_latents: true,
            scaling: 0.18215,
            shift: 0.0,
        }
    }
}

impl AutoencoderKlConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<AutoencoderKl> {
        let Self { inputs, outputs, latents, .. } = *self;
        ensure!(self.scaling != 0.0, "scaling is 0: give the inverse of the deviation of latents, 1 for none");
        let levels = Levels {
            channels: &self.channels,
            blocks: self.blocks,
            attention: &self.attention,
            middle_attention: self.middle_attention,
            groups: self.groups,
        };
        Ok(AutoencoderKl {
            encoder: Encoder::new(&levels, inputs, 2 * latents, init)?,
            enter: self.map_moments.then(|| Linear::new(2 * latents, 2 * latents, init)),
            leave: self.map_latents.then(|| Linear::new(latents, latents, init)),
            decoder: Decoder::new(&levels, latents, outputs, init)?,
            latents,
        })
    }
}

/// The network of an [`AutoencoderKlConfig`].
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    encoder: Encoder,
    enter: Option<Linear>,
    leave: Option<Linear>,
    decoder: Decoder,
    latents: usize,
}

impl AutoencoderKl {
    /// Means and, after them along channels, logarithms of variances of the latents of images: `[N, H, W, inputs]` to
    /// `[N, h, w, 2 · latents]`.
    ///
    /// # Errors
    /// When the images have other channels or are too small.
    pub fn encode(&self, x: Dual<4>) -> Result<Dual<4>> {
        let h = self.encoder.forward(x)?;
        Ok(match &self.enter {
            Some(map) => map.forward(h),
            None => h,
        })
    }

    /// The mean and the standard deviation of what [`encode`](Self::encode) gave: `[N, h, w, latents]` each.
    pub fn mean_and_std(&self, moments: Dual<4>) -> (Dual<4>, Dual<4>) {
        let part = |from: usize| moments.clone().linear(|x| x.narrow(3, from, self.latents));
        let [least, most] = LOG_VARIANCE;
        let std = |x: Tensor<4>| (x.clamp(least, most) * 0.5).exp();
        // Where it is clamped it does not change.
        let slope = |x: Tensor<4>| {
            let clamped = x.clone().clamp(least, most).not_equal(x.clone());
            (std(x) * 0.5).mask_fill(clamped, 0.0)
        };
        (part(0), part(self.latents).map(std, slope))
    }

    /// Images of latents: `[N, h, w, latents]` to `[N, H, W, outputs]`.
    ///
    /// # Errors
    /// When the latents have other channels.
    pub fn decode(&self, z: Dual<4>) -> Result<Dual<4>> {
        Ok(self.decoder.last_layer(self.features(z)?))
    }

    /// What comes before the last layer of the decoder, of latents `[N, h, w, latents]`.
    ///
    /// # Errors
    /// When the latents have other channels.
    pub fn features(&self, z: Dual<4>) -> Result<Dual<4>> {
        check_latents(&z, self.latents)?;
        self.decoder.features(match &self.leave {
            Some(map) => map.forward(z),
            None => z,
        })
    }

    /// The decoder, for its last layer.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }
}
