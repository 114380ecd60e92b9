//! The operations as compositions of the engine's own, for every device and float type; and the tangents of those that are
//! not linear. All are differentiable.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::tensor::{
    Tensor, TensorData, activation, module,
    ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions, PadMode},
};

use super::{Activation, Conv, Dual, Fir, Norm, Windows};

pub(super) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    let mut dims = x.dims();
    let [inputs, outputs] = weight.dims();
    dims[D - 1] = outputs;
    let x: Tensor<2> = x.reshape([-1, inputs as isize]);
    // The CPU's matrix product sums a single row in another order than a row among others where it has more than 512
    // inputs. A second row keeps a sample independent of its batch to the last bit.
    let y = if x.dims()[0] == 1 && inputs > 512 {
        module::linear(x.expand([2, inputs]), weight, bias).narrow(0, 0, 1)
    } else {
        module::linear(x, weight, bias)
    };
    let y = y.reshape(dims);
    match residual {
        Some(residual) => y + residual,
        None => y,
    }
}

pub(super) fn activate<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    match kind {
        Activation::Silu => activation::silu(x),
        Activation::Elu => activation::elu(x, 1.0),
        Activation::Relu => activation::relu(x),
        Activation::LeakyRelu => activation::leaky_relu(x, LEAK),
        // Not burn's own: its gradient is that of the tanh form.
        Activation::Gelu => ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * x * 0.5,
        Activation::GeluTanh => {
            let inner = (x.clone() + x.clone().powi_scalar(3) * 0.044_715) * (2.0 / PI).sqrt();
            x * 0.5 * (inner.tanh() + 1.0)
        }
    }
}

/// The slope of [`Activation::LeakyRelu`] below 0.
const LEAK: f64 = 0.2;

/// 1 above 0, otherwise 0.
fn above<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.zeros_like().mask_fill(x.greater_scalar(0.0), 1.0)
}

/// The derivative of an activation.
pub(super) fn slope<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    match kind {
        Activation::Silu => {
            let sigmoid = activation::sigmoid(x.clone());
            sigmoid.clone() * (x * (1.0 - sigmoid) + 1.0)
        }
        // eˣ below zero, 1 above.
        Activation::Elu => x.clamp_max(0.0).exp(),
        Activation::Relu => above(x),
        Activation::LeakyRelu => above(x) * (1.0 - LEAK) + LEAK,
        Activation::Gelu => {
            let density = (x.clone() * x.clone() * -0.5).exp() * (2.0 * PI).powf(-0.5);
            ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5 + x * density
        }
        Activation::GeluTanh => {
            let root = (2.0 / PI).sqrt();
            let square = x.clone() * x.clone();
            let tanh = ((x.clone() + x.clone() * square.clone() * 0.044_715) * root).tanh();
            let inner = (square * (3.0 * 0.044_715) + 1.0) * root;
            (tanh.clone() + 1.0) * 0.5 + x * 0.5 * (1.0 - tanh.clone() * tanh) * inner
        }
    }
}

pub(super) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    silu: bool,
) -> Tensor<D> {
    let y = module::layer_norm(x, gamma, Some(beta), epsilon);
    if silu { activation::silu(y) } else { y }
}

fn mean<const D: usize>(x: Tensor<D>, axes: &[usize]) -> Tensor<D> {
    axes.iter().fold(x, |x, axis| x.mean_dim(*axis))
}

/// (x − mean) / √(var + ε) over some axes, and its derivative in a direction.
pub(super) fn normal_and_tangent<const D: usize>(
    x: Tensor<D>,
    direction: Tensor<D>,
    axes: &[usize],
    epsilon: f64,
) -> (Tensor<D>, Tensor<D>) {
    let x = x.clone() - mean(x, axes);
    let direction = direction.clone() - mean(direction, axes);
    let deviation = (mean(x.clone() * x.clone(), axes) + epsilon).sqrt();
    let normal = x / deviation.clone();
    let along = mean(normal.clone() * direction.clone(), axes);
    let tangent = (direction - normal.clone() * along) / deviation;
    (normal, tangent)
}

/// The tangent of γ x̂ + β, and of SiLU after it if asked for.
pub(super) fn scaled_tangent<const D: usize>(
    normal: Tensor<D>,
    tangent: Tensor<D>,
    gamma: Tensor<D>,
    beta: Tensor<D>,
    silu: bool,
) -> Tensor<D> {
    let tangent = tangent * gamma.clone();
    if silu { slope(normal * gamma + beta, Activation::Silu) * tangent } else { tangent }
}

/// γ (1 + scale) and β (1 + scale) + shift, to multiply and add to a normalized image.
fn factors(norm: &Norm) -> (Tensor<4>, Tensor<4>) {
    let channels = norm.gamma.dims()[0];
    let [gamma, beta] = [&norm.gamma, &norm.beta].map(|x| x.clone().reshape([1, 1, 1, channels]));
    match &norm.modulation {
        None => (gamma, beta),
        Some((scale, shift)) => {
            let samples = scale.dims()[0];
            let [scale, shift] = [scale, shift].map(|x| x.value.clone().reshape([samples, 1, 1, channels]));
            let scale = scale + 1.0;
            (gamma * scale.clone(), beta * scale + shift)
        }
    }
}

pub(super) fn group_norm(x: Tensor<4>, norm: &Norm) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let x = x.reshape([n, h * w, norm.groups, c / norm.groups]);
    let x = x.clone() - mean(x, &[1, 3]);
    let x = x.clone() / (mean(x.clone() * x, &[1, 3]) + norm.epsilon).sqrt();
    let (gamma, beta) = factors(norm);
    let y = x.reshape([n, h, w, c]) * gamma + beta;
    if norm.silu() { activation::silu(y) } else { y }
}

/// The tangent of [`group_norm`].
pub(super) fn group_norm_tangent(x: &Dual<4>, norm: &Norm) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let split = |x: Tensor<4>| x.reshape([n, h * w, norm.groups, c / norm.groups]);
    let (value, direction) = (split(x.value.clone()), split(x.tangent_or_zero()));
    let (normal, tangent) = normal_and_tangent(value, direction, &[1, 3], norm.epsilon);
    let [normal, tangent] = [normal, tangent].map(|x| x.reshape([n, h, w, c]));
    let (gamma, beta) = factors(norm);
    let mut along = tangent * gamma.clone();
    if let Some((scale, shift)) = &norm.modulation {
        let [own, offset] = [&norm.gamma, &norm.beta].map(|x| x.clone().reshape([1, 1, 1, c]));
        let wide = |x: &Dual<2>| x.tangent_or_zero().reshape([n, 1, 1, c]);
        along = along + (normal.clone() * own + offset) * wide(scale) + wide(shift);
    }
    if norm.silu() { slope(normal * gamma + beta, Activation::Silu) * along } else { along }
}

pub(super) fn conv2d(parts: Vec<Tensor<4>>, conv: &Conv) -> Tensor<4> {
    let x = Tensor::cat(parts, 3);
    let x = match &conv.norm {
        Some(norm) => group_norm(x, norm),
        None => x,
    };
    let x = if conv.upsample { upsample_nearest(x) } else { x };
    let [top, bottom, left, right] = conv.pad;
    let x = x.permute([0, 3, 1, 2]);
    let (x, pad) = if top == bottom && left == right {
        (x, [top, left])
    } else {
        (x.pad((left, right, top, bottom), PadMode::Constant(0.0)), [0, 0])
    };
    let options = ConvOptions::new([conv.stride, conv.stride], pad, [1, 1], 1);
    let weight = conv.layer.weight.clone().permute([3, 2, 0, 1]);
    let mut y = module::conv2d(x, weight, conv.layer.bias.clone(), options).permute([0, 2, 3, 1]);
    if let Some(shift) = &conv.shift {
        let [samples, outputs] = shift.dims();
        y = y + shift.value.clone().reshape([samples, 1, 1, outputs]);
    }
    if let Some(residual) = &conv.residual {
        y = y + residual.value.clone();
    }
    if conv.scale == 1.0 { y } else { y * conv.scale }
}

pub(super) fn upsample_nearest(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h, 1, w, 1, c]).expand([n, h, 2, w, 2, c]).reshape([n, 2 * h, 2 * w, c])
}

pub(super) fn average_pool(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h / 2, 2, w / 2, 2, c]).mean_dim(2).mean_dim(4).reshape([n, h / 2, w / 2, c])
}

impl Windows {
    fn max_options(&self) -> MaxPoolOptions<2> {
        let Self { size, stride, pad, partial } = *self;
        let options = MaxPoolOptions::new([size; 2]).with_stride([stride; 2]).with_padding([pad; 2]);
        MaxPoolOptions { ceil_mode: partial, ..options }
    }
}

pub(super) fn max_pool(x: Tensor<4>, windows: &Windows) -> Tensor<4> {
    module::max_pool2d(x.permute([0, 3, 1, 2]), windows.max_options()).permute([0, 2, 3, 1])
}

/// What takes from a tensor the numbers at the places where `x` is largest in each window. Where that is, is locally constant:
/// to pick it there is linear.
pub(super) fn pick_largest(x: &Tensor<4>, windows: &Windows) -> impl Fn(Tensor<4>) -> Tensor<4> + use<> {
    let [n, h, w, c] = x.dims();
    let planes = x.clone().detach().permute([0, 3, 1, 2]);
    let (_, places) = module::max_pool2d_with_indices(planes, windows.max_options());
    let [_, _, high, wide] = places.dims();
    let places = places.reshape([n, c, high * wide]);
    move |x| {
        let x = x.permute([0, 3, 1, 2]).reshape([n, c, h * w]).gather(2, places.clone());
        x.reshape([n, c, high, wide]).permute([0, 2, 3, 1])
    }
}

pub(super) fn mean_pool(x: Tensor<4>, windows: &Windows) -> Tensor<4> {
    let Windows { size, stride, pad, partial } = *windows;
    let options = AvgPoolOptions::new([size; 2]).with_stride([stride; 2]).with_padding([pad; 2]);
    let options = AvgPoolOptions { ceil_mode: partial, ..options.with_count_include_pad(false) };
    module::avg_pool2d(x.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
}

pub(super) fn fir_resample(x: Tensor<4>, filter: &Fir) -> Tensor<4> {
    let Fir { kernel, up, down, pad: [before, after], gain } = filter;
    let [n, h, w, c] = x.dims();
    let (device, kind, taps) = (x.device(), x.dtype(), kernel.len());
    let x = if *up == 1 {
        x
    } else {
        let x = x.reshape([n, h, 1, w, 1, c]);
        let zeros = |shape: [usize; 6]| Tensor::<6>::zeros(shape, (&device, kind));
        let x = Tensor::cat(vec![x, zeros([n, h, 1, w, up - 1, c])], 4);
        Tensor::cat(vec![x, zeros([n, h, up - 1, w, *up, c])], 2).reshape([n, h * up, w * up, c])
    };
    let x = x.permute([0, 3, 1, 2]).pad((*before, *after, *before, *after), PadMode::Constant(0.0));
    // A true convolution: the engine's is a correlation.
    let taps_of =
        |row: usize| kernel.iter().rev().map(move |tap| f64::from(*tap) * f64::from(kernel[taps - 1 - row]) * gain);
    let square: Vec<f64> = (0..c).flat_map(|_| (0..taps).flat_map(taps_of)).collect();
    let weight = Tensor::<1>::from_data(square.as_slice(), (&device, kind)).reshape([c, 1, taps, taps]);
    let options = ConvOptions::new([*down, *down], [0, 0], [1, 1], c);
    module::conv2d(x, weight, None, options).permute([0, 2, 3, 1])
}

/// `[N, places, C]` as `[N, heads, places, C/heads]`.
fn split(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [n, places, c] = x.dims();
    x.reshape([n, places, heads, c / heads]).swap_dims(1, 2)
}

fn join(x: Tensor<4>) -> Tensor<3> {
    let [n, heads, places, head] = x.dims();
    x.swap_dims(1, 2).reshape([n, places, heads * head])
}

fn scores(q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
    let head = q.dims()[3];
    q.matmul(k.swap_dims(2, 3)) * (head as f64).powf(-0.5)
}

/// softmax of the scores, of those that are seen: all, or those of no place after one's own.
fn weights(scores: Tensor<4>, causal: bool) -> Tensor<4> {
    if !causal {
        return activation::softmax(scores, 3);
    }
    let [.., places, keys] = scores.dims();
    let hidden = |i: usize| if i % keys > i / keys { f32::NEG_INFINITY } else { 0.0 };
    let hidden = TensorData::new((0..places * keys).map(hidden).collect::<Vec<_>>(), [1, 1, places, keys]);
    let hidden = Tensor::from_data(hidden, (&scores.device(), scores.dtype()));
    activation::softmax(scores + hidden, 3)
}

pub(super) fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, causal: bool) -> Tensor<3> {
    let scores = scores(split(q, heads), split(k, heads));
    join(weights(scores, causal).matmul(split(v, heads)))
}

/// With weights P = softmax(S): Ṗ = P ⊙ (Ṡ − rowsum(P ⊙ Ṡ)), and the tangent is Ṗ v + P v̇.
pub(super) fn attention_tangent(q: &Dual<3>, k: &Dual<3>, v: &Dual<3>, heads: usize, causal: bool) -> Tensor<3> {
    let part = |x: &Dual<3>| (split(x.value.clone(), heads), split(x.tangent_or_zero(), heads));
    let ((q, dq), (k, dk), (v, dv)) = (part(q), part(k), part(v));
    let direction = scores(dq, k.clone()) + scores(q.clone(), dk);
    let weights = weights(scores(q, k), causal);
    let turned = weights.clone() * direction;
    let change = turned.clone() - weights.clone() * turned.sum_dim(3);
    join(change.matmul(v) + weights.matmul(dv))
}
