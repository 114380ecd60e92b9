//! The operations on the CPU's kernels, each with its backward.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use stein_simd::{
    Isa, Memory,
    activation::{self, Activation},
    attention::{self, AttentionShape},
    column_sums,
    convolution::{self, Epilogue, Input, Method, Prologue, Shape, Weights},
    dense_weight_gradient,
    norm::{self, Moments, NormShape},
    resample,
};

use super::{
    Fir, Precision,
    buffer::tensor,
    extension::{Left, Operation, Read, Saved, numbers},
};

fn copied(from: &[f32], shape: impl Into<burn::tensor::Shape>) -> FlexTensor {
    let mut to = Memory::new(from.len());
    to.copy_from_slice(from);
    tensor(to, shape)
}

/// A tensor written by a kernel.
fn filled(shape: impl Into<burn::tensor::Shape>, fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    let shape = shape.into();
    let mut to = Memory::new(shape.num_elements());
    fill(&mut to);
    tensor(to, shape)
}

/// How a convolution, or a linear layer, is computed in the precision in use.
fn method(shape: &Shape) -> Method {
    match Precision::current() {
        Precision::F32 => Method::of(shape),
        Precision::Bf16 => Method::Bf16,
    }
}

/// Weights packed for the kernels, kept beside the tensor they were made from as long as that one stays the same: a
/// network that only evaluates packs each weight once. A copy of a layer starts with none.
#[derive(Default)]
pub struct Packed(Arc<Mutex<Vec<Kept>>>);

/// Packed weights, and what they were made from.
struct Kept {
    source: FlexTensor,
    purpose: Purpose,
    method: Method,
    weights: Arc<Weights>,
}

/// What weights are packed for.
#[derive(Debug, Clone, PartialEq)]
enum Purpose {
    Value,
    /// The gradient of a range of the inputs.
    Gradient(Range<usize>),
}

impl Clone for Packed {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packed")
    }
}

impl Packed {
    /// For an operation, which shares it with its layer.
    pub(super) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// The packed form of a weight for the values of a layer.
    fn of(&self, isa: Isa, weight: &FlexTensor, shape: &Shape) -> Arc<Weights> {
        let method = method(shape);
        self.find(weight, Purpose::Value, method, || Weights::new(isa, shape, method, numbers(weight)))
    }

    /// The packed form of a weight for the gradient of a range of the inputs of a layer.
    fn transposed(&self, isa: Isa, weight: &FlexTensor, shape: &Shape, range: Range<usize>) -> Arc<Weights> {
        let own = method(shape);
        let by = if own == Method::Bf16 { own } else { Method::of(&shape.adjoint(range.len())) };
        let pack = || Weights::transposed(isa, shape, own, range.clone(), numbers(weight));
        self.find(weight, Purpose::Gradient(range.clone()), by, pack)
    }

    /// The packed form of a weight: the one at hand if it was made from the same view of the same memory, for the same purpose
    /// and method. That memory is kept, so no other tensor can come to lie there, and what is kept of another is dropped.
    fn find(
        &self,
        weight: &FlexTensor,
        purpose: Purpose,
        method: Method,
        pack: impl FnOnce() -> Weights,
    ) -> Arc<Weights> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            kept.retain(|kept| {
                Arc::ptr_eq(&kept.source.data_arc(), &weight.data_arc()) && kept.source.layout() == weight.layout()
            });
            if let Some(found) = kept.iter().find(|kept| kept.purpose == purpose && kept.method == method) {
                return Arc::clone(&found.weights);
            }
            kept.retain(|kept| kept.purpose != purpose);
        }
        // Packed without the lock: a thread that waits for others that pack may get to another call of this layer meanwhile.
        let weights = Arc::new(pack());
        let mut kept = lock();
        kept.retain(|kept| kept.purpose != purpose);
        kept.push(Kept { source: weight.clone(), purpose, method, weights: Arc::clone(&weights) });
        weights
    }
}

/// Leaves what a tangent needs of its value.
fn leave(left: Option<&Left>, saved: &Saved) {
    if let Some(left) = left {
        let _ = left.set(saved.clone());
    }
}

/// The normalization a convolution's input goes through.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupNorm {
    pub(super) groups: usize,
    pub(super) epsilon: f64,
    pub(super) silu: bool,
    /// Whether a scale and a shift of every sample follow.
    pub(super) modulated: bool,
}

/// Inputs: the parts, weight, then those of gamma, beta, scale, shift (of the normalization), bias, shift, residual that
/// there are.
#[derive(Debug)]
pub(super) struct Conv {
    pub(super) shape: Shape,
    /// Channels of each part.
    pub(super) parts: Vec<usize>,
    pub(super) repeat: usize,
    pub(super) norm: Option<GroupNorm>,
    pub(super) bias: bool,
    pub(super) shift: bool,
    pub(super) residual: bool,
    pub(super) scale: f32,
    pub(super) packed: Packed,
    /// For moments and coefficients of the normalization, if a tangent follows.
    pub(super) left: Option<Left>,
}

/// Where a convolution's inputs are among all inputs of the operation.
struct Places {
    gamma: usize,
    scale: usize,
    bias: usize,
    shift: usize,
    residual: usize,
}

impl Conv {
    fn places(&self) -> Places {
        let gamma = self.parts.len() + 1;
        let scale = gamma + 2 * usize::from(self.norm.is_some());
        let bias = scale + 2 * usize::from(self.norm.is_some_and(|norm| norm.modulated));
        let shift = bias + usize::from(self.bias);
        Places { gamma, scale, bias, shift, residual: shift + usize::from(self.shift) }
    }

    fn norm_shape(&self, norm: &GroupNorm) -> NormShape {
        let Shape { samples, height, width, inputs, .. } = self.shape;
        let places = (height / self.repeat) * (width / self.repeat);
        NormShape { samples, places, channels: inputs, groups: norm.groups }
    }

    fn input<'a>(&self, parts: &'a [&'a [f32]], coefficients: Option<(&'a [f32], &'a [f32])>) -> Input<'a> {
        let prologue = match (coefficients, self.norm) {
            (Some((a, b)), Some(norm)) => Prologue::Affine { a, b, silu: norm.silu },
            _ => Prologue::None,
        };
        Input { prologue, repeat: self.repeat, ..Input::new(parts) }
    }
}

impl Operation for Conv {
    fn shape(&self) -> Vec<usize> {
        let [height, width] = self.shape.output();
        vec![self.shape.samples, height, width, self.shape.outputs]
    }

    fn forward(&self, inputs: &[FlexTensor], tracked: &[bool], output: &mut [f32]) -> Saved {
        let isa = Isa::best();
        let at = |i: usize| numbers(&inputs[i]);
        let places = self.places();
        let count = self.parts.len();
        let parts: Vec<&[f32]> = inputs[..count].iter().map(numbers).collect();
        let mut saved = Saved::new();
        if let Some(norm) = &self.norm {
            let shape = self.norm_shape(norm);
            let moments = norm::moments(isa, shape, &parts, norm.epsilon);
            let modulation = |i: usize| norm.modulated.then(|| at(places.scale + i));
            let (gamma, beta) = (Some(at(places.gamma)), Some(at(places.gamma + 1)));
            let factors = norm::coefficients(shape, &moments, gamma, beta, modulation(0), modulation(1));
            saved = vec![moments.mean, moments.scale, factors.a, factors.b];
            leave(self.left.as_ref(), &saved);
        }
        let weight = &inputs[count];
        // A weight that is trained is another one the next time.
        let weights = if tracked[count] {
            Arc::new(Weights::new(isa, &self.shape, method(&self.shape), numbers(weight)))
        } else {
            self.packed.of(isa, weight, &self.shape)
        };
        let epilogue = Epilogue {
            bias: self.bias.then(|| at(places.bias)),
            shift: self.shift.then(|| at(places.shift)),
            residual: self.residual.then(|| at(places.residual)),
            scale: self.scale,
        };
        let coefficients = saved.get(2).map(|a| (&a[..], &saved[3][..]));
        convolution::convolve(isa, &self.shape, &self.input(&parts, coefficients), &weights, &epilogue, output);
        saved
    }

    fn reads(&self, input: usize, tracked: &[bool]) -> bool {
        let (places, count) = (self.places(), self.parts.len());
        match input {
            // The gradient of the weights reads the parts, and so does that of a normalization.
            _ if input < count => tracked[count] || self.norm.is_some(),
            _ if input == count => true,
            // Of the normalization, the shift only went into the coefficients, which are kept.
            _ => input < places.bias && input <= places.scale,
        }
    }

    fn backward(&self, inputs: &Read, saved: &Saved, dy: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let isa = Isa::best();
        let places = self.places();
        let Shape { samples, height, width, inputs: channels, outputs, kernel: [kh, kw], .. } = self.shape;
        let dy = if self.scale == 1.0 {
            dy
        } else {
            filled(self.shape(), |to| to.iter_mut().zip(numbers(&dy)).for_each(|(to, dy)| *to = self.scale * dy))
        };
        let mut found = vec![None; wanted.len()];
        let weight = self.parts.len();
        let parts = &inputs[..weight];
        if wanted[weight] {
            let coefficients = saved.get(2).map(|a| (&a[..], &saved[3][..]));
            let input = self.input(parts, coefficients);
            found[weight] = Some(filled([kh, kw, channels, outputs], |dw| {
                convolution::weight_gradient_by(isa, &self.shape, method(&self.shape), &input, numbers(&dy), dw);
            }));
        }
        if self.bias && wanted[places.bias] || self.shift && wanted[places.shift] {
            let sums = column_sums(isa, numbers(&dy), samples, outputs);
            if self.bias && wanted[places.bias] {
                found[places.bias] = Some(copied(&column_sums(isa, &sums, 1, outputs), [outputs]));
            }
            if self.shift && wanted[places.shift] {
                found[places.shift] = Some(copied(&sums, [samples, outputs]));
            }
        }
        let stored = [height, width].map(|size| size / self.repeat);
        // The gradient of some of the channels of the convolution's input, at the size it is stored in.
        let gradient = |range: std::ops::Range<usize>| {
            let width_of = range.len();
            let weights = if wanted[weight] {
                Arc::new(Weights::transposed(isa, &self.shape, method(&self.shape), range, inputs[weight]))
            } else {
                self.packed.transposed(isa, inputs.tensor(weight), &self.shape, range)
            };
            let mut dx = Memory::new(samples * height * width * width_of);
            convolution::input_gradient(isa, &self.shape, &weights, numbers(&dy), &mut dx);
            if self.repeat == 1 {
                return dx;
            }
            let mut summed = Memory::new(samples * stored[0] * stored[1] * width_of);
            resample::upsample_nearest_backward(isa, &dx, [samples, stored[0], stored[1], width_of], &mut summed);
            summed
        };
        let shape_of = |channels: usize| [samples, stored[0], stored[1], channels];
        if let Some(norm) = &self.norm {
            let of_norm = places.gamma..places.bias;
            if wanted[..weight].iter().any(|wanted| *wanted) || wanted[of_norm].iter().any(|wanted| *wanted) {
                let da = gradient(0..channels);
                let shape = self.norm_shape(norm);
                let moments = Moments { mean: saved[0].clone(), scale: saved[1].clone() };
                let coefficients = norm::Coefficients { a: saved[2].clone(), b: saved[3].clone() };
                let (gamma, beta) = (inputs[places.gamma], inputs[places.gamma + 1]);
                let scale = norm.modulated.then(|| inputs[places.scale]);
                let mut dx: Vec<Memory> = parts.iter().map(|part| Memory::new(part.len())).collect();
                let mut to: Vec<&mut [f32]> = dx.iter_mut().map(|dx| &mut **dx).collect();
                let gradients = norm::normalize_backward(
                    isa,
                    shape,
                    parts,
                    &moments,
                    &coefficients,
                    Some(gamma),
                    Some(beta),
                    scale,
                    norm.silu,
                    &da,
                    &mut to,
                );
                for (i, (dx, channels)) in dx.into_iter().zip(&self.parts).enumerate() {
                    found[i] = Some(tensor(dx, shape_of(*channels)));
                }
                found[places.gamma] = Some(copied(&gradients.gamma, [channels]));
                found[places.gamma + 1] = Some(copied(&gradients.beta, [channels]));
                if norm.modulated {
                    found[places.scale] = Some(copied(&gradients.scale, [samples, channels]));
                    found[places.scale + 1] = Some(copied(&gradients.shift, [samples, channels]));
                }
            }
        } else {
            let mut from = 0;
            for (i, channels) in self.parts.iter().enumerate() {
                let range = from..from + channels;
                from = range.end;
                if wanted[i] {
                    found[i] = Some(tensor(gradient(range), shape_of(*channels)));
                }
            }
        }
        if self.residual && wanted[places.residual] {
            found[places.residual] = Some(dy);
        }
        found
    }
}

/// The tangent of an operation, computed where nothing is on a tape: an [`Operation`] that keeps nothing and whose backward
/// is never asked for.
pub(super) trait Tangent: fmt::Debug + Send + Sync {
    /// The shape of the output.
    fn shape(&self) -> Vec<usize>;
    /// Writes the output.
    fn forward(&self, inputs: &[FlexTensor], output: &mut [f32]);
}

impl<T: Tangent> Operation for T {
    fn shape(&self) -> Vec<usize> {
        Tangent::shape(self)
    }

    fn forward(&self, inputs: &[FlexTensor], _: &[bool], output: &mut [f32]) -> Saved {
        Tangent::forward(self, inputs, output);
        Saved::new()
    }

    fn reads(&self, _: usize, _: &[bool]) -> bool {
        unreachable!("these tangents are computed where nothing is on a tape")
    }

    fn backward(&self, _: &Read, _: &Saved, _: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        unreachable!("these tangents are computed where nothing is on a tape")
    }
}

/// What was left by the value of an operation.
fn found(left: &Left) -> &Saved {
    left.get().expect("a value is computed before its tangent")
}

/// The tangent of a convolution whose input is normalized, where nothing is on a tape. Inputs: the parts, their tangents,
/// weight, gamma, beta, scale if the normalization is modulated, the tangents of its scale and shift if they move, and those
/// of the tangents of shift and residual that there are.
#[derive(Debug)]
pub(super) struct ConvTangent {
    /// Without a bias; its shift and its residual are the tangents.
    pub(super) conv: Conv,
    pub(super) norm: GroupNorm,
    /// Whether scale and shift of the normalization move.
    pub(super) moved: bool,
    /// Of the value.
    pub(super) left: Left,
}

impl Tangent for ConvTangent {
    fn shape(&self) -> Vec<usize> {
        self.conv.shape()
    }

    fn forward(&self, inputs: &[FlexTensor], output: &mut [f32]) {
        let (isa, conv) = (Isa::best(), &self.conv);
        let mut rest = inputs.iter();
        let mut next = || rest.next().expect("there are as many inputs as the fields say");
        let parts: Vec<&[f32]> = conv.parts.iter().map(|_| numbers(next())).collect();
        let tangents: Vec<&[f32]> = conv.parts.iter().map(|_| numbers(next())).collect();
        let weight = next();
        let mut some = |is: bool| is.then(|| numbers(next()));
        let (gamma, beta) = (some(true), some(true));
        let scale = some(self.norm.modulated);
        let (dscale, dshift) = (some(self.moved), some(self.moved));
        let epilogue =
            Epilogue { bias: None, shift: some(conv.shift), residual: some(conv.residual), scale: conv.scale };
        let [mean, factors, a, b] = &found(&self.left)[..] else { unreachable!("a convolution leaves these four") };
        let moments = Moments { mean: mean.clone(), scale: factors.clone() };
        let tangent = norm::tangent_coefficients(
            isa,
            conv.norm_shape(&self.norm),
            &parts,
            &tangents,
            &moments,
            gamma,
            beta,
            scale,
            dscale,
            dshift,
        );
        let prologue = Prologue::Tangent { x: &parts, a, b, q: &tangent.q, r: &tangent.r, silu: self.norm.silu };
        let input = Input { prologue, repeat: conv.repeat, ..Input::new(&tangents) };
        let weights = conv.packed.of(isa, weight, &conv.shape);
        convolution::convolve(isa, &conv.shape, &input, &weights, &epilogue, output);
    }
}

/// Inputs: the parts, weight, then those of bias and residual that there are. `rows` of any shape.
#[derive(Debug)]
pub(super) struct Dense {
    /// The shape of the output.
    pub(super) shape: Vec<usize>,
    pub(super) inputs: usize,
    pub(super) bias: bool,
    pub(super) residual: bool,
    pub(super) packed: Packed,
}

impl Dense {
    fn sizes(&self) -> Shape {
        let outputs = *self.shape.last().expect("the output of a linear layer has an axis");
        Shape::dense(self.shape.iter().product::<usize>() / outputs, self.inputs, outputs)
    }
}

impl Operation for Dense {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], tracked: &[bool], output: &mut [f32]) -> Saved {
        let isa = Isa::best();
        let shape = self.sizes();
        let weight = &inputs[1];
        let weights = if tracked[1] {
            Arc::new(Weights::new(isa, &shape, method(&shape), numbers(weight)))
        } else {
            self.packed.of(isa, weight, &shape)
        };
        let epilogue = Epilogue {
            bias: self.bias.then(|| numbers(&inputs[2])),
            residual: self.residual.then(|| numbers(&inputs[2 + usize::from(self.bias)])),
            ..Epilogue::default()
        };
        stein_simd::dense(isa, &[numbers(&inputs[0])], &weights, &epilogue, output);
        Saved::new()
    }

    fn reads(&self, input: usize, tracked: &[bool]) -> bool {
        input == 0 && tracked[1] || input == 1
    }

    fn backward(&self, inputs: &Read, _: &Saved, dy: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let isa = Isa::best();
        let shape = self.sizes();
        let mut found = vec![None; wanted.len()];
        if wanted[0] {
            let mut dims = self.shape.clone();
            *dims.last_mut().expect("as in `sizes`") = self.inputs;
            let weights = if wanted[1] {
                Arc::new(Weights::transposed(isa, &shape, method(&shape), 0..self.inputs, inputs[1]))
            } else {
                self.packed.transposed(isa, inputs.tensor(1), &shape, 0..self.inputs)
            };
            found[0] = Some(filled(dims, |dx| {
                stein_simd::dense(isa, &[numbers(&dy)], &weights, &Epilogue::default(), dx);
            }));
        }
        if wanted[1] {
            found[1] = Some(filled([self.inputs, shape.outputs], |dw| {
                dense_weight_gradient(isa, inputs[0], numbers(&dy), shape.outputs, dw);
            }));
        }
        if self.bias && wanted[2] {
            found[2] = Some(copied(&column_sums(isa, numbers(&dy), 1, shape.outputs), [shape.outputs]));
        }
        if self.residual {
            found[2 + usize::from(self.bias)] = Some(dy);
        }
        found
    }
}

/// Input: x.
#[derive(Debug)]
pub(super) struct Activate {
    pub(super) shape: Vec<usize>,
    pub(super) kind: Activation,
}

impl Operation for Activate {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], _: &[bool], output: &mut [f32]) -> Saved {
        activation::activate(Isa::best(), self.kind, numbers(&inputs[0]), output);
        Saved::new()
    }

    fn reads(&self, _: usize, _: &[bool]) -> bool {
        true
    }

    fn backward(&self, inputs: &Read, _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let dx = |dx: &mut [f32]| {
            activation::activate_backward(Isa::best(), self.kind, inputs[0], numbers(&dy), dx);
        };
        vec![Some(filled(&self.shape[..], dx))]
    }
}

/// The tangent of [`Activate`], where nothing is on a tape. Inputs: x and its tangent.
#[derive(Debug)]
pub(super) struct ActivateTangent {
    pub(super) shape: Vec<usize>,
    pub(super) kind: Activation,
}

impl Tangent for ActivateTangent {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], output: &mut [f32]) {
        let [x, dx] = [0, 1].map(|i| numbers(&inputs[i]));
        activation::activate_backward(Isa::best(), self.kind, x, dx, output);
    }
}

/// Inputs: x, gamma, beta, and a scale and a shift of every sample if modulated.
#[derive(Debug)]
pub(super) struct Norm {
    /// `[N, H, W, C]`
    pub(super) shape: [usize; 4],
    pub(super) norm: GroupNorm,
    /// For moments and coefficients, if a tangent follows.
    pub(super) left: Option<Left>,
}

impl Norm {
    fn sizes(&self) -> NormShape {
        let [samples, height, width, channels] = self.shape;
        NormShape { samples, places: height * width, channels, groups: self.norm.groups }
    }
}

impl Operation for Norm {
    fn shape(&self) -> Vec<usize> {
        self.shape.to_vec()
    }

    fn forward(&self, inputs: &[FlexTensor], _: &[bool], output: &mut [f32]) -> Saved {
        let (isa, shape) = (Isa::best(), self.sizes());
        let at = |i: usize| Some(numbers(&inputs[i]));
        let parts = [numbers(&inputs[0])];
        let moments = norm::moments(isa, shape, &parts, self.norm.epsilon);
        let (scale, shift) = if self.norm.modulated { (at(3), at(4)) } else { (None, None) };
        let factors = norm::coefficients(shape, &moments, at(1), at(2), scale, shift);
        norm::normalize(isa, shape, &parts, &factors, self.norm.silu, output);
        let saved = vec![moments.mean, moments.scale, factors.a, factors.b];
        leave(self.left.as_ref(), &saved);
        saved
    }

    fn reads(&self, input: usize, _: &[bool]) -> bool {
        // The shift only went into the coefficients, which are kept.
        input < 4
    }

    fn backward(&self, inputs: &Read, saved: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let (isa, shape) = (Isa::best(), self.sizes());
        let moments = Moments { mean: saved[0].clone(), scale: saved[1].clone() };
        let coefficients = norm::Coefficients { a: saved[2].clone(), b: saved[3].clone() };
        let scale = self.norm.modulated.then(|| inputs[3]);
        let mut dx = Memory::new(inputs[0].len());
        let gradients = norm::normalize_backward(
            isa,
            shape,
            &inputs[..1],
            &moments,
            &coefficients,
            Some(inputs[1]),
            Some(inputs[2]),
            scale,
            self.norm.silu,
            numbers(&dy),
            &mut [&mut dx],
        );
        let NormShape { samples, channels, .. } = shape;
        let mut found = vec![
            Some(tensor(dx, self.shape)),
            Some(copied(&gradients.gamma, [channels])),
            Some(copied(&gradients.beta, [channels])),
        ];
        if self.norm.modulated {
            found.push(Some(copied(&gradients.scale, [samples, channels])));
            found.push(Some(copied(&gradients.shift, [samples, channels])));
        }
        found
    }
}

/// The tangent of [`Norm`], where nothing is on a tape. Inputs: x, its tangent, gamma, beta, scale if modulated, and the
/// tangents of scale and shift if they move.
#[derive(Debug)]
pub(super) struct NormTangent {
    pub(super) norm: Norm,
    /// Whether scale and shift move.
    pub(super) moved: bool,
    /// Of the value.
    pub(super) left: Left,
}

impl Tangent for NormTangent {
    fn shape(&self) -> Vec<usize> {
        self.norm.shape()
    }

    fn forward(&self, inputs: &[FlexTensor], output: &mut [f32]) {
        let (isa, shape, sizes) = (Isa::best(), self.norm.sizes(), self.norm.norm);
        let (parts, tangents) = ([numbers(&inputs[0])], [numbers(&inputs[1])]);
        let at = |is: bool, i: usize| is.then(|| numbers(&inputs[i]));
        let (gamma, beta, scale) = (at(true, 2), at(true, 3), at(sizes.modulated, 4));
        let (dscale, dshift) = (at(self.moved, 5), at(self.moved, 6));
        let [mean, factors, a, b] = &found(&self.left)[..] else { unreachable!("a normalization leaves these four") };
        let moments = Moments { mean: mean.clone(), scale: factors.clone() };
        let tangent =
            norm::tangent_coefficients(isa, shape, &parts, &tangents, &moments, gamma, beta, scale, dscale, dshift);
        let coefficients = norm::Coefficients { a: a.clone(), b: b.clone() };
        norm::normalize_tangent(isa, shape, &parts, &tangents, &coefficients, &tangent, sizes.silu, output);
    }
}

/// Inputs: x, gamma, beta. Over the last axis.
#[derive(Debug)]
pub(super) struct LayerNorm {
    pub(super) shape: Vec<usize>,
    pub(super) epsilon: f64,
    pub(super) silu: bool,
    /// For moments, if a tangent follows.
    pub(super) left: Option<Left>,
}

impl Operation for LayerNorm {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], _: &[bool], output: &mut [f32]) -> Saved {
        let [x, gamma, beta] = [0, 1, 2].map(|i| numbers(&inputs[i]));
        let moments =
            norm::layer_norm(Isa::best(), x, gamma.len(), Some(gamma), Some(beta), self.epsilon, self.silu, output);
        let saved = vec![moments.mean, moments.scale];
        leave(self.left.as_ref(), &saved);
        saved
    }

    fn reads(&self, _: usize, _: &[bool]) -> bool {
        true
    }

    fn backward(&self, inputs: &Read, saved: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let (gamma, beta) = (inputs[1], inputs[2]);
        let columns = gamma.len();
        let moments = Moments { mean: saved[0].clone(), scale: saved[1].clone() };
        let mut dx = Memory::new(inputs[0].len());
        let (dgamma, dbeta) = norm::layer_norm_backward(
            Isa::best(),
            inputs[0],
            columns,
            &moments,
            Some(gamma),
            Some(beta),
            self.silu,
            numbers(&dy),
            &mut dx,
        );
        vec![Some(tensor(dx, &self.shape[..])), Some(copied(&dgamma, [columns])), Some(copied(&dbeta, [columns]))]
    }
}

/// The tangent of [`LayerNorm`], where nothing is on a tape: with x̂ = s (x − mean), γ s (dx − mean(dx) − x̂ mean(x̂ dx)), times
/// SiLU's slope at γ x̂ + β if SiLU follows. Inputs: x, its tangent, gamma, beta.
#[derive(Debug)]
pub(super) struct LayerNormTangent {
    pub(super) shape: Vec<usize>,
    pub(super) silu: bool,
    /// Of the value.
    pub(super) left: Left,
}

impl Tangent for LayerNormTangent {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], output: &mut [f32]) {
        let [x, dx, gamma, beta] = [0, 1, 2, 3].map(|i| numbers(&inputs[i]));
        let [means, scales] = &found(&self.left)[..] else { unreachable!("a layer normalization leaves these two") };
        let columns = gamma.len();
        let rows = |i: usize| (&x[i * columns..][..columns], &dx[i * columns..][..columns], means[i], scales[i]);
        let write = |(i, dy): (usize, &mut [f32])| {
            let (x, dx, mean, scale) = rows(i);
            let along_one = sum(dx, |c| dx[c]) / columns as f32;
            let along_x = sum(dx, |c| (x[c] - mean) * dx[c]) * scale / columns as f32;
            for (((dy, x), dx), gamma) in dy.iter_mut().zip(x).zip(dx).zip(gamma) {
                *dy = gamma * scale * (dx - along_one - (x - mean) * scale * along_x);
            }
        };
        output.par_chunks_mut(columns).with_min_len((1 << 13) / columns + 1).enumerate().for_each(write);
        if self.silu {
            // Before SiLU: the value, and the tangent as it is now.
            let mut inner = Memory::new(x.len());
            let mut tangent = Memory::new(x.len());
            tangent.copy_from_slice(output);
            let inside = |(i, z): (usize, &mut [f32])| {
                let (x, _, mean, scale) = rows(i);
                for (((z, x), gamma), beta) in z.iter_mut().zip(x).zip(gamma).zip(beta) {
                    *z = (x - mean) * scale * gamma + beta;
                }
            };
            inner.par_chunks_mut(columns).with_min_len((1 << 13) / columns + 1).enumerate().for_each(inside);
            activation::activate_backward(Isa::best(), Activation::Silu, &inner, &tangent, output);
        }
    }
}

/// Σ of `term` over the numbers of a row, in 16 sums, which are added in f64.
fn sum(row: &[f32], term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = row.len() / 16 * 16;
    for first in (0..whole).step_by(16) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(first + lane);
        }
    }
    let rest = (whole..row.len()).map(|c| f64::from(term(c)));
    lanes.into_iter().map(f64::from).chain(rest).sum::<f64>() as f32
}

/// Inputs: queries, keys, values, `[N, places, C]` in any shape.
#[derive(Debug)]
pub(super) struct Attention {
    /// That of the queries.
    pub(super) shape: Vec<usize>,
    pub(super) sizes: AttentionShape,
    pub(super) scale: f32,
    /// That of keys and values.
    pub(super) keys: Vec<usize>,
    /// For the logarithms of the sums of weights, if a tangent follows.
    pub(super) left: Option<Left>,
}

impl Operation for Attention {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], tracked: &[bool], output: &mut [f32]) -> Saved {
        let [q, k, v] = [0, 1, 2].map(|i| numbers(&inputs[i]));
        let sums = attention::attention(Isa::best(), self.sizes, self.scale, q, k, v, output);
        if let Some(left) = &self.left {
            // Nothing is on the tape then.
            let _ = left.set(vec![sums]);
            return Saved::new();
        }
        if tracked.contains(&true) { vec![sums, output.to_vec()] } else { Saved::new() }
    }

    fn reads(&self, _: usize, _: &[bool]) -> bool {
        true
    }

    fn backward(&self, inputs: &Read, saved: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| Memory::new(inputs[i].len()));
        attention::attention_backward(
            Isa::best(),
            self.sizes,
            self.scale,
            inputs[0],
            inputs[1],
            inputs[2],
            &saved[1],
            &saved[0],
            numbers(&dy),
            &mut dq,
            &mut dk,
            &mut dv,
        );
        let keys = &self.keys[..];
        vec![Some(tensor(dq, &self.shape[..])), Some(tensor(dk, keys)), Some(tensor(dv, keys))]
    }
}

/// The tangent of [`Attention`], where nothing is on a tape. Inputs: queries, keys, values, the output, and the tangents of the
/// first three.
#[derive(Debug)]
pub(super) struct AttentionTangent {
    /// That of the queries.
    pub(super) shape: Vec<usize>,
    pub(super) sizes: AttentionShape,
    pub(super) scale: f32,
    /// Of the value.
    pub(super) left: Left,
}

impl Tangent for AttentionTangent {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], output: &mut [f32]) {
        let [q, k, v, out, dq, dk, dv] = [0, 1, 2, 3, 4, 5, 6].map(|i| numbers(&inputs[i]));
        let sums = &found(&self.left)[0];
        attention::attention_tangent(Isa::best(), self.sizes, self.scale, q, k, v, out, sums, dq, dk, dv, output);
    }
}

/// The tangent of [`CosSin`], where nothing is on a tape. Inputs: its output, and the tangent of the angles.
#[derive(Debug)]
pub(super) struct CosSinTangent {
    /// `[rows, columns]` of the angles.
    pub(super) shape: [usize; 2],
}

impl Tangent for CosSinTangent {
    fn shape(&self) -> Vec<usize> {
        vec![self.shape[0], 2 * self.shape[1]]
    }

    fn forward(&self, inputs: &[FlexTensor], output: &mut [f32]) {
        let columns = self.shape[1];
        let [value, tangent] = [0, 1].map(|i| numbers(&inputs[i]));
        for (i, dx) in tangent.iter().enumerate() {
            let cos = i / columns * 2 * columns + i % columns;
            let sin = cos + columns;
            output[cos] = -value[sin] * dx;
            output[sin] = value[cos] * dx;
        }
    }
}

/// Input: angles. Output: their cosines and their sines, side by side along the last axis.
#[derive(Debug)]
pub(super) struct CosSin {
    /// `[rows, columns]` of the angles.
    pub(super) shape: [usize; 2],
}

impl CosSin {
    fn of(&self, angles: &[f32]) -> [Vec<f32>; 2] {
        let (mut sin, mut cos) = (vec![0.0; angles.len()], vec![0.0; angles.len()]);
        activation::sin_cos(Isa::best(), angles, &mut sin, &mut cos);
        [cos, sin]
    }
}

impl Operation for CosSin {
    fn shape(&self) -> Vec<usize> {
        vec![self.shape[0], 2 * self.shape[1]]
    }

    fn forward(&self, inputs: &[FlexTensor], _: &[bool], output: &mut [f32]) -> Saved {
        let columns = self.shape[1];
        let [cos, sin] = self.of(numbers(&inputs[0]));
        for (row, (cos, sin)) in
            output.chunks_exact_mut(2 * columns).zip(cos.chunks_exact(columns).zip(sin.chunks_exact(columns)))
        {
            row[..columns].copy_from_slice(cos);
            row[columns..].copy_from_slice(sin);
        }
        Saved::new()
    }

    fn reads(&self, _: usize, _: &[bool]) -> bool {
        true
    }

    fn backward(&self, inputs: &Read, _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let columns = self.shape[1];
        let [cos, sin] = self.of(inputs[0]);
        let dy = numbers(&dy);
        vec![Some(filled(self.shape, |dx| {
            for (i, dx) in dx.iter_mut().enumerate() {
                let row = &dy[i / columns * 2 * columns..];
                *dx = cos[i] * row[columns + i % columns] - sin[i] * row[i % columns];
            }
        }))]
    }
}

/// A change of size of an image by two.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Every place repeated in both directions.
    Repeat,
    /// The mean of 2 × 2 places.
    Mean,
}

/// Input: x.
#[derive(Debug)]
pub(super) struct Resample {
    /// That of x, `[N, H, W, C]`.
    pub(super) shape: [usize; 4],
    pub(super) change: Change,
}

impl Operation for Resample {
    fn shape(&self) -> Vec<usize> {
        let [n, h, w, c] = self.shape;
        match self.change {
            Change::Repeat => vec![n, 2 * h, 2 * w, c],
            Change::Mean => vec![n, h / 2, w / 2, c],
        }
    }

    fn forward(&self, inputs: &[FlexTensor], _: &[bool], output: &mut [f32]) -> Saved {
        let x = numbers(&inputs[0]);
        match self.change {
            Change::Repeat => resample::upsample_nearest(Isa::best(), x, self.shape, output),
            Change::Mean => resample::average_pool(Isa::best(), x, self.shape, output),
        }
        Saved::new()
    }

    fn reads(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn backward(&self, _: &Read, _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let dy = numbers(&dy);
        vec![Some(filled(self.shape, |dx| match self.change {
            Change::Repeat => resample::upsample_nearest_backward(Isa::best(), dy, self.shape, dx),
            Change::Mean => resample::average_pool_backward(Isa::best(), dy, self.shape, dx),
        }))]
    }
}

/// Input: x.
#[derive(Debug)]
pub(super) struct Filter {
    /// That of x, `[N, H, W, C]`.
    pub(super) shape: [usize; 4],
    pub(super) filter: Fir,
}

impl Operation for Filter {
    fn shape(&self) -> Vec<usize> {
        self.filter.shape(self.shape).to_vec()
    }

    fn forward(&self, inputs: &[FlexTensor], _: &[bool], output: &mut [f32]) -> Saved {
        let Fir { kernel, up, down, pad, gain } = &self.filter;
        let x = numbers(&inputs[0]);
        resample::fir_resample(Isa::best(), x, self.shape, kernel, *up, *down, *pad, *gain as f32, output);
        Saved::new()
    }

    fn reads(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn backward(&self, _: &Read, _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let Fir { kernel, up, down, pad, gain } = &self.filter;
        let dy = numbers(&dy);
        vec![Some(filled(self.shape, |dx| {
            resample::fir_resample_backward(Isa::best(), dy, self.shape, kernel, *up, *down, *pad, *gain as f32, dx);
        }))]
    }
}
