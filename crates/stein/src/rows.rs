//! Host numbers meeting tensors of rows: coefficients are f64 on the host, states are `[rows, dim]` on a device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::Factors;

/// Scales every row by its own factor; one multiplication by a scalar when they are all the same.
pub fn scale(x: Tensor<2>, by: &Factors) -> Tensor<2> {
    match by {
        Factors::Same(factor) => x.mul_scalar(*factor),
        Factors::Each(factors) => match factors.as_slice() {
            [first, rest @ ..] if rest.iter().all(|factor| factor == first) => x.mul_scalar(*first),
            factors => {
                let factors = column(factors, &x);
                x * factors
            }
        },
    }
}

/// A column `[rows, 1]` of these numbers, on the device and of the precision of `like`.
pub fn column(values: &[f64], like: &Tensor<2>) -> Tensor<2> {
    matrix(values.to_vec(), 1, like)
}

/// A matrix `[rows, dim]` of these numbers in row order, on the device and of the precision of `like`.
pub fn matrix(values: Vec<f64>, dim: usize, like: &Tensor<2>) -> Tensor<2> {
    let rows = values.len() / dim.max(1);
    Tensor::from_data(TensorData::new(values, [rows, dim]), (&like.device(), like.dtype()))
}

/// A vector of these numbers, on the device and of the precision of `like`.
pub fn vector(values: Vec<f64>, like: &Tensor<2>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (&like.device(), like.dtype()))
}

/// The numbers of a tensor in row order, in double precision.
pub fn host(x: &Tensor<2>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}

/// Some rows of a tensor, in the order given.
pub fn select(x: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), &x.device());
    x.select(0, index)
}

/// An empty tensor in double precision on the CPU, for [`matrix`] and its like.
pub fn exact() -> Tensor<2> {
    Tensor::empty([0, 1], (&Device::flex(), DType::F64))
}
