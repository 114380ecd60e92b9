//! The probability-flow ODE dx/dt = α̇ D + σ̇ ε̂ by explicit Runge–Kutta methods with fixed steps in t.
//!
//! Song et al. 2021, eq. 13. The methods are the classical ones of [`ode`](crate::ode): Euler, the midpoint rule, Heun's
//! (trapezoidal) rule, and Kutta's fourth-order method. They stop at the cleanest time of the grid and end with the denoised
//! sample.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Eval, Past, Sampler};
use crate::{
    Kernel, Result, Solver,
    ode::{EULER, HEUN, MIDPOINT, RK4, Steps},
};

macro_rules! fixed_step {
    ($($(#[$doc:meta])* $name:ident, $method:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
        #[serde(deny_unknown_fields)]
        pub struct $name {}

        impl Sampler for $name {
            fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
                eval.flow(x, from.t, to.t, &$method, Steps::Fixed(1))
            }

            fn order(&self) -> Option<u32> {
                Some($method.order)
            }

            fn solver(&self) -> Option<Solver> {
                Some(Solver { method: &$method, steps: Steps::Fixed(1) })
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
    /// Euler's method in t: order 1, one evaluation per step.
    OdeEuler, EULER;
    /// The midpoint rule in t: order 2, two evaluations per step.
    OdeMidpoint, MIDPOINT;
    /// Heun's rule in t: order 2, two evaluations per step.
    OdeHeun, HEUN;
    /// Kutta's classical method in t: order 4, four evaluations per step.
    OdeRk4, RK4;
}
