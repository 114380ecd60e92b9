//! DPM-Solver++ (SDE): the reverse-time SDE by single steps of two evaluations, k-diffusion's `dpmpp_sde`.
//!
//! Lu et al. 2022, "DPM-Solver++", algorithm 1, on the SDE: with m at the part r of the interval in half-log-SNR, an ancestral step from
//! t to m gives u, and one from t to s with the estimate (1 − 1/(2r)) D + 1/(2r) D(u) gives x_s. Both add noise η: the
//! [ancestral](super::EulerAncestral) part of the posterior's, of one Brownian path, so that the noise of the first step is part of that
//! of the second. The step to σ = 0 gives D.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{
    Eval, Past, Sampler,
    ancestral_ode::down,
    eval::{half_log_snr, toward},
};
use crate::{
    Kernel, Result,
    numbers::{above, ensure_within},
};

/// DPM-Solver++ on the SDE, two evaluations per step. Default: the posterior's noise, the middle of the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DpmSolverPpSde {
    /// r, where in a step the second evaluation is, in half-log-SNR; positive and at most 1, default 0.5.
    pub r: f64,
    /// η, the part of the posterior's standard deviation that is drawn anew; from 0, none, to 1, the default.
    pub eta: f64,
    /// S_noise, the factor on the standard deviation of the added noise; from 0 to 1000, default 1.
    pub s_noise: f64,
}

impl Default for DpmSolverPpSde {
    fn default() -> Self {
        Self { r: 0.5, eta: 1.0, s_noise: 1.0 }
    }
}

impl Sampler for DpmSolverPpSde {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let denoised = eval.denoise(&x, from)?;
        if to.is_clean() {
            return Ok(denoised);
        }
        let (early, late) = (half_log_snr(from), half_log_snr(to));
        let between = eval.kernel_at_noise((-(early + self.r * (late - early))).exp());
        let noise = if self.eta > 0.0 { Some(eval.interval_noise_through(from, &between, to, &x)?) } else { None };
        let ancestral = |denoised: Tensor<2>, to: &Kernel, noise: Option<Tensor<2>>| {
            let down = down(from, to, self.eta);
            let x = toward(x.clone(), denoised, from, &down.level);
            match noise {
                Some(noise) => x + noise.mul_scalar(self.s_noise * down.added),
                None => x,
            }
        };
        let [first, second] = noise.map_or([None, None], |noise| noise.map(Some));
        let there = ancestral(denoised.clone(), &between, first);
        let part = 0.5 / self.r;
        let second_estimate = eval.denoise(&there, &between)?;
        Ok(ancestral(denoised.mul_scalar(1.0 - part) + second_estimate.mul_scalar(part), to, second))
    }

    fn order(&self) -> Option<u32> {
        (self.eta == 0.0).then_some(2)
    }

    fn check(&self) -> Result<()> {
        ensure_within("sampler dpm_solver_pp_sde: r", self.r, above(0.0, 1.0))?;
        ensure_within("sampler dpm_solver_pp_sde: eta", self.eta, 0.0..=1.0)?;
        ensure_within("sampler dpm_solver_pp_sde: s_noise", self.s_noise, 0.0..=1e3)
    }
}
