//! Latents that are rows of a codebook: what draws both together, and how many rows are in use (van den Oord et al.,
//! arXiv:1711.00937, equation 3).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::Tensor;

/// How encoder and codebook move to each other: ‖sg z − e‖² moves the rows e, β ‖z − sg e‖² commits the latents z to them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Commitment {
    /// β, at least 0; default 0.25.
    pub beta: f64,
    /// Whether β stands at the other term, as it does by mistake in the published code of latent diffusion; default false.
    pub legacy: bool,
}

impl Default for Commitment {
    fn default() -> Self {
        Self { beta: 0.25, legacy: false }
    }
}

impl Commitment {
    /// The mean over all numbers of latents `[rows, dim]` and the rows of the codebook chosen for them, which have the gradient of the
    /// codebook.
    pub fn loss(&self, latents: Tensor<2>, codes: Tensor<2>) -> Tensor<1> {
        let codebook = mean_square(latents.clone().detach(), codes.clone());
        let commitment = mean_square(latents, codes.detach());
        if self.legacy {
            codebook.mul_scalar(self.beta) + commitment
        } else {
            codebook + commitment.mul_scalar(self.beta)
        }
    }

    /// The same for a codebook that does not learn by gradients: β ‖z − sg e‖² alone.
    pub fn latents_only(&self, latents: Tensor<2>, codes: Tensor<2>) -> Tensor<1> {
        mean_square(latents, codes.detach()).mul_scalar(self.beta)
    }
}

fn mean_square(a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
    (a - b).square().mean()
}

/// How often each row of a codebook was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage(Vec<u64>);

impl Usage {
    /// Of no choices from a codebook of this many rows.
    pub fn new(codes: usize) -> Self {
        Self(vec![0; codes])
    }

    /// Takes in the rows that were chosen.
    ///
    /// # Panics
    /// If one is beyond the codebook.
    pub fn add(&mut self, chosen: &[usize]) {
        chosen.iter().for_each(|&code| self.0[code] += 1);
    }

    /// How many rows were chosen at all.
    pub fn used(&self) -> usize {
        self.0.iter().filter(|count| **count > 0).count()
    }

    /// e^H of the entropy H = −Σ p ln p of their shares p: 1 where one row is chosen always, as many as there are rows where all are
    /// chosen equally often.
    pub fn perplexity(&self) -> f64 {
        let all = self.0.iter().sum::<u64>() as f64;
        let shares = self.0.iter().filter(|count| **count > 0).map(|&count| count as f64 / all);
        (-shares.map(|p| p * p.ln()).sum::<f64>()).exp()
    }
}
