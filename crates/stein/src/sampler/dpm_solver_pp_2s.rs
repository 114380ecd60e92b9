//! DPM-Solver++(2S): a second-order step in the estimate of the data, on its own.
//!
//! Lu et al. 2022, "DPM-Solver++", algorithm 1, r = ½: with h = λ_s − λ_t in half-log-SNR, u = (σ_m/σ_t) x + α_m (1 − e^{−h/2}) D at
//! the middle m of the interval, and x_s = (σ_s/σ_t) x + α_s (1 − e^{−h}) D(u). Two evaluations per step; the step to σ = 0 (h = ∞) takes
//! one and is of first order.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{
    Eval, Past, Sampler,
    eval::{half_log_snr, toward},
};
use crate::{Kernel, Result};

/// DPM-Solver++ with single steps of two evaluations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct DpmSolverPp2s {}

impl DpmSolverPp2s {
    /// The step once D is known where it starts, to a level with noise.
    pub(super) fn onward(
        x: Tensor<2>,
        denoised: Tensor<2>,
        from: &Kernel,
        to: &Kernel,
        eval: &mut Eval,
    ) -> Result<Tensor<2>> {
        let middle = eval.kernel_at_noise((-0.5 * (half_log_snr(from) + half_log_snr(to))).exp());
        let there = toward(x.clone(), denoised, from, &middle);
        let denoised = eval.denoise(&there, &middle)?;
        Ok(toward(x, denoised, from, to))
    }
}

impl Sampler for DpmSolverPp2s {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() { Ok(denoised) } else { Self::onward(x, denoised, from, to, eval) }
    }

    fn order(&self) -> Option<u32> {
        Some(2)
    }
}
