//! Generative adversarial networks (Goodfellow et al., arXiv:1406.2661): the losses of the two players, and penalties on the slope of the
//! discriminator D, which gives one logit a sample, high for what looks real.
//!
//! A penalty is a function of v = ∇ₓ D(x; w), and its gradient by the weights w is a second derivative of D. It is found exactly, without a
//! tape of a tape: v by a pass back with w constant, and then, with v constant, the Jacobian-vector product s(w) = v · ∇ₓ D(x; w) by one
//! pass forward whose tangent is on the tape of w. As ∂|v|²/∂w = 2 v · ∂(∇ₓ D)/∂w,
//!
//! > R1 = γ/2 |v|²:  ∂R1/∂w = γ ∂s/∂w  (Mescheder et al., arXiv:1801.04406, eq. 9),
//! > GP = λ (|v| − 1)²:  ∂GP/∂w = 2 λ (|v| − 1)/|v| ∂s/∂w  (Gulrajani et al., arXiv:1704.00028, eq. 3).

use burn::tensor::activation::{log_sigmoid, relu};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Dual, Factors, Keys, Purpose, Result, Tensor, gradient,
    numbers::{above, ensure_within},
    rows,
};

/// What the two players minimize, of logits D(x) of samples and D(x̂) of what is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Game {
    /// The discriminator mean ln(1 + e^(−D(x))) + mean ln(1 + e^(D(x̂))), the generator mean ln(1 + e^(−D(x̂))) (Goodfellow et al. 2014).
    #[default]
    NonSaturating,
    /// The discriminator mean max(0, 1 − D(x)) + mean max(0, 1 + D(x̂)), the generator −mean D(x̂) (Lim & Ye, arXiv:1705.02894).
    Hinge,
    /// The discriminator mean D(x̂) − mean D(x), the generator −mean D(x̂) (Arjovsky et al., arXiv:1701.07875); it needs a penalty.
    Wasserstein,
}

impl Game {
    /// The discriminator's loss of the logits of samples and of what is generated, of any number each.
    pub fn discriminator(self, real: Tensor<2>, fake: Tensor<2>) -> Tensor<1> {
        let [real, fake] = match self {
            Self::NonSaturating => [log_sigmoid(real).neg(), log_sigmoid(fake.neg()).neg()],
            Self::Hinge => [relu(real.neg().add_scalar(1.0)), relu(fake.add_scalar(1.0))],
            Self::Wasserstein => [real.neg(), fake],
        };
        real.mean() + fake.mean()
    }

    /// The generator's loss of the logits of what it makes.
    pub fn generator(self, fake: Tensor<2>) -> Tensor<1> {
        match self {
            Self::NonSaturating => log_sigmoid(fake).mean().neg(),
            Self::Hinge | Self::Wasserstein => fake.mean().neg(),
        }
    }
}

/// A penalty on the slope of the discriminator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Penalty {
    /// None.
    None {},
    /// R1: γ/2 · mean |∇D|² at samples of the data, at every k-th step with k times the weight (lazy regularization, Karras et al.,
    /// arXiv:1912.04958, appendix B).
    R1 {
        /// γ, above 0; default 10.
        #[serde(default = "ten")]
        gamma: f64,
        /// k, at least 1; default 1.
        #[serde(default = "one")]
        every: u64,
    },
    /// λ · mean (|∇D| − 1)² at points drawn uniformly between a sample and one that is generated.
    Gradient {
        /// λ, above 0; default 10.
        #[serde(default = "ten")]
        lambda: f64,
    },
}

/// R1 with γ = 10 at every step.
impl Default for Penalty {
    fn default() -> Self {
        Self::R1 { gamma: ten(), every: one() }
    }
}

fn ten() -> f64 {
    10.0
}

fn one() -> u64 {
    1
}

impl Penalty {
    /// Fails unless the numbers are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::None {} => Ok(()),
            Self::R1 { gamma, every } => {
                ensure_within("penalty.gamma", gamma, above(0.0, 1e9))?;
                ensure_within("penalty.every", every, 1..)
            }
            Self::Gradient { lambda } => ensure_within("penalty.lambda", lambda, above(0.0, 1e9)),
        }
    }

    /// What the penalty weighs at a step of the discriminator, counted from 0: 0 where it rests.
    pub fn weight_at(&self, step: u64) -> f64 {
        match *self {
            Self::R1 { every, .. } if step.is_multiple_of(every) => every as f64,
            Self::R1 { .. } | Self::None {} => 0.0,
            Self::Gradient { .. } => 1.0,
        }
    }

    /// Where the slope is taken, `[rows, dim]`: of samples and what is generated, `[rows, dim]` each, whose keys say where between them.
    pub fn points(&self, real: Tensor<2>, fake: Tensor<2>, keys: &Keys) -> Tensor<2> {
        match self {
            Self::R1 { .. } | Self::None {} => real,
            Self::Gradient { .. } => between(real, fake, keys.uniform(Purpose::Probe, 0)),
        }
    }

    /// The penalty at points `[rows, dim]`, with its gradient by the weights of `learning`. `constant` is the same discriminator with
    /// constant weights.
    ///
    /// # Errors
    /// Those of the discriminator, which must carry tangents.
    pub fn at(
        &self,
        points: Tensor<2>,
        constant: impl FnOnce(Dual<2>) -> Result<Dual<2>>,
        learning: impl FnOnce(Dual<2>) -> Result<Dual<2>>,
    ) -> Result<Tensor<1>> {
        let v = slope(points.clone(), constant)?;
        let squares = rows::host(&v.clone().square().sum_dim(1));
        let along = learning(Dual::new(points.detach(), v))?.tangent_or_zero();
        let each = squares.into_iter().map(|square| self.value_and_factor(square));
        let (values, factors): (Vec<f64>, Vec<f64>) = each.unzip();
        let change = rows::scale(along.clone() - along.clone().detach(), &Factors::Each(factors));
        Ok((rows::column(&values, &along) + change).mean())
    }

    /// The penalty of |v|², and what ∂s/∂w counts in its gradient. Where the slope is 0 that of |v| does not exist, and 0 is taken.
    fn value_and_factor(&self, square: f64) -> (f64, f64) {
        match *self {
            Self::None {} => (0.0, 0.0),
            Self::R1 { gamma, .. } => (0.5 * gamma * square, gamma),
            Self::Gradient { lambda } => {
                let norm = square.sqrt();
                let factor = if norm > 0.0 { 2.0 * lambda * (norm - 1.0) / norm } else { 0.0 };
                (lambda * (norm - 1.0).powi(2), factor)
            }
        }
    }
}

/// The points α x + (1 − α) x̂ of rows `[rows, dim]` each and of an α for each row.
pub fn between(real: Tensor<2>, fake: Tensor<2>, alpha: Vec<f64>) -> Tensor<2> {
    let rest = Factors::Each(alpha.iter().map(|alpha| 1.0 - alpha).collect());
    rows::scale(real, &Factors::Each(alpha)) + rows::scale(fake, &rest)
}

/// ∇ₓ D `[rows, dim]` of every row at points `[rows, dim]`, a constant.
///
/// # Errors
/// Those of the discriminator.
pub fn slope(points: Tensor<2>, discriminator: impl FnOnce(Dual<2>) -> Result<Dual<2>>) -> Result<Tensor<2>> {
    let (_, slope) = gradient(points, |x| {
        let logits = discriminator(x.into())?.value;
        Ok((logits.clone(), logits.sum()))
    })?;
    Ok(slope)
}
