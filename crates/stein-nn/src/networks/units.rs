//! What stands along the [walk](super::walk) of most U-Nets here: residual blocks with attention, and changes of size.

use burn::module::Module;
use stein::{Result, ensure, numbers::ensure_within};

use crate::{
    init::Init,
    layers::{Attention, BlockForm, Conv, Dropout, GroupNorm, ResBlock, Resample},
    ops::{self, Activation, Dual},
    trace,
};

/// How the group normalizations of a network are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Norms {
    /// The number of groups; none for the largest divisor of the channels that is at most a quarter of them and 32.
    pub(super) groups: Option<usize>,
    /// What they add to the variance.
    pub(super) epsilon: f64,
}

impl Norms {
    /// The normalization of these channels.
    pub(super) fn of(&self, channels: usize, init: &mut Init) -> Result<GroupNorm> {
        init.check()?;
        let Self { groups, epsilon } = *self;
        ensure!(
            epsilon > 0.0 && epsilon <= 1.0,
            "network.epsilon is {epsilon}: give a small positive number, at most 1, such as 1e-5"
        );
        ensure!(channels > 0, "a normalization has no channels: give positive network.channels");
        let fitting = || (1..=(channels / 4).min(32)).rev().find(|groups| channels.is_multiple_of(*groups));
        let groups = groups.unwrap_or_else(|| fitting().unwrap_or(1));
        ensure!(
            groups > 0 && channels.is_multiple_of(groups),
            "network.groups is {groups}, which does not divide the {channels} channels of a normalization: give every level \
             a multiple of it, or other groups where the network has that key"
        );
        Ok(GroupNorm::new(channels, groups, epsilon, init))
    }
}

/// How the units of a network are made.
#[derive(Debug, Clone)]
pub(super) struct Units {
    /// What their blocks have in common. A skip has weights, if at all, where the size changes.
    pub(super) form: BlockForm,
    /// The normalizations of the blocks.
    pub(super) norms: Norms,
}

impl Units {
    /// A block of these inputs and outputs that changes the size or keeps it.
    pub(super) fn block(&self, channels: [usize; 2], resample: Resample, init: &mut Init) -> Result<ResBlock> {
        self.block_after(&self.norms, channels, resample, init)
    }

    /// The same with another kind of first normalization.
    pub(super) fn block_after(
        &self,
        first: &Norms,
        [inputs, outputs]: [usize; 2],
        resample: Resample,
        init: &mut Init,
    ) -> Result<ResBlock> {
        let skip = self.form.skip && resample != Resample::Keep;
        let form = BlockForm { resample, skip, ..self.form.clone() };
        Ok(ResBlock::new([inputs, outputs], form, first.of(inputs, init)?, self.norms.of(outputs, init)?, init))
    }

    /// Attention of this many heads, its sum divided as those of blocks are.
    pub(super) fn attention(&self, norms: &Norms, channels: usize, heads: usize, init: &mut Init) -> Result<Attention> {
        check_heads(heads, channels)?;
        Ok(Attention::new(norms.of(channels, init)?, channels, heads, self.form.scale(), init))
    }

    /// A block that keeps the size, and attention if there are heads.
    pub(super) fn unit(&self, channels: [usize; 2], heads: Option<usize>, init: &mut Init) -> Result<Unit> {
        let block = self.block(channels, Resample::Keep, init)?;
        let attention = heads.map(|heads| self.attention(&self.norms, channels[1], heads, init)).transpose()?;
        Ok(Unit { block, attention })
    }
}

/// What all units of one pass are given besides their input.
pub(super) struct Pass<'a> {
    /// The embedding after its activation, `[N, width]`.
    pub(super) embedded: Option<Dual<2>>,
    /// Tokens to attend to, `[N, length, width]`.
    pub(super) tokens: Option<Dual<3>>,
    /// The dropout of the pass.
    pub(super) dropout: Dropout<'a>,
}

impl Pass<'_> {
    /// Nothing.
    pub(super) fn nothing() -> Self {
        Self { embedded: None, tokens: None, dropout: Dropout::none() }
    }
}

/// A residual block, and attention after it.
#[derive(Module, Debug)]
pub(super) struct Unit {
    pub(super) block: ResBlock,
    pub(super) attention: Option<Attention>,
}

impl Unit {
    /// Of images side by side along channels.
    pub(super) fn forward(&self, parts: Vec<Dual<4>>, pass: &Pass) -> Dual<4> {
        let h = self.block.forward(parts, pass.embedded.clone(), &pass.dropout);
        trace::note(|| "block".to_owned(), &h);
        let Some(attention) = &self.attention else { return h };
        let h = attention.forward(h);
        trace::note(|| "attention".to_owned(), &h);
        h
    }
}

/// A convolution of stride 2, padded all around or, as DDPM's code does, below and right only.
pub(super) fn halved(parts: Vec<Dual<4>>, conv: &Conv, pad_after: bool) -> Dual<4> {
    let plain = conv.plain();
    let pad = if pad_after { [0, 1, 0, 1] } else { plain.pad };
    ops::conv2d(parts, ops::Conv { stride: 2, pad, ..plain })
}

/// A convolution of an image whose positions are repeated along the axes the kernel has several taps on. Where it was halved
/// from an odd size, shown by the image it will be joined to, it is cut to that first.
pub(super) fn doubled(parts: Vec<Dual<4>>, conv: &Conv) -> Dual<4> {
    let [n, height, width, channels] = parts[0].dims();
    let plain = conv.plain();
    let series = plain.layer.weight.dims()[0] == 1;
    let full = if series { [height, 2 * width] } else { [2 * height, 2 * width] };
    let wanted = parts.get(1).map_or(full, |joins| [joins.dims()[1], joins.dims()[2]]);
    let h = parts[0].clone();
    if !series && wanted == full {
        return ops::conv2d(vec![h], ops::Conv { upsample: true, ..plain });
    }
    let [tall, wide] = full;
    let h = match series {
        true => Dual::cat(vec![h.clone(), h], 3).reshape([n, tall, wide, channels]),
        false => ops::upsample_nearest(h),
    };
    let h = if wanted == full { h } else { h.linear(|x| x.narrow(1, 0, wanted[0]).narrow(2, 0, wanted[1])) };
    ops::conv2d(vec![h], plain)
}

/// K silu(GN h), perhaps onto a residual.
pub(super) fn head(h: Dual<4>, norm: &GroupNorm, conv: &Conv, residual: Option<Dual<4>>) -> Dual<4> {
    head_of(Activation::Silu, h, norm, conv, residual)
}

/// K f(GN h) for an activation f, perhaps onto a residual.
pub(super) fn head_of(
    activation: Activation,
    h: Dual<4>,
    norm: &GroupNorm,
    conv: &Conv,
    residual: Option<Dual<4>>,
) -> Dual<4> {
    ops::conv2d(vec![h], ops::Conv { norm: Some(norm.norm(Some(activation))), residual, ..conv.plain() })
}

/// Fails unless the heads of attention divide the channels.
pub(super) fn check_heads(heads: usize, channels: usize) -> Result<()> {
    ensure!(
        heads > 0 && channels.is_multiple_of(heads),
        "network.heads is {heads}, which does not divide the {channels} channels attention works on"
    );
    Ok(())
}

/// Fails unless every level has a positive multiplier, and there are levels.
pub(super) fn check_multipliers(multipliers: &[usize]) -> Result<()> {
    ensure!(
        !multipliers.is_empty() && multipliers.iter().all(|m| *m > 0),
        "network.multipliers is {multipliers:?}: give a positive number for every level, such as [1, 2, 2]"
    );
    Ok(())
}

/// Fails unless a probability of dropping values is one.
pub(super) fn check_dropout(dropout: f64) -> Result<()> {
    ensure_within("network.dropout", dropout, 0.0..1.0)
}

/// Fails unless height and width of images can be halved this many times.
pub(super) fn check_halvings([height, width]: [usize; 2], halvings: usize) -> Result<()> {
    let divisor = 1usize.checked_shl(halvings as u32).unwrap_or(usize::MAX);
    ensure!(
        height % divisor == 0 && width % divisor == 0,
        "images of {height} x {width} cannot be halved {halvings} times: height and width have to be divisible by \
         {divisor}, so pad the images or build the network with fewer levels"
    );
    Ok(())
}
