//! Which sampler, at how many evaluations: quality against cost for several samplers and numbers of steps, as a table and a plot, and the
//! setting to take.

mod fits;
mod report;
mod search;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
};

use stein::{AnySampler, Grid, Result, Rk45, Spacing, ensure};
use stein_metrics::{Better, Measured};
use toml::Table;

use crate::{
    Changes, Classes, Error, EvaluateOptions, Event, Method, Model, Of, Plan, SampleConfig, Watch, draw,
    evaluate::{Compared, told},
    grids::{Grids, given, path_of},
};

use fits::Fits;
use report::Output;
use search::Searches;

/// What is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepOptions {
    /// The samplers, by name, with settings where they have some: `heun`, `dpm_solver_pp{order=3}`.
    pub samplers: Vec<String>,
    /// The numbers of steps.
    pub steps: Vec<usize>,
    /// The grids, by name; default the model's own. `optimized` is fitted to the model, see [`stein::optimized`], or of a flow map
    /// found by trying, see [`stein::level_search`], and kept beside it, where `--grid optimized` finds it.
    pub grids: Vec<String>,
    /// What else is changed for all.
    pub sampling: Changes,
    /// What is measured, and against what.
    pub evaluate: EvaluateOptions,
    /// The file to write: `.png` or `.svg` with the plot, `.csv` with the table, `.html` with both.
    pub output: Option<PathBuf>,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

/// One setting that was tried.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The sampler with its settings.
    pub sampler: String,
    /// The grid, where it was named.
    pub grid: Option<String>,
    /// The levels of a fitted grid, σ/α.
    pub levels: Option<Vec<f64>>,
    /// Steps.
    pub steps: usize,
    /// Calls of the model for each sample.
    pub evaluations: usize,
    /// The root mean squared distance of samples to where the probability-flow ODE leads from the same noise, for exact models and
    /// samplers that add none.
    pub distance: Option<f64>,
    /// What the metrics say, in the order of [`Sweep::metrics`].
    pub measured: Vec<Measured>,
    /// Seconds that drawing took.
    pub seconds: f64,
}

/// All that was tried.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The model.
    pub model: String,
    /// Samples of each setting.
    pub n: usize,
    /// The names of the metrics, and which values are good.
    pub metrics: Vec<(String, Better)>,
    /// The settings, in the order they were asked for.
    pub tried: Vec<Tried>,
    /// What samples were compared with.
    pub about: Vec<String>,
    /// The file that has the levels of fitted grids, where `--grid optimized` finds them.
    pub grids: Option<PathBuf>,
}

/// Most settings that are tried in one sweep.
const MOST: usize = 10_000;

/// The method and its settings in words such as `dpm_solver_pp{order=3}`.
fn method(words: &str) -> Result<Method> {
    let (name, settings) = match words.split_once('{') {
        Some((name, rest)) => {
            let Some(inner) = rest.strip_suffix('}') else {
                return Err(Error::new(format!("the sampler {words} opens a brace and does not close it")));
            };
            (name, inner)
        }
        None => (words, ""),
    };
    let table: Table = format!("it = {{{settings}}}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("it"))
        .and_then(|it| it.as_table().cloned())
        .ok_or_else(|| {
            Error::new(format!("the settings of the sampler {words} are not of the form {{order=3, exact=true}}"))
        })?;
    let method = Method::with_settings(name.trim(), table).map_err(|error| error.at(words))?;
    match &method {
        Method::Sampler(sampler) => sampler.check()?,
        Method::Interpolant(_) | Method::Multistep => {}
        Method::Generate => {
            return Err(Error::new("a generator makes samples in one go, and there is nothing to sweep: leave it out"));
        }
    }
    Ok(method)
}

/// Samplers with commas between them, which may also stand between the settings of one.
///
/// ```
/// let names = stein_run::samplers_of("ddim, dpm_solver_pp{order=3, exact=true},heun");
/// assert_eq!(names, ["ddim", "dpm_solver_pp{order=3, exact=true}", "heun"]);
/// ```
pub fn samplers_of(list: &str) -> Vec<String> {
    let (mut names, mut depth) = (vec![String::new()], 0i32);
    for character in list.chars() {
        depth += i32::from(character == '{') - i32::from(character == '}');
        match names.last_mut() {
            Some(last) if character != ',' || depth > 0 => last.push(character),
            _ => names.push(String::new()),
        }
    }
    names.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// One setting to try.
struct Setting {
    sampler: String,
    grid: Option<String>,
    config: SampleConfig,
    /// Whether its levels are fitted.
    fitted: bool,
}

/// The settings to try, those with levels that are to be found on a grid in their place.
fn settings(model: &Model, options: &SweepOptions) -> Result<Vec<Setting>> {
    ensure!(!options.samplers.is_empty(), "name the samplers to try, such as --samplers ddim,heun");
    ensure!(!options.steps.is_empty(), "give the numbers of steps to try, such as --steps 10,20,50");
    let base = model.sample.with(&options.sampling)?;
    let grids: Vec<Option<String>> = match &options.grids[..] {
        [] => vec![None],
        grids => grids.iter().cloned().map(Some).collect(),
    };
    let mut settings = Vec::new();
    for words in &options.samplers {
        let method = method(words)?;
        for grid in &grids {
            // One that chooses its own steps is tried once.
            let steps: Vec<Option<usize>> = match method.adaptive() {
                true => vec![None],
                false => options.steps.iter().copied().map(Some).collect(),
            };
            for steps in steps {
                let config = SampleConfig { sampler: method.clone(), ..base.clone() };
                let fitted = grid.as_deref().is_some_and(is_optimized) && !method.adaptive();
                let config = config.with(&Changes { grid: grid.clone(), steps, ..Changes::default() })?;
                let planned = if fitted { search::spread(&config) } else { config.clone() };
                Plan::new(model, 1, 0, &Classes::Default, &planned, false).map_err(|error| error.at(words))?;
                settings.push(Setting { sampler: words.clone(), grid: grid.clone(), config, fitted });
            }
        }
    }
    ensure!(settings.len() <= MOST, "{} settings are too many for one sweep: give fewer", settings.len());
    Ok(settings)
}

/// Finds the levels of the settings that are fitted, and keeps them beside the model: the file.
fn fit(model: &Model, settings: &mut [Setting], compared: &Compared, watch: &mut dyn Watch) -> Result<Option<PathBuf>> {
    if !settings.iter().any(|setting| setting.fitted) {
        return Ok(None);
    }
    let path = model.file.as_deref().map(path_of);
    let mut kept = path.as_deref().map(Grids::read).transpose()?.unwrap_or_default();
    let fitted = settings.iter().filter(|setting| setting.fitted);
    let most = fitted.map(|setting| setting.config.grid.steps).max().unwrap_or(1);
    let (mut fits, mut searches) = (Fits::default(), Searches::default());
    for Setting { config, .. } in settings.iter_mut().filter(|setting| setting.fitted) {
        let levels = match &config.sampler {
            Method::Sampler(sampler) => fits.levels(model, config, sampler, most, watch)?,
            _ => searches.levels(model, config, compared, watch)?,
        };
        kept.add(config, levels.clone());
        config.grid = given(levels, config.grid.clean);
    }
    let Some(path) = path else { return Ok(None) };
    // The levels are worth having where they cannot be kept too, as beside a model that may not be written to.
    match kept.write(&path) {
        Ok(()) => Ok(Some(path)),
        Err(error) => {
            watch.event(Event::Note(&format!("the levels of fitted grids are not kept: {error}")));
            Ok(None)
        }
    }
}

/// Whether a grid of this name is fitted to the model.
fn is_optimized(name: &str) -> bool {
    Spacing::named(name) == Ok(Spacing::Optimized {})
}

/// Tries every sampler with every number of steps.
///
/// # Errors
/// Names, settings and metrics that are not known or do not fit the model, and a file that may not be replaced, all before work
/// starts.
pub fn sweep(of: &Of, options: &SweepOptions, watch: &mut dyn Watch) -> Result<Sweep> {
    let Of::Model(model) = of else {
        return Err(Error::new("a sweep draws samples of a model: give a run, a checkpoint or exact:FILE.json"));
    };
    let mut asked = options.evaluate.clone();
    let exact = model.truth.is_some() && !model.trained;
    if asked.metrics.is_empty() {
        let metric = match model.subject.image() {
            Some(_) => "frechet",
            None if exact && asked.n.is_none_or(|n| n <= 2000) => "wasserstein",
            None => "sliced_wasserstein",
        };
        asked.metrics.push(metric.to_owned());
    }
    let output = options.output.as_deref().map(|path| Output::new(path, model, options.force)).transpose()?;
    let mut compared = Compared::of(of, &asked)?;
    let mut settings = settings(model, options)?;
    compared.keep(watch)?;
    let grids = fit(model, &mut settings, &compared, watch)?;
    let metrics =
        compared.metrics().iter().map(|metric| (metric.kind().to_owned(), metric.better())).collect::<Vec<_>>();
    let mut truths = Truths::default();
    let mut tried = Vec::new();
    let mut about = Vec::new();
    let count = settings.len();
    for (i, Setting { sampler, grid, config, fitted }) in settings.into_iter().enumerate() {
        let follows = matches!(&config.sampler, Method::Sampler(sampler) if sampler.order().is_some());
        let on_ode = exact && follows;
        let mut drawn: Vec<f32> = Vec::new();
        let mut seen = |values: &[f32], _: Option<&[u32]>| {
            if on_ode {
                drawn.extend_from_slice(values);
            }
        };
        let found = compared.measure(Some(&config), &mut seen, watch)?;
        let summary = found.sampled.as_ref().expect("samples of a model are drawn");
        let distance = match on_ode {
            true => Some(truths.distance(&drawn, model, &config, &asked, found.n, watch)?),
            false => None,
        };
        if about.is_empty() {
            about = found.compared_with();
        }
        let levels = match &config.grid.spacing {
            Spacing::Given { noise } if fitted => Some(noise.clone()),
            _ => None,
        };
        let one = Tried {
            levels,
            sampler,
            grid,
            steps: summary.config.grid.intervals(),
            evaluations: summary.evaluations,
            distance,
            seconds: summary.seconds,
            measured: found.measured.into_iter().map(|(_, measured, _)| measured).collect(),
        };
        let said: Vec<String> = metrics
            .iter()
            .zip(&one.measured)
            .map(|((name, _), measured)| format!("{name} {}", told(measured)))
            .collect();
        watch.event(Event::Note(&format!(
            "{} of {count}: {}, {} evaluations: {}",
            i + 1,
            one.name(),
            one.evaluations,
            said.join(", ")
        )));
        tried.push(one);
    }
    let n = asked.n.unwrap_or(crate::evaluate::DRAWN);
    let sweep = Sweep { model: model.name.clone(), n, metrics, tried, about, grids };
    if let Some(output) = output {
        output.write(&sweep)?;
    }
    Ok(sweep)
}

/// Where the probability-flow ODE leads from the noise of a run, by the bits of where its grid starts.
#[derive(Default)]
struct Truths(HashMap<Option<u64>, Vec<f32>>);

impl Truths {
    /// The root mean squared distance of samples to there.
    fn distance(
        &mut self,
        drawn: &[f32],
        model: &Model,
        config: &SampleConfig,
        asked: &EvaluateOptions,
        n: usize,
        watch: &mut dyn Watch,
    ) -> Result<f64> {
        let resolved = config.resolve(model.schedule.as_ref(), model.trained)?.1;
        let place = resolved.grid.start.map(f64::to_bits);
        if let Entry::Vacant(vacant) = self.0.entry(place) {
            let tight = Rk45 { rtol: 1e-7, atol: 1e-7, ..Rk45::default() };
            let mut truth = SampleConfig { sampler: AnySampler::from(tight).into(), ..config.clone() };
            truth.grid = Grid { start: resolved.grid.start, ..Grid::default() };
            vacant.insert(draw(model, n, asked.seed, &Classes::Default, &truth, watch)?.values);
        }
        let squares: f64 = drawn.iter().zip(&self.0[&place]).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        Ok((squares / n as f64).sqrt())
    }
}
