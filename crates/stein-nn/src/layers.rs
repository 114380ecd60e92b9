//! Layers: an operation of [`ops`] with its parameters.

use std::cell::Cell;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    init::Init,
    ops::{self, Dual, Fir, Norm, Packed, Weighted},
    trace,
};

/// The ε of layer normalisation, PyTorch's default.
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
    pub(crate) fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, (inputs as f64).powf(-0.5), init)
    }

    pub(crate) fn zero(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, 0.0, init)
    }

    /// The same without a bias.
    pub(crate) fn unbiased(self) -> Self {
        Self { bias: None, ..self }
    }

    /// x W.
    pub(crate) fn without_bias(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::new(inputs, outputs, init).unbiased()
    }

    /// With weights of this standard deviation.
    pub(crate) fn scaled(inputs: usize, outputs: usize, std: f64, init: &mut Init) -> Self {
        let (weight, bias) = (init.normal([inputs, outputs], std), init.constant(outputs, 0.0));
        Self { weight, bias: Some(bias), packed: Packed::default() }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.weight.dims()[0]
    }

    fn weighted(&self) -> Weighted<'_, 2> {
        Weighted { weight: self.weight.val(), bias: self.bias.as_ref().map(Param::val), packed: &self.packed }
    }

    pub(crate) fn forward<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        ops::linear(x, self.weighted(), None)
    }

    /// With a residual added.
    pub(crate) fn forward_onto<const D: usize>(&self, x: Dual<D>, residual: Dual<D>) -> Dual<D> {
        ops::linear(x, self.weighted(), Some(residual))
    }

    /// As a 1 × 1 convolution, of images that may stand side by side along channels.
    pub(crate) fn conv(&self) -> ops::Conv<'_> {
        let Weighted { weight, bias, packed } = self.weighted();
        let [inputs, outputs] = weight.dims();
        ops::Conv::new(Weighted { weight: weight.reshape([1, 1, inputs, outputs]), bias, packed })
    }
}

/// A convolution, 3 × 3 unless said otherwise.
#[derive(Module, Debug)]
pub struct Conv {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: Packed,
}

impl Conv {
    pub(crate) fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(3, inputs, outputs, ((9 * inputs) as f64).powf(-0.5), init)
    }

    pub(crate) fn zero(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(3, inputs, outputs, 0.0, init)
    }

    /// Of `size` × `size` taps.
    pub(crate) fn of_size(size: usize, inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(size, inputs, outputs, ((size * size * inputs) as f64).powf(-0.5), init)
    }

    /// The same without a bias.
    pub(crate) fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    fn scaled(size: usize, inputs: usize, outputs: usize, std: f64, init: &mut Init) -> Self {
        let (weight, bias) = (init.normal([size, size, inputs, outputs], std), init.constant(outputs, 0.0));
        Self { weight, bias: Some(bias), packed: Packed::default() }
    }

    /// Of images cut into windows of its size, none over another, each a row of height · width · inputs numbers.
    pub(crate) fn of_windows(&self, windows: Dual<3>) -> Dual<3> {
        let ops::Conv { layer: Weighted { weight, bias, packed }, .. } = self.plain();
        let [height, width, inputs, outputs] = weight.dims();
        let weight = weight.reshape([height * width * inputs, outputs]);
        ops::linear(windows, Weighted { weight, bias, packed }, None)
    }

    /// The operation with nothing else: of stride 1, keeping the size of the image.
    pub(crate) fn plain(&self) -> ops::Conv<'_> {
        let bias = self.bias.as_ref().map(Param::val);
        ops::Conv::new(Weighted { weight: self.weight.val(), bias, packed: &self.packed })
    }
}

/// Normalisation over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, init: &mut Init) -> Self {
        Self { gamma: init.constant(width, 1.0), beta: init.constant(width, 0.0) }
    }

    pub(crate) fn forward<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        ops::layer_norm(x, self.gamma.val(), self.beta.val(), EPSILON, false)
    }

    /// With SiLU after it.
    pub(crate) fn forward_silu<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        ops::layer_norm(x, self.gamma.val(), self.beta.val(), EPSILON, true)
    }
}

/// Normalisation of groups of channels.
#[derive(Module, Debug)]
pub struct GroupNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    pub(crate) fn new(channels: usize, groups: usize, epsilon: f64, init: &mut Init) -> Self {
        Self { gamma: init.constant(channels, 1.0), beta: init.constant(channels, 0.0), groups, epsilon }
    }

    /// The operation, without or with SiLU after it.
    pub(crate) fn norm(&self, silu: bool) -> Norm {
        Norm {
            gamma: self.gamma.val(),
            beta: self.beta.val(),
            groups: self.groups,
            epsilon: self.epsilon,
            modulation: None,
            silu,
        }
    }
}

/// Places of an image attending to all its places: scale · (h + W_o softmax(q kᵀ/√d) v + b_o) with q, k, v linear in GN h.
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
    /// `heads` divides `channels`.
    pub(crate) fn new(norm: GroupNorm, channels: usize, heads: usize, scale: f64, init: &mut Init) -> Self {
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

    pub(crate) fn forward(&self, h: Dual<4>) -> Dual<4> {
        let [n, height, width, c] = h.dims();
        let rows = |x: Dual<4>| x.reshape([n, height * width, c]);
        let x = rows(ops::group_norm(h.clone(), &self.norm.norm(false)));
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
pub(crate) enum Resample {
    /// None.
    #[default]
    Keep,
    /// Every place repeated in both directions.
    Nearest,
    /// The mean of 2 × 2 places.
    Mean,
    /// A filter.
    Filter(Fir),
}

impl Resample {
    pub(crate) fn apply(&self, x: Dual<4>) -> Dual<4> {
        match self {
            Self::Keep => x,
            Self::Nearest => ops::upsample_nearest(x),
            Self::Mean => ops::average_pool(x),
            Self::Filter(filter) => ops::fir_resample(x, filter),
        }
    }
}

/// What a [`ResBlock`] is made of besides its channels and norms.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockForm {
    /// The width of the embedding, if it takes one.
    pub(crate) embedding: Option<usize>,
    /// Whether the embedding gives a scale and a shift of the second norm instead of a shift of the first convolution.
    pub(crate) modulate: bool,
    /// Divides the sum with the skip; 0 stands for 1.
    pub(crate) rescale: f64,
    /// The change of size, after the first norm and on the skip.
    pub(crate) resample: Resample,
    /// Whether the skip has weights even where the number of channels stays.
    pub(crate) skip: bool,
}

/// A residual block (He et al., arXiv:1512.03385, in the form of DDPM and its followers):
///
/// (S R h + K₂ drop(silu(GN(K₁ R silu(GN h) + W e)))) / rescale, with R a change of size, S the identity or a linear map, or
/// with (scale, shift) = W e: K₂ drop(silu((1 + scale) GN(K₁ R silu(GN h)) + shift)).
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
    resample: Resample,
}

impl ResBlock {
    /// The norms are of `inputs` and `outputs` channels.
    pub(crate) fn new(
        [inputs, outputs]: [usize; 2],
        form: BlockForm,
        first_norm: GroupNorm,
        second_norm: GroupNorm,
        init: &mut Init,
    ) -> Self {
        let first = Conv::new(inputs, outputs, init);
        let told = if form.modulate { 2 * outputs } else { outputs };
        let embedding = form.embedding.map(|wide| Linear::new(wide, told, init));
        Self {
            first_norm,
            first,
            embedding,
            second_norm,
            second: Conv::zero(outputs, outputs, init),
            skip: (form.skip || inputs != outputs).then(|| Linear::new(inputs, outputs, init)),
            modulate: form.modulate,
            scale: if form.rescale == 0.0 { 1.0 } else { 1.0 / form.rescale },
            resample: form.resample,
        }
    }

    /// Of images side by side along channels, and of an embedding that went through its activation.
    pub(crate) fn forward(&self, mut parts: Vec<Dual<4>>, embedded: Option<Dual<2>>, dropout: &Dropout) -> Dual<4> {
        let told = self.embedding.as_ref().zip(embedded).map(|(layer, embedded)| layer.forward(embedded));
        let (shift, modulation) = match (told, self.modulate) {
            (Some(told), true) => {
                let half = told.dims()[1] / 2;
                let part = |from: usize| told.clone().linear(|x| x.narrow(1, from, half));
                (None, Some((part(0), part(half))))
            }
            (told, _) => (told, None),
        };
        let norm = self.first_norm.norm(true);
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
            let normal = ops::group_norm(branch.clone(), &self.second_norm.norm(false));
            trace::note(|| "second_norm".to_owned(), &normal);
        }
        if self.resample != Resample::Keep {
            parts = parts.into_iter().map(|part| self.resample.apply(part)).collect();
        }
        let residual = match &self.skip {
            Some(skip) => ops::conv2d(parts, skip.conv()),
            None => Dual::cat(parts, 3),
        };
        let (residual, norm) = (Some(residual), ops::Norm { modulation, ..self.second_norm.norm(true) });
        let second = ops::Conv { residual, scale: self.scale, ..self.second.plain() };
        if dropout.is_on() {
            let branch = dropout.forward(ops::group_norm(branch, &norm));
            return ops::conv2d(vec![branch], second);
        }
        ops::conv2d(vec![branch], ops::Conv { norm: Some(norm), ..second })
    }
}

/// Inverted dropout (Srivastava et al., 2014) in one pass through a network: values are kept with probability 1 − rate
/// and divided by it. The masks are a function of the key and of their order in the pass; without a key nothing drops.
pub(crate) struct Dropout {
    rate: f64,
    key: Option<u64>,
    drawn: Cell<u64>,
}

impl Dropout {
    pub(crate) fn new(rate: f64, key: Option<u64>) -> Self {
        Self { rate, key: key.filter(|_| rate > 0.0), drawn: Cell::new(0) }
    }

    /// Whether it drops anything.
    pub(crate) fn is_on(&self) -> bool {
        self.key.is_some()
    }

    pub(crate) fn forward(&self, x: Dual<4>) -> Dual<4> {
        let Some(key) = self.key else { return x };
        let mut rng = ChaCha8Rng::seed_from_u64(key);
        rng.set_stream(self.drawn.replace(self.drawn.get() + 1));
        let limit = (self.rate * 2f64.powi(32)) as u32;
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        let mask =
            (0..x.value.shape().num_elements()).map(|_| if rng.next_u32() < limit { 0.0 } else { kept }).collect();
        let mask = Tensor::from_data(TensorData::new(mask, x.dims()), (&x.value.device(), x.value.dtype()));
        x.linear(|x| x * mask.clone())
    }
}
