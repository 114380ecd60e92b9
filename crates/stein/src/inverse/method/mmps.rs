//! Moment matching posterior sampling (Rozet et al. 2024, "Learning Diffusion Priors from Observations by Expectation
//! Maximization", arXiv:2405.13712): any sampler with the denoiser of the posterior in place of the prior's,
//!
//! E\[x_0 | x_t, y\] ≈ D + V Aᵀ (Σ_y + A V Aᵀ)⁻¹ (y − A D), V = (σ²/α) J_D.
//!
//! p(x_0 | x_t) is taken for the Gaussian of its own mean D and covariance V, which Tweedie's formula has from the Jacobian of
//! the denoiser. For a Gaussian prior that is what it is, so that the estimate is exact and the samples are
//! draws of the posterior; for others they are near it.
//!
//! The system is solved by conjugate gradients, each iteration one step forward and back through the denoiser, J_Dᵀ w with w = Aᵀ
//! p: the first also makes D, and the sum of these products is the correction, at no further cost. As many iterations as numbers
//! were measured solve it, to rounding; the published number is 1. The Jacobian of a network is not quite symmetric; a row where
//! a direction has no positive curvature goes no further. Of an operator that is not linear, A is its Jacobian at D. Numbers of a
//! measurement may each have a noise of their own, as counts do.
//!
//! Their GMRES, for Jacobians far from symmetric, is left out.

use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{
    AnySampler, Condition, Denoiser, Dual, Estimate, Eval, Heun, Kernel, Levels, Past, Request, Result,
    denoiser::{self, gradient},
    ensure,
    grid::MOST_STEPS,
    inverse::Operator,
    numbers::ensure_within,
    rows,
    sampler::step,
};

/// Moment matching posterior sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Mmps {
    /// Any sampler that moves all samples in the same steps; default `heun`, without churn.
    pub sampler: Box<AnySampler>,
    /// Iterations of conjugate gradients in every evaluation; from 1 to 1,000,000, default 1. The numbers of a measurement are
    /// always enough.
    pub iterations: usize,
}

impl Default for Mmps {
    fn default() -> Self {
        Self { sampler: Box::new(Heun::default().into()), iterations: 1 }
    }
}

impl Method for Mmps {
    fn check(&self, _: &Problem) -> Result<()> {
        ensure_within("method mmps: iterations", self.iterations, 1..=MOST_STEPS)?;
        self.sampler.check().map_err(|error| error.at("method mmps"))?;
        ensure!(
            !self.sampler.adaptive(),
            "method mmps: sampler {} chooses the steps of each sample by itself: use one that steps on a grid, such as heun",
            self.sampler.kind()
        );
        Ok(())
    }

    fn law(&self) -> Law {
        Law::PosteriorOfGaussian
    }

    fn denoiser<'a>(&'a self, inner: &'a dyn Denoiser, problem: &'a Problem) -> Box<dyn Denoiser + 'a> {
        Box::new(Matched { inner, problem, iterations: self.iterations })
    }

    fn begin<'a>(&'a self, _: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run(&self.sampler)))
    }
}

struct Run<'a>(&'a AnySampler);

impl Running for Run<'_> {
    fn step(
        &mut self,
        x: Tensor<2>,
        from: &Kernel,
        to: &Kernel,
        eval: &mut Eval,
        past: &mut Past,
    ) -> Result<Tensor<2>> {
        step(&**self.0, x, from, to, eval, past)
    }
}

/// The denoiser of the posterior.
struct Matched<'a> {
    inner: &'a dyn Denoiser,
    problem: &'a Problem,
    iterations: usize,
}

impl Denoiser for Matched<'_> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let (x, problem) = (x.value, self.problem);
        let [count, dim] = x.dims();
        ensure!(
            count == problem.rows(),
            "there are {} measurements, and the denoiser was asked for {count} samples: use a sampler that moves all samples at once",
            problem.rows()
        );
        let factors = at.factors(|at| at.sigma.powi(2) / at.alpha).into_rows(count);
        let mut systems: Vec<System> = Vec::new();
        let mut first = None;
        for _ in 0..self.iterations {
            let (_, pulled) = gradient(x.clone(), |x| {
                let estimate = denoiser::estimate(self.inner, x.into(), at, given)?;
                let variance = estimate.variance.clone();
                let mean = estimate.into_mean()?;
                let (tracked, mean) = (mean.value.clone(), mean.value.inner());
                if first.is_none() {
                    let denoised = rows::host(&mean);
                    let denoised = denoised.par_chunks(dim).enumerate();
                    systems = denoised.map(|(row, denoised)| System::new(problem, row, denoised)).collect();
                    first = Some((mean.clone(), variance.map(Tensor::inner)));
                }
                let back: Vec<Vec<f64>> = systems.par_iter().map(|system| system.back(&*problem.operator)).collect();
                let back = rows::matrix(back.concat(), dim, &mean);
                Ok((mean, (tracked * back).sum()))
            })?;
            let pulled = rows::host(&pulled);
            systems.par_iter_mut().zip(pulled.par_chunks(dim)).zip(&factors).enumerate().for_each(
                |(row, ((system, pulled), factor))| {
                    let spread: Vec<f64> = pulled.iter().map(|pulled| factor * pulled).collect();
                    system.advance(&*problem.operator, problem.variances(row), &spread);
                },
            );
            if systems.iter().all(System::solved) {
                break;
            }
        }
        let (mean, variance) = first.expect("there is at least one iteration");
        let correction = systems.into_iter().flat_map(|system| system.correction).collect();
        let mean = mean.clone() + rows::matrix(correction, dim, &mean);
        Ok(Estimate { variance, ..Dual::from(mean).into() })
    }
}

/// The system (Σ_y + A V Aᵀ) u = y − A D of one row, on its way to being solved by conjugate gradients.
struct System {
    /// D, where the operator is taken for linear.
    at: Vec<f64>,
    residual: Vec<f64>,
    /// ‖residual‖².
    misfit: f64,
    /// What of the misfit counts for nothing.
    least: f64,
    direction: Vec<f64>,
    /// V Aᵀ u.
    correction: Vec<f64>,
}

/// A residual this much smaller than at the start is rounding.
const ROUNDING: f64 = 1e-14;

impl System {
    fn new(problem: &Problem, row: usize, denoised: &[f64]) -> Self {
        let residual = problem.residual(row, denoised);
        let misfit = dot(&residual, &residual);
        Self {
            at: denoised.to_vec(),
            misfit,
            least: misfit * ROUNDING.powi(2),
            direction: residual.clone(),
            residual,
            correction: vec![0.0; denoised.len()],
        }
    }

    fn solved(&self) -> bool {
        self.misfit <= self.least
    }

    /// Aᵀ p of the direction p.
    fn back(&self, operator: &dyn Operator) -> Vec<f64> {
        operator.pull(&self.at, &self.direction)
    }

    /// One iteration, given V Aᵀ p.
    fn advance(&mut self, operator: &dyn Operator, variances: &[f64], spread: &[f64]) {
        let pushed = operator.push(&self.at, spread);
        let image: Vec<f64> =
            pushed.iter().zip(variances).zip(&self.direction).map(|((a, variance), p)| a + variance * p).collect();
        let curvature = dot(&self.direction, &image);
        if self.solved() || curvature <= 0.0 || curvature.is_nan() {
            return;
        }
        let length = self.misfit / curvature;
        add(&mut self.correction, length, spread);
        add(&mut self.residual, -length, &image);
        let misfit = dot(&self.residual, &self.residual);
        let kept = misfit / self.misfit;
        self.misfit = misfit;
        self.direction.iter_mut().zip(&self.residual).for_each(|(p, r)| *p = r + kept * *p);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, of: &[f64]) {
    to.iter_mut().zip(of).for_each(|(to, of)| *to += factor * of);
}
