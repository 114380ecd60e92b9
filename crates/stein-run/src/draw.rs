//! Drawing samples from a model, batch by batch, into whatever takes them.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use stein::{
    AnySampler, AnySchedule, Condition, Denoiser, Dual, Error, Estimate, FlowMap, Grid, Interpolant, Kernel, Key,
    LatentMap, Levels, Progress, Purpose, Request, Result, Rk45, Sampled, Solver, Tensor, TensorData, Velocity,
    denoiser::Converted,
    ensure,
    flow::Flow,
    names,
    noise::{Mixed, Source},
    ode::{DORMAND_PRINCE, Steps},
    rows, sample, sample_from, sample_interpolant_from, sample_map, sample_velocity_from,
};
use stein_base::{memory::ensure_fits, random::uniform};
use stein_data::Shape;

use crate::{
    Event, Generator, Method, Model, SampleConfig, Subject, Watch, begin::Begin, code_flow::ToCodes, grids,
    model::ModelFlow,
};

/// Which classes to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// What the model does by itself: every class if it is conditional, captions of the data if it reads texts, none if neither.
    Default,
    /// Every class.
    All,
    /// No class, of a model that was trained to do without.
    None,
    /// As a person says it: the name of a class, or `all`, or `none`, or the number of a class, or several of these with commas
    /// between them. What is a name is no number: of classes called 1, 2 and 3, `1` is the one of that name.
    Named(String),
    /// Texts, of a model that reads them: each is told to as many samples, in their order.
    Texts(Vec<String>),
}

/// The class of every sample, worked out one by one.
#[derive(Debug, Clone)]
enum ClassOf {
    Unconditional,
    Hidden,
    /// One for each, given.
    Each(Vec<u32>),
    /// In equal blocks, so that a sheet of pictures has a class per row.
    Blocks {
        classes: Vec<u32>,
        n: usize,
    },
    /// At random, as often as the data have them: the sums of their shares up to each.
    Shares {
        classes: Vec<u32>,
        sums: Vec<f64>,
        key: Key,
    },
    /// A text for each, in equal blocks.
    Texts {
        texts: Vec<Arc<[u32]>>,
        n: usize,
    },
}

/// Which of `all` a sample is told, of n in equal blocks.
fn block(i: usize, all: usize, n: usize) -> usize {
    (i as u128 * all as u128 / n as u128) as usize
}

impl Classes {
    /// The texts that are told, if any.
    fn texts<'a>(&'a self, model: &'a Model) -> Option<&'a [String]> {
        match (self, &model.subject.text) {
            (Self::Texts(texts), _) => Some(texts),
            (Self::Default, Some(texts)) if !texts.examples.is_empty() => Some(&texts.examples),
            _ => None,
        }
    }

    fn of(&self, model: &Model, n: usize, seed: u64) -> Result<ClassOf> {
        let subject = &model.subject;
        let known = &subject.classes;
        if let Some(texts) = self.texts(model) {
            ensure!(!texts.is_empty(), "there is no text to draw of: give one");
            let texts = texts.iter().map(|text| model.tokens(text)).collect::<Result<_>>()?;
            return Ok(ClassOf::Texts { texts, n });
        }
        let chosen = match self {
            Self::Texts(_) => unreachable!("they have texts"),
            // A mixture is drawn whole unless a component is asked for.
            Self::Default if known.is_empty() || !model.trained => return Ok(ClassOf::Unconditional),
            Self::None if known.is_empty() => return Ok(ClassOf::Unconditional),
            _ if known.is_empty() => {
                return Err(Error::new(format!(
                    "{} is unconditional, it has no classes: leave out --class",
                    model.name
                )));
            }
            Self::None => {
                ensure!(
                    Kind::Unsupported,
                    model.learned.knows_no_class || model.steered,
                    "{} was not trained to do without its class: train it with family.label_dropout = 0.1",
                    model.name
                );
                return Ok(ClassOf::Hidden);
            }
            Self::Default | Self::All => subject.learned_classes(),
            Self::Named(text) => match (named(text, known), text.trim()) {
                (Some(class), _) => vec![class],
                (None, "all") => return Self::All.of(model, n, seed),
                (None, "none") => return Self::None.of(model, n, seed),
                (None, _) => listed(text, subject)?,
            },
        };
        chosen.iter().try_for_each(|&class| ensure_learned(model, class))?;
        if subject.image().is_some() {
            return Ok(ClassOf::Blocks { classes: chosen, n });
        }
        let add = |sum: &mut f64, &class: &u32| {
            *sum += subject.share(class);
            Some(*sum)
        };
        let sums = chosen.iter().scan(0.0, add).collect();
        Ok(ClassOf::Shares { classes: chosen, sums, key: Key::new(seed, Purpose::Class) })
    }
}

/// The class of that name, in any case if none is called exactly so.
pub(crate) fn named(name: &str, known: &[String]) -> Option<u32> {
    let position = |is: &dyn Fn(&String) -> bool| known.iter().position(is);
    let name = name.trim();
    let exact = position(&|candidate| candidate == name);
    exact.or_else(|| position(&|candidate| candidate.to_lowercase() == name.to_lowercase())).map(|class| class as u32)
}

/// Fails if the model has seen no example of a class.
fn ensure_learned(model: &Model, class: u32) -> Result<()> {
    ensure!(
        model.subject.share(class) > 0.0,
        "the class {} has no example among those {} learned from: give another",
        model.subject.classes[class as usize],
        model.name
    );
    Ok(())
}

/// A class that the model has learned, by name or, where no name fits, by number.
pub(crate) fn class_of(text: &str, model: &Model) -> Result<u32> {
    let class = one_of(text, &model.subject)?;
    ensure_learned(model, class).map(|()| class)
}

/// A class by name or, where no name fits, by number.
fn one_of(text: &str, subject: &Subject) -> Result<u32> {
    let number = || text.trim().parse().ok().filter(|&class: &u32| (class as usize) < subject.classes.len());
    named(text, &subject.classes).or_else(number).ok_or_else(|| {
        let offered: Vec<&String> =
            subject.learned_classes().into_iter().map(|class| &subject.classes[class as usize]).collect();
        names::unknown("class", text.trim(), &offered)
    })
}

/// Classes with commas between them.
fn listed(text: &str, subject: &Subject) -> Result<Vec<u32>> {
    let mut classes: Vec<u32> = text.split(',').map(|part| one_of(part, subject)).collect::<Result<_>>()?;
    let mut seen = BTreeSet::new();
    classes.retain(|&class| seen.insert(class));
    Ok(classes)
}

impl ClassOf {
    /// What some samples are told.
    fn condition(&self, samples: Range<usize>) -> Condition {
        match self {
            Self::Unconditional => Condition::none(),
            Self::Texts { texts, n } => {
                let text = samples.map(|i| Some(Arc::clone(&texts[block(i, texts.len(), *n)]))).collect();
                Condition { text: Some(text), ..Condition::none() }
            }
            _ => Condition { class: Some(samples.map(|i| self.class(i)).collect()), ..Condition::none() },
        }
    }

    fn class(&self, i: usize) -> Option<u32> {
        match self {
            Self::Unconditional | Self::Hidden | Self::Texts { .. } => None,
            Self::Each(classes) => Some(classes[i]),
            Self::Blocks { classes, n } => Some(classes[block(i, classes.len(), *n)]),
            Self::Shares { classes, sums, key } => {
                let at = uniform(&mut key.at(i as u64).generator()) * sums[sums.len() - 1];
                // Rounding may bring it to the very end.
                Some(classes[sums.partition_point(|&sum| sum <= at).min(classes.len() - 1)])
            }
        }
    }
}

/// How many samples are drawn of a model by a configuration if nobody says: as many as make a picture, or one of each item that it begins
/// from where those were named.
///
/// # Errors
/// Classes that the model does not have.
pub fn default_count(model: &Model, classes: &Classes, config: &SampleConfig) -> Result<usize> {
    /// Beyond that many classes a row of pictures of each is no longer a sheet.
    const ROWS: usize = 20;
    if let Some(count) = model.named_beginning().and_then(Begin::count) {
        return Ok(count);
    }
    if let Some(start) = &model.start {
        return Ok(start.count);
    }
    let model = &*model.with_classes_of(config)?;
    Ok(match (&model.subject.shape, classes.of(model, 1, 0)?) {
        (_, ClassOf::Texts { texts, .. }) if *classes != Classes::Default => 4 * texts.len(),
        (Shape::Row { .. }, _) => 2000,
        (Shape::Image { .. }, ClassOf::Blocks { classes, .. }) if (2..=ROWS).contains(&classes.len()) => {
            10 * classes.len()
        }
        _ => 64,
    })
}

/// The classes of labels that come in equal blocks, and how many samples each has: what a sheet has a row for.
pub(crate) fn blocks(labels: &[u32]) -> Option<(Vec<u32>, usize)> {
    let runs: Vec<&[u32]> = labels.chunk_by(|a, b| a == b).collect();
    let each = runs.first()?.len();
    runs.iter().all(|run| run.len() == each).then(|| (runs.iter().map(|run| run[0]).collect(), each))
}

/// Some samples, handed on as they are drawn.
pub struct Drawing<'a> {
    /// `[rows, dim]` in row order, in the data's own units; images clipped to \[0, 1\].
    pub values: &'a [f32],
    /// The class of each, when the model was given one.
    pub labels: Option<&'a [u32]>,
    /// The way there, `[rows, dim]` each, from noise to sample; empty unless it was asked for.
    pub frames: &'a [Vec<f32>],
}

/// Whoever takes samples while they are drawn.
pub trait Sink {
    /// Takes the next rows.
    ///
    /// # Errors
    /// What ends the run, such as a full disk.
    fn take(&mut self, drawing: &Drawing) -> Result<()>;
}

/// How samples were drawn.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Number of samples.
    pub n: usize,
    /// Calls of the model for each sample; the largest of any batch.
    pub evaluations: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// The configuration, resolved.
    pub config: SampleConfig,
    /// The schedule they were drawn on, if the model knows levels.
    pub schedule: Option<AnySchedule>,
    /// The seed.
    pub seed: u64,
    /// The classes that were drawn, in order; empty if the model was given none.
    pub classes: BTreeSet<u32>,
    /// The data they began from, if not noise.
    pub source: Option<String>,
    /// The texts they were told, in equal blocks.
    pub texts: Vec<String>,
    /// The file of the states they began with, where they were given.
    pub start: Option<PathBuf>,
}

/// Samples, all in memory.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// `[n, dim]` in row order, in the data's own units; images clipped to \[0, 1\].
    pub values: Vec<f32>,
    /// The class of each, when the model was given one.
    pub labels: Option<Vec<u32>>,
    /// The way there, `[n, dim]` each, from noise to sample; empty unless it was asked for.
    pub frames: Vec<Vec<f32>>,
    /// How they were drawn.
    pub summary: Summary,
}

/// A [`Sink`] that keeps everything.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) values: Vec<f32>,
    pub(crate) labels: Option<Vec<u32>>,
    pub(crate) frames: Vec<Vec<f32>>,
}

impl Sink for Kept {
    fn take(&mut self, drawing: &Drawing) -> Result<()> {
        self.values.extend_from_slice(drawing.values);
        if let Some(labels) = drawing.labels {
            self.labels.get_or_insert_default().extend_from_slice(labels);
        }
        self.frames.resize(drawing.frames.len(), Vec::new());
        self.frames.iter_mut().zip(drawing.frames).for_each(|(kept, frame)| kept.extend_from_slice(frame));
        Ok(())
    }
}

/// Most pictures in an animation.
const FRAMES: usize = 60;

/// Draws `n` samples into memory; sample i depends on (seed, i) and its class alone.
///
/// ```no_run
/// use stein::Device;
/// use stein_run::{Classes, Model, Silent, draw};
///
/// let model = Model::open("runs/moons", &Device::flex())?;
/// let drawn = draw(&model, 1000, 0, &Classes::Default, &model.sample, &mut Silent)?;
/// println!("{:?}", &drawn.values[..2]);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// A configuration that does not fit the model, and what the model or the watch reports.
pub fn draw(
    model: &Model,
    n: usize,
    seed: u64,
    classes: &Classes,
    config: &SampleConfig,
    watch: &mut dyn Watch,
) -> Result<Drawn> {
    Plan::new(model, n, seed, classes, config, false)?.draw_into_memory(watch)
}

/// As [`draw`], with the way from noise to sample.
///
/// # Errors
/// As [`draw`].
pub fn draw_frames(
    model: &Model,
    n: usize,
    seed: u64,
    classes: &Classes,
    config: &SampleConfig,
    watch: &mut dyn Watch,
) -> Result<Drawn> {
    Plan::new(model, n, seed, classes, config, true)?.draw_into_memory(watch)
}

/// What draws one batch.
enum Runner {
    Denoiser(Arc<dyn Denoiser>, AnySampler, AnySchedule),
    FlowMap(Arc<dyn FlowMap>),
    Generator(Arc<dyn Generator>),
    Velocity(Arc<dyn Velocity>, Solver, AnySchedule),
    Interpolant(Arc<dyn Interpolant>, f64, AnySchedule),
    /// Codes `[n, width]`, which a map of the model's own takes to data.
    Codes(Arc<dyn LatentMap>, Vec<f64>),
    /// Codes `[n, state]`, which the probability-flow ODE leads back to data.
    Decoder(Arc<dyn Velocity>, AnySchedule, Vec<f64>, Steps),
}

/// A run of sampling that was checked and can begin.
pub struct Plan<'a> {
    model: Cow<'a, Model>,
    n: usize,
    seed: u64,
    classes: ClassOf,
    config: SampleConfig,
    schedule: Option<AnySchedule>,
    kernels: Vec<Kernel>,
    /// The moves whose states are wanted, counted over all steps.
    shown: Vec<usize>,
    /// Moves in a step.
    moves: usize,
    runner: Runner,
    state: usize,
    /// Whose noise each sample has, where it is not its own.
    mixed: Vec<Mixed>,
    /// What samples begin from, where that is not noise.
    begin: Option<Begin>,
    /// The texts they are told.
    texts: Vec<String>,
}

impl<'a> Plan<'a> {
    /// `n` samples by this configuration; `frames` asks for the way from noise to sample.
    ///
    /// # Errors
    /// A configuration that does not fit the model.
    pub fn new(
        model: &'a Model,
        n: usize,
        seed: u64,
        classes: &Classes,
        config: &SampleConfig,
        frames: bool,
    ) -> Result<Self> {
        ensure!(n >= 1, "0 samples were asked for: give -n at least 1");
        ensure!(
            Kind::Unsupported,
            model.subject.shown.is_none(),
            "{} is shown what was measured of a sample, and draws none without: use stein restore",
            model.name
        );
        let config = grids::listed(model, config)?;
        let (schedule, mut config) = config.resolve(model.schedule.as_ref(), model.trained)?;
        let model = model.with_classes_of(&config)?;
        let runner = runner(&model, &config, schedule.as_ref())?;
        if frames && config.sampler.adaptive() {
            // An adaptive sampler needs no grid, but an animation does.
            config.grid.steps = 40;
        }
        let kernels = match &schedule {
            Some(schedule) => {
                if matches!(runner, Runner::Velocity(..) | Runner::Interpolant(..)) {
                    config.grid = config.grid.even_to_zero(&**schedule);
                }
                config.grid.kernels(&**schedule)?
            }
            None => Vec::new(),
        };
        ensure_has_way(frames && kernels.is_empty(), &format!("sampler {}", config.sampler.kind()))?;
        let moves = match &config.sampler {
            Method::Sampler(sampler) => sampler.moves(),
            Method::Multistep | Method::Generate | Method::Interpolant(_) => 1,
        };
        let all = kernels.len().saturating_sub(1).saturating_mul(moves);
        let last = FRAMES.min(all);
        let at = |k: usize| (k as u128 * all as u128 / last as u128) as usize;
        let shown = if frames { (0..=last).map(at).collect() } else { vec![] };
        let state: usize = model.subject.state_shape()?.iter().product();
        let rows = config.batch.min(n);
        let networks = model.sizes.iter().map(|size| size.sampling(rows)).fold(0, u128::saturating_add);
        // The states before and after a step, their noise, estimate and values, and the way there.
        let bytes = (rows as u128 * state as u128).saturating_mul(4 * (8 + shown.len() as u128));
        ensure_fits(&format!("sampling {rows} at a time (sample.batch)"), bytes.saturating_add(networks))?;
        if let Some(start) = &model.start {
            ensure!(
                n <= start.count,
                "{} has {} states to start from, and {n} samples are asked for: give one for each",
                start.path.display(),
                start.count
            );
            ensure!(
                Kind::Unsupported,
                matches!(runner, Runner::Denoiser(..)),
                "the samplers of denoisers take states to start from (--start), and {} of {} does not",
                config.sampler.kind(),
                model.name
            );
        }
        let texts = classes.texts(&model).unwrap_or_default().to_vec();
        let (classes, begin) = Self::beginning(&model, n, seed, classes)?;
        let mixed = Vec::new();
        Ok(Self {
            texts,
            model,
            n,
            seed,
            classes,
            config,
            schedule,
            kernels,
            shown,
            moves,
            runner,
            state,
            mixed,
            begin,
        })
    }

    /// The data of codes, each of its class where they are given; `frames` asks for the way, which the probability-flow ODE has.
    pub(crate) fn decoding(
        model: &'a Model,
        codes: Vec<f64>,
        classes: Option<Vec<u32>>,
        coder: &ToCodes,
        frames: bool,
    ) -> Result<Self> {
        let state: usize = model.subject.state_shape()?.iter().product();
        let n = codes.len() / coder.shape(model)?.iter().product::<usize>().max(1);
        let classes = match classes {
            Some(classes) => ClassOf::Each(classes),
            None if model.subject.classes.is_empty() || !model.trained => ClassOf::Unconditional,
            None => ClassOf::Hidden,
        };
        let plan = |runner, schedule, kernels, shown, config| Self {
            model: Cow::Borrowed(model),
            n,
            seed: 0,
            classes,
            config,
            schedule,
            kernels,
            shown,
            moves: 1,
            runner,
            state,
            mixed: Vec::new(),
            begin: None,
            texts: Vec::new(),
        };
        let bare = SampleConfig { wrap: Vec::new(), ..model.sample.clone() };
        let flow = match coder {
            ToCodes::Flow(flow) => flow,
            ToCodes::Map(map) => {
                ensure_has_way(frames, "the map of codes")?;
                let config = SampleConfig { sampler: Method::Generate, ..bare };
                return Ok(plan(Runner::Codes(Arc::clone(map), codes), None, Vec::new(), Vec::new(), config));
            }
        };
        let steps = if frames { 40 } else { 1 };
        let grid = Grid { steps, clean: false, ..Grid::uniform(steps) };
        let ModelFlow { velocity, schedule, start, .. } = &flow.flow;
        let mut kernels = grid.kernels(&**schedule)?;
        if let Some(last) = kernels.last_mut() {
            *last = schedule.kernel(*start);
        }
        let sampler = AnySampler::from(Rk45 { rtol: flow.tolerance, atol: flow.tolerance, ..Rk45::default() });
        let config = SampleConfig { sampler: sampler.into(), grid, ..bare };
        let runner = Runner::Decoder(Arc::clone(velocity), schedule.clone(), codes, flow.steps());
        let shown = if frames { (0..=steps).collect() } else { Vec::new() };
        Ok(plan(runner, Some(schedule.clone()), kernels, shown, config))
    }

    /// Samples with the noise of others mixed, one for each.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn mixing(
        model: &'a Model,
        mixed: Vec<Mixed>,
        seed: u64,
        classes: &Classes,
        config: &SampleConfig,
    ) -> Result<Self> {
        let plan = Self::new(model, mixed.len(), seed, classes, config, false)?;
        Ok(Self { mixed, ..plan })
    }

    /// Where a batch begins on its way along a velocity: noise, or items of other data, with the noise that paths have at that end.
    fn start(&self, request: &Request) -> Result<Tensor<2>> {
        let (model, noise) = (&*self.model, self.model.learned.far_noise);
        let Some(begin) = &self.begin else { return Ok(request.noise_of(noise.hypot(1.0))) };
        let items = begin.rows(model, &request.keys(), request.given.class.as_deref())?;
        Ok(if noise > 0.0 { items + request.noise_of(noise) } else { items })
    }

    /// The condition of samples that are drawn of these classes, and what they begin from, if not from noise.
    pub(crate) fn beginnings(
        model: &Model,
        n: usize,
        seed: u64,
        classes: &Classes,
    ) -> Result<(Condition, Option<Begin>)> {
        let (classes, begin) = Self::beginning(model, n, seed, classes)?;
        Ok((classes.condition(0..n), begin))
    }

    fn beginning(model: &Model, n: usize, seed: u64, classes: &Classes) -> Result<(ClassOf, Option<Begin>)> {
        let begin = model.beginning()?;
        let of_items = begin.as_ref().map(|begin| begin.classes(n)).transpose()?.flatten();
        let asked = classes.of(model, n, seed)?;
        let Some(of_items) = of_items else { return Ok((asked, begin)) };
        ensure!(
            *classes == Classes::Default
                || of_items.iter().enumerate().all(|(i, &class)| asked.class(i) == Some(class)),
            "a sample has the class of the item it begins from, and --class says another: leave it out"
        );
        Ok((ClassOf::Each(of_items), begin))
    }

    /// The number of samples.
    pub fn count(&self) -> usize {
        self.n
    }

    /// Whether every sample is drawn of a class.
    pub fn by_class(&self) -> bool {
        self.classes.class(0).is_some()
    }

    /// The class of every sample, where they have classes.
    pub(crate) fn labels(&self) -> Option<Vec<u32>> {
        (0..self.n).map(|i| self.classes.class(i)).collect()
    }

    /// Draws the samples, a batch at a time.
    ///
    /// # Errors
    /// What the model, the watch or the sink reports; samples that are not finite.
    pub fn draw(self, sink: &mut dyn Sink, watch: &mut dyn Watch) -> Result<Summary> {
        let (model, batch) = (&*self.model, self.config.batch);
        let steps = self.kernels.len().saturating_sub(1).max(1);
        let of = (self.n.div_ceil(batch) * steps) as u64;
        let started = Instant::now();
        let (mut evaluations, mut done, mut classes) = (0, 0, BTreeSet::new());
        let watch = Mutex::new(watch);
        let watch = || watch.lock().unwrap_or_else(PoisonError::into_inner);
        let going = || watch().going();
        for first in (0..self.n).step_by(batch) {
            let rows = batch.min(self.n - first);
            let request = self.request(first, rows);
            let mut frames = Vec::new();
            let mut observe = |progress: &Progress| -> Result<()> {
                going()?;
                if progress.step > 0 && progress.moves == 0 {
                    done += 1;
                    watch().event(Event::Sampled { done, of });
                }
                // A step may end before all its moves, such as the last one, which denoises.
                let reached = progress.step * self.moves + progress.moves;
                let due = self.shown.iter().filter(|&&shown| shown <= reached).count() - frames.len();
                if due > 0 {
                    frames.extend(vec![self.visible(progress)?; due]);
                }
                Ok(())
            };
            let sampled = self.run(&request, &going, &mut observe)?;
            evaluations = evaluations.max(sampled.evaluations);
            let mut values = model.subject.decode(sampled.x)?;
            ensure!(
                Kind::NotFinite,
                values.iter().all(|value| value.is_finite()),
                "sampling gave numbers that are not finite: try other steps, another grid or another sampler"
            );
            if model.subject.levels.is_some() {
                values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
            }
            let labels: Option<Vec<u32>> = (first..first + rows).map(|i| self.classes.class(i)).collect();
            classes.extend(labels.iter().flatten());
            sink.take(&Drawing { values: &values, labels: labels.as_deref(), frames: &frames })?;
        }
        let start = model.start.as_ref().map(|start| start.path.clone());
        let Self { n, seed, config, schedule, begin, texts, .. } = self;
        let source = begin.map(|begin| begin.name().to_owned());
        Ok(Summary {
            source,
            texts,
            start,
            n,
            evaluations,
            seconds: started.elapsed().as_secs_f64(),
            config,
            schedule,
            seed,
            classes,
        })
    }

    /// A state on its way in the data's units. Images are shrunk to the variance of the data, so that noise is gray and not white; others
    /// are divided by α, unless they follow a velocity, which is seen as it is.
    fn visible(&self, progress: &Progress) -> Result<Vec<f32>> {
        let (at, subject) = (progress.at, &self.model.subject);
        let moves = matches!(self.runner, Runner::Velocity(..) | Runner::Interpolant(..));
        let factor = if self.begin.is_some() {
            1.0
        } else if subject.image().is_some() {
            subject.variance.sqrt() / at.prior_std(subject.variance)
        } else if at.alpha > 0.0 && !moves {
            1.0 / at.alpha
        } else {
            1.0
        };
        subject.decode(progress.x.clone().mul_scalar(factor))
    }

    fn draw_into_memory(self, watch: &mut dyn Watch) -> Result<Drawn> {
        let copies = 1 + self.shown.len() as u128;
        let bytes = 4 * self.n as u128 * self.model.subject.dim() as u128;
        ensure_fits(&format!("keeping {} samples", self.n), bytes.saturating_mul(copies))?;
        let mut kept = Kept::default();
        let summary = self.draw(&mut kept, watch)?;
        let Kept { values, labels, frames } = kept;
        Ok(Drawn { values, labels, frames, summary })
    }

    fn request(&self, first: usize, rows: usize) -> Request {
        let given = self.classes.condition(first..first + rows);
        let noise = match self.mixed.get(first..first + rows) {
            Some(mixed) if !mixed.is_empty() => Source::Mixed(mixed.to_vec()),
            _ => Source::Keyed,
        };
        Request {
            noise,
            first: first as u64,
            given,
            data_variance: self.model.subject.variance,
            device: self.model.device.clone(),
            dtype: self.model.dtype,
            ..Request::new(rows, self.state, self.seed)
        }
    }

    fn run(
        &self,
        request: &Request,
        going: &Going,
        observe: &mut dyn FnMut(&Progress) -> Result<()>,
    ) -> Result<Sampled> {
        match &self.runner {
            Runner::Denoiser(denoiser, sampler, schedule) => {
                let denoiser = Asking { inner: &**denoiser, going };
                let (schedule, kernels) = (&**schedule, &self.kernels[..]);
                let Some(start) = &self.model.start else {
                    return sample(&denoiser, schedule, kernels, &**sampler, request, observe);
                };
                let (first, shape) = (request.first as usize * self.state, [request.rows, self.state]);
                let given = TensorData::new(start.states[first..first + shape[0] * shape[1]].to_vec(), shape);
                let x = Tensor::from_data(given.convert_dtype(request.dtype), (&request.device, request.dtype));
                sample_from(x, &denoiser, schedule, kernels, &**sampler, request, observe)
            }
            Runner::Velocity(velocity, solver, schedule) => {
                let velocity = Asking { inner: &**velocity, going };
                let (x, schedule) = (self.start(request)?, &**schedule);
                sample_velocity_from(x, &velocity, schedule, &self.kernels, solver, request, observe)
            }
            Runner::Interpolant(interpolant, diffusion, schedule) => {
                let asked = Asking { inner: &**interpolant, going };
                let (x, schedule) = (self.start(request)?, &**schedule);
                sample_interpolant_from(x, &asked, schedule, &self.kernels, *diffusion, request, observe)
            }
            Runner::Decoder(velocity, schedule, codes, steps) => {
                let velocity = Asking { inner: &**velocity, going };
                let velocity =
                    Converted { inner: velocity, device: self.model.device.clone(), dtype: self.model.dtype };
                let flow = Flow { velocity: &velocity, schedule: &**schedule, given: &request.given };
                let from = request.first as usize * self.state;
                let codes = codes[from..from + request.rows * self.state].to_vec();
                let mut here = rows::matrix(codes, self.state, &rows::exact());
                let (mut evaluations, intervals) = (0, self.kernels.len() - 1);
                for (step, at) in self.kernels.iter().enumerate() {
                    if step > 0 {
                        let from = self.kernels[step - 1].t;
                        let end = flow.carry(here, from, at.t, &DORMAND_PRINCE, *steps)?;
                        (here, evaluations) = (end.x, evaluations + end.evaluations);
                    }
                    observe(&Progress { step, steps: intervals, moves: 0, at, x: &here })?;
                }
                let alpha = self.kernels[intervals].alpha;
                Ok(Sampled { x: here.div_scalar(alpha).cast(self.model.dtype), evaluations })
            }
            Runner::FlowMap(map) => sample_map(map, &self.kernels, request, observe),
            Runner::Generator(generator) => in_one_go(generator.generate(request)?, observe),
            Runner::Codes(map, codes) => {
                let width = map.width();
                let from = request.first as usize * width;
                let like = Tensor::empty([0, 1], (&request.device, request.dtype));
                let codes = rows::matrix(codes[from..from + request.rows * width].to_vec(), width, &like);
                in_one_go(map.decode(codes, &request.given)?, observe)
            }
        }
    }
}

/// Samples that were made in one evaluation.
fn in_one_go(x: Tensor<2>, observe: &mut dyn FnMut(&Progress) -> Result<()>) -> Result<Sampled> {
    observe(&Progress { step: 1, steps: 1, moves: 0, at: &Kernel::CLEAN, x: &x })?;
    Ok(Sampled { x, evaluations: 1 })
}

/// Whether the work should go on.
pub(crate) type Going<'a> = dyn Fn() -> Result<()> + Sync + 'a;

/// Draws rows in batches of `steps` steps each: `draw` is given the rows, what asks whether to go on, and what is shown the steps. Gives the
/// data values of all, and the calls of the model for a batch, the most of any.
///
/// # Errors
/// Those of `draw`, of the watch and of the codecs.
pub(crate) fn in_batches(
    model: &Model,
    [all, batch, steps]: [usize; 3],
    watch: &mut dyn Watch,
    mut draw: impl FnMut(Range<usize>, &Going, &mut dyn FnMut(&Progress) -> Result<()>) -> Result<Sampled>,
) -> Result<(Vec<f32>, usize)> {
    let of = (all.div_ceil(batch) * steps) as u64;
    let (mut values, mut evaluations, mut done) = (Vec::new(), 0, 0);
    let watch = Mutex::new(watch);
    let watch = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let going = || watch().going();
    for first in (0..all).step_by(batch) {
        let mut observe = |progress: &Progress| -> Result<()> {
            going()?;
            if progress.step > 0 && progress.moves == 0 {
                done += 1;
                watch().event(Event::Sampled { done, of });
            }
            Ok(())
        };
        let drawn = draw(first..(first + batch).min(all), &going, &mut observe)?;
        evaluations = evaluations.max(drawn.evaluations);
        values.extend(model.subject.decode(drawn.x)?);
    }
    Ok((values, evaluations))
}

/// A denoiser or velocity that asks before every evaluation whether to go on: a step of a sampler may take many.
pub(crate) struct Asking<'a, T: ?Sized> {
    pub(crate) inner: &'a T,
    pub(crate) going: &'a Going<'a>,
}

impl<D: Denoiser + ?Sized> Denoiser for Asking<'_, D> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        (self.going)()?;
        self.inner.estimate(x, at, given)
    }
}

impl<V: Velocity + ?Sized> Velocity for Asking<'_, V> {
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        (self.going)()?;
        self.inner.velocity(x, at, given)
    }
}

impl<I: Interpolant + ?Sized> Interpolant for Asking<'_, I> {
    fn score(&self, x: Tensor<2>, at: Levels, given: &Condition) -> Result<Tensor<2>> {
        self.inner.score(x, at, given)
    }
}

/// What the sampling method takes of the model, wrapped.
fn runner(model: &Model, config: &SampleConfig, schedule: Option<&AnySchedule>) -> Result<Runner> {
    match &config.sampler {
        Method::Sampler(sampler) => {
            let schedule = schedule.ok_or_else(|| model.lacks(config))?;
            let followed = model.learned.velocity.clone().zip(sampler.solver());
            // What is wrapped around a denoiser says nothing of a velocity, and a denoiser goes on any schedule.
            let bare = config.wrap.is_empty() && config.schedule.is_none() || model.learned.denoiser.is_none();
            if let Some((velocity, solver)) = followed.filter(|_| bare) {
                ensure_bare(model, config, "a velocity")?;
                ensure!(
                    config.schedule.is_none(),
                    "{} is a velocity on its own schedule: leave out --schedule and sample.schedule",
                    model.name
                );
                return Ok(Runner::Velocity(velocity, solver, schedule.clone()));
            }
            if model.learned.denoiser.is_none() {
                return Err(model.lacks(config));
            }
            let denoiser = model.denoiser(config)?;
            Ok(Runner::Denoiser(denoiser, sampler.clone(), schedule.clone()))
        }
        Method::Multistep => model.flow_map(config).map(Runner::FlowMap),
        Method::Interpolant(sampler) => {
            ensure_bare(model, config, "an interpolant")?;
            let (interpolant, schedule) =
                model.learned.interpolant.clone().zip(schedule).ok_or_else(|| model.lacks(config))?;
            Ok(Runner::Interpolant(interpolant, sampler.diffusion, schedule.clone()))
        }
        Method::Generate => {
            ensure_bare(model, config, "a generator")?;
            model.learned.generator.clone().map(Runner::Generator).ok_or_else(|| model.lacks(config))
        }
    }
}

/// Fails where the way of samples that are made in one go would be shown.
fn ensure_has_way(shown: bool, what: &str) -> Result<()> {
    ensure!(!shown, "{what} makes samples in one go, which has no way to show: write another kind of file");
    Ok(())
}

/// Fails where something would be wrapped around what is no denoiser.
fn ensure_bare(model: &Model, config: &SampleConfig, what: &str) -> Result<()> {
    ensure!(
        config.wrap.is_empty(),
        "guidance and what else is wrapped (sample.wrap, --guidance) is for denoisers, and {} is {what}: leave it out",
        model.name
    );
    Ok(())
}
