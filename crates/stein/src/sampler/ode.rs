//! The probability-flow ODE dx/dt = α̇ D + σ̇ ε̂ by explicit Runge–Kutta methods with fixed steps in t.
//!
//! Song et al. 2021, eq. 13. The methods are the classical ones: Euler, the midpoint rule, Heun's (trapezoidal) rule, and
//! Kutta's fourth-order method. They stop at the cleanest time of the grid and end with the denoised sample.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Eval, Sampler, eval::velocity};
use crate::{Kernel, Result};

/// A Runge–Kutta method each of whose stages looks only at the one before: its time fraction (also the weight of that
/// stage) and its weight in the step.
type Stages = &'static [(f64, f64)];

const EULER: Stages = &[(0.0, 1.0)];
const MIDPOINT: Stages = &[(0.0, 0.0), (0.5, 1.0)];
const HEUN: Stages = &[(0.0, 0.5), (1.0, 0.5)];
const RK4: Stages = &[(0.0, 1.0 / 6.0), (0.5, 1.0 / 3.0), (0.5, 1.0 / 3.0), (1.0, 1.0 / 6.0)];

fn step(stages: Stages, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
    let h = to.t - from.t;
    let mut moved = x.clone();
    let mut slope: Option<Tensor<2>> = None;
    for &(fraction, weight) in stages {
        let at = match fraction {
            0.0 => *from,
            1.0 => *to,
            _ => eval.kernel(from.t + fraction * h),
        };
        let here = match slope {
            Some(slope) => x.clone() + slope.mul_scalar(fraction * h),
            None => x.clone(),
        };
        let denoised = eval.denoise(&here, &at)?;
        let next = velocity(here, denoised, &[at]);
        if weight != 0.0 {
            moved = moved + next.clone().mul_scalar(weight * h);
        }
        slope = Some(next);
    }
    Ok(moved)
}

macro_rules! fixed_step {
    ($($(#[$doc:meta])* $name:ident, $stages:ident, $order:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {}

        impl Sampler for $name {
            fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval) -> Result<Tensor<2>> {
                step($stages, x, from, to, eval)
            }

            fn order(&self) -> Option<u32> {
                Some($order)
            }

            fn reaches_clean(&self) -> bool {
                false
            }

            fn starts_without_signal(&self) -> bool {
                // The velocity α̇ D + σ̇ ε̂ is finite at α = 0.
                true
            }
        }
    )+};
}

fixed_step! {
    /// Euler's method in t: order 1, one evaluation a step.
    OdeEuler, EULER, 1;
    /// The midpoint rule in t: order 2, two evaluations a step.
    OdeMidpoint, MIDPOINT, 2;
    /// Heun's rule in t: order 2, two evaluations a step.
    OdeHeun, HEUN, 2;
    /// Kutta's classical method in t: order 4, four evaluations a step.
    OdeRk4, RK4, 4;
}
