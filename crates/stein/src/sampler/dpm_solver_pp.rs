//! DPM-Solver++ (2M): x_s = (σ_s/σ_t) x + α_s (1 − e^{−h}) D̃ in half-log-SNR λ = ln(α/σ), h = λ_s − λ_t, with
//! D̃ = D + (D − D_previous)/(2r), r = h_previous/h.
//!
//! Lu et al. 2022, "DPM-Solver++", algorithm 2. The first step and the step to σ = 0 (h = ∞) are of first order; the whole is
//! of order 2. One evaluation a step.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Eval, Sampler};
use crate::{Kernel, Result};

/// DPM-Solver++ (2M).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpmSolverPp {}

impl Sampler for DpmSolverPp {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() {
            return Ok(denoised);
        }
        let h = 0.5 * (to.log_snr() - from.log_snr());
        let extrapolated = match eval.previous(from) {
            Some((previous, before)) => {
                let half_ratio = h / (from.log_snr() - previous.log_snr());
                // From a level without signal the previous interval is infinite and its slope worth nothing.
                denoised.clone() + (denoised.clone() - before).mul_scalar(half_ratio)
            }
            None => denoised.clone(),
        };
        eval.remember(from, to, denoised);
        Ok(x.mul_scalar(to.sigma / from.sigma) + extrapolated.mul_scalar(-to.alpha * (-h).exp_m1()))
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn starts_without_signal(&self) -> bool {
        true
    }
}
