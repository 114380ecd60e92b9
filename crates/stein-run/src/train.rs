//! The training loop, which knows no family: an objective's loss, its gradient, AdamW, the average of the weights.
//!
//! A run goes on bit for bit where it stopped: every random number is keyed by the seed and the position in the data.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use burn::tensor::{Device, Tensor, TensorData};
use indicatif::ProgressBar;
use stein::{Condition, Error, Preconditioned, Result, ensure};
use stein_data::{Data, Loader, LoaderConfig, Split};
use stein_nn::{Accumulated, AdamW, AnyNetwork, Checkpoint, Ema, state};

use crate::{
    Classes, DataConfig, Experiment, Model, Recipe, RunDir, Subject, device, draw,
    draw::{picture, progress_bar},
    from_data,
    model::{build_network, load_data, read_metadata, write_metadata},
    picture::{to_png, write_png},
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
}

/// Everything of a run that exists before its first step.
pub struct Prepared {
    experiment: Experiment,
    run: RunDir,
    data: Arc<Data>,
    subject: Subject,
    device: Device,
    network: AnyNetwork,
    optimizer: AdamW,
    ema: Ema,
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
    let data = load_data(&experiment.data.source, Split::Train, options.data_dir.as_deref())?;
    loader(experiment, &data)?;
    ensure!(
        !experiment.data.conditional || data.labels.is_some(),
        "data.conditional asks for classes, which {} does not have: set it to false",
        data.name
    );
    let subject = Subject::of(&data, experiment.data.range, experiment.data.conditional);
    ensure!(
        !experiment.sample.clamp || subject.image().is_some(),
        "sample.clamp keeps pictures in their range, and {} has rows: set it to false",
        subject.name
    );
    let network = build_network(experiment, &subject, &device.clone().autodiff())?;
    let optimizer = AdamW::new(experiment.train.optimizer.clone())?;
    let ema = Ema::new(experiment.train.ema.clone(), &network)?;
    let fresh = Prepared {
        experiment: experiment.clone(),
        run,
        data: Arc::new(data),
        subject,
        device,
        network,
        optimizer,
        ema,
        step: 0,
    };
    if options.resume {
        return resume(fresh);
    }
    fresh.run.make_folders()?;
    fresh.write_checkpoint()?;
    fresh.run.set_experiment(experiment)?;
    Ok(fresh)
}

/// Brings a fresh state to where the run stopped.
fn resume(mut fresh: Prepared) -> Result<Prepared> {
    let mut before = fresh.run.experiment()?;
    before.train.steps = fresh.experiment.train.steps;
    ensure!(
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
    let (_, subject) = read_metadata(&checkpoint.metadata).map_err(at)?;
    ensure!(
        subject == fresh.subject,
        "the data of {} are not those it was started with: bring them back, or start anew with another --out",
        fresh.run.root().display()
    );
    fresh.network = state::load(fresh.network, &checkpoint.weights).map_err(at)?;
    fresh.optimizer =
        AdamW::restore(fresh.experiment.train.optimizer.clone(), &fresh.network, &checkpoint.optimizer).map_err(at)?;
    fresh.ema.load(&checkpoint.ema).map_err(at)?;
    fresh.step = checkpoint.step;
    fresh.run.set_experiment(&fresh.experiment)?;
    fresh.run.cut_metrics(fresh.step)?;
    Ok(fresh)
}

fn loader<'a>(experiment: &Experiment, data: &'a Data) -> Result<Loader<'a>> {
    let DataConfig { flip, dequantize, .. } = experiment.data;
    Loader::new(data, LoaderConfig { seed: experiment.seed, flip, dequantize }).map_err(from_data)
}

impl Prepared {
    /// Parameters of the network.
    pub fn parameters(&self) -> usize {
        self.network.parameters()
    }

    /// Examples in the data.
    pub fn examples(&self) -> usize {
        self.data.len()
    }

    /// Steps taken so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    fn write_checkpoint(&self) -> Result<()> {
        let checkpoint = Checkpoint {
            weights: state::tensors(&self.network),
            ema: self.ema.tensors(),
            optimizer: self.optimizer.tensors(),
            step: self.step,
            metadata: write_metadata(&self.experiment, &self.subject),
        };
        checkpoint.write(&self.run.checkpoint_path(self.step))?;
        self.run.prune(self.experiment.train.keep)
    }

    fn model(&self) -> Result<Model> {
        let name = self.run.root().display().to_string();
        let network = self.ema.network(&self.network);
        let recipe = Recipe::from(&self.experiment);
        let model = Model::of_network(&name, network, &recipe, self.subject.clone(), &self.device)?;
        Ok(model.with_density_of(&self.experiment.data.source))
    }
}

/// The metrics of a run, in both formats.
struct Metrics {
    lines: File,
    events: EventWriter,
}

impl Metrics {
    fn open(run: &RunDir) -> Result<Self> {
        let path = run.metrics_path();
        let lines = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| Error::new(format!("cannot write the metrics {}: {error}", path.display())))?;
        Ok(Self { lines, events: EventWriter::create(run.root())? })
    }

    fn write(&mut self, step: u64, numbers: &[(&str, f64)]) -> Result<()> {
        let mut line = serde_json::Map::from_iter([("step".to_owned(), step.into())]);
        for (name, value) in numbers {
            line.insert((*name).to_owned(), (*value).into());
            self.events.scalar(name, step as i64, *value as f32)?;
        }
        self.events.flush()?;
        writeln!(self.lines, "{}", serde_json::Value::Object(line))
            .map_err(|error| Error::new(format!("cannot write the metrics: {error}; is the disk full?")))
    }
}

/// Trains to the experiment's last step, or until `stop` is set, which writes a checkpoint and returns.
///
/// # Errors
/// A loss or gradient that is no longer finite: the sentence names the step and the last good checkpoint. Files that cannot
/// be written.
pub fn train(mut state: Prepared, stop: &AtomicBool) -> Result<Trained> {
    let experiment = state.experiment.clone();
    let config = &experiment.train;
    let data = Arc::clone(&state.data);
    let mut loader = loader(&experiment, &data)?;
    let mut metrics = Metrics::open(&state.run)?;
    let device = state.device.clone().autodiff();
    let mut model =
        Preconditioned::new(state.network.clone(), experiment.model.precondition(), experiment.schedule.clone())?;
    let dim = state.subject.dim();
    let part = config.batch / config.accumulate;
    let bar = progress_bar(config.steps, "training").with_position(state.step);
    // The steps of an earlier call say nothing about the speed of this one.
    bar.reset_eta();
    let started = Instant::now();
    let mut window = Window::new();
    while state.step < config.steps && !stop.load(Ordering::Relaxed) {
        let position = state.step * config.batch as u64;
        let mut gradients = Accumulated::new();
        let mut loss = 0.0;
        for k in 0..config.accumulate {
            let first = position + (k * part) as u64;
            let batch = loader.batch(first, part);
            let values = state.subject.codec.encode(&batch.x, dim);
            let labels = batch.labels.filter(|_| experiment.data.conditional);
            // Keyed by the position, so that a resumed run drops the same values.
            model.network.set_dropout(Some(experiment.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(first)));
            let tapes = model.network.on_tapes(part, |network, rows| {
                let model = Preconditioned::new(network, experiment.model.precondition(), experiment.schedule.clone())?;
                let data = TensorData::new(values[rows.start * dim..rows.end * dim].to_vec(), [rows.len(), dim]);
                let x0 = Tensor::<2>::from_data(data, &device);
                let given = match &labels {
                    Some(labels) => Condition::classes(labels[rows.clone()].to_vec()),
                    None => Condition::none(),
                };
                let examples: Vec<u64> = rows.map(|row| first + row as u64).collect();
                let term = experiment.objective.loss(&model, x0, &given, experiment.seed, &examples)?;
                let backward = term.backward();
                Ok::<_, Error>((model.network, backward, term.into_scalar::<f64>()))
            });
            let parts = (config.accumulate * tapes.len()) as f64;
            for tape in tapes {
                let (network, backward, term) = tape?;
                gradients.add(&network, backward);
                loss += term / parts;
            }
        }
        let rate = config.rate.at(state.step);
        let (network, norm) =
            state.optimizer.step(model.network, gradients, rate, Some((&mut state.ema, config.batch)));
        model.network = network;
        if !(loss.is_finite() && norm.is_finite()) {
            bar.abandon();
            return Err(Error::new(format!(
                "training stopped at step {}: the loss is {loss} and the gradient's norm {norm}; the last good checkpoint is \
                 {}; lower train.rate.rate, or set train.optimizer.clip",
                state.step + 1,
                state.run.latest()?.display()
            )));
        }
        state.step += 1;
        window.add(loss, config.batch);
        bar.inc(1);
        if state.step.is_multiple_of(config.log_every) || state.step == config.steps {
            let (loss, rate_of_images) = window.close();
            bar.set_message(format!("loss {loss:.4} {rate_of_images:.0} examples/s"));
            metrics.write(
                state.step,
                &[("loss", loss), ("gradient_norm", norm), ("rate", rate), ("examples_per_second", rate_of_images)],
            )?;
        }
        if state.step.is_multiple_of(config.checkpoint_every) {
            state.network = model.network.clone();
            state.write_checkpoint()?;
        }
        if config.sample_every > 0 && state.step.is_multiple_of(config.sample_every) {
            state.network = model.network.clone();
            write_sheet(&state, &mut metrics, stop, &bar)?;
            window.skip();
        }
    }
    state.network = model.network;
    if !state.run.checkpoint_path(state.step).exists() {
        state.write_checkpoint()?;
    }
    if state.step == config.steps && !state.run.sample_path(state.step).exists() {
        write_sheet(&state, &mut metrics, stop, &bar)?;
    }
    bar.finish_and_clear();
    Ok(Trained {
        model: state.model()?,
        step: state.step,
        stopped: state.step < config.steps,
        seconds: started.elapsed().as_secs_f64(),
        run: state.run,
    })
}

/// Draws a sheet of samples of the averaged weights into the run and the events. Early weights may give no finite samples, and
/// Ctrl-C may come: neither ends the training, which goes on without the picture.
fn write_sheet(state: &Prepared, metrics: &mut Metrics, stop: &AtomicBool, bar: &ProgressBar) -> Result<()> {
    let model = state.model()?;
    let subject = &model.subject;
    if subject.image().is_none() && subject.dim() > 2 {
        // Rows of many numbers make no picture.
        return Ok(());
    }
    let n = match subject.image() {
        Some(_) if subject.classes.is_empty() => 64,
        Some(_) => 8 * subject.classes.len(),
        None => 2000,
    };
    let going = || match stop.load(Ordering::Relaxed) {
        true => Err(Error::new("it was stopped")),
        false => Ok(()),
    };
    let drawn = match draw(&model, n, state.experiment.seed, &Classes::Default, &model.sample, false, &going) {
        Ok(drawn) => drawn,
        Err(error) => {
            bar.suspend(|| eprintln!("stein: there is no picture of step {}: {error}", state.step));
            return Ok(());
        }
    };
    let sheet = picture(&model, &drawn.values, drawn.labels.as_deref())?;
    write_png(state.run.sample_path(state.step), &sheet)?;
    let (width, height) = (sheet.width() as usize, sheet.height() as usize);
    metrics.events.image_png("samples", state.step as i64, height, width, 3, &to_png(&sheet)?)?;
    metrics.events.flush()
}

/// Loss and speed since the last line of metrics.
struct Window {
    since: Instant,
    losses: f64,
    steps: usize,
    examples: usize,
}

impl Window {
    fn new() -> Self {
        Self { since: Instant::now(), losses: 0.0, steps: 0, examples: 0 }
    }

    fn add(&mut self, loss: f64, examples: usize) {
        self.losses += loss;
        self.steps += 1;
        self.examples += examples;
    }

    /// Mean loss and examples a second, and a new start.
    fn close(&mut self) -> (f64, f64) {
        let closed = std::mem::replace(self, Self::new());
        (closed.losses / closed.steps as f64, closed.examples as f64 / closed.since.elapsed().as_secs_f64())
    }

    /// Leaves out time that was not training.
    fn skip(&mut self) {
        *self = Self::new();
    }
}
