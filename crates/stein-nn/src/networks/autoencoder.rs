//! The encoder and the decoder of latent diffusion's autoencoders (Rombach et al., arXiv:2112.10752; Esser et al.,
//! arXiv:2012.09841), as the `diffusers` library has them.
//!
//! The encoder is a convolution, levels of residual blocks that halve the image with a convolution padded below and
//! right, block, attention, block, and norm, SiLU, convolution; the decoder is the same in reverse, with one more block
//! a level.

use burn::module::Module;
use stein::{Result, ensure};

use super::unet_2d_blocks::{Down, Form, Mix, Mixing, Next, Norms, Pass, Unit, Up, check_levels, in_turn};
use crate::{
    init::Init,
    layers::{Conv, GroupNorm},
    ops::{self, Dual},
    trace,
};

/// What group normalizations add to the variance.
const EPSILON: f64 = 1e-6;

/// What encoder and decoder have in common.
pub(super) struct Levels<'a> {
    /// Channels of every level.
    pub(super) channels: &'a [usize],
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub(super) blocks: usize,
    /// The levels that attend.
    pub(super) attention: &'a [usize],
    /// Whether the middle attends.
    pub(super) middle_attention: bool,
    /// Groups of every normalization.
    pub(super) groups: usize,
}

impl Levels<'_> {
    fn form(&self) -> Result<Form> {
        check_levels(self.channels, self.blocks, self.attention)?;
        let norms = Norms { groups: Some(self.groups), epsilon: EPSILON };
        Ok(Form { embedding: None, norms, attention: norms, rescale: 1.0 })
    }

    /// Attention for the blocks of a level.
    fn mixes(&self, level: usize, blocks: usize, form: &Form, init: &mut Init) -> Result<Vec<Option<Mix>>> {
        let attends = self.attention.contains(&level);
        let mut mix = || attends.then(|| ONE_HEAD.at(level, self.channels[level], form, init)).transpose();
        (0..blocks).map(|_| mix()).collect()
    }

    fn middle(&self, form: &Form, init: &mut Init) -> Result<Vec<Unit>> {
        let last = self.channels.len() - 1;
        let channels = self.channels[last];
        let mix = self.middle_attention.then(|| ONE_HEAD.at(last, channels, form, init)).transpose()?;
        form.middle(channels, mix, init)
    }
}

const ONE_HEAD: Mixing = Mixing::Own { head: None };

/// From images to latents.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    input: Conv,
    down: Vec<Down>,
    middle: Vec<Unit>,
    norm: GroupNorm,
    output: Conv,
    inputs: usize,
}

impl Encoder {
    pub(super) fn new(levels: &Levels, inputs: usize, outputs: usize, init: &mut Init) -> Result<Self> {
        let form = levels.form()?;
        ensure!(inputs > 0 && outputs > 0, "images and latents need channels: give at least 1 of either");
        let count = levels.channels.len();
        let mut now = levels.channels[0];
        let input = Conv::new(inputs, now, init);
        let mut down = Vec::new();
        for (level, &channels) in levels.channels.iter().enumerate() {
            let mixes = levels.mixes(level, levels.blocks, &form, init)?;
            let next = if level + 1 < count { Next::Conv } else { Next::None };
            let units = form.units([now, channels], mixes, init)?;
            down.push(Down::new(&form, units, channels, next, true, init)?);
            now = channels;
        }
        Ok(Self {
            input,
            down,
            middle: levels.middle(&form, init)?,
            norm: form.norms.of(now, init)?,
            output: Conv::new(now, outputs, init),
            inputs,
        })
    }

    pub(super) fn forward(&self, x: Dual<4>) -> Result<Dual<4>> {
        let [_, height, width, channels] = x.dims();
        let halvings = self.down.len() - 1;
        ensure!(
            channels == self.inputs,
            "images of {channels} channels came to an autoencoder that was built for {}",
            self.inputs
        );
        ensure!(
            height >> halvings > 0 && width >> halvings > 0,
            "images of {height} x {width} are too small to be halved {halvings} times"
        );
        let pass = Pass::nothing();
        let mut h = ops::conv2d(vec![x], self.input.plain());
        for (level, down) in self.down.iter().enumerate() {
            let states = down.forward(h, &mut None, &pass, &format!("encoder.down.{level}"));
            h = states.into_iter().next_back().expect("a level has at least one block");
        }
        h = in_turn(&self.middle, h, &pass);
        trace::note(|| "encoder.middle".to_owned(), &h);
        Ok(ops::conv2d(vec![h], ops::Conv { norm: Some(self.norm.norm(true)), ..self.output.plain() }))
    }
}

/// From latents to images.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    input: Conv,
    middle: Vec<Unit>,
    up: Vec<Up>,
    norm: GroupNorm,
    output: Conv,
}

impl Decoder {
    pub(super) fn new(levels: &Levels, inputs: usize, outputs: usize, init: &mut Init) -> Result<Self> {
        let form = levels.form()?;
        ensure!(inputs > 0 && outputs > 0, "images and latents need channels: give at least 1 of either");
        let mut now = levels.channels[levels.channels.len() - 1];
        let input = Conv::new(inputs, now, init);
        let middle = levels.middle(&form, init)?;
        let mut up = Vec::new();
        for (level, &channels) in levels.channels.iter().enumerate().rev() {
            let mixes = levels.mixes(level, levels.blocks + 1, &form, init)?;
            let next = if level > 0 { Next::Conv } else { Next::None };
            let units = form.units([now, channels], mixes, init)?;
            up.push(Up::new(&form, units, channels, next, init)?);
            now = channels;
        }
        let norm = form.norms.of(now, init)?;
        Ok(Self { input, middle, up, norm, output: Conv::new(now, outputs, init) })
    }

    /// Of latents of as many channels as it was built for.
    pub(super) fn forward(&self, z: Dual<4>) -> Dual<4> {
        let pass = Pass::nothing();
        let mut h = in_turn(&self.middle, ops::conv2d(vec![z], self.input.plain()), &pass);
        trace::note(|| "decoder.middle".to_owned(), &h);
        for (step, up) in self.up.iter().enumerate() {
            h = up.forward(h, &mut Vec::new(), &mut None, &pass, &format!("decoder.up.{step}"));
        }
        ops::conv2d(vec![h], ops::Conv { norm: Some(self.norm.norm(true)), ..self.output.plain() })
    }
}

/// Fails unless latents have as many channels as expected.
pub(super) fn check_latents(z: &Dual<4>, expected: usize) -> Result<()> {
    let channels = z.dims()[3];
    ensure!(channels == expected, "latents of {channels} channels came to a decoder that was built for {expected}");
    Ok(())
}
