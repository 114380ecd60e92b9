//! Drawing samples from a model and writing them to a file whose ending says how.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use stein::{
    AnySchedule, Clamp, Condition, Denoiser, Error, FlowMap, Kernel, Progress, Request, Result, Sampled, ensure,
    exact::Exact, names, rows::host, sample, sample_map,
};
use stein_nn::write_atomically;

use crate::{
    Learned, Method, Model, SampleConfig,
    arrays::{write_csv, write_npy_f32, write_npy_i64},
    picture::{auto_scale, from_unit, grid, histogram, scatter, write_gif, write_png, write_webp},
};

/// Which classes to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// What the model does by itself: every class in turn if it is conditional, none if not.
    Default,
    /// Every class, in equal blocks.
    All,
    /// One class, by number or by name.
    One(String),
}

impl Classes {
    /// The class of each of `n` samples.
    fn of(&self, model: &Model, n: usize) -> Result<Option<Vec<usize>>> {
        let known = &model.subject.classes;
        // Equal blocks, so that a sheet of pictures has a class a row.
        let all = || (0..n).map(|i| i * known.len() / n.max(1)).collect();
        match self {
            // A mixture is drawn whole unless a component is asked for.
            Self::Default if known.is_empty() || model.density.is_some() => Ok(None),
            _ if known.is_empty() => {
                Err(Error::new(format!("{} is unconditional, it has no classes: leave out --class", model.name)))
            }
            Self::Default | Self::All => Ok(Some(all())),
            Self::One(name) => {
                let class = name.parse().ok().filter(|&class: &usize| class < known.len());
                let class = class.or_else(|| known.iter().position(|candidate| candidate == name));
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                Ok(Some(vec![class.ok_or_else(|| names::unknown("class", name, &known))?; n]))
            }
        }
    }
}

/// Samples, in the data's own units.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// `[n, dim]` in row order; images clipped to [0, 1].
    pub values: Vec<f32>,
    /// The class of each, when the model was told one.
    pub labels: Option<Vec<usize>>,
    /// The way there, `[n, dim]` each, from noise to sample; empty unless asked for.
    pub frames: Vec<Vec<f32>>,
    /// Calls of the denoiser for each sample; the largest of any batch.
    pub evaluations: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// How they were drawn, resolved.
    pub config: SampleConfig,
    /// The schedule they were drawn on.
    pub schedule: AnySchedule,
    /// The seed.
    pub seed: u64,
}

/// Most pictures in an animation.
const FRAMES: usize = 60;

/// Draws `n` samples; sample i depends on (seed, i) and its class alone.
///
/// `frames` asks for the trajectory. `going` is looked at after every step; the run ends when it says no.
///
/// # Errors
/// A configuration that does not fit the model, and what the denoiser or `going` reports.
pub fn draw(
    model: &Model,
    n: usize,
    seed: u64,
    classes: &Classes,
    config: &SampleConfig,
    frames: bool,
    going: &dyn Fn() -> Result<()>,
) -> Result<Drawn> {
    ensure!(n >= 1, "0 samples were asked for: give -n at least 1");
    ensure!(
        n.checked_mul(model.subject.dim()).is_some_and(|numbers| numbers <= 1 << 36),
        "{n} samples of {} numbers do not fit in memory: draw them in parts with other seeds",
        model.subject.dim()
    );
    let (schedule, mut config) = config.resolve(&model.schedule, model.trained)?;
    if frames && config.sampler.adaptive() {
        // An adaptive sampler needs no grid, but an animation does.
        config.grid.steps = 40;
    }
    let kernels = config.grid.kernels(&*schedule)?;
    let labels = classes.of(model, n)?;
    let subject = &model.subject;
    let dim = subject.dim();
    ensure!(
        !config.clamp || subject.image().is_some(),
        "sample.clamp keeps pictures in their range: {} has none",
        subject.name
    );
    let run = runner(model, &config, &schedule, &kernels)?;
    let steps = kernels.len() - 1;
    let shown: Vec<usize> = (0..=FRAMES.min(steps)).map(|k| k * steps / FRAMES.min(steps)).collect();
    let mut drawn = Drawn {
        values: Vec::with_capacity(n * dim),
        labels: None,
        frames: vec![Vec::new(); if frames { shown.len() } else { 0 }],
        evaluations: 0,
        seconds: 0.0,
        seed,
        config: config.clone(),
        schedule: schedule.clone(),
    };
    let bar = progress_bar((n.div_ceil(config.batch) * steps) as u64, "sampling");
    let started = Instant::now();
    for first in (0..n).step_by(config.batch) {
        let rows = config.batch.min(n - first);
        let given = match &labels {
            Some(labels) => Condition::classes(labels[first..first + rows].to_vec()),
            None => Condition::none(),
        };
        let request = Request {
            seed,
            first: first as u64,
            rows,
            dim,
            given,
            data_variance: subject.variance,
            device: model.device.clone(),
            dtype: model.dtype,
            noise: stein::noise::Source::Keyed,
        };
        let mut observe = |progress: &Progress| -> Result<()> {
            going()?;
            if progress.step > 0 {
                bar.inc(1);
            }
            if frames && let Some(k) = shown.iter().position(|&step| step == progress.step) {
                drawn.frames[k].extend(visible(&host(progress.x), progress.at, model));
            }
            Ok(())
        };
        let sampled = run(&request, &mut observe)?;
        let values = host(&sampled.x);
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "sampling gave numbers that are not finite: try other steps, another grid or another sampler"
        );
        drawn.values.extend(subject.codec.decode(&values, dim));
        drawn.evaluations = drawn.evaluations.max(sampled.evaluations);
    }
    bar.finish_and_clear();
    if subject.image().is_some() {
        drawn.values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
    }
    drawn.labels = labels;
    drawn.seconds = started.elapsed().as_secs_f64();
    Ok(drawn)
}

/// What draws one batch.
type Runner<'a> = Box<dyn Fn(&Request, &mut dyn FnMut(&Progress) -> Result<()>) -> Result<Sampled> + 'a>;

/// The sampling method with the model it takes.
fn runner<'a>(
    model: &'a Model,
    config: &'a SampleConfig,
    schedule: &'a AnySchedule,
    kernels: &'a [Kernel],
) -> Result<Runner<'a>> {
    let bounds = model.subject.codec.encode(&[0.0, 1.0], 1);
    let bounds = config.clamp.then(|| (bounds[0], bounds[1]));
    match (&model.learned, &config.sampler) {
        (Learned::Denoiser(denoiser), Method::Sampler(sampler)) => {
            let denoiser: Box<dyn Denoiser> = match bounds {
                Some(bounds) => Box::new(Clamp { inner: denoiser, bounds }),
                None => Box::new(denoiser),
            };
            Ok(Box::new(move |request, observe| sample(&denoiser, &**schedule, kernels, &**sampler, request, observe)))
        }
        (Learned::FlowMap(map), Method::Multistep) => {
            let map: Box<dyn FlowMap> = match bounds {
                Some(bounds) => Box::new(Clamp { inner: map, bounds }),
                None => Box::new(map),
            };
            Ok(Box::new(move |request, observe| sample_map(&map, kernels, request, observe)))
        }
        (Learned::Denoiser(_), Method::Multistep) => Err(Error::new(format!(
            "sampler multistep takes a consistency function; {} is a denoiser: give another sampler, such as dpm_solver_pp",
            model.name
        ))),
        (Learned::FlowMap(_), Method::Sampler(sampler)) => Err(Error::new(format!(
            "{} is a consistency function, which has no score for sampler {}: only multistep takes it",
            model.name,
            sampler.kind()
        ))),
    }
}

/// A noisy state in the data's units. Images are shrunk to the variance of the data, so that noise is grey and not white;
/// points are divided by α.
fn visible(x: &[f64], at: &Kernel, model: &Model) -> Vec<f32> {
    let variance = model.subject.variance;
    let factor = if model.subject.image().is_some() {
        variance.sqrt() / at.prior_std(variance)
    } else if at.alpha > 0.0 {
        1.0 / at.alpha
    } else {
        1.0
    };
    let scaled: Vec<f64> = x.iter().map(|x| x * factor).collect();
    model.subject.codec.decode(&scaled, model.subject.dim())
}

/// A bar on stderr with rate and time left; silent where stderr is no terminal.
pub(crate) fn progress_bar(length: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
        .expect("the template is a constant that parses");
    ProgressBar::new(length).with_style(style).with_prefix(what.to_owned())
}

/// The endings [`write_samples`] knows.
const ENDINGS: &[&str] = &["png", "gif", "webp", "npy", "csv"];

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Fails unless samples of the model can be written to `path`; says whether their trajectory is wanted.
///
/// # Errors
/// An ending nobody knows, a directory that does not exist, pictures of what cannot be drawn.
pub fn check_output(path: &Path, model: &Model) -> Result<bool> {
    let ending = ending(path);
    ensure!(!path.is_dir(), "{} is a directory: give the name of a file in it, such as samples.png", path.display());
    ensure!(
        !ending.is_empty(),
        "{} has no ending, which says what to write: give .{}",
        path.display(),
        ENDINGS.join(", .")
    );
    if !ENDINGS.contains(&ending.as_str()) {
        return Err(names::unknown("file ending", &ending, ENDINGS).at(path.display()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        ensure!(folder.is_dir(), "cannot write {}: the directory {} does not exist", path.display(), folder.display());
    }
    let drawable = model.subject.image().is_some() || model.subject.dim() <= 2;
    ensure!(
        drawable || matches!(ending.as_str(), "npy" | "csv"),
        "{} has rows of {} numbers, which make no picture: write a .npy or .csv file",
        model.subject.name,
        model.subject.dim()
    );
    ensure!(
        model.subject.image().is_none() || ending != "csv",
        "pictures do not go into a table: write a .png, .gif, .webp or .npy file"
    );
    let record = path.with_extension("json");
    let same = |file: &str| match (record.canonicalize(), Path::new(file).canonicalize()) {
        (Ok(record), Ok(file)) => record == file,
        _ => false,
    };
    ensure!(
        !model.name.strip_prefix("exact:").is_some_and(same),
        "{} would replace the mixture by the record of its samples, {}: give -o another name",
        path.display(),
        record.display()
    );
    Ok(matches!(ending.as_str(), "gif" | "webp"))
}

/// Writes samples by the file's ending: `.png` a sheet of pictures, a scatter plot or a histogram; `.gif` and `.webp` the
/// trajectory; `.npy` float32 (`[n, height, width, channels]` in [0, 1], or `[n, dim]` in the data's units) with the classes
/// in `.labels.npy` beside it; `.csv` a table. Beside it a `.json` says how they were drawn.
///
/// # Errors
/// Those of [`check_output`], and files that cannot be written.
pub fn write_samples(path: &Path, model: &Model, drawn: &Drawn) -> Result<()> {
    check_output(path, model)?;
    let dim = model.subject.dim();
    let n = drawn.values.len() / dim;
    match ending(path).as_str() {
        "png" => write_png(path, &picture(model, &drawn.values, drawn.labels.as_deref())?)?,
        "gif" | "webp" => {
            let frames = pictures(model, drawn)?;
            if ending(path) == "gif" {
                write_gif(path, &frames, 60, 2000)?
            } else {
                write_webp(path, &frames, 60, 2000)?
            }
        }
        "npy" => {
            let shape: Vec<usize> = std::iter::once(n).chain(model.subject.shape.dims()).collect();
            write_npy_f32(path, &drawn.values, &shape)?;
            let beside = path.with_extension("labels.npy");
            if let Some(labels) = &drawn.labels {
                let labels: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
                write_npy_i64(beside, &labels)?;
            } else if beside.exists() {
                // Classes of what stood here before are not those of these samples.
                std::fs::remove_file(&beside)
                    .map_err(|error| Error::new(format!("cannot delete the old {}: {error}", beside.display())))?;
            }
        }
        _ => write_csv(path, &model.subject.columns, &drawn.values, dim, drawn.labels.as_deref())?,
    }
    write_sidecar(&path.with_extension("json"), model, drawn, n)
}

fn write_sidecar(path: &PathBuf, model: &Model, drawn: &Drawn, n: usize) -> Result<()> {
    let classes = drawn.labels.as_ref().map(|labels| {
        labels.iter().map(|&label| model.subject.classes[label].clone()).collect::<std::collections::BTreeSet<_>>()
    });
    let record = serde_json::json!({
        "model": model.name,
        "checkpoint": model.checkpoint,
        "data": model.subject.name,
        "n": n,
        "seed": drawn.seed,
        "classes": classes,
        "schedule": drawn.schedule,
        "sampler": drawn.config.sampler,
        "grid": drawn.config.grid,
        "clamp": drawn.config.clamp,
        "batch": drawn.config.batch,
        "evaluations": drawn.evaluations,
        "seconds": drawn.seconds,
        "version": crate::VERSION,
        "commit": crate::COMMIT,
    });
    write_atomically(path, |file| writeln!(file, "{record:#}"))
}

/// One picture of a batch in the data's units.
pub(crate) fn picture(model: &Model, values: &[f32], labels: Option<&[usize]>) -> Result<RgbImage> {
    sheet(model, values, labels, None, 1)
}

/// The pictures of an animation: smaller than a still, and with the same axes in all of them.
pub(crate) fn pictures(model: &Model, drawn: &Drawn) -> Result<Vec<RgbImage>> {
    let bounds = (model.subject.dim() == 2).then(|| square(&drawn.values));
    drawn.frames.iter().map(|frame| sheet(model, frame, drawn.labels.as_deref(), bounds, 2)).collect()
}

/// A picture a `shrink`-th as large as a still.
fn sheet(
    model: &Model,
    values: &[f32],
    labels: Option<&[usize]>,
    bounds: Option<[(f64, f64); 2]>,
    shrink: u32,
) -> Result<RgbImage> {
    let dim = model.subject.dim();
    let n = values.len() / dim;
    if let Some(shape) = model.subject.image() {
        // A class a row where the classes come in equal blocks; otherwise a square.
        let known = model.subject.classes.len();
        let blocks = labels.filter(|labels| {
            known > 0
                && n.is_multiple_of(known)
                && n / known <= 100
                && labels.iter().enumerate().all(|(i, &label)| label == i * known / n)
        });
        let columns = if blocks.is_some() { n / known } else { (n as f64).sqrt().ceil() as usize };
        let names = blocks.map(|_| model.subject.classes.as_slice());
        return if n == 1 {
            from_unit(values, shape.0, shape.1, shape.2)
        } else {
            grid(values, shape, columns, (auto_scale(shape.1, columns) / shrink).max(1), names)
        };
    }
    let numbers: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    let density = |point: &[f64]| match &model.density {
        Some(density) => density.log_density(point, &Kernel::CLEAN)[0].exp(),
        None => 0.0,
    };
    let title = format!("{n} samples of {}", model.subject.name);
    if dim == 1 {
        let curve = |x: f64| density(&[x]);
        let known: Option<&dyn Fn(f64) -> f64> = if model.density.is_some() { Some(&curve) } else { None };
        return histogram(&numbers, known, &title, &model.subject.columns[0], (960 / shrink, 600 / shrink), None);
    }
    let points: Vec<[f64; 2]> = numbers.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
    let field = |x: f64, y: f64| density(&[x, y]);
    let known: Option<&dyn Fn(f64, f64) -> f64> = if model.density.is_some() { Some(&field) } else { None };
    scatter(&points, known, &title, (800 / shrink, 800 / shrink), bounds)
}

/// A square around points with a margin, so that the frames of an animation share their axes.
fn square(values: &[f32]) -> [(f64, f64); 2] {
    let range = |axis: usize| {
        let column = values.iter().skip(axis).step_by(2).map(|&v| f64::from(v));
        column.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (x, y) = (range(0), range(1));
    let half = 0.6 * (x.1 - x.0).max(y.1 - y.0).max(f64::MIN_POSITIVE);
    [x, y].map(|(low, high)| (0.5 * (low + high) - half, 0.5 * (low + high) + half))
}
