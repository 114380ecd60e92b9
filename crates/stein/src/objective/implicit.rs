//! Implicit score matching (Hyvärinen 2005, theorem 1): σ² (½ ‖s‖² + tr ∂s/∂x) / dim at noisy rows. By parts it is half the explicit
//! objective less a constant, E σ² ‖∇ log p‖²/2, which the loss lacks: it is negative.
//!
//! The trace is exact: a Jacobian-vector product for every number of a row, made of differentiable operations.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Examples, LevelDistribution, Objective, Perturbed};
use crate::{AnySchedule, Network, Preconditioned, Result, denoiser::value_and_trace};

/// Half the square of the score and its divergence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Implicit {
    /// How levels are drawn; default EDM's log-normal.
    pub levels: LevelDistribution,
}

impl Objective for Implicit {
    fn check(&self, schedule: &AnySchedule) -> Result<()> {
        self.levels.check(&**schedule)
    }

    fn loss(&self, model: &Preconditioned<&dyn Network>, examples: &Examples) -> Result<Tensor<1>> {
        let noisy = Perturbed::of(examples, &self.levels, model)?;
        let (score, trace) = value_and_trace(&noisy.x, &[], |x| noisy.score(model, x))?;
        Ok(noisy.mean(score.square().sum_dim(1).mul_scalar(0.5) + trace))
    }
}
