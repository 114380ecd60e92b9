//! The U-Net of DDPM (Ho et al., arXiv:2006.11239) as Score-SDE has it (Song et al., arXiv:2011.13456).
//!
//! It is the network of [`ncsnpp`](super::ncsnpp) with blocks of DDPM, geometric frequencies, sums that are not
//! rescaled, no filter, images seen and given at the full size only, and 32 groups in every normalization:
//!
//! block(h) = S h + K₂ drop(silu(GN(K₁ silu(GN h) + W silu e))),
//! attention(h) = h + W_o softmax(q kᵀ/√C) v,  q, k, v = W_q GN h, W_k GN h, W_v GN h,
//! e = W₂ silu(W₁ \[sin(ω t), cos(ω t)\] + b₁) + b₂,  ω_k = 10⁴^(−k/(K − 1)), k = 0 … K−1
//!
//! Levels change by a convolution of stride 2 with zeros below and right, and by repetition of positions and a
//! convolution, or by the mean of 2 × 2 positions and by repetition alone. On the way up a level attends after its last block only, unlike in the code of DDPM.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Result};
use stein_base::Explain;

use super::{
    Nonlinearity,
    images::image_network,
    ncsnpp::{InputPyramid, Ncsnpp, NcsnppConfig, NoiseLevels, NoiseNumber, OutputPyramid, ResidualBlock},
};
use crate::{init::Init, ops::Dual};

/// Groups of every normalization.
const GROUPS: usize = 32;

/// The size of a DDPM. The default is the one of CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DdpmConfig {
    /// Width of the images `attention` speaks of; at least 2^(levels − 1), default 32.
    pub size: usize,
    /// Channels of the images, given and returned; at least 1, default 3.
    pub image_channels: usize,
    /// Channels at the first level for multiplier 1; a multiple of 32, default 128. The embedding is four times as
    /// wide.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 2, 2]`. Height and width of the images have
    /// to be divisible by 2^(levels − 1).
    pub multipliers: Vec<usize>,
    /// Residual blocks per level on the way down, one less than on the way up; from 0, default 2.
    pub blocks: usize,
    /// Widths of images to attend at: the levels that images of width `size` have one of these widths on. Default
    /// `[16]`; the middle always attends.
    pub attention: Vec<usize>,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.1.
    pub dropout: f64,
    /// Whether the blocks know the noise; default true.
    pub conditional: bool,
    /// Whether the output is divided by the σ of the label; default false.
    pub scale_by_sigma: bool,
    /// What σ a label stands for.
    pub levels: NoiseLevels,
    /// The activation: `silu` (default), `elu`, `relu` or `leaky_relu`.
    pub nonlinearity: Nonlinearity,
    /// Whether a convolution is part of a change of size; default true.
    pub resize_convolutions: bool,
    /// Whether images are given in \[−1, 1\] instead of \[0, 1\], from which the network maps them there; default true.
    pub centered: bool,
}

impl Default for DdpmConfig {
    fn default() -> Self {
        Self {
            size: 32,
            image_channels: 3,
            channels: 128,
            multipliers: vec![1, 2, 2, 2],
            blocks: 2,
            attention: vec![16],
            dropout: 0.1,
            conditional: true,
            scale_by_sigma: false,
            levels: NoiseLevels::default(),
            nonlinearity: Nonlinearity::Silu,
            resize_convolutions: true,
            centered: true,
        }
    }
}

impl DdpmConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<Ddpm> {
        Ok(Ddpm { network: self.general().build_with(Some(GROUPS), init)? })
    }

    /// All of it but the groups.
    pub(crate) fn general(&self) -> NcsnppConfig {
        let Self {
            size,
            image_channels,
            channels,
            ref multipliers,
            blocks,
            ref attention,
            dropout,
            conditional,
            scale_by_sigma,
            ref levels,
            nonlinearity,
            resize_convolutions,
            centered,
        } = *self;
        NcsnppConfig {
            size,
            image_channels,
            channels,
            multipliers: multipliers.clone(),
            blocks,
            attention: attention.clone(),
            dropout,
            noise: NoiseNumber::Positional,
            conditional,
            scale_by_sigma,
            levels: levels.clone(),
            nonlinearity,
            filter: Vec::new(),
            rescale: false,
            block: ResidualBlock::Ddpm,
            resize_convolutions,
            input: InputPyramid::None,
            output: OutputPyramid::None,
            centered,
            ..NcsnppConfig::default()
        }
    }
}

/// A DDPM, made by [`DdpmConfig`].
#[derive(Module, Debug)]
pub struct Ddpm {
    network: Ncsnpp,
}

impl Ddpm {
    /// The output for images `[N, H, W, C]`, in the range the config says, and labels `[N]`, of the same shape as the
    /// images.
    ///
    /// # Errors
    /// As [`Ncsnpp::images`].
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        self.network.images(x, context)
    }
}

image_network!(Ddpm, DdpmConfig { image_channels, image_channels });
