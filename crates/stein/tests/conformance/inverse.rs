//! Methods for inverse problems against posteriors in closed form: the bias of every method is measured, and none where it claims none.

use std::sync::Arc;

use stein::{
    Edm, Grid, Request,
    exact::{Exact, GaussianMixture},
    inverse::{AnnealedInpainting, AnyMethod, Dense, Law, Noise, Problem, restore},
    rows::host,
};

/// A linear measurement of a mixture, and samples of its posterior by a method.
pub struct Case {
    pub prior: GaussianMixture,
    pub a: Vec<f64>,
    pub y: Vec<f64>,
    pub std: f64,
}

impl Case {
    /// `n` samples `[n, dim]` in `steps` steps, with evaluations.
    pub fn draw(&self, method: &AnyMethod, n: usize, steps: usize) -> (Vec<f64>, usize) {
        let dim = self.prior.dim();
        let operator = Dense::new(self.y.len(), dim, &self.a).unwrap();
        let noise = Noise::Gaussian { std: self.std };
        let problem = Problem::new(Arc::new(operator), noise, self.y.repeat(n)).unwrap();
        let schedule = Edm::default();
        let levels = Grid::karras(steps).kernels(&schedule).unwrap();
        let request = Request { data_variance: self.prior.variance(), ..Request::exact(n, dim, 5) };
        let drawn = restore(&self.prior, &schedule, &levels, &**method, &problem, &request, &mut |_| Ok(())).unwrap();
        (host(&drawn.x), drawn.evaluations)
    }
}

/// N(m, Σ) in the plane, with a sum that was measured.
pub fn gaussian() -> Case {
    let prior = GaussianMixture::full(vec![1.0], vec![vec![0.5, -0.3]], vec![vec![vec![1.0, 0.4], vec![0.4, 0.6]]]);
    Case { prior: prior.unwrap(), a: vec![1.0, 1.0], y: vec![1.4], std: 0.3 }
}

/// Mean and covariance of rows.
pub fn moments(x: &[f64], dim: usize) -> (Vec<f64>, Vec<f64>) {
    let n = (x.len() / dim) as f64;
    let mean: Vec<f64> = (0..dim).map(|i| x.iter().skip(i).step_by(dim).sum::<f64>() / n).collect();
    let mut covariance = vec![0.0; dim * dim];
    for row in x.chunks(dim) {
        for i in 0..dim {
            for j in 0..dim {
                covariance[i * dim + j] += (row[i] - mean[i]) * (row[j] - mean[j]) / n;
            }
        }
    }
    (mean, covariance)
}

#[test]
fn what_claims_the_posterior_of_a_gaussian_has_its_moments() {
    let case = gaussian();
    let posterior = case.prior.posterior(&case.a, &case.y, case.std).unwrap();
    let (mean, covariance) = (posterior.mean(), posterior.covariance());
    for method in AnyMethod::all() {
        // Few Langevin steps keep the test short.
        let method = match method {
            AnyMethod::AnnealedInpainting(_) => {
                AnnealedInpainting { steps: 20, ..AnnealedInpainting::default() }.into()
            }
            other => other,
        };
        let (x, evaluations) = case.draw(&method, 4000, 100);
        let found = moments(&x, 2);
        println!("{} {evaluations} {found:.3?} of {mean:.3?} {covariance:.3?}", method.kind());
        if method.law() == Law::PosteriorOfGaussian || method.law() == Law::Posterior {
            // Five standard errors of a mean and of a variance of 4000 draws, and the error of 100 steps.
            for i in 0..2 {
                let std = covariance[3 * i].sqrt();
                assert!((found.0[i] - mean[i]).abs() < 5.0 * std / 4000f64.sqrt() + 0.02 * std, "{}", method.kind());
                assert!(
                    (found.1[3 * i] / covariance[3 * i] - 1.0).abs() < 5.0 * (2.0 / 4000f64).sqrt() + 0.05,
                    "{}",
                    method.kind()
                );
            }
        }
    }
}
