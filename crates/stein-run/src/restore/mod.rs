//! Inverse problems on the command line: samples of what a measurement leaves open, drawn by a model that knows nothing of it.

mod observed;
mod scores;
mod task;
mod write;

pub(crate) use observed::{gray_picture, in_state};
pub use scores::Scores;
pub(crate) use scores::{measure_pair, of_pictures};
pub use task::{MeasurementConfig, Range, Task, TaskMethod, TaskSample};
pub use write::restore_to;

use std::{path::PathBuf, sync::Arc, time::Instant};

use stein::{
    AnySampler, AnySchedule, Condition, Denoiser, FlowMap, Heun, Kernel, Request, Result, Tensor, ensure,
    inverse::{AnyMethod, check_for_map, restore as draw_posterior, restore_by_map},
};
use stein_base::memory::ensure_fits;
use stein_data::Split;

use crate::{
    Changes, Method, Model, SampleConfig, Watch,
    draw::{Asking, in_batches},
    family::lacks,
};
use observed::Measurements;

/// What is restored, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreOptions {
    /// What was measured, and the method.
    pub task: Task,
    /// The folder whose files the task names; default the working directory.
    pub task_folder: Option<PathBuf>,
    /// What was measured, an array, or damaged pictures; or what is to be measured.
    pub input: String,
    /// Whether the input is clean, and the measurement is made of it, with noise.
    pub simulate: bool,
    /// Clean samples, one for each measurement, to compare with.
    pub truth: Option<String>,
    /// Samples of the posterior for each measurement.
    pub n: usize,
    /// How many inputs are taken of a set that is measured; default all.
    pub inputs: Option<usize>,
    /// The class of all, for a model that is told one; default that of their labels.
    pub class: Option<String>,
    /// Seed of the samples, and of the noise of simulated measurements.
    pub seed: u64,
    /// How the model is sampled otherwise.
    pub sampling: Changes,
    /// `path=value` settings of how samples are read.
    pub reading: Vec<String>,
    /// Their part; default test, and all of a file or folder that is named.
    pub split: Option<Split>,
    /// Directory with data sets.
    pub folder: Option<PathBuf>,
    /// `metric.key=value` settings of metrics: lpips.weights and lpips.heads have it measured.
    pub metric_settings: Vec<String>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

impl RestoreOptions {
    /// A task for an input, with the defaults for all else: 8 samples.
    pub fn new(task: Task, input: impl Into<String>) -> Self {
        Self {
            task,
            task_folder: None,
            input: input.into(),
            simulate: false,
            truth: None,
            n: 8,
            inputs: None,
            class: None,
            seed: 0,
            sampling: Changes::default(),
            reading: Vec::new(),
            split: None,
            folder: None,
            metric_settings: Vec::new(),
            force: false,
        }
    }
}

/// Samples of posteriors.
#[derive(Debug, Clone)]
pub struct Restored {
    /// `[inputs, samples, dim]` in row order, in the data's own units; pictures clipped to \[0, 1\].
    pub values: Vec<f32>,
    /// How many inputs.
    pub inputs: usize,
    /// Samples for each.
    pub n: usize,
    /// What was measured, or its pseudo-inverse, as pictures with the channels of the samples: `[inputs, height, width, channels]`, with
    /// height and width; and which of both it is, in words.
    pub measured: Option<(Vec<f32>, [usize; 2], &'static str)>,
    /// The truth `[inputs, dim]`, where it is known.
    pub truth: Option<Vec<f32>>,
    /// How good they are.
    pub scores: Scores,
    /// Calls of the model for each batch; the largest.
    pub evaluations: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// How the model was sampled.
    pub config: SampleConfig,
    /// The schedule.
    pub schedule: AnySchedule,
}

/// What draws, of what the model can do.
enum By<'a> {
    Denoiser(Arc<dyn Denoiser>, &'a AnyMethod),
    FlowMap(Arc<dyn FlowMap>),
}

/// An inverse problem that was checked and can begin.
pub(crate) struct Prepared<'a> {
    model: &'a Model,
    options: &'a RestoreOptions,
    measurements: Measurements,
    config: SampleConfig,
    schedule: AnySchedule,
    kernels: Vec<Kernel>,
    by: By<'a>,
    /// Rows of states at a time, all particles of a sample together.
    batch: usize,
}

impl<'a> Prepared<'a> {
    /// Fails for all that is wrong with what is asked for.
    pub(crate) fn of(model: &'a Model, options: &'a RestoreOptions) -> Result<Self> {
        ensure!(options.n >= 1, "0 samples were asked for: give -n at least 1");
        let (config, schedule) = sampling(model, options)?;
        let kernels = config.grid.kernels(&*schedule)?;
        let measurements = Measurements::of(model, &options.task.measurement, options)?;
        // One row says all that a method can refuse.
        let problem = measurements.problem(std::iter::once(0))?;
        let (by, particles) = match &options.task.method {
            TaskMethod::Denoiser(method) => {
                method.check(&problem)?;
                (By::Denoiser(model.denoiser(&config)?, method), method.particles())
            }
            TaskMethod::Consistency => {
                check_for_map(&problem)?;
                (By::FlowMap(model.flow_map(&config)?), 1)
            }
        };
        check_shown(model, &options.task)?;
        let batch = (config.batch / particles).max(1);
        let rows = batch.min(measurements.count * options.n) * particles;
        let dim = model.subject.dim() as u128;
        // A step back keeps what the step forward made.
        let networks = model.sizes.iter().map(|size| size.sampling(rows)).fold(0, u128::saturating_add);
        let kept = (measurements.count as u128 * options.n as u128).saturating_mul(4 * dim);
        ensure_fits(
            &format!("restoring {rows} states at a time (sample.batch)"),
            networks.saturating_mul(3).saturating_add((rows as u128).saturating_mul(64 * dim)).saturating_add(kept),
        )?;
        Ok(Self { model, options, measurements, config, schedule, kernels, by, batch })
    }

    /// Draws the samples.
    pub(crate) fn draw(self, watch: &mut dyn Watch) -> Result<Restored> {
        let Self { model, options, measurements, config, schedule, kernels, by, batch } = self;
        let (n, subject) = (options.n, &model.subject);
        let all = measurements.count * n;
        let started = Instant::now();
        let (mut values, evaluations) =
            in_batches(model, [all, batch, kernels.len() - 1], watch, |rows, going, observe| {
                let problem = measurements.problem(rows.clone().map(|i| i / n))?;
                let given = measurements.classes.as_ref().map_or_else(Condition::none, |classes| Condition {
                    class: Some(rows.clone().map(|i| Some(classes[i / n])).collect()),
                    ..Condition::none()
                });
                let image = match subject.image().filter(|_| subject.shown.is_some()) {
                    Some((height, width, channels)) => {
                        let like = Tensor::empty([0, 1], (&model.device, model.dtype));
                        Some(problem.shown([height, width, channels], &like)?)
                    }
                    None => None,
                };
                let given = Condition { image, ..given };
                let request = Request {
                    first: rows.start as u64,
                    given,
                    data_variance: subject.variance,
                    device: model.device.clone(),
                    dtype: model.dtype,
                    ..Request::new(rows.len(), subject.dim(), options.seed)
                };
                match &by {
                    By::Denoiser(denoiser, method) => {
                        let asking = Asking { inner: &**denoiser, going };
                        draw_posterior(&asking, &*schedule, &kernels, &***method, &problem, &request, observe)
                    }
                    By::FlowMap(map) => restore_by_map(map, &*schedule, &kernels, &problem, &request, observe),
                }
            })?;
        ensure!(
            Kind::NotFinite,
            values.iter().all(|value| value.is_finite()),
            "method {} gave numbers that are not finite: give it a smaller scale or more steps",
            options.task.method.kind()
        );
        let seconds = started.elapsed().as_secs_f64();
        // What the method found is scored against the closed form before it is clipped.
        let scores = Scores::of(model, options, &measurements, &values)?;
        if subject.levels.is_some() {
            values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        }
        let visible: Option<Vec<_>> = (0..measurements.count).map(|i| measurements.visible(i, subject)).collect();
        let measured = visible.and_then(|all| {
            let size = all.first()?.1;
            let shows = measurements.shows(subject);
            Some((all.into_iter().flat_map(|(values, _)| values).collect(), size, shows))
        });
        let (inputs, truth) = (measurements.count, measurements.truth);
        Ok(Restored { values, inputs, n, measured, truth, scores, evaluations, seconds, config, schedule })
    }
}

/// Draws samples of the posterior of every measurement; sample k of input i depends on the seed, on i, on k and on what was measured.
///
/// ```no_run
/// use stein_run::{Model, RestoreOptions, Silent, Task, restore};
///
/// let model = Model::open("runs/digits", &stein::Device::flex())?;
/// let task = Task::read("half.toml".as_ref(), &[])?;
/// let found = restore(&model, &RestoreOptions { simulate: true, ..RestoreOptions::new(task, "digits") }, &mut Silent)?;
/// println!("{}", found.scores);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// A task that does not fit the model or the input, all before work starts; samples that are not finite.
pub fn restore(model: &Model, options: &RestoreOptions, watch: &mut dyn Watch) -> Result<Restored> {
    Prepared::of(model, options)?.draw(watch)
}

/// Fails unless a model that is shown what was measured is asked for that by sampling it as it is, and no other model is.
fn check_shown(model: &Model, task: &Task) -> Result<()> {
    let sampled_as_it_is = matches!(task.method, TaskMethod::Denoiser(AnyMethod::Conditional(_)));
    let Some(shown) = &model.subject.shown else {
        ensure!(
            !sampled_as_it_is,
            "method conditional is for models that were trained with data.shown, and {} was not: use another, such as ddnm or dps",
            model.name
        );
        return Ok(());
    };
    let (known, asked) = (&shown.measurement.operator, &task.measurement.operator);
    ensure!(
        sampled_as_it_is && known.kind() == asked.kind() && (shown.redraw || known == asked),
        "{} was trained to be shown {}, and does that alone: ask for it as it was trained, with method conditional",
        model.name,
        stein::settings::write(known)?
    );
    Ok(())
}

/// How the model is sampled: as the task says, and then as the command line does.
fn sampling(model: &Model, options: &RestoreOptions) -> Result<(SampleConfig, AnySchedule)> {
    let of_task = options.task.sample.clone();
    let own = &model.sample;
    let config = SampleConfig {
        // The method takes the steps. Where they can start is asked of a sampler that needs signal, as methods do.
        sampler: match options.task.method {
            TaskMethod::Denoiser(_) => AnySampler::from(Heun::default()).into(),
            TaskMethod::Consistency => Method::Multistep,
        },
        grid: of_task.grid.unwrap_or_else(|| own.grid.clone()),
        schedule: of_task.schedule.or_else(|| own.schedule.clone()),
        wrap: of_task.wrap.unwrap_or_else(|| own.wrap.clone()),
        batch: own.batch,
    };
    let (schedule, config) = config.with(&options.sampling)?.resolve(model.schedule.as_ref(), model.trained)?;
    let needed = options.task.method.needs();
    let Some(schedule) = schedule.filter(|_| model.serves.contains(&needed)) else {
        let by = format!("method {}", options.task.method.kind());
        return Err(lacks(&model.name, &model.family, model.serves, needed, &by));
    };
    Ok((config, schedule))
}
