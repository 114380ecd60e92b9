//! How strong the adversarial term is, so that its gradient is as large as that of the misfit (Esser et al. 2021, equation 7).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Result, Tensor, gradient,
    numbers::{above, ensure_within},
};

/// What is added to the norm of the adversarial gradient.
const EPSILON: f64 = 1e-4;
/// The largest λ.
const MOST: f64 = 1e4;

/// λ = weight · min(‖∇ misfit‖ / (‖∇ adversarial‖ + 1e-4), 10⁴), the gradients being those by the weights of the decoder's last layer,
/// times a factor from some step on, and 0 before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// The norm of the adversarial gradient, in that of the misfit; at least 0, default 0.5.
    pub weight: f64,
    /// A factor on this, and on the discriminator's own loss; above 0, default 1.
    pub factor: f64,
    /// The step, counted from 0, with which discriminator and adversarial term begin; default 0.
    pub start: u64,
}

impl Default for Balance {
    fn default() -> Self {
        Self { weight: 0.5, factor: 1.0, start: 0 }
    }
}

impl Balance {
    /// Fails unless the numbers are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        ensure_within("weight", self.weight, 0.0..=1e6)?;
        ensure_within("factor", self.factor, above(0.0, 1e6))
    }

    /// The factor at a step, 0 before the start.
    pub fn factor_at(&self, step: u64) -> f64 {
        if step < self.start { 0.0 } else { self.factor }
    }

    /// λ without the factor, of the norms of the gradients of the misfit and of the adversarial term.
    pub fn weight(&self, misfit: f64, adversarial: f64) -> f64 {
        (misfit / (adversarial + EPSILON)).min(MOST) * self.weight
    }
}

/// A function of the reconstruction, and its gradient: found on a tape of its own, so that the way through a discriminator or a network of
/// features is gone once, whatever is made of the gradient then.
#[derive(Debug, Clone)]
pub struct Term {
    /// The value, `[1]`, a constant.
    pub value: Tensor<1>,
    /// The gradient by the reconstruction `[rows, dim]`, a constant.
    pub slope: Tensor<2>,
}

impl Term {
    /// Of a function at a reconstruction, which is on a tape.
    ///
    /// # Errors
    /// Those of the function, and one that does not depend on the reconstruction.
    pub fn of(reconstruction: &Tensor<2>, f: impl FnOnce(Tensor<2>) -> Result<Tensor<1>>) -> Result<Self> {
        let (value, slope) = gradient(reconstruction.clone(), |x| {
            let number = f(x)?;
            Ok((number.clone().reshape([1, 1]), number))
        })?;
        Ok(Self { value: value.reshape([1]), slope })
    }

    /// The term with λ times another one.
    #[must_use]
    pub fn plus(self, weight: f64, other: Self) -> Self {
        Self { value: self.value + other.value * weight, slope: self.slope + other.slope * weight }
    }

    /// A number `[1]` on the tape of the reconstruction with this value and this gradient.
    pub fn on(self, reconstruction: Tensor<2>) -> Tensor<1> {
        let [value, slope] = [self.value.reshape([1, 1]), self.slope].map(Tensor::autodiff);
        let product = (reconstruction * slope).sum();
        value.reshape([1]) + (product.clone() - product.detach())
    }
}
