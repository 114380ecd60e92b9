//! The variational bound of a discrete chain (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021), in nats a number of a sample:
//!
//! > −ln P(x_0) ≤ KL(q(x_T given x_0) ‖ N(0, s²)) + Σ_t KL(q(x_{t−1} given x_t, x_0) ‖ N(μ_θ, Σ_θ)) + L_0 ,
//!
//! where L_0 is −ln of the probability that N(D, Σ_θ) gives to the gray level of x_0, the ends taking their tails (Ho et al. 2020, eq.
//! 13). μ_θ is the posterior's mean at x̂_0 = D. Σ_θ is the posterior's variance β̃, the forward transition's β, or between the two,
//! ln Σ = v ln β + (1 − v) ln β̃, where the network says. β̃ of the cleanest level, which is 0, is that of the next one.
//!
//! The chain is any levels, from the cleanest on: β and β̃ are those between neighbors, so a bound on fewer levels is another bound.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Examples, LevelDistribution, Objective, Perturbed};
use crate::{
    AnySchedule, Condition, Denoiser, Error, Estimate, Factors, Kernel, Keys, Kind, Levels, Network, Preconditioned,
    Purpose, Result, Variance, denoiser, ensure,
    likelihood::LogDensity,
    noise,
    numbers::{above, ensure_within},
    rows,
};

/// The values that gray levels have as states.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Pixels {
    /// How many levels there are, from 2 to 65,536; default 256.
    pub levels: u32,
    /// The value of the lowest; default −1.
    pub low: f64,
    /// The value of the highest; above `low`, default 1.
    pub high: f64,
}

impl Default for Pixels {
    fn default() -> Self {
        Self { levels: 256, low: -1.0, high: 1.0 }
    }
}

impl Pixels {
    /// Fails, saying which, if a setting is out of range.
    pub fn check(&self) -> Result<()> {
        let Self { levels, low, high } = *self;
        ensure_within("pixels: levels", levels, 2..=1 << 16)?;
        ensure!(
            low.is_finite() && high.is_finite() && low < high,
            "pixels: low = {low} must be below high = {high}, both finite"
        );
        Ok(())
    }

    /// Half the distance of two levels next to each other: (high − low)/(2 (levels − 1)).
    pub fn half_bin(&self) -> f64 {
        (self.high - self.low) / f64::from(self.levels - 1) / 2.0
    }
}

/// How the terms of the bound are found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct VariationalBound {
    /// Variance of the reverse steps; default `learned`.
    pub variance: Variance,
    /// The gray levels.
    pub pixels: Pixels,
    /// Whether the normal distribution function is the approximation of the published code, ½ (1 + tanh(√(2/π) (x + 0.044715 x³))), which
    /// is off by up to 0.0003; default false.
    pub published: bool,
}

impl Default for VariationalBound {
    fn default() -> Self {
        Self { variance: Variance::Learned, pixels: Pixels::default(), published: false }
    }
}

impl VariationalBound {
    /// Fails, saying which, if a setting is out of range.
    pub fn check(&self) -> Result<()> {
        self.pixels.check()
    }

    /// The term of each row, `[rows, 1]`, in nats a number: of clean rows `x0` and noisy `x` `[rows, dim]`, each at the level of the chain that
    /// `index` says, where `estimate` is what the model says of them. `chain` has at least two levels, the cleanest first.
    ///
    /// # Errors
    /// A chain or an index that is none; learned variances that are not there.
    pub fn term(
        &self,
        chain: &[Kernel],
        index: &[usize],
        x0: &Tensor<2>,
        x: &Tensor<2>,
        estimate: &Estimate,
    ) -> Result<Tensor<2>> {
        ensure!(
            chain.len() >= 2 && index.len() == x0.dims()[0] && index.iter().all(|&i| i < chain.len()),
            "{} places in a chain of {} levels do not fit {} rows",
            index.len(),
            chain.len(),
            x0.dims()[0]
        );
        debug_assert_eq!(x.dims(), x0.dims());
        let cleaner = |i: usize| if i == 0 { Kernel::CLEAN } else { chain[i - 1] };
        // β, and β̃ with that of the cleanest level replaced.
        let forward = |i: usize| chain[i].transition_from(&cleaner(i)).1;
        let posterior = |i: usize| chain[i.max(1)].posterior_variance(&chain[i.max(1) - 1]);
        let each = |f: &dyn Fn(usize) -> f64| Factors::Each(index.iter().map(|&i| f(i)).collect());
        let column = |f: &dyn Fn(usize) -> f64| rows::column(&index.iter().map(|&i| f(i)).collect::<Vec<_>>(), x0);
        let denoised = estimate.mean.value.clone();
        let log_variance = match (self.variance, &estimate.variance) {
            (Variance::Posterior, _) => column(&|i| posterior(i).ln()).expand(x0.dims()),
            (Variance::Forward, _) => {
                column(&|i| if i == 0 { posterior(0) } else { forward(i) }.ln()).expand(x0.dims())
            }
            (Variance::Learned, Some(part)) => {
                rows::scale(part.clone(), &each(&|i| (forward(i) / posterior(i)).ln())) + column(&|i| posterior(i).ln())
            }
            (Variance::Learned, None) => return Err(no_variances()),
        };
        // The means differ by the factor of x_0 in the posterior's.
        let on_denoised = |i: usize| cleaner(i).alpha * forward(i) / chain[i].sigma.powi(2);
        let apart = rows::scale(denoised.clone() - x0.clone(), &each(&on_denoised)).square();
        let divergence = (log_variance.clone() - column(&|i| posterior(i).ln()) - 1.0
            + (-log_variance.clone()).exp() * (apart + column(&|i| posterior(i))))
        .mul_scalar(0.5);
        let first = rows::column(&index.iter().map(|&i| f64::from(u8::from(i == 0))).collect::<Vec<_>>(), x0);
        let decoded = self.decoded(x0, denoised, log_variance);
        // A term that is not meant is not looked at, not even times zero: it may be infinite.
        Ok(divergence.mask_where(first.bool().expand(x0.dims()), decoded).mean_dim(1))
    }

    /// −ln P of the gray levels `x0` under N(mean, exp(log_variance)).
    fn decoded(&self, x0: &Tensor<2>, mean: Tensor<2>, log_variance: Tensor<2>) -> Tensor<2> {
        const LEAST: f64 = 1e-12;
        let Pixels { low, high, .. } = self.pixels;
        let half = self.pixels.half_bin();
        let narrow = (-log_variance.mul_scalar(0.5)).exp();
        let centered = x0.clone() - mean;
        let below = self.normal(narrow.clone() * centered.clone().add_scalar(half));
        let under = self.normal(narrow * centered.sub_scalar(half));
        let log = |probability: Tensor<2>| probability.clamp_min(LEAST).log();
        let inside = log(below.clone() - under.clone());
        let edge = 0.0005 * (high - low);
        let inside = inside.mask_where(x0.clone().lower_elem(low + edge), log(below));
        -inside.mask_where(x0.clone().greater_elem(high - edge), log(-under + 1.0))
    }

    /// Φ.
    fn normal(&self, x: Tensor<2>) -> Tensor<2> {
        let odd = if self.published {
            let cube = x.clone().powi_scalar(3).mul_scalar(0.044_715);
            (x + cube).mul_scalar((2.0 / std::f64::consts::PI).sqrt()).tanh()
        } else {
            x.mul_scalar(std::f64::consts::FRAC_1_SQRT_2).erf()
        };
        odd.add_scalar(1.0).mul_scalar(0.5)
    }

    /// KL(q(x_T given x_0) ‖ N(0, std²)) of each row, in nats a number.
    pub fn prior(&self, noisiest: &Kernel, std: f64, x0: &Tensor<2>) -> Vec<f64> {
        let (mean, variance) = (noisiest.alpha / std, (noisiest.sigma / std).powi(2));
        rows::host(&x0.clone().mul_scalar(mean).square().mean_dim(1))
            .into_iter()
            .map(|square| 0.5 * (square + variance - 1.0 - variance.ln()))
            .collect()
    }

    /// The bound on ln P of the gray levels `x0` `[rows, dim]`, in nats a row, with one draw of noise at every level of the chain; `clip` keeps
    /// estimates to the range of the levels. The keys, one per row, are what noise is drawn by.
    ///
    /// # Errors
    /// A chain of fewer than two levels, and those of the denoiser.
    pub fn log_probability(
        &self,
        denoiser: &dyn Denoiser,
        chain: &[Kernel],
        x0: &Tensor<2>,
        given: &Condition,
        keys: &Keys,
        clip: bool,
    ) -> Result<LogDensity> {
        self.check()?;
        let ([count, dim], Some(noisiest)) = (x0.dims(), chain.last()) else {
            return Err(Error::new("a chain of 0 levels has no bound"));
        };
        let std = if noisiest.alpha < 1.0 { 1.0 } else { noisiest.sigma };
        let mut sums = self.prior(noisiest, std, x0);
        for (i, at) in chain.iter().enumerate() {
            let eps = noise::normal_like(keys, Purpose::Perturbation, i as u64, x0);
            let x = x0.clone().mul_scalar(at.alpha) + eps.mul_scalar(at.sigma);
            let mut estimate = denoiser::estimate(denoiser, x.clone().into(), Levels::Same(at), given)?;
            if clip {
                estimate.mean.value = estimate.mean.value.clamp(self.pixels.low, self.pixels.high);
            }
            let term = self.term(chain, &vec![i; count], x0, &x, &estimate)?;
            sums.iter_mut().zip(rows::host(&term)).for_each(|(sum, term)| *sum += term);
        }
        Ok(LogDensity {
            nats: sums.into_iter().map(|sum| -sum * dim as f64).collect(),
            standard_errors: None,
            codes: None,
            evaluations: chain.len(),
        })
    }
}

fn no_variances() -> Error {
    Error::of(
        Kind::Unsupported,
        "this network has not learned variances: give variance = \"posterior\" or \"forward\", or a network that has twice the channels",
    )
}

/// The levels of a discrete schedule, the cleanest first.
fn chain(schedule: &AnySchedule) -> Vec<Kernel> {
    (0..schedule.levels().unwrap_or(0)).map(|level| schedule.kernel(level as f64)).collect()
}

fn check_chain(what: &str, schedule: &AnySchedule, bound: &VariationalBound) -> Result<()> {
    bound.check()?;
    ensure!(
        schedule.levels().is_some_and(|levels| levels >= 2),
        "objective {what} is a sum over the levels of a discrete schedule, and this is {}",
        schedule.kind()
    );
    Ok(())
}

/// Noisy examples at uniform levels, and what the model says of them.
fn perturbed<'a>(
    model: &Preconditioned<&dyn Network>,
    examples: &'a Examples<'a>,
) -> Result<(Perturbed<'a>, Estimate, Vec<usize>)> {
    let noisy = Perturbed::of(examples, &LevelDistribution::DiscreteUniform {}, model)?;
    let estimate = model.estimate_at(noisy.x.clone().into(), noisy.levels(), examples.given, Some(examples.keys))?;
    let index = noisy.at.iter().map(|at| at.t.round() as usize).collect();
    Ok((noisy, estimate, index))
}

/// A term of the bound at a uniformly drawn level, times the number of levels, in bits a number: in the mean the bound itself, but for the
/// prior's term, which no weights change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Variational {
    /// The terms.
    pub bound: VariationalBound,
}

impl Objective for Variational {
    fn check(&self, schedule: &AnySchedule) -> Result<()> {
        check_chain("variational", schedule, &self.bound)
    }

    fn needs_variance(&self) -> bool {
        self.bound.variance == Variance::Learned
    }

    fn loss(&self, model: &Preconditioned<&dyn Network>, examples: &Examples) -> Result<Tensor<1>> {
        let (noisy, estimate, index) = perturbed(model, examples)?;
        let chain = chain(&model.schedule);
        let term = self.bound.term(&chain, &index, examples.x0, &noisy.x, &estimate)?;
        Ok(term.mean().mul_scalar(chain.len() as f64 / std::f64::consts::LN_2))
    }
}

/// L_simple + weight · bound, where the bound moves the variances only (Nichol & Dhariwal 2021, eq. 16): the estimate is a constant in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Hybrid {
    /// The terms of the bound.
    pub bound: VariationalBound,
    /// Weight of the whole bound, in bits a number; positive, default 0.001.
    pub weight: f64,
}

impl Default for Hybrid {
    fn default() -> Self {
        Self { bound: VariationalBound::default(), weight: 0.001 }
    }
}

impl Objective for Hybrid {
    fn check(&self, schedule: &AnySchedule) -> Result<()> {
        ensure_within("objective hybrid: weight", self.weight, above(0.0, 1e6))?;
        check_chain("hybrid", schedule, &self.bound)
    }

    fn needs_variance(&self) -> bool {
        self.bound.variance == Variance::Learned
    }

    fn loss(&self, model: &Preconditioned<&dyn Network>, examples: &Examples) -> Result<Tensor<1>> {
        let (noisy, mut estimate, index) = perturbed(model, examples)?;
        // The squared error of ε: (x − α D)/σ − ε.
        let eps = denoiser::eps(noisy.x.clone().into(), estimate.mean.clone(), noisy.levels()).value;
        let simple = (eps - noisy.eps.clone()).square().mean();
        estimate.mean.value = estimate.mean.value.detach();
        let chain = chain(&model.schedule);
        let term = self.bound.term(&chain, &index, examples.x0, &noisy.x, &estimate)?;
        Ok(simple + term.mean().mul_scalar(self.weight * chain.len() as f64 / std::f64::consts::LN_2))
    }
}
