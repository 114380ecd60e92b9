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
    time::{Duration, Instant},
};

use burn::module::Module;
use stein::{Condition, Denoiser, Device, Error, Grid, Keys, Kind, Result, Spacing, ensure, exact::GaussianMixture};
use stein_base::memory::ensure_fits;
use stein_data::{Ahead, Loader, LoaderConfig, Split};
use stein_metrics::AnyMetric;
use stein_nn::{Accumulated, AdamW, AnyNetwork, Checkpoint, Ema, LearnerState, SavedWeights, Weights, on_tapes, state};

use crate::{
    Classes, Description, EvaluateConfig, EvaluateOptions, Evaluation, Event, Experiment, Model, Of, Plan, RunDir,
    SampleConfig, Subject, Watch,
    description::{FROM, WINDOW, described, run_metadata},
    device, draw,
    evaluate::{Compared, Kept, check_evaluation},
    experiment::Difference,
    family::{Batch, Follows, Learner, Learners, Make, Networks},
    grids::Grids,
    model::{checkpoint_of, known_density},
    output::record,
    picture::{to_png, write_png},
    replacing::{Recorded, beside},
    report::write_report,
    run_dir::Claim,
    sheet::{enough, picture},
    shown::Pictures,
    tensorboard::EventWriter,
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
    /// What the model is shown beside its input.
    pictures: Option<Pictures>,
    /// Where data sets lie.
    data_dir: Option<PathBuf>,
}

/// Opens or makes the run: all that can fail because of the experiment, the data or the directory fails here.
///
/// # Errors
/// See above; each sentence says what to change.
pub fn prepare(experiment: &Experiment, options: &TrainOptions) -> Result<Prepared> {
    experiment.check()?;
    let device = device(&options.device)?;
    let (run, claim) = match options.start {
        Start::New | Start::From(_) => (RunDir::vacant(&options.out)?, None),
        Start::Resume | Start::ResumeFrom(_) => {
            let run = RunDir::open(&options.out)?;
            let claim = run.claim()?;
            (run, Some(claim))
        }
    };
    let load = |split| experiment.data.source.load(split, options.data_dir.as_deref());
    let data = Arc::new(load(Split::Train)?);
    let mut notes = data.notes.clone();
    let held_out = match load(Split::Test).and_then(|held_out| HeldOut::of(&held_out, &data, experiment)) {
        Ok(held_out) => Some(held_out),
        Err(error) => {
            notes.push(format!("no data are held out, so no loss is measured on them ({error})"));
            None
        }
    };
    let settings =
        LoaderConfig { seed: experiment.seed, flip: experiment.data.flip, shift: experiment.data.shift as usize };
    let loader = Loader::new(Arc::clone(&data), settings)?;
    let subject = Subject::of(&data, &experiment.data)?;
    let truth = known_density(&experiment.data.source).and_then(|law| subject.law_of_states(&law)).map(Arc::new);
    ensure!(
        Kind::Unsupported,
        truth.is_some() || !experiment.family.needs_truth(),
        "family.objective needs the score of the data, which is not known of {}: use implicit, sliced or denoising, or points2d/two_gaussians \
         or eight_gaussians with no codec but standardize, affine or symmetric",
        data.name
    );
    ensure!(
        subject.shown.is_none() || experiment.family.takes_pictures(),
        "data.shown is for families whose networks can be shown pictures, and {} is none: leave it out",
        experiment.family.kind()
    );
    let pictures = subject.shown.as_ref().map(|shown| shown.pictures(&subject)).transpose()?;
    let (parts, averages) = parts(experiment, &subject, &device)?;
    let teacher = experiment.family.teacher();
    let opened = teacher.map(|teacher| teacher.open(&subject, experiment.family.schedule(), &device)).transpose()?;
    let description = Description::of(experiment, subject);
    let experiment = experiment.clone();
    let window = Window::new(parts.len());
    let mut fresh = Prepared {
        experiment,
        run,
        claim,
        loader,
        held_out,
        description,
        device,
        parts,
        averages,
        step: 0,
        window,
        from: None,
        notes,
        truth,
        teacher: opened,
        pictures,
        data_dir: options.data_dir.clone(),
    };
    // How the model will be sampled in the end is tried before the first step.
    let model = fresh.model()?;
    if fresh.experiment.sample.is_some() && fresh.pictures.is_none() {
        Plan::new(&model, 1, 0, &Classes::Default, &model.sample, false).map_err(|error| error.at("sample"))?;
    }
    let asked = fresh.experiment.sample.as_ref().map(|sample| &sample.grid.spacing);
    if asked == Some(&Spacing::Optimized {}) && !matches!(model.sample.grid.spacing, Spacing::Given { .. }) {
        fresh.notes.push(
            "until `stein sweep --grids optimized` has found the levels of the optimized grid for this run, samples are drawn on the grid of \
             Karras et al."
                .to_owned(),
        );
    }
    if fresh.experiment.train.evaluate.every > 0 {
        check_evaluation(model, &fresh.evaluation()).map_err(|error| error.at("train.evaluate"))?;
    }
    match &options.start {
        Start::Resume => return fresh.resumed(None),
        Start::ResumeFrom(step) => return fresh.resumed(Some(*step)),
        Start::From(model) => fresh.take_weights(model)?,
        Start::New => {
            if let Some(teacher) = teacher.filter(|teacher| teacher.start) {
                fresh.take_weights(&teacher.model).map_err(|error| {
                    let advice = "; set family.teacher.start = false to begin with fresh weights";
                    Error::of(error.kind(), format!("{error}{advice}")).at("family.teacher")
                })?;
            }
        }
    }
    fresh.claim = Some(fresh.run.begin()?);
    fresh.write_checkpoint()?;
    fresh.run.set_experiment(&fresh.experiment)?;
    Ok(fresh)
}

/// Examples that are not trained on, always the same with the same noise.
struct HeldOut {
    /// How many there are in all.
    all: usize,
    /// Those that are looked at.
    batch: stein_data::Batch,
}

/// Most held-out examples that are looked at, and most numbers in them.
const HELD_OUT: (usize, usize) = (512, 1 << 24);

impl HeldOut {
    /// An even part of the data, so small that looking at it takes less than a twentieth of the time between two checkpoints: a loss
    /// without its gradient takes about a third of the time of a loss with it.
    fn of(data: &stein_data::Data, trained: &stein_data::Data, experiment: &Experiment) -> Result<Self> {
        ensure!(
            Kind::Mismatch,
            (data.shape, &data.class_names) == (trained.shape, &trained.class_names),
            "those of {} have another shape or other classes than those to train on",
            data.name
        );
        let between = experiment.train.checkpoint_every.saturating_mul(experiment.train.batch as u64);
        let affordable = usize::try_from(between / 20 * 3).unwrap_or(usize::MAX);
        let count = HELD_OUT.0.min(HELD_OUT.1 / data.dim()).min(affordable).clamp(1, data.len());
        let index = data.spaced(count);
        let labels = data.labels.as_ref().map(|labels| index.iter().map(|&i| labels[i]).collect());
        // No training comes that far: the noise of these examples is their own.
        let first = 1 << 63;
        let positions = first..first + count as u64;
        Ok(Self { all: data.len(), batch: stein_data::Batch { x: data.rows(&index)?, index, positions, labels } })
    }
}

/// The learners of a family with their optimizers and averages.
fn parts(experiment: &Experiment, subject: &Subject, device: &Device) -> Result<(Vec<Part>, BTreeMap<String, Ema>)> {
    let shape = subject.state_shape()?;
    let rows = experiment.train.batch / experiment.train.accumulate;
    // As they are read, as states and noisy.
    let mut bytes = 12 * (experiment.train.batch as u128) * shape.iter().product::<usize>() as u128;
    for size in experiment.family.sizes(&shape, subject.classes.len(), subject.beside())? {
        bytes = bytes.saturating_add(size.training(rows));
    }
    ensure_fits(&format!("training with {rows} examples at a time (train.batch / train.accumulate)"), bytes)?;
    let device = device.clone().autodiff();
    let make = Make {
        shape: &shape,
        classes: subject.classes.len(),
        beside: subject.beside(),
        seed: experiment.seed,
        device: &device,
    };
    let config = &experiment.train;
    let mut averages = BTreeMap::new();
    let mut parts = Vec::new();
    for Learner { name, network, optimizer, rate, averaged, follows } in experiment.family.learners(&make)? {
        if averaged {
            averages.insert(name.clone(), Ema::new(config.ema.clone(), &network)?);
        }
        let optimizer = AdamW::new(optimizer.unwrap_or_else(|| config.optimizer.clone()))?;
        parts.push(Part { name, network, optimizer, rate: rate.unwrap_or_else(|| config.rate.clone()), follows });
    }
    ensure!(!parts.is_empty(), "family {} has nothing that learns", experiment.family.kind());
    Ok((parts, averages))
}

impl Prepared {
    /// Brings a fresh state to where the run stopped, or to an earlier checkpoint.
    fn resumed(mut self, step: Option<u64>) -> Result<Self> {
        let root = self.run.root().display().to_string();
        self.check_resumable(&root)?;
        let known = self.run.checkpoints()?;
        let path = match step {
            None => self.run.latest()?,
            Some(step) if known.contains(&step) => self.run.checkpoint_path(step),
            Some(step) => {
                return Err(Error::new(format!(
                    "{root} has no checkpoint of step {step}: it has those of {}",
                    list(&known)
                )));
            }
        };
        let checkpoint = Checkpoint::read(&path).map_err(|error| {
            let others: Vec<u64> =
                known.iter().copied().filter(|&other| self.run.checkpoint_path(other) != path).collect();
            let advice = match others.as_slice() {
                [] => "start anew with another --out".to_owned(),
                others => format!("go on from an earlier one with --resume-from STEP ({})", list(others)),
            };
            Error::of(error.kind(), format!("{error}; {advice}"))
        })?;
        let at = |error: Error| error.at(path.display());
        ensure!(
            self.experiment.train.steps >= checkpoint.step,
            "{root} is at step {} already: give train.steps of at least that",
            checkpoint.step
        );
        let described = described(&checkpoint.metadata).map_err(at)?;
        ensure!(
            Kind::Mismatch,
            described.subject == self.description.subject,
            "the data of {root} are not those it was started with: bring them back, or start anew with another --out"
        );
        for part in &mut self.parts {
            let saved = checkpoint.learners.get(&part.name).ok_or_else(|| at(lacks_learner(&part.name)))?;
            part.network = state::load(part.network.clone(), &saved.weights).map_err(at)?;
            part.optimizer =
                AdamW::restore(part.optimizer.config().clone(), &part.network, &saved.optimizer).map_err(at)?;
            if let (Some(average), Some(saved)) = (self.averages.get_mut(&part.name), &saved.average) {
                average.load(saved).map_err(at)?;
            }
        }
        self.step = checkpoint.step;
        self.from = checkpoint.metadata.get(FROM).cloned();
        if let Some(window) = checkpoint.metadata.get(WINDOW) {
            self.window.restore(window).map_err(at)?;
        }
        if step.is_some()
            && let Some(aside) = self.run.set_aside_after(self.step)?
        {
            self.notes.push(format!("what came after step {} is in {} now", self.step, aside.display()));
        }
        self.run.set_experiment(&self.experiment)?;
        self.notes.extend(self.run.cut_metrics(self.step)?);
        Ok(self)
    }

    /// Fails if the experiment differs from the run's in more than [`RESUMABLE`] keys.
    fn check_resumable(&self, root: &str) -> Result<()> {
        let may = |key: &str| {
            RESUMABLE
                .iter()
                .any(|known| key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        };
        let differences = self.run.experiment()?.differences(&self.experiment).into_iter();
        let others: Vec<String> = differences.filter(|it| !may(&it.key)).map(|it| it.to_string()).collect();
        ensure!(
            Kind::Mismatch,
            others.is_empty(),
            "the experiment differs from the one {root} was started with: {}; only {} may change: give the same settings, or start \
             anew with another --out",
            others.join(", "),
            RESUMABLE.join(", ")
        );
        Ok(())
    }

    /// Starts from the weights of a model instead of fresh ones.
    fn take_weights(&mut self, model: &str) -> Result<()> {
        let path = checkpoint_of(model.as_ref())?;
        let at = |error: Error| error.at(path.display());
        let SavedWeights { learners, metadata, .. } = Checkpoint::read_weights(&path, Weights::Ema)?;
        let theirs = described(&metadata).map_err(at)?.family;
        let other = theirs.kind() != self.experiment.family.kind();
        let pairs = self.experiment.family.starts_from(&theirs).map_err(at)?;
        for part in &mut self.parts {
            // What follows a learner begins where that does.
            let own = part.follows.as_ref().map_or(part.name.as_str(), |follows| follows.learner);
            let name = match pairs.iter().find(|(name, _)| *name == own) {
                Some((_, theirs)) => theirs,
                None if pairs.is_empty() => own,
                None => continue,
            };
            let weights = learners.get(name).ok_or_else(|| at(lacks_learner(name)))?;
            part.network = state::load(part.network.clone(), weights).map_err(at)?;
            if let Some(average) = self.averages.get_mut(&part.name) {
                average.load(weights).map_err(at)?;
            }
        }
        self.from = Some(path.display().to_string());
        if other {
            return Ok(());
        }
        // Weights mean something else where what surrounds the network differs.
        let own = ["family.network", "family.objective", "family.label_dropout", "family.label_smoothing"];
        let differences = Difference::between_families(&theirs, &self.experiment.family).into_iter();
        let differences = differences.filter(|it| !own.iter().any(|key| it.key.starts_with(key)));
        self.notes.extend(differences.map(|it| format!("{model} was trained otherwise: {it}")));
        Ok(())
    }

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
        let learners = self.parts.iter().map(learner).collect();
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
        let model = model.with_truth_of(&self.experiment.data.source);
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

    /// What the learners see in the turn of one of them: its network trainable, the others constants.
    fn turn(&self, turn: usize) -> Vec<AnyNetwork> {
        let network = |(i, part): (usize, &Part)| if i == turn { part.network.clone() } else { part.network.valid() };
        self.parts.iter().enumerate().map(network).collect()
    }

    /// The gradient of one learner's loss on a batch, and the loss; `None` where the learner rests. The watch can end the first
    /// turn, before which nothing has changed.
    fn gradient(
        &self,
        turn: usize,
        batches: &[stein_data::Batch],
        watch: &dyn Watch,
    ) -> Result<Option<(Accumulated, f64)>> {
        let device = self.device.clone().autodiff();
        let mut gradients = Accumulated::new();
        let (mut loss, mut counted) = (0.0, 0);
        for batch in batches {
            if turn == 0 {
                watch.going()?;
            }
            let count = batch.index.len();
            let tapes = on_tapes(self.turn(turn), count, |networks, rows| {
                let names = self.parts.iter().map(|part| part.name.clone());
                let networks = names.zip(networks).collect();
                let learners = Learners { networks, averages: &self.averages, teacher: self.teacher.as_deref() };
                let name = &self.parts[turn].name;
                let term = self.experiment.family.loss(name, &learners, &self.batch(batch, rows, &device)?)?;
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

    /// The mean loss of every learner on the held-out examples, measured as in training, and what else the family measures on them.
    fn held_out_numbers(&self) -> Result<Vec<(String, f64)>> {
        let Some(HeldOut { batch, .. }) = &self.held_out else { return Ok(Vec::new()) };
        let (count, at_once) = (batch.index.len(), self.experiment.train.batch / self.experiment.train.accumulate);
        let networks: Networks = self.parts.iter().map(|part| (part.name.clone(), part.network.valid())).collect();
        let learners = Learners { networks, averages: &self.averages, teacher: self.teacher.as_deref() };
        let mut losses = Vec::new();
        for part in &self.parts {
            let (mut sum, mut seen) = (0.0, 0);
            for start in (0..count).step_by(at_once) {
                let rows = start..count.min(start + at_once);
                let term = self.experiment.family.loss(
                    &part.name,
                    &learners,
                    &self.batch(batch, rows.clone(), &self.device)?,
                )?;
                if let Some(term) = term {
                    sum += term.into_scalar::<f64>() * rows.len() as f64;
                    seen += rows.len();
                }
            }
            if seen > 0 {
                losses.push((named("held_out_loss", part, &self.parts), sum / seen as f64));
            }
        }
        let mut others = BTreeMap::<String, f64>::new();
        for start in (0..count).step_by(at_once) {
            let rows = start..count.min(start + at_once);
            let share = rows.len() as f64 / count as f64;
            for (name, mean) in self.experiment.family.held_out(&learners, &self.batch(batch, rows, &self.device)?)? {
                *others.entry(format!("held_out_{name}")).or_default() += share * mean;
            }
        }
        losses.extend(others);
        Ok(losses)
    }

    /// Some rows of a batch of data as a batch of states.
    fn batch(&self, batch: &stein_data::Batch, rows: Range<usize>, device: &Device) -> Result<Batch> {
        let dim = self.description.subject.dim();
        let keys = Keys::range(self.experiment.seed, batch.positions.start + rows.start as u64, rows.len());
        let x = self.description.subject.encode(&batch.x[rows.start * dim..rows.end * dim], &keys, device)?;
        let labels = batch.labels.as_ref().filter(|_| self.experiment.data.conditional);
        let given = match labels {
            Some(labels) => Condition::classes(labels[rows].iter().map(|&label| label as u32)),
            None => Condition::none(),
        };
        let image = self.pictures.as_ref().map(|pictures| pictures.of(&x, &keys)).transpose()?;
        let given = Condition { image, ..given };
        Ok(Batch { x, given, keys, step: self.step, steps: self.experiment.train.steps, truth: self.truth.clone() })
    }

    /// One step of every learner in its turn: the loss, the gradient's norm and the rate of those that moved.
    fn take_step(&mut self, batches: &[stein_data::Batch], watch: &dyn Watch) -> Result<Vec<Moved>> {
        let batch = self.experiment.train.batch;
        let mut moved = Vec::new();
        for turn in 0..self.parts.len() {
            if let Some(follows) = self.parts[turn].follows.clone() {
                let decay = (follows.decay)(self.step, self.experiment.train.steps);
                let leader = self.parts.iter().find(|part| part.name == follows.learner);
                let leader = leader.expect("a learner follows one of its family").network.clone();
                let part = &mut self.parts[turn];
                part.network = state::follow(part.network.clone(), &leader, decay);
                continue;
            }
            let Some((gradients, loss)) = self.gradient(turn, batches, watch)? else { continue };
            // Taken out, so that the step has the only handle on the weights and changes them in place.
            let mut part = self.parts.remove(turn);
            let rate = part.rate.at(self.step, self.experiment.train.steps);
            let average = self.averages.get_mut(&part.name).map(|average| (average, batch));
            let (network, norm) = part.optimizer.step(part.network, gradients, rate, average);
            part.network = network;
            self.parts.insert(turn, part);
            if !(loss.is_finite() && norm.is_finite()) {
                let what = format!("the loss is {loss} and the gradient's norm {norm}");
                return Err(self.not_finite(self.step + 1, &what));
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

/// A learner that the family has and a checkpoint has not.
fn lacks_learner(name: &str) -> Error {
    Error::of(Kind::Mismatch, format!("there is no learner `{name}`: it is a model of another family, or damaged"))
}

fn list(steps: &[u64]) -> String {
    steps.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// The name of a number in the metrics: where several learn, theirs stand behind.
fn named(what: &str, part: &Part, parts: &[Part]) -> String {
    if parts.len() > 1 { format!("{what}/{}", part.name) } else { what.to_owned() }
}

/// The metrics of a run, in both formats.
struct Metrics {
    lines: File,
    path: PathBuf,
    events: EventWriter,
}

impl Metrics {
    fn open(run: &RunDir) -> Result<Self> {
        let path = run.metrics_path();
        let lines =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|error| {
                Error::of(Kind::File, format!("cannot write the metrics {}: {error}", path.display()))
            })?;
        Ok(Self { lines, path, events: EventWriter::create(run.root())? })
    }

    fn write(&mut self, step: u64, numbers: &[(String, f64)]) -> Result<()> {
        let mut line = serde_json::Map::from_iter([("step".to_owned(), step.into())]);
        for (name, value) in numbers {
            line.insert(name.clone(), (*value).into());
            self.events.scalar(name, step as i64, *value as f32)?;
        }
        self.events.flush()?;
        // In one call, so that no line is ever in the middle of another.
        let line = format!("{}\n", serde_json::Value::Object(line));
        self.lines.write_all(line.as_bytes()).map_err(|error| {
            Error::of(
                Kind::File,
                format!("cannot write the metrics {}: {error}; is the disk full?", self.path.display()),
            )
        })
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
    state.window.since = Instant::now();
    while state.step < config.steps && goes_on(watch)? {
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

impl Prepared {
    fn progress(&self, progress: Option<(f64, f64)>) -> Event<'static> {
        let (step, steps, every) = (self.step, self.experiment.train.steps, self.experiment.train.sample_every);
        let sheets_by = |step: u64| step.checked_div(every).unwrap_or(0);
        let between = sheets_by(steps.saturating_sub(1)).saturating_sub(sheets_by(step));
        let draws = step < steps && self.experiment.sample.is_some();
        Event::Trained { step, steps, sheets: if draws { between + 1 } else { 0 }, progress }
    }

    /// Whether samples are to be measured after this step.
    fn evaluation_is_due(&self) -> bool {
        let (step, every) = (self.step, self.experiment.train.evaluate.every);
        every > 0 && (step == self.experiment.train.steps || step.is_multiple_of(every))
    }

    /// How samples are measured while it trains.
    fn evaluation(&self) -> EvaluateOptions {
        let EvaluateConfig { metrics, features, feature_weights, reference, n, .. } = &self.experiment.train.evaluate;
        EvaluateOptions {
            metrics: metrics.clone(),
            features: features.clone(),
            weights: feature_weights.clone(),
            reference: reference.clone(),
            n: Some(*n),
            seed: self.experiment.seed,
            folder: self.data_dir.clone(),
            ..EvaluateOptions::default()
        }
    }

    /// Whether the first of these metrics is better than all that the run has said of it, and a checkpoint of that is there.
    fn is_best(&self, metric: &AnyMetric, value: f64) -> Result<bool> {
        let key = in_metrics(metric);
        let earlier = self.run.metrics()?.into_iter().filter_map(|line| line[&key].as_f64());
        let best = earlier.map(|value| metric.better().loss(value)).fold(f64::INFINITY, f64::min);
        Ok(metric.better().loss(value) < best || !self.run.best_path().exists())
    }

    /// Whether a sheet of samples is to be made after this step.
    fn sheet_is_due(&self) -> bool {
        let (step, config) = (self.step, &self.experiment.train);
        self.experiment.sample.is_some()
            && self.pictures.is_none()
            && (step == config.steps || step > 0 && config.sample_every > 0 && step.is_multiple_of(config.sample_every))
    }
}

/// The name of a metric of samples in the metrics of a run.
fn in_metrics(metric: &AnyMetric) -> String {
    format!("evaluate/{}", metric.kind())
}

/// Measures samples as they are now. What they are compared with is read, and turned to features, once for all steps.
fn measured(state: &Prepared, kept: &mut Option<Kept>, watch: &mut dyn Watch) -> Result<Evaluation> {
    let (model, options) = (state.model()?, state.evaluation());
    let sampling = model.sample.clone();
    let of = Of::Model(Box::new(model));
    let mut compared = match kept.take() {
        Some(kept) => Compared::again(&of, &options, kept)?,
        None => Compared::of(&of, &options)?,
    };
    let found = compared.keep(watch).and_then(|()| compared.measure(Some(&sampling), &mut |_, _| {}, watch));
    *kept = Some(compared.into_kept());
    found
}

/// The metrics of samples as they are now, of which the best checkpoint is kept. Early weights may give no finite samples, and a stop
/// may come: neither ends the training, which goes on without these numbers.
fn evaluated(state: &Prepared, kept: &mut Option<Kept>, watch: &mut dyn Watch) -> Result<Vec<(String, f64)>> {
    let found = match measured(state, kept, watch) {
        Err(error) if [Kind::Stopped, Kind::NotFinite].contains(&error.kind()) => {
            watch.event(Event::Note(&format!("samples of step {} were not measured: {error}", state.step)));
            return Ok(Vec::new());
        }
        found => found?,
    };
    if let Some((metric, measured, _)) = found.measured.first()
        && state.is_best(metric, measured.value)?
    {
        state.checkpoint()?.write(&state.run.best_path())?;
    }
    Ok(found.measured.iter().map(|(metric, measured, _)| (in_metrics(metric), measured.value)).collect())
}

/// Draws a sheet of samples into the run and the events. Early weights may give no finite samples, samples no picture, the picture
/// may find no place, and a stop may come: none of these ends the training, which goes on without the picture.
fn write_sheet(state: &Prepared, metrics: &mut Metrics, watch: &mut dyn Watch) {
    let said = match try_sheet(state, metrics, watch) {
        Ok(said) => said,
        Err(error) if error.kind() == Kind::Stopped => {
            format!("the picture of step {} is left for when training goes on", state.step)
        }
        Err(error) => format!("there is no picture of step {}: {error}", state.step),
    };
    watch.event(Event::Note(&said));
}

/// Makes the sheet, and returns what is to be said of it.
fn try_sheet(state: &Prepared, metrics: &mut Metrics, watch: &mut dyn Watch) -> Result<String> {
    let model = state.model()?;
    let n = enough(&model.subject);
    let drawn = draw(&model, n, state.experiment.seed, &Classes::Default, &model.sample, watch)?;
    let sheet = picture(&model, &drawn.values, drawn.labels.as_deref())?;
    let path = state.run.sample_path(state.step);
    let (width, height) = (sheet.width() as usize, sheet.height() as usize);
    metrics.events.image_png("samples", state.step as i64, height, width, 3, &to_png(&sheet)?)?;
    metrics.events.flush()?;
    Recorded::new(&beside(&path, ".json"), Vec::new(), true)?.write(&[], record(&model, &drawn.summary))?;
    // Last, because where it lies the sheet is made.
    write_png(&path, &sheet)?;
    let which = if model.weights == Some(Weights::Ema) { "the average of the weights" } else { "the weights" };
    let caution = model.caution().map(|caution| format!("; {caution}")).unwrap_or_default();
    Ok(format!("{} shows {which}{caution}", path.display()))
}

/// What the learners did since the last line of metrics, and how fast. It goes into checkpoints, so that the lines of a run that was
/// stopped are those of one that was not.
struct Window {
    since: Instant,
    /// What of that time was spent on other things.
    away: Duration,
    examples: usize,
    /// Sum of losses, steps, last norm and rate of each learner.
    learners: Vec<(f64, u64, f64, f64)>,
}

impl Window {
    fn new(learners: usize) -> Self {
        Self { since: Instant::now(), away: Duration::ZERO, examples: 0, learners: vec![(0.0, 0, 0.0, 0.0); learners] }
    }

    /// What a checkpoint keeps of it, if anything happened since the last line.
    fn saved(&self) -> Option<String> {
        let any = self.learners.iter().any(|learner| learner.1 > 0);
        any.then(|| serde_json::to_string(&self.learners).expect("numbers have a place in JSON"))
    }

    /// Takes up what [`saved`](Self::saved) kept.
    fn restore(&mut self, saved: &str) -> Result<()> {
        let learners: Option<Vec<(f64, u64, f64, f64)>> = serde_json::from_str(saved).ok();
        self.learners = learners.filter(|learners| learners.len() == self.learners.len()).ok_or_else(|| {
            Error::of(
                Kind::File,
                format!("the metadata key {WINDOW} is not that of these learners: the file is damaged"),
            )
        })?;
        Ok(())
    }

    fn add(&mut self, moved: &[Moved], examples: usize) {
        self.examples += examples;
        for step in moved {
            let learner = &mut self.learners[step.turn];
            *learner = (learner.0 + step.loss, learner.1 + 1, step.norm, step.rate);
        }
    }

    /// Mean losses, last norms and rates, examples per second, and a new start.
    fn close(&mut self, parts: &[Part]) -> Vec<(String, f64)> {
        let closed = std::mem::replace(self, Self::new(parts.len()));
        let mut numbers = Vec::new();
        for (part, (losses, steps, norm, rate)) in parts.iter().zip(closed.learners) {
            if steps > 0 {
                let own = [("loss", losses / steps as f64), ("gradient_norm", norm), ("rate", rate)];
                numbers.extend(own.map(|(what, value)| (named(what, part, parts), value)));
            }
        }
        let seconds = closed.since.elapsed().saturating_sub(closed.away).as_secs_f64();
        numbers.push(("examples_per_second".to_owned(), closed.examples as f64 / seconds));
        numbers
    }
}
