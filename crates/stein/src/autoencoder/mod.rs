//! What autoencoders for latent diffusion are trained by (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G; Esser et
//! al. 2021, arXiv:2012.09841, equations 4 to 7), as the published code has it. One file each.
//!
//! The autoencoder minimizes, over pictures x and what it makes of them, x̂,
//!
//! ```text
//! misfit(x, x̂) + weight · regularity + λ · factor · adversarial(x̂)
//! ```
//!
//! with a [misfit](PixelLoss) by numbers and perhaps by features, the [KL divergence](DiagonalGaussian::kl) of the latents' posterior or
//! the [commitment](Commitment) to a codebook as regularity, an [adversarial loss](AdversarialLoss) against a discriminator that learns in
//! turns, and the [balance](Balance) λ of its gradient and that of the misfit at the decoder's last layer.
//!
//! Pictures and latents are rows, `[rows, dim]`.

mod adversarial;
mod balance;
mod codebook;
mod posterior;
mod reconstruction;

pub use adversarial::AdversarialLoss;
pub use balance::{Balance, Term};
pub use codebook::{Commitment, Usage};
pub use posterior::{DiagonalGaussian, LOG_VARIANCE};
pub use reconstruction::{PixelLoss, negative_log_likelihood};

use crate::{Keys, Result, Tensor};

/// A map of states to smaller latents, and back.
pub trait Autoencoder: Send + Sync {
    /// Height, width and channels of a latent.
    fn latent_shape(&self) -> [usize; 3];

    /// The latents `[rows, latent]` of states `[rows, dim]`: with keys a sample of the posterior, one for each key, or its mode without.
    /// Latents that have no spread are the same either way.
    ///
    /// # Errors
    /// States of another width.
    fn encode(&self, x: Tensor<2>, keys: Option<&Keys>) -> Result<Tensor<2>>;

    /// The states `[rows, dim]` of latents `[rows, latent]`.
    ///
    /// # Errors
    /// Latents of another width.
    fn decode(&self, z: Tensor<2>) -> Result<Tensor<2>>;

    /// Which row of a codebook each place of the latents `[rows, latent]` is, row by row, and how many the codebook has; none without a
    /// codebook.
    ///
    /// # Errors
    /// Latents of another width.
    fn codes(&self, z: Tensor<2>) -> Result<Option<(Vec<usize>, usize)>>;
}
