//! The empirical distribution of given points: p_t(x) = (1/n) Σ_i N(x; αx_i, σ²), the optimum a score network is trained
//! towards and would reach by memorising.
//!
//! Its denoiser is the softmax-weighted mean of the points (Karras et al. 2022, appendix B.3, eq. 57).

use burn::tensor::Tensor;

use super::{Exact, map_rows, normalise};
use crate::{Condition, Denoiser, Kernel, Result, ensure, noise, noise::Purpose};

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

    /// Posterior weights of the points and ln Σ_i exp(−‖x − αx_i‖²/2σ²).
    fn posterior(&self, x: &[f64], at: &Kernel) -> (Vec<f64>, f64) {
        let scale = -0.5 / at.sigma.powi(2);
        let mut weights: Vec<f64> = self
            .points
            .chunks_exact(self.dim)
            .map(|point| scale * point.iter().zip(x).map(|(p, x)| (x - at.alpha * p).powi(2)).sum::<f64>())
            .collect();
        let log_sum = normalise(&mut weights);
        (weights, log_sum)
    }
}

impl Denoiser for Empirical {
    fn denoise(&self, x: Tensor<2>, at: &[Kernel], given: &Condition) -> Result<Tensor<2>> {
        ensure!(given.class.is_none(), "this exact model has no classes: leave the condition out");
        map_rows(&x, self.dim, at.len(), |x, i, out| {
            for (point, weight) in self.points.chunks_exact(self.dim).zip(self.posterior(x, &at[i]).0) {
                out.iter_mut().zip(point).for_each(|(out, p)| *out += weight * p);
            }
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
        x.chunks_exact(self.dim).map(|x| self.posterior(x, at).1 - constant).collect()
    }

    fn draw_clean(&self, seed: u64, samples: &[u64]) -> Vec<f64> {
        let which = noise::uniform(seed, samples, Purpose::Model, 0);
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
