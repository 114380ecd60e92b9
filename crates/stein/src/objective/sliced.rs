//! Sliced score matching (Song et al. 2019, eq. 7 and 8): σ² (vᵀ (∂s/∂x) v + ½ (vᵀ s)²) / dim along random directions v with
//! E\[v vᵀ\] = I; in its variance-reduced form ½ ‖s‖² stands for ½ (vᵀ s)², its mean over v. In the mean it is the implicit objective,
//! at one Jacobian-vector product a direction.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Examples, LevelDistribution, Objective, Perturbed};
use crate::{
    AnySchedule, Network, Preconditioned, Projection, Result, denoiser::value_and_trace, numbers::ensure_within,
};

/// The implicit objective along random directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Sliced {
    /// How levels are drawn; default EDM's log-normal.
    pub levels: LevelDistribution,
    /// The law of the directions; default `rademacher`.
    pub projection: Projection,
    /// Directions for each example, from 1 to 4096; default 1.
    pub projections: usize,
    /// Whether ½ ‖s‖² stands for its projection, which takes away its variance; default true.
    pub variance_reduced: bool,
}

impl Default for Sliced {
    fn default() -> Self {
        Self {
            levels: LevelDistribution::default(),
            projection: Projection::Rademacher,
            projections: 1,
            variance_reduced: true,
        }
    }
}

impl Objective for Sliced {
    fn check(&self, schedule: &AnySchedule) -> Result<()> {
        self.levels.check(&**schedule)?;
        ensure_within("objective sliced: projections", self.projections, 1..=4096)
    }

    fn loss(&self, model: &Preconditioned<&dyn Network>, examples: &Examples) -> Result<Tensor<1>> {
        let noisy = Perturbed::of(examples, &self.levels, model)?;
        let directions: Vec<Tensor<2>> =
            (0..self.projections as u64).map(|number| self.projection.draw(examples.keys, number, &noisy.x)).collect();
        let (score, curvatures) = value_and_trace(&noisy.x, &directions, |x| noisy.score(model, x))?;
        let squares = if self.variance_reduced {
            score.square().sum_dim(1)
        } else {
            let along = |direction: Tensor<2>| (score.clone() * direction).sum_dim(1).square();
            Tensor::cat(directions.into_iter().map(along).collect(), 1).mean_dim(1)
        };
        Ok(noisy.mean(squares.mul_scalar(0.5) + curvatures.mean_dim(1)))
    }
}
