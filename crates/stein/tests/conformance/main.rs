//! The tests that make the design true. They walk the registries, so a new schedule, prediction or sampler is covered the
//! day its line is added.

mod exact;
mod grids;
mod objective;
mod predictions;
mod samplers;
mod schedulers;
mod schedules;

use stein::{Condition, Denoiser, Kernel, Schedule, exact::GaussianMixture, rows::host};

/// Times spread over a schedule's span, the ends included.
fn times(schedule: &dyn Schedule, count: usize) -> Vec<f64> {
    let (first, last) = schedule.span();
    (0..count).map(|i| first + (last - first) * i as f64 / (count - 1) as f64).collect()
}

/// A tensor of rows in double precision on the CPU.
fn tensor(values: &[f64], dim: usize) -> burn::tensor::Tensor<2> {
    let data = burn::tensor::TensorData::new(values.to_vec(), [values.len() / dim, dim]);
    burn::tensor::Tensor::from_data(data, (&burn::tensor::Device::flex(), burn::tensor::DType::F64))
}

/// D of rows that share a level.
fn denoise(denoiser: &dyn Denoiser, x: &[f64], dim: usize, at: &Kernel) -> Vec<f64> {
    let levels = vec![*at; x.len() / dim];
    host(&denoiser.denoise(tensor(x, dim), &levels, &Condition::none()).unwrap())
}

/// A lopsided mixture on the line: the truth for ODE samplers.
fn line() -> GaussianMixture {
    GaussianMixture::isotropic(vec![0.3, 0.7], vec![vec![-1.0], vec![1.5]], vec![0.5, 0.7]).unwrap()
}

/// A mixture in the plane with correlated components.
fn plane() -> GaussianMixture {
    let covs = vec![vec![vec![1.0, 0.6], vec![0.6, 0.8]], vec![vec![0.3, -0.1], vec![-0.1, 0.2]]];
    GaussianMixture::full(vec![0.4, 0.6], vec![vec![-1.0, 0.5], vec![1.0, -1.0]], covs).unwrap()
}

fn assert_close(a: f64, b: f64, tolerance: f64, what: impl std::fmt::Display) {
    let scale = 1.0 + a.abs().max(b.abs());
    assert!((a - b).abs() <= tolerance * scale, "{what}: {a} against {b}, tolerance {tolerance} of {scale}");
}
