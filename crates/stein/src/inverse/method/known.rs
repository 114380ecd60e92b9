//! What a linear measurement says of a noisy state, coordinate by coordinate.
//!
//! With A = U diag(s) Vᵀ a measurement y = A x_0 + N(0, σ_y²) gives the first coordinates c = Vᵀ x_0 with noise of their own,
//! ȳ_i = (Uᵀy)_i/s_i = c_i + N(0, v_i) with v_i = σ_y²/s_i². That is what the forward process makes of c_i at the level where its clock
//! n = (σ/α)² is v_i, so ȳ may be taken for the point of the process there (Kawar, Vaksman & Elad 2021, "SNIPS"; Kawar et al. 2022,
//! "Denoising Diffusion Restoration Models"). Everything else follows from the Markov property of x̄ = x/α, a Brownian motion in n:
//!
//! - At a noisier level, n ≥ v_i, the coordinate is *held*: x̄_i ~ N(ȳ_i, n − v_i), whatever the rest is. Only the noise that the
//!   measurement lacks is added; without noise this is the usual x̄_i ~ N(ȳ_i, n).
//! - From one such level t to the next s it is a Brownian bridge to ȳ_i: DDIM's step with n − v_i for n and ȳ_i for D.
//! - At a cleaner level, n < v_i, the coordinate is *free*, with the likelihood N(ȳ_i; x̄_i, v_i − n). Given a state between, y says
//!   nothing more, so the step down is the model's own; the first one starts at ȳ_i itself.
//!
//! The laws p(x_s | y) of this process end in the posterior p(x_0 | y), and each can be drawn from by Langevin dynamics on what is
//! free, since its score is known: the model's, and that of the likelihood.

use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::super::{Problem, Spectrum};
use crate::{Eval, Kernel, Result, rows};

/// The measured coordinates of every row.
pub(super) struct Known {
    spectrum: Arc<dyn Spectrum>,
    /// ȳ `[r]` of every row.
    values: Vec<Vec<f64>>,
    /// v `[r]`.
    variances: Vec<f64>,
}

impl Known {
    /// What a problem says.
    ///
    /// # Errors
    /// As [`Problem::linear_gaussian`], and those of the decomposition.
    pub(super) fn of(problem: &Problem, method: &str) -> Result<Self> {
        let (linear, std) = problem.linear_gaussian(method)?;
        let spectrum = linear.spectrum()?;
        let of_row = |row| {
            let measured = spectrum.measured(problem.y(row));
            measured.iter().zip(spectrum.values()).map(|(y, s)| y / s).collect()
        };
        let values = (0..problem.rows()).into_par_iter().map(of_row).collect();
        let variances = spectrum.values().iter().map(|s| (std / s).powi(2)).collect();
        Ok(Self { spectrum, values, variances })
    }

    /// ȳ and v of a coordinate of a row; `None` of one that is not measured.
    fn measured(&self, row: usize, i: usize) -> Option<(f64, f64)> {
        self.values[row].get(i).map(|y| (*y, self.variances[i]))
    }

    /// The batch `[rows, n]` with coordinates made anew: `f` is given the number of a row and the coordinates of x/α `[n]` and of the
    /// other batches there, and changes the first.
    fn change(
        &self,
        x: &Tensor<2>,
        from: &Kernel,
        to: &Kernel,
        others: &[&Tensor<2>],
        f: impl Fn(usize, &mut [f64], &[Vec<f64>]) + Sync,
    ) -> Tensor<2> {
        let dim = x.dims()[1];
        let others: Vec<Vec<f64>> = others.iter().map(|other| rows::host(other)).collect();
        let of_row = |(row, x): (usize, &[f64])| {
            let mut c = self.spectrum.coordinates(x);
            c.iter_mut().for_each(|c| *c /= from.alpha);
            let here = row * dim..(row + 1) * dim;
            let others: Vec<_> = others.iter().map(|other| self.spectrum.coordinates(&other[here.clone()])).collect();
            f(row, &mut c, &others);
            c.iter_mut().for_each(|c| *c *= to.alpha);
            self.spectrum.sample(&c)
        };
        let out: Vec<Vec<f64>> = rows::host(x).par_chunks(dim).enumerate().map(of_row).collect();
        rows::matrix(out.concat(), dim, x)
    }

    /// A draw of the prior at the noisiest level, with what is held there in its place.
    pub(super) fn start(&self, prior: &Tensor<2>, at: &Kernel, eval: &Eval) -> Tensor<2> {
        let normal = at.alpha / at.prior_std(eval.data_variance());
        let clock = at.noise_to_signal().powi(2);
        self.change(prior, at, at, &[], |row, x, _| {
            for (i, x) in x.iter_mut().enumerate() {
                if let Some((y, v)) = self.measured(row, i).filter(|(_, v)| clock >= *v) {
                    *x = y + (clock - v).sqrt() * normal * *x;
                }
            }
        })
    }

    /// The batch at a level with what is held there drawn anew.
    ///
    /// # Errors
    /// Those of the noise.
    pub(super) fn redraw(&self, x: &Tensor<2>, at: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let clock = at.noise_to_signal().powi(2);
        // In a clean state nothing is left to draw.
        let noise = if at.is_clean() { x.zeros_like() } else { eval.noise(x)? };
        Ok(self.change(x, at, at, &[&noise], |row, x, others| {
            for (i, (x, z)) in x.iter_mut().zip(&others[0]).enumerate() {
                if let Some((y, v)) = self.measured(row, i).filter(|(_, v)| clock >= *v) {
                    *x = y + (clock - v).sqrt() * z;
                }
            }
        }))
    }

    /// DDIM's step with noise η: of what is free toward D, of what is held along its bridge. With x/α for D and η = 0 what is free stays
    /// where it is.
    ///
    /// # Errors
    /// Those of the noise.
    pub(super) fn step(
        &self,
        x: &Tensor<2>,
        denoised: &Tensor<2>,
        [from, to]: [&Kernel; 2],
        eta: f64,
        eval: &mut Eval,
    ) -> Result<Tensor<2>> {
        let clock = [from, to].map(|at| at.noise_to_signal().powi(2));
        let noise = if eta > 0.0 && !to.is_clean() { eval.interval_noise(from, to, x)? } else { x.zeros_like() };
        Ok(self.change(x, from, to, &[denoised, &noise], |row, x, others| {
            for (i, ((x, denoised), z)) in x.iter_mut().zip(&others[0]).zip(&others[1]).enumerate() {
                let (goal, start, high, low) = match self.measured(row, i) {
                    Some((y, v)) if clock[1] >= v => (y, *x, clock[0] - v, clock[1] - v),
                    Some((y, v)) if clock[0] >= v => (*denoised, y, v, clock[1]),
                    _ => (*denoised, *x, clock[0], clock[1]),
                };
                let variance = eta.powi(2) * low * (high - low) / high;
                *x = goal + ((low - variance) / high).sqrt() * (start - goal) + variance.sqrt() * z;
            }
        }))
    }

    /// A Langevin step on what is free, with y: x̄ ← x̄ + a ∇ log p(x̄ | y) + √(2a) z with a = `relative` n, or less where the
    /// likelihood is narrower than the noise: `relative` over the sum of both precisions.
    ///
    /// # Errors
    /// Those of the denoiser and the noise.
    pub(super) fn langevin(&self, x: &Tensor<2>, at: &Kernel, relative: f64, eval: &mut Eval) -> Result<Tensor<2>> {
        let denoised = eval.denoise(x, at)?;
        let noise = eval.noise(x)?;
        let clock = at.noise_to_signal().powi(2);
        let moved = self.change(x, at, at, &[&denoised, &noise], |row, x, others| {
            for (i, ((x, denoised), z)) in x.iter_mut().zip(&others[0]).zip(&others[1]).enumerate() {
                let score = (denoised - *x) / clock;
                let (score, precision) = match self.measured(row, i) {
                    Some((_, v)) if clock >= v => continue,
                    Some((y, v)) => (score + (y - *x) / (v - clock), 1.0 / clock + 1.0 / (v - clock)),
                    None => (score, 1.0 / clock),
                };
                let a = relative / precision;
                *x += a * score + (2.0 * a).sqrt() * z;
            }
        });
        eval.show(&moved, at)?;
        Ok(moved)
    }
}
