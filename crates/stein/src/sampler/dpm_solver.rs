//! DPM-Solver: the probability-flow ODE by exponential integrators of orders 1 to 3 in half-log-SNR λ = ln(α/σ), each step on its own.
//!
//! Lu et al. 2022, "DPM-Solver", algorithms 1 and 2 and appendix B: with h = λ_s − λ_t and estimates of noise ε at λ_t + r h, r = ½
//! for order 2 and ⅓, ⅔ for order 3,
//!
//! | order | x_s | evaluations |
//! |---|---|---|
//! | 1 | (α_s/α_t) x − σ_s (e^h − 1) ε, which is DDIM | 1 |
//! | 2 | the same with ε at the middle | 2 |
//! | 3 | order 1 − (σ_s/r₂) ((e^h − 1)/h − 1) (ε₂ − ε) | 3 |
//!
//! In x/α and σ/α order 2 is the midpoint rule at the geometric mean of the levels, k-diffusion's `dpm_2`. The step to σ = 0 (h = ∞) is
//! of order 1.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Churn, Eval, Past, Sampler, eval::transfer};
use crate::{Kernel, Result, ensure};

/// DPM-Solver with single steps. Default: order 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DpmSolver {
    /// Order of convergence and evaluations per step, 1 to 3; default 2.
    pub order: u32,
    /// Noise added before every step; default none.
    pub churn: Churn,
}

impl Default for DpmSolver {
    fn default() -> Self {
        Self { order: 2, churn: Churn::default() }
    }
}

impl Sampler for DpmSolver {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        let (x, from) = self.churn.raise(x, from, eval)?;
        let eps = eval.eps(&x, &from)?;
        let end = |eps: Tensor<2>| transfer(x.clone(), eps, &from, to);
        if self.order == 1 || to.is_clean() {
            return Ok(end(eps));
        }
        let (early, late) = (from.noise_to_signal().ln(), to.noise_to_signal().ln());
        let h = early - late;
        if self.order == 2 {
            let middle = eval.kernel_at_noise((0.5 * (early + late)).exp());
            let there = transfer(x.clone(), eps, &from, &middle);
            return Ok(end(eval.eps(&there, &middle)?));
        }
        const PLACES: [f64; 2] = [1.0 / 3.0, 2.0 / 3.0];
        let [one, two] = PLACES.map(|r| eval.kernel_at_noise((early - r * h).exp()));
        // (e^{rh} − 1)/(rh) − 1: what is left of the mean of e^{λ} over part of the step.
        let bend = |r: f64| (r * h).exp_m1() / (r * h) - 1.0;
        let at_one = transfer(x.clone(), eps.clone(), &from, &one);
        let change = eval.eps(&at_one, &one)? - eps.clone();
        let at_two = transfer(x.clone(), eps.clone(), &from, &two)
            - change.mul_scalar(two.sigma * PLACES[1] / PLACES[0] * bend(PLACES[1]));
        let change = eval.eps(&at_two, &two)? - eps.clone();
        Ok(end(eps) - change.mul_scalar(to.sigma / PLACES[1] * bend(1.0)))
    }

    fn order(&self) -> Option<u32> {
        self.churn.is_off().then_some(self.order)
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=3).contains(&self.order), "sampler dpm_solver: order = {} must be 1, 2 or 3", self.order);
        self.churn.check("dpm_solver")
    }
}
