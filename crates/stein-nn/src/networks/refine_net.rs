//! The dilated RefineNet of NCSN and NCSNv2 (Lin et al., arXiv:1611.06612; Yu et al., arXiv:1705.09914).
//!
//! Going down, every stage is two residual blocks, with ν = [`InstanceNorm`] and elu of Clevert et al.,
//! arXiv:1511.07289, or another activation in its place everywhere:
//!
//! block(h) = S h + K₂ elu(ν(K₁ elu(ν h)))
//!
//! The first block of a stage may halve the image, S and K₂ being followed by the mean of 2 × 2 positions, or keep its
//! size and dilate all convolutions. Going up, a refinement per stage merges what the stage returned with the
//! refinement below it: both go through residual convolution units, h + K elu(K elu h) twice; then, with R a resize to
//! the size of the stage, Σ R K h; then chained pooling, with P a 5 × 5 pooling,
//!
//! h₀ = p₀ = elu h,  p_{i+1} = K P p_i,  h_{i+1} = h_i + p_{i+1},  i = 0, 1;
//!
//! then one more residual convolution unit, three in the last refinement. In a network that knows its noise level, ν comes
//! before every elu and K of the way up, and P is the mean; otherwise there is no ν there and P is the maximum.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData, ops::PadMode},
};
use stein::{Context, Result, ensure};

use super::{
    Nonlinearity, Takes,
    interpolate::{Grid, interpolate},
};
use crate::{
    init::Init,
    layers::Conv,
    ops::{self, Activation, Dual, Fir, Norm, Windows},
    trace::note,
};

/// What instance normalization adds to a variance.
const EPSILON: f64 = 1e-5;
/// Standard deviation of fresh gains, around 1.
const SPREAD: f64 = 0.02;
/// Width of the window of a chained pooling.
const WINDOW: usize = 5;

/// What the first block of a stage does to its images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StageKind {
    /// Nothing.
    Keep,
    /// Halves them.
    Halve,
    /// Keeps them, with taps that many positions apart in the whole stage.
    Dilate(usize),
}

/// The stages for images of height 28 to 64: channels over those of the first stage, and the change.
pub(super) const FOUR_STAGES: &[(usize, StageKind)] =
    &[(1, StageKind::Keep), (2, StageKind::Halve), (2, StageKind::Dilate(2)), (2, StageKind::Dilate(4))];

/// The size and form of a RefineNet.
pub(super) struct RefineNetForm<'a> {
    /// Channels of the first stage.
    pub(super) channels: usize,
    /// Channels of the images.
    pub(super) inputs: usize,
    /// Channels of the result.
    pub(super) outputs: usize,
    /// As in [`FOUR_STAGES`].
    pub(super) stages: &'a [(usize, StageKind)],
    /// Noise levels.
    pub(super) levels: usize,
    /// Whether normalizations depend on the level.
    pub(super) conditional: bool,
    /// Whether images in \[0, 1\] are mapped to \[−1, 1\] first.
    pub(super) centers: bool,
    /// The activation.
    pub(super) nonlinearity: Nonlinearity,
}

/// What all layers of a pass are given besides their input.
struct Pass {
    /// The noise level of every sample.
    index: Tensor<1, Int>,
    activation: Activation,
}

/// A dilated RefineNet.
#[derive(Module, Debug)]
pub struct RefineNet {
    input: Conv,
    stages: Vec<Vec<Block>>,
    refine: Vec<Refine>,
    norm: InstanceNorm,
    output: Conv,
    inputs: usize,
    levels: usize,
    divisor: usize,
    centers: bool,
    #[module(skip)]
    activation: Activation,
}

impl RefineNet {
    pub(super) fn new(form: &RefineNetForm, init: &mut Init) -> Result<Self> {
        let RefineNetForm { channels, inputs, outputs, stages, levels, conditional, centers, nonlinearity } = *form;
        ensure!(
            channels > 1,
            "network.channels is {channels}: give at least 2, since the normalization compares channels with each other"
        );
        ensure!(
            inputs > 0 && outputs > 0,
            "network.inputs is {inputs} and network.outputs is {outputs}: give the number of channels of the images"
        );
        ensure!(levels > 0, "network.levels is 0: give the number of noise levels the network knows");
        let known = conditional.then_some(levels);
        let widths: Vec<usize> = stages.iter().map(|(multiplier, _)| channels * multiplier).collect();
        let input = Conv::new(inputs, channels, init);
        let mut now = channels;
        let mut down = Vec::new();
        let halvings = |stages: &[(usize, StageKind)]| stages.iter().filter(|(_, it)| *it == StageKind::Halve).count();
        for (stage, (&width, &(_, change))) in widths.iter().zip(stages).enumerate() {
            init.at_level(halvings(&stages[..=stage]));
            let within = if change == StageKind::Halve { StageKind::Keep } else { change };
            let first = Block::new([now, width], change, change != StageKind::Keep, known, init);
            down.push(vec![first, Block::new([width, width], within, false, known, init)]);
            now = width;
        }
        let refine = (0..stages.len())
            .rev()
            .map(|stage| {
                init.at_level(halvings(&stages[..=stage]));
                let lowest = stage + 1 == stages.len();
                let inputs = if lowest { vec![now] } else { vec![widths[stage], now] };
                now = if lowest { now } else { widths[stage.saturating_sub(1)] };
                Refine::new(&inputs, now, stage == 0, known, init)
            })
            .collect();
        Ok(Self {
            input,
            stages: down,
            refine,
            norm: InstanceNorm::new(now, known, init),
            output: Conv::new(now, outputs, init),
            inputs,
            levels,
            divisor: 1 << halvings(stages),
            centers,
            activation: nonlinearity.into(),
        })
    }

    /// The noise levels of a batch.
    pub(super) fn levels(&self, noise: &Dual<1>) -> Result<Vec<usize>> {
        let count = self.levels;
        let level = |number: f64| {
            ensure!(
                number.fract() == 0.0 && number >= 0.0 && number < count as f64,
                "the noise number {number} is no noise level of this network: give whole numbers from 0 to {}",
                count - 1
            );
            Ok(number as usize)
        };
        noise.value.to_data().iter::<f64>().map(level).collect()
    }

    /// Of images at these levels.
    pub(super) fn forward(&self, x: Dual<4>, levels: &[usize], context: &Context) -> Result<Dual<4>> {
        let x = Takes::default().input(x, context, self.inputs)?;
        let [n, height, width, _] = x.dims();
        ensure!(
            height % self.divisor == 0 && width % self.divisor == 0,
            "images of {height} x {width} cannot be halved by this network: both have to be divisible by {}",
            self.divisor
        );
        let index = TensorData::new(levels.iter().map(|level| *level as i64).collect(), [n]);
        let index = Tensor::from_data(index, &x.value.device());
        let pass = &Pass { index, activation: self.activation };
        let mut h = x;
        if self.centers {
            h = h.linear(|x| x * 2.0);
            h.value = h.value - 1.0;
        }
        h = ops::conv2d(vec![h], self.input.plain());
        let mut returned = Vec::new();
        for (stage, blocks) in self.stages.iter().enumerate() {
            for (which, block) in blocks.iter().enumerate() {
                h = block.forward(h, pass);
                note(|| format!("stages.{stage}.{which}"), &h);
            }
            returned.push(h.clone());
        }
        let mut below = None;
        for (which, (refine, h)) in self.refine.iter().zip(returned.into_iter().rev()).enumerate() {
            let h = refine.forward(std::iter::once(h).chain(below).collect(), pass);
            note(|| format!("refine.{which}"), &h);
            below = Some(h);
        }
        let h = below.expect("a RefineNet has stages");
        let h = ops::group_norm(h.clone(), &self.norm.of(&h, pass));
        note(|| "norm".to_owned(), &h);
        Ok(ops::conv2d(vec![pass.activate(h)], self.output.plain()))
    }
}

/// A residual block of the way down.
#[derive(Module, Debug)]
struct Block {
    first_norm: InstanceNorm,
    first: Conv,
    second_norm: InstanceNorm,
    second: Conv,
    skip: Option<Conv>,
    #[module(skip)]
    change: StageKind,
}

impl Block {
    fn new(
        [inputs, outputs]: [usize; 2],
        change: StageKind,
        skip: bool,
        levels: Option<usize>,
        init: &mut Init,
    ) -> Self {
        let size = if change == StageKind::Halve { 1 } else { 3 };
        Self {
            first_norm: InstanceNorm::new(inputs, levels, init),
            first: Conv::new(inputs, inputs, init),
            second_norm: InstanceNorm::new(inputs, levels, init),
            second: Conv::new(inputs, outputs, init),
            skip: skip.then(|| Conv::of_size([size; 2], inputs, outputs, init)),
            change,
        }
    }

    fn forward(&self, x: Dual<4>, pass: &Pass) -> Dual<4> {
        let dilation = if let StageKind::Dilate(dilation) = self.change { dilation } else { 1 };
        let h = convolve(self.first_norm.activated(x.clone(), pass), &self.first, dilation, None);
        let h = self.second_norm.activated(h, pass);
        let skip = |x, residual| match &self.skip {
            Some(layer) => convolve(x, layer, dilation, residual),
            None => x,
        };
        if self.change == StageKind::Halve {
            let h = ops::average_pool(convolve(h, &self.second, 1, None));
            // The mean and a convolution of one tap commute; this order is a quarter of the work.
            return skip(ops::average_pool(x), Some(h));
        }
        convolve(h, &self.second, dilation, Some(skip(x, None)))
    }
}

/// A refinement.
#[derive(Module, Debug)]
struct Refine {
    adapt: Vec<Vec<Unit>>,
    merge: Vec<Unit>,
    pool: Vec<Unit>,
    output: Vec<Unit>,
}

impl Refine {
    /// Of images of these channels.
    fn new(inputs: &[usize], outputs: usize, last: bool, levels: Option<usize>, init: &mut Init) -> Self {
        let units = |count: usize, channels: usize, init: &mut Init| -> Vec<Unit> {
            (0..count).map(|_| Unit::new([channels, channels], levels, init).without_bias()).collect()
        };
        let merged = if inputs.len() > 1 { inputs } else { &[] };
        Self {
            adapt: inputs.iter().map(|channels| units(4, *channels, init)).collect(),
            merge: merged.iter().map(|channels| Unit::new([*channels, outputs], levels, init)).collect(),
            pool: units(2, outputs, init),
            output: units(if last { 6 } else { 2 }, outputs, init),
        }
    }

    /// The result has the size of the first of the images.
    fn forward(&self, images: Vec<Dual<4>>, pass: &Pass) -> Dual<4> {
        let [_, height, width, _] = images[0].dims();
        let adapted = images.into_iter().zip(&self.adapt).map(|(h, units)| residual_units(units, h, pass));
        let h = if self.merge.is_empty() {
            adapted.last()
        } else {
            let merged = adapted
                .zip(&self.merge)
                .map(|(h, unit)| interpolate(unit.forward(h, pass), [height, width], Grid::Corners));
            merged.reduce(|sum, h| sum + h)
        };
        let mut h = pass.activate(h.expect("a refinement has images to refine"));
        let mut path = h.clone();
        for unit in &self.pool {
            path = unit.forward_pooled(path, pass);
            h = h + path.clone();
        }
        residual_units(&self.output, h, pass)
    }
}

/// Residual convolution units: every two convolutions with a skip over them.
fn residual_units(units: &[Unit], h: Dual<4>, pass: &Pass) -> Dual<4> {
    units.chunks_exact(2).fold(h, |h, pair| {
        let inner = pair[0].forward_activated(h.clone(), None, pass);
        pair[1].forward_activated(inner, Some(h), pass)
    })
}

/// A convolution of the way up, and the normalization before it in a network that knows its level.
#[derive(Module, Debug)]
struct Unit {
    norm: Option<InstanceNorm>,
    conv: Conv,
}

impl Unit {
    fn new([inputs, outputs]: [usize; 2], levels: Option<usize>, init: &mut Init) -> Self {
        let norm = levels.map(|levels| InstanceNorm::new(inputs, Some(levels), init));
        Self { norm, conv: Conv::new(inputs, outputs, init) }
    }

    fn without_bias(self) -> Self {
        Self { conv: self.conv.without_bias(), ..self }
    }

    fn forward(&self, h: Dual<4>, pass: &Pass) -> Dual<4> {
        let norm = self.norm.as_ref().map(|norm| norm.of(&h, pass));
        ops::conv2d(vec![h], ops::Conv { norm, ..self.conv.plain() })
    }

    fn forward_activated(&self, h: Dual<4>, residual: Option<Dual<4>>, pass: &Pass) -> Dual<4> {
        let h = match &self.norm {
            Some(norm) => norm.activated(h, pass),
            None => pass.activate(h),
        };
        convolve(h, &self.conv, 1, residual)
    }

    fn forward_pooled(&self, h: Dual<4>, pass: &Pass) -> Dual<4> {
        let h = match &self.norm {
            Some(norm) => mean_pool(ops::group_norm(h.clone(), &norm.of(&h, pass))),
            None => ops::max_pool(h, &Windows::around(WINDOW)),
        };
        convolve(h, &self.conv, 1, None)
    }
}

/// InstanceNorm++ (Song & Ermon, arXiv:1907.05600, appendix A), which keeps what instance normalization (Ulyanov et
/// al., arXiv:1607.08022) removes: how the means of the channels differ. With μ the means of the channels of an image,
/// m and v their mean and their unbiased variance,
///
/// γ ((x − μ)/√(var + ε) + α (μ − m)/√(v + ε)) + β
#[derive(Module, Debug)]
enum InstanceNorm {
    /// The same γ, α and β always.
    One(Gains),
    /// γ, α and β of the noise level.
    PerLevel(Table),
}

#[derive(Module, Debug)]
struct Gains {
    gamma: Param<Tensor<1>>,
    alpha: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

/// `[levels, 3 C]`: γ, α and β side by side.
#[derive(Module, Debug)]
struct Table {
    table: Param<Tensor<2>>,
}

impl InstanceNorm {
    fn new(channels: usize, levels: Option<usize>, init: &mut Init) -> Self {
        let mut around_one =
            |count: usize| -> Vec<f32> { init.normals(count, SPREAD).iter().map(|x| x + 1.0).collect() };
        let Some(levels) = levels else {
            let (gamma, alpha) = (around_one(channels), around_one(channels));
            return Self::One(Gains {
                gamma: init.given([channels], gamma),
                alpha: init.given([channels], alpha),
                beta: init.constant(channels, 0.0),
            });
        };
        let mut table = around_one(3 * channels * levels);
        table.chunks_exact_mut(3 * channels).for_each(|row| row[2 * channels..].fill(0.0));
        Self::PerLevel(Table { table: init.given([levels, 3 * channels], table) })
    }

    /// γ, α and β of every sample, `[N, C]` each.
    fn rows(&self, index: &Tensor<1, Int>) -> [Tensor<2>; 3] {
        match self {
            Self::One(Gains { gamma, alpha, beta }) => [gamma, alpha, beta].map(|row| {
                let row = row.val();
                let channels = row.dims()[0];
                row.reshape([1, channels]).expand([index.dims()[0], channels])
            }),
            Self::PerLevel(Table { table }) => {
                let rows = table.val().select(0, index.clone());
                let channels = rows.dims()[1] / 3;
                [0, 1, 2].map(|part| rows.clone().narrow(1, part * channels, channels))
            }
        }
    }

    /// The operation for these images.
    fn of(&self, x: &Dual<4>, pass: &Pass) -> Norm {
        let [n, _, _, c] = x.dims();
        let (device, kind) = (x.value.device(), x.value.dtype());
        let (one, zero) = (Tensor::<1>::ones([c], (&device, kind)), Tensor::<1>::zeros([c], (&device, kind)));
        let [gamma, alpha, beta] = self.rows(&pass.index);
        let means = x.clone().linear(|x| x.mean_dim(1).mean_dim(2).reshape([n, c]));
        // Layer normalization divides by the biased variance, which is this part of the unbiased one.
        let part = (c - 1) as f64 / c as f64;
        let means = ops::layer_norm(means, one.clone() * part.sqrt(), zero.clone(), EPSILON * part, false);
        let along = gamma.clone() * alpha;
        let mut shift = means.linear(|means| means * along.clone());
        shift.value = shift.value + beta;
        let modulation = Some(((gamma - 1.0).into(), shift));
        Norm { gamma: one, beta: zero, groups: c, epsilon: EPSILON, modulation, activation: None }
    }

    fn activated(&self, x: Dual<4>, pass: &Pass) -> Dual<4> {
        let norm = self.of(&x, pass);
        pass.activate(ops::group_norm(x, &norm))
    }
}

impl Pass {
    fn activate(&self, x: Dual<4>) -> Dual<4> {
        ops::activate(x, self.activation)
    }
}

/// A convolution of taps `dilation` positions apart, which is one of adjacent taps on every phase of the image.
fn convolve(x: Dual<4>, layer: &Conv, dilation: usize, residual: Option<Dual<4>>) -> Dual<4> {
    let [_, height, width, _] = x.dims();
    let residual = residual.map(|x| phases(x, dilation));
    let y = ops::conv2d(vec![phases(x, dilation)], ops::Conv { residual, ..layer.plain() });
    joined(y, dilation, [height, width])
}

/// Every `step`-th position down and across, from each of the first positions, as images of their own: `[N, H, W, C]` to
/// `[N step², ⌈H/step⌉, ⌈W/step⌉, C]`, with zeros where they reach out of the image.
fn phases(x: Dual<4>, step: usize) -> Dual<4> {
    if step == 1 {
        return x;
    }
    let [n, h, w, c] = x.dims();
    let [high, wide] = [h, w].map(|size| size.div_ceil(step));
    let over = [high * step - h, wide * step - w];
    x.linear(|x| {
        let x = if over == [0, 0] { x } else { x.pad([(0, over[0]), (0, over[1]), (0, 0)], PadMode::Constant(0.0)) };
        let x = x.reshape([n, high, step, wide, step, c]).permute([0, 2, 4, 1, 3, 5]);
        x.reshape([n * step * step, high, wide, c])
    })
}

/// The images of this size that [`phases`] were taken of.
fn joined(x: Dual<4>, step: usize, [height, width]: [usize; 2]) -> Dual<4> {
    if step == 1 {
        return x;
    }
    let [count, high, wide, c] = x.dims();
    let n = count / (step * step);
    x.linear(|x| {
        let x = x.reshape([n, step, step, high, wide, c]).permute([0, 3, 1, 4, 2, 5]);
        x.reshape([n, high * step, wide * step, c]).narrow(1, 0, height).narrow(2, 0, width)
    })
}

/// The mean over a window around every position, positions outside the image counting as zeros.
fn mean_pool(x: Dual<4>) -> Dual<4> {
    let filter =
        Fir { kernel: vec![1.0; WINDOW], up: 1, down: 1, pad: [WINDOW / 2; 2], gain: 1.0 / (WINDOW * WINDOW) as f64 };
    ops::fir_resample(x, &filter)
}
