//! The twisted diffusion sampler (Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models",
//! arXiv:2306.17775): weighted particles that follow the model's own transitions p(x_s | x_t), moved toward the
//! measurement, and weighted for having been moved.
//!
//! With a twisting function p̃(y | x_t), g = ∇_{x_t} log p̃(y | x_t) through the denoiser, and p(x_s | x_t) = N(m, v),
//! the next particle is drawn from N(m + v g, v) and its weight is multiplied by
//!
//! p(x_s | x_t) p̃(y | x_s)/(p̃(y | x_t) N(x_s; m + v g, v)), whose logarithm is log p̃(y | x_s) − log p̃(y | x_t) − √v g·z − ½ v
//! ‖g‖².
//!
//! m is the mean of q(x_s | x_t, x_0 = D), and v its variance and the spread of x_0 | x_t: v = β̃ + (α_s β/σ_t²)² r², β and β̃
//! the variances of the forward transition and of the posterior, r² = σ̄² τ²/(σ̄² + τ²), σ̄ = σ/α and τ² the variance of the
//! data. For data N(·, τ²) that is the transition itself, in steps of any length; near the clean end it is the published choice,
//! v = β.
//!
//! In the step to σ = 0 no noise is added: the sample is D, and its weight has the likelihood itself in place of p̃. Where the
//! effective sample size (Σw)²/Σw² falls below `threshold` times the number of particles, they are drawn anew by systematic
//! resampling. At the end one of each sample's particles is drawn by the weights. Weights are kept as logarithms.
//!
//! p̃ is the likelihood of N(A D, Σ_y + r² A Aᵀ) where the measurement is linear with Gaussian noise and its decomposition is
//! known; for data N(·, τ²) it is exact. Otherwise it is that of N(A(D), Σ_y + r²), as in the published code, whose τ² is 1, or
//! 0.12 for pictures.
//!
//! With more particles the samples become draws of the posterior of the model's chain, whatever the prior and the operator, and
//! with more steps those of the posterior. With few they are too near each other and to where p̃ leads them. A measurement
//! without noise has no weights.

use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{
    Eval, Kernel, Keys, Past, Purpose, Request, Result, ensure,
    inverse::Spectrum,
    numbers::{above, ensure_within},
    rows,
    sampler::ddim_mean,
};

/// The twisted diffusion sampler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Tds {
    /// Particles of every sample, each a row that is evaluated; from 1 to 1,000,000, default 8.
    pub particles: usize,
    /// The effective part of the particles below which they are drawn anew; from 0, never, to 1, at every step; default 0.5.
    pub threshold: f64,
    /// τ², the variance of the data in transitions and twisting function; above 0, at most 1e12, default the mean variance of the data's
    /// numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variance: Option<f64>,
}

impl Default for Tds {
    fn default() -> Self {
        Self { particles: 8, threshold: 0.5, variance: None }
    }
}

/// Most particles of a sample.
const MOST_PARTICLES: usize = 1_000_000;

impl Method for Tds {
    fn check(&self, problem: &Problem) -> Result<()> {
        ensure_within("method tds: particles", self.particles, 1..=MOST_PARTICLES)?;
        ensure_within("method tds: threshold", self.threshold, 0.0..=1.0)?;
        if let Some(variance) = self.variance {
            ensure_within("method tds: variance", variance, above(0.0, 1e12))?;
        }
        ensure!(
            Kind::Unsupported,
            problem.std() != Some(0.0),
            "method tds weighs samples by their likelihood, which a measurement without noise does not have: give it noise, \
             noise = {{ kind = \"gaussian\", std = 0.01 }}, or use ddrm, ddnm, mmps or daps"
        );
        Ok(())
    }

    fn law(&self) -> Law {
        Law::Posterior
    }

    fn particles(&self) -> usize {
        self.particles
    }

    fn begin<'a>(&'a self, problem: &'a Problem, request: &'a Request) -> Result<Box<dyn Running + 'a>> {
        let groups = request.rows / self.particles;
        // Of each sample the number of its first particle.
        let firsts = (0..groups).map(|group| request.first + (group * self.particles) as u64).collect();
        Ok(Box::new(Run {
            of: self,
            problem,
            decomposition: problem.decomposition()?,
            variance: self.variance.unwrap_or(request.data_variance),
            keys: Keys { seed: request.seed, rows: firsts },
            drawn: 0,
            logs: vec![0.0; request.rows],
            clean: false,
        }))
    }
}

struct Run<'a> {
    of: &'a Tds,
    problem: &'a Problem,
    decomposition: Option<(Arc<dyn Spectrum>, f64)>,
    /// τ².
    variance: f64,
    keys: Keys,
    /// Draws made for choosing particles.
    drawn: u64,
    /// The logarithm of every particle's weight, but for log p̃ of where it stands and a constant of its sample.
    logs: Vec<f64>,
    /// Whether the end was reached, where the weights are those of the likelihood.
    clean: bool,
}

impl Running for Run<'_> {
    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        // r², the variance of x_0 given x_t.
        let spread = 1.0 / (from.noise_to_signal().powi(-2) + 1.0 / self.variance);
        let mut twists = Vec::new();
        let (mut denoised, mut slope) = eval.pull(&x, from, |denoised| {
            let (logs, slopes): (Vec<f64>, Vec<Vec<f64>>) =
                each(denoised, |row, denoised| self.twist(row, denoised, spread)).into_iter().unzip();
            twists = logs;
            Ok(rows::matrix(slopes.concat(), denoised.dims()[1], denoised))
        })?;
        let mut x = x;
        self.logs.iter_mut().zip(&twists).for_each(|(log, twist)| *log += twist);
        if let Some(chosen) = self.resample() {
            [x, denoised, slope] = [x, denoised, slope].map(|of| rows::select(of, &chosen));
            twists = chosen.iter().map(|&row| twists[row]).collect();
        }
        // What the weights now have of p̃ is the target's of the last level, not of the next.
        self.logs.iter_mut().zip(&twists).for_each(|(log, twist)| *log -= twist);
        if to.is_clean() {
            self.clean = true;
            let likelihoods = each(&denoised, |row, x| {
                let residual = self.problem.residual(row, x);
                let variances = self.problem.variances(row);
                -0.5 * residual.iter().zip(variances).map(|(r, variance)| r * r / variance).sum::<f64>()
            });
            self.logs.iter_mut().zip(likelihoods).for_each(|(log, likelihood)| *log += likelihood);
            return Ok(denoised.mul_scalar(to.alpha));
        }
        let posterior = from.posterior_variance(to);
        let (_, forward) = from.transition_from(to);
        let variance = posterior + (to.alpha * forward / from.sigma.powi(2)).powi(2) * spread;
        let fresh = eval.interval_noise(from, to, &x)?;
        let moved = slope.mul_scalar(variance);
        let noise = fresh.mul_scalar(variance.sqrt());
        let ratios = (moved.clone() * (noise.clone() + moved.clone().mul_scalar(0.5))).sum_dim(1).div_scalar(variance);
        self.logs.iter_mut().zip(rows::host(&ratios)).for_each(|(log, ratio)| *log -= ratio);
        Ok(ddim_mean(x, denoised, from, to, posterior) + moved + noise)
    }

    fn finish(&mut self, x: Tensor<2>) -> Result<Tensor<2>> {
        ensure!(
            self.clean,
            "method tds weighs samples by the likelihood at the end, and this grid stops at a noisy level: set clean = true"
        );
        let (size, points) = (self.of.particles, self.points());
        let groups = self.logs.chunks(size).zip(points).enumerate();
        let chosen: Vec<usize> =
            groups.map(|(group, (logs, point))| group * size + places(&weights(logs), &[point])[0]).collect();
        Ok(rows::select(x, &chosen))
    }
}

impl Run<'_> {
    /// log p̃(y | x_t), but for a constant, and its gradient by D.
    fn twist(&self, row: usize, denoised: &[f64], spread: f64) -> (f64, Vec<f64>) {
        let residual = self.problem.residual(row, denoised);
        match &self.decomposition {
            Some((spectrum, std)) => {
                let total = |s: f64| std * std + spread * s * s;
                let misfits = spectrum.measured(&residual).into_iter().zip(spectrum.values());
                let misfit: f64 = misfits.map(|(c, s)| c * c / total(*s)).sum();
                (-0.5 * misfit, spectrum.back(&residual, &|s| s / total(s)))
            }
            None => {
                let variances = self.problem.variances(row);
                let over: Vec<f64> =
                    residual.iter().zip(variances).map(|(r, variance)| r / (variance + spread)).collect();
                let misfit: f64 = residual.iter().zip(&over).map(|(r, over)| r * over).sum();
                (-0.5 * misfit, self.problem.operator.pull(denoised, &over))
            }
        }
    }

    /// A uniform number for every sample.
    fn points(&mut self) -> Vec<f64> {
        self.drawn += 1;
        self.keys.uniform(Purpose::Resample, self.drawn)
    }

    /// Which row each particle goes on from, if any sample's weights are uneven; theirs become even.
    fn resample(&mut self) -> Option<Vec<usize>> {
        let (size, points) = (self.of.particles, self.points());
        let least = self.of.threshold * size as f64;
        let mut chosen: Vec<usize> = (0..self.logs.len()).collect();
        let mut any = false;
        for (group, (logs, point)) in self.logs.chunks_mut(size).zip(points).enumerate() {
            let weights = weights(logs);
            let effective = 1.0 / weights.iter().map(|w| w * w).sum::<f64>();
            if effective < least {
                let spread: Vec<f64> = (0..size).map(|i| (i as f64 + point) / size as f64).collect();
                let first = group * size;
                chosen[first..first + size]
                    .iter_mut()
                    .zip(places(&weights, &spread))
                    .for_each(|(to, place)| *to = first + place);
                logs.fill(0.0);
                any = true;
            }
        }
        any.then_some(chosen)
    }
}

/// A function of every row and its number.
fn each<T: Send>(x: &Tensor<2>, f: impl Fn(usize, &[f64]) -> T + Sync) -> Vec<T> {
    rows::host(x).par_chunks(x.dims()[1]).enumerate().map(|(row, x)| f(row, x)).collect()
}

/// Weights of sum 1 from their logarithms, with any constant; even ones where none is a number.
fn weights(logs: &[f64]) -> Vec<f64> {
    let largest = logs.iter().copied().filter(|log| !log.is_nan()).fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return vec![1.0 / logs.len() as f64; logs.len()];
    }
    let raw: Vec<f64> = logs.iter().map(|log| if log.is_nan() { 0.0 } else { (log - largest).exp() }).collect();
    let total: f64 = raw.iter().sum();
    raw.into_iter().map(|w| w / total).collect()
}

/// Which weight each of some rising points in \[0, 1) falls on.
fn places(weights: &[f64], points: &[f64]) -> Vec<usize> {
    let (mut place, mut below) = (0, weights[0]);
    let last = weights.iter().rposition(|w| *w > 0.0).unwrap_or(0);
    points
        .iter()
        .map(|point| {
            // Rounding may leave the sum of all short of 1.
            while *point >= below && place < last {
                place += 1;
                below += weights[place];
            }
            place
        })
        .collect()
}
