//! A residual U-Net for images (Ho et al., arXiv:2006.11239, on Ronneberger et al., arXiv:1505.04597).
//!
//! Level ℓ works on images of H/2^ℓ × W/2^ℓ places and `channels` · `multipliers`\[ℓ\] channels. Going down, each level
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
use stein::{Context, Network, Result, ensure};

use super::{Takes, check_width};
use crate::{
    embedding::{Embedding, EmbeddingConfig, embedded},
    init::Init,
    layers::{Attention, BlockForm, Conv, Dropout, GroupNorm, ResBlock},
    ops::{self, Dual},
};

/// The size and form of a U-Net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// higher. For images of 32 or 28 places, 16 means the second level. Default none; the middle always attends.
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
    pub fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Unet> {
        let &[height, width, depth] = shape else {
            return Err(stein::Error::new(format!(
                "a U-Net works on images, not on samples of shape {shape:?}: give [height, width, channels] or use \
                 kind = \"mlp\""
            )));
        };
        let Self { channels, blocks, heads, dropout, .. } = *self;
        ensure!(
            channels > 0 && channels.is_multiple_of(2),
            "network.channels is {channels}: give a positive even number, such as 64"
        );
        ensure!(
            !self.multipliers.is_empty() && self.multipliers.iter().all(|m| *m > 0),
            "network.multipliers is {:?}: give a positive number for every level, such as [1, 2, 2]",
            self.multipliers
        );
        ensure!(blocks > 0, "network.blocks is 0: give the number of residual blocks per level, such as 2");
        ensure!((0.0..1.0).contains(&dropout), "network.dropout is {dropout}: give a probability from 0 to below 1");
        ensure!(self.epsilon > 0.0, "network.epsilon is {}: give a small positive number, such as 1e-5", self.epsilon);
        let levels = self.multipliers.len();
        let divisor = 1 << (levels - 1);
        ensure!(
            height % divisor == 0 && width % divisor == 0,
            "images of {height} x {width} cannot be halved {} times: with {levels} multipliers height and width have \
             to be divisible by {divisor}, so pad the images or give fewer multipliers",
            levels - 1
        );
        let mut attends = vec![false; levels];
        for &wanted in &self.attention {
            let level = (0..levels).find(|level| height >> level <= wanted);
            let Some(level) = level else {
                return Err(stein::Error::new(format!(
                    "network.attention lists height {wanted}, but the lowest images of this network have height {}: \
                     take it out or give more multipliers",
                    height / divisor
                )));
            };
            attends[level] = true;
        }
        let sizes: Vec<usize> = self.multipliers.iter().map(|m| channels * m).collect();
        let lowest = sizes[levels - 1];
        for size in (0..levels).filter(|level| attends[*level]).map(|level| sizes[level]).chain([lowest]) {
            ensure!(
                heads > 0 && size.is_multiple_of(heads),
                "network.heads is {heads}, which does not divide the {size} channels attention works on"
            );
        }

        let norms = Norms { groups: self.groups, epsilon: self.epsilon };
        let wide = 4 * channels;
        let embedding = Embedding::new(&self.embedding, channels, wide, classes, init)?;
        let second_level =
            if self.second_level { Some(Embedding::new(&self.embedding, channels, wide, 0, init)?) } else { None };
        let input = Conv::new(depth, channels, init);
        let mut now = channels;
        let mut skips = vec![channels];
        let mut down = Vec::new();
        for level in 0..levels {
            let mut units = Vec::new();
            for _ in 0..blocks {
                units.push(Unit::new(now, sizes[level], wide, attends[level].then_some(heads), &norms, init)?);
                now = sizes[level];
                skips.push(now);
            }
            let resample = (level + 1 < levels).then(|| Conv::new(now, now, init));
            skips.extend(resample.is_some().then_some(now));
            down.push(Stage { units, resample });
        }
        let middle =
            [Unit::new(now, now, wide, Some(heads), &norms, init)?, Unit::new(now, now, wide, None, &norms, init)?];
        let mut up = Vec::new();
        for level in (0..levels).rev() {
            let mut units = Vec::new();
            for _ in 0..=blocks {
                let skip = skips.pop().expect("the way up has as many blocks as the way down left skips");
                units.push(Unit::new(now + skip, sizes[level], wide, attends[level].then_some(heads), &norms, init)?);
                now = sizes[level];
            }
            up.push(Stage { units, resample: (level > 0).then(|| Conv::new(now, now, init)) });
        }
        Ok(Unet {
            embedding,
            second_level,
            input,
            down,
            middle: middle.into(),
            up,
            norm: norms.of(now, init)?,
            output: Conv::zero(now, depth, init),
            height,
            width,
            depth,
            dropout,
            pad_after: self.pad_after,
        })
    }
}

/// A residual U-Net, built by [`NetworkConfig`](crate::NetworkConfig).
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
        let dropout = Dropout::new(self.dropout, context);
        let pad = if self.pad_after { [0, 1, 0, 1] } else { [1; 4] };
        let mut h = ops::conv2d(vec![x.reshape([rows, height, width, depth])], self.input.plain());
        let mut skips = vec![h.clone()];
        for stage in &self.down {
            for unit in &stage.units {
                h = unit.forward(vec![h], embedded.clone(), &dropout);
                skips.push(h.clone());
            }
            if let Some(halve) = &stage.resample {
                h = ops::conv2d(vec![h], ops::Conv { stride: 2, pad, ..halve.plain() });
                skips.push(h.clone());
            }
        }
        for unit in &self.middle {
            h = unit.forward(vec![h], embedded.clone(), &dropout);
        }
        for stage in &self.up {
            for unit in &stage.units {
                let skip = skips.pop().expect("the way up has as many blocks as the way down left skips");
                h = unit.forward(vec![h, skip], embedded.clone(), &dropout);
            }
            if let Some(double) = &stage.resample {
                h = ops::conv2d(vec![h], ops::Conv { upsample: true, ..double.plain() });
            }
        }
        let y = ops::conv2d(vec![h], ops::Conv { norm: Some(self.norm.norm(true)), ..self.output.plain() });
        Ok(y.reshape([rows, height * width * depth]))
    }
}

/// How a network's group normalizations are made.
struct Norms {
    groups: Option<usize>,
    epsilon: f64,
}

impl Norms {
    fn of(&self, channels: usize, init: &mut Init) -> Result<GroupNorm> {
        let fitting =
            || (1..=(channels / 4).min(32)).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1);
        let groups = self.groups.unwrap_or_else(fitting);
        ensure!(
            groups > 0 && channels.is_multiple_of(groups),
            "network.groups is {groups}, which does not divide the {channels} channels of a normalization: give a divisor \
             of network.channels"
        );
        Ok(GroupNorm::new(channels, groups, self.epsilon, init))
    }
}

/// The blocks of one level, and the convolution to the next.
#[derive(Module, Debug)]
struct Stage {
    units: Vec<Unit>,
    resample: Option<Conv>,
}

/// A residual block, and attention after it.
#[derive(Module, Debug)]
pub(super) struct Unit {
    pub(super) block: ResBlock,
    pub(super) attention: Option<Attention>,
}

impl Unit {
    fn new(
        inputs: usize,
        outputs: usize,
        embedding: usize,
        heads: Option<usize>,
        norms: &Norms,
        init: &mut Init,
    ) -> Result<Self> {
        Ok(Self {
            block: {
                let form = BlockForm { embedding: Some(embedding), ..BlockForm::default() };
                ResBlock::new([inputs, outputs], form, norms.of(inputs, init)?, norms.of(outputs, init)?, init)
            },
            attention: match heads {
                Some(heads) => Some(Attention::new(norms.of(outputs, init)?, outputs, heads, 1.0, init)),
                None => None,
            },
        })
    }

    pub(super) fn forward(&self, parts: Vec<Dual<4>>, embedded: Dual<2>, dropout: &Dropout) -> Dual<4> {
        let h = self.block.forward(parts, Some(embedded), dropout);
        match &self.attention {
            Some(attention) => attention.forward(h),
            None => h,
        }
    }
}
