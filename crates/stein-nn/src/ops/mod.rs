//! The operations networks are made of, on channels-last tensors `[N, H, W, C]`.
//!
//! Every layer is built on these functions only. Each has up to three forms behind one name: on the CPU in f32 a kernel of
//! `stein-simd` with a backward of its own, elsewhere (a GPU, f64) a composition of burn operations; and beside the value
//! of a [`Dual`] its tangent. The compositions say what an operation is; the tests compare the kernels with them.
//!
//! A tangent is computed by kernels too where nothing is on a tape: neither value, tangent nor weights. Those kernels read
//! what the value's left, the moments of a normalization or the sums of attention. Where anything is on a tape, tangents are
//! compositions, whose gradients are exact. A weight that is not on a tape is packed for the kernels once, for values and for
//! gradients of inputs, and nothing is kept for a gradient that nobody asks for.

mod buffer;
mod cpu;
mod engine;
mod extension;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Tensor, TensorData};
use stein_simd::{Isa, attention::AttentionShape, convolution::Shape};

use cpu::Change;
use extension::{Inputs, Left, takes};

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

/// Whether a value or its tangent is on a tape.
fn tracked<const D: usize>(x: &Dual<D>) -> bool {
    x.value.is_tracked() || x.tangent.as_ref().is_some_and(Tensor::is_tracked)
}

/// What a value leaves for its tangent, where there is one and kernels compute it: kernels of tangents have no backward.
fn left(wanted: bool, tracked: bool) -> Option<Left> {
    (wanted && !tracked).then(Left::default)
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
    let by_kernel = takes(&x.value) && !tracked(&x);
    let shape = x.value.dims().to_vec();
    let tangent = x.tangent.map(|tangent| match by_kernel {
        true => {
            let inputs = Inputs::default().with(x.value.clone()).with(tangent);
            inputs.apply(cpu::ActivateTangent { shape: shape.clone(), kind })
        }
        false => engine::slope(x.value.clone(), kind) * tangent,
    });
    let value = if takes(&x.value) {
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
    if !takes(&x.value) || tracked(&x) || gamma.is_tracked() || beta.is_tracked() || x.tangent.is_none() {
        return layer_norm_on_tape(x, gamma, beta, epsilon, silu);
    }
    let left = Left::default();
    let parameters = |inputs: Inputs| inputs.with(gamma.clone()).with(beta.clone());
    let operation = cpu::LayerNorm { shape: shape.clone(), epsilon, silu, left: Some(left.clone()) };
    let value = parameters(Inputs::default().with(x.value.clone())).apply(operation);
    let tangent = x.tangent.map(|tangent| {
        parameters(Inputs::default().with(x.value).with(tangent)).apply(cpu::LayerNormTangent { shape, silu, left })
    });
    Dual { value, tangent }
}

/// [`layer_norm`] with a differentiable tangent.
fn layer_norm_on_tape<const D: usize>(
    x: Dual<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    silu: bool,
) -> Dual<D> {
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
        inputs.apply(cpu::LayerNorm { shape, epsilon, silu, left: None })
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
    /// What follows; [`silu`] in the same pass.
    pub activation: Option<Activation>,
}

impl Norm {
    /// Whether [`silu`] follows.
    fn silu(&self) -> bool {
        self.activation == Some(Activation::Silu)
    }

    /// Itself without what follows, and that, where it takes a pass of its own.
    fn split(&self) -> Option<(Self, Activation)> {
        let after = self.activation.filter(|kind| *kind != Activation::Silu)?;
        Some((Self { activation: None, ..self.clone() }, after))
    }

    fn sizes(&self) -> cpu::GroupNorm {
        cpu::GroupNorm {
            groups: self.groups,
            epsilon: self.epsilon,
            silu: self.silu(),
            modulated: self.modulation.is_some(),
        }
    }

    fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        self.modulation.as_ref().map(|(scale, shift)| (scale.value.clone(), shift.value.clone()))
    }

    /// Whether any of its parameters is on a tape.
    fn tracked(&self) -> bool {
        let modulated = self.modulation.as_ref().is_some_and(|(scale, shift)| tracked(scale) || tracked(shift));
        modulated || self.gamma.is_tracked() || self.beta.is_tracked()
    }

    /// Appends what the kernels of its tangent read besides the input and its tangent.
    fn append_tangents(&self, inputs: Inputs) -> Inputs {
        let inputs = inputs.with(self.gamma.clone()).with(self.beta.clone());
        let Some((scale, shift)) = &self.modulation else { return inputs };
        let inputs = inputs.with(scale.value.clone());
        match self.has_tangent() {
            true => inputs.with(scale.tangent_or_zero()).with(shift.tangent_or_zero()),
            false => inputs,
        }
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
    if let Some((norm, after)) = norm.split() {
        return activate(group_norm(x, &norm), after);
    }
    let wanted = x.tangent.is_some() || norm.has_tangent();
    let left = left(wanted && takes(&x.value), tracked(&x) || norm.tracked());
    let shape = x.value.dims();
    let mut tangent = (wanted && left.is_none()).then(|| engine::group_norm_tangent(&x, norm));
    let input = x.clone();
    let value = if takes(&x.value) {
        let (scale, shift) = norm.factors().unzip();
        let inputs = Inputs::default().with(x.value).with(norm.gamma.clone()).with(norm.beta.clone());
        inputs.and(scale).and(shift).apply(cpu::Norm { shape, norm: norm.sizes(), left: left.clone() })
    } else {
        engine::group_norm(x.value, norm)
    };
    if let Some(left) = left {
        let inputs = Inputs::default().with(input.value.clone()).with(input.tangent_or_zero());
        let operation = cpu::NormTangent {
            norm: cpu::Norm { shape, norm: norm.sizes(), left: None },
            moved: norm.has_tangent(),
            left,
        };
        tangent = Some(norm.append_tangents(inputs).apply(operation));
    }
    Dual { value, tangent }
}

/// What a convolution does besides the sum over taps and channels.
#[derive(Clone)]
pub struct Conv<'a> {
    /// Weight `[height, width, inputs, outputs]` and bias.
    pub layer: Weighted<'a, 4>,
    /// Places from one output to the next. More than 2 are left to the engine.
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
    if let Some(norm) = conv.norm.as_ref().filter(|norm| norm.split().is_some()) {
        let x = group_norm(Dual::cat(parts, 3), norm);
        return conv2d(vec![x], Conv { norm: None, ..conv });
    }
    let from_input =
        parts.iter().any(|part| part.tangent.is_some()) || conv.norm.as_ref().is_some_and(Norm::has_tangent);
    let shift = conv.shift.as_ref().and_then(|shift| shift.tangent.clone());
    let residual = conv.residual.as_ref().and_then(|residual| residual.tangent.clone());
    let wanted = from_input || shift.is_some() || residual.is_some();
    // `Operands` have room for two, with all else there may be, and for one with a modulation and its tangents.
    let modulated = wanted && conv.norm.as_ref().is_some_and(|norm| norm.modulation.is_some());
    let most = if modulated { 1 } else { 2 };
    let parts = if parts.len() > most { vec![Dual::cat(parts, 3)] } else { parts };
    let kernels = takes(&parts[0].value) && conv.stride <= 2;
    let left = left(wanted && kernels, conv.tracked() || parts.iter().any(tracked));
    let linear = || Conv {
        layer: Weighted { bias: None, ..conv.layer.clone() },
        norm: None,
        shift: shift.map(Dual::from),
        residual: residual.map(Dual::from),
        ..conv.clone()
    };
    let values = |parts: &[Dual<4>]| parts.iter().map(|part| part.value.clone()).collect();
    let Some(left) = left else {
        let tangent = wanted.then(|| {
            let x = Dual::cat(parts.clone(), 3);
            let tangent = match &conv.norm {
                Some(norm) => engine::group_norm_tangent(&x, norm),
                None => x.tangent_or_zero(),
            };
            conv2d(vec![tangent.into()], linear()).value
        });
        let parts = values(&parts);
        let value = if kernels { convolve(parts, conv, None) } else { engine::conv2d(parts, &conv) };
        return Dual { value, tangent };
    };
    let linear = linear();
    let value = convolve(values(&parts), conv.clone(), Some(left.clone()));
    let tangents: Vec<_> = parts.iter().map(Dual::tangent_or_zero).collect();
    let tangent = match &conv.norm {
        None => convolve(tangents, linear, None),
        Some(norm) => {
            let operation = cpu::ConvTangent {
                conv: operation(&tangents, &linear, None),
                norm: norm.sizes(),
                moved: norm.has_tangent(),
                left,
            };
            let inputs = parts.into_iter().map(|part| part.value).chain(tangents).fold(Inputs::default(), Inputs::with);
            let Conv { layer, shift, residual, .. } = linear;
            norm.append_tangents(inputs.with(layer.weight))
                .and(shift.map(|shift| shift.value))
                .and(residual.map(|residual| residual.value))
                .apply(operation)
        }
    };
    Dual { value, tangent: Some(tangent) }
}

impl Conv<'_> {
    /// Whether anything but its input is on a tape.
    fn tracked(&self) -> bool {
        let Self { layer, norm, shift, residual, .. } = self;
        layer.weight.is_tracked()
            || layer.bias.as_ref().is_some_and(Tensor::is_tracked)
            || norm.as_ref().is_some_and(Norm::tracked)
            || shift.as_ref().is_some_and(tracked)
            || residual.as_ref().is_some_and(tracked)
    }
}

/// The kernels' operation for these parts.
fn operation(parts: &[Tensor<4>], conv: &Conv, left: Option<Left>) -> cpu::Conv {
    let Conv { layer: Weighted { weight, bias, packed }, stride, pad, norm, upsample, shift, residual, scale } = conv;
    let [samples, height, width, _] = parts[0].dims();
    let [kh, kw, inputs, outputs] = weight.dims();
    let repeat = if *upsample { 2 } else { 1 };
    cpu::Conv {
        shape: Shape {
            samples,
            height: height * repeat,
            width: width * repeat,
            inputs,
            outputs,
            kernel: [kh, kw],
            stride: *stride,
            pad: *pad,
        },
        parts: parts.iter().map(|part| part.dims()[3]).collect(),
        repeat,
        norm: norm.as_ref().map(Norm::sizes),
        bias: bias.is_some(),
        shift: shift.is_some(),
        residual: residual.is_some(),
        scale: *scale as f32,
        packed: packed.share(),
        left,
    }
}

fn convolve(parts: Vec<Tensor<4>>, conv: Conv, left: Option<Left>) -> Tensor<4> {
    let operation = operation(&parts, &conv, left);
    let Conv { layer: Weighted { weight, bias, .. }, norm, shift, residual, .. } = conv;
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

/// The windows that a pool goes over: squares of places, the same along both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Places of a window along an axis.
    pub size: usize,
    /// Places from one window to the next.
    pub stride: usize,
    /// How far windows reach over the border, less than `size`. What lies beyond takes no part.
    pub pad: usize,
    /// Whether a last window that is only partly inside counts too.
    pub partial: bool,
}

impl Windows {
    /// Windows all inside.
    pub fn new(size: usize, stride: usize) -> Self {
        Self { size, stride, pad: 0, partial: false }
    }

    /// Windows around every place, whose size is odd: the image keeps its size.
    pub fn around(size: usize) -> Self {
        Self { size, stride: 1, pad: size / 2, partial: false }
    }

    /// How many there are along an axis of this many places.
    ///
    /// # Panics
    /// If not one of them is inside.
    pub fn count(&self, places: usize) -> usize {
        let Self { size, stride, pad, partial } = *self;
        let free = places + 2 * pad - size;
        // One that begins beyond the image has nothing in it.
        if partial { free.div_ceil(stride).min((places + pad - 1) / stride) + 1 } else { free / stride + 1 }
    }

    /// How many of its places every window has inside, along an axis of this many places.
    fn inside(&self, places: usize) -> Vec<usize> {
        let Self { size, stride, pad, .. } = *self;
        let inside = |i: usize| (i * stride + size - pad).min(places) - (i * stride).saturating_sub(pad);
        (0..self.count(places)).map(inside).collect()
    }
}

/// The largest number of every window, by channel: `[N, H, W, C]` to `[N, H', W', C]`.
///
/// # Panics
/// If an image is smaller than a window.
pub fn max_pool(x: Dual<4>, windows: &Windows) -> Dual<4> {
    if x.tangent.is_none() {
        return engine::max_pool(x.value, windows).into();
    }
    let pick = engine::pick_largest(&x.value, windows);
    x.linear(pick)
}

/// The mean over the part of every window that is inside, by channel: `[N, H, W, C]` to `[N, H', W', C]`.
///
/// # Panics
/// If an image is smaller than a window.
pub fn mean_pool(x: Dual<4>, windows: &Windows) -> Dual<4> {
    let Windows { size, stride, pad, partial } = *windows;
    if partial || !takes(&x.value) {
        return x.linear(|x| engine::mean_pool(x, windows));
    }
    let [_, h, w, _] = x.dims();
    let device = x.value.device();
    let sums = fir_resample(x, &Fir { kernel: vec![1.0; size], up: 1, down: stride, pad: [pad; 2], gain: 1.0 });
    let [down, across] = [h, w].map(|places| windows.inside(places));
    let shares = down.iter().flat_map(|down| across.iter().map(move |across| 1.0 / (down * across) as f32));
    let shares =
        Tensor::<1>::from_data(TensorData::new(shares.collect::<Vec<f32>>(), [down.len() * across.len()]), &device);
    let shares = shares.reshape([1, down.len(), across.len(), 1]);
    sums.linear(|x| x * shares.clone())
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
    let left = left(some && takes(&q.value), tracked(&q) || tracked(&k) || tracked(&v));
    let mut tangent = (some && left.is_none()).then(|| engine::attention_tangent(&q, &k, &v, heads, false));
    let value = if takes(&q.value) {
        let keys = k.dims();
        let head = channels / heads;
        let sizes = AttentionShape { samples, queries, keys: keys[1], heads, head };
        let scale = (head as f32).powf(-0.5);
        let shape = vec![samples, queries, channels];
        let inputs = || [&q, &k, &v].iter().fold(Inputs::default(), |inputs, x| inputs.with(x.value.clone()));
        let of_value = cpu::Attention { shape: shape.clone(), sizes, scale, keys: keys.to_vec(), left: left.clone() };
        let value: Tensor<3> = inputs().apply(of_value);
        if let Some(left) = left {
            let tangents =
                [&q, &k, &v].iter().fold(inputs().with(value.clone()), |inputs, x| inputs.with(x.tangent_or_zero()));
            tangent = Some(tangents.apply(cpu::AttentionTangent { shape, sizes, scale, left }));
        }
        value
    } else {
        engine::attention(q.value, k.value, v.value, heads, false)
    };
    Dual { value, tangent }
}

/// [`attention`] of a sequence in which a place sees itself and those before it, none that follow. There is no CPU kernel of it: the scores
/// are stored, as sequences are short.
///
/// # Panics
/// If `heads` does not divide C.
pub fn causal_attention(q: Dual<3>, k: Dual<3>, v: Dual<3>, heads: usize) -> Dual<3> {
    let channels = q.dims()[2];
    assert!(channels.is_multiple_of(heads), "{heads} heads do not divide {channels} channels");
    let some = q.tangent.is_some() || k.tangent.is_some() || v.tangent.is_some();
    let tangent = some.then(|| engine::attention_tangent(&q, &k, &v, heads, true));
    Dual { value: engine::attention(q.value, k.value, v.value, heads, true), tangent }
}

/// Cosines and sines of angles `[N, K]`, side by side: `[N, 2K]`.
pub fn cos_sin(angles: Dual<2>) -> Dual<2> {
    let Dual { value: angles, tangent } = angles;
    let shape = angles.dims();
    let value = if takes(&angles) {
        Inputs::default().with(angles.clone()).apply(cpu::CosSin { shape })
    } else {
        Tensor::cat(vec![angles.clone().cos(), angles.clone().sin()], 1)
    };
    let tangent = tangent.map(|tangent| {
        if takes(&angles) && !angles.is_tracked() && !tangent.is_tracked() {
            return Inputs::default().with(value.clone()).with(tangent).apply(cpu::CosSinTangent { shape });
        }
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        Tensor::cat(vec![-(sin * tangent.clone()), cos * tangent], 1)
    });
    Dual { value, tangent }
}
