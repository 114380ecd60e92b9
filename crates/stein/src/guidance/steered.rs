//! Guidance by the gradient of a log-likelihood: D' = D + scale (σ²/α) ∇ ln p(y given x_t).
//!
//! It is Bayes' rule with Tweedie's formula: ∇ ln p(x_t given y) = ∇ ln p(x_t) + ∇ ln p(y given x_t), and a score that is larger by g
//! belongs to a mean that is larger by (σ²/α) g (Song et al. 2021, section 5; Dhariwal & Nichol 2021, section 4.1). The likelihood is of
//! noisy rows at their level ([`Steered`]: a classifier, a regressor), or of the model's estimate of x_0 ([`SteeredByEstimate`]: any
//! function of it), whose gradient goes back through the model.
//!
//! Where α = 0 a row says nothing of x_0, and nothing is added. The tangent is the gradient of the likelihood's tangent, one pass more.
//! The engine differentiates back once only, so there is no gradient through this one: a row on a tape is an error.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::Scale;
use crate::{Condition, Denoiser, Dual, Estimate, Levels, Result, ensure, estimate, gradient, rows};

/// What is known of y at noisy rows.
pub trait LogLikelihood: Send + Sync {
    /// ln p(y given x_t) `[rows, 1]`, up to a constant of the row, of noisy rows `x` `[rows, dim]` at their levels. It is made of tensor
    /// operations on x, carries the tangent of x along, and does not mix rows.
    ///
    /// # Errors
    /// When the shape or the condition is not one it knows.
    fn log_likelihood(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>>;
}

/// A denoiser steered by what is known at noisy rows.
///
/// ```
/// use std::sync::Arc;
/// use stein::{Condition, Edm, Schedule, denoise, exact::GaussianMixture, rows};
/// use stein::guidance::{GaussianTarget, Regressor, Steered};
/// use stein::{Dual, Levels, Result};
///
/// /// E[x_0 given x_t] of N(0, 1), as if it had been learned.
/// struct Shrink;
///
/// impl Regressor for Shrink {
///     fn regress(&self, x: Dual<2>, at: Levels) -> Result<Dual<2>> {
///         Ok(x.scale(&at.factors(|at| at.alpha / (at.alpha.powi(2) + at.sigma.powi(2)))))
///     }
/// }
///
/// let inner = Arc::new(GaussianMixture::isotropic(vec![1.0], vec![vec![0.0]], vec![1.0])?);
/// let by = GaussianTarget { regressor: Shrink, target: vec![2.0], std: 0.5 };
/// let steered = Steered { inner, scale: 1.0.into(), by };
/// let (x, at) = (rows::matrix(vec![1.0], 1, &rows::exact()), Edm::default().kernel(1.0));
/// // D = 0.5, and σ² times the slope (2 − 0.5)/0.5² · 0.5 of −(2 − x/2)²/(2 · 0.5²).
/// let mean = denoise(&steered, x, (&at).into(), &Condition::none())?;
/// assert!((rows::host(&mean)[0] - 3.5).abs() < 1e-12);
/// # Ok::<(), stein::Error>(())
/// ```
pub struct Steered<L> {
    /// The denoiser.
    pub inner: Arc<dyn Denoiser>,
    /// How much of the gradient is added: 1 is Bayes' rule, 0 nothing.
    pub scale: Scale,
    /// The likelihood.
    pub by: L,
}

/// A denoiser steered by a function of its own estimate: ln p(y given x_0) at x_0 = D(x_t), with the gradient by x_t (as Chung et al.
/// 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems", eq. 10, approximate ln p(y given x_t)).
///
/// ```
/// use std::sync::Arc;
/// use stein::{Condition, Dual, Edm, Schedule, denoise, exact::GaussianMixture, guidance::SteeredByEstimate, rows};
///
/// // Toward points whose first coordinate is 3: −(x_0 − 3)²/2.
/// let by = |clean: Dual<2>| {
///     let first = clean.linear(|x| x.narrow(1, 0, 1)).shift(|x| x.sub_scalar(3.0));
///     Ok((first.clone() * first).linear(|x| x.mul_scalar(-0.5)))
/// };
/// let steered = SteeredByEstimate { inner: Arc::new(GaussianMixture::ncsn()), scale: 1.0.into(), by };
/// let (x, at) = (rows::matrix(vec![5.0, 5.0], 2, &rows::exact()), Edm::default().kernel(1.0));
/// let mean = denoise(&steered, x, (&at).into(), &Condition::none())?;
/// // Near (5, 5) the mixture is N((5, 5), I): D = 5 with slope 1/2, and the gradient is (3 − 5)/2.
/// assert!((rows::host(&mean)[0] - 4.0).abs() < 1e-6 && (rows::host(&mean)[1] - 5.0).abs() < 1e-6);
/// # Ok::<(), stein::Error>(())
/// ```
pub struct SteeredByEstimate<F> {
    /// The denoiser.
    pub inner: Arc<dyn Denoiser>,
    /// How much of the gradient is added: 1 is Bayes' rule, 0 nothing.
    pub scale: Scale,
    /// ln p(y given x_0) `[rows, 1]` of rows `[rows, dim]`, up to a constant, as [`LogLikelihood::log_likelihood`] is made.
    pub by: F,
}

/// What tells numbers of noisy rows, such as a network that was trained to.
pub trait Regressor: Send + Sync {
    /// E\[y given x_t\] `[rows, numbers]` of noisy rows `x` `[rows, dim]` at their levels, as [`LogLikelihood::log_likelihood`] is made.
    ///
    /// # Errors
    /// When the shape is not one it knows, or the level is one it is not defined at.
    fn regress(&self, x: Dual<2>, at: Levels) -> Result<Dual<2>>;
}

/// Numbers that a regressor is to tell: ln p(y given x_t) = −Σ (y − f(x_t))²/(2 std²).
pub struct GaussianTarget<R> {
    /// f.
    pub regressor: R,
    /// y, a number for each that the regressor tells.
    pub target: Vec<f64>,
    /// How far off the regressor is allowed to be, a standard deviation in the units of y; positive.
    pub std: f64,
}

impl<R: Regressor> LogLikelihood for GaussianTarget<R> {
    fn log_likelihood(&self, x: Dual<2>, at: Levels, _: &Condition) -> Result<Dual<2>> {
        let told = self.regressor.regress(x, at)?;
        let width = told.dims()[1];
        ensure!(
            width == self.target.len(),
            "the regressor tells {width} numbers of a row, and the target has {}",
            self.target.len()
        );
        ensure!(self.std > 0.0 && self.std.is_finite(), "std = {} of the target must be positive", self.std);
        let target = rows::matrix(self.target.clone(), width, &told.value);
        let off = told.shift(|told| told - target);
        Ok((off.clone() * off).linear(|squares| squares.sum_dim(1).mul_scalar(-0.5 / self.std.powi(2))))
    }
}

impl<L: LogLikelihood> Denoiser for Steered<L> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        if self.scale.is(0.0, at) {
            return estimate(&self.inner, x, at, given);
        }
        let slope = slope(&x, |x| self.by.log_likelihood(x, at, given))?;
        Ok(steer(estimate(&self.inner, x, at, given)?, slope, &self.scale, at))
    }
}

impl<F: Fn(Dual<2>) -> Result<Dual<2>> + Send + Sync> Denoiser for SteeredByEstimate<F> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        if self.scale.is(0.0, at) {
            return estimate(&self.inner, x, at, given);
        }
        // The pass that has the tangent comes last, and its estimate is the one that is moved.
        let mut last = None;
        let slope = slope(&x, |x| {
            let estimate = estimate(&self.inner, x, at, given)?;
            let log = (self.by)(estimate.mean.clone())?;
            last = Some(estimate.linear(Tensor::inner));
            Ok(log)
        })?;
        let inner = last.expect("the slope asks for the likelihood");
        Ok(steer(inner, slope, &self.scale, at))
    }
}

/// The gradient by x of the sum of a log-likelihood of rows, and where x has a tangent the derivative of the gradient along it, which
/// is the gradient of the likelihood's tangent.
fn slope(x: &Dual<2>, mut log: impl FnMut(Dual<2>) -> Result<Dual<2>>) -> Result<Dual<2>> {
    ensure!(
        Kind::Unsupported,
        !x.value.is_tracked(),
        "guidance by a gradient has no gradient itself, since tapes do not nest: put what takes one before it in the list"
    );
    let mut one_a_row = |x: Dual<2>| {
        let count = x.dims()[0];
        let log = log(x)?;
        ensure!(log.dims() == [count, 1], "a log-likelihood is a number of each of {count} rows, not {:?}", log.dims());
        Ok(log)
    };
    let (_, value) = gradient(x.value.clone(), |x| {
        let log = one_a_row(x.into())?.value;
        Ok((log.clone(), log.sum()))
    })?;
    let Some(direction) = x.tangent.clone() else { return Ok(value.into()) };
    let (_, along) = gradient(x.value.clone(), |x| {
        let log = one_a_row(Dual::new(x.clone(), direction.inner()))?;
        let Some(along) = log.tangent else {
            return Err(crate::Error::of(
                crate::Kind::Unsupported,
                "this log-likelihood has no Jacobian-vector product: it drops the tangent of its input",
            ));
        };
        // The tangent of a linear function does not depend on x.
        let sum = if along.is_tracked() { along.sum() } else { x.mul_scalar(0.0).sum() };
        Ok((log.value, sum))
    })?;
    Ok(Dual::new(value, along))
}

/// An estimate moved by a gradient, times the scale.
fn steer(inner: Estimate, slope: Dual<2>, scale: &Scale, at: Levels) -> Estimate {
    let shift = at.factors(|level| if level.alpha > 0.0 { level.sigma.powi(2) / level.alpha } else { 0.0 });
    let scaled = slope.scale(&scale.factors(at));
    inner.moved_by(scaled.clone().scale(&shift), scaled.value)
}
