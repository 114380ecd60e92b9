//! How likely data are under a model: log-densities in units that say what they are, of every sample and in the mean.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::Serialize;
use stein::{
    AnySchedule, Condition, Error, Kernel, Keys, Kind, Projection, Result, Tensor, Variance, ensure,
    exact::Exact,
    likelihood::{Bound, Divergence, LogDensity, OdeLikelihood, Prior, Truncation},
    numbers::ensure_within,
    objective::{Pixels, VariationalBound},
    rows,
};

use crate::{
    Capability, DataChoice, Event, Model, Observed, Watch,
    arrays::NpyFile,
    draw::{Asking, Going},
    family::lacks,
    replacing::{Recorded, beside},
};

/// Which number is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bounded {
    /// The density of the probability-flow ODE.
    #[default]
    Ode,
    /// The bound of Song et al. 2021, "Maximum Likelihood Training of Score-Based Diffusion Models".
    ScoreFlow,
    /// The variational bound of DDPM over the levels of a discrete schedule, of pictures.
    Variational,
}

impl Bounded {
    /// The names, in the order of the methods.
    pub const NAMES: [&str; 3] = ["ode", "scoreflow", "vlb"];

    /// The one of that name.
    ///
    /// # Errors
    /// Another name.
    pub fn named(name: &str) -> Result<Self> {
        match name.to_lowercase().as_str() {
            "ode" => Ok(Self::Ode),
            "scoreflow" | "score_flow" => Ok(Self::ScoreFlow),
            "vlb" | "variational" | "elbo" => Ok(Self::Variational),
            _ => Err(stein::names::unknown("bound", name, &Self::NAMES)),
        }
    }
}

/// What is asked about which data.
#[derive(Debug, Clone, PartialEq)]
pub struct LikelihoodOptions {
    /// The data.
    pub data: DataChoice,
    /// Schedule to go along, by name; default the one trained on.
    pub schedule: Option<String>,
    /// The method.
    pub bound: Bounded,
    /// `exact` or `hutchinson`; default the exact divergence up to 32 numbers of a state.
    pub divergence: Option<String>,
    /// Directions of Hutchinson's estimate; default 1.
    pub probes: Option<usize>,
    /// Their law: `rademacher`, `gaussian` or `sphere`.
    pub projection: Projection,
    /// Directions to take instead of drawing them: a `.npy` file of `[n, state]`, or `[probes, n, state]`.
    pub probe: Option<PathBuf>,
    /// Relative and absolute tolerance of the ODE.
    pub tolerance: f64,
    /// Draws of the spread of gray levels that are averaged, and levels of noise drawn for the bound.
    pub draws: usize,
    /// Levels of the variational bound, evenly spaced among those trained on; default all.
    pub steps: Option<usize>,
    /// Variance of the steps of the variational bound; default what the network learned or, where it did not, the posterior's.
    pub variance: Option<Variance>,
    /// As published numbers are: of the ODE without a correction for the last stretch, and with the prior N(0, 1) or N(0, σ_max²); of the
    /// variational bound with the code's normal distribution function.
    pub published: bool,
    /// Whether the known density of the data is found too.
    pub closed_form: bool,
    /// The seed of all that is drawn.
    pub seed: u64,
    /// A `.npy` file for one value a sample, in the unit of the report.
    pub output: Option<PathBuf>,
    /// A `.csv` file for the samples in the order of their densities, the lowest first.
    pub rank: Option<PathBuf>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

impl Default for LikelihoodOptions {
    fn default() -> Self {
        Self {
            data: DataChoice::default(),
            schedule: None,
            bound: Bounded::Ode,
            divergence: None,
            probes: None,
            projection: Projection::Rademacher,
            probe: None,
            tolerance: 1e-5,
            draws: 1,
            steps: None,
            variance: None,
            published: false,
            closed_form: false,
            seed: 0,
            output: None,
            rank: None,
            force: false,
        }
    }
}

/// Most numbers of a state whose exact divergence is taken by default: as many products with the Jacobian are needed.
const EXACT: usize = 32;

/// Levels of noise that the bound draws for a sample, for each of its draws.
const LEVELS: usize = 32;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct LikelihoodReport {
    /// The mean over the samples, in the unit.
    pub mean: f64,
    /// Its standard error over the samples; none of a single one.
    pub standard_error: Option<f64>,
    /// `bits/dim`, the length of a code for the samples (lower is better), or `nats`, ln of the density (higher is better).
    pub unit: &'static str,
    /// Samples.
    pub n: usize,
    /// Numbers in a sample.
    pub dim: usize,
    /// The mean of ln of the density, in nats a sample.
    pub nats: f64,
    /// The same for each number of a sample.
    pub nats_per_dim: f64,
    /// The same of the known density of the data, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_form: Option<f64>,
    /// The mean over the samples of the standard error of one of them, in the unit, that comes of random directions or levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate_error: Option<f64>,
    /// Calls of the model for a sample, the most of any.
    pub evaluations: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// How it was found.
    pub method: String,
    /// What the number is and is not.
    pub meaning: String,
    /// The model and the data.
    pub model: String,
    /// As `model`.
    pub data: String,
    /// The value of each sample, in the unit.
    #[serde(skip)]
    pub values: Vec<f64>,
}

impl std::fmt::Display for LikelihoodReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = self.standard_error.map(|error| format!(" ± {error:.4}")).unwrap_or_default();
        let mut lines = vec![
            ("data", format!("{} samples of {} numbers of {}", self.n, self.dim, self.data)),
            (self.unit, format!("{:.4}{error}", self.mean)),
        ];
        if self.unit != "nats" {
            lines.push(("nats", format!("{:.3} a sample", self.nats)));
        }
        lines.push(("nats/dim", format!("{:.5}", self.nats_per_dim)));
        if let Some(known) = self.closed_form {
            lines.push((
                "closed form",
                format!("{known:.5} nats, {:.1e} nats/dim apart", (self.nats - known).abs() / self.dim as f64),
            ));
        }
        if let Some(error) = self.estimate_error {
            lines.push(("estimate", format!("± {error:.4} for one sample, of what is drawn for it")));
        }
        lines.push(("by", self.method.clone()));
        lines.push(("evaluations", format!("{} for a sample at most, {:.1} s in all", self.evaluations, self.seconds)));
        lines.push(("this is", self.meaning.clone()));
        lines.iter().try_for_each(|(name, value)| writeln!(f, "{name:<13} {value}"))
    }
}

/// What densities of states are densities of.
struct Unit {
    name: &'static str,
    /// Whether the codecs say how volumes change.
    of_data: bool,
    /// ln of the width of a gray level, and how many there are.
    levels: Option<u32>,
    dim: usize,
}

impl Unit {
    fn of(model: &Model, of_data: bool) -> Self {
        let levels = model.subject.levels.filter(|_| of_data);
        Self { name: if levels.is_some() { "bits/dim" } else { "nats" }, of_data, levels, dim: model.subject.dim() }
    }

    /// A value in the unit of ln of the density, in nats, of the data, or of the states where codecs say nothing.
    fn value(&self, nats: f64) -> f64 {
        match self.levels {
            None => nats,
            // A sample is one of (levels)^dim, each a cell of side 1/(levels − 1).
            Some(levels) => {
                let dim = self.dim as f64;
                -(nats / dim - f64::from(levels - 1).ln()) / std::f64::consts::LN_2
            }
        }
    }

    fn meaning(&self, model: &Model, bound: Bounded, published: bool) -> String {
        let mut text = match (self.levels, self.of_data) {
            (Some(levels), _) => format!(
                "the mean length of a code for the {levels} gray levels of a number, lower is better; levels were spread uniformly over \
                 their intervals, which gives a bound: do not compare it with variational dequantization"
            ),
            (None, true) => {
                "ln of a density in the units of the data, higher is better; no bits/dim, as the numbers are not \
                             gray levels"
                    .to_owned()
            }
            (None, false) => format!(
                "ln of the density of the states of {}, higher is better; no density of the data, as a codec does not say how volumes \
                 change",
                model.name
            ),
        };
        match bound {
            Bounded::Ode => {}
            Bounded::ScoreFlow => text += "; a bound on the density of the reverse SDE",
            Bounded::Variational => {
                text = "a bound on the mean length of a code for the gray levels of a number by the chain of reverse steps, lower is better; estimates \
                        are clipped to the range of the levels"
                    .to_owned();
            }
        }
        if published && bound == Bounded::Ode {
            text += "; in Score-SDE's convention, which takes data for noisy at the cleanest level: for comparison with its numbers only";
        }
        text
    }
}

/// How likely the data are under the model.
///
/// ```no_run
/// use stein_run::{DataChoice, LikelihoodOptions, Model, Silent, likelihood};
///
/// let model = Model::open("runs/table-shells", &stein::Device::flex())?;
/// let data = DataChoice { name: Some("new.csv".into()), ..DataChoice::default() };
/// let found = likelihood(&model, &LikelihoodOptions { data, ..LikelihoodOptions::default() }, &mut Silent)?;
/// println!("{} nats", found.mean);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// A model without a denoiser, data that are not such as it knows, settings out of range, and files that may not be replaced, all
/// before work starts; a tolerance that cannot be met.
pub fn likelihood(model: &Model, options: &LikelihoodOptions, watch: &mut dyn Watch) -> Result<LikelihoodReport> {
    let asked = Asked::of(model, options)?;
    let observed = Observed::of(model, &options.data)?;
    let given = asked.directions(options, observed.count)?;
    let files = Outputs::new(model, options)?;
    let batch = model.sample.batch.max(1);
    let started = Instant::now();
    let watch = Mutex::new(watch);
    let watch = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let going = || watch().going();
    let (mut nats, mut errors, mut evaluations, mut of_data) = (Vec::new(), Some(Vec::new()), 0, true);
    for first in (0..observed.count).step_by(batch) {
        going()?;
        let range: Vec<usize> = (first..observed.count.min(first + batch)).collect();
        let mut sums = vec![(0.0, 0.0); range.len()];
        for draw in 0..options.draws {
            // Every draw of a sample has keys of its own.
            let keys = Keys::range(options.seed, (draw as u64) << 40 | first as u64, range.len());
            let (x, log_det) = asked.states(&observed, &range, &keys)?;
            of_data &= log_det.is_some();
            let along: Vec<Tensor<2>> = given.iter().map(|given| given.clone().narrow(0, first, range.len())).collect();
            let found = asked.log_density(x, &observed, &range, &keys, &along, &going)?;
            evaluations = evaluations.max(found.evaluations);
            let log_det = log_det.unwrap_or_else(|| vec![0.0; range.len()]);
            for ((sum, nats), log_det) in sums.iter_mut().zip(&found.nats).zip(log_det) {
                sum.0 += nats + log_det;
            }
            match found.standard_errors {
                Some(own) => sums.iter_mut().zip(own).for_each(|(sum, error)| sum.1 += error * error),
                None => errors = None,
            }
        }
        let draws = options.draws as f64;
        nats.extend(sums.iter().map(|(nats, _)| nats / draws));
        if let Some(errors) = &mut errors {
            errors.extend(sums.iter().map(|(_, squares)| squares.sqrt() / draws));
        }
        watch().event(Event::Measured { done: nats.len() as u64, of: observed.count as u64 });
    }
    let unit = Unit::of(model, of_data);
    let values: Vec<f64> = nats.iter().map(|&nats| unit.value(nats)).collect();
    let (mean, standard_error) = mean_and_error(&values);
    let closed_form = if options.closed_form { Some(asked.closed_form(&observed)?) } else { None };
    let (mean_nats, _) = mean_and_error(&nats);
    let scale = (unit.value(1.0) - unit.value(0.0)).abs();
    let estimate_error =
        errors.filter(|errors| errors.iter().any(|error| *error > 0.0)).map(|errors| scale * mean_and_error(&errors).0);
    let report = LikelihoodReport {
        mean,
        standard_error,
        unit: unit.name,
        n: observed.count,
        dim: unit.dim,
        nats: mean_nats,
        nats_per_dim: mean_nats / unit.dim as f64,
        closed_form,
        estimate_error,
        evaluations,
        seconds: started.elapsed().as_secs_f64(),
        method: asked.method(options),
        meaning: unit.meaning(model, options.bound, options.published),
        model: model.name.clone(),
        data: observed.data.name.clone(),
        values,
    };
    files.write(&report, &observed)?;
    Ok(report)
}

/// The mean, and its standard error where there are two values.
fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

/// What is asked of a model, checked.
struct Asked<'a> {
    model: &'a Model,
    schedule: AnySchedule,
    ode: OdeLikelihood,
    bound: Option<Bound>,
    chain: Option<(VariationalBound, Vec<Kernel>)>,
    /// The variance of the data that the prior knows of.
    variance: f64,
    published: bool,
    state: usize,
}

impl<'a> Asked<'a> {
    fn of(model: &'a Model, options: &LikelihoodOptions) -> Result<Self> {
        let needed = Capability::Denoiser;
        let (Some(own), Some(_)) = (&model.schedule, &model.learned.denoiser) else {
            return Err(lacks(&model.name, &model.family, model.serves, needed, "stein likelihood"));
        };
        let schedule = options.schedule.as_deref().map_or_else(|| Ok(own.clone()), AnySchedule::named)?;
        schedule.check()?;
        ensure_within("--draws", options.draws, 1..=100_000)?;
        let state = model.subject.state_shape()?.iter().product();
        let random = options.probes.is_some() || options.probe.is_some();
        let hutchinson = Divergence::Hutchinson { probes: options.probes.unwrap_or(1), projection: options.projection };
        let divergence = match options.divergence.as_deref().map(str::to_lowercase).as_deref() {
            Some("exact") if random => {
                return Err(Error::new("the exact divergence has no probes: leave out --probes and --probe"));
            }
            Some("exact") => Divergence::Exact {},
            Some("hutchinson") => hutchinson,
            Some(other) => return Err(stein::names::unknown("divergence", other, &["exact", "hutchinson"])),
            None if random || state > EXACT => hutchinson,
            None => Divergence::Exact {},
        };
        let truncation = if options.published { Truncation::Ignored } else { Truncation::Corrected };
        let ode = OdeLikelihood { divergence, truncation, ..OdeLikelihood::exact(options.tolerance) };
        ode.check(&*schedule)?;
        let bound = (options.bound == Bounded::ScoreFlow).then_some(Bound { draws: LEVELS, start: None });
        if let Some(bound) = &bound {
            bound.check(&*schedule)?;
            ensure!(!random, "the bound has no divergence: leave out --probes and --probe");
            ensure!(!options.published, "--published is a convention of the ODE: leave it out with --bound scoreflow");
        }
        let chain = match options.bound {
            Bounded::Variational => Some(chain(model, &schedule, options)?),
            _ => {
                ensure!(
                    options.steps.is_none() && options.variance.is_none(),
                    "--steps and --variance are of the variational bound: give --bound vlb, or leave them out"
                );
                None
            }
        };
        ensure!(
            !options.closed_form || model.truth.is_some(),
            "the density of the data of {} is not known: leave out --closed-form",
            model.name
        );
        // Where the noise grows without the signal fading, published priors leave the data out.
        let fades = schedule.kernel(schedule.span().1).alpha < 1.0;
        let variance = if options.published { f64::from(u8::from(fades)) } else { model.subject.variance };
        Ok(Self { model, schedule, ode, bound, chain, variance, published: options.published, state })
    }

    /// The states of samples, and what makes their densities those of the data.
    fn states(&self, observed: &Observed, places: &[usize], keys: &Keys) -> Result<(Tensor<2>, Option<Vec<f64>>)> {
        let Some((bound, _)) = &self.chain else { return observed.states(places, keys) };
        // What is found is the probability of a cell of side 1/(levels - 1).
        let cell = self.model.subject.dim() as f64 * f64::from(bound.pixels.levels - 1).ln();
        Ok((observed.plain_states(places)?, Some(vec![cell; places.len()])))
    }

    /// The directions that a file gives.
    fn directions(&self, options: &LikelihoodOptions, n: usize) -> Result<Vec<Tensor<2>>> {
        let Some(path) = &options.probe else { return Ok(Vec::new()) };
        let (shape, numbers) = stein_data::read_array(path)?;
        let each = n * self.state;
        let fits = !numbers.is_empty() && numbers.len().is_multiple_of(each) && shape.contains(&n);
        ensure!(
            fits,
            "{} has the shape {shape:?}, and a direction for each of {n} samples has [{n}, {}]: give one, or several behind each \
             other",
            path.display(),
            self.state
        );
        ensure!(numbers.iter().all(|number| number.is_finite()), "{} has numbers that are not finite", path.display());
        if let Some(probes) = options.probes {
            let there = numbers.len() / each;
            ensure!(probes == there, "--probes {probes}, and {} has {there}: leave out --probes", path.display());
        }
        Ok(numbers.chunks_exact(each).map(|probe| rows::matrix(probe.to_vec(), self.state, &rows::exact())).collect())
    }

    fn log_density(
        &self,
        x: Tensor<2>,
        observed: &Observed,
        places: &[usize],
        keys: &Keys,
        directions: &[Tensor<2>],
        going: &Going,
    ) -> Result<LogDensity> {
        let model = self.model;
        let bare = model.learned.denoiser.as_ref().ok_or_else(|| Error::new("this model has no denoiser"))?;
        let denoiser = Asking { denoiser: bare, going };
        let given = observed.given(places);
        if let Some((bound, chain)) = &self.chain {
            return bound.log_probability(&denoiser, chain, &x, &given, keys, true);
        }
        if let Some(bound) = &self.bound {
            return bound.log_density(&denoiser, &*self.schedule, x, &given, keys, self.variance);
        }
        let std = self.schedule.kernel(self.schedule.span().1).prior_std(self.variance);
        let prior = match model.truth.as_ref().filter(|_| !model.trained && !self.published) {
            Some(exact) => Prior::Exact(exact),
            None => Prior::Normal { std },
        };
        if directions.is_empty() {
            return self.ode.log_density(&denoiser, &*self.schedule, x, &given, keys, prior);
        }
        self.ode.log_density_along(&denoiser, &*self.schedule, x, &given, directions, prior)
    }

    /// The mean of ln of the known density of the data.
    fn closed_form(&self, observed: &Observed) -> Result<f64> {
        let Some(truth) = &self.model.truth else { return Err(Error::new("the density of the data is not known")) };
        let values: Vec<f64> =
            observed.values(&(0..observed.count).collect::<Vec<_>>())?.into_iter().map(f64::from).collect();
        let known = truth.log_density(&values, &Kernel::CLEAN);
        Ok(known.iter().sum::<f64>() / known.len() as f64)
    }

    fn method(&self, options: &LikelihoodOptions) -> String {
        let mut text = format!("the probability-flow ODE on schedule {}", self.schedule.kind());
        if let Some((bound, chain)) = &self.chain {
            let variance = format!("{:?}", bound.variance).to_lowercase();
            return format!("the variational bound of {} levels, {variance} variances", chain.len());
        }
        if self.bound.is_some() {
            let levels = LEVELS * options.draws;
            return format!("the bound of ScoreFlow on schedule {}, {levels} levels a sample", self.schedule.kind());
        }
        let _ = write!(text, ", tolerance {}", options.tolerance);
        let _ = match (self.ode.divergence, &options.probe) {
            (Divergence::Exact {}, _) => write!(text, ", exact divergence"),
            (_, Some(path)) => write!(text, ", divergence along {}", path.display()),
            (Divergence::Hutchinson { probes, projection }, _) => {
                write!(text, ", divergence along {probes} {projection:?} direction(s)")
            }
        };
        if options.draws > 1 {
            let _ = write!(text, ", {} draws", options.draws);
        }
        text
    }
}

/// The variational bound and its levels, the cleanest first.
fn chain(
    model: &Model,
    schedule: &AnySchedule,
    options: &LikelihoodOptions,
) -> Result<(VariationalBound, Vec<Kernel>)> {
    ensure!(
        options.divergence.is_none() && options.probes.is_none() && options.probe.is_none(),
        "the variational bound has no divergence: leave out --divergence, --probes and --probe"
    );
    let Some(count) = schedule.levels() else {
        return Err(Error::of(
            Kind::Unsupported,
            format!(
                "the variational bound is a sum over the levels of a discrete schedule, and that of {} is {}: use --bound scoreflow",
                model.name,
                schedule.kind()
            ),
        ));
    };
    let affine = model.subject.codec.0.iter().all(|codec| matches!(codec.kind(), "affine" | "symmetric"));
    let (Some(levels), Some((low, high)), true) = (model.subject.levels, model.subject.range(), affine) else {
        return Err(Error::of(
            Kind::Unsupported,
            format!(
                "the variational bound is of gray levels, and the states of {} are none: use --bound scoreflow",
                model.name
            ),
        ));
    };
    let steps = options.steps.unwrap_or(count);
    ensure_within("--steps", steps, 2..=count)?;
    // As improved DDPM takes them: evenly, both ends included, rounded to even.
    let place = |k: usize| ((count - 1) as f64 * k as f64 / (steps - 1) as f64).round_ties_even();
    let kernels = (0..steps).map(|k| schedule.kernel(place(k))).collect();
    let learned = learns_variances(model, schedule)?;
    let variance = options.variance.unwrap_or(if learned { Variance::Learned } else { Variance::Posterior });
    ensure!(
        Kind::Unsupported,
        learned || variance != Variance::Learned,
        "{} has not learned variances: give --variance posterior or forward",
        model.name
    );
    let bound = VariationalBound { variance, pixels: Pixels { levels, low, high }, published: options.published };
    Ok((bound, kernels))
}

/// Whether a model says how noisy its reverse steps are.
fn learns_variances(model: &Model, schedule: &AnySchedule) -> Result<bool> {
    let Some(denoiser) = &model.learned.denoiser else { return Ok(false) };
    let state = model.subject.state_shape()?.iter().product();
    let given = match model.subject.learned_classes().first() {
        Some(&class) if model.trained => Condition::classes([class]),
        _ => Condition::none(),
    };
    let x = Tensor::zeros([1, state], (&model.device, model.dtype));
    Ok(stein::estimate(denoiser, x.into(), (&schedule.kernel(0.0)).into(), &given)?.variance.is_some())
}

/// The files of a report, begun before the work.
struct Outputs<'a> {
    values: Option<(Recorded, stein_base::files::PendingFile, &'a Path)>,
    rank: Option<(Recorded, stein_base::files::PendingFile, &'a Path)>,
}

impl<'a> Outputs<'a> {
    fn new(model: &Model, options: &'a LikelihoodOptions) -> Result<Self> {
        let inputs: Vec<PathBuf> = model
            .file
            .iter()
            .cloned()
            .chain(options.probe.clone())
            .chain(options.data.name.as_ref().map(PathBuf::from))
            .collect();
        let open = |path: &'a PathBuf, ending: &str| {
            let fits = path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
            ensure!(fits, "{} is written as .{ending}: end its name so", path.display());
            let recorded = Recorded::new(&beside(path, ".json"), inputs.clone(), options.force)?;
            let file = recorded.start(path)?;
            Ok((recorded, file, path.as_path()))
        };
        Ok(Self {
            values: options.output.as_ref().map(|path| open(path, "npy")).transpose()?,
            rank: options.rank.as_ref().map(|path| open(path, "csv")).transpose()?,
        })
    }

    fn write(self, report: &LikelihoodReport, observed: &Observed) -> Result<()> {
        let said = || match serde_json::to_value(report) {
            Ok(serde_json::Value::Object(said)) => said,
            _ => unreachable!("a report of finite numbers is a JSON object"),
        };
        if let Some((recorded, file, path)) = self.values {
            let mut array = NpyFile::<f64>::within(file, &[report.n])?;
            array.write(&report.values)?;
            array.finish()?;
            recorded.write(&[path], said())?;
        }
        if let Some((recorded, file, path)) = self.rank {
            rank(file, report, observed)?;
            recorded.write(&[path], said())?;
        }
        Ok(())
    }
}

/// Writes the samples, the least likely first.
fn rank(file: stein_base::files::PendingFile, report: &LikelihoodReport, observed: &Observed) -> Result<()> {
    let unlikely = |i: &usize| if report.unit == "nats" { report.values[*i] } else { -report.values[*i] };
    let mut order: Vec<usize> = (0..report.n).collect();
    order.sort_by(|i, j| unlikely(i).total_cmp(&unlikely(j)));
    let data = &observed.data;
    let mut table = csv::Writer::from_writer(file);
    let failed = |error: csv::Error| Error::of(Kind::File, format!("the ranking cannot be written: {error}"));
    let label = data.labels.as_ref().map(|_| data.label_name.clone().unwrap_or_else(crate::subject::label));
    let header = ["row", report.unit].into_iter().map(str::to_owned);
    table.write_record(header.chain(label).chain(data.columns.iter().cloned())).map_err(failed)?;
    for i in order {
        let cells = if data.columns.is_empty() { Vec::new() } else { observed.values(&[i])? };
        let class = data.labels.as_ref().map(|labels| data.class_names[labels[i]].clone());
        let numbers = [i.to_string(), report.values[i].to_string()].into_iter();
        table.write_record(numbers.chain(class).chain(cells.iter().map(f32::to_string))).map_err(failed)?;
    }
    let file =
        table.into_inner().map_err(|error| Error::of(Kind::File, format!("the ranking cannot be written: {error}")))?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use stein::codec::{Chain, Codec, Dequantized, Symmetric};

    use super::*;

    #[test]
    fn a_uniform_density_on_the_cube_takes_eight_bits() {
        let unit = Unit { name: "bits/dim", of_data: true, levels: Some(256), dim: 12 };
        let x = rows::matrix((0..12).map(|i| f64::from(i * 20) / 255.0).collect(), 12, &rows::exact());
        let spread = || Dequantized { levels: 256 }.into();
        // The density of states is 1 on [0, 1], or 1/2 a number on [-1, 1].
        for (codecs, side) in [(vec![spread()], 1.0f64), (vec![spread(), Symmetric {}.into()], 2.0)] {
            let log_det = Chain(codecs).log_det(&x, &Keys::range(0, 0, 1)).unwrap().unwrap()[0];
            let bits = unit.value(-12.0 * side.ln() + log_det);
            assert!((bits - 8.0).abs() < 1e-12, "{bits}");
        }
    }

    #[test]
    fn means_have_their_standard_errors() {
        assert_eq!(mean_and_error(&[1.0, 2.0, 3.0]), (2.0, Some((1.0f64 / 3.0).sqrt())));
        assert_eq!(mean_and_error(&[4.0]), (4.0, None));
    }
}
