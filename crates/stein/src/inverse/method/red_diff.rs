//! RED-diff (Mardani et al. 2024, "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
//! arXiv:2305.04391): one point μ by stochastic descent, with a step of Adam at every level, noisiest first, along
//! the gradient of
//!
//! ½ ‖y − A(μ)‖² + λ w ⟨sg(ε̂(x_t) − ε), μ⟩, x_t = α μ + σ ε, w = σ/α.
//!
//! With that w the second gradient is λ (μ − D(x_t)): what the denoiser leaves alone stays. No gradient goes through the
//! denoiser. Published: λ = 0.25, Adam with a rate of 0.1 and (0.9, 0.99).
//!
//! Both terms are sums here. The published code has means, over the numbers of a measurement and over those of a sample, so that
//! its λ means less the fewer numbers are measured. Numbers of a measurement that differ in their noise are weighted by it. The
//! descent starts at the estimate of a draw of the noisiest level, where the code starts at A⁺y, which not every operator has.
//!
//! The samples are points of high density and differ by the noise of the descent only: they say nothing of what else would fit. A
//! step moves a number by about the rate, so that data of another size than pictures from −1 to 1 want another one.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{
    Eval, Kernel, Past, Request, Result, denoiser,
    numbers::{above, ensure_within},
};

/// Variational restoration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct RedDiff {
    /// λ, the weight of the denoiser against the measurement; from 0 to 1e6, default 0.25.
    pub lambda: f64,
    /// Adam's rate; above 0, at most 1e6, default 0.1.
    pub rate: f64,
}

impl Default for RedDiff {
    fn default() -> Self {
        Self { lambda: 0.25, rate: 0.1 }
    }
}

/// How long Adam remembers gradients and their squares, and what keeps it from dividing by 0.
const MEMORY: [f64; 2] = [0.9, 0.99];
const SMALL: f64 = 1e-8;

impl Method for RedDiff {
    fn check(&self, _: &Problem) -> Result<()> {
        ensure_within("method red_diff: lambda", self.lambda, 0.0..=1e6)?;
        ensure_within("method red_diff: rate", self.rate, above(0.0, 1e6))
    }

    fn law(&self) -> Law {
        Law::Point
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        Ok(Box::new(Run { of: self, problem, descent: None }))
    }
}

struct Run<'a> {
    of: &'a RedDiff,
    problem: &'a Problem,
    descent: Option<Descent>,
}

/// μ with Adam's moments and the noise of x_t, all `[rows, n]`.
struct Descent {
    point: Tensor<2>,
    noise: Tensor<2>,
    moments: [Tensor<2>; 2],
    steps: i32,
}

impl Running for Run<'_> {
    fn start(&mut self, prior: Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let point = eval.denoise(&prior, at)?;
        let noise = eval.noise(&point)?;
        let x = point.clone().mul_scalar(at.alpha) + noise.clone().mul_scalar(at.sigma);
        let moments = [point.zeros_like(), point.zeros_like()];
        self.descent = Some(Descent { point, noise, moments, steps: 0 });
        Ok(x)
    }

    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let Descent { point, noise, moments, steps } = self.descent.take().expect("a run has started");
        let denoised = eval.denoise(&x, from)?;
        let found = denoiser::eps(x.into(), denoised.into(), from.into()).value;
        let misfit = self.problem.each(&point, |row, point| {
            let weighted = self.problem.weighted(row, &self.problem.residual(row, point));
            self.problem.operator.pull(point, &weighted.iter().map(|w| -w).collect::<Vec<_>>())
        });
        let gradient = misfit + (found - noise).mul_scalar(self.of.lambda * from.noise_to_signal());
        let steps = steps + 1;
        let [first, second] = moments;
        let first = first.mul_scalar(MEMORY[0]) + gradient.clone().mul_scalar(1.0 - MEMORY[0]);
        let second = second.mul_scalar(MEMORY[1]) + gradient.square().mul_scalar(1.0 - MEMORY[1]);
        // The moments start at 0, which is made up for.
        let [mean, square] = MEMORY.map(|memory| 1.0 / (1.0 - memory.powi(steps)));
        let scale = second.clone().mul_scalar(square).sqrt().add_scalar(SMALL);
        let point = point - first.clone().mul_scalar(self.of.rate * mean) / scale;
        if to.is_clean() {
            return Ok(point);
        }
        let noise = eval.noise(&point)?;
        let x = point.clone().mul_scalar(to.alpha) + noise.clone().mul_scalar(to.sigma);
        self.descent = Some(Descent { point, noise, moments: [first, second], steps });
        Ok(x)
    }
}
