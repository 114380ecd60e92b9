//! Models of likelihood: what says by itself how likely a sample is, with no levels of noise, and what maps samples to codes and back.
//!
//! Normalizing flows have both, exactly; autoregressive models have a density and no codes; a variational autoencoder has a bound and codes.

use crate::{Condition, Keys, Result, Tensor, likelihood::LogDensity};

/// A law whose density can be told.
pub trait Density: Send + Sync {
    /// ln p of states `[rows, dim]`, in nats, one a row. What estimates draw is keyed by row; `draws`, at least 1, is how many of it, which
    /// exact densities leave alone.
    ///
    /// # Errors
    /// States of another width, and a condition it does not know.
    fn log_density(&self, x: Tensor<2>, given: &Condition, keys: &Keys, draws: usize) -> Result<LogDensity>;

    /// What the numbers are.
    fn meaning(&self) -> Meaning;
}

/// What the numbers of a [`Density`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning {
    /// Whether their mean over the draws is a lower bound, instead of the density itself.
    pub bound: bool,
    /// Whether they are probabilities of gray levels, where states are such, instead of densities.
    pub of_levels: bool,
    /// How they are found.
    pub method: &'static str,
}

/// A map between samples and codes, which are standard normal where samples are those of the data.
pub trait LatentMap: Send + Sync {
    /// Numbers of a code.
    fn width(&self) -> usize;

    /// The codes `[rows, width]` of states `[rows, dim]`; the mean where there are several.
    ///
    /// # Errors
    /// States of another width, and a condition it does not know.
    fn encode(&self, x: Tensor<2>, given: &Condition) -> Result<Tensor<2>>;

    /// The states `[rows, dim]` of codes `[rows, width]`.
    ///
    /// # Errors
    /// Codes of another width, and a condition it does not know.
    fn decode(&self, z: Tensor<2>, given: &Condition) -> Result<Tensor<2>>;
}
