//! Which sampler, at how many evaluations: quality against cost for several samplers and numbers of steps, as a table and a plot, and the
//! setting to take.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::{Map, Value, json};
use stein::{
    AnySampler, Condition, Grid, Request, Result, Rk45, Spacing, ensure,
    optimized::{Paths, Steps},
};
use stein_base::files::write_atomically;
use stein_metrics::{Better, Measured};
use toml::Table;

use crate::{
    Changes, Classes, Error, EvaluateOptions, Event, Model, Of, Plan, SampleConfig, Watch, draw,
    evaluate::{Compared, short, told},
    html::{Section, report},
    picture::{Frame, Series, line_chart, to_png},
    replacing::{Recorded, beside},
};

/// What is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepOptions {
    /// The samplers, by name, with settings where they have some: `heun`, `dpm_solver_pp{order=3}`.
    pub samplers: Vec<String>,
    /// The numbers of steps.
    pub steps: Vec<usize>,
    /// The grids, by name; default the model's own. `optimized` is fitted to the model, see [`stein::optimized`].
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
}

/// Most settings that are tried in one sweep.
const MOST: usize = 10_000;

/// The sampler and its settings in words such as `dpm_solver_pp{order=3}`.
fn sampler(words: &str) -> Result<AnySampler> {
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
    let sampler = AnySampler::with_settings(name.trim(), table).map_err(|error| error.at(words))?;
    sampler.check()?;
    Ok(sampler)
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
    /// Whether it follows the probability-flow ODE.
    ode: bool,
}

fn settings(model: &Model, options: &SweepOptions, watch: &mut dyn Watch) -> Result<Vec<Setting>> {
    ensure!(!options.samplers.is_empty(), "name the samplers to try, such as --samplers ddim,heun");
    ensure!(!options.steps.is_empty(), "give the numbers of steps to try, such as --steps 10,20,50");
    let base = model.sample.with(&options.sampling)?;
    let grids: Vec<Option<String>> = match &options.grids[..] {
        [] => vec![None],
        grids => grids.iter().cloned().map(Some).collect(),
    };
    let (mut settings, mut fits) = (Vec::new(), Fits::default());
    for words in &options.samplers {
        let sampler = sampler(words)?;
        for grid in &grids {
            // One that chooses its own steps is tried once.
            let steps: Vec<Option<usize>> = match sampler.adaptive() {
                true => vec![None],
                false => options.steps.iter().copied().map(Some).collect(),
            };
            for steps in steps {
                let config = SampleConfig { sampler: sampler.clone().into(), ..base.clone() };
                let fitted = grid.as_deref() == Some(OPTIMIZED);
                let named = grid.clone().filter(|_| !fitted);
                let mut config = config.with(&Changes { grid: named, steps, ..Changes::default() })?;
                if fitted && !sampler.adaptive() {
                    let most = options.steps.iter().copied().max().unwrap_or(1);
                    config.grid = fits.grid(model, &config, &sampler, most, watch)?;
                }
                Plan::new(model, 1, 0, &Classes::Default, &config, false).map_err(|error| error.at(words))?;
                settings.push(Setting {
                    sampler: words.clone(),
                    grid: grid.clone(),
                    config,
                    ode: sampler.order().is_some(),
                });
            }
        }
    }
    ensure!(settings.len() <= MOST, "{} settings are too many for one sweep: give fewer", settings.len());
    Ok(settings)
}

/// The name of the grid that is fitted to the model.
const OPTIMIZED: &str = "optimized";

/// Least candidate levels of a fitted grid, and the samples whose paths it is fitted to.
const CANDIDATES: usize = 64;
const FITTED: usize = 64;

/// The exact paths that grids are fitted to, by where they start.
#[derive(Default)]
struct Fits(BTreeMap<String, Paths>);

impl Fits {
    /// The grid of as many steps that fits the model and what the steps of the sampler are made of; `most` is the largest number of steps
    /// that is tried.
    fn grid(
        &mut self,
        model: &Model,
        config: &SampleConfig,
        sampler: &AnySampler,
        most: usize,
        watch: &mut dyn Watch,
    ) -> Result<Grid> {
        let (schedule, resolved) = config.resolve(model.schedule.as_ref(), model.trained)?;
        let schedule = schedule
            .ok_or_else(|| Error::new(format!("{} knows no levels, among which a grid could be fitted", model.name)))?;
        let start = resolved.grid.start.unwrap_or(schedule.span().1);
        // Levels without signal are no candidates; the noisiest that has a thousandth of it is.
        let start = if schedule.kernel(start).alpha > 0.0 { start } else { schedule.time_at(-2.0 * 1e3f64.ln()) };
        let place = format!("{start} {:?}", config.schedule);
        if !self.0.contains_key(&place) {
            watch.event(Event::Note(&format!("fitting grids to {FITTED} paths of {}", model.name)));
            let fine = Grid {
                spacing: Spacing::Karras { rho: 7.0 },
                steps: CANDIDATES.max(2 * most) - 1,
                start: Some(start),
                end: resolved.grid.end,
                clean: false,
            };
            let classes = model.subject.classes.len() as u32;
            let given = match model.trained && classes > 0 {
                true => Condition::classes((0..FITTED as u32).map(|row| row % classes)),
                false => Condition::none(),
            };
            let request = Request {
                given,
                data_variance: model.subject.variance,
                device: model.device.clone(),
                dtype: model.dtype,
                // No sample of a sweep has such a seed by chance.
                ..Request::new(FITTED, model.subject.state_shape()?.iter().product(), u64::MAX)
            };
            let paths = Paths::of(&*model.denoiser(config)?, &*schedule, &fine.kernels(&*schedule)?, &request)?;
            self.0.insert(place.clone(), paths);
        }
        let made_of = match sampler.order() {
            Some(order) if order > 1 => Steps::Second,
            _ => Steps::First,
        };
        let noise = self.0[&place].levels(config.grid.steps, made_of)?;
        Ok(Grid { spacing: Spacing::Given { noise }, steps: config.grid.steps, clean: true, start: None, end: None })
    }
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
    let settings = settings(model, options, watch)?;
    compared.keep(watch)?;
    let metrics =
        compared.metrics().iter().map(|metric| (metric.kind().to_owned(), metric.better())).collect::<Vec<_>>();
    let mut truths = Truths::default();
    let mut tried = Vec::new();
    let mut about = Vec::new();
    let count = settings.len();
    for (i, Setting { sampler, grid, config, ode }) in settings.into_iter().enumerate() {
        let found = compared.measure(Some(&config), None, watch)?;
        let summary = found.sampled.as_ref().expect("samples of a model are drawn");
        let distance = match exact && ode {
            true => Some(truths.distance(model, &config, &asked, found.n, watch)?),
            false => None,
        };
        if about.is_empty() {
            about = found.compared_with();
        }
        let levels = match &config.grid.spacing {
            Spacing::Given { noise } if grid.as_deref() == Some(OPTIMIZED) => Some(noise.clone()),
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
    let sweep =
        Sweep { model: model.name.clone(), n: asked.n.unwrap_or(crate::evaluate::DRAWN), metrics, tried, about };
    if let Some(output) = output {
        output.write(&sweep)?;
    }
    Ok(sweep)
}

/// Where the probability-flow ODE leads from the noise of a run, by the start of its grid.
#[derive(Default)]
struct Truths(BTreeMap<String, Vec<f32>>);

impl Truths {
    fn distance(
        &mut self,
        model: &Model,
        config: &SampleConfig,
        asked: &EvaluateOptions,
        n: usize,
        watch: &mut dyn Watch,
    ) -> Result<f64> {
        // What fits into memory as numbers of a table; pairs of samples are compared.
        let draw = |config: &SampleConfig, watch: &mut dyn Watch| {
            draw(model, n, asked.seed, &Classes::Default, config, watch).map(|drawn| drawn.values)
        };
        let resolved = config.resolve(model.schedule.as_ref(), model.trained)?.1;
        let place = format!("{:?} {:?}", resolved.grid.start, config.schedule);
        if !self.0.contains_key(&place) {
            let tight = Rk45 { rtol: 1e-7, atol: 1e-7, ..Rk45::default() };
            let mut truth = SampleConfig { sampler: AnySampler::from(tight).into(), ..config.clone() };
            truth.grid = Grid { start: resolved.grid.start, ..Grid::default() };
            self.0.insert(place.clone(), draw(&truth, watch)?);
        }
        let (ours, truth) = (draw(config, watch)?, &self.0[&place]);
        let squares: f64 = ours.iter().zip(truth).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        Ok((squares / n as f64).sqrt())
    }
}

impl Tried {
    /// The setting in words.
    fn name(&self) -> String {
        let grid = self.grid.as_ref().map(|grid| format!(" on {grid}")).unwrap_or_default();
        format!("{}{grid}, {} steps", self.sampler, self.steps)
    }

    /// The curve it is a point of.
    fn curve(&self) -> String {
        let grid = self.grid.as_ref().map(|grid| format!(", {grid}")).unwrap_or_default();
        format!("{}{grid}", self.sampler)
    }

    /// The flags of a command line that say the same.
    fn flags(&self) -> String {
        let (name, settings) = self.sampler.split_once('{').unwrap_or((&self.sampler, ""));
        let settings: String = settings
            .trim_end_matches('}')
            .split(',')
            .filter(|setting| !setting.trim().is_empty())
            .map(|setting| format!(" --set sample.sampler.{}", setting.split_whitespace().collect::<String>()))
            .collect();
        if let Some(levels) = &self.levels {
            let levels: Vec<String> = levels.iter().map(|level| short(*level)).collect();
            let levels = levels.join(",");
            return format!("--sampler {name} --set sample.grid.spacing={{kind=\"given\",noise=[{levels}]}}{settings}");
        }
        let grid = self.grid.as_ref().map(|grid| format!(" --grid {grid}")).unwrap_or_default();
        format!("--sampler {name} --steps {}{grid}{settings}", self.steps)
    }
}

impl Sweep {
    /// The setting of fewest evaluations that is as good as the best by the first metric, up to their errors.
    pub fn recommended(&self) -> Option<&Tried> {
        let better = self.metrics.first()?.1;
        let of = |tried: &Tried| better.loss(tried.measured[0].value);
        let best = self.tried.iter().min_by(|a, b| of(a).total_cmp(&of(b)))?;
        let error = |tried: &Tried| tried.measured[0].error.unwrap_or(0.0);
        let as_good = |tried: &&Tried| of(tried) - of(best) <= error(tried).hypot(error(best));
        self.tried.iter().filter(as_good).min_by(|a, b| a.evaluations.cmp(&b.evaluations).then(of(a).total_cmp(&of(b))))
    }

    /// What to take, in one line.
    pub fn advice(&self) -> String {
        let Some(tried) = self.recommended() else { return String::new() };
        let (metric, _) = &self.metrics[0];
        format!(
            "take {}: {} evaluations, {metric} {}, as good as the best up to errors",
            tried.flags(),
            tried.evaluations,
            told(&tried.measured[0])
        )
    }

    /// The columns of the table.
    fn header(&self) -> Vec<String> {
        let distance = self.tried.iter().any(|tried| tried.distance.is_some()).then_some("distance to ODE");
        ["sampler", "steps", "evaluations"]
            .into_iter()
            .chain(distance)
            .chain(self.metrics.iter().map(|(name, _)| name.as_str()))
            .chain(["seconds"])
            .map(String::from)
            .collect()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let any = self.tried.iter().any(|tried| tried.distance.is_some());
        let row = |tried: &Tried| {
            let distance = tried.distance.map_or_else(|| "\u{2013}".to_owned(), short);
            [tried.curve(), tried.steps.to_string(), tried.evaluations.to_string()]
                .into_iter()
                .chain(any.then_some(distance))
                .chain(tried.measured.iter().map(told))
                .chain([format!("{:.2}", tried.seconds)])
                .collect()
        };
        self.tried.iter().map(row).collect()
    }

    /// One object of all that was tried.
    pub fn json(&self) -> Value {
        let row = |tried: &Tried| {
            let mut row = json!({
                "sampler": tried.sampler,
                "grid": tried.grid,
                "levels": tried.levels,
                "steps": tried.steps,
                "evaluations": tried.evaluations,
                "distance_to_ode": tried.distance,
                "seconds": tried.seconds,
            });
            for ((name, _), measured) in self.metrics.iter().zip(&tried.measured) {
                row[name] = json!({ "value": measured.value, "error": measured.error });
            }
            row
        };
        json!({
            "model": self.model,
            "n": self.n,
            "tried": self.tried.iter().map(row).collect::<Vec<_>>(),
            "recommended": self.recommended().map(Tried::flags),
        })
    }

    /// Curves over the number of evaluations: of the distance to the ODE where there is one, or else of the first metric.
    fn charts(&self) -> Result<Vec<crate::picture::Chart>> {
        let mut charts = Vec::new();
        let curve = |height: &dyn Fn(&Tried) -> Option<f64>| {
            let mut curves: Vec<Series> = Vec::new();
            for tried in &self.tried {
                let Some(value) = height(tried) else { continue };
                let (name, point) = (tried.curve(), (tried.evaluations as f64, value));
                match curves.iter_mut().find(|curve| curve.name == name) {
                    Some(curve) => curve.points.push(point),
                    None => curves.push(Series { name, points: vec![point], faint: false }),
                }
            }
            curves.iter_mut().for_each(|curve| curve.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
            curves
        };
        for (i, (name, better)) in self.metrics.iter().enumerate() {
            let series = curve(&|tried| Some(tried.measured[i].value));
            let frame =
                Frame { title: &format!("{name} of {}", self.model), x: "evaluations", y: name, size: (900, 560) };
            charts.push(line_chart(&series, &frame, matches!(better, Better::Smaller), None)?);
        }
        let series = curve(&|tried| tried.distance);
        if !series.is_empty() {
            let frame = Frame {
                title: &format!("distance to the ODE's samples of {}", self.model),
                x: "evaluations",
                y: "root mean square",
                size: (900, 560),
            };
            charts.push(line_chart(&series, &frame, true, None)?);
        }
        Ok(charts)
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.about {
            writeln!(f, "{line}")?;
        }
        writeln!(f)?;
        let rows: Vec<Vec<String>> = std::iter::once(self.header()).chain(self.rows()).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        for row in &rows {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(i, cell)| if i == 0 { format!("{cell:<0$}", width(i)) } else { format!("{cell:>0$}", width(i)) })
                .collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        writeln!(f, "\n{}", self.advice())
    }
}

/// The file of a sweep, which was checked.
struct Output {
    path: PathBuf,
    kind: Kind,
    recorded: Recorded,
}

enum Kind {
    Png,
    Svg,
    Csv,
    Html,
}

impl Output {
    fn new(path: &Path, model: &Model, force: bool) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let kind = match ending.as_str() {
            "png" => Kind::Png,
            "svg" => Kind::Svg,
            "csv" => Kind::Csv,
            "html" => Kind::Html,
            _ => {
                return Err(Error::new(format!(
                    "{} ends in none of .png, .svg, .csv, .html: the ending says what is written",
                    path.display()
                )));
            }
        };
        let recorded = Recorded::new(&beside(path, ".json"), model.file.iter().cloned().collect(), force)?;
        recorded.check(path)?;
        Ok(Self { path: path.to_owned(), kind, recorded })
    }

    fn write(self, sweep: &Sweep) -> Result<()> {
        let chart = || {
            let charts = sweep.charts()?;
            Ok::<_, Error>(crate::picture::Chart::beside(&charts.into_iter().map(Some).collect::<Vec<_>>(), 1, ""))
        };
        let bytes = match self.kind {
            Kind::Png => to_png(&chart()?.picture()?)?,
            Kind::Svg => chart()?.svg().as_bytes().to_vec(),
            Kind::Csv => sweep.csv()?,
            Kind::Html => sweep.page(to_png(&chart()?.picture()?)?)?.into_bytes(),
        };
        write_atomically(&self.path, |file| file.write_all(&bytes))?;
        let Value::Object(said) = sweep.json() else { unreachable!("a sweep is an object") };
        self.recorded.write(&[&self.path], Map::from_iter([("sweep".to_owned(), said.into())]))
    }
}

impl Sweep {
    fn csv(&self) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Line<'a>(Vec<&'a str>);
        let failed = |error: csv::Error| Error::new(format!("the table cannot be written: {error}"));
        let mut table = csv::Writer::from_writer(Vec::new());
        let errors: Vec<String> = self.metrics.iter().map(|(name, _)| format!("{name}_error")).collect();
        let names = self.metrics.iter().zip(&errors).flat_map(|((name, _), error)| [name.as_str(), error]);
        let header = ["sampler", "grid", "steps", "evaluations", "distance_to_ode", "seconds"].into_iter().chain(names);
        table.serialize(Line(header.collect())).map_err(failed)?;
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for tried in &self.tried {
            let [steps, evaluations] = [tried.steps, tried.evaluations].map(|count| count.to_string());
            let (distance, seconds) = (number(tried.distance), tried.seconds.to_string());
            let metrics: Vec<String> = tried
                .measured
                .iter()
                .flat_map(|measured| [measured.value.to_string(), number(measured.error)])
                .collect();
            let grid = tried.grid.as_deref().unwrap_or_default();
            let row = [&tried.sampler, grid, &steps, &evaluations, &distance, &seconds];
            table
                .serialize(Line(row.into_iter().chain(metrics.iter().map(String::as_str)).collect()))
                .map_err(failed)?;
        }
        table.into_inner().map_err(|error| Error::new(format!("the table cannot be written: {error}")))
    }

    fn page(&self, picture: Vec<u8>) -> Result<String> {
        let caption = "Quality against evaluations of the model for each sample.";
        report(
            &format!("Samplers of {}", self.model),
            &[
                Section::Text(self.advice()),
                Section::Code(self.about.join("\n")),
                Section::Picture {
                    name: caption.into(),
                    bytes: picture,
                    mime: "image/png".into(),
                    caption: caption.into(),
                },
                Section::Table { header: self.header(), rows: self.rows() },
            ],
        )
    }
}
