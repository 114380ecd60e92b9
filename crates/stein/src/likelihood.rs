//! The log-density a denoiser gives data: by the probability-flow ODE, and the lower bound that its training objective is.
//!
//! **ODE** (Song et al. 2021, eq. 39; Chen et al. 2018): along dx/dt = v(x, t), d ln p_t(x)/dt = −∇·v, so
//!
//! > ln p_0(x) = ln p_T(x_T) + ∫ ∇·v dt + dim ln α_ε + c_ε .
//!
//! The integral starts at the cleanest level ε, where x/α is still noisy by s = σ_ε/α_ε. What is left of the flow is one step of
//! x/α from 0 to s, x ↦ x − ½ (D(x) − x), with c_ε = −½ tr(∂D/∂x − I): both to O(s⁴). This is what the bound of Song et al. 2021
//! ("Maximum Likelihood Training", eq. 11) adds, a decoder's −ln p(x given x_ε) less **the entropy** of q(x_ε given x), with its
//! mean over the noise taken in closed form. Without the entropy a density gains ln(1/σ_ε) for nothing; with both, it hardly
//! depends on ε.
//!
//! **Bound** (the same paper, theorem 3; Kingma et al. 2021, eq. 15), in terms of λ = log-SNR, for which −dλ = g²/σ² dt:
//!
//! > −ln p(x) ≤ E\[−ln π(x_T)\] + dim ln(σ_ε/(σ_T α_ε)) − dim/2 + ½ E‖ε̂ − ε‖²_ε + ½ (λ_ε − λ_T) E_λ‖ε̂ − ε‖² ,
//!
//! λ uniform, π the prior. It is one number a row whose only randomness is that of λ and ε.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Condition, Denoiser, Kernel, Keys, Levels, ProbabilityFlow, Projection, Purpose, Result, Schedule, Velocity,
    denoiser::{self, Converted, estimate, value_and_trace},
    ensure,
    exact::Exact,
    flow::Flow,
    grid::MOST_STEPS,
    noise,
    numbers::ensure_within,
    ode::{self, DORMAND_PRINCE, Steps, Times},
    rows,
};

/// How the divergence of the velocity is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Divergence {
    /// The trace of the Jacobian: a Jacobian-vector product for every number of a row.
    Exact {},
    /// vᵀ J v along random directions, which stay the same through a solve (Grathwohl et al. 2019).
    Hutchinson {
        /// Directions to average over, from 1 to 4096; default 1. With two or more their standard error is known.
        #[serde(default = "one")]
        probes: usize,
        /// Their law; default `rademacher`.
        #[serde(default)]
        projection: Projection,
    },
}

fn one() -> usize {
    1
}

/// What is done about the level the ODE starts from, which is not quite clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The last stretch is taken in one step, with its entropy.
    #[default]
    Corrected,
    /// The data are taken to stand at that level as they are: what published numbers of Score-SDE do. Not a density of the data.
    Ignored,
}

/// Where the paths end.
#[derive(Clone, Copy)]
pub enum Prior<'a> {
    /// N(0, std²), where sampling starts.
    Normal {
        /// Its standard deviation; [`Kernel::prior_std`] is that of sampling.
        std: f64,
    },
    /// The law of an exact model at the noisiest level.
    Exact(&'a dyn Exact),
}

impl Prior<'_> {
    fn log_density(&self, x: &Tensor<2>, at: &Kernel) -> Vec<f64> {
        let (dim, x) = (x.dims()[1], rows::host(x));
        match self {
            Self::Normal { std } => x.chunks_exact(dim).map(|x| log_normal(x, *std)).collect(),
            Self::Exact(model) => model.log_density(&x, at),
        }
    }
}

fn log_normal(x: &[f64], std: f64) -> f64 {
    let squares: f64 = x.iter().map(|x| (x / std).powi(2)).sum();
    -0.5 * squares - x.len() as f64 * (std.ln() + 0.5 * std::f64::consts::TAU.ln())
}

/// Log-densities of rows, in nats.
#[derive(Debug, Clone)]
pub struct LogDensity {
    /// ln p of each row.
    pub nats: Vec<f64>,
    /// The standard error of each that comes of the directions of its divergence, or of the draws of its bound; 0 where nothing is
    /// drawn, `None` where there was one draw.
    pub standard_errors: Option<Vec<f64>>,
    /// Where the paths ended, `[rows, dim]` in double precision: the codes. The bound has none.
    pub codes: Option<Tensor<2>>,
    /// Calls of the velocity, or of the denoiser for the bound; the most of any row. Each has a Jacobian-vector product for every
    /// direction.
    pub evaluations: usize,
}

/// The log-density by the probability-flow ODE.
///
/// ```
/// use stein::{Condition, Kernel, Keys, Vp, exact::{Exact, GaussianMixture}, likelihood::{OdeLikelihood, Prior}, rows};
///
/// let (model, schedule) = (GaussianMixture::ncsn(), Vp::default());
/// let x = rows::matrix(vec![4.0, 5.5], 2, &rows::exact());
/// let (keys, given) = (Keys::range(0, 0, 1), Condition::none());
/// let found = OdeLikelihood::exact(1e-6).log_density(&model, &schedule, x, &given, &keys, Prior::Exact(&model))?;
/// let known = model.log_density(&[4.0, 5.5], &Kernel::CLEAN)[0];
/// assert!((found.nats[0] - known).abs() < 1e-4);
/// # Ok::<(), stein::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct OdeLikelihood {
    /// The divergence.
    pub divergence: Divergence,
    /// Relative and absolute tolerance of a step of Dormand and Prince's method, a row at a time, the log-density included; from 1e-12
    /// to 0.1.
    pub tolerance: f64,
    /// Most attempted steps of a row before giving up; from 1 to 1,000,000.
    pub max_steps: usize,
    /// The time to start at instead of the cleanest of the schedule; one with noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// What becomes of the level it starts from.
    #[serde(default)]
    pub truncation: Truncation,
}

impl OdeLikelihood {
    /// With the exact divergence.
    pub fn exact(tolerance: f64) -> Self {
        let divergence = Divergence::Exact {};
        Self { divergence, tolerance, max_steps: 100_000, start: None, truncation: Truncation::Corrected }
    }

    /// Fails, saying which, if a setting is out of range.
    pub fn check(&self, schedule: &dyn Schedule) -> Result<()> {
        ensure_within("likelihood: tolerance", self.tolerance, 1e-12..=0.1)?;
        ensure_within("likelihood: max_steps", self.max_steps, 1..=MOST_STEPS)?;
        if let Divergence::Hutchinson { probes, .. } = self.divergence {
            ensure_within("likelihood: probes", probes, 1..=4096)?;
        }
        check_start(self.start, schedule)
    }

    /// ln p of data `x` `[rows, dim]`, which has the device and precision the denoiser works with; the ODE is solved in double precision on
    /// the CPU. The keys, one per row, are what directions are drawn by.
    ///
    /// # Errors
    /// Settings out of range, a tolerance that is not met in the steps there are, and those of the denoiser.
    pub fn log_density(
        &self,
        denoiser: &dyn Denoiser,
        schedule: &dyn Schedule,
        x: Tensor<2>,
        given: &Condition,
        keys: &Keys,
        prior: Prior,
    ) -> Result<LogDensity> {
        let double = self.checked(schedule, &x, given, keys)?;
        let directions = self.directions(keys, &double);
        self.log_density_along(denoiser, schedule, x, given, &directions, prior)
    }

    /// As [`log_density`](Self::log_density), along given directions, each `[rows, dim]` in double precision; none for the exact
    /// divergence.
    ///
    /// # Errors
    /// As [`log_density`](Self::log_density), and directions of another shape.
    pub fn log_density_along(
        &self,
        denoiser: &dyn Denoiser,
        schedule: &dyn Schedule,
        x: Tensor<2>,
        given: &Condition,
        directions: &[Tensor<2>],
        prior: Prior,
    ) -> Result<LogDensity> {
        self.check_along(schedule, &x, given, directions)?;
        let [count, dim] = x.dims();
        let denoiser = &Converted { inner: denoiser, device: x.device(), dtype: x.dtype() };
        let start = self.start.unwrap_or(schedule.span().0);
        let cleanest = schedule.kernel(start);
        let double = rows::exact();
        let clean = x.to_device(&double.device()).cast(double.dtype());
        let (begun, gained) = match self.truncation {
            Truncation::Ignored => {
                (clean, Tensor::zeros([count, directions.len().max(1)], (&double.device(), double.dtype())))
            }
            Truncation::Corrected => {
                // x/α has the noise s of the level (1, s).
                let level = cleanest.of_scaled();
                let (denoised, trace) = value_and_trace(&clean, directions, |x| {
                    Ok(estimate(denoiser, x, Levels::Same(&level), given)?.mean)
                })?;
                let moved = clean.clone() - (denoised - clean).mul_scalar(0.5);
                let dim = dim as f64;
                let gained = trace.sub_scalar(dim).mul_scalar(-0.5).add_scalar(dim * cleanest.alpha.ln());
                (moved.mul_scalar(cleanest.alpha), gained)
            }
        };
        let velocity = &ProbabilityFlow(denoiser);
        let paths = Paths { flow: Flow { velocity, schedule, given }, directions };
        let found = self.along(&paths, begun, gained, start, prior)?;
        Ok(LogDensity {
            evaluations: found.evaluations + usize::from(self.truncation == Truncation::Corrected),
            ..found
        })
    }

    /// ln p of data `x` `[rows, dim]` that a velocity moves to a known law: ln p_0(x) = ln π(x_1) + ∫ ∇·v dt along its path from t = 0, where
    /// a velocity is defined as everywhere else, so that nothing is left out (Chen et al. 2018, eq. 8; Lipman et al. 2023, appendix C).
    /// The start and the truncation of these settings are those of denoisers and do not count.
    ///
    /// # Errors
    /// As [`log_density`](Self::log_density).
    pub fn log_density_of_velocity(
        &self,
        velocity: &dyn Velocity,
        schedule: &dyn Schedule,
        x: Tensor<2>,
        given: &Condition,
        keys: &Keys,
        prior: Prior,
    ) -> Result<LogDensity> {
        let double = self.checked(schedule, &x, given, keys)?;
        self.log_density_of_velocity_along(velocity, schedule, x, given, &self.directions(keys, &double), prior)
    }

    /// As [`log_density_of_velocity`](Self::log_density_of_velocity), along given directions, each `[rows, dim]` in double precision; none
    /// for the exact divergence.
    ///
    /// # Errors
    /// As [`log_density_along`](Self::log_density_along).
    pub fn log_density_of_velocity_along(
        &self,
        velocity: &dyn Velocity,
        schedule: &dyn Schedule,
        x: Tensor<2>,
        given: &Condition,
        directions: &[Tensor<2>],
        prior: Prior,
    ) -> Result<LogDensity> {
        self.check_along(schedule, &x, given, directions)?;
        let velocity = &Converted { inner: velocity, device: x.device(), dtype: x.dtype() };
        let paths = Paths { flow: Flow { velocity, schedule, given }, directions };
        let clean = x.to_device(&rows::exact().device()).cast(rows::exact().dtype());
        let gained = Tensor::zeros([clean.dims()[0], directions.len().max(1)], (&clean.device(), clean.dtype()));
        self.along(&paths, clean, gained, 0.0, prior)
    }

    /// Fails unless everything fits; the rows in double precision on the CPU.
    fn checked(&self, schedule: &dyn Schedule, x: &Tensor<2>, given: &Condition, keys: &Keys) -> Result<Tensor<2>> {
        self.check(schedule)?;
        let count = x.dims()[0];
        ensure!(keys.len() == count, "{} keys were given for {count} rows: give one per row", keys.len());
        given.check(count)?;
        Ok(x.clone().to_device(&rows::exact().device()).cast(rows::exact().dtype()))
    }

    /// Fails unless settings, conditions and directions fit the rows.
    fn check_along(
        &self,
        schedule: &dyn Schedule,
        x: &Tensor<2>,
        given: &Condition,
        directions: &[Tensor<2>],
    ) -> Result<()> {
        self.check(schedule)?;
        let [count, dim] = x.dims();
        given.check(count)?;
        if let Some(other) = directions.iter().find(|direction| direction.dims() != x.dims()) {
            let [rows, width] = other.dims();
            return Err(crate::Error::new(format!(
                "a direction of {rows} rows of {width} numbers does not fit {count} rows of {dim}"
            )));
        }
        Ok(())
    }

    /// The directions that divergences are taken along, each `[rows, dim]`; none for the exact divergence.
    fn directions(&self, keys: &Keys, double: &Tensor<2>) -> Vec<Tensor<2>> {
        match self.divergence {
            Divergence::Exact {} => Vec::new(),
            Divergence::Hutchinson { probes, projection } => {
                (0..probes as u64).map(|number| projection.draw(keys, number, double)).collect()
            }
        }
    }

    /// ln p of rows that stand at `start`, to the noisiest level, with what was gained on the way there.
    fn along(
        &self,
        paths: &Paths,
        begun: Tensor<2>,
        gained: Tensor<2>,
        start: f64,
        prior: Prior,
    ) -> Result<LogDensity> {
        let ([count, dim], Paths { flow, directions }) = (begun.dims(), paths);
        let last = flow.schedule.span().1;
        let steps = Steps::Adaptive { rtol: self.tolerance, atol: self.tolerance, most: self.max_steps };
        let mut slope = |state: &Tensor<2>, times: Times, of: &[usize]| paths.slope(state, times, of);
        let begun = Tensor::cat(vec![begun, gained], 1);
        let end = ode::integrate(&mut slope, begun, start, last, &DORMAND_PRINCE, steps)?;
        let codes = end.x.clone().narrow(1, 0, dim);
        let width = directions.len().max(1);
        let gains = rows::host(&end.x.narrow(1, dim, width));
        let gains: Vec<Mean> = gains.chunks_exact(width).map(Mean::of).collect();
        let prior = prior.log_density(&codes, &flow.schedule.kernel(last));
        let standard_errors = if directions.is_empty() {
            Some(vec![0.0; count])
        } else {
            gains.iter().map(|gain| gain.standard_error).collect()
        };
        Ok(LogDensity {
            nats: prior.iter().zip(&gains).map(|(prior, gain)| prior + gain.mean).collect(),
            standard_errors,
            codes: Some(codes),
            evaluations: end.evaluations,
        })
    }
}

fn check_start(start: Option<f64>, schedule: &dyn Schedule) -> Result<()> {
    let (first, last) = schedule.span();
    let start = start.unwrap_or(first);
    ensure!(
        (first..last).contains(&start) && schedule.kernel(start).sigma > 1e-12,
        "likelihood: start = {start} must be a time with noise, at least {first} and below {last}"
    );
    Ok(())
}

/// The paths of rows with their log-densities beside them: states are `[rows, dim + directions]`, or `[rows, dim + 1]` with the exact
/// divergence.
pub struct Paths<'a> {
    /// The flow the rows follow.
    pub flow: Flow<'a>,
    /// The directions of the whole batch that divergences are taken along, each `[rows, dim]`; none for the exact divergence.
    pub directions: &'a [Tensor<2>],
}

impl Paths<'_> {
    /// d/dt of the state: the velocity, and the divergence along each direction.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn slope(&self, state: &Tensor<2>, times: Times, of: &[usize]) -> Result<Tensor<2>> {
        let dim = state.dims()[1] - self.directions.len().max(1);
        let x = state.clone().narrow(1, 0, dim);
        let directions: Vec<Tensor<2>> =
            self.directions.iter().map(|direction| rows::select(direction.clone(), of)).collect();
        let (velocity, divergence) = value_and_trace(&x, &directions, |x| self.flow.velocity(x, times, of))?;
        Ok(Tensor::cat(vec![velocity, divergence], 1))
    }
}

/// A mean over draws with its standard error, where there are two.
struct Mean {
    mean: f64,
    standard_error: Option<f64>,
}

impl Mean {
    fn of(draws: &[f64]) -> Self {
        let count = draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / count;
        let squares: f64 = draws.iter().map(|draw| (draw - mean).powi(2)).sum();
        let standard_error = (draws.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
        Self { mean, standard_error }
    }
}

/// The lower bound on the log-density that training under likelihood weighting raises.
///
/// ```
/// use stein::{Condition, Kernel, Keys, Vp, exact::{Exact, GaussianMixture}, likelihood::{Bound, Prior}, rows};
///
/// let (model, schedule, given) = (GaussianMixture::ncsn(), Vp::default(), Condition::none());
/// let x = rows::matrix([4.0, 5.5].repeat(200), 2, &rows::exact());
/// let found = Bound::default().log_density(&model, &schedule, x, &given, &Keys::range(0, 0, 200), 1.0)?;
/// let known = model.log_density(&[4.0, 5.5], &Kernel::CLEAN)[0];
/// assert!(found.nats.iter().sum::<f64>() / 200.0 < known + 0.2);
/// # Ok::<(), stein::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Bound {
    /// Levels drawn for each row, one in each of as many equal parts of log-SNR; from 1 to 1,000,000, default 32.
    pub draws: usize,
    /// The time to start at instead of the cleanest of the schedule; one with noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
}

impl Default for Bound {
    fn default() -> Self {
        Self { draws: 32, start: None }
    }
}

impl Bound {
    /// Fails, saying which, if a setting is out of range, and on a schedule whose noisiest level has no signal.
    pub fn check(&self, schedule: &dyn Schedule) -> Result<()> {
        ensure_within("likelihood: draws of the bound", self.draws, 1..=MOST_STEPS)?;
        ensure!(
            Kind::Unsupported,
            schedule.kernel(schedule.span().1).alpha > 0.0,
            "the bound is an integral over log-SNR, which this schedule takes to minus infinity: give --schedule vp"
        );
        check_start(self.start, schedule)
    }

    /// A bound on ln p of data `x` `[rows, dim]`: an estimate whose mean over draws is below it. `data_variance` is Var\[data\] of the prior
    /// N(0, σ_T² + α_T² Var\[data\]). The keys, one per row, are what levels and noise are drawn by.
    ///
    /// # Errors
    /// Settings out of range, and those of the denoiser.
    pub fn log_density(
        &self,
        denoiser: &dyn Denoiser,
        schedule: &dyn Schedule,
        x: Tensor<2>,
        given: &Condition,
        keys: &Keys,
        data_variance: f64,
    ) -> Result<LogDensity> {
        self.check(schedule)?;
        let [count, dim] = x.dims();
        ensure!(keys.len() == count, "{} keys were given for {count} rows: give one per row", keys.len());
        let (first, last) = schedule.span();
        let (cleanest, noisiest) = (schedule.kernel(self.start.unwrap_or(first)), schedule.kernel(last));
        let (top, bottom) = (cleanest.log_snr(), noisiest.log_snr());
        // ‖ε̂ − ε‖² of every row, each at its level.
        let errors = |at: Levels, number: u64| -> Result<Vec<f64>> {
            let eps = noise::normal_like(keys, Purpose::Perturbation, number, &x);
            let noisy =
                rows::scale(x.clone(), &at.factors(|k| k.alpha)) + rows::scale(eps.clone(), &at.factors(|k| k.sigma));
            let denoised = denoiser::denoise(denoiser, noisy.clone(), at, given)?;
            let error = denoiser::eps(noisy.into(), denoised.into(), at).value - eps;
            Ok(rows::host(&error.square().sum_dim(1)))
        };
        let reconstruction = errors(Levels::Same(&cleanest), 0)?;
        let mut diffusion = vec![Vec::with_capacity(self.draws); count];
        for draw in 0..self.draws {
            let places = keys.uniform(Purpose::Level, draw as u64 + 1);
            let at: Vec<Kernel> = places
                .into_iter()
                .map(|u| top + (bottom - top) * (draw as f64 + u) / self.draws as f64)
                .map(|log_snr| schedule.kernel(schedule.time_at(log_snr)))
                .collect();
            let errors = errors(Levels::Each(&at), draw as u64 + 1)?;
            diffusion.iter_mut().zip(errors).for_each(|(all, error)| all.push(0.5 * (top - bottom) * error));
        }
        let width = dim as f64;
        let std = noisiest.prior_std(data_variance);
        // E[−ln π(x_T)] over the noise of x_T.
        let cross = |x: &[f64]| {
            let squares: f64 = x.iter().map(|x| (noisiest.alpha * x).powi(2)).sum();
            0.5 * (squares + width * noisiest.sigma.powi(2)) / std.powi(2)
                + width * (std.ln() + 0.5 * std::f64::consts::TAU.ln())
        };
        let constant = width * (cleanest.sigma / (noisiest.sigma * cleanest.alpha)).ln() - 0.5 * width;
        let integrals: Vec<Mean> = diffusion.iter().map(|draws| Mean::of(draws)).collect();
        let data = rows::host(&x);
        let parts = data.chunks_exact(dim).zip(&reconstruction).zip(&integrals);
        Ok(LogDensity {
            nats: parts.map(|((x, first), rest)| -(cross(x) + constant + 0.5 * first + rest.mean)).collect(),
            standard_errors: integrals.iter().map(|mean| mean.standard_error).collect(),
            codes: None,
            evaluations: 1 + self.draws,
        })
    }
}
