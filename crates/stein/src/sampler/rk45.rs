//! The probability-flow ODE in t by the adaptive method of Dormand & Prince 1980 (order 5 with an embedded order 4).
//!
//! Song et al. 2021, appendix D.4, use the same method with both tolerances 0.00001. Every sample has its own time and step
//! size: see [`ode::integrate`](crate::ode::integrate). With infinite tolerances it takes one step per interval of the grid.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{
    Kernel, Result, Solver,
    grid::MOST_STEPS,
    numbers::{above, ensure_within},
    ode::{DORMAND_PRINCE, Steps},
};

/// Adaptive Dormand–Prince.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Rk45 {
    /// Relative tolerance of a step; positive, infinite for steps of any error, default 0.00001.
    pub rtol: f64,
    /// Absolute tolerance of a step, in the units of x; positive, infinite for steps of any error, default 0.00001.
    pub atol: f64,
    /// Most attempted steps of a sample in one interval of the grid before the run gives up; from 1 to 1,000,000, default 10,000.
    pub max_steps: usize,
}

impl Default for Rk45 {
    fn default() -> Self {
        Self { rtol: 1e-5, atol: 1e-5, max_steps: 10_000 }
    }
}

impl Rk45 {
    fn steps(&self) -> Steps {
        if self.rtol.is_finite() {
            Steps::Adaptive { rtol: self.rtol, atol: self.atol, most: self.max_steps }
        } else {
            Steps::Fixed(1)
        }
    }
}

impl Sampler for Rk45 {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
        eval.flow(x, from.t, to.t, &DORMAND_PRINCE, self.steps())
    }

    fn solver(&self) -> Option<Solver> {
        Some(Solver { method: &DORMAND_PRINCE, steps: self.steps() })
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
        ensure_within("sampler rk45: rtol", self.rtol, above(0.0, f64::INFINITY))?;
        ensure_within("sampler rk45: atol", self.atol, above(0.0, f64::INFINITY))?;
        ensure_within("sampler rk45: max_steps", self.max_steps, 1..=MOST_STEPS)
    }
}
