//! The denoiser: what stands between all that is learned and all that is numerical.

use burn::tensor::{DType, Device, Tensor};

use crate::{Classified, Classifier, Condition, Dual, Kernel, Levels, Result, ensure, guidance::Guided, rows};

/// What a denoiser says of x_0 given x_t.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// E\[x_0 given x_t\] `[rows, dim]`, with its tangent where x_t had one.
    pub mean: Dual<2>,
    /// Where a network learned its reverse variances: v `[rows, dim]` in \[0, 1\] of ln Σ = v ln β + (1 − v) ln β̃, between the
    /// variance of the forward transition and that of the posterior (Nichol & Dhariwal 2021, "Improved Denoising Diffusion
    /// Probabilistic Models", eq. 15), for whatever step is taken from here.
    pub variance: Option<Tensor<2>>,
    /// What guidance did to it, for what treats guidance by a rule of its own; the default is nothing.
    pub guided: Guided,
}

impl From<Dual<2>> for Estimate {
    fn from(mean: Dual<2>) -> Self {
        Self { mean, variance: None, guided: Guided::default() }
    }
}

/// An estimate of E\[x_0 given x_t\].
///
/// By Tweedie's formula (Efron 2011) it is the score: ∇ log p_t(x) = (α D − x)/σ². It is differentiable in x both ways, by
/// [`jvp`] and [`vjp`]: an implementation carries the tangent of x along and stays on the tape of its value.
///
/// ```
/// use stein::{Condition, Denoiser, Dual, Estimate, Levels, Result};
///
/// /// The denoiser of N(0, I): D = α x/(α² + σ²).
/// struct Standard;
///
/// impl Denoiser for Standard {
///     fn estimate(&self, x: Dual<2>, at: Levels, _: &Condition) -> Result<Estimate> {
///         Ok(x.scale(&at.factors(|at| at.alpha / (at.alpha.powi(2) + at.sigma.powi(2)))).into())
///     }
/// }
/// ```
pub trait Denoiser: Send + Sync {
    /// D(x; α, σ) `[rows, dim]` for noisy rows `x` `[rows, dim]` at their levels. Callers go through [`estimate`], which checks
    /// what it is given and that no derivative was lost.
    ///
    /// # Errors
    /// When the shape or the condition is not one this denoiser knows, or the level is one it is not defined at.
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate>;
}

/// The estimate of a denoiser: with sizes checked, and a derivative that was asked for and lost on the way an error instead of
/// a zero.
///
/// # Errors
/// One level, or condition, too few or too many; those of the denoiser; a denoiser that drops tangents or leaves the tape.
pub fn estimate(denoiser: &dyn Denoiser, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
    let count = x.dims()[0];
    at.check(count)?;
    given.check(count)?;
    let asked = Asked::of(&x);
    let estimate = denoiser.estimate(x, at, given)?;
    asked.check(&estimate.mean, "denoiser")?;
    Ok(estimate)
}

/// Which derivatives are asked for by an input.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    tangent: bool,
    tracked: bool,
}

impl Asked {
    pub(crate) fn of(x: &Dual<2>) -> Self {
        Self { tangent: x.tangent.is_some(), tracked: x.value.is_tracked() }
    }

    /// Fails where the output has lost one of them.
    pub(crate) fn check(self, output: &Dual<2>, what: &str) -> Result<()> {
        ensure!(
            Kind::Unsupported,
            !self.tangent || output.tangent.is_some(),
            "this {what} has no Jacobian-vector product: it drops the tangent of its input"
        );
        ensure!(
            Kind::Unsupported,
            !self.tracked || output.value.is_tracked(),
            "this {what} has no gradient: its result is not made of tensor operations on its input"
        );
        Ok(())
    }
}

/// D(x) `[rows, dim]`, without derivatives.
///
/// # Errors
/// As [`estimate`].
pub fn denoise(denoiser: &dyn Denoiser, x: Tensor<2>, at: Levels, given: &Condition) -> Result<Tensor<2>> {
    Ok(estimate(denoiser, x.into(), at, given)?.mean.value)
}

/// D(x) and the Jacobian-vector product J_D(x) ẋ, both `[rows, dim]`, in one pass forward. The product is made of
/// differentiable operations itself.
///
/// # Errors
/// As [`estimate`].
///
/// # Panics
/// If x and ẋ differ in shape.
pub fn jvp(
    denoiser: &dyn Denoiser,
    x: Tensor<2>,
    direction: Tensor<2>,
    at: Levels,
    given: &Condition,
) -> Result<(Tensor<2>, Tensor<2>)> {
    let mean = estimate(denoiser, Dual::new(x, direction), at, given)?.mean;
    let tangent = mean.tangent_or_zero();
    Ok((mean.value, tangent))
}

/// D(x) and the vector-Jacobian product J_D(x)ᵀ v, both `[rows, dim]`, in one pass forward and one back. Rows do not mix, so this is
/// also the gradient of Σ ⟨v, D(x)⟩. Neither result is on a tape.
///
/// # Errors
/// As [`estimate`].
///
/// # Panics
/// If D(x) and v differ in shape.
pub fn vjp(
    denoiser: &dyn Denoiser,
    x: Tensor<2>,
    v: Tensor<2>,
    at: Levels,
    given: &Condition,
) -> Result<(Tensor<2>, Tensor<2>)> {
    gradient(x, |x| {
        let mean = estimate(denoiser, x.into(), at, given)?.mean.value;
        Ok((mean.clone(), (mean * v.inner()).sum()))
    })
}

/// A value that depends on x `[rows, dim]`, and the gradient by x `[rows, dim]` of a number `[1]` that depends on it. Neither is on
/// a tape. For guidance and inverse problems: the number is a loss on D(x).
///
/// # Errors
/// Those of `f`; a number that does not depend on x by tensor operations.
pub fn gradient(
    x: Tensor<2>,
    f: impl FnOnce(Tensor<2>) -> Result<(Tensor<2>, Tensor<1>)>,
) -> Result<(Tensor<2>, Tensor<2>)> {
    let x = x.inner().autodiff().require_grad();
    let (value, number) = f(x.clone())?;
    let lost = || {
        crate::Error::of(
            crate::Kind::Unsupported,
            "there is no gradient: the number does not depend on x by tensor operations",
        )
    };
    if !number.is_tracked() {
        return Err(lost());
    }
    let gradient = x.grad_remove(&mut number.backward()).ok_or_else(lost)?;
    Ok((value.inner(), gradient))
}

/// The score (α D − x)/σ² `[rows, dim]` of rows `x` given the denoised rows, both `[rows, dim]`. Not finite at σ = 0.
pub fn score(x: Dual<2>, denoised: Dual<2>, at: Levels) -> Dual<2> {
    denoised.scale(&at.factors(|k| k.alpha / k.sigma.powi(2))) + x.scale(&at.factors(|k| -1.0 / k.sigma.powi(2)))
}

/// The noise ε̂ = (x − α D)/σ `[rows, dim]`. Not finite at σ = 0.
pub fn eps(x: Dual<2>, denoised: Dual<2>, at: Levels) -> Dual<2> {
    (x - denoised.scale(&at.factors(|k| k.alpha))).scale(&at.factors(|k| 1.0 / k.sigma))
}

/// The probability-flow velocity dx/dt = α̇ D + σ̇ ε̂ `[rows, dim]` (Song et al. 2021, eq. 13). Not finite at σ = 0.
pub fn velocity(x: Dual<2>, denoised: Dual<2>, at: Levels) -> Dual<2> {
    x.scale(&at.factors(|k| k.d_sigma / k.sigma))
        + denoised.scale(&at.factors(|k| k.d_alpha - k.d_sigma * k.alpha / k.sigma))
}

/// The exact divergence ∇·v of the probability-flow velocity of each row, `[rows]`: the trace of its Jacobian, one
/// Jacobian-vector product per dimension.
///
/// ```
/// use stein::{Condition, Edm, Schedule, denoiser::divergence, exact::Gaussian, rows};
///
/// let model = Gaussian::new(vec![0.0, 0.0], &[vec![1.0, 0.0], vec![0.0, 4.0]])?;
/// let at = Edm::default().kernel(2.0); // dx/dt = (x − D)/σ, so ∇·v = Σ σ/(λ + σ²)
/// let x = rows::matrix(vec![0.3, -0.8], 2, &rows::exact());
/// let trace = divergence(&model, x, &at, &Condition::none())?;
/// assert!((trace[0] - (2.0 / 5.0 + 2.0 / 8.0)).abs() < 1e-12);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// As [`estimate`].
pub fn divergence(denoiser: &dyn Denoiser, x: Tensor<2>, at: &Kernel, given: &Condition) -> Result<Vec<f64>> {
    let (_, trace) = value_and_trace(&x, &[], |x| {
        Ok(velocity(x.clone(), estimate(denoiser, x, at.into(), given)?.mean, at.into()))
    })?;
    Ok(rows::host(&trace))
}

/// f(x) `[rows, dim]` and, for each direction v `[rows, dim]`, vᵀ J_f v of every row, `[rows, directions]`; without any, the trace of the
/// Jacobian by a product for each number of a row, `[rows, 1]`.
pub(crate) fn value_and_trace(
    x: &Tensor<2>,
    directions: &[Tensor<2>],
    mut f: impl FnMut(Dual<2>) -> Result<Dual<2>>,
) -> Result<(Tensor<2>, Tensor<2>)> {
    let [count, dim] = x.dims();
    let mut along = |direction: Tensor<2>| {
        let Dual { value, tangent } = f(Dual::new(x.clone(), direction.clone()))?;
        let product = tangent.map_or_else(|| value.zeros_like(), |tangent| tangent * direction);
        Ok((value, product.sum_dim(1)))
    };
    if directions.is_empty() {
        let unit =
            |i: usize| rows::matrix((0..count * dim).map(|k| f64::from(u8::from(k % dim == i))).collect(), dim, x);
        let (value, mut trace) = along(unit(0))?;
        for i in 1..dim {
            trace = trace + along(unit(i))?.1;
        }
        return Ok((value, trace));
    }
    let products: Vec<(Tensor<2>, Tensor<2>)> =
        directions.iter().map(|direction| along(direction.clone())).collect::<Result<_>>()?;
    let value = products[0].0.clone();
    Ok((value, Tensor::cat(products.into_iter().map(|(_, product)| product).collect(), 1)))
}

/// A denoiser or classifier asked on another device or in another precision than the one it works in: what it is given is brought there, and its
/// answer back. Solvers keep their state in double precision this way.
#[derive(Debug, Clone)]
pub struct Converted<D> {
    /// The denoiser or classifier.
    pub inner: D,
    /// The device it works on.
    pub device: Device,
    /// The precision it works in.
    pub dtype: DType,
}

impl<D: Denoiser> Denoiser for Converted<D> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let (device, dtype) = (x.value.device(), x.value.dtype());
        let estimate = self.inner.estimate(x.linear(|x| x.to_device(&self.device).cast(self.dtype)), at, given)?;
        Ok(estimate.linear(|x| x.to_device(&device).cast(dtype)))
    }
}

impl<C: Classifier> Classifier for Converted<C> {
    fn classify(&self, x: Dual<2>, at: Levels) -> Result<Classified> {
        let (device, dtype) = (x.value.device(), x.value.dtype());
        let Classified { logits, features } =
            self.inner.classify(x.linear(|x| x.to_device(&self.device).cast(self.dtype)), at)?;
        let back = |x: Tensor<2>| x.to_device(&device).cast(dtype);
        Ok(Classified { logits: logits.linear(back), features: features.linear(back) })
    }
}

impl<D: Denoiser + ?Sized> Denoiser for &D {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        (**self).estimate(x, at, given)
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        (**self).estimate(x, at, given)
    }
}

impl<D: Denoiser + ?Sized> Denoiser for std::sync::Arc<D> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        (**self).estimate(x, at, given)
    }
}
