//! The U-Net of improved diffusion and ADM (Nichol & Dhariwal, arXiv:2102.09672; Dhariwal & Nichol, arXiv:2105.05233),
//! which consistency models use as well (Song et al., arXiv:2303.01469; there it also goes by `consistency_unet`).
//!
//! Level ℓ works on images of H/2^ℓ × W/2^ℓ places and ⌊`multipliers`\[ℓ\] · `channels`⌋ channels. Going down, each
//! level is `blocks` residual blocks, attention after each where the factor 2^ℓ is listed, and a halving; then block,
//! attention, block in the middle; going up, each level is `blocks` + 1 residual blocks, each fed the latest unused
//! output of the way down besides its own input, and a doubling. With e the silu of the embedding of noise and class
//! and (s, t) = W_e e:
//!
//! block(h) = S h + K₂ drop(silu((1 + s) GN(K₁ silu(GN h)) + t)),  or  S h + K₂ drop(silu(GN(K₁ silu(GN h) + W_e e))),
//! attention(h) = h + W_o softmax(q kᵀ/√d) v,  q, k, v = W_q GN h, W_k GN h, W_v GN h, in heads of d channels
//!
//! An image is halved and doubled by 3 × 3 convolutions (of stride 2; after repeating places), or by a residual block
//! with the mean of 2 × 2 places, or the repetition, on both of its branches. The noise number is a step of 0 to 1000;
//! the frequencies are 10⁴^(−k/K), cosines before sines. K₂, W_o and the last convolution start at zero.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Result, ensure};

use super::{Takes, unet::Unit};
use crate::{
    embedding::{Embedding, EmbeddingConfig},
    init::Init,
    layers::{Attention, BlockForm, Conv, Dropout, GroupNorm, ResBlock, Resample},
    ops::{self, Dual},
    trace,
};

/// The groups of every group normalization.
const GROUPS: usize = 32;
/// What group normalizations add to the variance.
const EPSILON: f64 = 1e-5;

/// The size and form of an ADM U-Net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmConfig {
    /// Channels of the images; at least 1, default 3. A network that doubles the size of images is given the small
    /// image, resized, beside the noisy one: 6.
    pub inputs: usize,
    /// Channels of the output; at least 1, default 3. Twice those of the images where the network also predicts
    /// variances: first the noise, then the variances.
    pub outputs: usize,
    /// Classes the network knows; 0 (default) for none.
    pub classes: usize,
    /// Channels at a level of multiplier 1; even, default 128. The embedding is four times as wide.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 3, 4]`. Every level has a multiple of 32
    /// channels. Height and width of the images have to be divisible by 2^(levels − 1).
    pub multipliers: Vec<f64>,
    /// Residual blocks per level on the way down; at least 1, default 2.
    pub blocks: usize,
    /// The levels to attend at, by how many times lower their images are than the input, of 1, 2, 4, …; the middle
    /// always attends. Default `[4, 8]`.
    pub attention: Vec<usize>,
    /// Attention heads, a divisor of the channels wherever there is attention; default 4.
    pub heads: usize,
    /// Attention heads on the way up; default none: as many as `heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads_up: Option<usize>,
    /// Channels of each attention head, a divisor of the channels wherever there is attention. Where it is given, the
    /// numbers of heads follow from it; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_channels: Option<usize>,
    /// Whether the embedding scales and shifts the second norm of a block instead of shifting its input; default true.
    pub modulate: bool,
    /// Whether residual blocks halve and double images, not convolutions; default false.
    pub resize_blocks: bool,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.
    pub dropout: f64,
}

impl Default for AdmConfig {
    fn default() -> Self {
        Self {
            inputs: 3,
            outputs: 3,
            classes: 0,
            channels: 128,
            multipliers: vec![1.0, 2.0, 3.0, 4.0],
            blocks: 2,
            attention: vec![4, 8],
            heads: 4,
            heads_up: None,
            head_channels: None,
            modulate: true,
            resize_blocks: false,
            dropout: 0.0,
        }
    }
}

impl AdmConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<Adm> {
        ensure!(self.outputs > 0, "network.outputs is 0: give the channels of the output, such as 3");
        let contracting = Contracting::new(self, init)?;
        let levels = self.multipliers.len();
        let mut skips = vec![self.width(0)];
        for level in 0..levels {
            let kept = self.blocks + usize::from(level + 1 < levels);
            skips.extend(std::iter::repeat_n(self.width(level), kept));
        }
        let mut now = self.width(levels - 1);
        let mut up = Vec::new();
        for level in (0..levels).rev() {
            for index in 0..=self.blocks {
                let skip = skips.pop().expect("the way up has as many blocks as the way down left skips");
                let unit = self.unit(now + skip, self.width(level), self.attends(level).then_some(true), init)?;
                now = self.width(level);
                let resize = match level > 0 && index == self.blocks {
                    true if self.resize_blocks => Some(Resize::Block(self.block([now; 2], Resample::Nearest, init)?)),
                    true => Some(Resize::Double(Conv::new(now, now, init))),
                    false => None,
                };
                up.push(Step { unit: Some(unit), resize });
            }
        }
        let (norm, output) = (norm(now, init)?, Conv::zero(now, self.outputs, init));
        Ok(Adm { contracting, up, norm, output, dropout: self.dropout })
    }

    /// The channels of a level.
    pub(crate) fn width(&self, level: usize) -> usize {
        (self.multipliers[level] * self.channels as f64) as usize
    }

    /// Whether blocks of a level attend.
    pub(crate) fn attends(&self, level: usize) -> bool {
        self.attention.contains(&(1 << level))
    }

    /// The heads of attention over these channels.
    pub(crate) fn heads_of(&self, channels: usize, up: bool) -> Result<usize> {
        if let Some(size) = self.head_channels {
            ensure!(
                size > 0 && channels.is_multiple_of(size),
                "network.head_channels is {size}, which does not divide the {channels} channels attention works on"
            );
            return Ok(channels / size);
        }
        let heads = if up { self.heads_up.unwrap_or(self.heads) } else { self.heads };
        ensure!(
            heads > 0 && channels.is_multiple_of(heads),
            "network.heads is {heads}{}, which does not divide the {channels} channels attention works on",
            if up { " on the way up" } else { "" }
        );
        Ok(heads)
    }

    /// A block and, if `attends` says whether it is on the way up, attention.
    fn unit(&self, inputs: usize, outputs: usize, attends: Option<bool>, init: &mut Init) -> Result<Unit> {
        let block = self.block([inputs, outputs], Resample::Keep, init)?;
        let attention = match attends {
            Some(up) => {
                let heads = self.heads_of(outputs, up)?;
                Some(Attention::new(norm(outputs, init)?, outputs, heads, 1.0, init))
            }
            None => None,
        };
        Ok(Unit { block, attention })
    }

    fn block(&self, [inputs, outputs]: [usize; 2], resample: Resample, init: &mut Init) -> Result<ResBlock> {
        let embedding = Some(4 * self.channels);
        let form = BlockForm { embedding, modulate: self.modulate, resample, ..BlockForm::default() };
        Ok(ResBlock::new([inputs, outputs], form, norm(inputs, init)?, norm(outputs, init)?, init))
    }
}

/// The normalization of these channels.
pub(super) fn norm(channels: usize, init: &mut Init) -> Result<GroupNorm> {
    ensure!(
        channels > 0 && channels.is_multiple_of(GROUPS),
        "a normalization works on {channels} channels, which {GROUPS} groups do not divide: let network.channels times \
         each of network.multipliers be a multiple of {GROUPS}"
    );
    Ok(GroupNorm::new(channels, GROUPS, EPSILON, init))
}

/// An ADM U-Net.
#[derive(Module, Debug)]
pub struct Adm {
    contracting: Contracting,
    up: Vec<Step>,
    norm: GroupNorm,
    output: Conv,
    dropout: f64,
}

impl Adm {
    /// The output `[N, H, W, outputs]` for images that have, with those of the condition beside them, `inputs` channels.
    ///
    /// # Errors
    /// When the images or the context do not fit the network.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        let dropout = Dropout::new(self.dropout, context);
        let Contracted { mut skips, bottom: mut h, embedded } = self.contracting.forward(x, context, &dropout)?;
        for (index, step) in self.up.iter().enumerate() {
            let skip = skips.pop().expect("the way up has as many blocks as the way down left skips");
            h = step.forward(vec![h, skip], embedded.clone(), &dropout);
            trace::note(|| format!("up.{index}"), &h);
        }
        Ok(ops::conv2d(vec![h], ops::Conv { norm: Some(self.norm.norm(true)), ..self.output.plain() }))
    }
}

/// The way down and the middle.
#[derive(Module, Debug)]
pub(super) struct Contracting {
    embedding: Embedding,
    input: Conv,
    down: Vec<Step>,
    middle: Vec<Unit>,
    inputs: usize,
    divisor: usize,
}

/// What comes of the way down and the middle.
pub(super) struct Contracted {
    /// The output of the first convolution and of every step down.
    pub(super) skips: Vec<Dual<4>>,
    /// The output of the middle.
    pub(super) bottom: Dual<4>,
    embedded: Dual<2>,
}

impl Contracting {
    pub(super) fn new(config: &AdmConfig, init: &mut Init) -> Result<Self> {
        let AdmConfig { inputs, classes, channels, blocks, dropout, .. } = *config;
        ensure!(inputs > 0, "network.inputs is 0: give the channels of the images, such as 3");
        ensure!(
            channels > 0 && channels.is_multiple_of(2),
            "network.channels is {channels}: give a positive even number, such as 128"
        );
        ensure!(
            !config.multipliers.is_empty() && config.multipliers.iter().all(|m| *m > 0.0 && m.is_finite()),
            "network.multipliers is {:?}: give a positive number for every level, such as [1, 2, 3, 4]",
            config.multipliers
        );
        ensure!(blocks > 0, "network.blocks is 0: give the number of residual blocks per level, such as 2");
        ensure!((0.0..1.0).contains(&dropout), "network.dropout is {dropout}: give a probability from 0 to below 1");
        let levels = config.multipliers.len();
        for factor in &config.attention {
            ensure!(
                (0..levels).any(|level| 1 << level == *factor),
                "network.attention lists {factor}, but the levels of this network are {:?} times lower than the input",
                (0..levels).map(|level| 1usize << level).collect::<Vec<_>>()
            );
        }

        let frequencies = EmbeddingConfig::Positional { max_period: 1e4, shift: 0, sine_first: false };
        let embedding = Embedding::new(&frequencies, channels, 4 * channels, classes, init)?;
        let mut now = config.width(0);
        let input = Conv::new(inputs, now, init);
        let mut down = Vec::new();
        for level in 0..levels {
            for _ in 0..blocks {
                let unit = config.unit(now, config.width(level), config.attends(level).then_some(false), init)?;
                now = config.width(level);
                down.push(Step { unit: Some(unit), resize: None });
            }
            if level + 1 < levels {
                let resize = match config.resize_blocks {
                    true => Resize::Block(config.block([now; 2], Resample::Mean, init)?),
                    false => Resize::Halve(Conv::new(now, now, init)),
                };
                down.push(Step { unit: None, resize: Some(resize) });
            }
        }
        let middle = vec![config.unit(now, now, Some(false), init)?, config.unit(now, now, None, init)?];
        Ok(Self { embedding, input, down, middle, inputs, divisor: 1 << (levels - 1) })
    }

    pub(super) fn forward(&self, x: Dual<4>, context: &Context, dropout: &Dropout) -> Result<Contracted> {
        let takes = Takes { classes: self.embedding.classes(), ..Takes::default() };
        let x = takes.input(x, context, self.inputs)?;
        let ([_, height, width, _], divisor) = (x.dims(), self.divisor);
        ensure!(
            height % divisor == 0 && width % divisor == 0,
            "images of {height} x {width} do not fit this network: height and width have to be divisible by {divisor}"
        );
        let embedded = ops::silu(self.embedding.forward(context.noise.clone(), context.given)?);
        let mut h = ops::conv2d(vec![x], self.input.plain());
        let mut skips = vec![h.clone()];
        for step in &self.down {
            h = step.forward(vec![h], embedded.clone(), dropout);
            trace::note(|| format!("down.{}", skips.len()), &h);
            skips.push(h.clone());
        }
        for unit in &self.middle {
            h = unit.forward(vec![h], embedded.clone(), dropout);
        }
        trace::note(|| "middle".to_owned(), &h);
        Ok(Contracted { skips, bottom: h, embedded })
    }
}

/// A block with its attention, a change of size, or one after the other.
#[derive(Module, Debug)]
struct Step {
    unit: Option<Unit>,
    resize: Option<Resize>,
}

impl Step {
    /// Of images side by side along channels.
    fn forward(&self, parts: Vec<Dual<4>>, embedded: Dual<2>, dropout: &Dropout) -> Dual<4> {
        let parts = match &self.unit {
            Some(unit) => vec![unit.forward(parts, embedded.clone(), dropout)],
            None => parts,
        };
        match &self.resize {
            Some(Resize::Block(block)) => block.forward(parts, Some(embedded), dropout),
            Some(Resize::Halve(conv)) => ops::conv2d(parts, ops::Conv { stride: 2, ..conv.plain() }),
            Some(Resize::Double(conv)) => ops::conv2d(parts, ops::Conv { upsample: true, ..conv.plain() }),
            None => Dual::cat(parts, 3),
        }
    }
}

/// A change of size.
#[derive(Module, Debug)]
enum Resize {
    /// By a block that changes the size within.
    Block(ResBlock),
    /// By a convolution of stride 2.
    Halve(Conv),
    /// By a convolution of repeated places.
    Double(Conv),
}
