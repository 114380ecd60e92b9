//! How good samples are: metrics of a model, a file or a folder against data, in one pass over each.

mod by_class;
mod features;
mod lpips;
mod measuring;
mod report;
mod shipped;
mod sides;

pub use by_class::{ByClass, OfClass};
pub use features::FEATURES;
pub(crate) use lpips::register as register_metrics;
pub use report::Evaluation;
pub(crate) use report::{aligned, short, told};
pub use shipped::{ACCURACY, Shipped};

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Instant,
};

use stein::{Device, Error, Result, ensure};
use stein_base::memory;
use stein_data::{Shape, Split};
use stein_metrics::{AnyMetric, Content, Layout, Moments, Needs, Pairing, Side, Wanted};
use toml::Table;

use crate::{Changes, Classes, Event, Model, Plan, RunDir, SampleConfig, Watch, Weights};

use features::Extractor;
use measuring::{Chunk, Finished, Measuring};
use report::Leave;
use sides::{Against, Sides};

/// Whose samples are measured.
pub enum Of {
    /// Samples that a model draws.
    Model(Box<Model>),
    /// A file or folder of samples, or a data set by name.
    Data(String),
}

impl Of {
    /// The model of that name where there is one, or else the data.
    ///
    /// # Errors
    /// A model that cannot be opened, weights that are asked for of data, and a name that is no text.
    pub fn open(name: &OsStr, weights: Option<Weights>, device: &Device) -> Result<Self> {
        let path = Path::new(name);
        let is_model = name.as_encoded_bytes().starts_with(b"exact:")
            || (path.is_dir() && RunDir::within(path).is_ok())
            || path.extension().is_some_and(|ending| ending == "safetensors");
        if is_model {
            let model = match weights {
                Some(weights) => Model::open_with(name, weights, device)?,
                None => Model::open(name, device)?,
            };
            return Ok(Self::Model(Box::new(model)));
        }
        ensure!(weights.is_none(), "--weights is of a model, and {} is none: leave it out", path.display());
        match name.to_str() {
            Some(text) => Ok(Self::Data(text.to_owned())),
            None => Err(Error::new(format!("the path {} is not UTF-8: rename the file", path.display()))),
        }
    }
}

/// What is measured against what.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOptions {
    /// The data to compare with, by name or path; default the training data of a model.
    pub against: Option<String>,
    /// Their part; default what is trained on, and all of a file or folder that is named.
    pub split: Option<Split>,
    /// Data the model was not trained on, by name or path; default the test part of the same data.
    pub held_out: Option<String>,
    /// `path=value` settings of how the data are read.
    pub settings: Vec<String>,
    /// The metrics, by name; default what suits the data.
    pub metrics: Vec<String>,
    /// `metric.key=value` settings of metrics.
    pub metric_settings: Vec<String>,
    /// What turns pictures into the rows that are compared, one of [`FEATURES`].
    pub features: String,
    /// The weights of such a network, a file.
    pub weights: Option<PathBuf>,
    /// Samples; default 1000 of a model, and all of a file.
    pub n: Option<usize>,
    /// Rows of the reference that the metrics between all pairs take, evenly spread; default 10,000.
    pub reference_n: Option<usize>,
    /// The moments of the reference in a `.npz` file: read if it is there, which needs no data to compare with, or else written.
    pub reference: Option<PathBuf>,
    /// Seed of the samples.
    pub seed: u64,
    /// How a model is sampled otherwise.
    pub sampling: Changes,
    /// Directory with data sets.
    pub folder: Option<PathBuf>,
    /// Whether each class is measured by itself too, which the page has wherever samples and data have classes.
    pub by_class: bool,
    /// A directory for a page with pictures, the nearest data beside the samples, and a grid of both.
    pub report: Option<PathBuf>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self {
            against: None,
            split: None,
            held_out: None,
            settings: Vec::new(),
            metrics: Vec::new(),
            metric_settings: Vec::new(),
            features: "none".into(),
            weights: None,
            n: None,
            reference_n: None,
            reference: None,
            seed: 0,
            sampling: Changes::default(),
            folder: None,
            by_class: false,
            report: None,
            force: false,
        }
    }
}

/// Samples of a model that are measured where their number is not said.
pub(crate) const DRAWN: usize = 1000;

/// Rows that are read, and given to a network, at a time.
const ROWS: usize = 256;

/// Measures samples against data.
///
/// ```no_run
/// use stein_run::{EvaluateOptions, Model, Of, Silent, evaluate};
///
/// let model = Model::open("runs/moons", &stein::Device::flex())?;
/// let found = evaluate(&Of::Model(Box::new(model)), &EvaluateOptions::default(), &mut Silent)?;
/// print!("{found}");
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// Names that are not known, data that cannot be read or compared, metrics that need what is not there, all before work starts; rows
/// that are not finite.
pub fn evaluate(of: &Of, options: &EvaluateOptions, watch: &mut dyn Watch) -> Result<Evaluation> {
    ensure!(
        matches!(of, Of::Model(_)) || options.sampling == Changes::default(),
        "a sampler, its steps and settings are of a model, and these samples were drawn before: leave them out"
    );
    let compared = Compared::of(of, options)?;
    let sampling = match of {
        Of::Model(model) => Some(model.sample.with(&options.sampling)?),
        Of::Data(_) => None,
    };
    if let (Of::Model(model), Some(sampling)) = (of, &sampling) {
        Plan::new(model, 1, 0, &Classes::Default, sampling, false)?;
    }
    let leave = options.report.as_ref().map(|folder| Leave::new(folder, options.force)).transpose()?;
    let mut shown = leave.is_some().then(|| report::Shown::of(compared.sides.samples.count()));
    let dim = compared.sides.shape.len();
    let mut seen = |values: &[f32], labels: Option<&[u32]>| {
        if let Some(shown) = &mut shown {
            shown.take(values, labels, dim);
        }
    };
    let evaluation = compared.measure(sampling.as_ref(), &mut seen, watch)?;
    if let (Some(leave), Some(shown)) = (leave, shown) {
        leave.write(&evaluation, &shown, &compared.sides)?;
    }
    Ok(evaluation)
}

/// Fails for all that is wrong with measuring samples of a model so.
pub(crate) fn check_evaluation(model: Model, options: &EvaluateOptions) -> Result<()> {
    Compared::of(&Of::Model(Box::new(model)), options).map(drop)
}

/// Is shown samples and the class of each.
pub(crate) type Seen<'a> = dyn FnMut(&[f32], Option<&[u32]>) + 'a;

/// The part of the memory there is that rows may take which are kept to be measured against again.
const KEPT: u64 = 4;

/// What samples are compared with, and by which metrics.
pub(crate) struct Compared<'a> {
    options: &'a EvaluateOptions,
    sides: Sides<'a>,
    extractor: Option<Box<dyn Extractor>>,
    metrics: Vec<AnyMetric>,
    /// The rows of the other sides, where they are measured against more than once.
    rows: Option<Vec<(Side, Chunk)>>,
}

/// What samples were compared with, for those of a model that comes later.
pub(crate) struct Kept {
    against: Against,
    extractor: Option<Box<dyn Extractor>>,
    rows: Option<Vec<(Side, Chunk)>>,
}

impl<'a> Compared<'a> {
    /// Fails for all that is wrong with what is asked for.
    pub(crate) fn of(of: &'a Of, options: &'a EvaluateOptions) -> Result<Self> {
        let sides = Sides::of(of, options, Against::of(of, options)?)?;
        let extractor = features::named(options, sides.shape, &device(of))?;
        Self::made(options, sides, extractor, None)
    }

    /// With what others were compared with, of the same options.
    pub(crate) fn again(of: &'a Of, options: &'a EvaluateOptions, kept: Kept) -> Result<Self> {
        let Kept { against, extractor, rows } = kept;
        Self::made(options, Sides::of(of, options, against)?, extractor, rows)
    }

    fn made(
        options: &'a EvaluateOptions,
        sides: Sides<'a>,
        extractor: Option<Box<dyn Extractor>>,
        rows: Option<Vec<(Side, Chunk)>>,
    ) -> Result<Self> {
        lpips::register();
        check_moments(options, extractor.as_deref())?;
        let metrics = metrics(options, &sides, extractor.as_deref())?;
        ensure!(
            !options.by_class || sides.labeled(),
            "--by-class needs the class of every sample and of the data: give data with classes"
        );
        Ok(Self { options, sides, extractor, metrics, rows })
    }

    /// The metrics.
    pub(crate) fn metrics(&self) -> &[AnyMetric] {
        &self.metrics
    }

    /// What samples are compared with, for others.
    pub(crate) fn into_kept(self) -> Kept {
        Kept { against: self.sides.into_against(), extractor: self.extractor, rows: self.rows }
    }

    /// Keeps what samples are compared with as the metrics take it, unless it is kept already, or more than a quarter of the memory:
    /// then it is read and turned to features again for all samples that come.
    pub(crate) fn keep(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let extracted = self.extractor.as_ref().map_or(0, |it| it.dim() + it.classes().unwrap_or(0));
        // Where features are compared, the data themselves are looked at by metrics of pictures alone.
        let plain = extracted == 0 || self.metrics.iter().any(|metric| metric.needs().content == Content::Picture);
        let row = 4 * (extracted + if plain { self.sides.shape.len() } else { 0 } + 1);
        let rows: usize = self.looked_at().map(|side| self.sides.rows(side)).sum();
        let bytes = (row as u64).saturating_mul(rows as u64);
        if self.rows.is_some() || memory::available().is_some_and(|here| bytes > here / KEPT) {
            return Ok(());
        }
        let mut kept = Vec::new();
        self.others(watch, &mut |side, mut chunk| {
            if !plain {
                chunk.values = Vec::new();
            }
            kept.push((side, chunk));
            Ok(())
        })?;
        self.rows = Some(kept);
        Ok(())
    }

    /// Whether each class is measured by itself.
    fn by_class(&self) -> bool {
        self.options.by_class || (self.options.report.is_some() && self.sides.labeled())
    }

    /// The other sides that some metric looks at.
    fn looked_at(&self) -> impl Iterator<Item = Side> + Clone {
        let needs: Vec<Needs> = self.metrics.iter().map(|metric| metric.needs()).collect();
        let reference =
            needs.iter().any(|needs| needs.reference) || measuring::writes_moments(self.options) || self.by_class();
        let held_out = needs.iter().any(|needs| needs.held_out != Wanted::No);
        let sides = [(Side::Reference, reference), (Side::HeldOut, held_out)];
        sides.into_iter().filter(|(_, looked_at)| *looked_at).map(|(side, _)| side)
    }

    /// The rows of the other sides that some metric looks at, some at a time.
    fn others(&self, watch: &mut dyn Watch, take: &mut dyn FnMut(Side, Chunk) -> Result<()>) -> Result<()> {
        let sides = self.looked_at();
        let of: usize = sides.clone().map(|side| self.sides.rows(side)).sum();
        let mut done = 0;
        for side in sides {
            let Some(part) = self.sides.part(side) else { continue };
            for first in (0..part.count()).step_by(ROWS) {
                watch.going()?;
                let (values, labels) = part.read(first, ROWS)?;
                done += values.len() / self.sides.shape.len();
                take(side, self.chunk(values, labels)?)?;
                watch.event(Event::Measured { done: done as u64, of: of as u64 });
            }
        }
        Ok(())
    }

    fn chunk(&self, values: Vec<f32>, labels: Option<Vec<u32>>) -> Result<Chunk> {
        let shape = self.sides.shape;
        let extracted = self.extractor.as_ref().map(|extractor| extractor.extract(&values, shape)).transpose()?;
        Ok(Chunk { rows: values.len() / shape.len(), values, extracted, labels })
    }

    /// Measures the samples, drawn so where they are drawn, and shows them as they come, with their classes.
    pub(crate) fn measure(
        &self,
        sampling: Option<&SampleConfig>,
        seen: &mut Seen,
        watch: &mut dyn Watch,
    ) -> Result<Evaluation> {
        let started = Instant::now();
        let (sides, dim) = (&self.sides, self.sides.shape.len());
        let mut measuring =
            Measuring::new(&self.metrics, sides, self.extractor.as_deref(), self.options, self.by_class())?;
        match &self.rows {
            Some(kept) => kept.iter().try_for_each(|(side, chunk)| measuring.take(*side, chunk))?,
            None => self.others(watch, &mut |side, chunk| measuring.take(side, &chunk))?,
        }
        let sampled = sides.samples.each(sampling, self.options.seed, watch, &mut |values, labels| {
            seen(values, labels);
            for (i, part) in values.chunks(ROWS * dim).enumerate() {
                let rows = i * ROWS..i * ROWS + part.len() / dim;
                let chunk = self.chunk(part.to_vec(), labels.map(|labels| labels[rows].to_vec()))?;
                measuring.take(Side::Samples, &chunk)?;
            }
            Ok(())
        })?;
        let features = self.extractor.as_ref().map_or_else(|| "none".to_owned(), |extractor| extractor.name());
        let Finished { measured, by_class } = measuring.finish(self.options, &features)?;
        Ok(Evaluation {
            measured,
            by_class,
            shows_classes: self.options.by_class,
            samples: sides.samples.name().to_owned(),
            n: sides.samples.count(),
            sampled,
            reference: sides.reference_name(),
            reference_n: sides.rows(Side::Reference),
            held_out: sides.part(Side::HeldOut).map(|part| (part.name().to_owned(), part.count())),
            unread: sides.unread().map(String::from),
            features,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// Fails if the file of the reference is there and has moments of other features.
fn check_moments(options: &EvaluateOptions, extractor: Option<&dyn Extractor>) -> Result<()> {
    let Some(path) = options.reference.as_ref().filter(|path| path.exists()) else { return Ok(()) };
    let moments = Moments::load(path)?;
    let name = extractor.map_or_else(|| "none".to_owned(), |extractor| extractor.name());
    let theirs = &moments.extractor;
    // Files of other programs do not say.
    ensure!(
        Kind::Mismatch,
        theirs.is_empty() || *theirs == name,
        "{} has moments of the features {theirs}, and these are {name}: compare features of one kind",
        path.display()
    );
    Ok(())
}

/// A metric with its settings, and what it has to know of the data.
pub(crate) fn metric_for(name: &str, settings: &[String], shape: Shape) -> Result<AnyMetric> {
    lpips::register();
    let kind = AnyMetric::named(name)?.kind().to_owned();
    let mut table = Table::new();
    if matches!(AnyMetric::named(&kind)?, AnyMetric::InceptionScore(_)) {
        // Samples come class by class.
        table.insert("shuffle".to_owned(), true.into());
    }
    if kind == lpips::NAME {
        let sides = shape.dims().into_iter().map(|side| toml::Value::Integer(side as i64)).collect();
        table.insert("shape".to_owned(), toml::Value::Array(sides));
    }
    for setting in settings {
        let of = setting.split('.').next().unwrap_or_default();
        if AnyMetric::named(of).is_ok_and(|metric| metric.kind() == kind) {
            crate::experiment::set(&mut table, &setting[of.len() + 1..])?;
        }
    }
    let mut metric = AnyMetric::with_settings(&kind, table).map_err(|error| error.at(&kind))?;
    if let (AnyMetric::Ssim(ssim), Shape::Image { height, width, channels }) = (&mut metric, shape)
        && ssim.shape.is_empty()
    {
        ssim.shape = vec![channels, height, width];
        ssim.layout = Layout::ChannelsLast;
    }
    metric.check().map_err(|error| error.at(&kind))?;
    Ok(metric)
}

/// The same, with the moments of the reference where there is a file of them.
fn with_settings(name: &str, options: &EvaluateOptions, shape: Shape) -> Result<AnyMetric> {
    let mut metric = metric_for(name, &options.metric_settings, shape)?;
    if let AnyMetric::Frechet(frechet) = &mut metric
        && frechet.reference.is_none()
    {
        frechet.reference = options.reference.clone().filter(|path| path.exists());
        metric.check().map_err(|error| error.at("frechet"))?;
    }
    Ok(metric)
}

/// The metrics that are asked for, or that suit the data.
fn metrics(options: &EvaluateOptions, sides: &Sides, extractor: Option<&dyn Extractor>) -> Result<Vec<AnyMetric>> {
    for setting in &options.metric_settings {
        let (path, _) = setting.split_once('=').unwrap_or((setting, ""));
        ensure!(
            path.contains('.') && setting.contains('='),
            "--metric-set {setting}: give a metric, a setting and a value, such as precision.k=3"
        );
        AnyMetric::named(path.split('.').next().unwrap_or_default())?;
    }
    if !options.metrics.is_empty() {
        let metrics: Vec<AnyMetric> =
            options.metrics.iter().map(|name| with_settings(name, options, sides.shape)).collect::<Result<_>>()?;
        for (i, metric) in metrics.iter().enumerate() {
            let kind = metric.kind();
            ensure!(metrics[..i].iter().all(|other| other.kind() != kind), "the metric {kind} is asked for twice");
            lacks(metric, sides, extractor).map_err(|error| error.at(kind))?;
        }
        return Ok(metrics);
    }
    let names: &[&str] = match sides.shape {
        Shape::Image { .. } => &[
            "frechet",
            "kernel",
            "inception_score",
            "precision",
            "recall",
            "density",
            "coverage",
            "agreement",
            "spread",
        ],
        _ => &["sliced_wasserstein", "energy", "c2st", "precision", "recall", "density", "coverage"],
    };
    let names = names.iter().chain(&["authenticity", "novelty"]);
    let all: Vec<AnyMetric> = names.map(|name| with_settings(name, options, sides.shape)).collect::<Result<_>>()?;
    let suits = |metric: &AnyMetric| lacks(metric, sides, extractor).is_ok();
    // Where the reference is moments alone, that of sets are out too.
    let metrics: Vec<AnyMetric> = all.into_iter().filter(suits).collect();
    ensure!(!metrics.is_empty(), "no metric suits what there is: give data to compare with by --against");
    Ok(metrics)
}

/// Fails if there is not what a metric needs.
fn lacks(metric: &AnyMetric, sides: &Sides, extractor: Option<&dyn Extractor>) -> Result<()> {
    let needs = metric.needs();
    ensure!(
        !needs.reference || sides.part(Side::Reference).is_some(),
        "it needs data to compare with: give them by --against"
    );
    ensure!(
        needs.held_out != Wanted::Needed || sides.part(Side::HeldOut).is_some(),
        "it needs data that were not trained on: give them by --held-out{}",
        sides.unread().map(|why| format!(", since the test part cannot be read ({why})")).unwrap_or_default()
    );
    ensure!(
        !needs.labels || sides.labeled(),
        "it needs the class of every sample and of the data: give data with classes"
    );
    ensure!(
        needs.content != Content::Classes || extractor.is_some_and(|extractor| extractor.classes().is_some()),
        "it needs what a classifier says: give one by --features"
    );
    ensure!(
        needs.content != Content::Picture || matches!(sides.shape, Shape::Image { .. }),
        "it is for pictures, and these are {}",
        sides.shape
    );
    let (n, references) = (sides.samples.count(), sides.rows(Side::Reference));
    match needs.pairs {
        Pairing::None => {}
        Pairing::Rows => ensure!(
            n == references,
            "it compares pairs, and there are {n} samples and {references} rows to compare with: give as many of both"
        ),
        Pairing::Ensembles => ensure!(
            references > 0 && n.is_multiple_of(references) && n / references > 1,
            "it scores ensembles, and {n} samples make none of the same size for {references} observations"
        ),
    }
    Ok(())
}

/// The device features are found on.
fn device(of: &Of) -> Device {
    match of {
        Of::Model(model) => model.device.clone(),
        Of::Data(_) => Device::flex(),
    }
}
