//! UniPC: a multistep predictor like [DPM-Solver++](super::DpmSolverPp)'s, whose result is corrected once the next
//! estimate is known, at no further evaluation.
//!
//! Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models" (arXiv
//! 2302.04867), multistep with data prediction and their B₂(h) = e^h − 1. In half-log-SNR λ over a step of length h
//! from level t, x_s = (σ_s/σ_t) x + α_s (1 − e^{−h}) (D + Σ_m ρ_m (D_m − D)/r_m), where D_m is the estimate at λ_t +
//! r_m h: earlier levels for the predictor, those and the level s itself for the corrector, which takes the place of x
//! before the next step. The ρ match the powers of λ up to the number of estimates; with a single one ρ = ½, as
//! published.
//!
//! The first steps are of as high an order as there are estimates, the step to σ = 0 (h = ∞) is of first order. One
//! evaluation per step.

use burn::tensor::Tensor;
use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{
    Eval, Past, Sampler,
    eval::{half_log_snr, toward},
};
use crate::{Error, Kernel, Result, ensure};

/// UniPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct UniPc {
    /// p of UniPC-p, how many estimates the predictor is made of, 1 to 3; default 2. Converges with order p + 1.
    pub order: u32,
}

impl Default for UniPc {
    fn default() -> Self {
        Self { order: 2 }
    }
}

/// λ_later − λ_earlier.
fn between(earlier: &Kernel, later: &Kernel) -> f64 {
    half_log_snr(later) - half_log_snr(earlier)
}

/// ρ for estimates at these fractions of a step of length h.
fn weights(fractions: &[f64], h: f64) -> Result<Vec<f64>> {
    let count = fractions.len();
    if count <= 1 {
        return Ok(vec![0.5; count]);
    }
    // φ_{k+1} = (φ_k − 1/k!)/(−h) from φ_1 = (e^{−h} − 1)/(−h), and the right sides are k! φ_{k+1} (−h)/(e^{−h} − 1).
    let whole = (-h).exp_m1();
    let (mut phi, mut factorial) = (whole / -h, 1.0);
    let right: Vec<f64> = (1..=count)
        .map(|k| {
            factorial *= k as f64;
            phi = (phi - 1.0 / factorial) / -h;
            phi * factorial * -h / whole
        })
        .collect();
    let powers = DMatrix::from_fn(count, count, |k, m| fractions[m].powi(k as i32));
    let solved = powers.lu().solve(&DVector::from_vec(right));
    let solved = solved.ok_or_else(|| Error::new("sampler uni_pc: two levels of the grid coincide"))?;
    Ok(solved.iter().copied().collect())
}

/// An estimate and its level.
type Estimate = (Kernel, Tensor<2>);

/// Σ_m ρ_m (D_m − D)/r_m over a step of length h from the level of D; `None` without other estimates.
fn differences(at: &Estimate, others: &[Estimate], h: f64) -> Result<Option<Tensor<2>>> {
    let fractions: Vec<f64> = others.iter().map(|(level, _)| between(&at.0, level) / h).collect();
    let terms = weights(&fractions, h)?.into_iter().zip(&fractions).zip(others);
    let terms = terms.map(|((rho, r), (_, estimate))| (estimate.clone() - at.1.clone()).mul_scalar(rho / r));
    Ok(terms.reduce(|sum, term| sum + term))
}

impl Sampler for UniPc {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() {
            return Ok(denoised);
        }
        // The latest first. An interval that starts without signal is infinite: nothing is to be learned across it.
        let known: Vec<Estimate> = (0..self.order as usize)
            .map_while(|back| past.step(back).filter(|(level, _)| level.alpha > 0.0).cloned())
            .collect();
        let here = (*from, denoised);
        let x = match known.split_first() {
            Some((start, others)) => {
                let h = between(&start.0, from);
                let mut with_end = others.to_vec();
                with_end.push(here.clone());
                let corrector = differences(start, &with_end, h)?;
                let predictor = differences(start, others, h)?;
                // x is what the predictor gave: only the difference of the two updates is to be added.
                let change = match (corrector, predictor) {
                    (Some(corrector), Some(predictor)) => Some(corrector - predictor),
                    (corrector, _) => corrector,
                };
                match change {
                    Some(change) => x + change.mul_scalar(-from.alpha * (-h).exp_m1()),
                    None => x,
                }
            }
            None => x,
        };
        let used = known.len().min(self.order as usize - 1);
        let estimate = match differences(&here, &known[..used], between(from, to))? {
            Some(change) => here.1.clone() + change,
            None => here.1.clone(),
        };
        past.remember(here.0, here.1);
        Ok(toward(x, estimate, from, to))
    }

    fn order(&self) -> Option<u32> {
        Some(self.order + 1)
    }

    fn starts_without_signal(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=3).contains(&self.order), "sampler uni_pc: order = {} must be 1, 2 or 3", self.order);
        Ok(())
    }
}
