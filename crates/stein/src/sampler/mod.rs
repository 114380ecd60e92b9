//! Samplers: how a batch goes from one level to the next cleaner one. One file each, one driver loop, [`sample`].

mod adaptive_sde;
mod ancestral;
mod ancestral_ode;
mod churn;
mod ddim;
mod dpm_solver;
mod dpm_solver_pp;
mod dpm_solver_pp_2s;
mod dpm_solver_pp_sde;
mod euler_maruyama;
mod eval;
mod heun;
mod langevin;
mod multistep;
mod ode;
mod predictor_corrector;
mod restart;
mod reverse_diffusion;
mod rk45;
mod sde_dpm_solver_pp;
mod uni_pc;

pub use adaptive_sde::AdaptiveSde;
pub use ancestral::{Ancestral, GradientMoves, Variance};
pub use ancestral_ode::{Dpm2Ancestral, DpmSolverPp2sAncestral, EulerAncestral};
pub use churn::Churn;
pub use ddim::Ddim;
pub(crate) use ddim::{ddim_mean, ddim_step};
pub use dpm_solver::DpmSolver;
pub use dpm_solver_pp::{DpmSolverPp, Form};
pub use dpm_solver_pp_2s::DpmSolverPp2s;
pub use dpm_solver_pp_sde::DpmSolverPpSde;
pub use euler_maruyama::EulerMaruyama;
pub use eval::Eval;
pub use heun::{EdmEuler, Heun};
pub use langevin::{Convention, Langevin};
pub use multistep::{Deis, Ipndm, Lms, Plms, Pndm};
pub use ode::{OdeEuler, OdeHeun, OdeMidpoint, OdeRk4};
pub use predictor_corrector::{Corrector, PredictorCorrector};
pub use restart::{Interval, Restart};
pub use reverse_diffusion::ReverseDiffusion;
pub use rk45::Rk45;
pub use sde_dpm_solver_pp::SdeDpmSolverPp;
pub use uni_pc::UniPc;

use std::collections::VecDeque;

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein_base::registry;

use crate::{
    Condition, Denoiser, Kernel, Keys, Purpose, Result, Schedule, Solver, ensure,
    noise::{Source, streams},
    rows,
};

/// One step of a sampler, from a noisier level to a cleaner one.
///
/// A sampler is a value: it has its settings, and all that changes in a run is handed to it. One of one's own needs no more than the
/// step; [`AnySampler::register`] gives it a name in files.
///
/// ```
/// use stein::{Edm, Eval, Grid, Kernel, Past, Request, Result, Sampler, Tensor, exact::GaussianMixture, sample};
///
/// /// Denoises, and adds fresh noise of the next level: x_s = α_s D + σ_s z.
/// #[derive(Debug)]
/// struct Renoise;
///
/// impl Sampler for Renoise {
///     fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, _: &mut Past) -> Result<Tensor<2>> {
///         let denoised = eval.denoise(&x, from)?;
///         let noise = eval.noise(&x)?;
///         Ok(denoised * to.alpha + noise * to.sigma)
///     }
///
///     fn order(&self) -> Option<u32> {
///         None
///     }
/// }
///
/// let (model, schedule) = (GaussianMixture::ncsn(), Edm::default());
/// let levels = Grid::karras(18).kernels(&schedule)?;
/// let drawn = sample(&model, &schedule, &levels, &Renoise, &Request::exact(8, 2, 0), &mut |_| Ok(()))?;
/// assert_eq!(drawn.evaluations, 18);
/// # Ok::<(), stein::Error>(())
/// ```
pub trait Sampler: std::fmt::Debug + Send + Sync {
    /// `x` `[rows, dim]` at level `from` becomes a batch at level `to`.
    ///
    /// `past` has what this run's earlier steps chose to remember, for multistep methods.
    ///
    /// `to` is [`Kernel::CLEAN`] only if [`reaches_clean`](Self::reaches_clean); `from` always has noise.
    ///
    /// # Errors
    /// Those of the denoiser.
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>>;

    /// Order of global convergence to the probability-flow ODE, where the sampler solves it: halving every step divides
    /// the error by 2^order. `None` for samplers that draw noise. A conformance test measures it.
    fn order(&self) -> Option<u32>;

    /// Whether it can step to σ = 0 exactly. For those that cannot, the driver ends with the denoised sample.
    fn reaches_clean(&self) -> bool {
        true
    }

    /// Whether it can start where there is no signal (α = 0): those that divide by α cannot.
    fn starts_without_signal(&self) -> bool {
        false
    }

    /// Whether it chooses its own steps within an interval. Its grid is one noisy interval, and then clean: two steps.
    fn adaptive(&self) -> bool {
        false
    }

    /// The solver of dx/dt = v it is, if it is nothing else: then a [velocity](crate::Velocity) is enough for it, and it needs no denoiser.
    fn solver(&self) -> Option<Solver> {
        None
    }

    /// Moves in one step, where it takes several that are worth seeing: it shows the batch after each but the last, by
    /// [`Eval::show`].
    fn moves(&self) -> usize {
        1
    }

    /// Fails, saying which parameter and what it may be, if a parameter is out of range.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

registry! {
    /// Every sampler, tagged by `kind` in files.
    AnySampler, "sampler": Sampler {
        /// DDIM: deterministic, or with noise `eta`. With eta 0 it is Euler's method in σ/α.
        "ddim" => Ddim,
        /// Ancestral sampling of DDPM and of NCSN's chain: a stochastic step to the posterior's mean.
        "ancestral" | "ddpm" => Ancestral,
        /// Ancestral sampling by Euler's step, with noise `eta`: DDIM's with a factor on the noise.
        "euler_ancestral" | "euler_a" | "k_euler_a" | "k_euler_ancestral" => EulerAncestral,
        /// Ancestral sampling by DPM-Solver's second-order step: two evaluations per step.
        "dpm_2_ancestral" | "dpm_2_a" | "k_dpm_2_a" | "k_dpm_2_ancestral" => Dpm2Ancestral,
        /// Ancestral sampling by DPM-Solver++'s second-order single step: two evaluations per step.
        "dpm_solver_pp_2s_ancestral" | "dpmpp_2s_ancestral" | "dpmpp_2s_a" | "k_dpmpp_2s_a" | "k_dpmpp_2s_ancestral" => DpmSolverPp2sAncestral,
        /// The reverse SDE by Euler–Maruyama, in t.
        "euler_maruyama" => EulerMaruyama,
        /// The reverse SDE in t with steps as long as each sample allows.
        "adaptive_sde" | "gotta_go_fast" => AdaptiveSde,
        /// The reverse of the discretized forward SDE, Score-SDE's predictor for VE.
        "reverse_diffusion" => ReverseDiffusion,
        /// Annealed Langevin dynamics of NCSN: some steps at every level.
        "langevin" | "annealed_langevin" | "ald" => Langevin,
        /// Any sampler as predictor, with Langevin steps as corrector at every level (Score-SDE).
        "predictor_corrector" | "pc" => PredictorCorrector,
        /// EDM's sampler: Heun's method in σ/α, order 2, with churn on request.
        "heun" | "k_heun" | "edm_heun" => Heun,
        /// EDM's sampler with Euler's step: order 1, with churn on request.
        "edm_euler" | "k_euler" => EdmEuler,
        /// Heun's method with jumps back to noisier levels (restart sampling).
        "restart" => Restart,
        /// DPM-Solver with single steps, orders 1 to 3, as many evaluations per step; k-diffusion's `dpm_2` is its order 2.
        "dpm_solver" | "dpm_2" | "k_dpm_2" => DpmSolver,
        /// Multistep DPM-Solver++, 2M by default: good samples in 10 to 20 evaluations.
        "dpm_solver_pp" | "dpmpp" | "dpmpp_2m" | "k_dpmpp_2m" | "dpm_solver_plus_plus" | "dpm_solver_multistep" => DpmSolverPp,
        /// DPM-Solver++ with single steps of order 2: two evaluations per step.
        "dpm_solver_pp_2s" | "dpmpp_2s" | "dpm_solver_singlestep" => DpmSolverPp2s,
        /// Multistep DPM-Solver++ on the SDE, 2M by default: one evaluation per step.
        "sde_dpm_solver_pp" | "dpmpp_2m_sde" | "k_dpmpp_2m_sde" | "sde_dpmpp" => SdeDpmSolverPp,
        /// DPM-Solver++ on the SDE with single steps of two evaluations.
        "dpm_solver_pp_sde" | "dpmpp_sde" | "k_dpmpp_sde" => DpmSolverPpSde,
        /// Linear multistep in σ/α, Adams–Bashforth up to order 4: one evaluation per step.
        "lms" | "k_lms" => Lms,
        /// DEIS: linear multistep by polynomials in t, integrated exactly.
        "deis" | "deis_tab" => Deis,
        /// iPNDM: linear multistep with the weights of equal steps.
        "ipndm" => Ipndm,
        /// PNDM: the same, started by three Runge–Kutta steps.
        "pndm" => Pndm,
        /// PLMS: the same, started by one step of two evaluations, as Stable Diffusion was published with.
        "plms" => Plms,
        /// UniPC: a multistep predictor whose result is corrected at no further evaluation.
        "uni_pc" => UniPc,
        /// The probability-flow ODE in t by Euler: order 1, one evaluation per step. What flow matching calls Euler.
        "ode_euler" | "euler" => OdeEuler,
        /// The probability-flow ODE in t by the midpoint rule: order 2, two evaluations per step.
        "ode_midpoint" | "midpoint" => OdeMidpoint,
        /// The probability-flow ODE in t by Heun: order 2, two evaluations per step.
        "ode_heun" => OdeHeun,
        /// The probability-flow ODE in t by classical Runge–Kutta: order 4, four evaluations per step.
        "ode_rk4" | "rk4" => OdeRk4,
        /// The probability-flow ODE in t by adaptive Dormand–Prince: chooses its steps by tolerances.
        "rk45" | "ode_rk45" | "dopri5" | "dormand_prince" | "ode45" => Rk45,
    }
}

/// What the steps of a run remember for the ones after: the levels and the estimates of the last few.
#[derive(Debug, Default)]
pub struct Past(VecDeque<(Kernel, Tensor<2>)>);

impl Past {
    /// How many steps are remembered: as many as the deepest multistep method looks back.
    pub const DEPTH: usize = 3;

    /// Remembers the level a step started from and the estimate it made there `[rows, dim]`: of the data, or whatever its sampler
    /// goes by.
    pub fn remember(&mut self, from: Kernel, estimate: Tensor<2>) {
        self.0.truncate(Self::DEPTH - 1);
        self.0.push_front((from, estimate));
    }

    /// What the last step remembered (0), or the one before it (1), and so on.
    pub fn step(&self, back: usize) -> Option<&(Kernel, Tensor<2>)> {
        self.0.get(back)
    }
}

/// Which samples to draw.
#[derive(Debug, Clone)]
pub struct Request {
    /// Seed of all noise.
    pub seed: u64,
    /// Where the noise a sampler adds comes from.
    pub noise: Source,
    /// Number of the first sample; sample i is the same whatever batch it is in.
    pub first: u64,
    /// Number of samples.
    pub rows: usize,
    /// Numbers in a sample.
    pub dim: usize,
    /// Their condition.
    pub given: Condition,
    /// Var\[data\] of the prior N(0, σ_T² + α_T² Var\[data\]); mean over the coordinates.
    pub data_variance: f64,
    /// Device to work on.
    pub device: Device,
    /// Precision to work in: what the denoiser expects.
    pub dtype: DType,
}

impl Request {
    /// `rows` unconditional samples of `dim` numbers in single precision on the CPU, as networks want.
    pub fn new(rows: usize, dim: usize, seed: u64) -> Self {
        Self { dtype: DType::F32, ..Self::exact(rows, dim, seed) }
    }

    /// The same in double precision, for exact models.
    pub fn exact(rows: usize, dim: usize, seed: u64) -> Self {
        Self {
            seed,
            noise: Source::Keyed,
            first: 0,
            rows,
            dim,
            given: Condition::none(),
            data_variance: 1.0,
            device: Device::flex(),
            dtype: DType::F64,
        }
    }

    /// What keys the samples.
    pub fn keys(&self) -> Keys {
        Keys::range(self.seed, self.first, self.rows)
    }

    /// Fails unless `x` and the condition are those of the batch that is asked for.
    pub(crate) fn check(&self, x: &Tensor<2>) -> Result<()> {
        if let Source::Mixed(mixed) = &self.noise {
            ensure!(
                mixed.len() == self.rows,
                "noise is mixed for {} rows, and there are {}: give one for each",
                mixed.len(),
                self.rows
            );
        }
        let [rows, dim] = x.dims();
        ensure!(
            [rows, dim] == [self.rows, self.dim],
            "the batch to start from has {rows} rows of {dim} numbers, and {} of {} are asked for",
            self.rows,
            self.dim
        );
        self.given.check(rows)
    }

    /// The prior at the noisiest of these levels.
    pub(crate) fn prior(&self, kernels: &[Kernel]) -> Tensor<2> {
        // Without a level there is nothing to start from, which `sample_from` and `sample_map_from` refuse.
        self.noise_of(kernels.first().map_or(1.0, |level| level.prior_std(self.data_variance)))
    }

    /// N(0, std²) for each row `[rows, dim]`, that of its key, or mixed of two: where a row starts.
    pub fn noise_of(&self, std: f64) -> Tensor<2> {
        let normal = |keys: &Keys| {
            let start = keys.normal(Purpose::Prior, 0, self.dim).into_iter().map(|z| std * z).collect();
            Tensor::from_data(TensorData::new::<f64, _>(start, [keys.len(), self.dim]), (&self.device, self.dtype))
        };
        let Source::Mixed(mixed) = &self.noise else { return normal(&self.keys()) };
        let [a, b] = streams(self.seed, mixed).map(|(keys, factors)| rows::scale(normal(&keys), &factors));
        a + b
    }
}

/// What a run of a sampler gives.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// The samples `[rows, dim]`.
    pub x: Tensor<2>,
    /// Calls of the denoiser.
    pub evaluations: usize,
}

/// What an observer of a run is shown at its start, after every step, and within the steps of samplers that take several moves.
pub struct Progress<'a> {
    /// Steps done; 0 shows the start.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Moves done of the step in progress, by samplers that [take several](Sampler::moves); 0 between steps.
    pub moves: usize,
    /// The level of `x`.
    pub at: &'a Kernel,
    /// The batch `[rows, dim]`.
    pub x: &'a Tensor<2>,
}

/// Draws samples: the prior at the noisiest level of `kernels`, and from there a sampler down to the last level.
///
/// `schedule` is the one `kernels` were laid on: samplers that look between two levels ask it. `observe` is called at the
/// start, after every step, and after every Langevin move within one; an error it returns ends the run.
///
/// ```
/// use stein::{Condition, Ddim, Error, Grid, Kind, Request, Vp, exact::GaussianMixture, sample};
///
/// let (model, schedule) = (GaussianMixture::ncsn(), Vp::default());
/// let levels = Grid::uniform(50).kernels(&schedule)?;
/// // Samples 100 to 103, of the component at (−5, −5); each is the same whatever batch it is in.
/// let request = Request { first: 100, given: Condition::classes([0; 4]), ..Request::exact(4, 2, 7) };
/// let mut levels_seen = Vec::new();
/// let drawn = sample(&model, &schedule, &levels, &Ddim::default(), &request, &mut |progress| {
///     levels_seen.push(progress.at.sigma);
///     Ok(())
/// })?;
/// assert_eq!((drawn.x.dims(), drawn.evaluations, levels_seen.len()), ([4, 2], 50, 51));
///
/// // An observer can end the run.
/// let stop = sample(&model, &schedule, &levels, &Ddim::default(), &request, &mut |progress| {
///     if progress.step < 10 { Ok(()) } else { Err(Error::stopped()) }
/// });
/// assert_eq!(stop.unwrap_err().kind(), Kind::Stopped);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// A grid the sampler cannot run, a parameter out of range, and those of the denoiser and the observer.
pub fn sample(
    denoiser: &dyn Denoiser,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    sampler: &dyn Sampler,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    sample_from(request.prior(kernels), denoiser, schedule, kernels, sampler, request, observe)
}

/// As [`sample`], from a given batch `x` `[rows, dim]` at the first level of `kernels`: to go on from where a run was left, or to
/// vary data that were noised to a level (Meng et al. 2022, "SDEdit").
///
/// ```
/// use stein::{Grid, Heun, Keys, Request, Schedule, Edm, exact::{Exact, GaussianMixture}, rows, sample_from};
///
/// let (model, schedule) = (GaussianMixture::ncsn(), Edm::default());
/// let levels = Grid { start: Some(2.0), ..Grid::karras(12) }.kernels(&schedule)?;
/// let noisy = model.draw(&Keys::range(3, 0, 10), &levels[0]);
/// let x = rows::matrix(noisy, 2, &rows::exact());
/// let varied = sample_from(x, &model, &schedule, &levels, &Heun::default(), &Request::exact(10, 2, 3), &mut |_| Ok(()))?;
/// assert_eq!(varied.evaluations, 23);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// As [`sample`], and a batch of another size than the request's.
pub fn sample_from(
    x: Tensor<2>,
    denoiser: &dyn Denoiser,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    sampler: &dyn Sampler,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    sampler.check()?;
    request.check(&x)?;
    ensure!(kernels.len() >= 2, "a grid of {} level(s) has no step: give it at least two levels", kernels.len());
    ensure!(
        kernels[0].alpha > 0.0 || sampler.starts_without_signal(),
        "this sampler cannot start where alpha is 0, as it is at the grid's start t = {}: set the start below it, or use ddim, \
         ancestral, dpm_solver_pp, uni_pc or an ode_ sampler",
        kernels[0].t
    );
    let mut eval = Eval::new(denoiser, schedule, kernels, request, observe);
    let mut past = Past::default();
    let mut x = x;
    eval.observe(&x, &kernels[0])?;
    for pair in kernels.windows(2) {
        let (from, to) = (&pair[0], &pair[1]);
        x = step(sampler, x, from, to, &mut eval, &mut past)?;
        eval.arrived(&x, to)?;
    }
    Ok(Sampled { x, evaluations: eval.evaluations() })
}

/// One step of any sampler: the denoised sample is the end of those that cannot step to σ = 0.
pub(crate) fn step(
    sampler: &dyn Sampler,
    x: Tensor<2>,
    from: &Kernel,
    to: &Kernel,
    eval: &mut Eval,
    past: &mut Past,
) -> Result<Tensor<2>> {
    if to.is_clean() && !sampler.reaches_clean() {
        return eval.denoise(&x, from);
    }
    sampler.step(x, from, to, eval, past)
}
