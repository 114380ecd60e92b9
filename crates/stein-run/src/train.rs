//! The training loop, which knows no family: learners take turns on a batch, each with its loss's gradient, AdamW and an average
//! of its weights.
//!
//! A run goes on bit for bit where it stopped: every random number is keyed by the seed and the position in the data.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use burn::module::Module;
use stein::{Condition, Device, Error, Keys, Kind, Result, ensure};
use stein_data::{Ahead, Loader, LoaderConfig, Split};
use stein_nn::{Accumulated, AdamW, AnyNetwork, Checkpoint, Ema, LearnerState, on_tapes, state};

use crate::{
    Classes, Description, Event, Experiment, Model, Plan, RunDir, Subject, Watch,
    description::{described, run_metadata},
    device, draw,
    family::{Batch, Learner, Learners, Make},
    picture::{to_png, write_png},
    report::write_report,
    sheet::{enough, picture},
    tensorboard::EventWriter,
};

/// Where and how to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The run directory.
    pub out: PathBuf,
    /// Whether to continue the run there.
    pub resume: bool,
    /// Where data sets lie, instead of `STEIN_DATA`.
    pub data_dir: Option<PathBuf>,
    /// Name of the device.
    pub device: String,
}

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
}

/// Everything of a run that exists before its first step.
pub struct Prepared {
    experiment: Experiment,
    run: RunDir,
    loader: Loader,
    description: Description,
    device: Device,
    parts: Vec<Part>,
    averages: BTreeMap<String, Ema>,
    step: u64,
}

/// Opens or makes the run: all that can fail because of the experiment, the data or the directory fails here.
///
/// # Errors
/// See above; each sentence says what to change.
pub fn prepare(experiment: &Experiment, options: &TrainOptions) -> Result<Prepared> {
    experiment.check()?;
    let device = device(&options.device)?;
    let run = if options.resume { RunDir::open(&options.out)? } else { RunDir::vacant(&options.out)? };
    let data = Arc::new(experiment.data.source.load(Split::Train, options.data_dir.as_deref())?);
    let settings = LoaderConfig { seed: experiment.seed, flip: experiment.data.flip };
    let loader = Loader::new(Arc::clone(&data), settings)?;
    let subject = Subject::of(&data, &experiment.data)?;
    let (parts, averages) = parts(experiment, &subject, &device)?;
    let description = Description::of(experiment, subject);
    let experiment = experiment.clone();
    let fresh = Prepared { experiment, run, loader, description, device, parts, averages, step: 0 };
    // How the model will be sampled in the end is tried before the first step.
    let model = fresh.model()?;
    Plan::new(&model, 1, 0, &Classes::Default, &model.sample, false).map_err(|error| error.at("sample"))?;
    if options.resume {
        return resume(fresh);
    }
    fresh.run.make_folders()?;
    fresh.write_checkpoint()?;
    fresh.run.set_experiment(&fresh.experiment)?;
    Ok(fresh)
}

/// The learners of a family with their optimizers and averages.
fn parts(experiment: &Experiment, subject: &Subject, device: &Device) -> Result<(Vec<Part>, BTreeMap<String, Ema>)> {
    let shape = subject.state_shape()?;
    let device = device.clone().autodiff();
    let make = Make { shape: &shape, classes: subject.classes.len(), seed: experiment.seed, device: &device };
    let config = &experiment.train;
    let mut averages = BTreeMap::new();
    let mut parts = Vec::new();
    for Learner { name, network, optimizer, rate, averaged } in experiment.family.learners(&make)? {
        if averaged {
            averages.insert(name.clone(), Ema::new(config.ema.clone(), &network)?);
        }
        let optimizer = AdamW::new(optimizer.unwrap_or_else(|| config.optimizer.clone()))?;
        parts.push(Part { name, network, optimizer, rate: rate.unwrap_or_else(|| config.rate.clone()) });
    }
    ensure!(!parts.is_empty(), "family {} has nothing that learns", experiment.family.kind());
    Ok((parts, averages))
}

/// Brings a fresh state to where the run stopped.
fn resume(mut fresh: Prepared) -> Result<Prepared> {
    let mut before = fresh.run.experiment()?;
    before.train.steps = fresh.experiment.train.steps;
    ensure!(
        Kind::Mismatch,
        before == fresh.experiment,
        "the experiment differs from the one {} was started with, and only train.steps may change: give the same settings, or \
         start anew with another --out",
        fresh.run.root().display()
    );
    let path = fresh.run.latest()?;
    let checkpoint = Checkpoint::read(&path)?;
    let at = |error: Error| error.at(path.display());
    ensure!(
        fresh.experiment.train.steps >= checkpoint.step,
        "{} is at step {} already: give train.steps of at least that",
        fresh.run.root().display(),
        checkpoint.step
    );
    let described = described(&checkpoint.metadata).map_err(at)?;
    ensure!(
        Kind::Mismatch,
        described.subject == fresh.description.subject,
        "the data of {} are not those it was started with: bring them back, or start anew with another --out",
        fresh.run.root().display()
    );
    for part in &mut fresh.parts {
        let saved = checkpoint.learners.get(&part.name).ok_or_else(|| {
            at(Error::of(Kind::Mismatch, format!("there is no learner `{}`: the file is damaged", part.name)))
        })?;
        part.network = state::load(part.network.clone(), &saved.weights).map_err(at)?;
        part.optimizer =
            AdamW::restore(part.optimizer.config().clone(), &part.network, &saved.optimizer).map_err(at)?;
        if let (Some(average), Some(saved)) = (fresh.averages.get_mut(&part.name), &saved.average) {
            average.load(saved).map_err(at)?;
        }
    }
    fresh.step = checkpoint.step;
    fresh.run.set_experiment(&fresh.experiment)?;
    fresh.run.cut_metrics(fresh.step)?;
    Ok(fresh)
}

impl Prepared {
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
        let learner = |part: &Part| {
            let saved = LearnerState {
                weights: state::tensors(&part.network),
                average: self.averages.get(&part.name).map(Ema::tensors),
                optimizer: part.optimizer.tensors(),
            };
            (part.name.clone(), saved)
        };
        let checkpoint = Checkpoint {
            learners: self.parts.iter().map(learner).collect(),
            step: self.step,
            metadata: run_metadata(&self.description, &self.experiment),
        };
        checkpoint.write(&self.run.checkpoint_path(self.step))?;
        self.run.prune(self.experiment.train.keep)
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
        Ok(Model::of(&name, networks, &self.description, &self.device)?.with_truth_of(&self.experiment.data.source))
    }

    /// What the learners see in the turn of one of them: its network trainable, the others constants.
    fn turn(&self, turn: usize) -> Vec<AnyNetwork> {
        let network = |(i, part): (usize, &Part)| if i == turn { part.network.clone() } else { part.network.valid() };
        self.parts.iter().enumerate().map(network).collect()
    }

    /// The gradient of one learner's loss on a batch, and the loss; `None` where the learner rests.
    fn gradient(&self, turn: usize, batches: &[stein_data::Batch]) -> Result<Option<(Accumulated, f64)>> {
        let mut gradients = Accumulated::new();
        let (mut loss, mut counted) = (0.0, 0);
        for batch in batches {
            let count = batch.index.len();
            let tapes = on_tapes(self.turn(turn), count, |networks, rows| {
                let names = self.parts.iter().map(|part| part.name.clone());
                let learners = Learners { networks: names.zip(networks).collect(), averages: &self.averages };
                let name = &self.parts[turn].name;
                let term = self.experiment.family.loss(name, &learners, &self.batch(batch, rows)?)?;
                let Some(term) = term else { return Ok(None) };
                let backward = term.backward();
                Ok::<_, Error>(Some((learners.networks.get(name)?.clone(), backward, term.into_scalar::<f64>())))
            });
            for tape in tapes {
                if let Some((network, backward, term)) = tape? {
                    gradients.add(&network, backward);
                    loss += term;
                    counted += 1;
                }
            }
        }
        Ok((counted > 0).then(|| (gradients, loss / f64::from(counted))))
    }

    /// Some rows of a batch of data as a batch of states.
    fn batch(&self, batch: &stein_data::Batch, rows: Range<usize>) -> Result<Batch> {
        let dim = self.description.subject.dim();
        let keys = Keys::range(self.experiment.seed, batch.positions.start + rows.start as u64, rows.len());
        let device = self.device.clone().autodiff();
        let x = self.description.subject.encode(&batch.x[rows.start * dim..rows.end * dim], &keys, &device)?;
        let labels = batch.labels.as_ref().filter(|_| self.experiment.data.conditional);
        let given = match labels {
            Some(labels) => Condition::classes(labels[rows].iter().map(|&label| label as u32)),
            None => Condition::none(),
        };
        Ok(Batch { x, given, keys, step: self.step })
    }

    /// One step of every learner in its turn: the loss, the gradient's norm and the rate of those that moved.
    fn take_step(&mut self, batches: &[stein_data::Batch]) -> Result<Vec<Moved>> {
        let batch = self.experiment.train.batch;
        let mut moved = Vec::new();
        for turn in 0..self.parts.len() {
            let Some((gradients, loss)) = self.gradient(turn, batches)? else { continue };
            // Taken out, so that the step has the only handle on the weights and changes them in place.
            let mut part = self.parts.remove(turn);
            let rate = part.rate.at(self.step);
            let average = self.averages.get_mut(&part.name).map(|average| (average, batch));
            let (network, norm) = part.optimizer.step(part.network, gradients, rate, average);
            part.network = network;
            self.parts.insert(turn, part);
            if !(loss.is_finite() && norm.is_finite()) {
                return Err(Error::of(
                    Kind::NotFinite,
                    format!(
                        "training stopped at step {}: the loss is {loss} and the gradient's norm {norm}; the last good checkpoint \
                         is {}; lower train.rate.rate, or set train.optimizer.clip",
                        self.step + 1,
                        self.run.latest()?.display()
                    ),
                ));
            }
            moved.push(Moved { turn, loss, norm, rate });
        }
        self.step += 1;
        Ok(moved)
    }
}

/// What a learner's step came to.
struct Moved {
    turn: usize,
    loss: f64,
    norm: f64,
    rate: f64,
}

/// The metrics of a run, in both formats.
struct Metrics {
    lines: File,
    events: EventWriter,
}

impl Metrics {
    fn open(run: &RunDir) -> Result<Self> {
        let path = run.metrics_path();
        let lines =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|error| {
                Error::of(Kind::File, format!("cannot write the metrics {}: {error}", path.display()))
            })?;
        Ok(Self { lines, events: EventWriter::create(run.root())? })
    }

    fn write(&mut self, step: u64, numbers: &[(String, f64)]) -> Result<()> {
        let mut line = serde_json::Map::from_iter([("step".to_owned(), step.into())]);
        for (name, value) in numbers {
            line.insert(name.clone(), (*value).into());
            self.events.scalar(name, step as i64, *value as f32)?;
        }
        self.events.flush()?;
        writeln!(self.lines, "{}", serde_json::Value::Object(line))
            .map_err(|error| Error::of(Kind::File, format!("cannot write the metrics: {error}; is the disk full?")))
    }
}

/// Batches read ahead of the one in use.
const AHEAD: usize = 4;

/// Trains to the experiment's last step, or until the watch says stop, which writes a checkpoint and returns.
///
/// ```no_run
/// use std::path::Path;
/// use stein_run::{Experiment, Silent, TrainOptions, prepare, train};
///
/// let experiment = Experiment::read(Path::new("experiments/points2d/edm.toml"), &[])?;
/// let options =
///     TrainOptions { out: "runs/moons".into(), resume: false, data_dir: None, device: "cpu".into() };
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
    let started = Instant::now();
    let mut window = Window::new(state.parts.len());
    watch.event(Event::Trained { step: state.step, steps: config.steps, progress: None });
    while state.step < config.steps && goes_on(watch)? {
        let batch = (0..config.accumulate).map(|_| batches.next()).collect::<Result<Vec<_>>>()?;
        window.add(&state.take_step(&batch)?, config.batch);
        let mut progress = None;
        if state.step.is_multiple_of(config.log_every) || state.step == config.steps {
            let numbers = window.close(&state.parts);
            progress = Some((numbers[0].1, numbers[numbers.len() - 1].1));
            metrics.write(state.step, &numbers)?;
        }
        watch.event(Event::Trained { step: state.step, steps: config.steps, progress });
        if state.step.is_multiple_of(config.checkpoint_every) {
            state.write_checkpoint()?;
        }
        if config.sample_every > 0 && state.step.is_multiple_of(config.sample_every) {
            write_sheet(&state, &mut metrics, watch)?;
            leave_report(&state.run, watch);
            window = Window::new(state.parts.len());
        }
    }
    if !state.run.checkpoint_path(state.step).exists() {
        state.write_checkpoint()?;
    }
    if state.step == config.steps && !state.run.sample_path(state.step).exists() {
        write_sheet(&state, &mut metrics, watch)?;
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

/// Draws a sheet of samples of the averaged weights into the run and the events. Early weights may give no finite samples, and
/// a stop may come: neither ends the training, which goes on without the picture.
fn write_sheet(state: &Prepared, metrics: &mut Metrics, watch: &mut dyn Watch) -> Result<()> {
    let model = state.model()?;
    let n = enough(&model.subject);
    let drawn = draw(&model, n, state.experiment.seed, &Classes::Default, &model.sample, watch);
    let sheet = match drawn.and_then(|drawn| picture(&model, &drawn.values, drawn.labels.as_deref())) {
        Ok(sheet) => sheet,
        Err(error) => {
            watch.event(Event::Note(&format!("there is no picture of step {}: {error}", state.step)));
            return Ok(());
        }
    };
    write_png(state.run.sample_path(state.step), &sheet)?;
    let (width, height) = (sheet.width() as usize, sheet.height() as usize);
    metrics.events.image_png("samples", state.step as i64, height, width, 3, &to_png(&sheet)?)?;
    metrics.events.flush()
}

/// What the learners did since the last line of metrics, and how fast.
struct Window {
    since: Instant,
    examples: usize,
    /// Sum of losses, steps, last norm and rate of each learner.
    learners: Vec<(f64, usize, f64, f64)>,
}

impl Window {
    fn new(learners: usize) -> Self {
        Self { since: Instant::now(), examples: 0, learners: vec![(0.0, 0, 0.0, 0.0); learners] }
    }

    fn add(&mut self, moved: &[Moved], examples: usize) {
        self.examples += examples;
        for step in moved {
            let learner = &mut self.learners[step.turn];
            *learner = (learner.0 + step.loss, learner.1 + 1, step.norm, step.rate);
        }
    }

    /// Mean losses, last norms and rates, examples per second, and a new start. Where several learn, their names stand behind.
    fn close(&mut self, parts: &[Part]) -> Vec<(String, f64)> {
        let closed = std::mem::replace(self, Self::new(parts.len()));
        let mut numbers = Vec::new();
        for (part, (losses, steps, norm, rate)) in parts.iter().zip(closed.learners) {
            let behind = if parts.len() > 1 { format!("/{}", part.name) } else { String::new() };
            if steps > 0 {
                let named = [("loss", losses / steps as f64), ("gradient_norm", norm), ("rate", rate)];
                numbers.extend(named.map(|(name, value)| (format!("{name}{behind}"), value)));
            }
        }
        let per_second = closed.examples as f64 / closed.since.elapsed().as_secs_f64();
        numbers.push(("examples_per_second".to_owned(), per_second));
        numbers
    }
}
