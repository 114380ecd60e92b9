//! The training loop, which knows no family: learners take turns on a batch, each with its loss's gradient, AdamW and an average
//! of its weights.
//!
//! A run goes on bit for bit where it stopped: every random number is keyed by the seed and the position in the data.

mod encoded;
mod held_out;
mod measured;
mod metrics;
mod origin;
mod prepare;
mod reconstructed;
mod sheet;
mod step;

pub use prepare::prepare;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use burn::module::Module;
use stein::{Denoiser, Device, Error, Grid, Kind, Result, Spacing, exact::GaussianMixture};
use stein_data::{Ahead, Loader};
use stein_nn::{AdamW, AnyNetwork, Checkpoint, Ema, LearnerState, Lpips, Weights, state};

use self::encoded::Encoded;
use self::held_out::HeldOut;
use self::measured::evaluated;
use self::metrics::{Metrics, Window};
use self::origin::Beginnings;
use self::sheet::write_sheet;
use crate::{
    Coding, Description, Event, Experiment, Model, RunDir, SampleConfig, Watch,
    description::{FROM, WINDOW, run_metadata},
    family::Follows,
    grids::Grids,
    report::write_report,
    run_dir::Claim,
    shown::Pictures,
};

/// Where and how to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The run directory.
    pub out: PathBuf,
    /// What training starts from.
    pub start: Start,
    /// Where data sets lie, instead of `STEIN_DATA`.
    pub data_dir: Option<PathBuf>,
    /// Name of the device.
    pub device: String,
}

/// What training starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Fresh weights, in a new run.
    New,
    /// The weights of a model, in a new run: a run directory, a checkpoint file, or an imported model. Where it has an average of
    /// its weights, that; the optimizer is new.
    From(String),
    /// Where the run stopped, as if it never had.
    Resume,
    /// An earlier checkpoint of the run, by its step. What came after is set aside in the run directory.
    ResumeFrom(u64),
}

/// The keys of an experiment that may change when a run goes on; a table stands for all that is in it.
pub const RESUMABLE: &[&str] = &[
    "train.steps",
    "train.rate.decay.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.sample_every",
    "train.evaluate",
    "sample",
];

/// A finished or stopped run.
pub struct Trained {
    /// Its directory.
    pub run: RunDir,
    /// The model of the averaged weights.
    pub model: Model,
    /// Steps taken in all.
    pub step: u64,
    /// Whether it was asked to stop before the end; a checkpoint was written.
    pub stopped: bool,
    /// Seconds this call trained.
    pub seconds: f64,
    /// Seconds of those that the networks waited for data.
    pub waited: f64,
}

/// A learner with all that training changes.
struct Part {
    name: String,
    network: AnyNetwork,
    optimizer: AdamW,
    rate: stein_nn::RateConfig,
    follows: Option<Follows>,
}

/// Everything of a run that exists before its first step.
pub struct Prepared {
    experiment: Experiment,
    run: RunDir,
    claim: Option<Claim>,
    loader: Loader,
    held_out: Option<HeldOut>,
    description: Description,
    device: Device,
    parts: Vec<Part>,
    averages: BTreeMap<String, Ema>,
    step: u64,
    window: Window,
    /// What the first weights were taken from.
    from: Option<String>,
    /// What a person may want to know before training begins.
    notes: Vec<String>,
    /// The distribution of the states, where it is known.
    truth: Option<Arc<GaussianMixture>>,
    /// What it learns from beside the data.
    teacher: Option<Arc<dyn Denoiser>>,
    /// The features that reconstructions are compared by.
    perceptual: Option<Lpips>,
    /// Where its paths begin, if not with noise.
    origin: Option<Beginnings>,
    /// The latents of the examples, of a model of latents, once they are made.
    encoded: Option<Encoded>,
    /// What the model is shown beside its input.
    pictures: Option<Pictures>,
    /// Where data sets lie.
    data_dir: Option<PathBuf>,
}

impl Prepared {
    /// What a person wants to know before it starts.
    fn opening(&self) -> String {
        let held_out = match &self.held_out {
            Some(held_out) => format!("{} held out", held_out.all),
            None => "none held out".to_owned(),
        };
        format!(
            "{}: {} parameters, {} examples to train on, {held_out}, steps {} to {}",
            self.run.root().display(),
            self.parameters(),
            self.examples(),
            self.step,
            self.experiment.train.steps
        )
    }

    /// Parameters of all networks.
    pub fn parameters(&self) -> usize {
        self.parts.iter().map(|part| part.network.parameters()).sum()
    }

    /// Examples in the data.
    pub fn examples(&self) -> usize {
        self.loader.data().len()
    }

    /// Steps taken so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    fn write_checkpoint(&self) -> Result<()> {
        self.checkpoint()?.write(&self.run.checkpoint_path(self.step))?;
        self.run.prune(self.experiment.train.keep)
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let learner = |part: &Part| {
            let saved = LearnerState {
                weights: state::tensors(&part.network),
                average: self.averages.get(&part.name).map(Ema::tensors),
                optimizer: part.optimizer.tensors(),
            };
            (part.name.clone(), saved)
        };
        let mut metadata = run_metadata(&self.description, &self.experiment);
        metadata.extend(self.from.clone().map(|from| (FROM.to_owned(), from)));
        metadata.extend(self.window.saved().map(|window| (WINDOW.to_owned(), window)));
        let autoencoder = self.description.subject.autoencoder.as_ref().map(Coding::stored);
        let learners = self.parts.iter().map(learner).chain(autoencoder).collect();
        let checkpoint = Checkpoint { learners, step: self.step, metadata };
        checkpoint.check_finite().map_err(|error| self.not_finite(self.step, &error.to_string()))?;
        Ok(checkpoint)
    }

    fn not_finite(&self, step: u64, what: &str) -> Error {
        let good = match self.run.latest() {
            Ok(path) => format!("the last good checkpoint is {}", path.display()),
            Err(_) => "there is no checkpoint yet".to_owned(),
        };
        let sentence = format!(
            "training stopped at step {step}: {what}; {good}; lower train.rate.rate, or set train.optimizer.clip"
        );
        Error::of(Kind::NotFinite, sentence)
    }

    fn model(&self) -> Result<Model> {
        let name = self.run.root().display().to_string();
        let network = |part: &Part| {
            let network = match self.averages.get(&part.name) {
                Some(average) => average.network(&part.network),
                None => part.network.valid(),
            };
            (part.name.clone(), network)
        };
        let networks = self.parts.iter().map(network).collect();
        let mut model = Model::of(&name, networks, &self.description, &self.device)?;
        model.data = Some(self.experiment.data.clone());
        model.sample = self.sampled_now(&model.sample)?;
        let model = model.with_truth_of(&self.experiment.data).with_data_in(self.data_dir.as_deref());
        let which = if self.averages.is_empty() { Weights::Raw } else { Weights::Ema };
        Ok(model.with_weights_of_step(which, self.step, &self.experiment, self.from.is_some()))
    }

    /// How samples are drawn while it trains: until levels are found for an optimized grid, on that of Karras et al.
    fn sampled_now(&self, config: &SampleConfig) -> Result<SampleConfig> {
        let found = Grids::read(&self.run.grids_path())?.listed(config);
        Ok(found.unwrap_or_else(|| {
            let spacing = Spacing::Karras { rho: 7.0 };
            SampleConfig { grid: Grid { spacing, ..config.grid.clone() }, ..config.clone() }
        }))
    }

    fn progress(&self, progress: Option<(f64, f64)>) -> Event<'static> {
        let (step, steps, every) = (self.step, self.experiment.train.steps, self.experiment.train.sample_every);
        let sheets_by = |step: u64| step.checked_div(every).unwrap_or(0);
        let between = sheets_by(steps.saturating_sub(1)).saturating_sub(sheets_by(step));
        let draws = step < steps && self.experiment.draws_sheets();
        Event::Trained { step, steps, sheets: if draws { between + 1 } else { 0 }, progress }
    }
}

/// Batches read ahead of the one in use.
const AHEAD: usize = 4;

/// Trains to the experiment's last step, or until the watch says stop, which writes a checkpoint and returns.
///
/// ```no_run
/// use std::path::Path;
/// use stein_run::{Experiment, Silent, Start, TrainOptions, prepare, train};
///
/// let experiment = Experiment::read(Path::new("experiments/points2d/edm.toml"), &[])?;
/// let options =
///     TrainOptions { out: "runs/moons".into(), start: Start::New, data_dir: None, device: "cpu".into() };
/// let trained = train(prepare(&experiment, &options)?, &mut Silent)?;
/// println!("{} steps, the model is in {}", trained.step, trained.run.root().display());
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// A loss or gradient that is no longer finite: the sentence names the step and the last good checkpoint. Data that cannot be
/// read, files that cannot be written.
pub fn train(mut state: Prepared, watch: &mut dyn Watch) -> Result<Trained> {
    let config = state.experiment.train.clone();
    let mut metrics = Metrics::open(&state.run)?;
    let part = config.batch / config.accumulate;
    let position = state.step * config.batch as u64;
    let mut batches = Ahead::new(state.loader.clone(), position, part, AHEAD * config.accumulate);
    let mut kept = None;
    let started = Instant::now();
    watch.event(Event::Note(&state.opening()));
    state.notes.iter().for_each(|note| watch.event(Event::Note(note)));
    watch.event(state.progress(None));
    if state.sheet_is_due() && !state.run.sample_path(state.step).exists() {
        // It was interrupted.
        write_sheet(&state, &mut metrics, watch);
    }
    let mut stopped = false;
    if let Some(origin) = &mut state.origin {
        let subject = &state.description.subject;
        match origin.make(&state.run, &state.experiment, subject, state.loader.data(), watch) {
            Err(error) if error.kind() == Kind::Stopped => stopped = true,
            made => made?,
        }
    }
    if state.description.subject.autoencoder.is_some() && !stopped {
        let (path, seed) = (state.run.latents_path(), state.experiment.seed);
        match Encoded::make(&path, &state.description.subject, state.loader.data(), seed, watch) {
            Err(error) if error.kind() == Kind::Stopped => stopped = true,
            made => state.encoded = Some(made?),
        }
    }
    state.window.since = Instant::now();
    while !stopped && state.step < config.steps && goes_on(watch)? {
        let batch = (0..config.accumulate).map(|_| batches.next()).collect::<Result<Vec<_>>>()?;
        let moved = match state.take_step(&batch, &*watch) {
            Err(error) if error.kind() == Kind::Stopped => break,
            moved => moved?,
        };
        state.window.add(&moved, config.batch);
        let (last, mut numbers, mut progress) = (state.step == config.steps, Vec::new(), None);
        if last || state.step.is_multiple_of(config.log_every) {
            numbers = state.window.close(&state.parts);
            progress = Some((numbers[0].1, numbers[numbers.len() - 1].1));
        }
        let saves = last || state.step.is_multiple_of(config.checkpoint_every);
        if saves {
            let from = Instant::now();
            let losses = state.held_out_numbers()?;
            if let Some((name, loss)) = losses.iter().find(|(_, loss)| !loss.is_finite()) {
                // The loss of the step was that before it, and says nothing of the weights that would be saved.
                return Err(state.not_finite(state.step, &format!("{name} is {loss}")));
            }
            if let Some(concern) = state.experiment.family.concern(&losses) {
                watch.event(Event::Note(&format!("step {}: {concern}", state.step)));
            }
            numbers.extend(losses);
            state.window.away += from.elapsed();
        }
        if state.evaluation_is_due() {
            let from = Instant::now();
            numbers.extend(evaluated(&state, &mut kept, watch)?);
            state.window.away += from.elapsed();
        }
        if !numbers.is_empty() {
            metrics.write(state.step, &numbers)?;
        }
        watch.event(state.progress(progress));
        if saves {
            state.write_checkpoint()?;
        }
        if state.sheet_is_due() {
            let from = Instant::now();
            write_sheet(&state, &mut metrics, watch);
            leave_report(&state.run, watch);
            state.window.away += from.elapsed();
        }
    }
    if !state.run.checkpoint_path(state.step).exists() {
        state.write_checkpoint()?;
    }
    leave_report(&state.run, watch);
    Ok(Trained {
        model: state.model()?,
        step: state.step,
        stopped: state.step < config.steps,
        seconds: started.elapsed().as_secs_f64(),
        waited: batches.waited().as_secs_f64(),
        run: state.run,
    })
}

/// Leaves the report of a run; one that cannot be written ends no training.
fn leave_report(run: &RunDir, watch: &mut dyn Watch) {
    if let Err(error) = write_report(run) {
        watch.event(Event::Note(&format!("there is no report: {error}")));
    }
}

/// Whether the watch lets the work go on; only being stopped is no error.
fn goes_on(watch: &dyn Watch) -> Result<bool> {
    match watch.going() {
        Err(error) if error.kind() == Kind::Stopped => Ok(false),
        other => other.map(|()| true),
    }
}
