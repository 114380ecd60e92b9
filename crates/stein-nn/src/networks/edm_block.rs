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

use super::{
    units::{Norms, Units, check_dropout, check_halvings, check_multipliers},
    walk::{At, Walk},
};
use crate::{
    init::Init,
    layers::{Attention, BlockForm, Conv, Dropout, ResBlock, Resample},
    ops::Dual,
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
pub(crate) struct EdmForm {
    /// The form of residual blocks; those that change the size may have a skip with weights.
    pub(crate) block: BlockForm,
    /// What normalizations add to the variance.
    pub(crate) epsilon: f64,
    /// The heads of blocks that attend.
    pub(crate) heads: Heads,
    /// Taps of the filter of changes of size; see [`check_filter`].
    pub(crate) filter: Vec<f32>,
}

/// What a block does to the size of its images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Size {
    /// Nothing.
    Keep,
    /// Halves it.
    Halve,
    /// Doubles it.
    Double,
}

impl Size {
    /// The change of size with a filter. That of two equal taps is a mean, or a repetition.
    pub(super) fn with(self, filter: &[f32]) -> Resample {
        let even = matches!(filter, [a, b] if a == b);
        let taps = if even { &[] } else { filter };
        match self {
            Self::Keep => Resample::Keep,
            Self::Halve => Resample::halving(taps),
            Self::Double => Resample::doubling(taps),
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
        size: Size,
        attends: bool,
        form: &EdmForm,
        init: &mut Init,
    ) -> Result<Self> {
        check_filter(&form.filter)?;
        let units = Units { form: form.block.clone(), norms: norms(form.epsilon) };
        let residual = units.block([inputs, outputs], size.with(&form.filter), init)?;
        let heads = match form.heads {
            Heads::Count(count) => count,
            Heads::Channels(channels) => {
                ensure!(channels > 0, "the heads of attention have 0 channels: give a positive number, such as 64");
                outputs / channels
            }
        };
        let attends = attends && heads > 0;
        let attention = attends.then(|| units.attention(&units.norms, outputs, heads, init)).transpose()?;
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

/// Normalizations of groups of at least four channels.
pub(super) fn norms(epsilon: f64) -> Norms {
    Norms { groups: None, epsilon }
}

/// The number and the channels of a trunk's blocks.
pub(super) struct TrunkPlan<'a> {
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

impl TrunkPlan<'_> {
    fn check(&self) -> Result<()> {
        let Self { height, inputs, multipliers, dropout, .. } = *self;
        ensure!(inputs > 0, "network.inputs is 0: give the number of channels of the images, such as 3");
        check_multipliers(multipliers)?;
        let divisor = 1 << (multipliers.len() - 1);
        ensure!(
            height > 0 && height.is_multiple_of(divisor),
            "network.height is {height}: with {} multipliers give a positive multiple of {divisor}",
            multipliers.len()
        );
        check_dropout(dropout)
    }
}

/// The blocks of one level, and before them the one that changes the size.
#[derive(Module, Debug, Default)]
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
    #[module(skip)]
    walk: Walk,
}

impl Trunk {
    pub(super) fn new(plan: &TrunkPlan, form: &EdmForm, init: &mut Init) -> Result<Self> {
        plan.check()?;
        let walk = Walk { levels: plan.multipliers.len(), blocks: plan.blocks };
        let width = |level: usize| plan.channels * plan.multipliers[level];
        let attends = |level: usize| plan.attention.contains(&(plan.height >> level));
        let [mut down, mut up] = [walk.stages::<Stage>(), walk.stages()];
        let mut middle = Vec::new();
        walk.all(plan.first, |at, parts| {
            init.at_level(at.level(walk));
            let mut block = |channels, size, attends| EdmBlock::new(channels, size, attends, form, init);
            let inputs = parts.iter().sum();
            let (to, outputs, attends) = match at {
                At::Halve { level } => {
                    down[level + 1].change = Some(block([inputs; 2], Size::Halve, false)?);
                    return Ok(inputs);
                }
                At::Double { stage } => {
                    up[stage + 1].change = Some(block([parts[0]; 2], Size::Double, false)?);
                    return Ok(parts[0]);
                }
                At::Down { level, .. } => (&mut down[level].blocks, width(level), attends(level)),
                At::Middle { unit } => (&mut middle, inputs, unit == 0),
                At::Up { stage, level, unit } => {
                    let here = plan.all_up || unit == plan.blocks;
                    (&mut up[stage].blocks, width(level), here && attends(level))
                }
            };
            to.push(block([inputs, outputs], Size::Keep, attends)?);
            Ok(outputs)
        })?;
        let input = Conv::new(plan.inputs, plan.first, init);
        Ok(Self { input, down, middle, up, dropout: plan.dropout, walk })
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
        check_halvings([height, width], self.walk.halvings())?;
        let dropout = Dropout::new(self.dropout, context);
        let change = |stages: &[Stage], way: &str, number: usize, h: Dual<4>| {
            let block = stages[number].change.as_ref().expect("every stage but the first begins with a change of size");
            block.forward(|| format!("trunk.{way}.{number}.change"), vec![h], embedded, &dropout)
        };
        self.walk.all(self.input.forward(x), |at, mut parts| {
            let unit =
                |block: &EdmBlock, name: &dyn Fn() -> String, parts| block.forward(name, parts, embedded, &dropout);
            Ok(match at {
                At::Down { level, unit: n } => {
                    unit(&self.down[level].blocks[n], &|| format!("trunk.down.{level}.blocks.{n}"), parts)
                }
                At::Halve { level } => entered(level + 1, change(&self.down, "down", level + 1, parts.remove(0))),
                At::Middle { unit: n } => unit(&self.middle[n], &|| format!("trunk.middle.{n}"), parts),
                At::Up { stage, level, unit: n } => {
                    let h = unit(&self.up[stage].blocks[n], &|| format!("trunk.up.{stage}.blocks.{n}"), parts);
                    if n == self.walk.blocks {
                        left(level, &h);
                    }
                    h
                }
                At::Double { stage } => change(&self.up, "up", stage + 1, parts.remove(0)),
            })
        })
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
