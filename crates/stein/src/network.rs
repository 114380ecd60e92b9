//! What the heart asks of a network: one map from scaled noisy rows and a noise number to raw outputs.

use burn::tensor::Tensor;

use crate::{Condition, Result};

/// A raw network F(c_in x, c_noise, condition). It knows nothing of schedules, predictions or samplers; those are
/// wrapped around it by [`Preconditioned`](crate::Preconditioned).
pub trait Network {
    /// The raw output `[rows, dim]` for inputs `x` `[rows, dim]`, one noise number a row `noise` `[rows]`, and a condition.
    ///
    /// An image network is handed flattened rows in height, width, channel order and reshapes them itself.
    ///
    /// # Errors
    /// When the width of `x` or the condition is not one the network was built for.
    fn forward(&self, x: Tensor<2>, noise: Tensor<1>, given: &Condition) -> Result<Tensor<2>>;
}
