//! Grids that `stein sweep --grids optimized` fitted to a model, kept beside it, where `--grid optimized` finds them.
//!
//! They lie in `grids.toml` in a run directory, and beside any other file of a model under its name, as in `m.json.grids.toml`. What was fitted
//! to one sampler, number of steps, schedule, range and guidance is of no other: all of these are kept, and compared.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stein::{AnySchedule, AnyWrapper, Error, Grid, Kind, Result, Spacing, ensure};
use stein_base::files::write_atomically;

use crate::{Method, Model, RunDir, SampleConfig, replacing::beside};

/// The levels that were found for one way of sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    steps: usize,
    /// σ/α of each, the noisiest first. After them comes σ = 0; the last one is where they end, for a flow map that ends before.
    levels: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<f64>,
    sampler: Method,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<AnySchedule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wrap: Vec<AnyWrapper>,
}

impl Found {
    fn of(config: &SampleConfig, levels: Vec<f64>) -> Self {
        let SampleConfig { sampler, grid, schedule, wrap, .. } = config.clone();
        Self { steps: grid.steps, levels, start: grid.start, end: grid.end, sampler, schedule, wrap }
    }

    /// Whether it is for the same way of sampling.
    fn is_for(&self, other: &Self) -> bool {
        *self == Self { levels: self.levels.clone(), ..other.clone() }
    }
}

/// All that were found for a model.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grids {
    #[serde(default)]
    grid: Vec<Found>,
}

/// The file with the grids of a model that lies there.
pub(crate) fn path_of(model: &Path) -> PathBuf {
    match RunDir::of_model(model) {
        Some(run) => run.grids_path(),
        None => beside(model, ".grids.toml"),
    }
}

impl Grids {
    /// Those in a file; none where it is not there.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::of(
                Kind::File,
                format!("the grids {} cannot be read: {error}; remove the file, and find them again", path.display()),
            )
        };
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| failed(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Adds the levels for a way of sampling, in place of earlier ones.
    pub(crate) fn add(&mut self, config: &SampleConfig, levels: Vec<f64>) {
        let found = Found::of(config, levels);
        self.grid.retain(|other| !other.is_for(&found));
        self.grid.push(found);
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).expect("numbers and named settings are a table");
        write_atomically(path, |file| file.write_all(text.as_bytes()))
    }

    /// The levels for a way of sampling, if they were found.
    fn levels(&self, config: &SampleConfig) -> Option<Vec<f64>> {
        let wanted = Found::of(config, Vec::new());
        self.grid.iter().find(|found| found.is_for(&wanted)).map(|found| found.levels.clone())
    }

    /// The way of sampling with its levels listed where the grid is the optimized one; `None` if they were not found.
    pub(crate) fn listed(&self, config: &SampleConfig) -> Option<SampleConfig> {
        // A sampler that chooses its own steps has no levels to find.
        if config.grid.spacing != (Spacing::Optimized {}) || config.sampler.adaptive() {
            return Some(config.clone());
        }
        Some(SampleConfig { grid: given(self.levels(config)?, config.grid.clean), ..config.clone() })
    }
}

/// The grid of levels that were found, after which comes σ = 0 if it is `clean`.
pub(crate) fn given(noise: Vec<f64>, clean: bool) -> Grid {
    let grid = Grid { spacing: Spacing::Given { noise }, clean, ..Grid::default() };
    Grid { steps: grid.intervals(), ..grid }
}

/// The way a model is sampled, with the levels of an optimized grid listed.
///
/// # Errors
/// Levels that were not found yet, with the command that finds them, and a file that cannot be read.
pub(crate) fn listed(model: &Model, config: &SampleConfig) -> Result<SampleConfig> {
    if config.grid.spacing != (Spacing::Optimized {}) {
        return Ok(config.clone());
    }
    ensure!(
        config.grid.clean || config.sampler == Method::Multistep,
        "the optimized grid of a sampler ends at sigma = 0: leave out clean = false"
    );
    let grids = model.file.as_deref().map(|file| Grids::read(&path_of(file))).transpose()?.unwrap_or_default();
    grids.listed(config).ok_or_else(|| {
        let (kind, steps) = (config.sampler.kind(), config.grid.steps);
        let settings = settings_of(&config.sampler);
        Error::new(format!(
            "no optimized grid of {steps} steps of {kind}{settings} with this schedule and guidance was found for {0} yet: `stein sweep {0} \
             --samplers '{kind}{settings}' --steps {steps} --grids optimized` finds it",
            model.name
        ))
    })
}

/// The settings of a sampler in braces, as a sweep takes them, where they are not its own.
fn settings_of(method: &Method) -> String {
    let table = |method: &Method| match toml::Value::try_from(method) {
        Ok(toml::Value::Table(table)) => table,
        other => unreachable!("what has a kind is a table, not {other:?}"),
    };
    let usual = Method::named(method.kind()).map(|usual| table(&usual)).unwrap_or_default();
    let changed: Vec<String> = table(method)
        .into_iter()
        .filter(|(key, value)| usual.get(key) != Some(value))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if changed.is_empty() { String::new() } else { format!("{{{}}}", changed.join(",")) }
}
