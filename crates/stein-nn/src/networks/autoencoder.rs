//! The encoder and the decoder of latent diffusion's autoencoders (Rombach et al., arXiv:2112.10752; Esser et al.,
//! arXiv:2012.09841), as the `diffusers` library has them.
//!
//! The encoder is a convolution, levels of residual blocks that halve the image with a convolution padded below and
//! right, block, attention, block, and norm, SiLU, convolution; the decoder is the same in reverse, with one more block
//! per level.

use burn::{module::Module, tensor::Tensor};
use stein::{Result, ensure};

use super::{
    unet_2d_blocks::{Along, Built, Down, MixUnit, Mixing, UnitForm, Up, check_levels},
    units::{Norms, Pass, head},
    walk::{At, Walk, middle},
};
use crate::{
    init::Init,
    layers::{BlockForm, Conv, GroupNorm},
    ops::Dual,
    trace,
};

/// What group normalizations add to the variance.
const EPSILON: f64 = 1e-6;

/// What encoder and decoder have in common.
pub(super) struct Levels<'a> {
    /// Channels of every level.
    pub(super) channels: &'a [usize],
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub(super) blocks: usize,
    /// The levels that attend.
    pub(super) attention: &'a [usize],
    /// Whether the middle attends.
    pub(super) middle_attention: bool,
    /// Groups of every normalization.
    pub(super) groups: usize,
}

impl Levels<'_> {
    fn check(&self, inputs: usize, outputs: usize) -> Result<()> {
        check_levels(self.channels, self.blocks.max(1), self.attention)?;
        ensure!(
            self.blocks > 0 || self.channels.iter().all(|channels| *channels == self.channels[0]),
            "blocks is 0, and channels is {:?}: without blocks nothing changes their number in the encoder, so give the same at every level",
            self.channels
        );
        ensure!(inputs > 0 && outputs > 0, "images and latents need channels: give at least 1 of either");
        Ok(())
    }

    fn norms(&self) -> Norms {
        Norms { groups: Some(self.groups), epsilon: EPSILON }
    }

    fn walk(&self) -> Walk {
        Walk { levels: self.channels.len(), blocks: self.blocks }
    }

    /// Builds one step for images of these channels, and returns those of its output.
    fn step(&self, built: &mut Built, at: At, channels: usize, init: &mut Init) -> Result<usize> {
        let (level, attends) = match at {
            At::Down { level, .. } | At::Up { level, .. } => (level, self.attention.contains(&level)),
            At::Middle { unit } => (self.channels.len() - 1, unit == 0 && self.middle_attention),
            At::Halve { .. } | At::Double { .. } => {
                built.conv(at, channels, init);
                return Ok(channels);
            }
        };
        let form = UnitForm::new(BlockForm::default(), self.norms(), self.norms());
        let outputs = self.channels[level];
        let mix = attends.then(|| Mixing::Own { head: None }.at(level, outputs, &form, init)).transpose()?;
        built.unit(at, form.unit([channels, outputs], mix, init)?);
        Ok(outputs)
    }
}

/// From images to latents.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    input: Conv,
    down: Vec<Down>,
    middle: Vec<MixUnit>,
    norm: GroupNorm,
    output: Conv,
    inputs: usize,
    #[module(skip)]
    walk: Walk,
}

impl Encoder {
    pub(super) fn new(levels: &Levels, inputs: usize, outputs: usize, init: &mut Init) -> Result<Self> {
        levels.check(inputs, outputs)?;
        let (walk, first) = (levels.walk(), levels.channels[0]);
        let input = Conv::new(inputs, first, init);
        let mut built = Built::new(walk);
        let mut step = |at, parts: Vec<usize>| levels.step(&mut built, at, parts[0], init);
        let last = walk.down(first, |_| (), &mut step)?;
        middle(last, step)?;
        let Built { down, middle, .. } = built;
        let (norm, output) = (levels.norms().of(last, init)?, Conv::new(last, outputs, init));
        Ok(Self { input, down, middle, norm, output, inputs, walk })
    }

    pub(super) fn forward(&self, x: Dual<4>) -> Result<Dual<4>> {
        let [_, height, width, channels] = x.dims();
        let halvings = self.walk.halvings();
        ensure!(
            channels == self.inputs,
            "images of {channels} channels came to an autoencoder that was built for {}",
            self.inputs
        );
        ensure!(
            height >> halvings > 0 && width >> halvings > 0,
            "images of {height} x {width} are too small to be halved {halvings} times"
        );
        let along = Along { down: &self.down, middle: &self.middle, up: &[], pad_after: true };
        let mut step = |at, parts| Ok(along.step(at, parts, &mut None, &Pass::nothing()));
        let h = self.input.forward(x);
        let h = trace::within(|| "encoder".to_owned(), || middle(self.walk.down(h, |_| (), &mut step)?, step))?;
        Ok(head(h, &self.norm, &self.output, None))
    }
}

/// From latents to images: the decoder of [`AutoencoderKl`](super::AutoencoderKl) and [`VqModel`](super::VqModel).
#[derive(Module, Debug)]
pub struct Decoder {
    input: Conv,
    middle: Vec<MixUnit>,
    up: Vec<Up>,
    norm: GroupNorm,
    output: Conv,
    #[module(skip)]
    walk: Walk,
}

impl Decoder {
    pub(super) fn new(levels: &Levels, inputs: usize, outputs: usize, init: &mut Init) -> Result<Self> {
        levels.check(inputs, outputs)?;
        let (walk, lowest) = (levels.walk(), levels.channels[levels.channels.len() - 1]);
        let input = Conv::new(inputs, lowest, init);
        let mut built = Built::new(walk);
        let mut step = |at, parts: Vec<usize>| levels.step(&mut built, at, parts[0], init);
        middle(lowest, &mut step)?;
        let last = walk.up(lowest, Vec::new(), step)?;
        let Built { middle, up, .. } = built;
        let (norm, output) = (levels.norms().of(last, init)?, Conv::new(last, outputs, init));
        Ok(Self { input, middle, up, norm, output, walk })
    }

    /// What comes before the last layer, of latents of as many channels as it was built for.
    pub(super) fn features(&self, z: Dual<4>) -> Result<Dual<4>> {
        let along = Along { down: &[], middle: &self.middle, up: &self.up, pad_after: true };
        let mut step = |at, parts| Ok(along.step(at, parts, &mut None, &Pass::nothing()));
        let h = self.input.forward(z);
        trace::within(|| "decoder".to_owned(), || self.walk.up(middle(h, &mut step)?, Vec::new(), step))
    }

    /// The last layer K silu(GN h): images `[N, H, W, outputs]` of what comes before it.
    pub fn last_layer(&self, h: Dual<4>) -> Dual<4> {
        head(h, &self.norm, &self.output, None)
    }

    /// The gradient by the weights K `[3, 3, channels, outputs]` of the last layer, of a number whose gradient by the images is `slope`
    /// `[N, H, W, outputs]`; `h` is what comes before it. The weights are on a tape.
    pub fn last_layer_slope(&self, h: Tensor<4>, slope: Tensor<4>) -> Tensor<4> {
        self.output.weight_slope(self.norm.forward_silu(h.detach().into()).value, slope)
    }
}

/// Fails unless latents have as many channels as expected.
pub(super) fn check_latents(z: &Dual<4>, expected: usize) -> Result<()> {
    let channels = z.dims()[3];
    ensure!(channels == expected, "latents of {channels} channels came to a decoder that was built for {expected}");
    Ok(())
}
