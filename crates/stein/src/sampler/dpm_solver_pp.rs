//! DPM-Solver++ multistep: x_s = (σ_s/σ_t) x + α_s ∫ e^{−(h − τ)} D(τ) dτ over a step of length h = λ_s − λ_t in half-log-SNR λ = ln(α/σ),
//! where D(τ) goes through the estimates of the last `order` levels.
//!
//! Lu et al. 2022, "DPM-Solver++", algorithm 2. With the slope D¹ and the curvature D² of the last estimates in units of h and
//! φ = 1 − (1 − e^{−h})/h, the integral is
//!
//! | order | integral |
//! |---|---|
//! | 1 | (1 − e^{−h}) D, deterministic DDIM |
//! | 2, 2M, `midpoint` | (1 − e^{−h}) (D + ½ D¹), D¹ = (D − D_previous) h/h_previous |
//! | 2, 2M, `heun` | (1 − e^{−h}) D + φ D¹ |
//! | 3, 3M | (1 − e^{−h}) D + φ D¹ − (φ/h − ½) D² |
//!
//! Order 3 is the update of the published code. The integral of a parabola has twice that weight on D², so the published one converges
//! with order 2, like 2M; its error is a few times smaller. With `exact` the weight is that of the integral and the first step, which
//! has no estimate to look back at, evaluates twice ([2S](super::DpmSolverPp2s)): it then converges with order 3.
//!
//! The first steps are of as high an order as there are estimates, the step to σ = 0 (h = ∞) is of first order. One evaluation per step.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{
    DpmSolverPp2s, Eval, Past, Sampler,
    eval::{half_log_snr, toward},
};
use crate::{Kernel, Result, ensure};

/// How a slope enters a step of two estimates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// By its value in the middle of the step.
    #[default]
    Midpoint,
    /// By its exact integral.
    Heun,
}

/// Multistep DPM-Solver++. Default: 2M.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DpmSolverPp {
    /// How many estimates a step is made of, 1 to 3; default 2. Order 1 is deterministic DDIM.
    pub order: u32,
    /// How the slope enters a step of two estimates; default `midpoint`.
    pub form: Form,
    /// Whether order 3 has the weights of the exact integral, and converges with order 3; default false, the published code's.
    pub exact: bool,
}

impl Default for DpmSolverPp {
    fn default() -> Self {
        Self { order: 2, form: Form::default(), exact: false }
    }
}

impl DpmSolverPp {
    /// Whether it converges with order 3.
    fn is_third(&self) -> bool {
        self.order == 3 && self.exact
    }
}

impl Sampler for DpmSolverPp {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() {
            return Ok(denoised);
        }
        let h = half_log_snr(to) - half_log_snr(from);
        let slopes = slopes(&denoised, from, h, past, self.order);
        past.remember(*from, denoised.clone());
        match slopes {
            Some(slopes) => {
                let change = slopes.integral(h, self.form, self.exact);
                Ok(toward(x, denoised, from, to) + change.mul_scalar(to.alpha))
            }
            // Without signal h is infinite, and there is no middle to evaluate at.
            None if self.is_third() && from.alpha > 0.0 => DpmSolverPp2s::onward(x, denoised, from, to, eval),
            None => Ok(toward(x, denoised, from, to)),
        }
    }

    fn order(&self) -> Option<u32> {
        Some(if self.is_third() { 3 } else { self.order.min(2) })
    }

    fn starts_without_signal(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=3).contains(&self.order), "sampler dpm_solver_pp: order = {} must be 1, 2 or 3", self.order);
        Ok(())
    }
}

/// How the estimates of the last levels change, over a step of length h.
pub(super) struct Slopes {
    slope: Tensor<2>,
    /// D², where three estimates are known.
    curvature: Option<Tensor<2>>,
}

/// The slopes at an estimate and its level, of at most as many estimates as `order`; none without another one.
pub(super) fn slopes(denoised: &Tensor<2>, from: &Kernel, h: f64, past: &Past, order: u32) -> Option<Slopes> {
    // An interval that starts without signal is infinite: there is no slope over it.
    let known = |back: usize| past.step(back).filter(|(level, _)| level.alpha > 0.0);
    let ratio = |late: &Kernel, early: &Kernel| (half_log_snr(late) - half_log_snr(early)) / h;
    let (one, first) = known(0).filter(|_| order > 1)?;
    let near = ratio(from, one);
    let late = (denoised.clone() - first.clone()).div_scalar(near);
    let Some((two, second)) = known(1).filter(|_| order > 2) else {
        return Some(Slopes { slope: late, curvature: None });
    };
    let far = ratio(one, two);
    let early = (first.clone() - second.clone()).div_scalar(far);
    let curvature = (late.clone() - early).div_scalar(near + far);
    Some(Slopes { slope: late + curvature.clone().mul_scalar(near), curvature: Some(curvature) })
}

impl Slopes {
    /// What slope and curvature add to the integral of e^{−(length − τ)} D over a step of this length.
    pub(super) fn integral(self, length: f64, form: Form, exact: bool) -> Tensor<2> {
        let whole = -(-length).exp_m1();
        let on_slope = 1.0 - whole / length;
        match self.curvature {
            Some(curvature) => {
                let on_curvature = (on_slope / length - 0.5) * if exact { 2.0 } else { 1.0 };
                self.slope.mul_scalar(on_slope) - curvature.mul_scalar(on_curvature)
            }
            None if form == Form::Midpoint => self.slope.mul_scalar(0.5 * whole),
            None => self.slope.mul_scalar(on_slope),
        }
    }
}
