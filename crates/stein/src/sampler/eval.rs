//! What a sampler sees of the world: it counts evaluations, draws noise, knows the levels between the grid's, and shows the way.

use burn::tensor::Tensor;

use super::{Progress, Request};
use crate::{
    Condition, Denoiser, Estimate, Grid, Kernel, ProbabilityFlow, Result, Schedule, denoiser,
    flow::Flow,
    noise::Draws,
    ode::{Steps, Tableau},
};

/// The denoiser and the noise of one run.
pub struct Eval<'a> {
    denoiser: &'a dyn Denoiser,
    schedule: &'a dyn Schedule,
    given: &'a Condition,
    levels: &'a [Kernel],
    data_variance: f64,
    draws: Draws<'a>,
    evaluations: usize,
    observe: &'a mut dyn FnMut(&Progress) -> Result<()>,
    step: usize,
    moves: usize,
}

impl<'a> Eval<'a> {
    pub(crate) fn new(
        denoiser: &'a dyn Denoiser,
        schedule: &'a dyn Schedule,
        levels: &'a [Kernel],
        request: &'a Request,
        observe: &'a mut dyn FnMut(&Progress) -> Result<()>,
    ) -> Self {
        Self {
            denoiser,
            schedule,
            given: &request.given,
            levels,
            data_variance: request.data_variance,
            draws: Draws::new(request),
            evaluations: 0,
            observe,
            step: 0,
            moves: 0,
        }
    }

    /// Shows the batch on its way through a step that takes [several moves](super::Sampler::moves): after each but the last, whose
    /// end is the step's.
    ///
    /// # Errors
    /// Those of the observer, which may end the run.
    pub fn show(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<()> {
        self.moves += 1;
        self.observe(x, at)
    }

    /// Shows the batch at the end of a step.
    pub(crate) fn arrived(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<()> {
        (self.step, self.moves) = (self.step + 1, 0);
        self.observe(x, at)
    }

    pub(crate) fn observe(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<()> {
        let (step, steps, moves) = (self.step, self.steps(), self.moves);
        (self.observe)(&Progress { step, steps, moves, at, x })
    }

    /// The denoiser's whole estimate at one level for the whole batch, whose noise may be of [another](crate::guidance::Guided::noise).
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn estimate(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<Estimate> {
        self.evaluations += 1;
        denoiser::estimate(self.denoiser, x.clone().into(), at.into(), self.given)
    }

    /// D(x) at one level for the whole batch.
    ///
    /// # Errors
    /// Those of the denoiser; guidance whose noise is of another estimate.
    pub fn denoise(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<Tensor<2>> {
        Ok(self.estimate(x, at)?.into_mean()?.value)
    }

    /// D(x) at one level for the whole batch, and J_D(x)ᵀ v with a v `[rows, dim]` that may depend on D(x): a step back through the
    /// denoiser.
    ///
    /// # Errors
    /// Those of the denoiser, which must have a gradient, and of `v`.
    pub fn pull(
        &mut self,
        x: &Tensor<2>,
        at: &Kernel,
        v: impl FnOnce(&Tensor<2>) -> Result<Tensor<2>>,
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        self.evaluations += 1;
        denoiser::gradient(x.clone(), |x| {
            let mean = denoiser::estimate(self.denoiser, x.into(), at.into(), self.given)?.into_mean()?.value;
            let v = v(&mean.clone().inner())?;
            Ok((mean.clone(), (mean * v).sum()))
        })
    }

    /// D(x) of some rows of the batch, each at its own level.
    pub(super) fn denoise_rows(&mut self, x: &Tensor<2>, at: &[Kernel], of: &[usize]) -> Result<Tensor<2>> {
        self.evaluations += 1;
        Ok(denoiser::estimate(self.denoiser, x.clone().into(), at.into(), &self.given.select(of))?.into_mean()?.value)
    }

    /// ε̂(x) = (x − αD)/σ at one level for the whole batch.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn eps(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<Tensor<2>> {
        let denoised = self.denoise(x, at)?;
        Ok(eps(x.clone(), denoised, at))
    }

    /// The score at one level for the whole batch.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn score(&mut self, x: &Tensor<2>, at: &Kernel) -> Result<Tensor<2>> {
        let denoised = self.denoise(x, at)?;
        Ok(denoiser::score(x.clone().into(), denoised.into(), at.into()).value)
    }

    /// The batch carried along the probability-flow ODE from one time to another.
    ///
    /// # Errors
    /// Those of the denoiser and of [`ode::integrate`](crate::ode::integrate).
    pub fn flow(&mut self, x: Tensor<2>, from: f64, to: f64, method: &Tableau, steps: Steps) -> Result<Tensor<2>> {
        let Self { denoiser, schedule, given, .. } = *self;
        let velocity = &ProbabilityFlow(denoiser);
        let end = Flow { velocity, schedule, given }.carry(x, from, to, method, steps)?;
        self.evaluations += end.evaluations;
        Ok(end.x)
    }

    /// Fresh standard normal noise of the batch's shape, keyed by (seed, sample, number of the draw), or the next of
    /// the [given](crate::noise::Source::Given) draws: for steps that stay at a level.
    ///
    /// # Errors
    /// No given draw is left, or it is not of the batch's shape.
    pub fn noise(&mut self, like: &Tensor<2>) -> Result<Tensor<2>> {
        self.draws.normal(like)
    }

    /// Standard normal noise of the batch's shape for a step from one level to another: the scaled increment of one Brownian path
    /// per sample, a function of (seed, sample, levels), so that halving the step refines the same path. Or the next given draw.
    ///
    /// # Errors
    /// As [`noise`](Self::noise).
    pub fn interval_noise(&mut self, from: &Kernel, to: &Kernel, like: &Tensor<2>) -> Result<Tensor<2>> {
        self.draws.interval(from, to, like)
    }

    /// Noise as [`interval_noise`](Self::interval_noise) of a step in two: of its first part, from its level to one between, and of the whole.
    ///
    /// # Errors
    /// As [`noise`](Self::noise).
    pub fn interval_noise_through(
        &mut self,
        from: &Kernel,
        between: &Kernel,
        to: &Kernel,
        like: &Tensor<2>,
    ) -> Result<[Tensor<2>; 2]> {
        self.draws.interval_through(from, between, to, like)
    }

    /// The draws of every row by itself, for steps of its own length.
    pub(super) fn draws_of_rows(&self) -> Result<Vec<Draws<'a>>> {
        self.draws.of_rows()
    }

    /// The kernel at a time between the grid's levels.
    pub fn kernel(&self, t: f64) -> Kernel {
        self.schedule.kernel(t)
    }

    /// The kernel of the run's schedule at a noise-to-signal ratio σ/α.
    pub fn kernel_at_noise(&self, noise_to_signal: f64) -> Kernel {
        self.schedule.kernel(self.schedule.time_at(-2.0 * noise_to_signal.ln()))
    }

    /// The cleanest level of the grid that still has noise.
    pub fn last_level(&self) -> &Kernel {
        self.levels.iter().rev().find(|level| !level.is_clean()).unwrap_or(&self.levels[0])
    }

    /// The levels of the run's grid, noisiest first.
    pub fn levels(&self) -> &'a [Kernel] {
        self.levels
    }

    /// The batch noised from a level to a noisier one of fresh noise, by the forward transition: x_t = (α_t/α_s) x_s + √(σ_t² −
    /// (α_t/α_s)² σ_s²) z.
    ///
    /// # Errors
    /// As [`noise`](Self::noise).
    pub fn raise(&mut self, x: Tensor<2>, from: &Kernel, to: &Kernel) -> Result<Tensor<2>> {
        let (ratio, variance) = to.transition_from(from);
        let noise = self.noise(&x)?;
        Ok(x.mul_scalar(ratio) + noise.mul_scalar(variance.sqrt()))
    }

    /// β̃ of the step that led to a level of the grid: what published code takes for that of the step to the clean end, whose own is 0.
    pub(super) fn posterior_variance_before(&self, level: &Kernel) -> f64 {
        let before = self.levels.windows(2).find(|pair| pair[1] == *level);
        before.map_or(0.0, |pair| pair[0].posterior_variance(&pair[1]))
    }

    /// Steps of the run's grid.
    pub fn steps(&self) -> usize {
        self.levels.len() - 1
    }

    /// Whether no level of the run's grid is nearer to this σ/α.
    pub fn is_nearest(&self, level: &Kernel, noise_to_signal: f64) -> bool {
        let distance = |level: &Kernel| (level.noise_to_signal() - noise_to_signal).abs();
        self.levels.iter().all(|other| distance(level) <= distance(other))
    }

    /// The levels of another grid on the run's schedule.
    ///
    /// # Errors
    /// Those of [`Grid::kernels`].
    pub fn grid(&self, grid: &Grid) -> Result<Vec<Kernel>> {
        grid.kernels(self.schedule)
    }

    /// Var\[data\] of the prior: mean over the coordinates.
    pub fn data_variance(&self) -> f64 {
        self.data_variance
    }

    /// Calls of the denoiser so far.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }
}

/// ε̂ = (x − αD)/σ.
pub(super) fn eps(x: Tensor<2>, denoised: Tensor<2>, at: &Kernel) -> Tensor<2> {
    (x - denoised.mul_scalar(at.alpha)).div_scalar(at.sigma)
}

/// Along ε̂ to another level: x̄_s = x̄_t + (σ̄_s − σ̄_t) ε̂ in x̄ = x/α and σ̄ = σ/α, Euler's step of the probability-flow ODE.
pub(super) fn transfer(x: Tensor<2>, eps: Tensor<2>, from: &Kernel, to: &Kernel) -> Tensor<2> {
    let rise = to.noise_to_signal() - from.noise_to_signal();
    x.mul_scalar(to.alpha / from.alpha) + eps.mul_scalar(to.alpha * rise)
}

/// Toward D to another level with noise: (σ_s/σ_t) x + α_s (1 − e^{−h}) D with h = λ_s − λ_t, the same step as [`transfer`] in other
/// words, which needs no signal where it starts.
pub(super) fn toward(x: Tensor<2>, denoised: Tensor<2>, from: &Kernel, to: &Kernel) -> Tensor<2> {
    let h = half_log_snr(to) - half_log_snr(from);
    x.mul_scalar(to.sigma / from.sigma) + denoised.mul_scalar(-to.alpha * (-h).exp_m1())
}

/// λ = ln(α/σ).
pub(super) fn half_log_snr(at: &Kernel) -> f64 {
    0.5 * at.log_snr()
}
