//! Every operation's forms against each other: kernels in f32, compositions in f64, tangents, and the gradients of all.
//!
//! An operation is run on the same numbers in f32, which takes the kernels on the CPU, and in f64, which takes the
//! compositions. What is asserted of each:
//! - values, tangents and gradients in f32 are those in f64, to the operation's tolerance times the largest of them;
//! - an evaluation, and any choice of inputs that ask for gradients, gives the same bits as the whole;
//! - in f64, tangents are central differences of values, and gradients of tangents are central differences of tangents;
//! - tangents in f32 with nothing on a tape, which kernels of their own compute, are those in f64 to the same tolerance;
//! - ⟨v, J w⟩ = ⟨Jᵀ v, w⟩ in all, J w being the tangent and Jᵀ v the gradient.

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein_nn::ops::{self, Activation, Conv, Dual, Norm, Packed, Weighted, Windows};

use crate::uniform;

/// Kernels that sum in f32: some tens of roundings of 6e-8 each.
const EXACT: f64 = 1e-5;
/// Convolutions by Winograd's transforms, which add and subtract before they multiply (3 × 3, 16 channels or more).
const WINOGRAD: f64 = 1e-4;
/// Tangents in f32, and gradients of theirs, go through more operations than values do.
const TANGENT: f64 = 1e-4;
/// Central differences in f64 with a step of 1e-5: truncation of about 1e-10, rounding of about 1e-11.
const STEP: f64 = 1e-5;
const DIFFERENCE: f64 = 1e-6;
/// Two orders of the same sums in f64.
const ADJOINT: f64 = 1e-10;

/// Which inputs ask for a gradient.
#[derive(Debug, Clone, Copy)]
enum Tracked {
    All,
    /// None, all on a device without autodiff.
    None,
    Only(usize),
    Without(usize),
}

/// Which of the inputs that can have a tangent have one.
#[derive(Debug, Clone, Copy)]
enum Tangents {
    None,
    All,
    Only(usize),
}

/// How to make an operation's inputs.
#[derive(Debug, Clone, Copy)]
struct Plan {
    kind: DType,
    tracked: Tracked,
    tangents: Tangents,
    /// How far the inputs with a tangent are moved along it.
    along: f64,
    /// How far all inputs and tangents are moved in directions of their own.
    aside: f64,
}

/// Everything tracked, no tangents.
fn plan(kind: DType) -> Plan {
    Plan { kind, tracked: Tracked::All, tangents: Tangents::None, along: 0.0, aside: 0.0 }
}

/// The inputs of an operation, made as it asks for them: vectors of random numbers, reshaped.
struct Given {
    plan: Plan,
    leaves: Vec<Leaf>,
    duals: usize,
}

/// One input as the vector it was made from.
struct Leaf {
    value: Tensor<1>,
    tangent: Option<Tensor<1>>,
    can_have_tangent: bool,
}

/// Numbers of f32: of input i its values, its tangent, and the directions both are moved aside in.
fn numbers(input: usize, what: u64, count: usize) -> Vec<f64> {
    uniform(count, 100 * (input as u64 + 1) + what).iter().map(|x| f64::from(*x as f32)).collect()
}

const VALUE: u64 = 0;
const ALONG: u64 = 1;
const ASIDE: u64 = 2;
const TANGENT_ASIDE: u64 = 3;

impl Given {
    fn tensor(&self, numbers: Vec<f64>) -> Tensor<1> {
        let input = self.leaves.len();
        let tracked = match self.plan.tracked {
            Tracked::All => true,
            Tracked::None => false,
            Tracked::Only(i) => i == input,
            Tracked::Without(i) => i != input,
        };
        // Of the inputs that need no gradient some are on a device without autodiff, as data of a training step may be.
        let plain = matches!(self.plan.tracked, Tracked::None) || !tracked && input % 2 == 1;
        let device = if plain { Device::flex() } else { Device::flex().autodiff() };
        let count = numbers.len();
        let tensor = Tensor::from_data(TensorData::new(numbers, [count]), (&device, self.plan.kind));
        if tracked { tensor.require_grad() } else { tensor }
    }

    fn make<const D: usize>(&mut self, shape: [usize; D], scale: f64, offset: f64, dual: bool) -> Dual<D> {
        let (input, count) = (self.leaves.len(), shape.iter().product());
        let wanted = match self.plan.tangents {
            Tangents::None => false,
            Tangents::All => true,
            Tangents::Only(i) => i == self.duals,
        };
        let with_tangent = dual && wanted;
        let Plan { along, aside, .. } = self.plan;
        let [values, tangent, values_aside, tangent_aside] =
            [VALUE, ALONG, ASIDE, TANGENT_ASIDE].map(|what| numbers(input, what, count));
        let value = (0..count).map(|i| {
            let base = f64::from((offset + scale * values[i]) as f32);
            base + if with_tangent { along * tangent[i] } else { 0.0 } + aside * values_aside[i]
        });
        let value = self.tensor(value.collect());
        let tangent =
            with_tangent.then(|| self.tensor((0..count).map(|i| tangent[i] + aside * tangent_aside[i]).collect()));
        self.leaves.push(Leaf { value: value.clone(), tangent: tangent.clone(), can_have_tangent: dual });
        self.duals += usize::from(dual);
        Dual { value: value.reshape(shape), tangent: tangent.map(|tangent| tangent.reshape(shape)) }
    }

    /// An input that may have a tangent.
    fn dual<const D: usize>(&mut self, shape: [usize; D]) -> Dual<D> {
        self.make(shape, 1.0, 0.0, true)
    }

    /// A parameter, of numbers up to `scale` around `offset`.
    fn parameter<const D: usize>(&mut self, shape: [usize; D], scale: f64, offset: f64) -> Tensor<D> {
        self.make(shape, scale, offset, false).value
    }

    /// A weight that keeps sums of `inputs` numbers of the size of one of them, and a bias.
    fn layer<'a, const D: usize>(&mut self, shape: [usize; D], bias: bool, packed: &'a Packed) -> Weighted<'a, D> {
        let inputs: usize = shape[..D - 1].iter().product();
        let weight = self.parameter(shape, (3.0 / inputs as f64).sqrt(), 0.0);
        let bias = bias.then(|| self.parameter([shape[D - 1]], 0.5, 0.0));
        Weighted { weight, bias, packed }
    }

    fn norm(&mut self, samples: usize, channels: usize, groups: usize, modulated: bool, silu: bool) -> Norm {
        Norm {
            gamma: self.parameter([channels], 0.5, 1.0),
            beta: self.parameter([channels], 0.5, 0.0),
            groups,
            epsilon: 1e-5,
            modulation: modulated.then(|| (self.dual([samples, channels]), self.dual([samples, channels]))),
            activation: silu.then_some(Activation::Silu),
        }
    }
}

fn flat<const D: usize>(x: Dual<D>) -> Dual<1> {
    let count = x.dims().iter().product();
    x.reshape([count])
}

fn read(x: &Tensor<1>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Asserts that numbers are equal to within a part of the largest, which counts as 0.1 at least: what is zero by
/// construction comes out as rounding errors of numbers near 1.
fn close(what: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(0.1, |largest: f64, x| largest.max(x.abs()));
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (found - wanted).abs() / largest;
        assert!(error <= tolerance, "{what}, number {i}: {found} for {wanted}, {error:.1e} of the largest");
    }
}

fn run(operation: &dyn Fn(&mut Given) -> Dual<1>, plan: Plan) -> (Dual<1>, Vec<Leaf>) {
    let mut given = Given { plan, leaves: Vec::new(), duals: 0 };
    let y = operation(&mut given);
    (y, given.leaves)
}

/// A direction in the space of outputs.
fn weights(count: usize) -> Vec<f64> {
    numbers(99, VALUE, count)
}

/// Gradients of Σ weights · of with respect to every input, and of their tangents; zeros where there is none.
fn gradients(of: &Tensor<1>, leaves: &[Leaf]) -> Vec<[Vec<f64>; 2]> {
    let weights = weights(of.dims()[0]);
    let weights = Tensor::<1>::from_data(weights.as_slice(), (&Device::flex(), of.dtype()));
    let gradients = (of.clone() * weights).sum().backward();
    let gradient = |leaf: &Tensor<1>| {
        let zeros = || vec![0.0; leaf.dims()[0]];
        if leaf.is_require_grad() { leaf.grad(&gradients).map_or_else(zeros, |found| read(&found)) } else { zeros() }
    };
    leaves.iter().map(|leaf| [gradient(&leaf.value), leaf.tangent.as_ref().map_or_else(Vec::new, &gradient)]).collect()
}

/// Asserts all there is to assert of an operation.
fn check(name: &str, tolerance: f64, operation: impl Fn(&mut Given) -> Dual<1>) {
    check_any(name, tolerance, &operation);
}

/// Not generic, as the compiler takes its time over it.
fn check_any(name: &str, tolerance: f64, operation: &dyn Fn(&mut Given) -> Dual<1>) {
    let (wide, narrow) = (plan(DType::F64), plan(DType::F32));
    let value = |plan| read(&run(operation, plan).0.value);

    // The kernels against the compositions.
    let by_kind = [wide, narrow].map(|plan| {
        let (y, leaves) = run(operation, plan);
        assert!(y.tangent.is_none(), "{name}: a constant has no tangent");
        (read(&y.value), gradients(&y.value, &leaves))
    });
    let [(y, gradient), (y32, gradient32)] = &by_kind;
    close(&format!("{name}: value"), y32, y, tolerance);
    for (i, (found, wanted)) in gradient32.iter().zip(gradient).enumerate() {
        close(&format!("{name}: gradient of input {i}"), &found[0], &wanted[0], tolerance);
    }

    // Parts of the tape.
    assert_eq!(value(Plan { tracked: Tracked::None, ..narrow }), *y32, "{name}: an evaluation");
    for i in 0..gradient32.len() {
        for tracked in [Tracked::Only(i), Tracked::Without(i)] {
            let (y, leaves) = run(operation, Plan { tracked, ..narrow });
            assert_eq!(read(&y.value), *y32, "{name}: {tracked:?}");
            if leaves.len() == 1 && matches!(tracked, Tracked::Without(_)) {
                continue;
            }
            for (j, (found, wanted)) in gradients(&y.value, &leaves).iter().zip(gradient32).enumerate() {
                if matches!(tracked, Tracked::Only(_)) == (i == j) {
                    assert_eq!(found[0], wanted[0], "{name}: gradient of input {j} with {tracked:?}");
                }
            }
        }
    }

    // Tangents.
    let duals = run(operation, narrow).1.iter().filter(|leaf| leaf.can_have_tangent).count();
    let choices = std::iter::once(Tangents::All).chain((0..duals).map(Tangents::Only));
    for tangents in choices {
        let tangent = |plan: Plan| {
            let (y, leaves) = run(operation, Plan { tangents, ..plan });
            let tangent = y.tangent.unwrap_or_else(|| panic!("{name}: no tangent with {tangents:?}"));
            assert_eq!(tangent.dims(), y.value.dims());
            (read(&y.value), tangent, leaves)
        };
        let [(with, t, leaves), (with32, t32, leaves32)] = [wide, narrow].map(tangent);
        assert!(with == *y && with32 == *y32, "{name}: a tangent changes no value");
        let name = format!("{name}: {tangents:?}");
        close(&format!("{name}: tangent in f32"), &read(&t32), &read(&t), TANGENT.max(tolerance));
        // With nothing on a tape, by kernels of its own.
        let (free, free32, _) = tangent(Plan { tracked: Tracked::None, ..narrow });
        assert_eq!(free, *y32, "{name}: a tangent by kernels changes no value");
        close(&format!("{name}: tangent by kernels"), &read(&free32), &read(&t), tolerance);

        let moved = |along| value(Plan { tangents, along, ..wide });
        let difference: Vec<f64> =
            moved(STEP).iter().zip(moved(-STEP)).map(|(more, less)| (more - less) / (2.0 * STEP)).collect();
        close(&format!("{name}: tangent"), &read(&t), &difference, DIFFERENCE);

        for (t, gradient, tolerance) in [(&t, gradient, ADJOINT), (&t32, gradient32, 1e-4), (&free32, gradient32, 1e-4)]
        {
            let v = weights(y.len());
            let forward = dot(&v, &read(t));
            let backward: f64 = (leaves.iter().zip(gradient))
                .filter_map(|(leaf, gradient)| Some(dot(&gradient[0], &read(leaf.tangent.as_ref()?))))
                .sum();
            let bound = tolerance * norm(&v) * norm(&read(t)).max(1e-3);
            assert!((forward - backward).abs() <= bound, "{name}: {forward} forward, {backward} backward");
        }

        // Gradients of the tangent.
        let (second, second32) = (gradients(&t, &leaves), gradients(&t32, &leaves32));
        let mut slope = 0.0;
        let mut size = 0.0;
        for (i, [of_value, of_tangent]) in second.iter().enumerate() {
            for (gradient, what) in [(of_value, ASIDE), (of_tangent, TANGENT_ASIDE)] {
                let direction = numbers(i, what, gradient.len());
                slope += dot(gradient, &direction);
                size += norm(gradient) * norm(&direction);
            }
            for (found, wanted) in second32[i].iter().zip(&second[i]) {
                close(&format!("{name}: gradient of the tangent, input {i}"), found, wanted, TANGENT.max(tolerance));
            }
        }
        // Whichever input is on the tape, a tangent has its gradient: none is computed by kernels without one.
        let each = if matches!(tangents, Tangents::All) { 0..leaves32.len() } else { 0..0 };
        for i in each {
            let (_, t, leaves) = tangent(Plan { tracked: Tracked::Only(i), ..narrow });
            let nothing = || second[i].iter().map(|gradient| vec![0.0; gradient.len()]).collect();
            let found: Vec<_> = if t.is_tracked() { gradients(&t, &leaves)[i].to_vec() } else { nothing() };
            for (found, wanted) in found.iter().zip(&second[i]) {
                let what = format!("{name}: gradient of the tangent, input {i} alone");
                close(&what, found, wanted, TANGENT.max(tolerance));
            }
        }
        let moved = |aside| {
            let t = read(&tangent(Plan { aside, ..wide }).1);
            dot(&weights(t.len()), &t)
        };
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!(
            (slope - difference).abs() <= DIFFERENCE * size.max(1e-3),
            "{name}: {slope} is the gradient of the tangent, {difference} its difference"
        );
    }
}

#[test]
fn linear() {
    for (rows, inputs, outputs) in [(7, 19, 23), (1, 5, 3), (1, 600, 4), (70, 130, 65)] {
        for (bias, residual) in [(true, false), (false, false), (true, true), (false, true)] {
            check(&format!("linear {rows} {inputs} {outputs} {bias} {residual}"), EXACT, |given| {
                let packed = Packed::default();
                let x = given.dual([rows, inputs]);
                let layer = given.layer([inputs, outputs], bias, &packed);
                let residual = residual.then(|| given.dual([rows, outputs]));
                flat(ops::linear(x, layer, residual))
            });
        }
    }
    check("linear of rank 3", EXACT, |given| {
        let packed = Packed::default();
        let (x, layer) = (given.dual([2, 5, 9]), given.layer([9, 17], true, &packed));
        flat(ops::linear(x, layer, Some(given.dual([2, 5, 17]))))
    });
}

#[test]
fn activations() {
    for kind in Activation::ALL {
        check(&format!("{kind:?}"), EXACT, |given| {
            // Up to 4 to both sides, where each has its whole shape.
            flat(ops::activate(given.dual([3, 37]).linear(|x| x * 4.0), kind))
        });
    }
    check("silu", EXACT, |given| flat(ops::silu(given.dual([5]))));
}

#[test]
fn layer_norm() {
    for silu in [false, true] {
        for columns in [5, 16, 67] {
            check(&format!("layer norm of {columns}, silu {silu}"), EXACT, |given| {
                let (x, gamma) = (given.dual([6, columns]), given.parameter([columns], 0.5, 1.0));
                flat(ops::layer_norm(x, gamma, given.parameter([columns], 0.5, 0.0), 1e-5, silu))
            });
        }
        check("layer norm of rank 3", EXACT, |given| {
            let (x, gamma) = (given.dual([2, 3, 12]), given.parameter([12], 0.5, 1.0));
            flat(ops::layer_norm(x, gamma, given.parameter([12], 0.5, 0.0), 1e-2, silu))
        });
    }
}

#[test]
fn group_norm() {
    for (channels, groups) in [(12, 4), (12, 1), (12, 12), (36, 9), (5, 1), (64, 32)] {
        for (silu, modulated) in [(false, false), (true, false), (false, true), (true, true)] {
            check(&format!("group norm {channels} {groups} {silu} {modulated}"), EXACT, |given| {
                let x = given.dual([2, 3, 5, channels]);
                flat(ops::group_norm(x, &given.norm(2, channels, groups, modulated, silu)))
            });
        }
    }
}

/// A convolution with what it does besides.
#[derive(Debug, Clone, Copy)]
struct Convolution {
    size: [usize; 2],
    parts: &'static [usize],
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    pad: [usize; 4],
    bias: bool,
    /// Groups, modulation and silu.
    norm: Option<(usize, bool, bool)>,
    upsample: bool,
    shift: bool,
    residual: bool,
    scale: f64,
}

/// 3 × 3 with a border of one.
const PLAIN: Convolution = Convolution {
    size: [5, 7],
    parts: &[6],
    outputs: 9,
    kernel: [3, 3],
    stride: 1,
    pad: [1; 4],
    bias: true,
    norm: None,
    upsample: false,
    shift: false,
    residual: false,
    scale: 1.0,
};

fn convolves(case: Convolution) {
    let Convolution { size, parts, outputs, kernel, stride, pad, bias, norm, upsample, shift, residual, scale } = case;
    let inputs: usize = parts.iter().sum();
    let winograd = kernel == [3, 3] && stride == 1 && inputs.min(outputs) >= 16;
    check(&format!("{case:?}"), if winograd { WINOGRAD } else { EXACT }, |given| {
        let packed = Packed::default();
        let [height, width] = size;
        let parts = parts.iter().map(|channels| given.dual([2, height, width, *channels])).collect();
        let layer = given.layer([kernel[0], kernel[1], inputs, outputs], bias, &packed);
        let norm = norm.map(|(groups, modulated, silu)| given.norm(2, inputs, groups, modulated, silu));
        let repeat = if upsample { 2 } else { 1 };
        let after = |i: usize| (size[i] * repeat + pad[2 * i] + pad[2 * i + 1] - kernel[i]) / stride + 1;
        let shift = shift.then(|| given.dual([2, outputs]));
        let residual = residual.then(|| given.dual([2, after(0), after(1), outputs]));
        let y = ops::conv2d(parts, Conv { layer, stride, pad, norm, upsample, shift, residual, scale });
        assert_eq!(y.dims(), [2, after(0), after(1), outputs]);
        flat(y)
    });
}

#[test]
fn convolutions_in_place() {
    convolves(PLAIN);
    convolves(Convolution { bias: false, ..PLAIN });
    convolves(Convolution { parts: &[1], outputs: 1, ..PLAIN });
    convolves(Convolution { parts: &[3], outputs: 40, size: [9, 33], ..PLAIN });
    convolves(Convolution { parts: &[40], outputs: 3, size: [9, 33], ..PLAIN });
    for pad in [[0; 4], [2; 4], [2, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 2]] {
        convolves(Convolution { pad, ..PLAIN });
    }
    convolves(Convolution { kernel: [5, 3], pad: [2, 2, 1, 1], ..PLAIN });
    convolves(Convolution { kernel: [1, 3], pad: [0, 0, 1, 1], ..PLAIN });
    convolves(Convolution { kernel: [2, 2], pad: [0, 1, 1, 0], ..PLAIN });
}

#[test]
fn convolutions_of_one_place() {
    let one = Convolution { kernel: [1, 1], pad: [0; 4], ..PLAIN };
    convolves(one);
    convolves(Convolution { parts: &[5, 7], outputs: 4, ..one });
    convolves(Convolution { parts: &[17, 16], outputs: 33, residual: true, ..one });
    convolves(Convolution { parts: &[5, 7], norm: Some((4, false, true)), ..one });
}

#[test]
fn convolutions_that_halve() {
    for size in [[6, 8], [5, 7], [4, 18]] {
        for pad in [[1; 4], [0, 1, 0, 1], [1, 0, 1, 0], [0; 4]] {
            convolves(Convolution { size, stride: 2, pad, ..PLAIN });
        }
    }
    convolves(Convolution { size: [8, 10], parts: &[18], outputs: 17, stride: 2, pad: [0, 1, 0, 1], ..PLAIN });
    convolves(Convolution { size: [6, 8], kernel: [1, 1], stride: 2, pad: [0; 4], ..PLAIN });
    let all = Convolution { norm: Some((3, true, true)), shift: true, residual: true, scale: 0.7, ..PLAIN };
    convolves(Convolution { size: [6, 8], stride: 2, ..all });
    convolves(Convolution { size: [13, 18], kernel: [5, 5], stride: 4, pad: [2; 4], ..PLAIN });
}

#[test]
fn convolutions_with_more_around() {
    convolves(Convolution { parts: &[5, 6], ..PLAIN });
    convolves(Convolution { norm: Some((3, false, true)), ..PLAIN });
    convolves(Convolution { norm: Some((6, false, false)), ..PLAIN });
    // Groups of three channels, one of which lies in both parts.
    convolves(Convolution { parts: &[5, 7], norm: Some((4, false, true)), ..PLAIN });
    convolves(Convolution { parts: &[5, 7], norm: Some((4, true, true)), ..PLAIN });
    convolves(Convolution { norm: Some((2, true, false)), ..PLAIN });
    convolves(Convolution { upsample: true, ..PLAIN });
    convolves(Convolution { upsample: true, norm: Some((2, false, true)), ..PLAIN });
    convolves(Convolution { shift: true, ..PLAIN });
    convolves(Convolution { shift: true, bias: false, ..PLAIN });
    convolves(Convolution { residual: true, ..PLAIN });
    convolves(Convolution { scale: 0.5f64.sqrt(), ..PLAIN });
    convolves(Convolution { residual: true, shift: true, scale: 0.5f64.sqrt(), ..PLAIN });
    let all = Convolution { shift: true, residual: true, scale: 1.5, ..PLAIN };
    convolves(Convolution { parts: &[5, 7], norm: Some((4, true, true)), upsample: true, ..all });
    convolves(Convolution { parts: &[2, 3, 1], norm: Some((2, true, true)), pad: [0, 1, 0, 1], ..all });
}

#[test]
fn convolutions_by_winograd() {
    let wide = Convolution { parts: &[16], outputs: 16, ..PLAIN };
    convolves(wide);
    for size in [[1, 6], [2, 2], [3, 3], [8, 8], [13, 17]] {
        convolves(Convolution { size, parts: &[17], outputs: 20, ..wide });
    }
    for pad in [[0; 4], [2, 0, 1, 1], [0, 1, 0, 1]] {
        convolves(Convolution { pad, outputs: 35, ..wide });
    }
    convolves(Convolution { upsample: true, norm: Some((4, false, true)), ..wide });
    let all = Convolution { shift: true, residual: true, scale: 0.8, ..wide };
    convolves(Convolution { parts: &[9, 11], outputs: 18, norm: Some((5, true, true)), ..all });
    convolves(Convolution { parts: &[9, 11], outputs: 18, norm: Some((5, true, true)), upsample: true, ..all });
    convolves(Convolution { parts: &[33, 31], outputs: 48, norm: Some((16, false, true)), size: [8, 8], ..all });
}

#[test]
fn resampling() {
    for channels in [1, 5, 16, 19] {
        check("upsampling", EXACT, |given| flat(ops::upsample_nearest(given.dual([2, 3, 5, channels]))));
        check("pooling", EXACT, |given| flat(ops::average_pool(given.dual([2, 4, 6, channels]))));
    }
}

#[test]
fn pools() {
    let windows = [
        Windows::new(2, 2),
        Windows::new(3, 2),
        Windows { partial: true, ..Windows::new(3, 2) },
        Windows::around(3),
        Windows { size: 5, stride: 3, pad: 2, partial: true },
    ];
    for windows in windows {
        for size in [[5, 8], [6, 7], [9, 5]] {
            let after = size.map(|places| windows.count(places));
            let shape = [2, size[0], size[1], 5];
            let checked = |x: Dual<4>| {
                assert_eq!(x.dims(), [2, after[0], after[1], 5], "{windows:?} of {size:?}");
                flat(x)
            };
            check("maxima", EXACT, |given| checked(ops::max_pool(given.dual(shape), &windows)));
            check("means", EXACT, |given| checked(ops::mean_pool(given.dual(shape), &windows)));
        }
    }
}

/// The places a pool gives, by hand.
#[test]
fn pools_of_a_row() {
    let row = Tensor::<1>::from_data([3.0f32, 1.0, 2.0, 5.0, 4.0, 0.0], &Device::flex()).reshape([1, 1, 6, 1]);
    // Two rows, as a window has two places down.
    let image = || Tensor::cat(vec![row.clone(), row.clone()], 1).into();
    let read = |x: Dual<4>| x.value.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(read(ops::max_pool(image(), &Windows::new(2, 2))), [3.0, 5.0, 4.0]);
    assert_eq!(read(ops::mean_pool(image(), &Windows::new(2, 2))), [2.0, 3.5, 2.0]);
    let partial = Windows { size: 2, stride: 3, pad: 0, partial: true };
    assert_eq!(read(ops::max_pool(image(), &partial)), [3.0, 5.0]);
    assert_eq!(read(ops::max_pool(image(), &Windows { stride: 5, ..partial })), [3.0, 0.0]);
    assert_eq!(read(ops::mean_pool(image(), &Windows { stride: 5, ..partial })), [2.0, 0.0]);
    // What lies beyond the border does not count in a mean.
    let around = read(ops::mean_pool(image(), &Windows::around(3)));
    assert_eq!(around[..6], [2.0, 2.0, 8.0 / 3.0, 11.0 / 3.0, 3.0, 2.0]);
}

#[test]
fn attention() {
    for (queries, keys, channels, heads) in
        [(6, 6, 8, 1), (7, 7, 12, 3), (5, 9, 16, 2), (9, 4, 6, 6), (1, 3, 4, 1), (3, 1, 4, 2), (40, 70, 64, 2)]
    {
        check(&format!("attention {queries} {keys} {channels} {heads}"), EXACT, |given| {
            let q = given.dual([2, queries, channels]).linear(|q| q * 3.0);
            let (k, v) = (given.dual([2, keys, channels]), given.dual([2, keys, channels]));
            flat(ops::attention(q, k, v, heads))
        });
    }
}

#[test]
fn cosines_and_sines() {
    for columns in [1, 8, 13] {
        check("cosines and sines", EXACT, |given| {
            // 32 is a power of two, so both have the same angles.
            let angles = given.dual([3, columns]).linear(|x| x * 32.0);
            flat(ops::cos_sin(angles))
        });
    }
}

#[test]
fn views_have_gradients() {
    let turned = |x: Dual<4>| x.linear(|x: Tensor<4>| x.permute([0, 2, 3, 1]));
    check("linear of views", EXACT, |given| {
        let packed = Packed::default();
        let x = given.dual([19, 7]).linear(|x: Tensor<2>| x.transpose());
        let weight = given.parameter([23, 19], 0.4, 0.0).transpose();
        let bias = Some(given.parameter([50], 1.0, 0.0).narrow(0, 9, 23));
        let residual = given.dual([7, 30]).linear(|x| x.narrow(1, 4, 23));
        flat(ops::linear(x, Weighted { weight, bias, packed: &packed }, Some(residual)))
    });
    check("convolution of views", EXACT, |given| {
        let packed = Packed::default();
        let parts = vec![turned(given.dual([2, 5, 4, 6])), given.dual([2, 4, 6, 9]).linear(|x| x.narrow(3, 2, 4))];
        let weight = given.parameter([7, 9, 3, 3], 0.2, 0.0).permute([2, 3, 1, 0]);
        let bias = Some(given.parameter([1], 1.0, 0.0).expand([7]));
        let shift = given.dual([7, 2]).linear(|x: Tensor<2>| x.transpose());
        let residual = turned(given.dual([2, 7, 4, 6]));
        let norm = given.norm(2, 9, 3, true, true);
        let conv = Conv::new(Weighted { weight, bias, packed: &packed });
        flat(ops::conv2d(parts, Conv { norm: Some(norm), shift: Some(shift), residual: Some(residual), ..conv }))
    });
    check("attention of views", EXACT, |given| {
        let all = given.dual([2, 6, 24]);
        let [q, k, v] = [0, 8, 16].map(|from| all.clone().linear(|x| x.narrow(2, from, 8)));
        flat(ops::attention(q, k, v, 2))
    });
    check("normalizations of views", EXACT, |given| {
        let x = turned(given.dual([2, 6, 3, 4]));
        let norm = given.norm(2, 6, 2, false, true);
        let y = ops::group_norm(x, &norm).linear(|x| x.permute([0, 3, 1, 2]));
        let (gamma, beta) = (given.parameter([4], 0.5, 1.0), given.parameter([1], 0.5, 0.0).expand([4]));
        flat(ops::layer_norm(y, gamma, beta, 1e-5, false))
    });
    check("elementwise and resampled views", EXACT, |given| {
        let row = given.dual([1, 4, 1, 3]).linear(|x: Tensor<4>| x.expand([2, 4, 6, 3]));
        let pooled = ops::average_pool(ops::activate(row, Activation::Gelu));
        flat(ops::upsample_nearest(pooled.linear(|x| x.permute([0, 2, 3, 1]))))
    });
    check("cosines and sines of a view", EXACT, |given| {
        flat(ops::cos_sin(given.dual([5, 3]).linear(|x: Tensor<2>| x.transpose().narrow(0, 1, 2))))
    });
}

/// Views of `[2, 4, 6, 8]` numbers that do not lie in memory as a dense tensor of their own would.
fn views() -> Vec<(&'static str, Tensor<4>)> {
    let device = Device::flex();
    let of = |shape: [usize; 4]| {
        let numbers = uniform(shape.iter().product(), 7);
        Tensor::<4>::from_data(TensorData::new(numbers, shape), (&device, DType::F32))
    };
    vec![
        ("permuted", of([2, 8, 4, 6]).permute([0, 2, 3, 1])),
        ("narrowed along channels", of([2, 4, 6, 11]).narrow(3, 2, 8)),
        ("narrowed along samples", of([5, 4, 6, 8]).narrow(0, 2, 2)),
        ("narrowed along rows", of([2, 9, 6, 8]).narrow(1, 3, 4)),
        ("expanded", of([1, 4, 1, 8]).expand([2, 4, 6, 8])),
        ("flipped", of([2, 4, 6, 8]).flip([1, 3])),
    ]
}

#[test]
fn a_view_is_its_dense_copy() {
    let device = Device::flex();
    let vector = |count, seed| Tensor::<1>::from_data(uniform(count, seed).as_slice(), (&device, DType::F32));
    let weight = vector(9 * 8 * 5, 1).reshape([3, 3, 8, 5]);
    let rows = |x: Tensor<4>| -> Dual<3> { x.reshape([2, 24, 8]).into() };
    type Operation<'a> = (&'a str, Box<dyn Fn(Tensor<4>) -> TensorData + 'a>);
    let norm = |x: &Tensor<4>| Norm {
        gamma: vector(8, 2),
        beta: vector(8, 3),
        groups: 2,
        epsilon: 1e-5,
        // As a modulation cut from a wider vector.
        modulation: Some([0, 1].map(|c| x.clone().narrow(1, c, 1).narrow(2, 1, 1).reshape([2, 8]).into()).into()),
        activation: Some(Activation::Silu),
    };
    let norm = &norm;
    let operations: Vec<Operation> = vec![
        (
            "linear",
            Box::new(|x| {
                let packed = Packed::default();
                let layer = Weighted { weight: vector(48, 4).reshape([8, 6]), bias: None, packed: &packed };
                ops::linear(x.into(), layer, None).value.into_data()
            }),
        ),
        (
            "a residual",
            Box::new(|x| {
                let packed = Packed::default();
                let layer = Weighted { weight: vector(64, 4).reshape([8, 8]), bias: None, packed: &packed };
                ops::linear(x.clone().into(), layer, Some(x.into())).value.into_data()
            }),
        ),
        ("silu", Box::new(|x| ops::silu(x.into()).value.into_data())),
        (
            "layer norm",
            Box::new(|x| ops::layer_norm(x.into(), vector(8, 2), vector(8, 3), 1e-5, true).value.into_data()),
        ),
        ("group norm", Box::new(|x| ops::group_norm(x.clone().into(), &norm(&x)).value.into_data())),
        (
            "convolution",
            Box::new(|x| {
                let packed = Packed::default();
                let layer = Weighted { weight: weight.clone(), bias: None, packed: &packed };
                ops::conv2d(vec![x.clone().into()], Conv { norm: Some(norm(&x)), ..Conv::new(layer) }).value.into_data()
            }),
        ),
        (
            "a kernel",
            Box::new(|x| {
                // Its 2 × 4 × 6 × 8 numbers as the weight.
                let packed = Packed::default();
                let layer = Weighted { weight: x, bias: None, packed: &packed };
                let image = vector(2 * 5 * 5 * 6, 5).reshape([2, 5, 5, 6]).into();
                ops::conv2d(vec![image], Conv { pad: [1; 4], ..Conv::new(layer) }).value.into_data()
            }),
        ),
        ("upsampling", Box::new(|x| ops::upsample_nearest(x.into()).value.into_data())),
        ("pooling", Box::new(|x| ops::average_pool(x.into()).value.into_data())),
        ("attention", Box::new(|x| ops::attention(rows(x.clone()), rows(x.clone()), rows(x), 2).value.into_data())),
    ];
    for (view, x) in views() {
        let dense = Tensor::<4>::from_data(x.to_data(), &device);
        for (name, operation) in &operations {
            assert_eq!(operation(x.clone()), operation(dense.clone()), "{name} of a {view} tensor");
            let traced = operation(x.clone().autodiff().require_grad());
            assert_eq!(traced, operation(dense.clone()), "{name} of a {view} tensor on a tape");
        }
    }
}

#[test]
fn a_packed_weight_is_that_of_the_weight_at_hand() {
    let device = Device::flex();
    let tensor = |count, seed| Tensor::<1>::from_data(uniform(count, seed).as_slice(), (&device, DType::F32));
    let weights = tensor(4 * 9 * 16 * 16, 1).reshape([4, 3, 3, 16, 16]);
    let packed = Packed::default();
    let apply = |x: &Tensor<4>, weight: Tensor<4>, packed: &Packed| {
        let layer = Weighted { weight, bias: None, packed };
        ops::conv2d(vec![x.clone().into()], Conv::new(layer)).value.into_data()
    };
    let images =
        [[2, 6, 6], [1, 4, 9], [2, 1, 5], [1, 5, 1]].map(|[n, h, w]| tensor(n * h * w * 16, 2).reshape([n, h, w, 16]));
    for x in &images {
        // Twice the same, another that lies in the same memory, and the first again.
        let several = [0, 0, 2, 0].map(|at| weights.clone().narrow(0, at, 1).reshape([3, 3, 16, 16]));
        // Then the same memory in another order, twice, and in the first again.
        let turned = several[0].clone().swap_dims(2, 3);
        for weight in several.iter().chain([&turned, &turned, &several[0]]) {
            assert_eq!(apply(x, weight.clone(), &packed), apply(x, weight.clone(), &Packed::default()));
        }
    }
    // A weight changed in place by an optimizer, its memory in use again.
    let mut weight = tensor(9 * 16 * 16, 3).reshape([3, 3, 16, 16]);
    for _ in 0..3 {
        assert_eq!(apply(&images[0], weight.clone(), &packed), apply(&images[0], weight.clone(), &Packed::default()));
        weight = weight * 1.5;
    }
}

#[test]
fn a_gradient_of_inputs_is_by_the_weight_at_hand() {
    let device = Device::flex();
    let tensor = |count, seed| Tensor::<1>::from_data(uniform(count, seed).as_slice(), (&device, DType::F32));
    let weights = tensor(2 * 9 * 16 * 16, 1).reshape([2, 3, 3, 16, 16]);
    let packed = Packed::default();
    let gradients = |parts: &[Tensor<4>], weight: &Tensor<4>, packed: &Packed| {
        let parts: Vec<_> = parts.iter().map(|part| part.clone().autodiff().require_grad()).collect();
        let layer = Weighted { weight: weight.clone(), bias: None, packed };
        let y = ops::conv2d(parts.iter().cloned().map(Dual::from).collect(), Conv::new(layer)).value;
        let gradients = (y.clone() * y).sum().backward();
        parts.iter().map(|part| part.grad(&gradients).unwrap().into_data()).collect::<Vec<_>>()
    };
    let image = |h: usize, w: usize, channels: usize| tensor(2 * h * w * channels, 2).reshape([2, h, w, channels]);
    // Sizes that are computed by different methods, and one and two parts.
    let images = [vec![image(8, 8, 16)], vec![image(1, 5, 16)], vec![image(6, 6, 5), image(6, 6, 11)]];
    for at in [0, 1, 0] {
        let weight = weights.clone().narrow(0, at, 1).reshape([3, 3, 16, 16]);
        for parts in images.iter().chain(&images) {
            let own = gradients(parts, &weight, &Packed::default());
            assert_eq!(gradients(parts, &weight, &packed), own);
            // The same bits where the weight is trained, and so packed anew.
            assert_eq!(gradients(parts, &weight.clone().autodiff().require_grad(), &packed), own);
        }
    }
}

/// Averages of a codebook against the weighted means they are: N and m after steps k = 1..K of decay γ have weights (1 − γ) γ^(K−k), and the
/// factor cancels in m/N.
#[test]
fn a_codebook_follows_the_weighted_means_of_the_latents_that_chose_it() {
    use stein_nn::{CodeAverages, layers::Init, quantize, state};
    let device = Device::flex();
    let tensor = |values: &[f64]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), [values.len(), 1]), (&device, DType::F64))
    };
    let mut averages = state::cast(CodeAverages::new(3, 1, 0.75, &mut Init::new(1, &device)), DType::F64);
    let mut codes = tensor(&[0.0, 10.0, -50.0]);
    let steps = [[1.0, 2.0, 9.0, 12.0], [3.0, 8.0, 9.5, 10.0]];
    for latents in steps {
        let latents = tensor(&latents).reshape([1, 4, 1, 1]);
        let chosen = quantize(latents.clone().into(), codes.clone());
        let [counts, sums, moved] = averages.moved(latents, chosen.indices, codes);
        codes = moved;
        let left =
            [("counts", counts), ("sums", sums)].map(|(name, of)| (name.to_owned(), of.reshape([-1]).into_data()));
        averages = state::load(averages, &left.into()).unwrap();
    }
    let found: Vec<f64> = codes.into_data().iter::<f64>().collect();
    // The first step has the weight 0.75 of the second.
    let first = (0.75 * (1.0 + 2.0) + 3.0) / (0.75 * 2.0 + 1.0);
    let second = (0.75 * (9.0 + 12.0) + 8.0 + 9.5 + 10.0) / (0.75 * 2.0 + 3.0);
    for (found, wanted) in found.iter().zip([first, second, -50.0]) {
        assert!((found - wanted).abs() < 1e-12, "{found} for {wanted}");
    }
}
