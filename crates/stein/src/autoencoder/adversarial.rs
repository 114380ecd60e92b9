//! The game of a decoder and a discriminator that gives logits, high for pictures that look real (Goodfellow et al. 2014).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{Tensor, adversarial::Game};

/// What the discriminator minimizes; the decoder minimizes −mean D(x̂) in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum AdversarialLoss {
    /// ½ (mean max(0, 1 − D(x)) + mean max(0, 1 + D(x̂))) (Lim & Ye, arXiv:1705.02894).
    #[default]
    Hinge,
    /// ½ (mean ln(1 + e^(−D(x))) + mean ln(1 + e^(D(x̂)))), the cross-entropy.
    Vanilla,
}

impl AdversarialLoss {
    /// The discriminator's loss of the logits of pictures and of reconstructions, of any number each.
    pub fn discriminator(self, real: Tensor<2>, fake: Tensor<2>) -> Tensor<1> {
        let game = match self {
            Self::Hinge => Game::Hinge,
            Self::Vanilla => Game::NonSaturating,
        };
        game.discriminator(real, fake).mul_scalar(0.5)
    }

    /// The decoder's loss of the logits of reconstructions.
    pub fn generator(self, fake: Tensor<2>) -> Tensor<1> {
        fake.mean().neg()
    }
}
