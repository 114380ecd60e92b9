//! The U-Nets of score-based generative modeling through SDEs (Song et al., arXiv:2011.13456), DDPM++ and NCSN++, in
//! the form EDM gave them (Karras et al., arXiv:2206.00364): `SongUNet` of NVlabs/edm.
//!
//! Blocks, the way down and the way up are those of [`edm_block`](super::edm_block) with r = √2 and a shift by the
//! embedding. With f the sines and cosines of the noise number c, y the one-hot class among K (zeros for none) and a
//! the augmentation:
//!
//! e = silu(W₂ silu(W₁ (f + √K W_c y + b_c + W_a a) + b₁) + b₂)
//!
//! f has frequencies 2π · 16 · N(0, 1), or 10000^(−k/(n/2 − 1)) for n features. A `skip` encoder adds, after each
//! halving, a linear map of the equally halved input; a `residual` one has h ← (h + R K h')/√2, with h' this sum one
//! level above and at first the input. The output is K silu(GN h), of the last level or, for a `skip` decoder, summed
//! over all levels with doubling between them.
//!
//! The published networks: DDPM++ is `positional` with the filter \[1, 1\]; NCSN++ is `fourier` with a `residual`
//! encoder, the filter \[1, 3, 3, 1\] and `feature_multiplier` 2.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Result, ensure};
use stein_base::Explain;

use super::{
    Takes,
    edm_block::{EdmForm, Heads, Labels, Size, Trunk, TrunkPlan, norms},
    images::image_network,
    units::head,
};
use crate::{
    embedding::{EmbeddingConfig, Frequencies, swap_halves},
    init::Init,
    layers::{BlockForm, Conv, GroupNorm, Linear, Resample},
    ops::{self, Dual, Fir},
    trace,
};

/// What group normalizations add to the variance.
const EPSILON: f64 = 1e-6;

/// The features of the noise number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum SongFeatures {
    /// Geometric frequencies from 1 to 1/10000.
    #[default]
    Positional,
    /// Random frequencies of standard deviation 16 cycles per unit of the noise number, saved with the weights.
    Fourier,
}

/// What the way down hears of the input besides its own images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum SongEncoder {
    /// Nothing.
    #[default]
    Standard,
    /// The input, halved as often.
    Skip,
    /// The sum of the level above.
    Residual,
}

/// Where the output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum SongDecoder {
    /// The first level.
    #[default]
    Standard,
    /// All levels.
    Skip,
}

/// The size and form of a [`SongUnet`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct SongUnetConfig {
    /// The nominal height of the images, which `attention` refers to: a multiple of 2^(levels − 1), default 32. Images
    /// of other heights and widths divisible by 2^(levels − 1) may be given.
    pub height: usize,
    /// Channels of the images; at least 1, default 3.
    pub inputs: usize,
    /// Channels of the output; at least 1, default 3.
    pub outputs: usize,
    /// Number of classes, 0 (default) for none.
    pub classes: usize,
    /// Numbers that say how a sample was augmented, 0 (default) for none; 9 in EDM.
    pub augment: usize,
    /// Channels for multiplier 1: a multiple of 4, default 128.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 2, 2]`.
    pub multipliers: Vec<usize>,
    /// Width of the embedding over `channels`; at least 1, default 4.
    pub embedding_multiplier: usize,
    /// Number of sines and cosines over `channels`; at least 1, default 1.
    pub feature_multiplier: usize,
    /// Blocks per level on the way down; default 4.
    pub blocks: usize,
    /// Nominal heights of levels whose blocks attend, with one head: all going down, the last going up; default `[16]`.
    /// Heights no level has are ignored; the middle always attends.
    pub attention: Vec<usize>,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.1.
    pub dropout: f64,
    /// The features of the noise number; default `positional`.
    pub features: SongFeatures,
    /// The form of the way down; default `standard`.
    pub encoder: SongEncoder,
    /// The form of the output; default `standard`.
    pub decoder: SongDecoder,
    /// Taps of the filter of changes of size along one axis: symmetric and of an even number, default `[1, 1]`.
    pub filter: Vec<f32>,
}

impl Default for SongUnetConfig {
    fn default() -> Self {
        Self {
            height: 32,
            inputs: 3,
            outputs: 3,
            classes: 0,
            augment: 0,
            channels: 128,
            multipliers: vec![1, 2, 2, 2],
            embedding_multiplier: 4,
            feature_multiplier: 1,
            blocks: 4,
            attention: vec![16],
            dropout: 0.1,
            features: SongFeatures::default(),
            encoder: SongEncoder::default(),
            decoder: SongDecoder::default(),
            filter: vec![1.0, 1.0],
        }
    }
}

impl SongUnetConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<SongUnet> {
        let Self { inputs, outputs, classes, augment, channels, .. } = *self;
        let (width, count) = (channels * self.embedding_multiplier, channels * self.feature_multiplier);
        ensure!(channels > 0, "network.channels is 0: give a multiple of 4, such as 128");
        ensure!(outputs > 0, "network.outputs is 0: give the number of channels of the output, such as 3");
        ensure!(width > 0, "network.embedding_multiplier is 0: give a positive number, such as 4");
        ensure!(
            count > 2 && count.is_multiple_of(2),
            "network.channels times network.feature_multiplier is {count}: give an even number above 2, for as many \
             sines as cosines"
        );
        let form = EdmForm {
            block: BlockForm { embedding: Some(width), rescale: SQRT_2, skip: true, ..BlockForm::default() },
            epsilon: EPSILON,
            heads: Heads::Count(1),
            filter: self.filter.clone(),
        };
        let plan = TrunkPlan {
            height: self.height,
            inputs,
            first: channels,
            channels,
            multipliers: &self.multipliers,
            blocks: self.blocks,
            attention: &self.attention,
            all_up: false,
            dropout: self.dropout,
        };
        let trunk = Trunk::new(&plan, &form, init)?;
        let entries = entries(self, init);
        let exits = match self.decoder {
            SongDecoder::Standard => &self.multipliers[..1],
            SongDecoder::Skip => &self.multipliers[..],
        };
        let exits = exits.iter().map(|multiplier| Exit::new(channels * multiplier, outputs, init));
        let exits = exits.collect::<Result<_>>()?;
        Ok(SongUnet {
            frequencies: match self.features {
                SongFeatures::Positional => {
                    let positional = EmbeddingConfig::Positional { max_period: 1e4, shift: 1, sine_first: false };
                    positional.frequencies(count / 2, init)?
                }
                SongFeatures::Fourier => Frequencies::cycles(count / 2, 16.0, false, init)?,
            },
            class: (classes > 0).then(|| Linear::new(classes, count, init)),
            augment: (augment > 0).then(|| Linear::new(augment, count, init).without_bias()),
            first: Linear::new(count, width, init),
            second: Linear::new(width, width, init),
            exits,
            trunk,
            entries,
            inputs,
            classes,
            augmentations: augment,
            encoder: self.encoder,
            filter: self.filter.clone(),
        })
    }
}

/// The maps of what the way down hears besides, of every level but the first.
fn entries(config: &SongUnetConfig, init: &mut Init) -> Vec<Conv> {
    let SongUnetConfig { inputs, channels, blocks, .. } = *config;
    // A block that halves keeps the channels of the level above.
    let width = |level: usize| if blocks == 0 { channels } else { channels * config.multipliers[level] };
    let mut heard = inputs;
    let entry = |level: usize| match config.encoder {
        SongEncoder::Standard => None,
        SongEncoder::Skip => Some(Conv::of_size([1, 1], inputs, width(level - 1), init)),
        SongEncoder::Residual => {
            Some(Conv::new(std::mem::replace(&mut heard, width(level - 1)), width(level - 1), init))
        }
    };
    (1..config.multipliers.len()).filter_map(entry).collect()
}

/// The output of one level: K silu(GN h).
#[derive(Module, Debug)]
struct Exit {
    norm: GroupNorm,
    conv: Conv,
}

impl Exit {
    fn new(channels: usize, outputs: usize, init: &mut Init) -> Result<Self> {
        Ok(Self { norm: norms(EPSILON).of(channels, init)?, conv: Conv::zero(channels, outputs, init) })
    }
}

/// A U-Net of the DDPM++ and NCSN++ family, of [`SongUnetConfig`].
#[derive(Module, Debug)]
pub struct SongUnet {
    frequencies: Frequencies,
    class: Option<Linear>,
    augment: Option<Linear>,
    first: Linear,
    second: Linear,
    trunk: Trunk,
    entries: Vec<Conv>,
    exits: Vec<Exit>,
    inputs: usize,
    classes: usize,
    augmentations: usize,
    #[module(skip)]
    encoder: SongEncoder,
    #[module(skip)]
    filter: Vec<f32>,
}

impl SongUnet {
    /// The output for images `[N, H, W, C]`, those of the condition beside them; for EDM's preconditioning the noise number is
    /// ln(σ)/4.
    ///
    /// A row without a class, and an augmentation (the vector of the condition) that is not given, count as zeros.
    ///
    /// # Errors
    /// When the images or the context do not fit the network.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        let takes = Takes { classes: self.classes, vector: self.augmentations, ..Takes::default() };
        let x = takes.input(x, context, self.inputs)?;
        let labels = Labels::new(context, self.classes)?;
        let embedded = self.embed(context.noise.clone(), labels);
        let halve = Size::Halve.with(&self.filter);
        let double = Size::Double.with(&self.filter);
        let mut heard = x.clone();
        let entered = |level: usize, h: Dual<4>| {
            let Some(entry) = self.entries.get(level - 1) else { return h };
            if self.encoder == SongEncoder::Skip {
                heard = halve.apply(heard.clone());
                trace::note(|| format!("entries.{}.down", level - 1), &heard);
                let y = ops::conv2d(vec![heard.clone()], entry.plain());
                trace::note(|| format!("entries.{}", level - 1), &y);
                return h + y;
            }
            let y = halved(heard.clone(), entry, &self.filter);
            trace::note(|| format!("entries.{}", level - 1), &y);
            heard = (h + y).linear(|h| h * FRAC_1_SQRT_2);
            heard.clone()
        };
        let mut out: Option<Dual<4>> = None;
        let left = |level: usize, h: &Dual<4>| {
            let Some(Exit { norm, conv }) = self.exits.get(level) else { return };
            let residual = out.take().map(|out| double.apply(out));
            if trace::is_on() {
                let name = |part: &str| format!("exits.{level}.{part}");
                trace::note(|| name("norm"), &ops::group_norm(h.clone(), &norm.norm(None)));
                trace::note(|| name("conv"), &head(h.clone(), norm, conv, None));
                if let Some(residual) = &residual {
                    trace::note(|| name("up"), residual);
                }
            }
            out = Some(head(h.clone(), norm, conv, residual));
        };
        self.trunk.forward(x, &embedded, context, entered, left)?;
        Ok(out.expect("the first level always has an exit"))
    }

    fn embed(&self, noise: Dual<1>, labels: Labels) -> Dual<2> {
        let features = self.frequencies.features(noise);
        trace::note(|| "frequencies".to_owned(), &features);
        let mut features = swap_halves(features);
        if let Some((class, rows)) = self.class.as_ref().zip(labels.classes) {
            let size = (self.classes as f64).sqrt();
            features = class.forward_onto(rows.linear(|rows| rows * size), features);
        }
        if let Some((augment, rates)) = self.augment.as_ref().zip(labels.augment) {
            features = augment.forward_onto(rates, features);
        }
        let e = self.second.forward(ops::silu(self.first.forward(features)));
        trace::note(|| "second".to_owned(), &e);
        ops::silu(e)
    }
}

image_network!(SongUnet, SongUnetConfig { inputs, outputs, classes });

/// A convolution and then halving. The convolution is padded for both, so that no zeros come between them.
fn halved(x: Dual<4>, conv: &Conv, filter: &[f32]) -> Dual<4> {
    let halving = Fir::halving(filter);
    let wanted = halving.pad.map(|pad| pad + 1);
    // Further out a 3 × 3 kernel meets zeros only, and gives zeros but for the bias.
    let [before, after] = wanted.map(|pad| pad.min(2));
    let left = [wanted[0] - before, wanted[1] - after];
    let mut plain = ops::Conv { pad: [before, after, before, after], ..conv.plain() };
    let bias = if left == [0, 0] { None } else { plain.layer.bias.take() };
    let y = Resample::Filter(Fir { pad: left, ..halving }).apply(ops::conv2d(vec![x], plain));
    match bias {
        Some(bias) => {
            let [n, h, w, c] = y.dims();
            y + Dual::from(bias.reshape([1, 1, 1, c]).expand([n, h, w, c]))
        }
        None => y,
    }
}
