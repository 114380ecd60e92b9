//! The tests that make the design true. They walk the registries, so a new schedule, prediction or sampler is covered the
//! day its line is added.

mod classifiers;
mod codecs;
mod consistency;
mod coupling;
mod derivatives;
mod exact;
mod flow_maps;
mod flow_paths;
mod grids;
mod guidance;
mod inverse;
mod inverse_by_map;
mod inverse_posterior;
mod inverse_replacement;
mod level_search;
mod likelihood;
mod measurements;
mod objective;
mod ode;
mod paths;
mod pixels;
mod predictions;
mod registries;
mod samplers;
mod schedulers;
mod schedules;
mod steering;
mod stochastic;
mod variational;
mod velocity;

use stein::{Condition, Denoiser, Kernel, Schedule, Tensor, exact::GaussianMixture, rows};

/// Times spread over a schedule's span, the ends included.
fn times(schedule: &dyn Schedule, count: usize) -> Vec<f64> {
    let (first, last) = schedule.span();
    (0..count).map(|i| first + (last - first) * i as f64 / (count - 1) as f64).collect()
}

/// A tensor of rows in double precision on the CPU.
fn tensor(values: &[f64], dim: usize) -> Tensor<2> {
    rows::matrix(values.to_vec(), dim, &rows::exact())
}

/// D of rows that share a level.
fn denoise(denoiser: &dyn Denoiser, x: &[f64], dim: usize, at: &Kernel) -> Vec<f64> {
    rows::host(&stein::denoise(denoiser, tensor(x, dim), at.into(), &Condition::none()).unwrap())
}

/// A lopsided mixture on the line: the truth for ODE samplers.
fn line() -> GaussianMixture {
    GaussianMixture::isotropic(vec![0.3, 0.7], vec![vec![-1.0], vec![1.5]], vec![0.5, 0.7]).unwrap()
}

/// Probability of the mixture on the line beyond x at a level: above it if `upper`, else below. Small values keep their
/// digits.
fn tail(x: f64, at: &Kernel, upper: bool) -> f64 {
    let sign = if upper { 1.0 } else { -1.0 };
    let normal_tail = |z: f64| 0.5 * libm::erfc(sign * z / std::f64::consts::SQRT_2);
    line()
        .components()
        .map(|(weight, mean, variance)| {
            weight * normal_tail((x - at.alpha * mean[0]) / (at.alpha.powi(2) * variance[0] + at.sigma.powi(2)).sqrt())
        })
        .sum()
}

/// In one dimension the probability-flow map is the quantile map: x_s = F_s⁻¹(F_t(x_t)).
fn flow(x: f64, from: &Kernel, to: &Kernel) -> f64 {
    let upper = tail(x, from, true) < 0.5;
    let wanted = tail(x, from, upper);
    let (mut low, mut high) = (-1e5, 1e5);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if (tail(middle, to, upper) < wanted) != upper { low = middle } else { high = middle }
    }
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
