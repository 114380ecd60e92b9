//! The operations networks are made of, on channels-last tensors `[N, H, W, C]`.
//!
//! Every layer is built on these functions only. Each has up to three forms behind one name: on the CPU in f32 a kernel of
//! `stein-simd` with a backward of its own, elsewhere (a GPU, f64) a composition of burn operations; and beside the value
//! of a [`Dual`] its tangent. The compositions say what an operation is; the tests compare the kernels with them.

mod buffer;
mod cpu;
mod engine;
mod extension;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Tensor;
use stein_simd::{Isa, attention::AttentionShape, convolution::Shape};

use cpu::Change;
use extension::{Inputs, takes};

pub use cpu::Packed;
pub use stein::Dual;
pub use stein_simd::activation::Activation;

/// The format products are computed in on the CPU; sums, norms, softmax, losses and weights are f32 in either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits of significand.
    F32,
    /// Factors rounded to 8 bits, twice as many products an instruction.
    Bf16,
}

static BF16: AtomicBool = AtomicBool::new(false);

impl Precision {
    /// The format in use, for the whole process.
    pub fn current() -> Self {
        if BF16.load(Ordering::Relaxed) { Self::Bf16 } else { Self::F32 }
    }

    /// Uses this format from now on and tells which one is in use: bf16 only where the processor multiplies it.
    pub fn set(self) -> Self {
        BF16.store(self == Self::Bf16 && Isa::best().has_bf16(), Ordering::Relaxed);
        Self::current()
    }
}

/// A weight and its bias, with the kernels' own copy of the weight.
#[derive(Clone)]
pub struct Weighted<'a, const D: usize> {
    /// `[inputs, outputs]`, or `[height, width, inputs, outputs]` of a convolution.
    pub weight: Tensor<D>,
    /// `[outputs]`
    pub bias: Option<Tensor<1>>,
    /// See [`Packed`].
    pub packed: &'a Packed,
}

/// x W + b, plus a residual, over the last axis: `x` `[…, inputs]`, result `[…, outputs]`.
pub fn linear<const D: usize>(x: Dual<D>, layer: Weighted<2>, residual: Option<Dual<D>>) -> Dual<D> {
    let Weighted { weight, bias, packed } = layer;
    let product = |x: Tensor<D>, bias: Option<Tensor<1>>, residual: Option<Tensor<D>>| {
        if !takes(&x) {
            return engine::linear(x, weight.clone(), bias, residual);
        }
        let mut shape = x.dims().to_vec();
        let inputs = std::mem::replace(&mut shape[D - 1], weight.dims()[1]);
        let (has_bias, has_residual) = (bias.is_some(), residual.is_some());
        Inputs::default().with(x).with(weight.clone()).and(bias).and(residual).apply(cpu::Dense {
            shape,
            inputs,
            bias: has_bias,
            residual: has_residual,
            packed: packed.share(),
        })
    };
    let tangents = (x.tangent, residual.as_ref().and_then(|residual| residual.tangent.clone()));
    let tangent = match tangents {
        (Some(x), residual) => Some(product(x, None, residual)),
        (None, residual) => residual,
    };
    Dual { value: product(x.value, bias, residual.map(|residual| residual.value)), tangent }
}

/// An activation, elementwise.
pub fn activate<const D: usize>(x: Dual<D>, kind: Activation) -> Dual<D> {
    let tangent = x.tangent.map(|tangent| engine::slope(x.value.clone(), kind) * tangent);
    let value = if takes(&x.value) {
        let shape = x.value.dims().to_vec();
        Inputs::default().with(x.value).apply(cpu::Activate { shape, kind })
    } else {
        engine::activate(x.value, kind)
    };
    Dual { value, tangent }
}

/// x · sigmoid(x), elementwise (Elfwing et al., arXiv:1702.03118).
pub fn silu<const D: usize>(x: Dual<D>) -> Dual<D> {
    activate(x, Activation::Silu)
}

/// (x − mean) / sqrt(var + epsilon) · gamma + beta over the last axis (Ba et al., arXiv:1607.06450), `gamma` and `beta`
/// `[C]`; then [`silu`] if asked for.
pub fn layer_norm<const D: usize>(x: Dual<D>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64, silu: bool) -> Dual<D> {
    let shape = x.value.dims().to_vec();
    let tangent = x.tangent.map(|tangent| {
        let (normal, direction) = engine::normal_and_tangent(x.value.clone(), tangent, &[D - 1], epsilon);
        let mut wide = [1; D];
        wide[D - 1] = shape[D - 1];
        let (gamma, beta) = (gamma.clone().reshape(wide), beta.clone().reshape(wide));
        engine::scaled_tangent(normal, direction, gamma, beta, silu)
    });
    let value = if takes(&x.value) {
        let inputs = Inputs::default().with(x.value).with(gamma).with(beta);
        inputs.apply(cpu::LayerNorm { shape, epsilon, silu })
    } else {
        engine::layer_norm(x.value, gamma, beta, epsilon, silu)
    };
    Dual { value, tangent }
}

/// Normalization of each group of C/groups channels over all places of an image (Wu & He, arXiv:1803.08494); groups of one
/// channel make it instance normalization.
#[derive(Clone)]
pub struct Norm {
    /// `[C]`
    pub gamma: Tensor<1>,
    /// `[C]`
    pub beta: Tensor<1>,
    /// A divisor of C.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// A scale and a shift of every sample, `[N, C]` each: y (1 + scale) + shift (Dhariwal & Nichol, arXiv:2105.05233).
    pub modulation: Option<(Dual<2>, Dual<2>)>,
    /// Whether [`silu`] follows.
    pub silu: bool,
}

impl Norm {
    fn sizes(&self) -> cpu::GroupNorm {
        cpu::GroupNorm {
            groups: self.groups,
            epsilon: self.epsilon,
            silu: self.silu,
            modulated: self.modulation.is_some(),
        }
    }

    fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        self.modulation.as_ref().map(|(scale, shift)| (scale.value.clone(), shift.value.clone()))
    }

    fn has_tangent(&self) -> bool {
        self.modulation.as_ref().is_some_and(|(scale, shift)| scale.tangent.is_some() || shift.tangent.is_some())
    }
}

/// [`Norm`] of `x` `[N, H, W, C]`.
///
/// # Panics
/// If the groups do not divide C.
pub fn group_norm(x: Dual<4>, norm: &Norm) -> Dual<4> {
    let tangent = (x.tangent.is_some() || norm.has_tangent()).then(|| engine::group_norm_tangent(&x, norm));
    let value = if takes(&x.value) {
        let shape = x.value.dims();
        let (scale, shift) = norm.factors().unzip();
        let inputs = Inputs::default().with(x.value).with(norm.gamma.clone()).with(norm.beta.clone());
        inputs.and(scale).and(shift).apply(cpu::Norm { shape, norm: norm.sizes() })
    } else {
        engine::group_norm(x.value, norm)
    };
    Dual { value, tangent }
}

/// What a convolution does besides the sum over taps and channels.
#[derive(Clone)]
pub struct Conv<'a> {
    /// Weight `[height, width, inputs, outputs]` and bias.
    pub layer: Weighted<'a, 4>,
    /// 1 or 2.
    pub stride: usize,
    /// Zeros above, below, left and right.
    pub pad: [usize; 4],
    /// A normalization of its input.
    pub norm: Option<Norm>,
    /// Whether every place of the input is repeated twice down and twice across first, after the normalization.
    pub upsample: bool,
    /// Added to all places, `[N, outputs]`.
    pub shift: Option<Dual<2>>,
    /// Added, of the shape of the output.
    pub residual: Option<Dual<4>>,
    /// Multiplies the sum of all; 1 for none.
    pub scale: f64,
}

impl<'a> Conv<'a> {
    /// A convolution of stride 1 that keeps the size of the image, its kernel being odd.
    pub fn new(layer: Weighted<'a, 4>) -> Self {
        let [height, width, ..] = layer.weight.dims();
        let pad = [height / 2, height / 2, width / 2, width / 2];
        Self { layer, stride: 1, pad, norm: None, upsample: false, shift: None, residual: None, scale: 1.0 }
    }
}

/// Cross-correlation of tensors `[N, H, W, channels of the part]` that stand side by side along channels, with zero
/// padding: result `[N, H', W', outputs]`.
///
/// # Panics
/// If the sizes do not fit.
pub fn conv2d(parts: Vec<Dual<4>>, conv: Conv) -> Dual<4> {
    let from_input =
        parts.iter().any(|part| part.tangent.is_some()) || conv.norm.as_ref().is_some_and(Norm::has_tangent);
    let shift = conv.shift.as_ref().and_then(|shift| shift.tangent.clone());
    let residual = conv.residual.as_ref().and_then(|residual| residual.tangent.clone());
    let tangent = (from_input || shift.is_some() || residual.is_some()).then(|| {
        let x = Dual::cat(parts.clone(), 3);
        let tangent = match &conv.norm {
            Some(norm) => engine::group_norm_tangent(&x, norm),
            None => x.tangent_or_zero(),
        };
        let linear = Conv {
            layer: Weighted { bias: None, ..conv.layer.clone() },
            norm: None,
            shift: shift.map(Dual::from),
            residual: residual.map(Dual::from),
            ..conv.clone()
        };
        conv2d(vec![tangent.into()], linear).value
    });
    let mut parts: Vec<_> = parts.into_iter().map(|part| part.value).collect();
    // `Operands` have room for two, with all else there may be.
    if parts.len() > 2 {
        parts = vec![Tensor::cat(parts, 3)];
    }
    let value = if takes(&parts[0]) { convolve(parts, conv) } else { engine::conv2d(parts, &conv) };
    Dual { value, tangent }
}

fn convolve(parts: Vec<Tensor<4>>, conv: Conv) -> Tensor<4> {
    let Conv { layer: Weighted { weight, bias, packed }, stride, pad, norm, upsample, shift, residual, scale } = conv;
    let [samples, height, width, _] = parts[0].dims();
    let [kh, kw, inputs, outputs] = weight.dims();
    let repeat = if upsample { 2 } else { 1 };
    let operation = cpu::Conv {
        shape: Shape {
            samples,
            height: height * repeat,
            width: width * repeat,
            inputs,
            outputs,
            kernel: [kh, kw],
            stride,
            pad,
        },
        parts: parts.len(),
        repeat,
        norm: norm.as_ref().map(Norm::sizes),
        bias: bias.is_some(),
        shift: shift.is_some(),
        residual: residual.is_some(),
        scale: scale as f32,
        packed: packed.share(),
    };
    let (factor, summand) = norm.as_ref().and_then(Norm::factors).unzip();
    parts
        .into_iter()
        .fold(Inputs::default(), Inputs::with)
        .with(weight)
        .and(norm.as_ref().map(|norm| norm.gamma.clone()))
        .and(norm.as_ref().map(|norm| norm.beta.clone()))
        .and(factor)
        .and(summand)
        .and(bias)
        .and(shift.map(|shift| shift.value))
        .and(residual.map(|residual| residual.value))
        .apply(operation)
}

/// Every place repeated twice down and twice across: `[N, H, W, C]` to `[N, 2H, 2W, C]`.
pub fn upsample_nearest(x: Dual<4>) -> Dual<4> {
    x.linear(|x| match takes(&x) {
        true => resample(x, Change::Repeat),
        false => engine::upsample_nearest(x),
    })
}

/// The mean of every 2 × 2 square: `[N, H, W, C]` to `[N, H/2, W/2, C]`.
///
/// # Panics
/// If H or W is odd.
pub fn average_pool(x: Dual<4>) -> Dual<4> {
    x.linear(|x| match takes(&x) {
        true => resample(x, Change::Mean),
        false => engine::average_pool(x),
    })
}

fn resample(x: Tensor<4>, change: Change) -> Tensor<4> {
    let shape = x.dims();
    Inputs::default().with(x).apply(cpu::Resample { shape, change })
}

/// A resampling filter along both axes, as StyleGAN2 (Karras et al., arXiv:1912.04958) and NCSN++ use it: `up` − 1 zeros after
/// every number, zeros before and after all, a convolution with the kernel, and every `down`-th number.
#[derive(Debug, Clone, PartialEq)]
pub struct Fir {
    /// Taps along one axis; the same along the other.
    pub kernel: Vec<f32>,
    /// The factor of up-sampling.
    pub up: usize,
    /// The factor of down-sampling.
    pub down: usize,
    /// Zeros before and after, along both axes.
    pub pad: [usize; 2],
    /// Multiplies the result.
    pub gain: f64,
}

impl Fir {
    /// Taps that sum to one.
    fn normalized(kernel: &[f32]) -> Vec<f32> {
        let sum: f32 = kernel.iter().sum();
        kernel.iter().map(|tap| tap / sum).collect()
    }

    /// Twice as high and wide, the mean of an image kept.
    pub fn doubling(kernel: &[f32]) -> Self {
        let over = kernel.len().saturating_sub(2);
        let pad = [over.div_ceil(2) + 1, over / 2];
        Self { kernel: Self::normalized(kernel), up: 2, down: 1, pad, gain: 4.0 }
    }

    /// Half as high and wide, the mean of an image kept.
    pub fn halving(kernel: &[f32]) -> Self {
        let over = kernel.len().saturating_sub(2);
        Self { kernel: Self::normalized(kernel), up: 1, down: 2, pad: [over.div_ceil(2), over / 2], gain: 1.0 }
    }

    fn shape(&self, [n, h, w, c]: [usize; 4]) -> [usize; 4] {
        let size = |size: usize| (size * self.up + self.pad[0] + self.pad[1] - self.kernel.len()) / self.down + 1;
        [n, size(h), size(w), c]
    }
}

/// [`Fir`] of `x` `[N, H, W, C]`.
///
/// # Panics
/// If the filter is longer than the padded image.
pub fn fir_resample(x: Dual<4>, filter: &Fir) -> Dual<4> {
    x.linear(|x| {
        if !takes(&x) {
            return engine::fir_resample(x, filter);
        }
        let shape = x.dims();
        Inputs::default().with(x).apply(cpu::Filter { shape, filter: filter.clone() })
    })
}

/// softmax(q kᵀ / √d) v, per head of d = C/heads channels (Vaswani et al., arXiv:1706.03762): `q` `[N, places, C]`, `k`
/// and `v` `[N, places of the keys, C]`, result like `q`. The matrix of scores is never stored (Dao et al.,
/// arXiv:2205.14135).
///
/// # Panics
/// If `heads` does not divide C.
pub fn attention(q: Dual<3>, k: Dual<3>, v: Dual<3>, heads: usize) -> Dual<3> {
    let [samples, queries, channels] = q.dims();
    assert!(channels.is_multiple_of(heads), "{heads} heads do not divide {channels} channels");
    let some = q.tangent.is_some() || k.tangent.is_some() || v.tangent.is_some();
    let tangent = some.then(|| engine::attention_tangent(&q, &k, &v, heads));
    let value = if takes(&q.value) {
        let keys = k.dims();
        let head = channels / heads;
        let sizes = AttentionShape { samples, queries, keys: keys[1], heads, head };
        let scale = (head as f32).powf(-0.5);
        let shape = vec![samples, queries, channels];
        let operation = cpu::Attention { shape, sizes, scale, keys: keys.to_vec() };
        Inputs::default().with(q.value).with(k.value).with(v.value).apply(operation)
    } else {
        engine::attention(q.value, k.value, v.value, heads)
    };
    Dual { value, tangent }
}

/// Cosines and sines of angles `[N, K]`, side by side: `[N, 2K]`.
pub fn cos_sin(angles: Dual<2>) -> Dual<2> {
    let tangent = angles.tangent.map(|tangent| {
        let (cos, sin) = (angles.value.clone().cos(), angles.value.clone().sin());
        Tensor::cat(vec![-(sin * tangent.clone()), cos * tangent], 1)
    });
    let value = if takes(&angles.value) {
        let shape = angles.value.dims();
        Inputs::default().with(angles.value).apply(cpu::CosSin { shape })
    } else {
        Tensor::cat(vec![angles.value.clone().cos(), angles.value.sin()], 1)
    };
    Dual { value, tangent }
}
