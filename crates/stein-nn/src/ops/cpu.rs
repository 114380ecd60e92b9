//! The operations on the CPU's kernels, each with its backward.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use burn::backend::flex::FlexTensor;
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
    extension::{Operation, Saved, numbers},
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
pub struct Packed(Arc<Mutex<Option<Kept>>>);

/// Packed weights, and what they were made from.
struct Kept {
    source: FlexTensor,
    method: Method,
    weights: Arc<Weights>,
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

    /// The packed form of a weight: the one at hand if it was made from the same view of the same memory, for the same
    /// method. That memory is kept, so no other tensor can come to lie there.
    fn of(&self, weight: &FlexTensor, shape: &Shape, pack: impl FnOnce() -> Weights) -> Arc<Weights> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let method = method(shape);
        if let Some(Kept { source, method: packed_for, weights }) = &*kept {
            let same = Arc::ptr_eq(&source.data_arc(), &weight.data_arc()) && source.layout() == weight.layout();
            if same && *packed_for == method {
                return Arc::clone(weights);
            }
        }
        let weights = Arc::new(pack());
        *kept = Some(Kept { source: weight.clone(), method, weights: Arc::clone(&weights) });
        weights
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
    pub(super) parts: usize,
    pub(super) repeat: usize,
    pub(super) norm: Option<GroupNorm>,
    pub(super) bias: bool,
    pub(super) shift: bool,
    pub(super) residual: bool,
    pub(super) scale: f32,
    pub(super) packed: Packed,
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
        let gamma = self.parts + 1;
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

    fn forward(&self, inputs: &[FlexTensor], training: bool, output: &mut [f32]) -> Saved {
        let isa = Isa::best();
        let at = |i: usize| numbers(&inputs[i]);
        let places = self.places();
        let parts: Vec<&[f32]> = inputs[..self.parts].iter().map(numbers).collect();
        let mut saved = Saved::new();
        if let Some(norm) = &self.norm {
            let shape = self.norm_shape(norm);
            let moments = norm::moments(isa, shape, &parts, norm.epsilon);
            let modulation = |i: usize| norm.modulated.then(|| at(places.scale + i));
            let (gamma, beta) = (Some(at(places.gamma)), Some(at(places.gamma + 1)));
            let factors = norm::coefficients(shape, &moments, gamma, beta, modulation(0), modulation(1));
            saved = vec![moments.mean, moments.scale, factors.a, factors.b];
        }
        let weight = &inputs[self.parts];
        let pack = || Weights::new(isa, &self.shape, method(&self.shape), numbers(weight));
        let weights = if training { Arc::new(pack()) } else { self.packed.of(weight, &self.shape, pack) };
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

    fn reads(&self, input: usize) -> bool {
        let places = self.places();
        // Of the normalization, the shift only went into the coefficients, which are kept.
        input < places.bias && input <= places.scale
    }

    fn backward(&self, inputs: &[&[f32]], saved: &Saved, dy: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let isa = Isa::best();
        let places = self.places();
        let Shape { samples, height, width, inputs: channels, outputs, kernel: [kh, kw], .. } = self.shape;
        let dy = if self.scale == 1.0 {
            dy
        } else {
            filled(self.shape(), |to| to.iter_mut().zip(numbers(&dy)).for_each(|(to, dy)| *to = self.scale * dy))
        };
        let mut found = vec![None; wanted.len()];
        let parts = &inputs[..self.parts];
        if wanted[self.parts] {
            let coefficients = saved.get(2).map(|a| (&a[..], &saved[3][..]));
            let input = self.input(parts, coefficients);
            found[self.parts] = Some(filled([kh, kw, channels, outputs], |dw| {
                convolution::weight_gradient_by(isa, &self.shape, method(&self.shape), &input, numbers(&dy), dw);
            }));
        }
        if self.bias || self.shift {
            let sums = column_sums(isa, numbers(&dy), samples, outputs);
            if self.bias && wanted[places.bias] {
                found[places.bias] = Some(copied(&column_sums(isa, &sums, 1, outputs), [outputs]));
            }
            if self.shift && wanted[places.shift] {
                found[places.shift] = Some(copied(&sums, [samples, outputs]));
            }
        }
        let weight = inputs[self.parts];
        let stored = [height, width].map(|size| size / self.repeat);
        let count = |part: &[f32]| part.len() / (samples * stored[0] * stored[1]);
        // The gradient of some of the channels of the convolution's input, at the size it is stored in.
        let gradient = |range: std::ops::Range<usize>| {
            let width_of = range.len();
            let weights = Weights::transposed(isa, &self.shape, method(&self.shape), range, weight);
            let mut dx = Memory::new(samples * height * width * width_of);
            convolution::input_gradient(isa, &self.shape, &weights, numbers(&dy), &mut dx);
            if self.repeat == 1 {
                return dx;
            }
            let mut summed = Memory::new(samples * stored[0] * stored[1] * width_of);
            resample::upsample_nearest_backward(isa, &dx, [samples, stored[0], stored[1], width_of], &mut summed);
            summed
        };
        let shape_of = |part: &[f32]| [samples, stored[0], stored[1], count(part)];
        if let Some(norm) = &self.norm {
            let of_norm = places.gamma..places.bias;
            if wanted[..self.parts].iter().any(|wanted| *wanted) || wanted[of_norm].iter().any(|wanted| *wanted) {
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
                for (i, (dx, part)) in dx.into_iter().zip(parts).enumerate() {
                    found[i] = Some(tensor(dx, shape_of(part)));
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
            for (i, part) in parts.iter().enumerate() {
                let range = from..from + count(part);
                from = range.end;
                if wanted[i] {
                    found[i] = Some(tensor(gradient(range), shape_of(part)));
                }
            }
        }
        if self.residual && wanted[places.residual] {
            found[places.residual] = Some(dy);
        }
        found
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

    fn forward(&self, inputs: &[FlexTensor], training: bool, output: &mut [f32]) -> Saved {
        let isa = Isa::best();
        let shape = self.sizes();
        let weight = &inputs[1];
        let pack = || Weights::new(isa, &shape, method(&shape), numbers(weight));
        let weights = if training { Arc::new(pack()) } else { self.packed.of(weight, &shape, pack) };
        let epilogue = Epilogue {
            bias: self.bias.then(|| numbers(&inputs[2])),
            residual: self.residual.then(|| numbers(&inputs[2 + usize::from(self.bias)])),
            ..Epilogue::default()
        };
        stein_simd::dense(isa, &[numbers(&inputs[0])], &weights, &epilogue, output);
        Saved::new()
    }

    fn reads(&self, input: usize) -> bool {
        input < 2
    }

    fn backward(&self, inputs: &[&[f32]], _: &Saved, dy: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        let isa = Isa::best();
        let shape = self.sizes();
        let mut found = vec![None; wanted.len()];
        if wanted[0] {
            let mut dims = self.shape.clone();
            *dims.last_mut().expect("as in `sizes`") = self.inputs;
            let weights = Weights::transposed(isa, &shape, method(&shape), 0..self.inputs, inputs[1]);
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

    fn forward(&self, inputs: &[FlexTensor], _: bool, output: &mut [f32]) -> Saved {
        activation::activate(Isa::best(), self.kind, numbers(&inputs[0]), output);
        Saved::new()
    }

    fn reads(&self, _: usize) -> bool {
        true
    }

    fn backward(&self, inputs: &[&[f32]], _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let dx = |dx: &mut [f32]| {
            activation::activate_backward(Isa::best(), self.kind, inputs[0], numbers(&dy), dx);
        };
        vec![Some(filled(&self.shape[..], dx))]
    }
}

/// Inputs: x, gamma, beta, and a scale and a shift of every sample if modulated.
#[derive(Debug)]
pub(super) struct Norm {
    /// `[N, H, W, C]`
    pub(super) shape: [usize; 4],
    pub(super) norm: GroupNorm,
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

    fn forward(&self, inputs: &[FlexTensor], _: bool, output: &mut [f32]) -> Saved {
        let (isa, shape) = (Isa::best(), self.sizes());
        let at = |i: usize| Some(numbers(&inputs[i]));
        let parts = [numbers(&inputs[0])];
        let moments = norm::moments(isa, shape, &parts, self.norm.epsilon);
        let (scale, shift) = if self.norm.modulated { (at(3), at(4)) } else { (None, None) };
        let factors = norm::coefficients(shape, &moments, at(1), at(2), scale, shift);
        norm::normalize(isa, shape, &parts, &factors, self.norm.silu, output);
        vec![moments.mean, moments.scale, factors.a, factors.b]
    }

    fn reads(&self, input: usize) -> bool {
        // The shift only went into the coefficients, which are kept.
        input < 4
    }

    fn backward(&self, inputs: &[&[f32]], saved: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
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

/// Inputs: x, gamma, beta. Over the last axis.
#[derive(Debug)]
pub(super) struct LayerNorm {
    pub(super) shape: Vec<usize>,
    pub(super) epsilon: f64,
    pub(super) silu: bool,
}

impl Operation for LayerNorm {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], _: bool, output: &mut [f32]) -> Saved {
        let [x, gamma, beta] = [0, 1, 2].map(|i| numbers(&inputs[i]));
        let moments =
            norm::layer_norm(Isa::best(), x, gamma.len(), Some(gamma), Some(beta), self.epsilon, self.silu, output);
        vec![moments.mean, moments.scale]
    }

    fn reads(&self, _: usize) -> bool {
        true
    }

    fn backward(&self, inputs: &[&[f32]], saved: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
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

/// Inputs: queries, keys, values, `[N, places, C]` in any shape.
#[derive(Debug)]
pub(super) struct Attention {
    /// That of the queries.
    pub(super) shape: Vec<usize>,
    pub(super) sizes: AttentionShape,
    pub(super) scale: f32,
    /// That of keys and values.
    pub(super) keys: Vec<usize>,
}

impl Operation for Attention {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, inputs: &[FlexTensor], training: bool, output: &mut [f32]) -> Saved {
        let [q, k, v] = [0, 1, 2].map(|i| numbers(&inputs[i]));
        let sums = attention::attention(Isa::best(), self.sizes, self.scale, q, k, v, output);
        if training { vec![sums, output.to_vec()] } else { Saved::new() }
    }

    fn reads(&self, _: usize) -> bool {
        true
    }

    fn backward(&self, inputs: &[&[f32]], saved: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
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

    fn forward(&self, inputs: &[FlexTensor], _: bool, output: &mut [f32]) -> Saved {
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

    fn reads(&self, _: usize) -> bool {
        true
    }

    fn backward(&self, inputs: &[&[f32]], _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
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

    fn forward(&self, inputs: &[FlexTensor], _: bool, output: &mut [f32]) -> Saved {
        let x = numbers(&inputs[0]);
        match self.change {
            Change::Repeat => resample::upsample_nearest(Isa::best(), x, self.shape, output),
            Change::Mean => resample::average_pool(Isa::best(), x, self.shape, output),
        }
        Saved::new()
    }

    fn reads(&self, _: usize) -> bool {
        false
    }

    fn backward(&self, _: &[&[f32]], _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
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

    fn forward(&self, inputs: &[FlexTensor], _: bool, output: &mut [f32]) -> Saved {
        let Fir { kernel, up, down, pad, gain } = &self.filter;
        let x = numbers(&inputs[0]);
        resample::fir_resample(Isa::best(), x, self.shape, kernel, *up, *down, *pad, *gain as f32, output);
        Saved::new()
    }

    fn reads(&self, _: usize) -> bool {
        false
    }

    fn backward(&self, _: &[&[f32]], _: &Saved, dy: FlexTensor, _: &[bool]) -> Vec<Option<FlexTensor>> {
        let Fir { kernel, up, down, pad, gain } = &self.filter;
        let dy = numbers(&dy);
        vec![Some(filled(self.shape, |dx| {
            resample::fir_resample_backward(Isa::best(), dy, self.shape, kernel, *up, *down, *pad, *gain as f32, dx);
        }))]
    }
}
