//! Ancestral samplers of k-diffusion: a deterministic step to a level below the next one, and noise up to it.
//!
//! In x̄ = x/α and σ̄ = σ/α the posterior q(x̄_s given x̄_t, x_0) has variance σ_up² = σ̄_s² (σ̄_t² − σ̄_s²)/σ̄_t². A step to σ_down = √(σ̄_s² − η²
//! σ_up²) by an ODE sampler, and η σ_up z on top, keep the law at level s whatever η. With Euler's step this is [DDIM](super::Ddim) with
//! noise η (Song, Meng & Ermon 2021, eq. 12); with η = 0 it is the ODE sampler.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Ddim, DpmSolver, DpmSolverPp2s, Eval, Past, Sampler};
use crate::{Kernel, Result, numbers::ensure_within};

macro_rules! ancestral {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $ode:ty;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// η, the part of the posterior's standard deviation that is drawn anew; from 0, none, to 1, the default.
            pub eta: f64,
            /// S_noise, the factor on the standard deviation of the added noise; from 0 to 1000, default 1.
            pub s_noise: f64,
        }

        impl Default for $name {
            fn default() -> Self {
                Self { eta: 1.0, s_noise: 1.0 }
            }
        }

        impl Sampler for $name {
            fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
                let down = down(from, to, self.eta);
                let x = <$ode>::default().step(x, from, &down.level, eval, past)?;
                if down.added == 0.0 {
                    return Ok(x);
                }
                let noise = eval.interval_noise(from, to, &x)?;
                Ok(x + noise.mul_scalar(self.s_noise * down.added))
            }

            fn order(&self) -> Option<u32> {
                (self.eta == 0.0).then(|| <$ode>::default().order()).flatten()
            }

            fn check(&self) -> Result<()> {
                ensure_within(concat!("sampler ", $kind, ": eta"), self.eta, 0.0..=1.0)?;
                ensure_within(concat!("sampler ", $kind, ": s_noise"), self.s_noise, 0.0..=1e3)
            }
        }
    )+};
}

ancestral! {
    /// Ancestral sampling by Euler's step. Default: the posterior's noise.
    EulerAncestral, "euler_ancestral", Ddim;
    /// Ancestral sampling by the step of [`DpmSolver`] of order 2. Default: the posterior's noise.
    Dpm2Ancestral, "dpm_2_ancestral", DpmSolver;
    /// Ancestral sampling by the step of [`DpmSolverPp2s`]. Default: the posterior's noise.
    DpmSolverPp2sAncestral, "dpm_solver_pp_2s_ancestral", DpmSolverPp2s;
}

/// Where the deterministic step of an ancestral one goes.
pub(super) struct Down {
    /// The signal of the next level with the noise of σ_down.
    pub(super) level: Kernel,
    /// η σ_up α: the standard deviation that is missing there.
    pub(super) added: f64,
}

/// The way from one level to another with this part of the posterior's noise.
pub(super) fn down(from: &Kernel, to: &Kernel, eta: f64) -> Down {
    let variance = eta * eta * from.posterior_variance(to);
    Down { level: Kernel { sigma: (to.sigma * to.sigma - variance).sqrt(), ..*to }, added: variance.sqrt() }
}
