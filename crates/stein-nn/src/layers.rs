//! Layers: an operation of [`ops`] with its parameters.

use std::cell::Cell;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{init::Init, ops};

/// The ε of both normalisations, PyTorch's default.
const EPSILON: f64 = 1e-5;

/// x W + b over the last axis.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, (inputs as f64).powf(-0.5), init)
    }

    pub(crate) fn zero(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, 0.0, init)
    }

    fn scaled(inputs: usize, outputs: usize, std: f64, init: &mut Init) -> Self {
        Self { weight: init.normal([inputs, outputs], std), bias: init.constant(outputs, 0.0) }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.weight.dims()[0]
    }

    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), Some(self.bias.val()))
    }
}

/// A 3 × 3 convolution that keeps the size of the image, or halves it with stride 2.
#[derive(Module, Debug)]
pub struct Conv {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    stride: usize,
}

impl Conv {
    pub(crate) fn new(inputs: usize, outputs: usize, stride: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, stride, ((9 * inputs) as f64).powf(-0.5), init)
    }

    pub(crate) fn zero(inputs: usize, outputs: usize, init: &mut Init) -> Self {
        Self::scaled(inputs, outputs, 1, 0.0, init)
    }

    fn scaled(inputs: usize, outputs: usize, stride: usize, std: f64, init: &mut Init) -> Self {
        Self { weight: init.normal([outputs, inputs, 3, 3], std), bias: init.constant(outputs, 0.0), stride }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::conv2d(x, self.weight.val(), self.bias.val(), self.stride)
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

    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.gamma.val(), self.beta.val(), EPSILON)
    }
}

/// Normalisation of groups of channels. The number of groups is the largest divisor of C that is at most C/4 and 32.
#[derive(Module, Debug)]
pub struct GroupNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    groups: usize,
}

impl GroupNorm {
    pub(crate) fn new(channels: usize, init: &mut Init) -> Self {
        let groups = (1..=(channels / 4).min(32)).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1);
        Self { gamma: init.constant(channels, 1.0), beta: init.constant(channels, 0.0), groups }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::group_norm(x, self.gamma.val(), self.beta.val(), self.groups, EPSILON)
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

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let Some(key) = self.key else { return x };
        let mut rng = ChaCha8Rng::seed_from_u64(key);
        rng.set_stream(self.drawn.replace(self.drawn.get() + 1));
        let limit = (self.rate * 2f64.powi(32)) as u32;
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        let mask = (0..x.shape().num_elements()).map(|_| if rng.next_u32() < limit { 0.0 } else { kept }).collect();
        let mask = Tensor::from_data(TensorData::new(mask, x.dims()), (&x.device(), x.dtype()));
        x * mask
    }
}
