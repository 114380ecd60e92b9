//! Decoupled annealing posterior sampling (Zhang et al. 2025, "Improving Diffusion Inverse Problem Solving with Decoupled Noise
//! Annealing", arXiv:2407.01521): at every level a clean sample given x_t and y, and from it a new x_s = α_s x_0 +
//! σ_s z. Each level forgets how the last one was reached, and so can mend what went wrong there.
//!
//! The clean sample is drawn from N(x_0; x̂_0, r²) p(y | x_0), where x̂_0 is the end of the probability-flow ODE
//! from x_t, by `ode_steps` of Euler's method on a Karras grid, and r² = σ̄² v/(σ̄² + v), σ̄ = σ/α, with v the variance of the
//! data. The published r = σ̄ is that of a very large v.
//!
//! If the measurement is linear with Gaussian noise and its decomposition is known, the draw is exact: in the coordinates of the
//! decomposition with gain r² s/(s² r² + σ_y²) and variance r² σ_y²/(s² r² + σ_y²). Otherwise it is by Langevin dynamics from
//! x̂_0 with Metropolis's test, so that no step size makes it wrong or diverge; the published code has none, and takes what is
//! not a number for 0. A step is `rate` n^(−1/3)/(1/r² + ‖J‖²), where ‖J‖ is the norm of the Jacobian over the noise at x̂_0: it
//! follows level, operator and noise by itself, as the published lists of rates for each of them do by hand.
//!
//! The likelihood is −½ Σ (y − A(x))²/σ_y². The published code leaves out the ½ and has 0.01 for σ_y whatever the noise, so that
//! it trusts a measurement of noise 0.05 as if it had 0.007.
//!
//! What the Gaussian makes of it: the samples are near the posterior. For a prior N(m, v) and with one ODE step, where x̂_0 = D,
//! each draw is exact and so are the samples. With more steps x̂_0 has a spread of its own, that of the data, and r² comes on
//! top: the variance of what was not measured ends near 2 v after many levels.

use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Law, Method, Problem, Running};
use crate::{
    Eval, Grid, Kernel, Past, Request, Result, ensure,
    grid::MOST_STEPS,
    inverse::Spectrum,
    numbers::{above, ensure_within},
    rows,
    sampler::ddim_step,
};

/// Decoupled annealing posterior sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Daps {
    /// Steps of the ODE at every level; from 1 to 1,000,000, default 5. One is the denoiser's estimate.
    pub ode_steps: usize,
    /// Variance v of the data, which bounds that of the clean sample given the noisy one; above 0, at most 1e12, default the mean
    /// variance of the data's numbers. With 1e12 the bound is the level's, as published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variance: Option<f64>,
    /// Whether to draw by Langevin dynamics even where the exact draw is known; default false.
    pub langevin: bool,
    /// Langevin steps at every level; from 1 to 1,000,000, default 100.
    pub langevin_steps: usize,
    /// Length of a Langevin step against that of the shortest scale of the density; above 0, at most 1000, default 1.
    pub rate: f64,
}

impl Default for Daps {
    fn default() -> Self {
        Self { ode_steps: 5, variance: None, langevin: false, langevin_steps: 100, rate: 1.0 }
    }
}

impl Method for Daps {
    fn check(&self, _: &Problem) -> Result<()> {
        ensure_within("method daps: ode_steps", self.ode_steps, 1..=MOST_STEPS)?;
        ensure_within("method daps: langevin_steps", self.langevin_steps, 1..=MOST_STEPS)?;
        ensure_within("method daps: rate", self.rate, above(0.0, 1e3))?;
        match self.variance {
            Some(variance) => ensure_within("method daps: variance", variance, above(0.0, 1e12)),
            None => Ok(()),
        }
    }

    fn law(&self) -> Law {
        Law::Near
    }

    fn begin<'a>(&'a self, problem: &'a Problem, _: &'a Request) -> Result<Box<dyn Running + 'a>> {
        let decomposition = if self.langevin { None } else { problem.decomposition()? };
        ensure!(
            Kind::Unsupported,
            decomposition.is_some() || problem.std() != Some(0.0),
            "method daps: without noise this measurement has no density for Langevin dynamics to move in: give it noise, \
             noise = {{ kind = \"gaussian\", std = 0.01 }}"
        );
        Ok(Box::new(Run { of: self, problem, decomposition }))
    }
}

struct Run<'a> {
    of: &'a Daps,
    problem: &'a Problem,
    decomposition: Option<(Arc<dyn Spectrum>, f64)>,
}

impl Running for Run<'_> {
    fn step(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let center = self.flow(x, from, eval)?;
        let data = self.of.variance.unwrap_or(eval.data_variance());
        let variance = 1.0 / (from.noise_to_signal().powi(-2) + 1.0 / data);
        let clean = match &self.decomposition {
            Some((spectrum, std)) => {
                let fresh = rows::host(&eval.noise(&center)?);
                self.draw(&center, variance, &**spectrum, *std, &fresh)
            }
            None => self.langevin(&center, variance, eval)?,
        };
        if to.is_clean() { Ok(clean) } else { eval.raise(clean, &Kernel::CLEAN, to) }
    }
}

impl Run<'_> {
    /// The end of the probability-flow ODE.
    fn flow(&self, mut x: Tensor<2>, from: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let end = eval.last_level().t;
        let levels = if self.of.ode_steps > 1 && end < from.t {
            eval.grid(&Grid { start: Some(from.t), end: Some(end), ..Grid::karras(self.of.ode_steps) })?
        } else {
            vec![*from, Kernel::CLEAN]
        };
        for pair in levels.windows(2) {
            let denoised = eval.denoise(&x, &pair[0])?;
            x = ddim_step(x, denoised, &pair[0], &pair[1], 0.0, eval)?;
        }
        Ok(x)
    }

    /// Draws of N(x; center, variance) N(y; A x, std²) by their noise.
    fn draw(&self, center: &Tensor<2>, variance: f64, spectrum: &dyn Spectrum, std: f64, fresh: &[f64]) -> Tensor<2> {
        let n = spectrum.dim();
        self.problem.each(center, |row, center| {
            let mut c = spectrum.coordinates(center);
            let measured = spectrum.measured(self.problem.y(row));
            let fresh = &fresh[row * n..(row + 1) * n];
            for (i, c) in c.iter_mut().enumerate() {
                let left = match spectrum.values().get(i) {
                    None => variance,
                    Some(s) => {
                        let total = s * s * variance + std * std;
                        *c += variance * s / total * (measured[i] - s * *c);
                        variance * (std * std / total)
                    }
                };
                *c += left.sqrt() * fresh[i];
            }
            spectrum.sample(&c)
        })
    }

    /// The same of any operator and noise, after some steps of Langevin dynamics.
    fn langevin(&self, center: &Tensor<2>, variance: f64, eval: &mut Eval) -> Result<Tensor<2>> {
        let [count, n] = center.dims();
        let centers = rows::host(center);
        let targets: Vec<Target> = centers
            .par_chunks(n)
            .enumerate()
            .map(|(row, center)| Target { problem: self.problem, row, center, variance })
            .collect();
        let rate = self.of.rate / (n as f64).cbrt();
        let mut chains: Vec<Chain> = targets.par_iter().map(|target| Chain::new(target, rate)).collect();
        // Two numbers more than a move has: half the sum of their squares is an exponential draw, for Metropolis's test.
        let like = Tensor::zeros([count, n + 2], (&center.device(), center.dtype()));
        for _ in 0..self.of.langevin_steps {
            let fresh = rows::host(&eval.noise(&like)?);
            let rows = chains.par_iter_mut().zip(&targets).zip(fresh.par_chunks(n + 2));
            rows.for_each(|((chain, target), fresh)| chain.advance(target, fresh));
        }
        Ok(rows::matrix(chains.into_iter().flat_map(|chain| chain.at.x).collect(), n, center))
    }
}

/// The density N(x; center, variance) p(y | x) of one row.
struct Target<'a> {
    problem: &'a Problem,
    row: usize,
    center: &'a [f64],
    variance: f64,
}

/// A point with the logarithm of the density there, but for a constant, and its gradient.
struct Place {
    x: Vec<f64>,
    log: f64,
    slope: Vec<f64>,
}

impl Target<'_> {
    fn over_noise(&self, residual: &[f64]) -> Vec<f64> {
        residual.iter().zip(self.problem.variances(self.row)).map(|(r, variance)| r / variance).collect()
    }

    fn place(&self, x: Vec<f64>) -> Place {
        let residual = self.problem.residual(self.row, &x);
        let weighted = self.over_noise(&residual);
        let misfit: f64 = residual.iter().zip(&weighted).map(|(r, w)| r * w).sum();
        let mut slope = self.problem.operator.pull(&x, &weighted);
        let mut far = 0.0;
        for ((slope, x), center) in slope.iter_mut().zip(&x).zip(self.center) {
            far += (x - center).powi(2) / self.variance;
            *slope -= (x - center) / self.variance;
        }
        Place { x, log: -0.5 * (misfit + far), slope }
    }

    /// The largest curvature 1/r² + ‖Jᵀ Σ_y⁻¹ J‖ at the center, by power iteration.
    fn curvature(&self) -> f64 {
        let operator = &self.problem.operator;
        let mut direction = vec![1.0 / (self.center.len() as f64).sqrt(); self.center.len()];
        let mut largest = 0.0;
        for _ in 0..POWER_ITERATIONS {
            let image = operator.pull(self.center, &self.over_noise(&operator.push(self.center, &direction)));
            largest = image.iter().map(|x| x * x).sum::<f64>().sqrt();
            if largest == 0.0 {
                break;
            }
            direction = image.iter().map(|x| x / largest).collect();
        }
        1.0 / self.variance + largest
    }
}

/// Enough for the size of a norm; its digits do not matter.
const POWER_ITERATIONS: usize = 20;

/// Metropolis-adjusted Langevin dynamics of one row.
struct Chain {
    step: f64,
    at: Place,
}

impl Chain {
    fn new(target: &Target, rate: f64) -> Self {
        Self { step: rate / target.curvature(), at: target.place(target.center.to_vec()) }
    }

    fn advance(&mut self, target: &Target, fresh: &[f64]) {
        let (step, n) = (self.step, self.at.x.len());
        let (fresh, test) = fresh.split_at(n);
        let moved = self.at.x.iter().zip(&self.at.slope).zip(fresh);
        let there = target.place(moved.map(|((x, slope), z)| x + step * slope + (2.0 * step).sqrt() * z).collect());
        let back =
            self.at.x.iter().zip(&there.x).zip(&there.slope).map(|((x, y), slope)| (x - y - step * slope).powi(2));
        let (forth, back) = (0.5 * fresh.iter().map(|z| z * z).sum::<f64>(), back.sum::<f64>() / (4.0 * step));
        // A density that is not a number there is no reason to go.
        if there.log - self.at.log + forth - back >= -0.5 * test.iter().map(|z| z * z).sum::<f64>() {
            self.at = there;
        }
    }
}
