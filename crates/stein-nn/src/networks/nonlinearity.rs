//! The activation of the networks whose authors left it open: NCSN, NCSNv2, DDPM and NCSN++.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::ops::Activation;

/// An activation by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// x for positive x, otherwise eˣ − 1 (Clevert et al., arXiv:1511.07289).
    Elu,
    /// x for positive x, otherwise 0.
    Relu,
    /// x for positive x, otherwise x/5.
    LeakyRelu,
    /// x · sigmoid(x) (Elfwing et al., arXiv:1702.03118).
    Silu,
}

impl From<Nonlinearity> for Activation {
    fn from(name: Nonlinearity) -> Self {
        match name {
            Nonlinearity::Elu => Self::Elu,
            Nonlinearity::Relu => Self::Relu,
            Nonlinearity::LeakyRelu => Self::LeakyRelu,
            Nonlinearity::Silu => Self::Silu,
        }
    }
}
