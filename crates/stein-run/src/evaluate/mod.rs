//! How good samples are: metrics of a model, a file or a folder against data, in one pass over each.

mod features;
mod report;
mod sides;

pub use features::FEATURES;
pub use report::Evaluation;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use stein::{Device, Error, Result, ensure};
use stein_data::{Shape, Split};
use stein_metrics::{AnyMetric, Batch, Content, Measured, Moments, Pairing, Session, Side};
use toml::Table;

use crate::{Changes, Event, Model, RunDir, Watch, Weights};

use features::Extractor;
use report::Leave;
use sides::{Part, Sides};

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
            report: None,
            force: false,
        }
    }
}

/// Samples of a model that are measured where their number is not said.
const DRAWN: usize = 1000;

/// Rows of the reference that metrics between all pairs take where their number is not said.
const PAIRED: usize = 10_000;

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
    let started = Instant::now();
    ensure!(
        matches!(of, Of::Model(_)) || options.sampling == Changes::default(),
        "a sampler, its steps and settings are of a model, and these samples were drawn before: leave them out"
    );
    let sides = Sides::of(of, options)?;
    let extractor = features::named(options, sides.shape, &device(of))?;
    let moments = saved_moments(options, extractor.as_deref())?;
    let metrics = metrics(options, &sides, extractor.as_deref(), moments.is_some())?;
    let leave = options.report.as_ref().map(|folder| Leave::new(folder, options.force)).transpose()?;
    let mut measuring = Measuring::new(metrics, &sides, extractor.as_deref(), options)?;
    let total = sides.rows(Side::Reference) + sides.samples.count() + sides.rows(Side::HeldOut);
    let watch = Mutex::new(watch);
    let watch = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = 0;
    for side in [Side::Reference, Side::HeldOut] {
        let Some(part) = sides.part(side) else { continue };
        for first in (0..part.count()).step_by(ROWS) {
            watch().going()?;
            let (values, labels) = part.read(first, ROWS)?;
            measuring.take(side, &values, labels.as_deref())?;
            done += values.len() / sides.shape.len();
            watch().event(Event::Measured { done: done as u64, of: total as u64 });
        }
    }
    let mut shown = leave.is_some().then(report::Shown::default);
    let drawn = sides.samples.each(options, &mut **watch(), &mut |values, labels| {
        if let Some(shown) = &mut shown {
            shown.take(values, labels, sides.shape.len());
        }
        for (values, labels) in sides::parts(values, labels, sides.shape.len(), ROWS) {
            measuring.take(Side::Samples, values, labels)?;
        }
        Ok(())
    })?;
    let extractor_name = extractor.as_ref().map_or_else(|| "none".to_owned(), |extractor| extractor.name());
    let measured = measuring.finish(options, &extractor_name)?;
    let evaluation = Evaluation {
        measured,
        samples: sides.samples.name().to_owned(),
        n: sides.samples.count(),
        sampled: drawn,
        reference: sides.reference_name(),
        reference_n: sides.rows(Side::Reference),
        held_out: sides.part(Side::HeldOut).map(|part| (part.name().to_owned(), part.count())),
        features: extractor_name,
        seconds: started.elapsed().as_secs_f64(),
    };
    if let (Some(leave), Some(shown)) = (leave, shown) {
        leave.write(&evaluation, &shown, &sides)?;
    }
    Ok(evaluation)
}

/// The moments in the file of the reference, if it is there.
fn saved_moments(options: &EvaluateOptions, extractor: Option<&dyn Extractor>) -> Result<Option<Moments>> {
    let Some(path) = options.reference.as_ref().filter(|path| path.exists()) else { return Ok(None) };
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
    Ok(Some(moments))
}

/// A metric with its settings.
fn with_settings(name: &str, settings: &[String]) -> Result<AnyMetric> {
    let kind = AnyMetric::named(name)?.kind().to_owned();
    let mut table = Table::new();
    for setting in settings {
        let of = setting.split('.').next().unwrap_or_default();
        if AnyMetric::named(of).is_ok_and(|metric| metric.kind() == kind) {
            crate::experiment::set(&mut table, &setting[of.len() + 1..])?;
        }
    }
    let metric = AnyMetric::with_settings(&kind, table).map_err(|error| error.at(&kind))?;
    metric.check().map_err(|error| error.at(&kind))?;
    Ok(metric)
}

/// The metrics that are asked for, or that suit the data.
fn metrics(
    options: &EvaluateOptions,
    sides: &Sides,
    extractor: Option<&dyn Extractor>,
    moments: bool,
) -> Result<Vec<AnyMetric>> {
    for setting in &options.metric_settings {
        let (path, _) = setting.split_once('=').unwrap_or((setting, ""));
        ensure!(
            path.contains('.') && setting.contains('='),
            "--metric-set {setting}: give a metric, a setting and a value, such as precision.k=3"
        );
        AnyMetric::named(path.split('.').next().unwrap_or_default())?;
    }
    let settings = &options.metric_settings;
    if !options.metrics.is_empty() {
        let metrics: Vec<AnyMetric> =
            options.metrics.iter().map(|name| with_settings(name, settings)).collect::<Result<_>>()?;
        for (i, metric) in metrics.iter().enumerate() {
            let kind = metric.kind();
            ensure!(metrics[..i].iter().all(|other| other.kind() != kind), "the metric {kind} is asked for twice");
            lacks(metric, sides, extractor, moments).map_err(|error| error.at(kind))?;
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
    let all: Vec<AnyMetric> = names.map(|name| with_settings(name, settings)).collect::<Result<_>>()?;
    let suits = |metric: &AnyMetric| lacks(metric, sides, extractor, moments).is_ok();
    // Where the reference is moments alone, that of sets are out too.
    let metrics: Vec<AnyMetric> = all.into_iter().filter(suits).collect();
    ensure!(!metrics.is_empty(), "no metric suits what there is: give data to compare with by --against");
    Ok(metrics)
}

/// Fails if there is not what a metric needs.
fn lacks(metric: &AnyMetric, sides: &Sides, extractor: Option<&dyn Extractor>, moments: bool) -> Result<()> {
    let needs = metric.needs();
    let by_moments = moments && matches!(metric, AnyMetric::Frechet(_));
    ensure!(
        !needs.reference || sides.part(Side::Reference).is_some() || by_moments,
        "it needs data to compare with: give them by --against"
    );
    ensure!(
        !needs.held_out || sides.part(Side::HeldOut).is_some(),
        "it needs data that were not trained on: give them by --held-out"
    );
    ensure!(
        !needs.labels || (sides.samples.labeled() && sides.part(Side::Reference).is_some_and(Part::labeled)),
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

/// Metrics of one kind of rows.
struct Group {
    metrics: Vec<AnyMetric>,
    session: Session,
    content: Content,
    /// Whether it sees every row of the reference.
    all: bool,
    /// Rows of the reference it was given.
    given: usize,
}

/// The metrics being measured.
struct Measuring<'a> {
    groups: Vec<Group>,
    extractor: Option<&'a dyn Extractor>,
    /// The order the metrics were asked for in.
    order: Vec<String>,
    /// Rows of the reference, and how many of them metrics between all pairs take.
    reference: (usize, usize),
    seen: usize,
    /// Moments to be written.
    moments: Option<stein_metrics::Accumulator>,
    shape: Shape,
}

/// Whether a metric takes every row of the reference, which costs it little or is what it is about.
fn takes_all(metric: &AnyMetric) -> bool {
    use AnyMetric::{Agreement, Authenticity, Copying, Frechet, Novelty, SlicedWasserstein, Spread};
    matches!(
        metric,
        Frechet(_) | SlicedWasserstein(_) | Novelty(_) | Authenticity(_) | Copying(_) | Agreement(_) | Spread(_)
    ) || metric.needs().pairs != Pairing::None
}

impl<'a> Measuring<'a> {
    fn new(
        mut metrics: Vec<AnyMetric>,
        sides: &Sides,
        extractor: Option<&'a dyn Extractor>,
        options: &EvaluateOptions,
    ) -> Result<Self> {
        for metric in &mut metrics {
            if let AnyMetric::Frechet(frechet) = metric {
                frechet.reference = options.reference.clone().filter(|path| path.exists());
            }
            if let (AnyMetric::Ssim(ssim), Shape::Image { height, width, channels }) = (metric, sides.shape) {
                ssim.shape = vec![channels, height, width];
                ssim.layout = stein_metrics::Layout::ChannelsLast;
            }
        }
        let dim = |content| match (content, extractor) {
            (Content::Numbers, Some(extractor)) => extractor.dim(),
            (Content::Classes, Some(extractor)) => extractor.classes().unwrap_or(1),
            _ => sides.shape.len(),
        };
        let mut groups: Vec<Group> = Vec::new();
        let order = metrics.iter().map(|metric| metric.kind().to_owned()).collect();
        for content in [Content::Numbers, Content::Picture, Content::Classes] {
            for all in [true, false] {
                let of: Vec<AnyMetric> = metrics
                    .iter()
                    .filter(|metric| metric.needs().content == content && takes_all(metric) == all)
                    .cloned()
                    .collect();
                if !of.is_empty() {
                    groups.push(Group {
                        session: Session::new(&of, dim(content))?,
                        metrics: of,
                        content,
                        all,
                        given: 0,
                    });
                }
            }
        }
        let references = sides.rows(Side::Reference);
        let writes = options.reference.as_ref().is_some_and(|path| !path.exists());
        ensure!(
            !writes || references > 0,
            "there is nothing at {}, and no data whose moments could be written there: give them by --against",
            options.reference.as_deref().unwrap_or_else(|| "".as_ref()).display()
        );
        let moments = if writes { Some(stein_metrics::Accumulator::new(dim(Content::Numbers))?) } else { None };
        let reference = (references, options.reference_n.unwrap_or(PAIRED).min(references));
        Ok(Self { groups, extractor, order, reference, seen: 0, moments, shape: sides.shape })
    }

    /// Takes some rows of a side.
    fn take(&mut self, side: Side, values: &[f32], labels: Option<&[u32]>) -> Result<()> {
        let extracted = self.extractor.map(|extractor| extractor.extract(values, self.shape)).transpose()?;
        let rows = values.len() / self.shape.len();
        let first = self.seen;
        if side == Side::Reference {
            self.seen += rows;
        }
        let (all, some) = self.reference;
        // Even places of all: row i is taken where i·some/all passes a whole number.
        let taken: Vec<usize> = (0..rows)
            .filter(|row| {
                let place = (first + row) as u128;
                let (all, some) = (all.max(1) as u128, some as u128);
                (place + 1) * some / all > place * some / all
            })
            .collect();
        for group in &mut self.groups {
            let numbers: &[f32] = match (&extracted, group.content) {
                (Some(extracted), Content::Numbers) => &extracted.features,
                (Some(extracted), Content::Classes) => &extracted.outputs,
                _ => values,
            };
            if side != Side::Reference || group.all || taken.len() == rows {
                let batch = Batch::from(numbers);
                group.session.update(side, labels.map_or(batch, |labels| batch.labeled(labels)))?;
                group.given += if side == Side::Reference { rows } else { 0 };
            } else {
                let dim = numbers.len() / rows;
                let part: Vec<f32> =
                    taken.iter().flat_map(|row| &numbers[row * dim..(row + 1) * dim]).copied().collect();
                let own: Option<Vec<u32>> = labels.map(|labels| taken.iter().map(|&row| labels[row]).collect());
                let batch = Batch::from(&part);
                group.session.update(side, own.as_ref().map_or(batch, |labels| batch.labeled(labels)))?;
                group.given += taken.len();
            }
        }
        if side == Side::Reference
            && let Some(moments) = &mut self.moments
        {
            let numbers = extracted.as_ref().map_or(values, |extracted| &extracted.features);
            moments.update(stein_metrics::Values::F32(numbers));
        }
        Ok(())
    }

    /// What the metrics say, in the order they were asked for, each with the number of rows it was compared with.
    fn finish(self, options: &EvaluateOptions, extractor: &str) -> Result<Vec<(AnyMetric, Measured, usize)>> {
        if let (Some(moments), Some(path)) = (self.moments, &options.reference) {
            let mut moments = moments.finish()?;
            extractor.clone_into(&mut moments.extractor);
            moments.save(path)?;
        }
        let mut all = Vec::new();
        for Group { metrics, session, given, .. } in self.groups {
            for (metric, measured) in metrics.into_iter().zip(session.finish()) {
                all.push((metric, measured?, given));
            }
        }
        all.sort_by_key(|(metric, _, _)| self.order.iter().position(|kind| kind == metric.kind()));
        Ok(all)
    }
}

/// The device features are found on.
fn device(of: &Of) -> Device {
    match of {
        Of::Model(model) => model.device.clone(),
        Of::Data(_) => Device::flex(),
    }
}
