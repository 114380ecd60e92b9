//! The probability-flow ODE in t by the adaptive method of Dormand & Prince 1980 (order 5 with an embedded order 4).
//!
//! Song et al. 2021, appendix D.4, use the same method with both tolerances 0.00001. Here every sample has its own time and
//! step size: the error norm √(mean_i (e_i/(atol + rtol max(|x_i|, |x'_i|)))²) is a sample's own, so that it does not depend
//! on its batch-mates, and finished samples cost nothing. With infinite tolerances it takes one step an interval of the grid.

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{Eval, Sampler, eval::velocity};
use crate::{Error, Kernel, Result, ensure, rows};

/// Time fractions of the stages, and their weights row by row. The last row is the fifth-order step (stage 7 is the next
/// step's stage 1, evaluated again: an attempt costs seven evaluations).
const FRACTIONS: [f64; 7] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
const WEIGHTS: [&[f64]; 7] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// Fifth-order minus fourth-order weights.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0];

/// Adaptive Dormand–Prince.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rk45 {
    /// Relative tolerance of a step; default 0.00001.
    pub rtol: f64,
    /// Absolute tolerance of a step, in the units of x; default 0.00001.
    pub atol: f64,
    /// Most attempted steps of a sample in one interval of the grid before the run gives up; default 10,000.
    pub max_steps: usize,
}

impl Default for Rk45 {
    fn default() -> Self {
        Self { rtol: 1e-5, atol: 1e-5, max_steps: 10_000 }
    }
}

/// One sample still under way.
struct Active {
    row: usize,
    t: f64,
    /// Size of the next step, positive.
    h: f64,
}

impl Rk45 {
    /// Stages, step and error of every active row: the new x and the error norm of each.
    fn attempt(&self, x: &Tensor<2>, active: &[Active], eval: &mut Eval) -> Result<(Tensor<2>, Vec<f64>)> {
        let batch_rows: Vec<usize> = active.iter().map(|a| a.row).collect();
        let mut slopes: Vec<Tensor<2>> = Vec::with_capacity(7);
        let combine = |from: Option<Tensor<2>>, weights: &[f64], slopes: &[Tensor<2>]| {
            weights.iter().zip(slopes).filter(|(weight, _)| **weight != 0.0).fold(from, |sum, (weight, slope)| {
                let steps: Vec<f64> = active.iter().map(|a| -a.h * weight).collect();
                let term = rows::scale(slope.clone(), &steps);
                Some(match sum {
                    Some(sum) => sum + term,
                    None => term,
                })
            })
        };
        let mut moved = x.clone();
        for (fraction, weights) in FRACTIONS.iter().zip(WEIGHTS) {
            moved = combine(Some(x.clone()), weights, &slopes).unwrap_or(moved);
            let at: Vec<Kernel> = active.iter().map(|a| eval.kernel(a.t - fraction * a.h)).collect();
            let denoised = eval.denoise_rows(&moved, &at, &batch_rows)?;
            slopes.push(velocity(moved.clone(), denoised, &at));
        }
        // The error weights are not empty, so there is a sum.
        let error = combine(None, &ERROR, &slopes).unwrap_or_else(|| x.zeros_like());
        let scale = x.clone().abs().max_pair(moved.clone().abs()).mul_scalar(self.rtol).add_scalar(self.atol);
        let norms = rows::host(&(error / scale).square().mean_dim(1).sqrt());
        Ok((moved, norms))
    }
}

impl Sampler for Rk45 {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let span = from.t - to.t;
        // Infinite tolerances mean one step; otherwise start small and let the controller grow it.
        let first = if self.rtol.is_finite() { span / 100.0 } else { span };
        let mut active: Vec<Active> = (0..x.dims()[0]).map(|row| Active { row, t: from.t, h: first }).collect();
        let mut done: Vec<(usize, Tensor<2>)> = Vec::new();
        let mut state = x;
        let mut attempts = 0;
        while !active.is_empty() {
            attempts += 1;
            ensure!(
                attempts <= self.max_steps,
                "sampler rk45: no end after {} attempted steps: loosen rtol and atol, or raise max_steps",
                self.max_steps
            );
            let (moved, norms) = self.attempt(&state, &active, eval)?;
            let mut accepted = Vec::with_capacity(active.len());
            for (sample, norm) in active.iter_mut().zip(&norms) {
                if !norm.is_finite() && self.rtol.is_finite() {
                    return Err(Error::new(format!(
                        "sampler rk45: the velocity of sample {} is not finite near t = {}: the model gives no usable score there",
                        sample.row, sample.t
                    )));
                }
                let accept = *norm <= 1.0 || !self.rtol.is_finite();
                if accept {
                    sample.t -= sample.h;
                }
                accepted.push(if accept { 1.0 } else { 0.0 });
                // Aim at an error of 0.9⁵ of the tolerance; never change the step more than five-fold.
                let factor = if *norm > 0.0 { (0.9 * norm.powf(-0.2)).clamp(0.2, 5.0) } else { 5.0 };
                sample.h = (sample.h * factor).min(sample.t - to.t);
            }
            let taken = rows::column(&accepted, &state).bool();
            state = state.mask_where(taken.expand(moved.dims()), moved);
            let (over, under): (Vec<usize>, Vec<usize>) =
                // What is left of the interval by rounding is no step.
                (0..active.len()).partition(|&i| active[i].t - to.t <= 1e-12 * span);
            if !over.is_empty() {
                for &i in &over {
                    done.push((active[i].row, state.clone().narrow(0, i, 1)));
                }
                if under.is_empty() {
                    break;
                }
                let keep = TensorData::new(under.iter().map(|&i| i as i64).collect::<Vec<_>>(), [under.len()]);
                state = state.clone().select(0, Tensor::<1, Int>::from_data(keep, &state.device()));
                active = active
                    .into_iter()
                    .enumerate()
                    .filter(|(i, _)| under.binary_search(i).is_ok())
                    .map(|(_, sample)| sample)
                    .collect();
            }
        }
        done.sort_by_key(|(row, _)| *row);
        Ok(Tensor::cat(done.into_iter().map(|(_, row)| row).collect(), 0))
    }

    fn order(&self) -> Option<u32> {
        Some(5)
    }

    fn reaches_clean(&self) -> bool {
        false
    }

    fn starts_without_signal(&self) -> bool {
        true
    }

    fn adaptive(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.rtol > 0.0 && self.atol > 0.0,
            "sampler rk45: rtol = {} and atol = {} must be positive",
            self.rtol,
            self.atol
        );
        ensure!(self.max_steps >= 1, "sampler rk45: max_steps must be at least 1");
        Ok(())
    }
}
