//! The layers networks are made of: an operation of [`ops`] with its parameters.
//!
//! A network of one's own is a struct of them that implements burn's `Module` and [`Network`](stein::Network), and a config
//! that says how it is built; registered under a name it is read from files like all others:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use stein::{Context, Dual, Network, Result, ensure};
//! use stein_nn::{
//!     BuildNetwork, EmbeddingConfig, NetworkConfig, Takes,
//!     burn::{self, module::Module},
//!     layers::{Embedding, Init, LayerNorm, Linear},
//! };
//!
//! /// One residual block: W₂ silu(LN(W₁ x + W e)) for the embedding e of noise and class.
//! #[derive(Module, Debug)]
//! struct Tiny {
//!     embedding: Embedding,
//!     first: Linear,
//!     shift: Linear,
//!     norm: LayerNorm,
//!     last: Linear,
//! }
//!
//! impl Network for Tiny {
//!     fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
//!         ensure!(x.dims()[1] == self.first.inputs(), "the batch has rows of another width");
//!         // Nothing that is given and not taken is ignored.
//!         Takes { classes: self.embedding.classes(), ..Takes::default() }.check(context, x.dims()[0])?;
//!         let e = self.embedding.forward(context.noise.clone(), context.given)?;
//!         let h = self.first.forward_onto(x, self.shift.forward(e));
//!         Ok(self.last.forward(self.norm.forward_silu(h)))
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize, Default)]
//! #[serde(default, deny_unknown_fields)]
//! struct TinyConfig {
//!     width: usize,
//! }
//!
//! impl BuildNetwork for TinyConfig {
//!     type Net = Tiny;
//!
//!     fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Tiny> {
//!         ensure!(self.width > 0, "network.width is 0: give the width of the network, such as 32");
//!         let dim = shape.iter().product();
//!         Ok(Tiny {
//!             embedding: Embedding::new(&EmbeddingConfig::default(), 8, 16, classes, init)?,
//!             first: Linear::new(dim, self.width, init),
//!             shift: Linear::new(16, self.width, init),
//!             norm: LayerNorm::new(self.width, init),
//!             last: Linear::zero(self.width, dim, init),
//!         })
//!     }
//! }
//!
//! NetworkConfig::register::<TinyConfig>("tiny");
//! let config: NetworkConfig = toml::from_str("kind = \"tiny\"\nwidth = 32").unwrap();
//! let network = config.build(&[2], 0, 1, &stein::Device::flex().autodiff())?;
//! assert_eq!(network.parameters(), 4 + 8 * 16 + 16 + 16 * 16 + 16 + 3 * 32 + 17 * 32 + 2 * 32 + 33 * 2);
//! # Ok::<(), stein::Error>(())
//! ```

use std::cell::Cell;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData},
};
use rand::Rng;
use rayon::prelude::*;
use stein::{Context, Key, Keys, Purpose};

use crate::{
    ops::{self, Activation, Dual, Fir, Norm, Packed, Weighted},
    trace,
};

pub use crate::{
    embedding::{Embedding, Frequencies},
    init::Init,
};

/// The ε of layer and batch normalization, PyTorch's default.
const EPSILON: f64 = 1e-5;

/// x W + b over the last axis.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: Packed,
}

impl Linear {
    /// Of weights N(0, 1/inputs), and a bias of zeros.
    pub fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, (inputs as f64).powf(-0.5), init)
    }

    /// Of zeros.
    pub fn zero(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, 0.0, init)
    }

    /// The same without a bias.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// With weights of this standard deviation.
    pub fn scaled(inputs: usize, outputs: usize, std: f64, init: &mut Init) -> Self {
        let (weight, bias) = (init.normal([inputs, outputs], std), init.constant(outputs, 0.0));
        Self { weight, bias: Some(bias), packed: Packed::default() }
    }

    /// The size of the last axis it takes.
    pub fn inputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// The size of the last axis it gives.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[1]
    }

    fn weighted(&self) -> Weighted<'_, 2> {
        Weighted { weight: self.weight.val(), bias: self.bias.as_ref().map(Param::val), packed: &self.packed }
    }

    /// Of `x` `[…, inputs]`: `[…, outputs]`.
    pub fn forward<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        ops::linear(x, self.weighted(), None)
    }

    /// With the weight times a mask of its shape.
    pub(crate) fn forward_masked<const D: usize>(&self, x: Dual<D>, mask: Tensor<2>) -> Dual<D> {
        let Weighted { weight, bias, .. } = self.weighted();
        ops::linear(x, Weighted { weight: weight * mask, bias, packed: &Packed::default() }, None)
    }

    /// With a residual added.
    pub fn forward_onto<const D: usize>(&self, x: Dual<D>, residual: Dual<D>) -> Dual<D> {
        ops::linear(x, self.weighted(), Some(residual))
    }

    /// As a 1 × 1 convolution, of images that may stand side by side along channels.
    pub fn conv(&self) -> ops::Conv<'_> {
        let Weighted { weight, bias, packed } = self.weighted();
        let [inputs, outputs] = weight.dims();
        ops::Conv::new(Weighted { weight: weight.reshape([1, 1, inputs, outputs]), bias, packed })
    }
}

/// A convolution, 3 × 3 unless said otherwise, over images `[N, H, W, inputs]`.
#[derive(Module, Debug)]
pub struct Conv {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: Packed,
}

impl Conv {
    /// Of weights N(0, 1/(9 · inputs)), and a bias of zeros.
    pub fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::of_size([3, 3], inputs, outputs, init)
    }

    /// Of zeros.
    pub fn zero(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled([3, 3], inputs, outputs, 0.0, init)
    }

    /// Of this many taps down and across, and weights N(0, 1/(taps · inputs)).
    pub fn of_size(kernel: [usize; 2], inputs: usize, outputs: usize, init: &mut Init) -> Self {
        let [height, width] = kernel;
        Self::scaled(kernel, inputs, outputs, ((height * width * inputs) as f64).powf(-0.5), init)
    }

    /// Of this many taps down and across, and weights of this standard deviation.
    pub fn scaled([height, width]: [usize; 2], inputs: usize, outputs: usize, std: f64, init: &mut Init) -> Self {
        let (weight, bias) = (init.normal([height, width, inputs, outputs], std), init.constant(outputs, 0.0));
        Self { weight, bias: Some(bias), packed: Packed::default() }
    }

    /// The same without a bias.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// Of images `[N, H, W, inputs]`, with stride 1 and padded so that they keep their size: `[N, H, W, outputs]`.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        ops::conv2d(vec![x], self.plain())
    }

    /// Of images cut into windows of its size that do not overlap, each a row of height · width · inputs numbers:
    /// `[N, windows, height · width · inputs]` to `[N, windows, outputs]`.
    pub fn of_windows(&self, windows: Dual<3>) -> Dual<3> {
        let ops::Conv { layer: Weighted { weight, bias, packed }, .. } = self.plain();
        let [height, width, inputs, outputs] = weight.dims();
        let weight = weight.reshape([height * width * inputs, outputs]);
        ops::linear(windows, Weighted { weight, bias, packed }, None)
    }

    /// The gradient by the weight of a number whose gradient by what [`forward`](Self::forward) makes of `x` is `slope`, of the shape of
    /// that. The weight is on a tape.
    ///
    /// # Panics
    /// If the weight is a constant.
    pub fn weight_slope(&self, x: Tensor<4>, slope: Tensor<4>) -> Tensor<4> {
        let number = (self.forward(x.detach().into()).value * slope.autodiff()).sum();
        self.weight.val().grad_remove(&mut number.backward()).expect("the weight is on a tape")
    }

    /// The operation with nothing else: of stride 1, keeping the size of the image.
    pub fn plain(&self) -> ops::Conv<'_> {
        let bias = self.bias.as_ref().map(Param::val);
        ops::Conv::new(Weighted { weight: self.weight.val(), bias, packed: &self.packed })
    }
}

/// Normalization over the last axis: (x − mean)/√(var + ε) · γ + β, ε being 1e-5 unless said otherwise.
#[derive(Module, Debug)]
pub struct LayerNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    /// Of γ = 1 and β = 0.
    pub fn new(width: usize, init: &mut Init) -> Self {
        Self { gamma: init.constant(width, 1.0), beta: init.constant(width, 0.0), epsilon: EPSILON }
    }

    /// The same with another ε.
    #[must_use]
    pub fn with_epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// Of `x` `[…, width]`, whose shape stays.
    pub fn forward<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        ops::layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon, false)
    }

    /// With SiLU after it.
    pub fn forward_silu<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        ops::layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon, true)
    }
}

/// Normalization of groups of channels of images `[N, H, W, channels]`: see [`ops::Norm`].
#[derive(Module, Debug)]
pub struct GroupNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// Of γ = 1 and β = 0. `groups` divides `channels`.
    pub fn new(channels: usize, groups: usize, epsilon: f64, init: &mut Init) -> Self {
        Self { gamma: init.constant(channels, 1.0), beta: init.constant(channels, 0.0), groups, epsilon }
    }

    /// Of images, whose shape stays.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        ops::group_norm(x, &self.norm(None))
    }

    /// With SiLU after it.
    pub fn forward_silu(&self, x: Dual<4>) -> Dual<4> {
        ops::group_norm(x, &self.norm(Some(Activation::Silu)))
    }

    /// The operation, without or with an activation after it, for a convolution to do first.
    pub fn norm(&self, activation: Option<Activation>) -> Norm {
        Norm {
            gamma: self.gamma.val(),
            beta: self.beta.val(),
            groups: self.groups,
            epsilon: self.epsilon,
            modulation: None,
            activation,
        }
    }
}

/// Normalization of every channel of images `[N, H, W, channels]` over all positions of all images (Ioffe & Szegedy, arXiv:1502.03167):
/// (x − mean)/√(var + 1e-5) · γ + β.
///
/// The statistics are always those of the batch at hand, as in training: what it gives for an image depends on the others.
#[derive(Module, Debug)]
pub struct BatchNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

impl BatchNorm {
    /// Of γ ~ N(1, std²) and β = 0.
    pub fn new(channels: usize, std: f64, init: &mut Init) -> Self {
        let gamma = init.normals(channels, std).into_iter().map(|value| 1.0 + value).collect();
        Self { gamma: init.given([channels], gamma), beta: init.constant(channels, 0.0) }
    }

    /// Of images, whose shape stays, with an activation after it.
    pub fn forward(&self, x: Dual<4>, activation: Activation) -> Dual<4> {
        let [n, height, width, channels] = x.dims();
        // All images below each other are one, whose channels are groups of their own.
        let norm = Norm {
            gamma: self.gamma.val(),
            beta: self.beta.val(),
            groups: channels,
            epsilon: EPSILON,
            modulation: None,
            activation: Some(activation),
        };
        ops::group_norm(x.reshape([1, n * height, width, channels]), &norm).reshape([n, height, width, channels])
    }
}

/// Positions of an image attending to all its positions: scale · (h + W_o softmax(q kᵀ/√d) v + b_o) with q, k, v linear in
/// GN h, in heads of d channels.
#[derive(Module, Debug)]
pub struct Attention {
    norm: GroupNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    heads: usize,
    scale: f64,
}

impl Attention {
    /// With W_o = 0. `heads` divides `channels`, which are those of the norm.
    pub fn new(norm: GroupNorm, channels: usize, heads: usize, scale: f64, init: &mut Init) -> Self {
        Self {
            norm,
            queries: Linear::new(channels, channels, init),
            keys: Linear::new(channels, channels, init),
            values: Linear::new(channels, channels, init),
            output: Linear::zero(channels, channels, init),
            heads,
            scale,
        }
    }

    /// Of images `[N, H, W, channels]`, whose shape stays.
    pub fn forward(&self, h: Dual<4>) -> Dual<4> {
        let [n, height, width, c] = h.dims();
        let rows = |x: Dual<4>| x.reshape([n, height * width, c]);
        let x = rows(ops::group_norm(h.clone(), &self.norm.norm(None)));
        let (q, k, v) = (self.queries.forward(x.clone()), self.keys.forward(x.clone()), self.values.forward(x));
        trace::note(|| "queries".to_owned(), &q);
        trace::note(|| "keys".to_owned(), &k);
        trace::note(|| "values".to_owned(), &v);
        let attended = ops::attention(q, k, v, self.heads);
        let y = self.output.forward_onto(attended, rows(h)).reshape([n, height, width, c]);
        if self.scale == 1.0 { y } else { y.linear(|y| y * self.scale) }
    }
}

/// A change of size of images, inside a block or between levels.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Resample {
    /// None.
    #[default]
    Keep,
    /// Every position repeated in both directions.
    Nearest,
    /// The mean of 2 × 2 positions.
    Mean,
    /// A filter.
    Filter(Fir),
}

impl Resample {
    /// To half the size, by a filter of these taps along either axis, or by the mean if there are none.
    pub fn halving(taps: &[f32]) -> Self {
        if taps.is_empty() { Self::Mean } else { Self::Filter(Fir::halving(taps)) }
    }

    /// To twice the size, by a filter of these taps along either axis, or by repetition if there are none.
    pub fn doubling(taps: &[f32]) -> Self {
        if taps.is_empty() { Self::Nearest } else { Self::Filter(Fir::doubling(taps)) }
    }

    /// Of images `[N, H, W, C]`: `[N, H', W', C]`.
    pub fn apply(&self, x: Dual<4>) -> Dual<4> {
        match self {
            Self::Keep => x,
            Self::Nearest => ops::upsample_nearest(x),
            Self::Mean => ops::average_pool(x),
            Self::Filter(filter) => ops::fir_resample(x, filter),
        }
    }
}

/// What a [`ResBlock`] is made of besides its channels and norms.
#[derive(Debug, Clone)]
pub struct BlockForm {
    /// The taps of its convolutions down and across, both odd.
    pub kernel: [usize; 2],
    /// The width of the embedding, if it takes one.
    pub embedding: Option<usize>,
    /// Whether the embedding gives a scale and a shift of the second norm instead of a shift of the first convolution.
    pub modulate: bool,
    /// The activation after its norms.
    pub activation: Activation,
    /// Divides the sum with the skip.
    pub rescale: f64,
    /// The change of size, after the first norm and on the skip.
    pub resample: Resample,
    /// Whether the skip has weights even where the number of channels stays.
    pub skip: bool,
}

/// 3 × 3 taps, SiLU, a plain sum and nothing else.
impl Default for BlockForm {
    fn default() -> Self {
        let (kernel, activation, resample) = ([3, 3], Activation::Silu, Resample::Keep);
        Self { kernel, embedding: None, modulate: false, activation, rescale: 1.0, resample, skip: false }
    }
}

impl BlockForm {
    /// What sums with skips are multiplied by.
    pub fn scale(&self) -> f64 {
        1.0 / self.rescale
    }
}

/// A residual block (He et al., arXiv:1512.03385, in the form of DDPM and its followers):
///
/// (S R h + K₂ drop(silu(GN(K₁ R silu(GN h) + W e)))) / rescale, with R a change of size, S the identity or a linear map, or
/// with (scale, shift) = W e: K₂ drop(silu((1 + scale) GN(K₁ R silu(GN h)) + shift)). Another activation may stand for silu.
#[derive(Module, Debug)]
pub struct ResBlock {
    first_norm: GroupNorm,
    first: Conv,
    embedding: Option<Linear>,
    second_norm: GroupNorm,
    second: Conv,
    skip: Option<Linear>,
    modulate: bool,
    scale: f64,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    resample: Resample,
}

impl ResBlock {
    /// The norms are of `inputs` and `outputs` channels.
    pub fn new(
        [inputs, outputs]: [usize; 2],
        form: BlockForm,
        first_norm: GroupNorm,
        second_norm: GroupNorm,
        init: &mut Init,
    ) -> Self {
        let first = Conv::of_size(form.kernel, inputs, outputs, init);
        let shifts = if form.modulate { 2 * outputs } else { outputs };
        let embedding = form.embedding.map(|wide| Linear::new(wide, shifts, init));
        Self {
            first_norm,
            first,
            embedding,
            second_norm,
            second: Conv::scaled(form.kernel, outputs, outputs, 0.0, init),
            skip: (form.skip || inputs != outputs).then(|| Linear::new(inputs, outputs, init)),
            modulate: form.modulate,
            scale: form.scale(),
            activation: form.activation,
            resample: form.resample,
        }
    }

    /// Of images `[N, H, W, C_i]` side by side along channels, Σ C_i = inputs, and of an embedding `[N, width]` after its
    /// activation: `[N, H', W', outputs]`.
    ///
    /// ```
    /// use stein_nn::{burn::tensor::Tensor, layers::{BlockForm, Dropout, GroupNorm, Init, ResBlock}};
    ///
    /// let device = stein::Device::flex();
    /// let mut init = Init::new(1, &device);
    /// let [first, second] = [8, 16].map(|channels| GroupNorm::new(channels, 4, 1e-5, &mut init));
    /// let block = ResBlock::new([8, 16], BlockForm::default(), first, second, &mut init);
    /// let [a, b] = [3, 5].map(|channels| Tensor::<4>::ones([2, 6, 6, channels], &device).into());
    /// assert_eq!(block.forward(vec![a, b], None, &Dropout::none()).dims(), [2, 6, 6, 16]);
    /// ```
    pub fn forward(&self, mut parts: Vec<Dual<4>>, embedded: Option<Dual<2>>, dropout: &Dropout) -> Dual<4> {
        let shifts = self.embedding.as_ref().zip(embedded).map(|(layer, embedded)| layer.forward(embedded));
        let (shift, modulation) = match (shifts, self.modulate) {
            (Some(shifts), true) => {
                let half = shifts.dims()[1] / 2;
                let part = |from: usize| shifts.clone().linear(|x| x.narrow(1, from, half));
                (None, Some((part(0), part(half))))
            }
            (shifts, _) => (shifts, None),
        };
        let norm = self.first_norm.norm(Some(self.activation));
        let first = ops::Conv { shift, ..self.first.plain() };
        let branch = match &self.resample {
            Resample::Keep => ops::conv2d(parts.clone(), ops::Conv { norm: Some(norm), ..first }),
            Resample::Nearest => ops::conv2d(parts.clone(), ops::Conv { norm: Some(norm), upsample: true, ..first }),
            resample => {
                let x = resample.apply(ops::group_norm(Dual::cat(parts.clone(), 3), &norm));
                ops::conv2d(vec![x], first)
            }
        };
        if trace::is_on() {
            let normal = ops::group_norm(branch.clone(), &self.second_norm.norm(None));
            trace::note(|| "second_norm".to_owned(), &normal);
        }
        if self.resample != Resample::Keep {
            parts = parts.into_iter().map(|part| self.resample.apply(part)).collect();
        }
        let residual = match &self.skip {
            Some(skip) => ops::conv2d(parts, skip.conv()),
            None => Dual::cat(parts, 3),
        };
        let (residual, norm) =
            (Some(residual), ops::Norm { modulation, ..self.second_norm.norm(Some(self.activation)) });
        let second = ops::Conv { residual, scale: self.scale, ..self.second.plain() };
        if dropout.is_on() {
            let branch = dropout.forward(ops::group_norm(branch, &norm));
            return ops::conv2d(vec![branch], second);
        }
        ops::conv2d(vec![branch], ops::Conv { norm: Some(norm), ..second })
    }
}

/// Inverted dropout (Srivastava et al., 2014) in one pass through a network: values are kept with probability 1 − rate
/// and divided by it.
///
/// The mask of a row is a function of the row's key and of the number of the dropout layer in the pass, however the batch is cut;
/// without keys nothing drops.
pub struct Dropout<'a> {
    rate: f64,
    keys: Option<&'a Keys>,
    layer: Cell<u64>,
}

impl<'a> Dropout<'a> {
    /// For one pass with this context; `rate` is in \[0, 1).
    pub fn new(rate: f64, context: &Context<'a>) -> Self {
        Self { rate, keys: context.dropout.filter(|_| rate > 0.0), layer: Cell::new(0) }
    }

    /// For a pass in which nothing drops.
    pub fn none() -> Self {
        Self { rate: 0.0, keys: None, layer: Cell::new(0) }
    }

    /// Whether it drops anything.
    pub fn is_on(&self) -> bool {
        self.keys.is_some()
    }

    /// The next dropout layer of the pass, of `x` `[rows, …]`.
    ///
    /// # Panics
    /// If there are keys, but not one per row.
    pub fn forward<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        let Some(keys) = self.keys else { return x };
        assert_eq!(keys.len(), x.dims()[0], "dropout has one key per row");
        let layer = self.layer.replace(self.layer.get() + 1);
        let each: Vec<Key> = keys.each(Purpose::Dropout, layer).collect();
        let limit = (self.rate * 2f64.powi(32)) as u32;
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        let count = x.value.shape().num_elements();
        let mut mask = vec![0f32; count];
        mask.par_chunks_mut((count / each.len().max(1)).max(1)).zip(each).for_each(|(row, key)| {
            let mut generator = key.generator();
            row.iter_mut().for_each(|value| *value = if generator.next_u32() < limit { 0.0 } else { kept });
        });
        let mask = Tensor::from_data(TensorData::new(mask, x.dims()), (&x.value.device(), x.value.dtype()));
        x.linear(|x| x * mask.clone())
    }
}
