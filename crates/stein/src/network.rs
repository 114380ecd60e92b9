//! What the heart asks of a network: one map from scaled noisy rows and a noise number to raw outputs.

use burn::tensor::Tensor;

use crate::{Condition, Dual, Keys, Result};

/// What a network is told of a batch besides its values.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The noise number of each row, `[rows]`: what [`NoiseInput`](crate::NoiseInput) makes of its level.
    pub noise: Dual<1>,
    /// The noise number of a second level per row, `[rows]`, for flow maps from a level to a level; none elsewhere.
    pub second: Option<Dual<1>>,
    /// What the rows are conditioned on.
    pub given: &'a Condition,
    /// The keys of the values to drop in training; without them nothing is dropped.
    pub dropout: Option<&'a Keys>,
}

impl<'a> Context<'a> {
    /// Noise numbers `[rows]` and a condition, outside of training.
    pub fn new(noise: Tensor<1>, given: &'a Condition) -> Self {
        Self { noise: noise.into(), second: None, given, dropout: None }
    }
}

/// A raw network F(c_in x, c_noise, condition). It knows nothing of schedules, predictions or samplers; those are
/// wrapped around it by [`Preconditioned`](crate::Preconditioned).
pub trait Network: Send + Sync {
    /// The raw output for inputs `x` `[rows, dim]`: `[rows, dim]`, or `[rows, 2 · dim]` of a network that also learns variances,
    /// those of a row after its other values. What a classifier gives is what [`NetworkClassifier`](crate::NetworkClassifier) reads:
    /// logits, and after them features; a discriminator gives logits. The tangent of x, and those of the noise numbers, go along.
    ///
    /// An image network is handed flattened rows in height, width, channel order and reshapes them itself.
    ///
    /// # Errors
    /// When the width of `x` or the context is not one the network was built for.
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>>;
}

impl<N: Network + ?Sized> Network for &N {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        (**self).forward(x, context)
    }
}
