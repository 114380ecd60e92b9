//! Variational autoencoders (Kingma & Welling, arXiv:1312.6114): what a decoder says of a sample, and the bounds that are trained on.
//!
//! With z ~ q(z | x), in nats a sample:
//!
//! > ln p(x) ≥ E\[ln p(x | z)\] − β KL(q(z | x) ‖ p(z))   for β = 1, the evidence lower bound (eq. 3; β: Higgins et al. 2017),
//! > ln p(x) ≥ E\[ln 1/K Σ_k p(x, z_k) / q(z_k | x)\]   the importance-weighted bound (Burda et al., arXiv:1509.00519, eq. 8),
//!
//! the latter tighter with every z_k, and equal to ln p(x) in the limit.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Error, Keys, Purpose, Result, Tensor, ensure,
    noise::normal_like,
    objective::Pixels,
    pixel::{LogisticMixture, PixelDistribution, PixelLikelihood},
    rows,
};

/// The law p(x | z) of a sample, of what a decoder puts out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decoding {
    /// Normal, each number with a mean of its own.
    Gaussian {
        /// The standard deviation of all numbers, in the units of states; positive. Default none: each number has its own, which the decoder
        /// puts out as well, at least 1e-3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std: Option<f64>,
    },
    /// Each number is 1 with the probability whose logit the decoder puts out, and 0 otherwise. States must lie in \[0, 1\]; between 0 and 1
    /// the misfit is the cross-entropy, which is no likelihood.
    Bernoulli {},
    /// Gray levels, each channel by a mixture of logistic laws that is cut into their bins (Salimans et al. 2017); of one component the
    /// discretized logistic law of Kingma et al. 2016.
    LogisticMixture {
        /// Components of the mixture, from 1 to 1000; default 1.
        #[serde(default = "one")]
        components: usize,
        /// The gray levels, as the codecs make states of them.
        #[serde(default)]
        pixels: Pixels,
    },
}

fn one() -> usize {
    1
}

impl Default for Decoding {
    fn default() -> Self {
        Self::Gaussian { std: None }
    }
}

/// The least ln σ that a decoder may say.
const LEAST_LOG_STD: f64 = -6.907_755_278_982_137;

impl Decoding {
    /// Fails, saying which, if a setting is out of range.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Gaussian { std: Some(std) } => {
                ensure!(*std > 0.0 && std.is_finite(), "decoder.std is {std}: give a positive number, such as 0.1");
                Ok(())
            }
            Self::Gaussian { std: None } | Self::Bernoulli {} => Ok(()),
            Self::LogisticMixture { .. } => self.of_levels().map(drop),
        }
    }

    /// The distribution of a number that is a gray level; `None` for other laws.
    ///
    /// # Errors
    /// Settings out of range.
    fn of_levels(&self) -> Result<Option<PixelDistribution>> {
        let Self::LogisticMixture { components, pixels } = *self else { return Ok(None) };
        PixelDistribution::new(PixelLikelihood::LogisticMixture { components }, 1, pixels).map(Some)
    }

    /// How many numbers a decoder puts out for a sample of `dim` numbers.
    pub fn outputs(&self, dim: usize) -> usize {
        match self {
            Self::Gaussian { std: None } => 2 * dim,
            Self::Gaussian { .. } | Self::Bernoulli {} => dim,
            Self::LogisticMixture { components, .. } => dim * components * LogisticMixture::numbers_per_component(1),
        }
    }

    /// Fails unless states `[rows, dim]` are such as this law has.
    ///
    /// # Errors
    /// Those that are out of range, with what to do about it.
    pub fn check_states(&self, x: &Tensor<2>) -> Result<()> {
        if let Self::LogisticMixture { pixels, .. } = self {
            return pixels.check_states(x);
        }
        if let Self::Bernoulli {} = self {
            let outside = rows::host(x).into_iter().find(|x| !(0.0..=1.0).contains(x));
            if let Some(outside) = outside {
                return Err(Error::new(format!(
                    "a decoder of kind bernoulli has states in [0, 1], and one of these is {outside}: leave out data.codec for pictures, or \
                     take the kind gaussian"
                )));
            }
        }
        Ok(())
    }

    /// Means, and logarithms of the standard deviations, of a normal law.
    fn normal(std: Option<f64>, outputs: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match std {
            Some(std) => {
                let log = outputs.zeros_like().add_scalar(std.ln());
                (outputs, log)
            }
            None => {
                let dim = outputs.dims()[1] / 2;
                (outputs.clone().narrow(1, 0, dim), outputs.narrow(1, dim, dim).clamp_min(LEAST_LOG_STD))
            }
        }
    }

    /// ln p(x | z) of states `[rows, dim]` by outputs of the decoder `[rows, outputs]`: `[rows, 1]`.
    ///
    /// # Errors
    /// Settings out of range, and widths that do not fit.
    pub fn log_density(&self, x: &Tensor<2>, outputs: Tensor<2>) -> Result<Tensor<2>> {
        if let Some(levels) = self.of_levels()? {
            return Ok(levels.log_probability(x.clone(), outputs)?.sum_dim(1));
        }
        Ok(match *self {
            Self::Gaussian { std } => {
                let (mean, log_std) = Self::normal(std, outputs);
                log_normal(x.clone(), mean, log_std)
            }
            // x l − ln(1 + e^l), whose exponential cannot overflow.
            _ => (x.clone() * outputs.clone() - softplus(outputs)).sum_dim(1),
        })
    }

    /// E\[x | z\], `[rows, dim]`.
    pub fn mean(&self, outputs: Tensor<2>) -> Tensor<2> {
        match *self {
            Self::Gaussian { std } => Self::normal(std, outputs).0,
            Self::Bernoulli {} => burn::tensor::activation::sigmoid(outputs),
            // Of the mixture before it is cut into bins, whose ends keep what lies beyond.
            Self::LogisticMixture { pixels, .. } => {
                let dim = outputs.dims()[1] / self.outputs(1);
                let each = LogisticMixture::of(outputs.reshape([-1, self.outputs(1) as i32]), 1).mean();
                each.clamp(pixels.low, pixels.high).reshape([-1, dim as i32])
            }
        }
    }

    /// A sample of p(x | z) for each key, `[rows, dim]`.
    ///
    /// # Errors
    /// Settings out of range, and widths that do not fit.
    pub fn sample(&self, outputs: Tensor<2>, keys: &Keys) -> Result<Tensor<2>> {
        if let Some(levels) = self.of_levels()? {
            return levels.sample(outputs, keys, 0);
        }
        Ok(match *self {
            Self::Gaussian { std } => {
                let (mean, log_std) = Self::normal(std, outputs);
                let noise = normal_like(keys, Purpose::Perturbation, 0, &mean);
                mean + log_std.exp() * noise
            }
            _ => {
                let dim = outputs.dims()[1];
                let drawn = rows::matrix(keys.uniforms(Purpose::Perturbation, 0, dim), dim, &outputs);
                drawn.lower(self.mean(outputs)).float()
            }
        })
    }
}

/// ln(1 + eˣ), without overflow.
fn softplus(x: Tensor<2>) -> Tensor<2> {
    x.clone().clamp_min(0.0) + x.abs().neg().exp().log1p()
}

/// ln N(x; μ, σ²) of rows, the sum over their numbers, of means and ln σ: `[rows, 1]`.
pub fn log_normal(x: Tensor<2>, mean: Tensor<2>, log_std: Tensor<2>) -> Tensor<2> {
    let half_log_tau = 0.5 * std::f64::consts::TAU.ln();
    let unit = (x - mean) * log_std.clone().neg().exp();
    (unit.square().mul_scalar(-0.5) - log_std).sub_scalar(half_log_tau).sum_dim(1)
}

/// The importance-weighted bound of ln p(x, z_k) − ln q(z_k | x), `[rows, K]`: `[rows, 1]`.
pub fn importance_bound(log_weights: Tensor<2>) -> Tensor<2> {
    let count = log_weights.dims()[1] as f64;
    let most = log_weights.clone().detach().max_dim(1);
    (log_weights - most.clone()).exp().sum_dim(1).log() + most.sub_scalar(count.ln())
}
