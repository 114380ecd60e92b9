//! What the tests of networks without stored values share: weights by the names and shapes of a published constructor.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein_nn::{Tensors, ops::Dual};

/// Shapes by name.
#[derive(Default)]
pub struct Shapes(BTreeMap<String, Vec<usize>>);

impl Shapes {
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.insert(name.into(), shape.to_vec());
    }

    /// A weight of this shape, and a bias for its first axis.
    pub fn layer(&mut self, name: &str, shape: &[usize]) {
        self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
    }

    /// The number of all values.
    pub fn count(&self) -> usize {
        self.0.values().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Some weights of these shapes, about 1/√inputs large.
    pub fn weights(&self) -> Tensors {
        let tensor = |(index, (name, shape)): (usize, (&String, &Vec<usize>))| {
            let inputs: usize = shape[1..].iter().product();
            let size = 1.5 * (inputs as f32).powf(-0.5);
            (name.clone(), TensorData::new(numbers(shape.iter().product(), index, size), shape.clone()))
        };
        self.0.iter().enumerate().map(tensor).collect()
    }
}

/// Numbers between −`size` and `size`, others for another `which`.
pub fn numbers(count: usize, which: usize, size: f32) -> Vec<f32> {
    (0..count).map(|i| size * ((i as f64 * 12.9898 + which as f64 * 78.233).sin() * 43_758.545).sin() as f32).collect()
}

fn tensor<const D: usize>(shape: [usize; D], which: usize, scale: f32) -> Tensor<D> {
    let data = TensorData::new(numbers(shape.iter().product(), which, scale), shape).convert_dtype(DType::F64);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

/// Asserts that the tangent of an f64 network is the derivative of its output, of images of this shape and noise
/// numbers.
pub fn tangents_hold<const D: usize>(shape: [usize; 4], output: impl Fn(Dual<4>, Dual<1>) -> Dual<D>) {
    let (x, dx) = (tensor(shape, 1, 1.0), tensor(shape, 2, 1.0));
    let (noise, dnoise) = (tensor([shape[0]], 3, 3.0) + 5.0, tensor([shape[0]], 4, 1.0));
    let read = |x: Tensor<D>| -> Vec<f64> { x.into_data().iter::<f64>().collect() };
    let at = |by: f64| output((x.clone() + dx.clone() * by).into(), (noise.clone() + dnoise.clone() * by).into()).value;
    let y = output(Dual::new(x.clone(), dx.clone()), Dual::new(noise.clone(), dnoise.clone()));
    let step = 1e-5;
    let wanted = read((at(step) - at(-step)) / (2.0 * step));
    let found = read(y.tangent.expect("its inputs have tangents"));
    let largest = wanted.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!(largest > 1e-2, "there is something to compare");
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!((found - wanted).abs() <= 1e-6 * largest, "{found} for {wanted}, the largest being {largest}");
    }
}
