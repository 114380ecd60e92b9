//! The reverse-time SDE dx = (f x − g² s) dt + g dw in t with steps as long as each sample allows.
//!
//! Jolicoeur-Martineau et al. 2021, "Gotta Go Fast When Generating Data with Score-Based Models", algorithm 1: Euler–Maruyama gives x',
//! a second one with drift and diffusion at the end of the step gives x̃, and x'' = (x' + x̃)/2 is of higher order on the mean. A step is
//! accepted, with x'', where √(mean(((x' − x'')/δ)²)) ≤ 1, δ = max(atol, rtol max(|x'|, |x'_last|)); the next is 0.9 error^{−0.9} times as
//! long.
//!
//! A rejected step is tried again on the same Brownian path, of which it then takes a shorter part: noise that is drawn again until a
//! step is accepted would be noise of another law. It ends at the cleanest time of the grid, with the denoised sample. Two evaluations per
//! attempt, of the rows still under way.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{
    Error, Factors, Kernel, Kind, Levels, Result, denoiser,
    grid::MOST_STEPS,
    noise::Draws,
    numbers::{above, ensure_within},
    rows,
};

/// The reverse SDE with adaptive steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveSde {
    /// Relative tolerance of a step; from 0 to 1000, default 0.05. The paper's runs have 0.01 to 0.5.
    pub rtol: f64,
    /// Absolute tolerance of a step, in the units of x; positive and at most 1,000,000, default 0.0078, one gray level of pictures in [−1, 1].
    pub atol: f64,
    /// Most attempted steps of a sample in one interval of the grid before the run gives up; from 1 to 1,000,000, default 10,000.
    pub max_steps: usize,
}

impl Default for AdaptiveSde {
    fn default() -> Self {
        Self { rtol: 0.05, atol: 0.0078, max_steps: 10_000 }
    }
}

/// A sample under way.
struct Row<'a> {
    x: Tensor<2>,
    /// x' of its last accepted step.
    last: Tensor<2>,
    draws: Draws<'a>,
    at: Kernel,
    /// The size of its next step.
    h: f64,
}

/// What enters an Euler–Maruyama step of the rows, at one end of it: −f h, g² h and g √h.
struct Coefficients([Factors; 3]);

impl Coefficients {
    fn at(levels: &[Kernel], h: &[f64]) -> Self {
        let each = |f: fn(&Kernel, f64) -> f64| Factors::Each(levels.iter().zip(h).map(|(at, h)| f(at, *h)).collect());
        Self([
            each(|at, h| -h * at.drift()),
            each(|at, h| h * at.diffusion_squared()),
            each(|at, h| (h * at.diffusion_squared()).sqrt()),
        ])
    }

    /// The change of rows with the drift where they are and this noise.
    fn change(&self, x: Tensor<2>, denoised: Tensor<2>, at: &[Kernel], noise: Tensor<2>) -> Tensor<2> {
        let score = denoiser::score(x.clone().into(), denoised.into(), Levels::Each(at)).value;
        let [on_x, on_score, on_noise] = &self.0;
        rows::scale(x, on_x) + rows::scale(score, on_score) + rows::scale(noise, on_noise)
    }
}

impl AdaptiveSde {
    /// One attempt of some rows: x', x'' and the error of each.
    fn attempt(&self, active: &mut [(usize, &mut Row)], eval: &mut Eval) -> Result<(Tensor<2>, Tensor<2>, Vec<f64>)> {
        let of: Vec<usize> = active.iter().map(|(row, _)| *row).collect();
        let late: Vec<Kernel> = active.iter().map(|(_, row)| row.at).collect();
        let early: Vec<Kernel> = active.iter().map(|(_, row)| eval.kernel(row.at.t - row.h)).collect();
        let h: Vec<f64> = active.iter().map(|(_, row)| row.h).collect();
        let x = Tensor::cat(active.iter().map(|(_, row)| row.x.clone()).collect(), 0);
        let last = Tensor::cat(active.iter().map(|(_, row)| row.last.clone()).collect(), 0);
        let noise: Result<Vec<Tensor<2>>> =
            active.iter_mut().zip(&early).map(|((_, row), early)| row.draws.interval(&row.at, early, &row.x)).collect();
        let noise = Tensor::cat(noise?, 0);
        let mut change = |x: &Tensor<2>, at: &[Kernel]| {
            let denoised = eval.denoise_rows(x, at, &of)?;
            Ok(Coefficients::at(at, &h).change(x.clone(), denoised, at, noise.clone()))
        };
        let first = x.clone() + change(&x, &late)?;
        let second = x + change(&first, &early)?;
        let both = (first.clone() + second).mul_scalar(0.5);
        let size = first.clone().abs().max_pair(last.abs()).mul_scalar(self.rtol).clamp_min(self.atol);
        let errors = rows::host(&((first.clone() - both.clone()) / size).square().mean_dim(1).sqrt());
        Ok((first, both, errors))
    }
}

impl Sampler for AdaptiveSde {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let span = from.t - to.t;
        let mut batch: Vec<Row> = eval
            .draws_of_rows()?
            .into_iter()
            .enumerate()
            .map(|(row, draws)| {
                let x = x.clone().narrow(0, row, 1);
                Row { last: x.clone(), x, draws, at: *from, h: 0.01 * span }
            })
            .collect();
        for _ in 0..self.max_steps {
            // What rounding leaves of the interval is no step.
            let mut active: Vec<(usize, &mut Row)> =
                batch.iter_mut().enumerate().filter(|(_, row)| row.at.t - to.t > 1e-12 * span).collect();
            if active.is_empty() {
                return Ok(Tensor::cat(batch.into_iter().map(|row| row.x).collect(), 0));
            }
            let (first, both, errors) = self.attempt(&mut active, eval)?;
            for (i, ((sample, row), error)) in active.into_iter().zip(errors).enumerate() {
                if !error.is_finite() {
                    return Err(Error::of(
                        Kind::NotFinite,
                        format!(
                            "the score of sample {sample} of the batch is not finite near t = {}: the model gives no usable score there",
                            row.at.t
                        ),
                    ));
                }
                if error <= 1.0 {
                    (row.x, row.last) = (both.clone().narrow(0, i, 1), first.clone().narrow(0, i, 1));
                    row.at = eval.kernel(row.at.t - row.h);
                } else {
                    row.draws.back_to(&row.at);
                }
                // Never more than five-fold, as with other adaptive steps.
                let factor = if error > 0.0 { (0.9 * error.powf(-0.9)).clamp(0.2, 5.0) } else { 5.0 };
                row.h = (row.h * factor).min(row.at.t - to.t);
            }
        }
        Err(Error::new(format!(
            "sampler adaptive_sde: no end after {} attempted steps: loosen rtol and atol, or raise max_steps",
            self.max_steps
        )))
    }

    fn order(&self) -> Option<u32> {
        None
    }

    fn reaches_clean(&self) -> bool {
        false
    }

    fn adaptive(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        ensure_within("sampler adaptive_sde: rtol", self.rtol, 0.0..=1e3)?;
        ensure_within("sampler adaptive_sde: atol", self.atol, above(0.0, 1e6))?;
        ensure_within("sampler adaptive_sde: max_steps", self.max_steps, 1..=MOST_STEPS)
    }
}
