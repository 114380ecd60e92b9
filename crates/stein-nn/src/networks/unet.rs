//! A residual U-Net for images (Ho et al., arXiv:2006.11239, on Ronneberger et al., arXiv:1505.04597).
//!
//! Level ℓ works on images of H/2^ℓ × W/2^ℓ positions and `channels` · `multipliers`\[ℓ\] channels. Going down, each level
//! is `blocks` residual blocks and a 3 × 3 convolution of stride 2; then block, attention, block in the middle; going
//! up, each level is `blocks` + 1 residual blocks, each fed the latest unused output of the way down besides its own
//! input, then nearest-neighbor upsampling and a 3 × 3 convolution. With e the silu of the embedding of noise and
//! class:
//!
//! block(h) = S h + K₂ drop(silu(GN(K₁ silu(GN h) + W_e e))),
//! attention(h) = h + W_o softmax(q kᵀ/√d) v,  q, k, v = W_q GN h, W_k GN h, W_v GN h
//!
//! S is the identity, or a linear map where the number of channels changes. K₂, W_o and the last convolution start at
//! zero, so a fresh network is the zero function. Activations are channels-last, `[N, H, W, C]`, throughout.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Error, Network, Result, ensure};
use stein_base::Explain;

use super::{
    Takes, check_width,
    units::{Norms, Pass, Unit, Units, check_dropout, check_halvings, check_multipliers, doubled, halved, head},
    walk::{At, Walk},
};
use crate::{
    embedding::{Embedding, EmbeddingConfig, embedded},
    init::Init,
    layers::{BlockForm, Conv, Dropout, GroupNorm},
    ops::{self, Dual},
    trace,
};

/// The size and form of a U-Net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct UnetConfig {
    /// Channels at the first level for multiplier 1; even, default 64. The embedding is four times as wide.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 2]`. Height and width of the images have to
    /// be divisible by 2^(levels − 1).
    pub multipliers: Vec<usize>,
    /// Residual blocks per level on the way down; at least 1, default 2.
    pub blocks: usize,
    /// Heights of images to attend at: each gives attention after every block of the first level whose images are not
    /// higher. For images of height 32 or 28, 16 means the second level. Default none; the middle always attends.
    pub attention: Vec<usize>,
    /// Attention heads, a divisor of the channels wherever there is attention; default 1.
    pub heads: usize,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.
    pub dropout: f64,
    /// Groups of every group normalization, a divisor of the channels wherever one stands; default none: the largest
    /// divisor of the channels that is at most a quarter of them and 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// What group normalizations add to the variance; positive and at most 1, default 1e-5.
    pub epsilon: f64,
    /// Whether halving an image pads it below and right only, as DDPM's code does, not all around; default false.
    pub pad_after: bool,
    /// The features of the noise number; default `fourier` of scale 1.
    pub embedding: EmbeddingConfig,
    /// Whether it takes a second noise level, whose embedding is added to that of the first: for flow maps from a level to a
    /// level; default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_level: bool,
}

impl Default for UnetConfig {
    fn default() -> Self {
        Self {
            channels: 64,
            multipliers: vec![1, 2, 2],
            blocks: 2,
            attention: Vec::new(),
            heads: 1,
            dropout: 0.0,
            groups: None,
            epsilon: 1e-5,
            pad_after: false,
            embedding: EmbeddingConfig::default(),
            second_level: false,
        }
    }
}

impl UnetConfig {
    /// The network for images of this shape, `[H, W, C]`, and a number of classes, 0 for none.
    ///
    /// # Errors
    /// When the config is not one of a network, or not one for that shape.
    ///
    /// ```
    /// use stein_nn::{UnetConfig, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// let config = UnetConfig { channels: 8, multipliers: vec![1, 2], ..UnetConfig::default() };
    /// config.build(&[28, 28, 1], 10, &mut Init::new(1, &device))?;
    /// assert!(config.build(&[27, 28, 1], 10, &mut Init::new(1, &device)).is_err());
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Unet> {
        let &[height, width, depth] = shape else {
            return Err(Error::new(format!(
                "a U-Net works on images, not on samples of shape {shape:?}: give [height, width, channels], or use \
                 kind = \"unet1d\" for series and \"mlp\" for rows"
            )));
        };
        self.check()?;
        check_halvings([height, width], self.walk().halvings())?;
        self.network([height, width, depth], [3, 3], classes, init)
    }

    fn walk(&self) -> Walk {
        Walk { levels: self.multipliers.len(), blocks: self.blocks }
    }

    /// Fails unless the config is one of a network for some shape.
    pub(super) fn check(&self) -> Result<()> {
        let Self { channels, blocks, .. } = *self;
        ensure!(
            channels > 0 && channels.is_multiple_of(2),
            "network.channels is {channels}: give a positive even number, such as 64"
        );
        check_multipliers(&self.multipliers)?;
        ensure!(blocks > 0, "network.blocks is 0: give the number of residual blocks per level, such as 2");
        check_dropout(self.dropout)
    }

    /// The network of a config that was [checked](Self::check), for images of any size, with convolutions of these taps.
    pub(super) fn network(
        &self,
        [height, width, depth]: [usize; 3],
        kernel: [usize; 2],
        classes: usize,
        init: &mut Init,
    ) -> Result<Unet> {
        let Self { channels, heads, .. } = *self;
        let (walk, wide) = (self.walk(), 4 * channels);
        let attends = self.attends([height, width], kernel)?;
        let form = BlockForm { kernel, embedding: Some(wide), ..BlockForm::default() };
        let units = Units { form, norms: Norms { groups: self.groups, epsilon: self.epsilon } };
        let mut embedding = |classes| Embedding::new(&self.embedding, channels, wide, classes, init);
        let (embedding, second_level) = (embedding(classes)?, self.second_level.then(|| embedding(0)).transpose()?);
        let input = Conv::of_size(kernel, depth, channels, init);
        let [mut down, mut up] = [walk.stages::<Stage>(), walk.stages()];
        let mut middle = Vec::new();
        let last = walk.all(channels, |at, parts| {
            init.at_level(at.level(walk));
            let inputs = parts.iter().sum();
            let (to, outputs, attends) = match at {
                At::Halve { level } => {
                    down[level].resample = Some(Conv::of_size(kernel, inputs, inputs, init));
                    return Ok(inputs);
                }
                At::Double { stage } => {
                    up[stage].resample = Some(Conv::of_size(kernel, parts[0], parts[0], init));
                    return Ok(parts[0]);
                }
                At::Down { level, .. } => (&mut down[level].units, channels * self.multipliers[level], attends[level]),
                At::Up { stage, level, .. } => {
                    (&mut up[stage].units, channels * self.multipliers[level], attends[level])
                }
                At::Middle { unit } => (&mut middle, inputs, unit == 0),
            };
            to.push(units.unit([inputs, outputs], attends.then_some(heads), init)?);
            Ok(outputs)
        })?;
        Ok(Unet {
            embedding,
            second_level,
            input,
            down,
            middle,
            up,
            norm: units.norms.of(last, init)?,
            output: Conv::scaled(kernel, last, depth, 0.0, init),
            height,
            width,
            depth,
            dropout: self.dropout,
            pad_after: self.pad_after,
            walk,
        })
    }

    /// Whether the blocks of each level attend.
    fn attends(&self, [height, width]: [usize; 2], kernel: [usize; 2]) -> Result<Vec<bool>> {
        let (size, side, lowest) =
            if kernel[0] > 1 { (height, "height", "lowest images") } else { (width, "length", "shortest series") };
        let levels = self.multipliers.len();
        let mut attends = vec![false; levels];
        for &wanted in &self.attention {
            let level = (0..levels).find(|level| size.div_ceil(1 << level) <= wanted);
            ensure!(
                level.is_some(),
                "network.attention lists {side} {wanted}, but the {lowest} of this network have {side} {}: take it out or \
                 give more multipliers",
                size.div_ceil(1 << (levels - 1))
            );
            level.into_iter().for_each(|level| attends[level] = true);
        }
        Ok(attends)
    }
}

/// A residual U-Net of images or series, built by [`NetworkConfig`](crate::NetworkConfig).
#[derive(Module, Debug)]
pub struct Unet {
    embedding: Embedding,
    second_level: Option<Embedding>,
    input: Conv,
    down: Vec<Stage>,
    middle: Vec<Unit>,
    up: Vec<Stage>,
    norm: GroupNorm,
    output: Conv,
    height: usize,
    width: usize,
    depth: usize,
    dropout: f64,
    pad_after: bool,
    #[module(skip)]
    walk: Walk,
}

impl Network for Unet {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let Self { height, width, depth, .. } = *self;
        check_width(&x, height * width * depth)?;
        let rows = x.dims()[0];
        let takes =
            Takes { classes: self.embedding.classes(), second: self.second_level.is_some(), ..Takes::default() };
        takes.check(context, rows)?;
        let embedded = ops::silu(embedded(&self.embedding, self.second_level.as_ref(), context)?);
        let pass = Pass { embedded: Some(embedded), tokens: None, dropout: Dropout::new(self.dropout, context) };
        let h = self.input.forward(x.reshape([rows, height, width, depth]));
        let missing = "a stage has a change of size where there is a next one";
        let h = self.walk.all(h, |at, parts| {
            Ok(trace::within(
                || at.to_string(),
                || match at {
                    At::Down { level, unit } => self.down[level].units[unit].forward(parts, &pass),
                    At::Halve { level } => {
                        halved(parts, self.down[level].resample.as_ref().expect(missing), self.pad_after)
                    }
                    At::Middle { unit } => self.middle[unit].forward(parts, &pass),
                    At::Up { stage, unit, .. } => self.up[stage].units[unit].forward(parts, &pass),
                    At::Double { stage } => doubled(parts, self.up[stage].resample.as_ref().expect(missing)),
                },
            ))
        })?;
        Ok(head(h, &self.norm, &self.output, None).reshape([rows, height * width * depth]))
    }
}

/// The blocks of one level, and the convolution to the next.
#[derive(Module, Debug, Default)]
struct Stage {
    units: Vec<Unit>,
    resample: Option<Conv>,
}
