//! How far a reconstruction is from what it should be.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::Tensor;

/// The misfit of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum PixelLoss {
    /// |x − x̂|.
    #[default]
    L1,
    /// (x − x̂)².
    L2,
}

impl PixelLoss {
    /// The misfit of every number of pictures and their reconstructions, `[rows, dim]` each.
    pub fn each(self, x: Tensor<2>, reconstruction: Tensor<2>) -> Tensor<2> {
        let difference = x - reconstruction;
        match self {
            Self::L1 => difference.abs(),
            Self::L2 => difference.square(),
        }
    }
}

/// −ln p(x given x̂) as latent diffusion has it: Σ (m e^(−s) + s) of the misfits m `[rows, dim]` of a row, the mean over rows.
///
/// s, one number `[1]`, is the logarithm of the scale of the misfits. Where it learns it becomes that of their mean, and the misfits
/// weigh more as they get smaller; at 0 this is the sum of the misfits.
pub fn negative_log_likelihood(misfit: Tensor<2>, log_scale: Tensor<1>) -> Tensor<1> {
    let [rows, dim] = misfit.dims();
    misfit.sum().mul_scalar(1.0 / rows as f64) * log_scale.clone().neg().exp() + log_scale.mul_scalar(dim as f64)
}
