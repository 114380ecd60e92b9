//! What the networks of EDM share (Karras et al., arXiv:2206.00364, with NVlabs/edm): their block and the way down and
//! up.
//!
//! With r = `rescale`, R a change of size and e the embedding after its activation:
//!
//! u = (S R h + K₂ drop(silu(GN(K₁ R silu(GN h) + W e)))) / r,
//! block(h) = (u + W_o softmax(q kᵀ/√d) v) / r,  q, k, v linear in GN u,
//!
//! or, modulated, with (scale, shift) = W e inside: silu((1 + scale) GN(K₁ R silu(GN h)) + shift). Blocks without
//! attention return u. S is the identity, or linear where the number of channels changes. Groups of a normalization
//! have four channels or more, and there are at most 32.
//!
//! The trunk is a convolution, then down: on every level but the first a block that halves, then blocks, each leaving
//! its output behind; in the middle a block that attends and one that does not; up: on every level but the lowest a
//! block that doubles, then one block more than on the way down, each fed the latest unused output of the way down
//! besides its own input.

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use stein::{Context, Result, ensure};

use crate::{
    init::Init,
    layers::{Attention, BlockForm, Conv, Dropout, GroupNorm, ResBlock, Resample},
    ops::{self, Dual, Fir},
    trace,
};

/// How many heads attention has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Heads {
    /// This number.
    Count(usize),
    /// One for every this many channels; where there are fewer, no attention.
    Channels(usize),
}

/// What all blocks of a network have in common.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    /// The width of the embedding.
    pub(crate) embedding: usize,
    /// The heads of blocks that attend.
    pub(crate) heads: Heads,
    /// Whether the embedding scales and shifts the second norm instead of shifting the first convolution.
    pub(crate) modulate: bool,
    /// Divides every sum with a skip.
    pub(crate) rescale: f64,
    /// What normalizations add to the variance.
    pub(crate) epsilon: f64,
    /// Taps of the filter of changes of size; see [`check_filter`].
    pub(crate) filter: Vec<f32>,
    /// Whether the skip of a block that changes the size has weights even where the number of channels stays.
    pub(crate) project: bool,
}

/// What a block does to the size of its images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Change {
    /// Nothing.
    Keep,
    /// Halves it.
    Halve,
    /// Doubles it.
    Double,
}

impl Change {
    /// The change of size with a filter.
    pub(super) fn with(self, filter: &[f32]) -> Resample {
        let even = matches!(filter, [a, b] if a == b);
        match self {
            Self::Keep => Resample::Keep,
            Self::Halve if even => Resample::Mean,
            Self::Double if even => Resample::Nearest,
            Self::Halve => Resample::Filter(Fir::halving(filter)),
            Self::Double => Resample::Filter(Fir::doubling(filter)),
        }
    }
}

/// Fails unless the taps keep the mean of an image and halve and double its size exactly.
fn check_filter(filter: &[f32]) -> Result<()> {
    let sound = filter.len() >= 2
        && filter.len().is_multiple_of(2)
        && filter.iter().eq(filter.iter().rev())
        && filter.iter().sum::<f32>() > 0.0;
    ensure!(
        sound,
        "network.filter is {filter:?}: give an even number of symmetric taps with a positive sum, such as [1, 3, 3, 1]"
    );
    Ok(())
}

/// A residual block, and attention after it.
#[derive(Module, Debug)]
pub struct EdmBlock {
    residual: ResBlock,
    attention: Option<Attention>,
}

impl EdmBlock {
    pub(crate) fn new(
        [inputs, outputs]: [usize; 2],
        change: Change,
        attends: bool,
        form: &Form,
        init: &mut Init,
    ) -> Result<Self> {
        check_filter(&form.filter)?;
        let block = BlockForm {
            embedding: Some(form.embedding),
            modulate: form.modulate,
            rescale: form.rescale,
            resample: change.with(&form.filter),
            skip: form.project && change != Change::Keep,
        };
        let (first, second) = (norm(inputs, form.epsilon, init)?, norm(outputs, form.epsilon, init)?);
        let residual = ResBlock::new([inputs, outputs], block, first, second, init);
        let heads = match form.heads {
            Heads::Count(count) => count,
            Heads::Channels(channels) => outputs / channels,
        };
        let attention = if attends && heads > 0 {
            ensure!(outputs.is_multiple_of(heads), "{heads} attention heads do not divide {outputs} channels");
            Some(Attention::new(norm(outputs, form.epsilon, init)?, outputs, heads, 1.0 / form.rescale, init))
        } else {
            None
        };
        Ok(Self { residual, attention })
    }

    /// As [`ResBlock::forward`], noted under a name.
    pub(crate) fn forward(
        &self,
        name: impl Fn() -> String,
        parts: Vec<Dual<4>>,
        embedded: &Dual<2>,
        dropout: &Dropout,
    ) -> Dual<4> {
        let h =
            trace::within(|| name() + ".residual", || self.residual.forward(parts, Some(embedded.clone()), dropout));
        let h = match &self.attention {
            Some(attention) => trace::within(|| name() + ".attention", || attention.forward(h)),
            None => h,
        };
        trace::note(name, &h);
        h
    }
}

/// A normalization of groups of at least four channels.
pub(super) fn norm(channels: usize, epsilon: f64, init: &mut Init) -> Result<GroupNorm> {
    let groups = (channels / 4).min(32);
    ensure!(
        groups > 0 && channels.is_multiple_of(groups),
        "a normalization of {channels} channels cannot have {groups} groups: give network.channels that are a multiple \
         of four, and of 32 where there are more than 128"
    );
    Ok(GroupNorm::new(channels, groups, epsilon, init))
}

/// The place and number of a trunk's blocks.
pub(super) struct Plan<'a> {
    /// The nominal height of the images.
    pub(super) height: usize,
    /// Channels of the images.
    pub(super) inputs: usize,
    /// Channels after the first convolution.
    pub(super) first: usize,
    /// Channels for multiplier 1.
    pub(super) channels: usize,
    /// Channels of every level over `channels`.
    pub(super) multipliers: &'a [usize],
    /// Blocks per level on the way down.
    pub(super) blocks: usize,
    /// Nominal heights whose blocks attend.
    pub(super) attention: &'a [usize],
    /// Whether on the way up all blocks of such a level attend, not the last alone.
    pub(super) all_up: bool,
    /// The probability of dropping a value.
    pub(super) dropout: f64,
}

impl Plan<'_> {
    fn check(&self) -> Result<()> {
        let Self { height, inputs, multipliers, dropout, .. } = *self;
        ensure!(inputs > 0, "network.inputs is 0: give the number of channels of the images, such as 3");
        ensure!(
            !multipliers.is_empty() && multipliers.iter().all(|m| *m > 0),
            "network.multipliers is {multipliers:?}: give a positive number for every level, such as [1, 2, 2]"
        );
        let divisor = 1 << (multipliers.len() - 1);
        ensure!(
            height > 0 && height.is_multiple_of(divisor),
            "network.height is {height}: with {} multipliers give a positive multiple of {divisor}",
            multipliers.len()
        );
        ensure!((0.0..1.0).contains(&dropout), "network.dropout is {dropout}: give a probability from 0 to below 1");
        Ok(())
    }
}

/// The blocks of one level, and before them the one that changes the size.
#[derive(Module, Debug)]
struct Stage {
    change: Option<EdmBlock>,
    blocks: Vec<EdmBlock>,
}

/// The first convolution and all blocks.
#[derive(Module, Debug)]
pub struct Trunk {
    input: Conv,
    down: Vec<Stage>,
    middle: Vec<EdmBlock>,
    up: Vec<Stage>,
    dropout: f64,
}

impl Trunk {
    pub(super) fn new(plan: &Plan, form: &Form, init: &mut Init) -> Result<Self> {
        plan.check()?;
        let levels = plan.multipliers.len();
        let attends = |level: usize| plan.attention.contains(&(plan.height >> level));
        let mut block = |channels, change, attends| EdmBlock::new(channels, change, attends, form, init);
        let mut now = plan.first;
        let mut skips = vec![now];
        let mut down = Vec::new();
        for (level, multiplier) in plan.multipliers.iter().enumerate() {
            let change = if level > 0 { Some(block([now; 2], Change::Halve, false)?) } else { None };
            skips.extend(change.is_some().then_some(now));
            let mut blocks = Vec::new();
            for _ in 0..plan.blocks {
                let width = plan.channels * multiplier;
                blocks.push(block([now, width], Change::Keep, attends(level))?);
                now = width;
                skips.push(now);
            }
            down.push(Stage { change, blocks });
        }
        let middle = vec![block([now; 2], Change::Keep, true)?, block([now; 2], Change::Keep, false)?];
        let mut up = Vec::new();
        for (level, multiplier) in plan.multipliers.iter().enumerate().rev() {
            let change = if level + 1 < levels { Some(block([now; 2], Change::Double, false)?) } else { None };
            let mut blocks = Vec::new();
            for index in 0..=plan.blocks {
                let skip = skips.pop().expect("the way up has as many blocks as the way down left skips");
                let width = plan.channels * multiplier;
                let attends = attends(level) && (plan.all_up || index == plan.blocks);
                blocks.push(block([now + skip, width], Change::Keep, attends)?);
                now = width;
            }
            up.push(Stage { change, blocks });
        }
        let input = Conv::new(plan.inputs, plan.first, init);
        Ok(Self { input, down, middle, up, dropout: plan.dropout })
    }

    /// Of images and the embedding after its activation. `entered` gets the number and the images of every level but
    /// the first on the way down, right after halving, and returns what goes on; `left` gets those of every level on
    /// the way up.
    pub(super) fn forward(
        &self,
        x: Dual<4>,
        embedded: &Dual<2>,
        context: &Context,
        mut entered: impl FnMut(usize, Dual<4>) -> Dual<4>,
        mut left: impl FnMut(usize, &Dual<4>),
    ) -> Result<Dual<4>> {
        let [_, height, width, _] = x.dims();
        let levels = self.down.len();
        let divisor = 1 << (levels - 1);
        ensure!(
            height.is_multiple_of(divisor) && width.is_multiple_of(divisor),
            "images of {height} x {width} cannot be halved {} times: pad height and width to multiples of {divisor}",
            levels - 1
        );
        let dropout = Dropout::new(self.dropout, context);
        let mut h = ops::conv2d(vec![x], self.input.plain());
        let mut skips = vec![h.clone()];
        for (level, stage) in self.down.iter().enumerate() {
            if let Some(change) = &stage.change {
                h = change.forward(|| format!("trunk.down.{level}.change"), vec![h], embedded, &dropout);
                h = entered(level, h);
                skips.push(h.clone());
            }
            for (index, block) in stage.blocks.iter().enumerate() {
                h = block.forward(|| format!("trunk.down.{level}.blocks.{index}"), vec![h], embedded, &dropout);
                skips.push(h.clone());
            }
        }
        for (index, block) in self.middle.iter().enumerate() {
            h = block.forward(|| format!("trunk.middle.{index}"), vec![h], embedded, &dropout);
        }
        for (risen, stage) in self.up.iter().enumerate() {
            if let Some(change) = &stage.change {
                h = change.forward(|| format!("trunk.up.{risen}.change"), vec![h], embedded, &dropout);
            }
            for (index, block) in stage.blocks.iter().enumerate() {
                let skip = skips.pop().expect("the way up has as many blocks as the way down left skips");
                h = block.forward(|| format!("trunk.up.{risen}.blocks.{index}"), vec![h, skip], embedded, &dropout);
            }
            left(levels - 1 - risen, &h);
        }
        Ok(h)
    }
}

/// What a network of EDM knows besides the noise, as it reads it.
pub(super) struct Labels {
    /// One-hot rows, of zeros for a row without a class; none if the network knows no classes.
    pub(super) classes: Option<Dual<2>>,
    /// How every sample was augmented, if given.
    pub(super) augment: Option<Dual<2>>,
}

impl Labels {
    /// Of a batch, for a network that knows `known` classes.
    pub(super) fn new(context: &Context, known: usize) -> Result<Self> {
        let (noise, given) = (&context.noise.value, context.given);
        let like = (&noise.device(), noise.dtype());
        let rows = noise.dims()[0];
        let class = given.class_rows(rows, known)?;
        let classes = (known > 0).then(|| {
            let mut values = vec![0.0f32; rows * known];
            for (row, class) in class.iter().enumerate() {
                if let Some(class) = class {
                    values[row * known + *class as usize] = 1.0;
                }
            }
            Tensor::from_data(TensorData::new(values, [rows, known]), like).into()
        });
        Ok(Self { classes, augment: given.vector.clone().map(|vector| vector.cast(noise.dtype()).into()) })
    }
}
