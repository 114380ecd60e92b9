//! Gradients by backpropagation against central differences, in f64 with step 1e-5: relative error below 1e-6.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Gradients, Tensor},
};
use stein::Condition;
use stein_nn::{AnyNetwork, NetworkConfig};

use crate::{matrix, output, shaken, small_mlp, small_unet, small_unet_1d, vector};

const STEP: f64 = 1e-5;
const ROWS: usize = 2;

/// A scalar that weighs all outputs differently.
fn loss(network: &AnyNetwork, x: Tensor<2>, noise: Tensor<1>) -> Tensor<1> {
    let weights = matrix(ROWS, x.dims()[1], 3, DType::F64, &Device::flex());
    let y = output(network, x, noise, &Condition::classes([1, 0]));
    (y * weights).sum()
}

/// Gradients of some elements of every parameter.
pub(crate) struct Picked<'a>(pub(crate) &'a Gradients, pub(crate) Vec<Option<(usize, f64)>>);
impl ModuleVisitor for Picked<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.0).map(|gradient| gradient.into_data().try_into_vec::<f64>().unwrap());
        self.1.push(gradient.map(|gradient| (gradient.len() / 3, gradient[gradient.len() / 3])));
    }
}

/// Moves one element of one parameter.
pub(crate) struct Nudge(pub(crate) usize, pub(crate) usize, pub(crate) f64);
impl ModuleMapper for Nudge {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let wanted = self.0 == 0;
        self.0 = self.0.wrapping_sub(1);
        if !wanted {
            return param;
        }
        param.map(|value| {
            let mut data = value.to_data();
            data.as_mut_slice::<f64>().unwrap()[self.1] += self.2;
            Tensor::from_data(data, (&value.device(), DType::F64))
        })
    }
}

pub(crate) fn close(what: &str, backward: f64, difference: f64) {
    let error = (backward - difference).abs() / (1e-3 + difference.abs());
    assert!(error < 1e-6, "{what}: {backward} by backpropagation, {difference} by differences");
}

fn check(config: &NetworkConfig, shape: &[usize]) {
    let device = Device::flex().autodiff();
    let network = shaken(config.build(shape, 3, 5, &device).unwrap(), DType::F64);
    let dim = shape.iter().product();
    let x = matrix(ROWS, dim, 1, DType::F64, &device).require_grad();
    let noise = vector(ROWS, 2, DType::F64, &device);
    let gradients = loss(&network, x.clone(), noise.clone()).backward();

    let plain = network.valid();
    let inner = x.clone().inner();
    let value = |network: &AnyNetwork, x: Tensor<2>| loss(network, x, noise.clone().inner()).into_scalar::<f64>();
    let by_input = x.grad(&gradients).unwrap().into_data().try_into_vec::<f64>().unwrap();
    for at in [0, dim / 2, 2 * dim - 1] {
        let moved = |by: f64| {
            let mut data = inner.to_data();
            data.as_mut_slice::<f64>().unwrap()[at] += by;
            value(&plain, Tensor::from_data(data, (&Device::flex(), DType::F64)))
        };
        close(&format!("input {at}"), by_input[at], (moved(STEP) - moved(-STEP)) / (2.0 * STEP));
    }

    let mut picked = Picked(&gradients, Vec::new());
    network.visit(&mut picked);
    assert_eq!(picked.1.iter().filter(|gradient| gradient.is_none()).count(), 1, "only the frequencies are frozen");
    for (which, gradient) in picked.1.into_iter().enumerate() {
        let Some((at, backward)) = gradient else { continue };
        let moved = |by: f64| value(&plain.clone().map(&mut Nudge(which, at, by)), inner.clone());
        close(&format!("parameter {which}"), backward, (moved(STEP) - moved(-STEP)) / (2.0 * STEP));
    }
}

#[test]
fn the_perceptron_differentiates() {
    check(&small_mlp(), &[5]);
}

#[test]
fn the_unet_differentiates() {
    check(&small_unet(&[1, 2], &[4]), &[4, 6, 3]);
}

#[test]
fn the_unet_of_series_differentiates() {
    check(&small_unet_1d(&[1, 2, 2], &[4]), &[7, 3]);
}
