//! DPM-Solver++ multistep: x_s = (σ_s/σ_t) x + α_s (1 − e^{−h}) D̃ in half-log-SNR λ = ln(α/σ), h = λ_s − λ_t. D̃
//! extrapolates the estimates of the last `order` levels; at order 2 (2M) D̃ = D + (D − D_previous)/(2r), r =
//! h_previous/h.
//!
//! Lu et al. 2022, "DPM-Solver++", algorithm 2. The first steps are of as high an order as there are estimates, the
//! step to σ = 0 (h = ∞) is of first order. One evaluation per step.
//!
//! Order 3 (3M) is the update of the published code: with the divided differences D¹ and D² of the last three estimates
//! in units of h, x_s = (σ_s/σ_t) x + α_s ((1 − e^{−h}) D + φ D¹ − (φ/h − ½) D²), φ = 1 − (1 − e^{−h})/h. The expansion
//! of the exact integral has twice that weight on D², so it converges with order 2, like 2M; its error is a few times
//! smaller.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{Kernel, Result, ensure};

/// Multistep DPM-Solver++. Default: 2M.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DpmSolverPp {
    /// How many estimates a step is made of, 1 to 3; default 2. Order 1 is deterministic DDIM.
    pub order: u32,
}

impl Default for DpmSolverPp {
    fn default() -> Self {
        Self { order: 2 }
    }
}

impl Sampler for DpmSolverPp {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() {
            return Ok(denoised);
        }
        let h = 0.5 * (to.log_snr() - from.log_snr());
        let whole = -(-h).exp_m1();
        let one = past.step(0).filter(|_| self.order > 1);
        let two = past.step(1).filter(|_| self.order > 2);
        // From a level without signal an interval is infinite, and the slope over it 0.
        let ratio = |late: &Kernel, early: &Kernel| 0.5 * (late.log_snr() - early.log_snr()) / h;
        let integral = match (one, two) {
            (Some((one, first)), Some((two, second))) => {
                let (near, far) = (ratio(from, one), ratio(one, two));
                let late = (denoised.clone() - first.clone()).div_scalar(near);
                let early = (first.clone() - second.clone()).div_scalar(far);
                let bend = (late.clone() - early).div_scalar(near + far);
                let slope = late + bend.clone().mul_scalar(near);
                let on_slope = 1.0 - whole / h;
                denoised.clone().mul_scalar(whole) + slope.mul_scalar(on_slope) - bend.mul_scalar(on_slope / h - 0.5)
            }
            (Some((one, first)), None) => {
                let slope = (denoised.clone() - first.clone()).mul_scalar(0.5 / ratio(from, one));
                (denoised.clone() + slope).mul_scalar(whole)
            }
            _ => denoised.clone().mul_scalar(whole),
        };
        past.remember(*from, denoised);
        Ok(x.mul_scalar(to.sigma / from.sigma) + integral.mul_scalar(to.alpha))
    }

    fn order(&self) -> Option<u32> {
        Some(self.order.min(2))
    }

    fn starts_without_signal(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=3).contains(&self.order), "sampler dpm_solver_pp: order = {} must be 1, 2 or 3", self.order);
        Ok(())
    }
}
