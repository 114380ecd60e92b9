//! NCSN++ and DDPM++ (Song et al., arXiv:2011.13456, appendix H): U-Nets that may see and give images at every size.
//!
//! Level ℓ works on images of H/2^ℓ × W/2^ℓ positions and `channels` · `multipliers`\[ℓ\] channels. Going down, each level
//! is `blocks` residual blocks, each followed by attention where the level attends; then block, attention, block in the
//! middle; going up, each level is `blocks` + 1 residual blocks, each fed the latest unused output of the way down
//! besides its own input, and attention after the last of them. With r = 1/√2 if `rescale`, else 1, and e the embedding
//! of the noise:
//!
//! block(h) = r (S R h + K₂ drop(silu(GN(K₁ R silu(GN h) + W silu e)))),
//! attention(h) = r (h + W_o softmax(q kᵀ/√C) v),  q, k, v = W_q GN h, W_k GN h, W_v GN h,
//! e = W₂ silu(W₁ \[sin(ω c), cos(ω c)\] + b₁) + b₂
//!
//! with S the identity or a linear map and R a change of size: of BigGAN (Brock et al., arXiv:1809.11096) are blocks
//! with R between the levels; of DDPM are convolutions there instead, or nothing but R. Another activation may stand for
//! silu. Sizes change by a filter (Karras et al.,
//! arXiv:1912.04958; Zhang, arXiv:1904.11486) or by the repetition and the mean of positions.
//!
//! c is ln σ with random frequencies, or a label of the noise with geometric ones. The output may be divided by σ.
//!
//! The input x of a level below the first is joined to h, x being the image made smaller step by step: h + W x, or W x
//! and h side by side (`input_skip`); or p = r (h + K↓ p) with the p of the level above, first the image, which
//! replaces h (`residual`). The output is the last level's, or a sum over levels of images made larger step by step
//! (`output_skip`), or p = r (h + K↑ p) with the p of the level below replaces h (`residual`).

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Result, ensure};
use stein_base::Explain;

use super::{
    Nonlinearity, Takes,
    images::image_network,
    units::{Norms, Pass, Unit, Units, check_dropout, check_halvings, check_multipliers, head_of},
    walk::{At, Walk},
};
use crate::{
    embedding::{EmbeddingConfig, Frequencies},
    init::Init,
    layers::{BlockForm, Conv, Dropout, GroupNorm, Linear, ResBlock, Resample},
    ops::{self, Activation, Dual, Fir},
    trace::{note, within},
};

/// What group normalizations add to the variance.
const EPSILON: f64 = 1e-6;

/// What the network is given to tell it of the noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NoiseNumber {
    /// σ itself; features are sines and cosines of 2π f ln σ, f ~ N(0, scale²) and not trained.
    Fourier {
        /// Standard deviation of f; positive, default 16.
        #[serde(default = "fourier_scale")]
        scale: f64,
    },
    /// A label such as the number of a step, 0 to 999; features are its sines and cosines at the frequencies of DDPM.
    Positional,
}

fn fourier_scale() -> f64 {
    16.0
}

/// The residual blocks, and what changes the size of images between levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum ResidualBlock {
    /// Blocks change the size.
    Biggan,
    /// Convolutions change the size.
    Ddpm,
}

/// How the image is shown to the levels below the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum InputPyramid {
    /// Not at all.
    None,
    /// Made smaller and mapped linearly.
    InputSkip,
    /// By convolutions of stride 2 one after another.
    Residual,
}

/// How levels but the last contribute to the output directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum OutputPyramid {
    /// Not at all.
    None,
    /// Every level gives an image; they are made larger and added.
    OutputSkip,
    /// By convolutions that double the size one after another.
    Residual,
}

/// How the smaller image joins what a level works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// By addition.
    Sum,
    /// Side by side along channels.
    Cat,
}

/// Noise levels that labels count from the largest: σ_k = max (min/max)^(k/(count − 1)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseLevels {
    /// The smallest; positive, default 0.01.
    pub min: f64,
    /// The largest; above `min`, default 50.
    pub max: f64,
    /// How many; at least 2, default 1000.
    pub count: usize,
}

impl Default for NoiseLevels {
    fn default() -> Self {
        Self { min: 0.01, max: 50.0, count: 1000 }
    }
}

/// The size and form of an NCSN++ or DDPM++. The default is the NCSN++ of CIFAR-10 with a variance that explodes, in
/// continuous time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct NcsnppConfig {
    /// Width of the images `attention` speaks of; at least 2^(levels − 1), default 32.
    pub size: usize,
    /// Channels of the images, given and returned; at least 1, default 3.
    pub image_channels: usize,
    /// Channels at the first level for multiplier 1; even and at least 4, default 128. The embedding is four times as
    /// wide.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 2, 2]`. Height and width of the images have
    /// to be divisible by 2^(levels − 1).
    pub multipliers: Vec<usize>,
    /// Residual blocks per level on the way down, one less than on the way up; from 0, default 4.
    pub blocks: usize,
    /// Widths of images to attend at: the levels that images of width `size` have one of these widths on. Default
    /// `[16]`; the middle always attends.
    pub attention: Vec<usize>,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.1.
    pub dropout: f64,
    /// What the noise number is; default `fourier` of scale 16.
    pub noise: NoiseNumber,
    /// Whether the blocks know the noise; default true.
    pub conditional: bool,
    /// Whether the output is divided by σ; default true.
    pub scale_by_sigma: bool,
    /// What σ a label stands for, where the output is divided by the σ of a label.
    pub levels: NoiseLevels,
    /// The activation: `silu` (default), `elu`, `relu` or `leaky_relu`.
    pub nonlinearity: Nonlinearity,
    /// Taps of the filter that changes of size use; at least 2 with a positive sum, or none for no filter; default
    /// `[1, 3, 3, 1]`.
    pub filter: Vec<f32>,
    /// Whether sums of a branch and what it passes by are divided by √2; default true.
    pub rescale: bool,
    /// The form of the blocks, `biggan` (default) or `ddpm`.
    pub block: ResidualBlock,
    /// Whether, with blocks of DDPM, a convolution is part of a change of size; default true.
    pub resize_convolutions: bool,
    /// How lower levels see the image: `none`, `input_skip` or `residual` (default).
    pub input: InputPyramid,
    /// What `input_skip` does with what it shows: `sum` (default) or `cat`.
    pub combine: Combine,
    /// How lower levels give images: `none` (default), `output_skip` or `residual`.
    pub output: OutputPyramid,
    /// Whether images are given in \[−1, 1\] instead of \[0, 1\], from which the network maps them there; default
    /// false.
    pub centered: bool,
}

impl Default for NcsnppConfig {
    fn default() -> Self {
        Self {
            size: 32,
            image_channels: 3,
            channels: 128,
            multipliers: vec![1, 2, 2, 2],
            blocks: 4,
            attention: vec![16],
            dropout: 0.1,
            noise: NoiseNumber::Fourier { scale: fourier_scale() },
            conditional: true,
            scale_by_sigma: true,
            levels: NoiseLevels::default(),
            nonlinearity: Nonlinearity::Silu,
            filter: vec![1.0, 3.0, 3.0, 1.0],
            rescale: true,
            block: ResidualBlock::Biggan,
            resize_convolutions: true,
            input: InputPyramid::Residual,
            combine: Combine::Sum,
            output: OutputPyramid::None,
            centered: false,
        }
    }
}

impl NcsnppConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<Ncsnpp> {
        self.build_with(None, init)
    }

    /// Whether a level attends.
    pub(crate) fn attends(&self, level: usize) -> bool {
        self.attention.contains(&(self.size >> level))
    }

    fn check(&self) -> Result<()> {
        let Self { channels, dropout, .. } = *self;
        ensure!(
            channels >= 4 && channels.is_multiple_of(2),
            "network.channels is {channels}: give an even number from 4, such as 128"
        );
        ensure!(self.image_channels > 0, "network.image_channels is 0: give the channels of the images, such as 3");
        check_multipliers(&self.multipliers)?;
        check_dropout(dropout)?;
        let levels = self.multipliers.len();
        ensure!(
            levels <= usize::BITS as usize && self.size >> (levels - 1) > 0,
            "images of width {} cannot be halved {} times: give fewer network.multipliers or a larger network.size",
            self.size,
            levels - 1
        );
        for wanted in &self.attention {
            ensure!(
                (0..levels).any(|level| self.size >> level == *wanted),
                "network.attention lists width {wanted}, which images of network.size {} have on no level",
                self.size
            );
        }
        let NoiseLevels { min, max, count } = self.levels;
        ensure!(
            0.0 < min && min < max && max.is_finite() && count > 1,
            "network.levels are {count} from {min} to {max}: give at least 2 from a positive number to a larger one"
        );
        let filter = &self.filter;
        ensure!(
            filter.is_empty() || filter.len() > 1 && filter.iter().sum::<f32>() > 0.0,
            "network.filter is {filter:?}: give at least 2 taps with a positive sum, such as [1, 3, 3, 1], or none"
        );
        Ok(())
    }

    /// The network with this number of groups in every normalization, or with groups of four channels and at most 32.
    pub(super) fn build_with(&self, groups: Option<usize>, init: &mut Init) -> Result<Ncsnpp> {
        self.check()?;
        let maker = Maker::new(self, groups);
        let walk = Walk { levels: self.multipliers.len(), blocks: self.blocks };
        let width = |level: usize| self.channels * self.multipliers[level];
        let heads = |attends: bool| attends.then_some(1);
        let embedding = if self.conditional { Some(maker.embedding(init)?) } else { None };
        let input = Conv::new(self.image_channels, self.channels, init);
        let (mut down, mut middle, mut up) = (walk.stages::<Down>(), Vec::new(), walk.stages::<Up>());
        // Channels of the image as the way down sees it, and of what the way up has given of the output.
        let (mut seen, mut given) = (self.image_channels, 0);
        let last = walk.all(self.channels, |at, parts| {
            init.at_level(at.level(walk));
            let now = parts[0];
            Ok(match at {
                At::Down { level, .. } => {
                    down[level].units.push(maker.units.unit([now, width(level)], heads(self.attends(level)), init)?);
                    width(level)
                }
                At::Halve { level } => {
                    down[level].change = maker.change(now, false, init)?;
                    let outputs;
                    (down[level].entry, outputs) = maker.entry(now, &mut seen, init);
                    outputs
                }
                At::Middle { unit } => {
                    middle.push(maker.units.unit([now; 2], heads(unit == 0), init)?);
                    now
                }
                At::Up { stage, level, unit } => {
                    let ends = unit == self.blocks;
                    let attends = ends && self.attends(level);
                    up[stage].units.push(maker.units.unit([now + parts[1], width(level)], heads(attends), init)?);
                    if ends {
                        let below = std::mem::replace(&mut given, width(level));
                        up[stage].exit = maker.exit(below, width(level), stage == 0, init)?;
                    }
                    width(level)
                }
                At::Double { stage } => {
                    up[stage].change = maker.change(now, true, init)?;
                    now
                }
            })
        })?;
        let output = match self.output {
            OutputPyramid::OutputSkip => None,
            _ => Some(maker.head(last, Conv::zero(last, self.image_channels, init), init)?),
        };
        Ok(Ncsnpp { embedding, input, down, middle, up, output, config: self.clone(), walk })
    }
}

/// An NCSN++ or DDPM++, made by [`NcsnppConfig`].
#[derive(Module, Debug)]
pub struct Ncsnpp {
    embedding: Option<Embedding>,
    input: Conv,
    down: Vec<Down>,
    middle: Vec<Unit>,
    up: Vec<Up>,
    output: Option<Head>,
    #[module(skip)]
    config: NcsnppConfig,
    #[module(skip)]
    walk: Walk,
}

impl Ncsnpp {
    /// The output for images `[N, H, W, C]`, in the range the config says, of the same shape.
    ///
    /// # Errors
    /// When the images have another number of channels or cannot be halved as often as the network does, or the context does
    /// not fit the network: it knows nothing but the noise.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        let x = Takes::default().input(x, context, self.config.image_channels)?;
        let noise = context.noise.clone();
        let [_, height, width, _] = x.dims();
        check_halvings([height, width], self.walk.halvings())?;
        let activation = self.config.nonlinearity.into();
        let embedded = self
            .embedding
            .as_ref()
            .map(|embedding| ops::activate(embedding.forward(activation, self.coordinate(noise.clone())), activation));
        let pass = Pass { embedded, tokens: None, dropout: Dropout::new(self.config.dropout, context) };
        let x = if self.config.centered { x } else { x.linear(|x| x * 2.0).shift(|x| x - 1.0) };
        let y = self.pass(x, &pass)?;
        Ok(if self.config.scale_by_sigma { quotient(y, self.sigma(noise)) } else { y })
    }

    /// All but what is done to the values of images themselves.
    fn pass(&self, x: Dual<4>, pass: &Pass) -> Result<Dual<4>> {
        let h = self.input.forward(x.clone());
        note(|| "input".to_owned(), &h);
        let resized = |change: &Option<Change>, doubles: bool, mut parts: Vec<Dual<4>>| match change {
            Some(change) => change.forward(parts, pass),
            None => self.config.resample(doubles).apply(parts.swap_remove(0)),
        };
        let (mut seen, mut made) = (x, None);
        let h = self.walk.all(h, |at, parts| {
            Ok(match at {
                At::Down { level, unit } => {
                    within(|| at.to_string(), || self.down[level].units[unit].forward(parts, pass))
                }
                At::Halve { level } => {
                    let h = resized(&self.down[level].change, false, parts);
                    note(|| at.to_string(), &h);
                    self.enter(level, h, &mut seen)
                }
                At::Middle { unit } => within(|| at.to_string(), || self.middle[unit].forward(parts, pass)),
                At::Up { stage, unit, .. } => {
                    let h = within(|| at.to_string(), || self.up[stage].units[unit].forward(parts, pass));
                    if unit == self.walk.blocks { self.leave(stage, h, &mut made) } else { h }
                }
                At::Double { stage } => {
                    let h = resized(&self.up[stage].change, true, parts);
                    note(|| at.to_string(), &h);
                    h
                }
            })
        })?;
        Ok(match &self.output {
            Some(head) => head.forward(h, None),
            None => made.expect("without a last head every level has one"),
        })
    }

    /// Joins the image to what a level below the first works on.
    fn enter(&self, level: usize, h: Dual<4>, seen: &mut Dual<4>) -> Dual<4> {
        let name = || format!("down.{level}.entry");
        match &self.down[level].entry {
            None => h,
            Some(Entry::Skip(joint)) => {
                *seen = self.config.resample(false).apply(seen.clone());
                let h = joint.forward(seen.clone(), h);
                note(name, &h);
                h
            }
            Some(Entry::Residual(scaled)) => {
                let image = scaled.forward(seen.clone());
                note(name, &image);
                *seen = self.config.sum(image, h);
                seen.clone()
            }
        }
    }

    /// Adds what a level gives of the output to what those below it have made.
    fn leave(&self, stage: usize, h: Dual<4>, made: &mut Option<Dual<4>>) -> Dual<4> {
        match &self.up[stage].exit {
            None => h,
            Some(Exit::Head(head)) => {
                let below = made.take().map(|made| self.config.resample(true).apply(made));
                *made = Some(head.forward(h.clone(), below));
                h
            }
            Some(Exit::Residual(scaled)) => {
                let below = scaled.forward(made.take().expect("the lowest level has a head"));
                note(|| format!("up.{stage}.exit"), &below);
                let h = self.config.sum(below, h);
                *made = Some(h.clone());
                h
            }
        }
    }

    /// What the features of the noise are of.
    fn coordinate(&self, noise: Dual<1>) -> Dual<1> {
        match self.config.noise {
            NoiseNumber::Positional => noise,
            NoiseNumber::Fourier { .. } => {
                let Dual { value, tangent } = noise;
                Dual { tangent: tangent.map(|tangent| tangent / value.clone()), value: value.log() }
            }
        }
    }

    /// σ of noise numbers; that of a label is the one of its integer part, and so has no tangent.
    fn sigma(&self, noise: Dual<1>) -> Dual<1> {
        match self.config.noise {
            NoiseNumber::Fourier { .. } => noise,
            NoiseNumber::Positional => {
                let NoiseLevels { min, max, count } = self.config.levels;
                let step = (min / max).ln() / (count - 1) as f64;
                Dual::from((noise.value.floor() * step).exp() * max)
            }
        }
    }
}

image_network!(Ncsnpp, NcsnppConfig { image_channels, image_channels });

/// Every image over its number.
fn quotient(x: Dual<4>, by: Dual<1>) -> Dual<4> {
    let rows = by.dims()[0];
    let by = by.reshape([rows, 1, 1, 1]);
    let value = x.value / by.value.clone();
    // (x/b)' = (x' − (x/b) b')/b
    let own = x.tangent.map(|tangent| tangent / by.value.clone());
    let others = by.tangent.map(|tangent| value.clone() * (-tangent / by.value));
    let tangent = match (own, others) {
        (Some(own), Some(others)) => Some(own + others),
        (own, others) => own.or(others),
    };
    Dual { value, tangent }
}

/// The embedding of the noise.
#[derive(Module, Debug)]
struct Embedding {
    frequencies: Frequencies,
    first: Linear,
    second: Linear,
}

impl Embedding {
    fn forward(&self, activation: Activation, noise: Dual<1>) -> Dual<2> {
        let features = self.frequencies.features(noise);
        note(|| "embedding.frequencies".to_owned(), &features);
        let hidden = self.first.forward(features);
        note(|| "embedding.first".to_owned(), &hidden);
        let embedded = self.second.forward(ops::activate(hidden, activation));
        note(|| "embedding.second".to_owned(), &embedded);
        embedded
    }
}

/// A level of the way down: its units, what changes the size to that of the next one besides a filter, and where that one sees the image.
#[derive(Module, Debug, Default)]
struct Down {
    units: Vec<Unit>,
    change: Option<Change>,
    entry: Option<Entry>,
}

/// A level of the way up: its units, what it gives of the output, and the change to the next one.
#[derive(Module, Debug, Default)]
struct Up {
    units: Vec<Unit>,
    exit: Option<Exit>,
    change: Option<Change>,
}

/// A change of size between levels that has weights.
#[derive(Module, Debug)]
enum Change {
    Block(ResBlock),
    Conv(Scaled),
}

impl Change {
    /// Of the first part; others are not looked at.
    fn forward(&self, parts: Vec<Dual<4>>, pass: &Pass) -> Dual<4> {
        let h = parts[0].clone();
        match self {
            Self::Block(block) => block.forward(vec![h], pass.embedded.clone(), &pass.dropout),
            Self::Conv(scaled) => scaled.forward(h),
        }
    }
}

/// Where the image joins a level of the way down.
#[derive(Module, Debug)]
enum Entry {
    Skip(Joint),
    Residual(Scaled),
}

/// Where a level of the way up gives its part of the output.
#[derive(Module, Debug)]
enum Exit {
    Head(Head),
    Residual(Scaled),
}

/// A convolution that doubles or halves images, by a filter or without one.
#[derive(Module, Debug)]
struct Scaled {
    conv: Conv,
    doubles: bool,
    #[module(skip)]
    filter: Option<Fir>,
}

impl Scaled {
    fn forward(&self, x: Dual<4>) -> Dual<4> {
        let stride = if self.doubles { 1 } else { 2 };
        let conv = ops::Conv { stride, ..self.conv.plain() };
        let (x, conv) = match &self.filter {
            Some(filter) => (ops::fir_resample(x, filter), ops::Conv { pad: [0; 4], ..conv }),
            None if self.doubles => (x, ops::Conv { upsample: true, ..conv }),
            None => (x, ops::Conv { pad: [0, 1, 0, 1], ..conv }),
        };
        ops::conv2d(vec![x], conv)
    }
}

/// The image, mapped linearly, and what a level works on: their sum, or side by side.
#[derive(Module, Debug)]
struct Joint {
    mix: Linear,
    cat: bool,
}

impl Joint {
    fn forward(&self, image: Dual<4>, h: Dual<4>) -> Dual<4> {
        if self.cat { Dual::cat(vec![self.mix.forward(image), h], 3) } else { self.mix.forward_onto(image, h) }
    }
}

/// A convolution of the normalized activation.
#[derive(Module, Debug)]
struct Head {
    norm: GroupNorm,
    conv: Conv,
    #[module(skip)]
    activation: Activation,
}

impl Head {
    /// With a residual added.
    fn forward(&self, h: Dual<4>, residual: Option<Dual<4>>) -> Dual<4> {
        head_of(self.activation, h, &self.norm, &self.conv, residual)
    }
}

impl NcsnppConfig {
    /// The change of size of images and inside blocks.
    fn resample(&self, doubles: bool) -> Resample {
        if doubles { Resample::doubling(&self.filter) } else { Resample::halving(&self.filter) }
    }

    /// A branch and what it passes by.
    fn sum(&self, a: Dual<4>, b: Dual<4>) -> Dual<4> {
        let sum = a + b;
        if self.rescale { sum.linear(|sum| sum * FRAC_1_SQRT_2) } else { sum }
    }
}

/// Makes the layers of one config.
struct Maker<'a> {
    config: &'a NcsnppConfig,
    units: Units,
}

impl<'a> Maker<'a> {
    fn new(config: &'a NcsnppConfig, groups: Option<usize>) -> Self {
        let form = BlockForm {
            embedding: config.conditional.then_some(4 * config.channels),
            rescale: if config.rescale { SQRT_2 } else { 1.0 },
            skip: true,
            activation: config.nonlinearity.into(),
            ..BlockForm::default()
        };
        Self { config, units: Units { form, norms: Norms { groups, epsilon: EPSILON } } }
    }

    fn embedding(&self, init: &mut Init) -> Result<Embedding> {
        let channels = self.config.channels;
        let (frequencies, features) = match self.config.noise {
            NoiseNumber::Fourier { scale } => {
                ensure!(scale > 0.0 && scale.is_finite(), "network.noise.scale is {scale}: give a positive number");
                (Frequencies::cycles(channels, scale, true, init)?, 2 * channels)
            }
            NoiseNumber::Positional => {
                let positional = EmbeddingConfig::Positional { max_period: 1e4, shift: 1, sine_first: true };
                (positional.frequencies(channels / 2, init)?, channels)
            }
        };
        let first = Linear::new(features, 4 * channels, init);
        Ok(Embedding { frequencies, first, second: Linear::new(4 * channels, 4 * channels, init) })
    }

    /// What shows the image to the next level, and the channels of that with it; `seen` are the channels of the image.
    fn entry(&self, now: usize, seen: &mut usize, init: &mut Init) -> (Option<Entry>, usize) {
        match self.config.input {
            InputPyramid::None => (None, now),
            InputPyramid::InputSkip => {
                let cat = self.config.combine == Combine::Cat;
                let joint = Joint { mix: Linear::new(*seen, now, init), cat };
                (Some(Entry::Skip(joint)), if cat { 2 * now } else { now })
            }
            InputPyramid::Residual => {
                (Some(Entry::Residual(self.scaled([std::mem::replace(seen, now), now], false, init))), now)
            }
        }
    }

    /// What a level gives of the output; `below` are the channels of what the level below gave.
    fn exit(&self, below: usize, now: usize, lowest: bool, init: &mut Init) -> Result<Option<Exit>> {
        let images = self.config.image_channels;
        Ok(match self.config.output {
            OutputPyramid::None => None,
            OutputPyramid::OutputSkip => Some(Exit::Head(self.head(now, Conv::zero(now, images, init), init)?)),
            OutputPyramid::Residual if lowest => Some(Exit::Head(self.head(now, Conv::new(now, now, init), init)?)),
            OutputPyramid::Residual => Some(Exit::Residual(self.scaled([below, now], true, init))),
        })
    }

    fn change(&self, channels: usize, doubles: bool, init: &mut Init) -> Result<Option<Change>> {
        Ok(match self.config.block {
            ResidualBlock::Biggan => {
                Some(Change::Block(self.units.block([channels; 2], self.config.resample(doubles), init)?))
            }
            ResidualBlock::Ddpm if self.config.resize_convolutions => {
                Some(Change::Conv(self.scaled([channels; 2], doubles, init)))
            }
            ResidualBlock::Ddpm => None,
        })
    }

    fn scaled(&self, [inputs, outputs]: [usize; 2], doubles: bool, init: &mut Init) -> Scaled {
        let filter = match self.config.resample(doubles) {
            // The convolution skips positions itself, and takes one more on every side as it pads nothing.
            Resample::Filter(filter) => Some(Fir { down: 1, pad: filter.pad.map(|pad| pad + 1), ..filter }),
            _ => None,
        };
        Scaled { conv: Conv::new(inputs, outputs, init), doubles, filter }
    }

    fn head(&self, channels: usize, conv: Conv, init: &mut Init) -> Result<Head> {
        let (norm, activation) = (self.units.norms.of(channels, init)?, self.config.nonlinearity.into());
        Ok(Head { norm, conv, activation })
    }
}
