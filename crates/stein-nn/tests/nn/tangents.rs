//! Jacobian-vector products of whole networks.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Device, Tensor},
};
use stein::{Condition, Context, Dual, Network};
use stein_nn::{AnyNetwork, EmbeddingConfig, NetworkConfig, UnetConfig, ops};

use crate::{
    gradients::{Nudge, Picked, close},
    matrix, output, shaken, small_mlp, small_unet, small_unet_1d, vector,
};

const ROWS: usize = 2;
/// As in the tests of gradients: central differences in f64.
const STEP: f64 = 1e-5;

/// A point and a direction, moved along it.
fn inputs(dim: usize, along: f64, kind: DType, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let (x, dx) = (matrix(ROWS, dim, 1, kind, device), matrix(ROWS, dim, 2, kind, device));
    (x + dx.clone() * along, dx)
}

fn noises(along: f64, kind: DType, device: &Device) -> (Tensor<1>, Tensor<1>) {
    let (noise, direction) = (vector(ROWS, 3, kind, device), vector(ROWS, 4, kind, device));
    (noise + direction.clone() * along, direction)
}

fn condition() -> Condition {
    Condition::classes([1, 0])
}

/// The output and its derivative along (`dx`, `dnoise`).
fn product(
    network: &AnyNetwork,
    (x, dx): (Tensor<2>, Tensor<2>),
    (noise, dnoise): (Tensor<1>, Tensor<1>),
) -> (Tensor<2>, Tensor<2>) {
    let given = condition();
    let context = Context { noise: Dual::new(noise, dnoise), second: None, given: &given, dropout: None };
    let y = network.forward(Dual::new(x, dx), &context).unwrap();
    let tangent = y.tangent_or_zero();
    (y.value, tangent)
}

fn jvp(network: &AnyNetwork, dim: usize, kind: DType, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let x = inputs(dim, 0.0, kind, device);
    product(network, x, noises(0.0, kind, device))
}

fn read(x: Tensor<2>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Asserts that no number is further off than a part of the largest.
fn near(what: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    let largest = wanted.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    assert!(largest > 1e-2, "{what}: there is something to compare");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= tolerance * largest, "{what}: {found} for {wanted}");
    }
}

fn check(config: &NetworkConfig, shape: &[usize]) {
    let (device, traced) = (Device::flex(), Device::flex().autodiff());
    let dim: usize = shape.iter().product();
    let network = |kind| shaken(config.build(shape, 3, 5, &traced).unwrap(), kind);
    let traced_network = network(DType::F64);
    let plain = traced_network.clone().valid();

    // The product is the derivative of the output.
    let (y, tangent) = jvp(&plain, dim, DType::F64, &device);
    let at = |along| {
        let (x, _) = inputs(dim, along, DType::F64, &device);
        output(&plain, x, noises(along, DType::F64, &device).0, &condition())
    };
    assert_eq!(read(y), read(at(0.0)));
    let difference = read((at(STEP) - at(-STEP)) / (2.0 * STEP));
    near("product", &read(tangent.clone()), &difference, 1e-6);
    // In f32, through the kernels, some tens of operations of a few roundings each.
    let (_, narrow) = jvp(&network(DType::F32).valid(), dim, DType::F32, &device);
    near("product in f32", &read(narrow), &read(tangent), 1e-4);

    // Its gradient is the derivative of the product, of inputs and of every parameter.
    let weights = matrix(ROWS, dim, 6, DType::F64, &device);
    let loss = |tangent: Tensor<2>| (tangent * weights.clone()).sum();
    let (x, dx) = inputs(dim, 0.0, DType::F64, &traced);
    let (x, dx) = (x.require_grad(), dx.require_grad());
    let given = (x.clone(), dx.clone());
    let (_, tangent) = product(&traced_network, given, noises(0.0, DType::F64, &traced));
    let gradients = loss(tangent).backward();
    let value = |network: &AnyNetwork| loss(jvp(network, dim, DType::F64, &device).1).into_scalar::<f64>();
    let mut picked = Picked(&gradients, Vec::new());
    traced_network.visit(&mut picked);
    let frozen = picked.1.iter().filter(|gradient| gradient.is_none()).count();
    // What only adds to the output has no part in its derivative: a missing gradient is zero.
    for (which, gradient) in picked.1.into_iter().enumerate() {
        let (index, backward) = gradient.unwrap_or((0, 0.0));
        if gradient.is_none() && !is_trained(&traced_network, which) {
            continue;
        }
        let moved = |by: f64| value(&plain.clone().map(&mut Nudge(which, index, by)));
        close(&format!("parameter {which}"), backward, (moved(STEP) - moved(-STEP)) / (2.0 * STEP));
    }
    assert!(frozen < 5, "{frozen} parameters have no gradient");
    let by_direction = read(dx.grad(&gradients).unwrap());
    let by_input = read(x.grad(&gradients).unwrap());
    let direction = matrix(ROWS, dim, 7, DType::F64, &device);
    for (what, gradient, moves) in [("input", by_input, [1.0, 0.0]), ("direction", by_direction, [0.0, 1.0])] {
        let moved = |by: f64| {
            let (x, dx) = inputs(dim, 0.0, DType::F64, &device);
            let given = (x + direction.clone() * (by * moves[0]), dx + direction.clone() * (by * moves[1]));
            let (_, tangent) = product(&plain, given, noises(0.0, DType::F64, &device));
            loss(tangent).into_scalar::<f64>()
        };
        let slope = gradient.iter().zip(read(direction.clone())).map(|(a, b)| a * b).sum();
        close(what, slope, (moved(STEP) - moved(-STEP)) / (2.0 * STEP));
    }
}

/// Whether a parameter, counted from 0, asks for a gradient.
fn is_trained(network: &AnyNetwork, which: usize) -> bool {
    struct Trained(Vec<bool>);
    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().is_require_grad());
        }
    }
    let mut trained = Trained(Vec::new());
    network.visit(&mut trained);
    trained.0[which]
}

#[test]
fn the_perceptron_has_products() {
    check(&small_mlp(), &[5]);
}

#[test]
fn the_unet_has_products() {
    check(&small_unet(&[1, 2], &[4]), &[4, 6, 3]);
}

#[test]
fn the_unet_of_series_has_products() {
    check(&small_unet_1d(&[1, 2, 2], &[4]), &[7, 3]);
}

#[test]
fn the_unet_of_ddpm_has_products() {
    let NetworkConfig::Unet(config) = small_unet(&[1, 2], &[2]) else { unreachable!("it is a U-Net") };
    let embedding = EmbeddingConfig::Positional { max_period: 100.0, shift: 1, sine_first: true };
    let config = UnetConfig { groups: Some(4), epsilon: 1e-6, pad_after: true, embedding, ..config };
    check(&NetworkConfig::Unet(config), &[4, 6, 3]);
}

#[test]
fn a_constant_input_has_a_product_of_zero() {
    let device = Device::flex();
    let network = shaken(small_mlp().build(&[5], 3, 5, &device).unwrap(), DType::F64);
    let (x, dx) = inputs(5, 0.0, DType::F64, &device);
    let (noise, dnoise) = noises(0.0, DType::F64, &device);
    let none = (x.clone(), dx.zeros_like());
    let (_, tangent) = product(&network, none, (noise.clone(), dnoise.zeros_like()));
    assert!(read(tangent).iter().all(|x| *x == 0.0));
}

/// A place sees itself and those before it: as attention to so many, and with the tangent of that.
#[test]
fn causal_attention_is_attention_to_what_came_before() {
    let device = Device::flex();
    let [rows, length, width, heads] = [2, 4, 6, 2];
    let whole = |seed| matrix(rows, length * width, seed, DType::F64, &device).reshape([rows, length, width]);
    let [q, k, v] = [1, 2, 3].map(|seed| Dual::new(whole(seed), whole(seed + 3)));
    let all = ops::causal_attention(q.clone(), k.clone(), v.clone(), heads);
    for place in 0..length {
        let part = |x: &Dual<3>, from: usize, count: usize| x.clone().linear(|x| x.narrow(1, from, count));
        let [k, v] = [&k, &v].map(|x| part(x, 0, place + 1));
        let one = ops::attention(part(&q, place, 1), k, v, heads);
        let found = part(&all, place, 1);
        for (found, wanted) in [(&found.value, &one.value), (&found.tangent_or_zero(), &one.tangent_or_zero())] {
            let apart = (found.clone() - wanted.clone()).abs().max().into_scalar::<f64>();
            // Numbers of size 1; only the order of sums differs.
            assert!(apart < 1e-12, "place {place}: {apart:e}");
        }
    }
}
