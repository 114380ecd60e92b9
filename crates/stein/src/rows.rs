//! Host numbers meeting tensors of rows: coefficients are f64 on the host, states are `[rows, dim]` on a device.

use burn::tensor::{Tensor, TensorData};

/// Scales every row by its own coefficient; one multiplication by a scalar when they are all the same.
pub(crate) fn scale(x: Tensor<2>, by: &[f64]) -> Tensor<2> {
    match by {
        [first, rest @ ..] if rest.iter().all(|c| c == first) => x.mul_scalar(*first),
        _ => {
            let coefficients = column(by, &x);
            x * coefficients
        }
    }
}

/// A column `[rows, 1]` of these numbers, on the device and of the precision of `like`.
pub(crate) fn column(values: &[f64], like: &Tensor<2>) -> Tensor<2> {
    matrix(values.to_vec(), 1, like)
}

/// A matrix `[rows, dim]` of these numbers in row order, on the device and of the precision of `like`.
pub(crate) fn matrix(values: Vec<f64>, dim: usize, like: &Tensor<2>) -> Tensor<2> {
    let rows = values.len() / dim.max(1);
    Tensor::from_data(TensorData::new(values, [rows, dim]), (&like.device(), like.dtype()))
}

/// The numbers of a tensor in row order, in double precision.
pub fn host(x: &Tensor<2>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}
