//! The empirical distribution of given points: p_t(x) = (1/n) Σ_i N(x; αx_i, σ²), the optimum a score network is trained
//! towards and would reach by memorizing.
//!
//! Its denoiser is the softmax-weighted mean of the points (Karras et al. 2022, appendix B.3, eq. 57).

use burn::tensor::Tensor;

use super::{Exact, check_classless, in_double, log_sum_exp, table};
use crate::{Condition, Denoiser, Dual, Estimate, Kernel, Keys, Levels, Purpose, Result, ensure, rows};

/// x_0 uniform on given points.
#[derive(Debug, Clone)]
pub struct Empirical {
    points: Vec<f64>,
    dim: usize,
}

impl Empirical {
    /// The points, in row order.
    ///
    /// # Errors
    /// No points, a length that is no multiple of `dim`, numbers that are not finite.
    pub fn new(points: Vec<f64>, dim: usize) -> Result<Self> {
        ensure!(
            dim > 0 && !points.is_empty() && points.len().is_multiple_of(dim),
            "{} numbers make no whole rows of {dim}",
            points.len()
        );
        ensure!(points.iter().all(|value| value.is_finite()), "a point has a coordinate that is not a finite number");
        Ok(Self { points, dim })
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.points.len() / self.dim
    }

    /// Never: there is a point.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The estimates of a few rows: a table of rows and points is held at once.
    fn some(&self, x: Dual<2>, at: Levels) -> Dual<2> {
        let mean = self.mean();
        // Distances between centered rows and points are the same, and their products smaller.
        let centered: Vec<f64> =
            self.points.chunks_exact(self.dim).flat_map(|point| point.iter().zip(&mean).map(|(p, m)| p - m)).collect();
        let squares: Vec<f64> = centered.chunks_exact(self.dim).map(|p| p.iter().map(|p| p * p).sum()).collect();
        let offset = table(at, &mean, |at, mean| at.alpha * mean, &x.value);
        let x = x.shift(|x| x - offset);
        let points = rows::matrix(centered, self.dim, &x.value);
        let scale = at.factors(|at| at.alpha / at.sigma.powi(2));
        let size = table(at, &squares, |at, square| 0.5 * (at.alpha / at.sigma).powi(2) * square, &x.value);
        let across = points.clone().transpose();
        let logits = x.linear(|x| product(x, across.clone())).scale(&scale).shift(|logits| logits - size);
        let mean = rows::matrix(mean, self.dim, &points);
        logits.softmax().linear(|weights| product(weights, points.clone())).shift(|x| x + mean)
    }
}

/// The product of two matrices, each of whose rows does not depend on how many there are: the engine sums a single long row in an
/// order of its own.
fn product(x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    match x.dims() {
        [1, inner] => x.expand([2, inner]).matmul(y).narrow(0, 0, 1),
        _ => x.matmul(y),
    }
}

/// Most numbers in the table of rows and points.
const TABLE: usize = 1 << 24;

impl Denoiser for Empirical {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        check_classless(given)?;
        in_double(x, self.dim, |x| {
            let (count, size) = (x.dims()[0], (TABLE / self.len()).max(1));
            let parts = (0..count).step_by(size).map(|first| {
                let rows = size.min(count - first);
                let levels = match at {
                    Levels::Same(at) => Levels::Same(at),
                    Levels::Each(at) => Levels::Each(&at[first..first + rows]),
                };
                self.some(x.clone().linear(|x| x.narrow(0, first, rows)), levels)
            });
            let parts: Vec<Dual<2>> = parts.collect();
            Ok(if parts.is_empty() { x } else { Dual::cat(parts, 0) })
        })
    }
}

impl Exact for Empirical {
    fn dim(&self) -> usize {
        self.dim
    }

    fn log_density(&self, x: &[f64], at: &Kernel) -> Vec<f64> {
        let constant =
            (self.len() as f64).ln() + 0.5 * self.dim as f64 * (std::f64::consts::TAU * at.sigma.powi(2)).ln();
        let log = |x: &[f64]| {
            let square = |point: &[f64]| point.iter().zip(x).map(|(p, x)| (x - at.alpha * p).powi(2)).sum::<f64>();
            let terms = self.points.chunks_exact(self.dim).map(|point| -0.5 / at.sigma.powi(2) * square(point));
            log_sum_exp(&terms.collect::<Vec<_>>()) - constant
        };
        x.chunks_exact(self.dim).map(log).collect()
    }

    fn draw_clean(&self, keys: &Keys) -> Vec<f64> {
        let which = keys.uniform(Purpose::Model, 0);
        which
            .into_iter()
            .flat_map(|u| {
                let i = (u * self.len() as f64) as usize;
                &self.points[i * self.dim..(i + 1) * self.dim]
            })
            .copied()
            .collect()
    }

    fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.dim];
        for point in self.points.chunks_exact(self.dim) {
            mean.iter_mut().zip(point).for_each(|(mean, p)| *mean += p / self.len() as f64);
        }
        mean
    }

    fn covariance(&self) -> Vec<f64> {
        let (mean, dim) = (self.mean(), self.dim);
        let mut out = vec![0.0; dim * dim];
        for point in self.points.chunks_exact(dim) {
            for i in 0..dim {
                for j in 0..dim {
                    out[i * dim + j] += (point[i] - mean[i]) * (point[j] - mean[j]) / self.len() as f64;
                }
            }
        }
        out
    }
}
