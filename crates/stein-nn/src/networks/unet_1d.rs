//! The U-Net of [`unet`](super::unet) along one axis, for series.
//!
//! A series of L positions is an image one position high, and all convolutions have 1 × 3 taps. Level ℓ works on ⌈L/2^ℓ⌉
//! positions: halving is a convolution of stride 2 with a zero on either side, and doubling repeats every position, cuts the
//! last one off where the longer series has an odd length, and convolves. So a series may have any length. Nothing
//! knows of positions themselves: away from its ends a series moved by a multiple of 2^(levels − 1) gives the output moved as
//! far.

use serde::{Deserialize, Serialize};
use stein::{Error, Result};
use stein_base::Explain;

use super::{Unet, UnetConfig};
use crate::{embedding::EmbeddingConfig, init::Init};

/// The size and form of a U-Net for series; what is named as in [`UnetConfig`] means the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Unet1dConfig {
    /// Channels at the first level for multiplier 1; even, default 64. The embedding is four times as wide.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 2]`.
    pub multipliers: Vec<usize>,
    /// Residual blocks per level on the way down; at least 1, default 2.
    pub blocks: usize,
    /// Lengths of series to attend at: each gives attention after every block of the first level whose series are not
    /// longer. Default none; the middle always attends.
    pub attention: Vec<usize>,
    /// Attention heads, a divisor of the channels wherever there is attention; default 1.
    pub heads: usize,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.
    pub dropout: f64,
    /// Groups of every group normalization, a divisor of the channels wherever one stands; default none: the largest
    /// divisor of the channels that is at most a quarter of them and 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// What group normalizations add to the variance; positive, default 1e-5.
    pub epsilon: f64,
    /// The features of the noise number; default `fourier` of scale 1.
    pub embedding: EmbeddingConfig,
    /// Whether it takes a second noise level, whose embedding is added to that of the first; default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_level: bool,
}

impl Default for Unet1dConfig {
    fn default() -> Self {
        let UnetConfig {
            channels,
            multipliers,
            blocks,
            attention,
            heads,
            dropout,
            groups,
            epsilon,
            embedding,
            second_level,
            ..
        } = UnetConfig::default();
        Self { channels, multipliers, blocks, attention, heads, dropout, groups, epsilon, embedding, second_level }
    }
}

impl Unet1dConfig {
    /// The network for series of this shape, `[L, C]`, and a number of classes, 0 for none.
    ///
    /// # Errors
    /// When the config is not one of a network, or the samples are no series.
    ///
    /// ```
    /// use stein_nn::{Unet1dConfig, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// let config = Unet1dConfig { channels: 8, multipliers: vec![1, 2], ..Unet1dConfig::default() };
    /// config.build(&[25, 3], 0, &mut Init::new(1, &device))?;
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Unet> {
        let &[length, depth] = shape else {
            return Err(Error::new(format!(
                "this network works on series, not on samples of shape {shape:?}: give [length, channels], or use kind = \
                 \"unet\" for images and \"mlp\" for rows"
            )));
        };
        let general = self.general();
        general.check()?;
        general.network([1, length, depth], [1, 3], classes, init)
    }

    /// The same network of images.
    fn general(&self) -> UnetConfig {
        UnetConfig {
            channels: self.channels,
            multipliers: self.multipliers.clone(),
            blocks: self.blocks,
            attention: self.attention.clone(),
            heads: self.heads,
            dropout: self.dropout,
            groups: self.groups,
            epsilon: self.epsilon,
            pad_after: false,
            embedding: self.embedding.clone(),
            second_level: self.second_level,
        }
    }
}
