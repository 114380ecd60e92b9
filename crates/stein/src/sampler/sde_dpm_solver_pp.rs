//! SDE-DPM-Solver++: the reverse-time SDE by exponential integrators in half-log-SNR λ, with multistep estimates of the data.
//!
//! Lu et al. 2022, "DPM-Solver++", section 5 and appendix B: with h = λ_s − λ_t and H = (1 + η) h,
//! x_s = (σ_s/σ_t) e^{−ηh} x + α_s (1 − e^{−H}) D̃ + σ_s √(1 − e^{−2ηh}) z. With η = 1 it solves their SDE, with 0 the probability-flow ODE.
//! The estimate D̃ takes up the last ones: with the slope D¹ = (D − D_previous)/r, r = h_previous/h,
//!
//! | form | (1 − e^{−H}) D̃ |
//! |---|---|
//! | `midpoint`, 2M | (1 − e^{−H}) (D + ½ D¹) |
//! | `heun`, 2M | (1 − e^{−H}) D + φ D¹, φ = 1 − (1 − e^{−H})/H |
//! | order 3, 3M | (1 − e^{−H}) D + φ D¹ − (φ/H − ½) D², with the slope and the curvature D² of the last three |
//!
//! As k-diffusion's `dpmpp_2m_sde` and `dpmpp_3m_sde`. The first steps are of as high an order as there are estimates; the step to σ = 0
//! gives D. One evaluation per step. (On the third order see [`DpmSolverPp`](super::DpmSolverPp).)

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{
    Eval, Past, Sampler,
    dpm_solver_pp::{Form, slopes},
    eval::half_log_snr,
};
use crate::{Kernel, Result, ensure, numbers::ensure_within};

/// Multistep SDE-DPM-Solver++. Default: 2M by the midpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct SdeDpmSolverPp {
    /// How many estimates a step is made of, 1 to 3; default 2.
    pub order: u32,
    /// How the slope enters a step of two estimates, where order is 2; default `midpoint`. Order 3 begins with `heun`.
    pub form: Form,
    /// η, how much of the SDE's noise is added; from 0, none, to 1, the default.
    pub eta: f64,
    /// S_noise, the factor on the standard deviation of the added noise; from 0 to 1000, default 1.
    pub s_noise: f64,
}

impl Default for SdeDpmSolverPp {
    fn default() -> Self {
        Self { order: 2, form: Form::default(), eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for SdeDpmSolverPp {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() {
            return Ok(denoised);
        }
        let h = half_log_snr(to) - half_log_snr(from);
        let whole = (1.0 + self.eta) * h;
        let part = -(-whole).exp_m1();
        // As published, order 3 begins with the exact integral of a slope.
        let form = if self.order == 3 { Form::Heun } else { self.form };
        let mut integral = denoised.clone().mul_scalar(part);
        if let Some(slopes) = slopes(&denoised, from, h, past, self.order) {
            integral = integral + slopes.integral(whole, form, false);
        }
        past.remember(*from, denoised);
        let carried = x.mul_scalar(to.sigma / from.sigma * (-self.eta * h).exp()) + integral.mul_scalar(to.alpha);
        if self.eta == 0.0 {
            return Ok(carried);
        }
        let deviation = self.s_noise * to.sigma * (-(-2.0 * self.eta * h).exp_m1()).sqrt();
        Ok(eval.interval_noise(from, to, &carried)?.mul_scalar(deviation) + carried)
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.0).then_some(self.order.min(2))
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=3).contains(&self.order), "sampler sde_dpm_solver_pp: order = {} must be 1, 2 or 3", self.order);
        ensure_within("sampler sde_dpm_solver_pp: eta", self.eta, 0.0..=1.0)?;
        ensure_within("sampler sde_dpm_solver_pp: s_noise", self.s_noise, 0.0..=1e3)
    }
}
