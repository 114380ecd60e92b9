//! The experiment file: what is trained on what, how, and how it is sampled by default.
//!
//! The struct that is read is the struct that runs. Unknown keys are refused with the list of the known ones, nearest first.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stein::{Error, Kind, Result, ensure, names, numbers::ensure_within, settings};
use stein_base::Explain;
use stein_nn::{AdamWConfig, Decay, EmaConfig, RateConfig};
use toml::{Table, Value};

use crate::{AnyFamily, Capability, DataConfig, SampleConfig};

/// An experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Seed of everything random, a whole number from 0; default 0.
    #[serde(default)]
    pub seed: u64,
    /// What to learn.
    pub data: DataConfig,
    /// What learns, and how.
    pub family: AnyFamily,
    /// How long and how fast.
    pub train: TrainConfig,
    /// How it is sampled by default; left out where the family has nothing that draws samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleConfig>,
}

/// Training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps; at most 1e12, default 10,000.
    pub steps: u64,
    /// Examples per step; from 1 to 1e9, default 128.
    pub batch: usize,
    /// Parts the batch is cut into, their gradients summed; a divisor of `batch`, default 1. More parts need less memory.
    pub accumulate: usize,
    /// The optimizer; one without a kind is AdamW.
    pub optimizer: AdamWConfig,
    /// The learning rate of each step.
    pub rate: RateConfig,
    /// The average of the weights, which is what is sampled.
    pub ema: EmaConfig,
    /// Steps between lines in the metrics, at least 1; default 50.
    pub log_every: u64,
    /// Steps between checkpoints, at least 1; default 1000. The last step always has one.
    pub checkpoint_every: u64,
    /// Checkpoints kept, the newest, at least 1; default 3.
    pub keep: usize,
    /// Steps between pictures of samples, or of what an autoencoder makes of pictures; default 0, none but the last, and that only where there are samples.
    pub sample_every: u64,
    /// Metrics of samples while it trains; default none.
    pub evaluate: EvaluateConfig,
}

/// Metrics of samples while a model trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Steps between measurements, and once after the last; default 0, none.
    pub every: u64,
    /// The metrics, by name; the first one says which checkpoint is the best, which is kept as best.safetensors. Default what suits the
    /// data.
    pub metrics: Vec<String>,
    /// What is compared, as of `stein evaluate --features`; default `none`, the numbers themselves.
    pub features: String,
    /// The weights of that network, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_weights: Option<PathBuf>,
    /// A file with moments of the data, as of `stein evaluate --reference`, for the Fréchet distance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
    /// Samples that are drawn, at least 1; default 500.
    pub n: usize,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { every: 0, metrics: Vec::new(), features: "none".into(), feature_weights: None, reference: None, n: 500 }
    }
}

/// Most steps and most examples of one that mean anything; what fits into memory is found with the data.
const MOST_STEPS: u64 = 1_000_000_000_000;
const MOST_BATCH: usize = 1_000_000_000;

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
            evaluate: EvaluateConfig::default(),
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
            let sentence =
                format!("cannot read the experiment {}: {error}; give the path of a TOML file", path.display());
            Error::of(Kind::File, sentence)
        })?;
        Self::parse(&text, settings).map_err(|error| error.at(path.display()))
    }

    /// As [`read`](Self::read), from text.
    ///
    /// ```
    /// use stein_run::Experiment;
    ///
    /// let text = r#"
    ///     [data]
    ///     source = { kind = "points2d", shape = "moons" }
    ///     [family]
    ///     kind = "diffusion"
    ///     schedule = { kind = "edm" }
    ///     prediction = { kind = "edm", sigma_data = 0.5 }
    ///     input_scale = { kind = "unit_variance", sigma_data = 0.5 }
    ///     noise_input = { kind = "quarter_log_noise" }
    ///     network = { kind = "mlp" }
    ///     objective = { levels = { kind = "log_normal" }, weighting = { kind = "unit" } }
    ///     [train]
    ///     [sample]
    ///     sampler = { kind = "heun" }
    /// "#;
    /// let experiment = Experiment::parse(text, &["train.steps=500".into(), "sample.sampler=ddim".into()])?;
    /// let sampler = experiment.sample.as_ref().map(|sample| sample.sampler.kind());
    /// assert_eq!((experiment.train.steps, sampler), (500, Some("ddim")));
    /// let wrong = Experiment::parse(text, &["train.stpes=500".into()]).unwrap_err();
    /// assert!(wrong.to_string().contains("known, nearest first: steps"));
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, settings: &[String]) -> Result<Self> {
        let as_written: Self = with_settings(parse_toml(text)?, &[])?;
        // Settings meet the defaults too, so that what the file leaves out can be named.
        let experiment = with_settings::<Self>(as_written.settled().table(), settings)?.settled();
        experiment.check()?;
        Ok(experiment)
    }

    /// A decay that ends with the training follows it, however that is said.
    fn settled(mut self) -> Self {
        self.train.rate = self.train.rate.ending_with(self.train.steps);
        self
    }

    fn table(&self) -> Table {
        Table::try_from(self).expect("an experiment consists of tables, numbers and strings")
    }

    /// The keys in which another experiment differs from this one.
    pub(crate) fn differences(&self, other: &Self) -> Vec<Difference> {
        differences(&self.table(), &other.table())
    }

    /// Fails if the parts do not fit each other.
    pub fn check(&self) -> Result<()> {
        self.family.check().map_err(|error| error.at("family"))?;
        self.family.check_training()?;
        self.train.rate.check()?;
        self.train.optimizer.check()?;
        self.train.ema.check()?;
        SampleConfig::check_all(self.sample.as_ref(), &self.family)?;
        ensure!(
            (self.draws_sheets() || self.train.sample_every == 0)
                && (self.sample.is_some() || self.train.evaluate.every == 0),
            "train.sample_every and train.evaluate are of samples, and the family {} draws none: leave them out",
            self.family.kind()
        );
        let train = &self.train;
        if let Decay::Cosine { steps: Some(steps), floor } = train.rate.decay {
            ensure!(
                steps >= train.steps || floor > 0.0,
                "train.rate.decay.steps = {steps} ends before train.steps = {}, and the rate would be 0 from there on: leave it out, \
                 so that the decay ends with the training, or set both",
                train.steps
            );
        }
        ensure_within("train.steps", train.steps, ..=MOST_STEPS)?;
        ensure_within("train.batch", train.batch, 1..=MOST_BATCH)?;
        ensure!(
            train.accumulate >= 1 && train.batch.is_multiple_of(train.accumulate),
            "train.accumulate = {} must divide train.batch = {}",
            train.accumulate,
            train.batch
        );
        ensure_within("train.log_every", train.log_every, 1..)?;
        ensure_within("train.checkpoint_every", train.checkpoint_every, 1..)?;
        ensure_within("train.keep", train.keep, 1..)?;
        ensure_within("train.evaluate.n", train.evaluate.n, 1..)?;
        Ok(())
    }

    /// Whether there is something to draw pictures of while it trains: samples, or reconstructions.
    pub(crate) fn draws_sheets(&self) -> bool {
        self.sample.is_some() || self.family.serves().contains(&Capability::Autoencoder)
    }

    /// The experiment with every default filled in, as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("an experiment consists of tables, numbers and strings")
    }
}

/// A key that has one value here and another there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    /// The path of the key.
    pub(crate) key: String,
    before: Option<Value>,
    now: Option<Value>,
}

impl Difference {
    /// The keys in which two families differ.
    pub(crate) fn between_families(before: &AnyFamily, now: &AnyFamily) -> Vec<Self> {
        let table = |family: &AnyFamily| {
            Table::from_iter([("family".to_owned(), Value::try_from(family).expect("a family is a table"))])
        };
        differences(&table(before), &table(now))
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |value: &Option<Value>| match value {
            Some(value) => {
                let text = value.to_string();
                let start: String = text.chars().take(60).collect();
                if start.len() < text.len() { start + "…" } else { text }
            }
            None => "absent".to_owned(),
        };
        write!(f, "{} is {} and was {}", self.key, shown(&self.now), shown(&self.before))
    }
}

/// The keys in which two tables differ, down to values that are no tables.
pub(crate) fn differences(before: &Table, now: &Table) -> Vec<Difference> {
    let mut found = Vec::new();
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for key in keys {
        match (before.get(key), now.get(key)) {
            (Some(Value::Table(before)), Some(Value::Table(now))) => {
                let inner = differences(before, now).into_iter();
                found.extend(inner.map(|inner| Difference { key: format!("{key}.{}", inner.key), ..inner }));
            }
            (before, now) if before != now => {
                found.push(Difference { key: key.clone(), before: before.cloned(), now: now.cloned() });
            }
            _ => {}
        }
    }
    found
}

/// Reads a table after applying settings.
pub(crate) fn with_settings<T: serde::de::DeserializeOwned>(mut table: Table, given: &[String]) -> Result<T> {
    for setting in given {
        set(&mut table, setting)?;
    }
    settings::read(Value::Table(table))
}

/// The table of a TOML text.
pub(crate) fn parse_toml(text: &str) -> Result<Table> {
    text.parse().map_err(|error: toml::de::Error| located(text, &error))
}

/// Applies one `path.to.key=value`. A bare word for something tagged by `kind` replaces it whole: `sample.sampler=ddim`.
pub(crate) fn set(table: &mut Table, setting: &str) -> Result<()> {
    let Some((path, value)) = setting.split_once('=') else {
        let setting = names::short(setting);
        return Err(Error::new(format!("--set {setting}: give a path and a value, such as train.steps=2000")));
    };
    let (path, value) = (path.trim(), value.trim());
    let setting = names::short(setting);
    ensure!(
        path.split('.').all(|key| !key.is_empty()),
        "--set {setting}: the part before = is not a path like train.steps"
    );
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

/// A TOML syntax error in one sentence, with its line.
fn located(text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    Error::new(format!("{place}{}", names::short(error.message())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        [data]
        source = { kind = "points2d", shape = "moons" }
        [family]
        kind = "diffusion"
        schedule = { kind = "edm" }
        prediction = { kind = "edm", sigma_data = 1.0 }
        input_scale = { kind = "unit_variance", sigma_data = 1.0 }
        noise_input = { kind = "quarter_log_noise" }
        network = { kind = "mlp" }
        objective = { levels = { kind = "log_normal" }, weighting = { kind = "unit" } }
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
        let sample = experiment.sample.unwrap();
        assert_eq!((sample.sampler.kind(), sample.grid.steps), ("ddim", 9));
    }

    #[test]
    fn a_decay_that_ends_with_the_training_follows_it() {
        let decay = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
            let text =
                MINIMAL.replace("[train]", "[train]\nsteps = 400\nrate.decay = { kind = \"cosine\", steps = 400 }");
            Experiment::parse(&text, &settings).map(|experiment| experiment.train.rate.decay)
        };
        let open = Decay::Cosine { steps: None, floor: 0.0 };
        assert_eq!(decay(&[]).unwrap(), open);
        assert_eq!(decay(&["train.steps=800"]).unwrap(), open);
        assert_eq!(decay(&["train.rate.decay.steps=900"]).unwrap(), Decay::Cosine { steps: Some(900), floor: 0.0 });
        let early = decay(&["train.steps=800", "train.rate.decay.steps=500"]).unwrap_err().to_string();
        assert!(early.contains("leave it out"), "{early}");
    }

    #[test]
    fn differences_are_keys_with_both_values() {
        let [before, now] =
            [&[][..], &["train.batch=3".into(), "sample.sampler=ddim".into(), "train.optimizer.clip=1".into()]]
                .map(|settings| Experiment::parse(MINIMAL, settings).unwrap());
        let found: Vec<String> = before.differences(&now).iter().map(Difference::to_string).collect();
        assert!(found.contains(&"train.batch is 3 and was 128".to_owned()), "{found:?}");
        assert!(found.contains(&"train.optimizer.clip is 1.0 and was absent".to_owned()), "{found:?}");
        assert!(found.contains(&"sample.sampler.kind is \"ddim\" and was \"heun\"".to_owned()), "{found:?}");
        assert!(before.differences(&before).is_empty());
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
        assert!(error(&["train.batch=0"]).contains("train.batch is 0: give a number of at least 1"));
        assert!(error(&["family.schedule.sigma_min=-1"]).contains("sigma_min"));
        assert!(error(&["nonsense"]).contains("give a path and a value"));
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let error = Experiment::parse("seed = 0\n[data\n", &[]).unwrap_err().to_string();
        assert!(error.starts_with("line 2"), "{error}");
    }
}
