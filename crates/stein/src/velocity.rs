//! Velocities: dx/dt of the paths that rows follow between data and noise, or between two data sets.
//!
//! Every denoiser has one, that of its [probability flow](ProbabilityFlow). The reverse holds only where source and data were drawn
//! independently and the source is normal noise: a velocity that flow matching learned from pairs that belong together moves the source into the data, and says
//! nothing of the score, for which x_t would have to be data plus independent noise. So no [`Velocity`] is a
//! [`Denoiser`]:
//!
//! ```compile_fail,E0277
//! fn as_denoiser<V: stein::Velocity>(velocity: V) -> impl stein::Denoiser {
//!     velocity
//! }
//! ```
//!
//! Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 1; Tong et al. 2024, "Improving and Generalizing Flow-Based
//! Generative Models with Minibatch Optimal Transport", section 3; Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic
//! Interpolants", section 2.

use burn::tensor::Tensor;

use crate::{
    Condition, Denoiser, Dual, Kernel, Levels, Progress, Request, Result, Sampled, Schedule, denoiser, ensure,
    flow::Flow,
    noise::Draws,
    ode::{Steps, Tableau},
};

/// dx/dt at every place and time.
///
/// ```
/// use stein::{Condition, Dual, Grid, Levels, Rectified, Request, Result, Solver, Velocity, ode, rows, sample_velocity};
///
/// /// Carries N(0, 1) at t = 1 straight to N(3, 1) at t = 0.
/// struct Shift;
///
/// impl Velocity for Shift {
///     fn velocity(&self, x: Dual<2>, _: Levels, _: &Condition) -> Result<Dual<2>> {
///         Ok(x.linear(|x| x.zeros_like()).shift(|v| v - 3.0))
///     }
/// }
///
/// let schedule = Rectified::default();
/// let levels = Grid::uniform(1).kernels(&schedule)?;
/// let solver = Solver { method: &ode::EULER, steps: ode::Steps::Fixed(1) };
/// let drawn = sample_velocity(&Shift, &schedule, &levels, &solver, &Request::exact(1000, 1, 0), &mut |_| Ok(()))?;
/// let mean = rows::host(&drawn.x).iter().sum::<f64>() / 1000.0;
/// assert!((mean - 3.0).abs() < 0.15 && drawn.evaluations == 1);
/// # Ok::<(), stein::Error>(())
/// ```
pub trait Velocity: Send + Sync {
    /// v(x, t) `[rows, dim]` for rows `x` `[rows, dim]` at their levels, with the tangent of x. The [time](Kernel::t) of a level says
    /// where on the way it is.
    ///
    /// # Errors
    /// When the shape or the condition is not one this velocity knows, or the level is one it is not defined at.
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>>;
}

/// A velocity that knows the score of what it moves, ∇ log p_t: a stochastic interpolant (Albergo, Boffi and Vanden-Eijnden 2023), whose
/// rows can also be moved by a diffusion with the same law at every time.
pub trait Interpolant: Velocity {
    /// The score `[rows, dim]` of rows `x` `[rows, dim]` at their levels, strictly between the ends of the way.
    ///
    /// # Errors
    /// As [`velocity`](Velocity::velocity).
    fn score(&self, x: Tensor<2>, at: Levels, given: &Condition) -> Result<Tensor<2>>;
}

/// The probability flow of a denoiser, dx/dt = α̇ D + σ̇ ε̂ (Song et al. 2021, eq. 13), at levels with noise.
#[derive(Debug, Clone, Copy)]
pub struct ProbabilityFlow<D>(pub D);

impl<D: Denoiser> Velocity for ProbabilityFlow<D> {
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        let mean = denoiser::estimate(&self.0, x.clone(), at, given)?.into_mean()?;
        Ok(denoiser::velocity(x, mean, at))
    }
}

impl<V: Velocity + ?Sized> Velocity for &V {
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        (**self).velocity(x, at, given)
    }
}

impl<V: Velocity + ?Sized> Velocity for std::sync::Arc<V> {
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        (**self).velocity(x, at, given)
    }
}

impl<V: Velocity> Velocity for denoiser::Converted<V> {
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        let (device, dtype) = (x.value.device(), x.value.dtype());
        let found = self.inner.velocity(x.linear(|x| x.to_device(&self.device).cast(self.dtype)), at, given)?;
        Ok(found.linear(|v| v.to_device(&device).cast(dtype)))
    }
}

/// A solver of ordinary differential equations with its steps in each interval of a grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solver {
    /// The method.
    pub method: &'static Tableau,
    /// The steps in an interval.
    pub steps: Steps,
}

/// The time of a level of a grid; the clean end is at t = 0, where a velocity is defined as everywhere else.
fn time(at: &Kernel) -> f64 {
    if at.is_clean() { 0.0 } else { at.t }
}

/// Draws samples by a velocity: the prior at the noisiest level of `kernels`, carried along dx/dt = v to the last, from level to level.
/// `schedule` is the one `kernels` were laid on.
///
/// # Errors
/// Levels that do not fall, those of the velocity and of the observer, which is called at the start and after every interval.
pub fn sample_velocity(
    velocity: &dyn Velocity,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    solver: &Solver,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    sample_velocity_from(request.prior(kernels), velocity, schedule, kernels, solver, request, observe)
}

/// As [`sample_velocity`], from given rows `x` `[rows, dim]` at the first level of `kernels`: those of another data set, for a velocity
/// that leads from one to the other.
///
/// # Errors
/// As [`sample_velocity`], and a batch of another size than the request's.
pub fn sample_velocity_from(
    x: Tensor<2>,
    velocity: &dyn Velocity,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    solver: &Solver,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    let flow = Flow { velocity, schedule, given: &request.given };
    intervals(x, kernels, request, observe, |x, from, to| {
        let end = flow.carry(x, from, to, solver.method, solver.steps)?;
        Ok((end.x, end.evaluations))
    })
}

/// Draws samples by the diffusion with the law of an interpolant, dx = (v − ½ g² s) dt + g dw̄ with time running down (Albergo, Boffi and
/// Vanden-Eijnden 2023; with g the noise of a Schrödinger bridge, Tong et al. 2024, "Simulation-free Schrödinger bridges via score
/// and flow matching"), by Euler–Maruyama's steps from the prior at the noisiest level.
///
/// The drift of a step is that at the middle of its time, since the score is not known at the ends; the last step follows the velocity
/// alone, so that no fresh noise is left in the samples (as in the code of Ma et al. 2024, "SiT"). A step asks for the velocity and for the score, which are two
/// evaluations.
///
/// # Errors
/// As [`sample_velocity_from`].
pub fn sample_interpolant(
    interpolant: &dyn Interpolant,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    diffusion: f64,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    sample_interpolant_from(request.prior(kernels), interpolant, schedule, kernels, diffusion, request, observe)
}

/// As [`sample_interpolant`], from given rows `x` `[rows, dim]` at the first level of `kernels`.
///
/// # Errors
/// As [`sample_velocity_from`].
pub fn sample_interpolant_from(
    x: Tensor<2>,
    interpolant: &dyn Interpolant,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    diffusion: f64,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    let mut draws = Draws::new(request);
    let last = kernels.last().map_or(0.0, time);
    intervals(x, kernels, request, observe, |x, from, to| {
        let (middle, step) = (schedule.kernel(0.5 * (from + to)), from - to);
        let velocity = interpolant.velocity(x.clone().into(), (&middle).into(), &request.given)?.value;
        if to == last {
            return Ok((x - velocity.mul_scalar(step), 1));
        }
        let score = interpolant.score(x.clone(), (&middle).into(), &request.given)?;
        let drift = velocity - score.mul_scalar(0.5 * diffusion.powi(2));
        let noise = draws.normal(&x)?.mul_scalar(diffusion * step.sqrt());
        // Two networks were asked.
        Ok((x - drift.mul_scalar(step) + noise, 2))
    })
}

/// Takes rows from level to level, by what moves them between two times and says how many evaluations that took.
fn intervals(
    mut x: Tensor<2>,
    kernels: &[Kernel],
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
    mut step: impl FnMut(Tensor<2>, f64, f64) -> Result<(Tensor<2>, usize)>,
) -> Result<Sampled> {
    request.check(&x)?;
    ensure!(kernels.len() >= 2, "a grid of {} level(s) has no step: give it at least two levels", kernels.len());
    ensure!(
        kernels.windows(2).all(|pair| time(&pair[0]) > time(&pair[1])),
        "the levels a velocity is followed along must fall"
    );
    let steps = kernels.len() - 1;
    let mut evaluations = 0;
    observe(&Progress { step: 0, steps, moves: 0, at: &kernels[0], x: &x })?;
    for (i, pair) in kernels.windows(2).enumerate() {
        let (moved, asked) = step(x, time(&pair[0]), time(&pair[1]))?;
        (x, evaluations) = (moved, evaluations + asked);
        observe(&Progress { step: i + 1, steps, moves: 0, at: &pair[1], x: &x })?;
    }
    Ok(Sampled { x, evaluations })
}
