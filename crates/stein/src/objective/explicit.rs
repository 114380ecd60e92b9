//! Explicit score matching (Hyvärinen 2005, eq. 2): σ² ‖s_θ(x_t) − ∇ log p_t(x_t)‖² / dim, for data whose score is known.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Examples, LevelDistribution, Objective, Perturbed};
use crate::{AnySchedule, Condition, Error, Kind, Network, Preconditioned, Result, denoiser};

/// The error of the score against the known one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Explicit {
    /// How levels are drawn; default EDM's log-normal.
    pub levels: LevelDistribution,
}

impl Objective for Explicit {
    fn check(&self, schedule: &AnySchedule) -> Result<()> {
        self.levels.check(&**schedule)
    }

    fn needs_truth(&self) -> bool {
        true
    }

    fn loss(&self, model: &Preconditioned<&dyn Network>, examples: &Examples) -> Result<Tensor<1>> {
        let Some(truth) = examples.truth else {
            return Err(Error::of(
                Kind::Unsupported,
                "the explicit objective needs the score of the data, which is not known: use implicit, sliced or denoising",
            ));
        };
        let noisy = Perturbed::of(examples, &self.levels, model)?;
        let none = Condition::none();
        let x = noisy.x.clone();
        // Of a conditioned model, the components of a mixture are its classes.
        let given = if examples.given.class.is_some() { examples.given } else { &none };
        let denoised = denoiser::denoise(truth, x.clone(), noisy.levels(), given)?;
        let wanted = denoiser::score(x.clone().into(), denoised.into(), noisy.levels()).value;
        let error = noisy.score(model, x.into())?.value - wanted;
        Ok(noisy.mean(error.square().sum_dim(1)))
    }
}
