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
    ops::{self, Dual, Norm, Packed, Weighted},
};

/// The ε of layer normalisation, PyTorch's default.
const EPSILON: f64 = 1e-5;

/// x W + b over the last axis.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
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

    fn scaled(inputs: usize, outputs: usize, std: f64, init: &mut Init) -> Self {
        let (weight, bias) = (init.normal([inputs, outputs], std), init.constant(outputs, 0.0));
        Self { weight, bias, packed: Packed::default() }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.weight.dims()[0]
    }

    fn weighted(&self) -> Weighted<'_, 2> {
        Weighted { weight: self.weight.val(), bias: Some(self.bias.val()), packed: &self.packed }
    }

    pub(crate) fn forward<const D: usize>(&self, x: Dual<D>) -> Dual<D> {
        ops::linear(x, self.weighted(), None)
    }

    /// With a residual added.
    pub(crate) fn forward_onto<const D: usize>(&self, x: Dual<D>, residual: Dual<D>) -> Dual<D> {
        ops::linear(x, self.weighted(), Some(residual))
    }

    /// Over the channels of images that stand side by side along them.
    pub(crate) fn forward_parts(&self, parts: Vec<Dual<4>>) -> Dual<4> {
        let Weighted { weight, bias, packed } = self.weighted();
        let [inputs, outputs] = weight.dims();
        ops::conv2d(parts, ops::Conv::new(Weighted { weight: weight.reshape([1, 1, inputs, outputs]), bias, packed }))
    }
}

/// A 3 × 3 convolution.
#[derive(Module, Debug)]
pub struct Conv {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    packed: Packed,
}

impl Conv {
    pub(crate) fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, ((9 * inputs) as f64).powf(-0.5), init)
    }

    pub(crate) fn zero(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, 0.0, init)
    }

    fn scaled(inputs: usize, outputs: usize, std: f64, init: &mut Init) -> Self {
        let (weight, bias) = (init.normal([3, 3, inputs, outputs], std), init.constant(outputs, 0.0));
        Self { weight, bias, packed: Packed::default() }
    }

    /// The operation with nothing else: of stride 1, keeping the size of the image.
    pub(crate) fn plain(&self) -> ops::Conv<'_> {
        ops::Conv::new(Weighted { weight: self.weight.val(), bias: Some(self.bias.val()), packed: &self.packed })
    }
}

/// Normalisation over the last axis, and SiLU after it.
#[derive(Module, Debug)]
pub struct LayerNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, init: &mut Init) -> Self {
        Self { gamma: init.constant(width, 1.0), beta: init.constant(width, 0.0) }
    }

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
