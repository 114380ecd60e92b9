//! The U-Net of improved diffusion and ADM (Nichol & Dhariwal, arXiv:2102.09672; Dhariwal & Nichol, arXiv:2105.05233),
//! which consistency models use as well (Song et al., arXiv:2303.01469; there it also goes by `consistency_unet`).
//!
//! Level ℓ works on images of H/2^ℓ × W/2^ℓ positions and ⌊`multipliers`\[ℓ\] · `channels`⌋ channels. Going down, each
//! level is `blocks` residual blocks, attention after each where the factor 2^ℓ is listed, and a halving; then block,
//! attention, block in the middle; going up, each level is `blocks` + 1 residual blocks, each fed the latest unused
//! output of the way down besides its own input, and a doubling. With e the silu of the embedding of noise and class
//! and (s, t) = W_e e:
//!
//! block(h) = S h + K₂ drop(silu((1 + s) GN(K₁ silu(GN h)) + t)),  or  S h + K₂ drop(silu(GN(K₁ silu(GN h) + W_e e))),
//! attention(h) = h + W_o softmax(q kᵀ/√d) v,  q, k, v = W_q GN h, W_k GN h, W_v GN h, in heads of d channels
//!
//! An image is halved and doubled by 3 × 3 convolutions (of stride 2; after repeating positions), or by a residual block
//! with the mean of 2 × 2 positions, or the repetition, on both of its branches, or by those alone. The noise number is a step of 0 to 1000;
//! the frequencies are 10⁴^(−k/K), cosines before sines. K₂, W_o and the last convolution start at zero.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Result, ensure};
use stein_base::Explain;

use super::{
    Takes,
    images::image_network,
    units::{Norms, Pass, Unit, Units, check_dropout, check_halvings, check_heads, doubled, halved, head},
    walk::{At, Walk, middle},
};
use crate::{
    embedding::{Embedding, EmbeddingConfig},
    init::Init,
    layers::{BlockForm, Conv, Dropout, GroupNorm, ResBlock, Resample},
    ops::{self, Dual},
    trace,
};

/// Every group normalization.
pub(super) const NORMS: Norms = Norms { groups: Some(32), epsilon: 1e-5 };

/// The size and form of an ADM U-Net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
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
    /// Whether residual blocks halve and double images; default false.
    pub resize_blocks: bool,
    /// Whether, where blocks do not, convolutions halve and double images, not means and repetitions; default true.
    pub resize_convolutions: bool,
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
            resize_convolutions: true,
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
        let units = self.units();
        let (contracting, skips) = Contracting::new(self, init)?;
        let walk = contracting.walk;
        let mut up: Vec<Step> = Vec::new();
        let last = walk.up(self.width(walk.levels - 1), skips, |at, parts| {
            init.at_level(at.level(walk));
            if let At::Up { level, .. } = at {
                up.push(Step { unit: Some(self.unit(parts.iter().sum(), level, true, init)?), resize: None });
                return Ok(self.width(level));
            }
            let step = up.last_mut().expect("every level of the way up has units");
            step.resize = self.resize(&units, parts[0], Resample::Nearest, init)?;
            Ok(parts[0])
        })?;
        let (norm, output) = (NORMS.of(last, init)?, Conv::zero(last, self.outputs, init));
        Ok(Adm { contracting, up, norm, output, dropout: self.dropout })
    }

    pub(super) fn walk(&self) -> Walk {
        Walk { levels: self.multipliers.len(), blocks: self.blocks }
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
        check_heads(heads, channels)?;
        Ok(heads)
    }

    /// A unit of a level.
    fn unit(&self, inputs: usize, level: usize, up: bool, init: &mut Init) -> Result<Unit> {
        let outputs = self.width(level);
        let heads = if self.attends(level) { Some(self.heads_of(outputs, up)?) } else { None };
        self.units().unit([inputs, outputs], heads, init)
    }

    /// What changes the size between levels of these channels; none for a mean or a repetition.
    fn resize(&self, units: &Units, channels: usize, resample: Resample, init: &mut Init) -> Result<Option<Resize>> {
        Ok(match (self.resize_blocks, self.resize_convolutions) {
            (true, _) => Some(Resize::Block(units.block([channels; 2], resample, init)?)),
            (false, true) => Some(Resize::Conv(Conv::new(channels, channels, init))),
            (false, false) => None,
        })
    }

    fn units(&self) -> Units {
        let embedding = Some(4 * self.channels);
        Units { form: BlockForm { embedding, modulate: self.modulate, ..BlockForm::default() }, norms: NORMS }
    }

    /// Fails unless the config is one of a network.
    fn check(&self) -> Result<()> {
        let Self { inputs, channels, ref multipliers, blocks, dropout, .. } = *self;
        ensure!(inputs > 0, "network.inputs is 0: give the channels of the images, such as 3");
        ensure!(
            channels > 0 && channels.is_multiple_of(2),
            "network.channels is {channels}: give a positive even number, such as 128"
        );
        ensure!(
            !multipliers.is_empty() && multipliers.iter().all(|m| *m > 0.0 && *m <= 1024.0),
            "network.multipliers is {multipliers:?}: give a positive number of at most 1024 for every level, such as [1, 2, 3, 4]"
        );
        ensure!(blocks > 0, "network.blocks is 0: give the number of residual blocks per level, such as 2");
        let factors: Vec<usize> = (0..multipliers.len()).map(|level| 1 << level).collect();
        for factor in &self.attention {
            ensure!(
                factors.contains(factor),
                "network.attention lists {factor}, but the levels of this network are {factors:?} times lower than the input"
            );
        }
        check_dropout(dropout)
    }
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
        let Contracted { skips, bottom, pass } = self.contracting.forward(x, context, self.dropout)?;
        let walk = self.contracting.walk;
        let h = walk.up(bottom, skips, |at, parts| {
            let index = number(walk, at);
            let h = self.up[index].forward(at, parts, &pass);
            trace::note(|| format!("up.{index}"), &h);
            Ok(h)
        })?;
        Ok(head(h, &self.norm, &self.output, None))
    }
}

image_network!(Adm, AdmConfig { inputs, outputs, classes });

/// Which step of its way stands there; a change of size on the way up belongs to the last unit before it.
fn number(walk: Walk, at: At) -> usize {
    match at {
        At::Down { level, unit } => level * (walk.blocks + 1) + unit,
        At::Halve { level } => level * (walk.blocks + 1) + walk.blocks,
        At::Middle { unit } => unit,
        At::Up { stage, unit, .. } => stage * (walk.blocks + 1) + unit,
        At::Double { stage } => stage * (walk.blocks + 1) + walk.blocks,
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
    #[module(skip)]
    walk: Walk,
}

/// What comes of the way down and the middle.
pub(super) struct Contracted<'a> {
    /// The output of the first convolution and of every step down.
    pub(super) skips: Vec<Dual<4>>,
    /// The output of the middle.
    pub(super) bottom: Dual<4>,
    pass: Pass<'a>,
}

impl Contracting {
    /// It, and the channels of what it leaves for a way up.
    pub(super) fn new(config: &AdmConfig, init: &mut Init) -> Result<(Self, Vec<usize>)> {
        config.check()?;
        let AdmConfig { inputs, classes, channels, .. } = *config;
        let (walk, units, first) = (config.walk(), config.units(), config.width(0));
        let frequencies = EmbeddingConfig::Positional { max_period: 1e4, shift: 0, sine_first: false };
        let embedding = Embedding::new(&frequencies, channels, 4 * channels, classes, init)?;
        let input = Conv::new(inputs, first, init);
        let (mut down, mut skips) = (Vec::new(), vec![first]);
        let leave = |channels: &usize| skips.push(*channels);
        let last = walk.down(first, leave, |at, parts| {
            init.at_level(at.level(walk));
            let inputs = parts[0];
            let (unit, resize, outputs) = match at {
                At::Down { level, .. } => (Some(config.unit(inputs, level, false, init)?), None, config.width(level)),
                _ => (None, config.resize(&units, inputs, Resample::Mean, init)?, inputs),
            };
            down.push(Step { unit, resize });
            Ok(outputs)
        })?;
        let heads = config.heads_of(last, false)?;
        let middle = vec![units.unit([last; 2], Some(heads), init)?, units.unit([last; 2], None, init)?];
        Ok((Self { embedding, input, down, middle, inputs, walk }, skips))
    }

    pub(super) fn forward<'a>(&self, x: Dual<4>, context: &Context<'a>, dropout: f64) -> Result<Contracted<'a>> {
        let takes = Takes { classes: self.embedding.classes(), ..Takes::default() };
        let x = takes.input(x, context, self.inputs)?;
        let [_, height, width, _] = x.dims();
        check_halvings([height, width], self.walk.halvings())?;
        let embedded = ops::silu(self.embedding.forward(context.noise.clone(), context.given)?);
        let pass = Pass { embedded: Some(embedded), tokens: None, dropout: Dropout::new(dropout, context) };
        let h = self.input.forward(x);
        let mut skips = vec![h.clone()];
        let leave = |h: &Dual<4>| {
            trace::note(|| format!("down.{}", skips.len()), h);
            skips.push(h.clone());
        };
        let h = self.walk.down(h, leave, |at, parts| Ok(self.down[number(self.walk, at)].forward(at, parts, &pass)))?;
        let bottom = middle(h, |at, parts| Ok(self.middle[number(self.walk, at)].forward(parts, &pass)))?;
        trace::note(|| "middle".to_owned(), &bottom);
        Ok(Contracted { skips, bottom, pass })
    }
}

/// A unit, a change of size, or one after the other.
#[derive(Module, Debug)]
struct Step {
    unit: Option<Unit>,
    resize: Option<Resize>,
}

impl Step {
    /// Of images side by side along channels: the part of it that stands there.
    fn forward(&self, at: At, parts: Vec<Dual<4>>, pass: &Pass) -> Dual<4> {
        let some = "a step of a walk has what the walk takes it for";
        match (at, &self.resize) {
            (At::Halve { .. }, Some(Resize::Conv(conv))) => halved(parts, conv, false),
            (At::Double { .. }, Some(Resize::Conv(conv))) => doubled(parts, conv),
            (At::Halve { .. } | At::Double { .. }, Some(Resize::Block(block))) => {
                block.forward(vec![parts[0].clone()], pass.embedded.clone(), &pass.dropout)
            }
            (At::Halve { .. }, None) => ops::average_pool(parts[0].clone()),
            (At::Double { .. }, None) => ops::upsample_nearest(parts[0].clone()),
            _ => self.unit.as_ref().expect(some).forward(parts, pass),
        }
    }
}

/// A change of size.
#[derive(Module, Debug)]
enum Resize {
    /// By a block that changes the size within.
    Block(ResBlock),
    /// By a convolution of stride 2, or of repeated positions.
    Conv(Conv),
}
