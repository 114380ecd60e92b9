//! Families beside each other: experiments on the same data, each trained for the same time, on one page with samples, distances, likelihoods,
//! times and sizes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use stein::{Error, Kind, Result, ensure, numbers::ensure_within};
use stein_base::files::write_atomically;
use stein_nn::Decay;

use crate::{
    Classes, DataChoice, EvaluateOptions, Evaluation, Event, Experiment, LikelihoodOptions, LikelihoodReport, Model,
    Of, RunDir, Start, TrainOptions, Trained, Watch, draw, evaluate,
    evaluate::told,
    html::{Section, report},
    likelihood,
    memory::{forget_peak, peak_mib},
    picture::to_png,
    prepare,
    report::write_page,
    sheet, train,
};

/// What is compared how.
#[derive(Debug, Clone)]
pub struct VersusOptions {
    /// Minutes that each experiment trains.
    pub minutes: f64,
    /// The page.
    pub output: PathBuf,
    /// The folder of the runs, which go on where they stopped.
    pub runs: PathBuf,
    /// Samples of each model that are measured.
    pub n: usize,
    /// Samples of the data whose likelihood is found.
    pub likelihoods: usize,
    /// What turns pictures into the rows that are compared, one of [`FEATURES`](crate::FEATURES); default a classifier of the program for
    /// data that it knows, and the numbers themselves for others.
    pub features: Option<String>,
    /// Directory with data sets.
    pub data_dir: Option<PathBuf>,
    /// Name of the device.
    pub device: String,
}

/// What was found of one experiment.
struct Found {
    name: String,
    family: String,
    /// What it learned from.
    data: String,
    /// Whether it has a code of every sample in one evaluation.
    has_codes: bool,
    steps: u64,
    parameters: usize,
    /// The most memory while it trained, in MiB, where the system tells and nothing was resumed.
    memory: Option<u64>,
    evaluation: Evaluation,
    /// Or why it has none.
    likelihood: std::result::Result<LikelihoodReport, String>,
    picture: Vec<u8>,
}

/// What the folder of the runs remembers, so that runs of different lengths are not compared.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Plan {
    minutes: f64,
}

/// Trains every experiment for the same time, measures all by the same rules, and writes the page. What was begun in the folder of the runs
/// goes on, and what is finished there is not trained again.
///
/// # Errors
/// Experiments that do not fit each other, before work starts; those of training and measuring.
pub fn versus(files: &[PathBuf], options: &VersusOptions, watch: &mut dyn Watch) -> Result<()> {
    ensure_within("--minutes", options.minutes, 0.01..=1e5)?;
    ensure_within("-n", options.n, 2..)?;
    ensure_within("--likelihoods", options.likelihoods, 1..)?;
    let experiments = read(files)?;
    fs::create_dir_all(&options.runs)
        .map_err(|error| Error::new(format!("the folder {} cannot be made: {error}", options.runs.display())))?;
    let plan = options.runs.join("versus.json");
    let ours = Plan { minutes: options.minutes };
    if let Ok(text) = fs::read(&plan) {
        let there: Option<Plan> = serde_json::from_slice(&text).ok();
        ensure!(
            there.as_ref() == Some(&ours),
            "the runs in {} are of another comparison{}: give --runs another folder, or the same --minutes",
            options.runs.display(),
            there.map(|there| format!(", of {} minutes", there.minutes)).unwrap_or_default()
        );
    }
    let text = serde_json::to_vec(&ours).map_err(|error| Error::new(format!("the plan cannot be written: {error}")))?;
    write_atomically(&plan, |file| file.write_all(&text))?;
    let by_class = experiments.iter().all(|(_, experiment)| experiment.data.conditional);
    let mut found = Vec::new();
    for (name, experiment) in experiments {
        watch.event(Event::Note(&format!("{name}, a {}", experiment.family.kind())));
        found.push(one(name, experiment, by_class, options, watch)?);
    }
    let title = format!("{} families on {}", found.len(), found[0].data);
    write_page(&options.output, &report(&title, &page(&found, options))?)
}

/// The experiments with their names, which are of the same data and draw samples.
fn read(files: &[PathBuf]) -> Result<Vec<(String, Experiment)>> {
    ensure!(files.len() >= 2, "give at least two experiments to compare");
    let mut experiments: Vec<(String, Experiment)> = Vec::new();
    let mut names = BTreeSet::new();
    for file in files {
        let experiment = Experiment::read(file, &[])?;
        ensure!(
            experiment.sample.is_some(),
            "{} draws no samples, so there is nothing to compare: it has no [sample]",
            file.display()
        );
        let part = |path: Option<&std::ffi::OsStr>| path.unwrap_or_default().to_string_lossy().into_owned();
        let mut name = part(file.file_stem());
        if !names.insert(name.clone()) {
            name = format!("{}-{name}", part(file.parent().and_then(Path::file_name)));
            ensure!(names.insert(name.clone()), "{} is named twice: give it once", file.display());
        }
        if let Some((first, other)) = experiments.first() {
            ensure!(
                other.data.source == experiment.data.source,
                "{name} learns from other data than {first}: give experiments with one data.source"
            );
        }
        experiments.push((name, experiment));
    }
    Ok(experiments)
}

/// Trains and measures one experiment.
fn one(
    name: String,
    mut experiment: Experiment,
    by_class: bool,
    options: &VersusOptions,
    watch: &mut dyn Watch,
) -> Result<Found> {
    let out = options.runs.join(&name);
    let begun = RunDir::is_one(&out);
    experiment.train.sample_every = 0;
    let steps = match begun {
        true => RunDir::open(&out)?.experiment()?.train.steps,
        false => steps_in(&experiment, &options.runs.join(format!("{name}.trial")), options, watch)?,
    };
    set_steps(&mut experiment, steps);
    forget_peak();
    let start = if begun { Start::Resume } else { Start::New };
    let Trained { model, step, stopped, .. } =
        train(prepare(&experiment, &training(out.clone(), start, options))?, watch)?;
    if stopped {
        return Err(Error::stopped());
    }
    let memory = peak_mib().filter(|_| !begun);
    let parameters = model.sizes.iter().map(|size| size.parameters).sum();
    let drawn = draw(&model, shown(&model), 0, &Classes::Default, &model.sample, watch)?;
    let picture = to_png(&sheet::picture(&model, &drawn.values, drawn.labels.as_deref())?)?;
    let data = DataChoice { n: Some(options.likelihoods), ..DataChoice::default() };
    let model = model.with_data_in(options.data_dir.as_deref());
    let likelihood = match likelihood(&model, &LikelihoodOptions { data, ..LikelihoodOptions::default() }, watch) {
        Ok(report) => Ok(report),
        Err(error) if error.kind() == Kind::Unsupported => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    let (family, data) = (model.family.clone(), model.subject.name.clone());
    let has_codes = model.learned.codes.is_some();
    let asked = measured(&model, &experiment, by_class, options);
    let evaluation = evaluate(&Of::Model(Box::new(model)), &asked, watch)?;
    Ok(Found { name, family, data, has_codes, steps: step, parameters, memory, evaluation, likelihood, picture })
}

/// Samples in a picture.
fn shown(model: &Model) -> usize {
    match model.subject.image() {
        Some(_) => (64 / model.subject.classes.len().max(1)).max(4) * model.subject.classes.len().max(1),
        None => 2000,
    }
}

fn training(out: PathBuf, start: Start, options: &VersusOptions) -> TrainOptions {
    TrainOptions { out, start, data_dir: options.data_dir.clone(), device: options.device.clone() }
}

/// What is measured of the samples of a model; `by_class` if all are drawn of classes.
fn measured(model: &Model, experiment: &Experiment, by_class: bool, options: &VersusOptions) -> EvaluateOptions {
    let pictures = model.subject.image().is_some();
    let own = match experiment.data.source.kind() {
        _ if !pictures => "none",
        "digits" => "digits",
        "fashion_mnist" => "fashion",
        "cifar10" => "cifar",
        _ => "none",
    };
    let features = options.features.clone().unwrap_or_else(|| own.to_owned());
    let first = if pictures { "frechet" } else { "sliced_wasserstein" };
    let mut metrics: Vec<String> = [first, "precision", "recall"].map(String::from).into();
    if by_class {
        metrics.push("agreement".to_owned());
    }
    EvaluateOptions {
        metrics,
        features,
        n: Some(options.n),
        folder: options.data_dir.clone(),
        ..EvaluateOptions::default()
    }
}

/// As many steps, and decays that end with them.
fn set_steps(experiment: &mut Experiment, steps: u64) {
    experiment.train.steps = steps;
    experiment.train.rate.warmup = experiment.train.rate.warmup.min(steps / 4);
    if let Decay::Cosine { steps, .. } = &mut experiment.train.rate.decay {
        *steps = None;
    }
}

/// How many steps fit into the time, by a trial of a twentieth of it.
fn steps_in(experiment: &Experiment, out: &Path, options: &VersusOptions, watch: &mut dyn Watch) -> Result<u64> {
    /// Steps before the clock runs, when memory is found and weights are packed, and least steps that are timed.
    const FIRST: u64 = 3;
    const TIMED: u64 = 5;
    struct Trial<'a> {
        watch: &'a mut dyn Watch,
        enough: Duration,
        begun: Option<(u64, Instant)>,
        last: Option<(u64, Duration)>,
    }
    impl Watch for Trial<'_> {
        fn event(&mut self, event: Event<'_>) {
            let Event::Trained { step, .. } = event else { return };
            match self.begun {
                None if step >= FIRST => self.begun = Some((step, Instant::now())),
                None => {}
                Some((first, begun)) => self.last = Some((step - first, begun.elapsed())),
            }
        }

        fn going(&self) -> Result<()> {
            self.watch.going()?;
            let done = self.last.is_some_and(|(steps, time)| steps >= TIMED && time >= self.enough);
            if done { Err(Error::stopped()) } else { Ok(()) }
        }
    }
    let gone = |error: std::io::Error| Error::new(format!("the trial {} cannot be removed: {error}", out.display()));
    if out.is_dir() {
        fs::remove_dir_all(out).map_err(gone)?;
    }
    let mut experiment = experiment.clone();
    set_steps(&mut experiment, 1_000_000);
    let seconds = 60.0 * options.minutes;
    let enough = Duration::from_secs_f64((seconds / 20.0).clamp(0.5, 30.0));
    let prepared = prepare(&experiment, &training(out.to_owned(), Start::New, options))?;
    let mut trial = Trial { watch, enough, begun: None, last: None };
    train(prepared, &mut trial)?;
    let timed = trial.last;
    watch.going()?;
    fs::remove_dir_all(out).map_err(gone)?;
    let Some((steps, time)) = timed else { return Err(Error::stopped()) };
    Ok(((seconds * steps as f64 / time.as_secs_f64()) as u64).max(1))
}

/// The page.
fn page(found: &[Found], options: &VersusOptions) -> Vec<Section> {
    let mut sections = vec![
        Section::Text(format!(
            "Each trained for {} min on {} threads of one machine, with as many steps as fit into that time, and was measured by the same \
             rules: {} samples of each against the training data, and the likelihood of {} samples held out.",
            options.minutes,
            rayon::current_num_threads(),
            options.n,
            options.likelihoods
        )),
        table(found),
    ];
    for one in found {
        sections.push(Section::Heading(one.name.clone()));
        sections.push(Section::Text(sentence(one, found)));
        let caption = format!("Samples of {}, not chosen.", one.name);
        sections.push(Section::Picture {
            name: one.name.clone(),
            bytes: one.picture.clone(),
            mime: "image/png".into(),
            caption,
        });
    }
    sections
}

const UNKNOWN: &str = "\u{2013}";

fn table(found: &[Found]) -> Section {
    let metrics = found[0].evaluation.measured.iter().map(|(metric, ..)| metric.kind().replace('_', " "));
    let unit = found.iter().find_map(|one| one.likelihood.as_ref().ok()).map_or("likelihood", |report| report.unit);
    let mut header: Vec<String> =
        ["experiment", "family", "steps", "parameters", "memory in training"].map(String::from).into();
    header.extend(metrics);
    header.extend([unit, "evaluations a sample", "ms a sample"].map(String::from));
    let row = |one: &Found| {
        let mut cells = vec![
            one.name.clone(),
            one.family.clone(),
            one.steps.to_string(),
            one.parameters.to_string(),
            one.memory.map_or(UNKNOWN.to_owned(), |mib| format!("{mib} MiB")),
        ];
        cells.extend(one.evaluation.measured.iter().map(|(_, measured, _)| told(measured)));
        cells.push(match &one.likelihood {
            Ok(report) => {
                let error = report.standard_error.map(|error| format!(" ± {error:.3}")).unwrap_or_default();
                format!("{:.3}{error}", report.mean)
            }
            Err(_) => "none".to_owned(),
        });
        let sampled = one.evaluation.sampled.as_ref();
        cells.push(sampled.map_or(UNKNOWN.to_owned(), |drawn| drawn.evaluations.to_string()));
        cells.push(sampled.map_or(UNKNOWN.to_owned(), |drawn| format!("{:.3}", 1e3 * drawn.seconds / drawn.n as f64)));
        cells
    };
    Section::Table { header, rows: found.iter().map(row).collect() }
}

/// What a family promises and what it costs, as far as it was measured.
fn sentence(one: &Found, all: &[Found]) -> String {
    let distance = |one: &Found| one.evaluation.measured[0].1.value;
    let best = all.iter().map(distance).fold(f64::INFINITY, f64::min);
    let mut text = match &one.likelihood {
        Ok(report) => format!("Tells how likely data are, by {}: {:.3} {}.", report.method, report.mean, report.unit),
        Err(why) => format!("Tells no likelihood: {why}."),
    };
    if one.has_codes {
        text += " Has a code of every sample in one evaluation.";
    }
    if let Some(drawn) = &one.evaluation.sampled {
        let calls = match drawn.evaluations {
            1 => "one call of the model".to_owned(),
            many => format!("{many} calls of the network"),
        };
        text += &format!(" A sample takes {calls} and {:.2} ms.", 1e3 * drawn.seconds / drawn.n as f64);
    }
    let metric = one.evaluation.measured[0].0.kind().replace('_', " ");
    text += &match distance(one) {
        own if own <= best => format!(" Its distance to the data, {metric}, is the smallest of all."),
        own => format!(" Its distance to the data, {metric}, is {:.2} times the smallest.", own / best),
    };
    text
}
