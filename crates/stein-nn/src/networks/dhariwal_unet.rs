//! The U-Net of ADM (Dhariwal & Nichol, arXiv:2105.05233) in the form EDM gave it (Karras et al., arXiv:2206.00364):
//! `DhariwalUNet` of NVlabs/edm.
//!
//! Blocks, the way down and the way up are those of [`edm_block`](super::edm_block), modulated by the embedding, with r
//! = 1 and one head of attention for every 64 channels. With f the cosines and sines of the noise number times
//! 10000^(−2k/n), k = 0 … n/2 − 1 for n features, y the one-hot class (zeros for none) and a the augmentation:
//!
//! e = silu(W₂ silu(W₁ (f + W_a a) + b₁) + b₂ + W_c y)
//!
//! and the output is K silu(GN h).

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Result, ensure};
use stein_base::Explain;

use super::{
    Takes,
    edm_block::{EdmForm, Heads, Labels, Trunk, TrunkPlan, norms},
    images::image_network,
    units::head,
};
use crate::{
    embedding::{EmbeddingConfig, Frequencies},
    init::Init,
    layers::{BlockForm, Conv, GroupNorm, Linear},
    ops::{self, Dual},
    trace,
};

/// What group normalizations add to the variance.
const EPSILON: f64 = 1e-5;

/// The size and form of a [`DhariwalUnet`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DhariwalUnetConfig {
    /// The nominal height of the images, which `attention` refers to: a multiple of 2^(levels − 1), default 64. Images
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
    /// Channels for multiplier 1, and number of sines and cosines: a multiple of 4, default 192.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 3, 4]`.
    pub multipliers: Vec<usize>,
    /// Width of the embedding over `channels`; at least 1, default 4.
    pub embedding_multiplier: usize,
    /// Blocks per level on the way down; default 3.
    pub blocks: usize,
    /// Nominal heights of levels whose blocks attend; default `[32, 16, 8]`. Heights no level has are ignored; the
    /// middle always attends. Blocks of less than 64 channels never do.
    pub attention: Vec<usize>,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.1.
    pub dropout: f64,
}

impl Default for DhariwalUnetConfig {
    fn default() -> Self {
        Self {
            height: 64,
            inputs: 3,
            outputs: 3,
            classes: 0,
            augment: 0,
            channels: 192,
            multipliers: vec![1, 2, 3, 4],
            embedding_multiplier: 4,
            blocks: 3,
            attention: vec![32, 16, 8],
            dropout: 0.1,
        }
    }
}

impl DhariwalUnetConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<DhariwalUnet> {
        let Self { outputs, classes, augment, channels, .. } = *self;
        let width = channels * self.embedding_multiplier;
        ensure!(
            channels > 0 && channels.is_multiple_of(2),
            "network.channels is {channels}: give a positive even number, for as many sines as cosines"
        );
        ensure!(outputs > 0, "network.outputs is 0: give the number of channels of the output, such as 3");
        ensure!(width > 0, "network.embedding_multiplier is 0: give a positive number, such as 4");
        let form = EdmForm {
            block: BlockForm { embedding: Some(width), modulate: true, ..BlockForm::default() },
            epsilon: EPSILON,
            heads: Heads::Channels(64),
            filter: vec![1.0, 1.0],
        };
        // `Trunk::new` refuses a config without multipliers.
        let lowest = channels * self.multipliers.first().copied().unwrap_or(1);
        let plan = TrunkPlan {
            height: self.height,
            inputs: self.inputs,
            first: lowest,
            channels,
            multipliers: &self.multipliers,
            blocks: self.blocks,
            attention: &self.attention,
            all_up: true,
            dropout: self.dropout,
        };
        let positional = EmbeddingConfig::Positional { max_period: 1e4, shift: 0, sine_first: false };
        Ok(DhariwalUnet {
            frequencies: positional.frequencies(channels / 2, init)?,
            class: (classes > 0).then(|| Linear::scaled(classes, width, 1.0, init).without_bias()),
            augment: (augment > 0).then(|| Linear::zero(augment, channels, init).without_bias()),
            first: Linear::new(channels, width, init),
            second: Linear::new(width, width, init),
            trunk: Trunk::new(&plan, &form, init)?,
            output_norm: norms(EPSILON).of(lowest, init)?,
            output: Conv::zero(lowest, outputs, init),
            inputs: self.inputs,
            classes,
            augmentations: augment,
        })
    }
}

/// A U-Net of the ADM family, of [`DhariwalUnetConfig`].
#[derive(Module, Debug)]
pub struct DhariwalUnet {
    frequencies: Frequencies,
    class: Option<Linear>,
    augment: Option<Linear>,
    first: Linear,
    second: Linear,
    trunk: Trunk,
    output_norm: GroupNorm,
    output: Conv,
    inputs: usize,
    classes: usize,
    augmentations: usize,
}

impl DhariwalUnet {
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
        let h = self.trunk.forward(x, &embedded, context, |_, h| h, |_, _| ())?;
        if trace::is_on() {
            trace::note(|| "output_norm".to_owned(), &ops::group_norm(h.clone(), &self.output_norm.norm(None)));
        }
        Ok(head(h, &self.output_norm, &self.output, None))
    }

    fn embed(&self, noise: Dual<1>, labels: Labels) -> Dual<2> {
        let mut features = self.frequencies.features(noise);
        trace::note(|| "frequencies".to_owned(), &features);
        if let Some((augment, rates)) = self.augment.as_ref().zip(labels.augment) {
            features = augment.forward_onto(rates, features);
        }
        let e = self.second.forward(ops::silu(self.first.forward(features)));
        trace::note(|| "second".to_owned(), &e);
        ops::silu(match self.class.as_ref().zip(labels.classes) {
            Some((class, rows)) => class.forward_onto(rows, e),
            None => e,
        })
    }
}

image_network!(DhariwalUnet, DhariwalUnetConfig { inputs, outputs, classes });
