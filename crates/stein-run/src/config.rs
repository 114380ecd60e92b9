//! The experiment file: what is trained on what, how, and how it is sampled by default.
//!
//! The struct that is read is the struct that runs. Unknown keys are refused with the list of the known ones, nearest first.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stein::{
    AnySampler, AnySchedule, Consistency, Error, Grid, InputScale, NoiseInput, Objective, Precondition, Prediction,
    Result, ensure, names,
};
use stein_data::Source;
use stein_nn::{AdamWConfig, Decay, EmaConfig, NetworkConfig, RateConfig};
use toml::{Table, Value};

use crate::Range;

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Seed of everything random; default 0.
    #[serde(default)]
    pub seed: u64,
    /// What to learn.
    pub data: DataConfig,
    /// How noise grows.
    pub schedule: AnySchedule,
    /// What learns.
    pub model: ModelConfig,
    /// What is minimised.
    pub objective: Objective,
    /// How long and how fast.
    pub train: TrainConfig,
    /// How it is sampled unless told otherwise.
    pub sample: SampleConfig,
}

/// Data and how they reach the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The data set.
    pub source: Source,
    /// The numbers the network works in; default the data's own.
    #[serde(default)]
    pub range: Range,
    /// Whether the model is told the class; default false.
    #[serde(default)]
    pub conditional: bool,
    /// Mirror images at random; default false.
    #[serde(default)]
    pub flip: bool,
    /// Spread grey levels evenly over their interval; default false.
    #[serde(default)]
    pub dequantize: bool,
}

/// A network and what surrounds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// What the raw output stands for.
    pub prediction: Prediction,
    /// How the input is scaled.
    pub input_scale: InputScale,
    /// How the noise level is fed.
    pub noise_input: NoiseInput,
    /// The network.
    pub network: NetworkConfig,
}

impl ModelConfig {
    /// What surrounds the network.
    pub fn precondition(&self) -> Precondition {
        Precondition { prediction: self.prediction, input_scale: self.input_scale, noise_input: self.noise_input }
    }
}

/// Training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps; default 10,000.
    pub steps: u64,
    /// Examples a step; default 128.
    pub batch: usize,
    /// Parts the batch is cut into, their gradients summed; default 1. More parts need less memory.
    pub accumulate: usize,
    /// AdamW.
    pub optimizer: AdamWConfig,
    /// Learning rate.
    pub rate: RateConfig,
    /// Average of the weights, which is what is sampled.
    pub ema: EmaConfig,
    /// Steps between lines in the metrics; default 50.
    pub log_every: u64,
    /// Steps between checkpoints; default 1000. The last step always has one.
    pub checkpoint_every: u64,
    /// Checkpoints kept, the newest; default 3.
    pub keep: usize,
    /// Steps between pictures of samples; default 0, none but the last.
    pub sample_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch: 128,
            accumulate: 1,
            optimizer: AdamWConfig::default(),
            rate: RateConfig::default(),
            ema: EmaConfig::default(),
            log_every: 50,
            checkpoint_every: 1000,
            keep: 3,
            sample_every: 0,
        }
    }
}

/// What draws the samples.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// A sampler, which takes a denoiser level by level.
    Sampler(AnySampler),
    /// Multistep sampling: a consistency function takes the sample to the end, and noise takes it back to the next level.
    Multistep,
}

/// The name of [`Method::Multistep`].
const MULTISTEP: &str = "multistep";

impl Method {
    /// The names, as in files and on the command line.
    pub fn names() -> Vec<&'static str> {
        AnySampler::NAMES.iter().copied().chain([MULTISTEP]).collect()
    }

    /// The one of this name, with its default parameters.
    ///
    /// # Errors
    /// An unknown name, answered with the known ones, nearest first.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            MULTISTEP => Ok(Self::Multistep),
            known if AnySampler::NAMES.contains(&known) => Ok(Self::Sampler(AnySampler::named(known)?)),
            _ => Err(names::unknown("sampler", name, &Self::names())),
        }
    }

    /// Its name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sampler(sampler) => sampler.kind(),
            Self::Multistep => MULTISTEP,
        }
    }

    /// Whether it chooses its own steps.
    pub fn adaptive(&self) -> bool {
        matches!(self, Self::Sampler(sampler) if sampler.adaptive())
    }
}

impl From<AnySampler> for Method {
    fn from(sampler: AnySampler) -> Self {
        Self::Sampler(sampler)
    }
}

impl Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Sampler(sampler) => sampler.serialize(to),
            Self::Multistep => std::collections::BTreeMap::from([("kind", MULTISTEP)]).serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        let table = Table::deserialize(from)?;
        let kind = table.get("kind").and_then(Value::as_str);
        match kind {
            Some(MULTISTEP) => match table.keys().find(|key| *key != "kind") {
                Some(key) => Err(D::Error::unknown_field(key, &["kind"])),
                None => Ok(Self::Multistep),
            },
            Some(kind) if !AnySampler::NAMES.contains(&kind) => {
                Err(D::Error::custom(names::unknown("sampler", kind, &Self::names())))
            }
            _ => AnySampler::deserialize(table).map(Self::Sampler).map_err(|error| D::Error::custom(error.message())),
        }
    }
}

/// Sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// The sampler.
    pub sampler: Method,
    /// Its grid.
    #[serde(default)]
    pub grid: Grid,
    /// Schedule to sample on; default the one trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<AnySchedule>,
    /// Keep every estimate of x_0 inside the range of the pictures; default false. Images only.
    #[serde(default)]
    pub clamp: bool,
    /// Samples at a time; default 128. It changes speed and memory, not the samples.
    #[serde(default = "default_batch")]
    pub batch: usize,
}

fn default_batch() -> usize {
    128
}

impl SampleConfig {
    /// This with another sampler, number of steps or schedule, given by name as on the command line, and `path=value`
    /// settings whose paths start with `sample.`.
    ///
    /// # Errors
    /// Unknown names, `steps` for a sampler that chooses its own, values out of range.
    pub fn with(
        &self,
        sampler: Option<&str>,
        grid: Option<&str>,
        steps: Option<usize>,
        schedule: Option<&str>,
        settings: &[String],
    ) -> Result<Self> {
        let mut config = self.clone();
        if let Some(name) = sampler {
            config.sampler = Method::named(name)?;
        }
        if let Some(name) = grid {
            config.grid.spacing = stein::Spacing::named(name)?;
        }
        if let Some(name) = schedule {
            config.schedule = Some(AnySchedule::named(name)?);
            // Times of one schedule mean nothing on another.
            (config.grid.start, config.grid.end) = (None, None);
        }
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            sample: SampleConfig,
        }
        let table = Table::try_from(Whole { sample: config }).expect("a sampling configuration is a table");
        let mut config = with_settings::<Whole>(table, settings)?.sample;
        ensure!(
            steps.is_none() || !config.sampler.adaptive(),
            "sampler {} chooses its own steps: leave out --steps and set sample.sampler.rtol and atol",
            config.sampler.kind()
        );
        ensure!(
            steps.is_none() || !matches!(config.grid.spacing, stein::Spacing::Given { .. }),
            "the given grid lists its levels: leave out --steps"
        );
        config.grid.steps = steps.unwrap_or(config.grid.steps);
        Ok(config)
    }

    /// The schedule to sample on after checks, and this with the grid's ends filled in where they are not the schedule's own:
    /// below α = 0 for samplers that cannot start there, and inside the levels the model was trained on, given by its schedule
    /// (none for an exact model), when it is sampled on another.
    ///
    /// # Errors
    /// Parameters out of range, and a grid that does not fit.
    pub fn resolve(&self, own: &AnySchedule, trained: bool) -> Result<(AnySchedule, Self)> {
        let schedule = self.schedule.clone().unwrap_or_else(|| own.clone());
        schedule.check()?;
        if let Method::Sampler(sampler) = &self.sampler {
            sampler.check()?;
        }
        ensure!(self.batch >= 1, "sample.batch is 0: give the number of samples to work on at a time");
        ensure!(self.grid.steps <= 1_000_000, "the grid has {} steps: give at most 1000000", self.grid.steps);
        let mut resolved = self.clone();
        resolved.grid.steps = self.grid.intervals();
        if self.sampler.adaptive() {
            // Only the two ends matter, and the denoised end that every such run has.
            resolved.grid =
                Grid { steps: 2, clean: true, start: self.grid.start, end: self.grid.end, ..Grid::default() };
        }
        let noise = |schedule: &AnySchedule, t: f64| schedule.kernel(t).noise_to_signal();
        let (first, last) = schedule.span();
        // Where signal does not fade, as on VE, there is nothing to divide by.
        let fades = schedule.kernel(last).alpha < 1.0;
        let unbounded = !fades || self.starts_without_signal();
        let mut bounds = (0.0, if unbounded { f64::INFINITY } else { LARGEST_START });
        if trained && self.schedule.is_some() {
            let (first, last) = own.span();
            bounds = (noise(own, first), bounds.1.min(noise(own, last)));
        }
        if !self.grid.spacing.names_levels() {
            let at = |noise: f64| Some(schedule.time_at(-2.0 * noise.ln()).clamp(first, last));
            let too_noisy = noise(&schedule, last) > bounds.1;
            resolved.grid.start = resolved.grid.start.or_else(|| if too_noisy { at(bounds.1) } else { None });
            let too_clean = noise(&schedule, first) < bounds.0;
            resolved.grid.end = resolved.grid.end.or_else(|| if too_clean { at(bounds.0) } else { None });
        }
        if let stein::Spacing::Given { noise } = &self.grid.spacing {
            let trained = (bounds.0 * (1.0 - 1e-6))..=(bounds.1 * (1.0 + 1e-6));
            ensure!(
                noise.iter().all(|noise| trained.contains(noise)),
                "the given grid's levels {noise:?} are not all between sigma/alpha = {} and {}, where the model was trained and the \
                 sampler can start",
                bounds.0,
                bounds.1
            );
        }
        resolved.grid.kernels(&*schedule)?;
        Ok((schedule, resolved))
    }

    fn starts_without_signal(&self) -> bool {
        use stein::Spacing::{Karras, LogSnr};
        let Method::Sampler(sampler) = &self.sampler else { return false };
        sampler.starts_without_signal() && !matches!(self.grid.spacing, Karras { .. } | LogSnr {})
    }
}

/// The σ/α a run starts from when its sampler or grid cannot start without signal: a thousand times more noise than signal,
/// which the prior's variance accounts for.
const LARGEST_START: f64 = 1000.0;

/// What it takes to sample a model whose training is not known here: an imported one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// How noise grows.
    pub schedule: AnySchedule,
    /// What learned.
    pub model: RecipeModel,
    /// How it is sampled unless told otherwise.
    pub sample: SampleConfig,
}

/// A network and what it is used as.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RecipeModel {
    /// A denoiser.
    Denoiser(ModelConfig),
    /// A consistency function.
    FlowMap(FlowMapConfig),
}

/// A network and what makes it a consistency function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowMapConfig {
    /// What surrounds the network.
    pub consistency: Consistency,
    /// The network.
    pub network: NetworkConfig,
}

impl<'de> Deserialize<'de> for RecipeModel {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let table = Table::deserialize(from)?;
        let read = if table.contains_key("consistency") {
            FlowMapConfig::deserialize(table).map(Self::FlowMap)
        } else {
            ModelConfig::deserialize(table).map(Self::Denoiser)
        };
        read.map_err(|error| serde::de::Error::custom(error.message()))
    }
}

impl RecipeModel {
    /// The network.
    pub fn network(&self) -> &NetworkConfig {
        match self {
            Self::Denoiser(model) => &model.network,
            Self::FlowMap(map) => &map.network,
        }
    }
}

impl Recipe {
    /// Reads what [`to_toml`](Self::to_toml) wrote.
    ///
    /// # Errors
    /// Text that is no TOML, a key or name nobody knows, a value out of range.
    pub fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| located(text, &error))?;
        let recipe: Self = with_settings(table, &[])?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Fails if the parts do not fit each other.
    pub fn check(&self) -> Result<()> {
        self.schedule.check()?;
        match &self.model {
            RecipeModel::Denoiser(model) => model.precondition().check(&self.schedule)?,
            RecipeModel::FlowMap(map) => map.consistency.check(&self.schedule)?,
        }
        self.sample.resolve(&self.schedule, true)?;
        Ok(())
    }

    /// Everything, as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe consists of tables, numbers and strings")
    }
}

impl From<&Experiment> for Recipe {
    fn from(experiment: &Experiment) -> Self {
        Self {
            schedule: experiment.schedule.clone(),
            model: RecipeModel::Denoiser(experiment.model.clone()),
            sample: experiment.sample.clone(),
        }
    }
}

impl Experiment {
    /// Reads an experiment file and applies `path=value` settings.
    ///
    /// # Errors
    /// A file that cannot be read, text that is no TOML, a key or name nobody knows, a value out of range.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(format!("cannot read the experiment {}: {error}; give the path of a TOML file", path.display()))
        })?;
        Self::parse(&text, settings).map_err(|error| error.at(path.display()))
    }

    /// As [`read`](Self::read), from text.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, settings: &[String]) -> Result<Self> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| located(text, &error))?;
        let as_written: Self = with_settings(table, &[])?;
        // Settings meet the defaults too, so that what the file leaves out can be named.
        let table = Table::try_from(&as_written).expect("an experiment consists of tables, numbers and strings");
        let experiment: Self = with_settings(table, settings)?;
        experiment.check()?;
        Ok(experiment)
    }

    /// Fails if the parts do not fit each other.
    pub fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.model.precondition().check(&self.schedule)?;
        self.objective.check(&*self.schedule)?;
        ensure!(
            self.sample.sampler != Method::Multistep,
            "sampler multistep takes a consistency function, and this experiment trains a denoiser: give another"
        );
        self.train.rate.check()?;
        self.sample.resolve(&self.schedule, true)?;
        let train = &self.train;
        if let Decay::Cosine { steps, floor } = train.rate.decay {
            ensure!(
                steps >= train.steps || floor > 0.0,
                "train.rate.decay.steps = {steps} ends before train.steps = {}: the rate would be 0 from there on, set both",
                train.steps
            );
        }
        ensure!(train.batch >= 1, "train.batch is 0: give the number of examples a step");
        ensure!(
            train.accumulate >= 1 && train.batch.is_multiple_of(train.accumulate),
            "train.accumulate = {} must divide train.batch = {}",
            train.accumulate,
            train.batch
        );
        ensure!(
            train.log_every >= 1 && train.checkpoint_every >= 1 && train.keep >= 1,
            "train.log_every, train.checkpoint_every and train.keep must be at least 1"
        );
        Ok(())
    }

    /// The experiment with every default filled in, as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("an experiment consists of tables, numbers and strings")
    }
}

/// Applies settings to a table and reads it.
pub(crate) fn with_settings<T: serde::de::DeserializeOwned>(mut table: Table, settings: &[String]) -> Result<T> {
    for setting in settings {
        set(&mut table, setting)?;
    }
    Value::Table(table).try_into().map_err(|error: toml::de::Error| in_a_sentence(&error))
}

/// Applies one `path.to.key=value`. A bare word for something tagged by `kind` replaces it whole: `sample.sampler=ddim`.
fn set(table: &mut Table, setting: &str) -> Result<()> {
    let Some((path, value)) = setting.split_once('=') else {
        return Err(Error::new(format!("--set {setting}: give a path and a value, such as train.steps=2000")));
    };
    let (path, value) = (path.trim(), value.trim());
    ensure!(path.split('.').all(|key| !key.is_empty()), "--set {setting}: `{path}` is not a path like train.steps");
    // What is no TOML value is meant as a string, so that names need no quotes.
    let value = format!("value = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let mut keys: Vec<&str> = path.split('.').collect();
    let last = keys.pop().expect("a split has at least one part");
    let mut here = table;
    for key in keys {
        let inner = here.entry(key).or_insert_with(|| Value::Table(Table::new()));
        here = match inner {
            Value::Table(inner) => inner,
            _ => return Err(Error::new(format!("--set {setting}: `{key}` is a value, it has no keys of its own"))),
        };
    }
    if last == "kind" {
        // Another kind has other keys: those of the old one go.
        here.clear();
    }
    let tagged = matches!(here.get(last), Some(Value::Table(inner)) if inner.contains_key("kind"));
    let value = match value {
        Value::String(kind) if tagged => Value::Table(Table::from_iter([("kind".to_owned(), Value::String(kind))])),
        value => value,
    };
    here.insert(last.to_owned(), value);
    Ok(())
}

/// A value of the wrong type or an unknown name in one sentence, with its path.
fn in_a_sentence(error: &toml::de::Error) -> Error {
    let whole = error.to_string();
    // toml adds the path to the message: "…\nin `train.steps`".
    let place = whole.trim().strip_prefix(error.message().trim()).unwrap_or_default().trim().replace('\n', " ");
    let sentence = nearest_first(error.message());
    Error::new(if place.is_empty() { sentence } else { format!("{sentence} ({place})") })
}

/// A TOML syntax error in one sentence, with its line.
fn located(text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    Error::new(format!("{place}{}", error.message().replace('\n', " ")))
}

/// Sorts the names in serde's "unknown field `x`, expected one of `a`, `b`" by their nearness to x.
fn nearest_first(message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let [name, known @ ..] = quoted.as_slice() else { return message };
    for (starts, what) in [("unknown field", "key"), ("unknown variant", "kind")] {
        if message.starts_with(starts) && !known.is_empty() {
            let known: Vec<&str> = known.iter().copied().filter(|candidate| !candidate.contains(' ')).collect();
            return names::unknown(what, name, &known).to_string();
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        [data]
        source = { kind = "points2d", shape = "moons" }
        [schedule]
        kind = "edm"
        [model]
        prediction = { kind = "edm", sigma_data = 1.0 }
        input_scale = { kind = "unit_variance", sigma_data = 1.0 }
        noise_input = { kind = "quarter_log_noise" }
        network = { kind = "mlp" }
        [objective]
        levels = { kind = "log_normal" }
        weighting = { kind = "unit" }
        [train]
        [sample]
        sampler = { kind = "heun" }
    "#;

    fn error(settings: &[&str]) -> String {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Experiment::parse(MINIMAL, &settings).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_filled_in_and_read_back() {
        let experiment = Experiment::parse(MINIMAL, &[]).unwrap();
        assert_eq!(Experiment::parse(&experiment.to_toml(), &[]).unwrap(), experiment);
    }

    #[test]
    fn settings_replace_values_and_tagged_things() {
        let settings = ["train.steps=7", "sample.sampler=ddim", "sample.grid.steps = 9"].map(String::from);
        let experiment = Experiment::parse(MINIMAL, &settings).unwrap();
        assert_eq!(experiment.train.steps, 7);
        assert_eq!(experiment.sample.sampler.kind(), "ddim");
        assert_eq!(experiment.sample.grid.steps, 9);
    }

    #[test]
    fn unknown_names_list_the_known_ones_nearest_first() {
        let inner = error(&["sample.sampler={kind=\"predictor_corrector\", snrr=0.1}"]);
        assert!(inner.contains("known, nearest first: snr,") && !inner.contains("multistep"), "{inner}");
        assert!(error(&["sample.sampler={kind=\"multistep\", steps=3}"]).contains("`steps`"));
        assert!(error(&["sample.sampler=multistpe"]).contains("nearest first: multistep,"));
        assert!(error(&["train.stpes=7"]).contains("known, nearest first: steps,"), "{}", error(&["train.stpes=7"]));
        assert!(
            error(&["sample.sampler=huen"]).contains("nearest first: heun,"),
            "{}",
            error(&["sample.sampler=huen"])
        );
        assert!(error(&["sample.sampler.eta=1"]).contains("`eta`"), "{}", error(&["sample.sampler.eta=1"]));
        assert!(error(&["train.batch=0"]).contains("train.batch is 0"));
        assert!(error(&["schedule.sigma_min=-1"]).contains("sigma_min"));
        assert!(error(&["nonsense"]).contains("give a path and a value"));
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let error = Experiment::parse("seed = 0\n[data\n", &[]).unwrap_err().to_string();
        assert!(error.starts_with("line 2"), "{error}");
    }
}
