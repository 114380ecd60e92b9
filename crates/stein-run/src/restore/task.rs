//! What a task file says: what was measured, by which method its posterior is drawn from, and on which grid.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stein::{
    AnySchedule, AnyWrapper, Error, Grid, Kind, Result,
    inverse::{AnyMeasurement, AnyMethod, Noise},
    names, settings,
};
use stein_base::{
    Explain,
    explain::{self, Choice, Entry, Form, Key},
};
use toml::{Table, Value};

use crate::{
    Capability,
    experiment::{parse_toml, with_settings},
};

/// In which range the pictures are that a measurement and its noise speak of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// Pictures from 0 to 1, and all other data in their own units.
    #[default]
    Unit,
    /// Pictures from −1 to 1, as most papers have them: the same noise is then twice the number.
    Symmetric,
}

/// What was measured, with its noise.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasurementConfig {
    /// The operator.
    pub operator: AnyMeasurement,
    /// The noise.
    pub noise: Noise,
    /// The range of the pictures.
    pub range: Range,
}

const NOISE: &str = "noise";
const RANGE: &str = "range";

impl Serialize for MeasurementConfig {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut table = Table::try_from(&self.operator).map_err(S::Error::custom)?;
        let noise = match self.noise {
            Noise::Gaussian { std } => Value::Float(std),
            noise @ Noise::Poisson { .. } => Value::try_from(noise).map_err(S::Error::custom)?,
        };
        table.insert(NOISE.to_owned(), noise);
        table.insert(RANGE.to_owned(), Value::try_from(self.range).map_err(S::Error::custom)?);
        table.serialize(to)
    }
}

impl<'de> Deserialize<'de> for MeasurementConfig {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        let mut value = Value::deserialize(from)?;
        let mut take = |key: &str| value.as_table_mut().and_then(|table| table.remove(key));
        let noise = match take(NOISE) {
            None => Noise::default(),
            Some(Value::Float(std)) => Noise::Gaussian { std },
            Some(Value::Integer(std)) => Noise::Gaussian { std: std as f64 },
            Some(other) => settings::read(other).map_err(|error| D::Error::custom(error.at(NOISE)))?,
        };
        let range = take(RANGE).map(settings::read).transpose();
        let range = range.map_err(|error| D::Error::custom(error.at(RANGE)))?.unwrap_or_default();
        Ok(Self { operator: settings::read(value).map_err(D::Error::custom)?, noise, range })
    }
}

impl Explain for MeasurementConfig {
    fn form() -> Form {
        let Form::Choice(choice) = AnyMeasurement::form() else { unreachable!("a registry is a choice") };
        Form::Choice(Choice {
            entries: || {
                let Form::Choice(choice) = AnyMeasurement::form() else { unreachable!("a registry is a choice") };
                let noise = Key::new(
                    NOISE,
                    "The noise: a standard deviation of Gaussian noise, at least 0, or a table such as { kind = \"poisson\", rate = 100.0 }.",
                    Some(0.0),
                );
                let range = Key::new(RANGE, "In which range pictures are here.", Some(Range::default()));
                let mut entries = (choice.entries)();
                entries.iter_mut().for_each(|entry| entry.keys.extend([noise.clone(), range.clone()]));
                entries
            },
            ..choice
        })
    }
}

/// How samples of what a measurement leaves open are drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskMethod {
    /// By a denoiser, level by level.
    Denoiser(AnyMethod),
    /// By a flow map, see [`restore_by_map`](stein::inverse::restore_by_map).
    Consistency,
}

/// The name of the method that takes a flow map.
const CONSISTENCY: &str = "consistency";

impl TaskMethod {
    /// The one of this name, with its default parameters.
    ///
    /// # Errors
    /// An unknown name, answered with the known ones, nearest first.
    pub fn named(name: &str) -> Result<Self> {
        Self::with_settings(name, Table::new())
    }

    fn names() -> Vec<String> {
        AnyMethod::names().into_iter().chain([CONSISTENCY.to_owned()]).collect()
    }

    fn with_settings(name: &str, table: Table) -> Result<Self> {
        match explain::ours::<Self>(name).as_str() {
            CONSISTENCY => match table.keys().next() {
                Some(key) => Err(Error::new(format!(
                    "method {CONSISTENCY} has no settings, and `{key}` was given: leave it out"
                ))),
                None => Ok(Self::Consistency),
            },
            name if AnyMethod::names().iter().any(|known| known == name) => {
                AnyMethod::with_settings(name, table).map(Self::Denoiser)
            }
            name => Err(names::unknown("method", name, &Self::names())),
        }
    }

    /// Its name.
    pub fn kind(&self) -> &str {
        match self {
            Self::Denoiser(method) => method.kind(),
            Self::Consistency => CONSISTENCY,
        }
    }

    /// What a model must be able to do for it.
    pub fn needs(&self) -> Capability {
        match self {
            Self::Denoiser(_) => Capability::Denoiser,
            Self::Consistency => Capability::FlowMap,
        }
    }
}

impl From<AnyMethod> for TaskMethod {
    fn from(method: AnyMethod) -> Self {
        Self::Denoiser(method)
    }
}

impl Serialize for TaskMethod {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Denoiser(method) => method.serialize(to),
            Self::Consistency => settings::tagged(CONSISTENCY, &Table::new(), to),
        }
    }
}

impl<'de> Deserialize<'de> for TaskMethod {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        settings::take_kind("method", Value::deserialize(from)?, &Self::names())
            .and_then(|(kind, table)| Self::with_settings(&kind, table))
            .map_err(D::Error::custom)
    }
}

impl Explain for TaskMethod {
    fn form() -> Form {
        Form::Choice(Choice {
            name: "TaskMethod",
            doc: "How samples of what a measurement leaves open are drawn.",
            tagged: true,
            entries: || {
                let Form::Choice(methods) = AnyMethod::form() else { unreachable!("a registry is a choice") };
                let consistency = Entry::new(
                    CONSISTENCY,
                    &["consistency_editing"],
                    "Of a consistency function: carries the sample to the clean end, puts back what was measured, and noise takes it to the next level.",
                    Vec::new(),
                );
                (methods.entries)().into_iter().chain([consistency]).collect()
            },
        })
    }
}

/// How a model is sampled otherwise than it is by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct TaskSample {
    /// The levels of the steps; default the model's own grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// The schedule; default the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<AnySchedule>,
    /// What is wrapped around the model; default what it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap: Option<Vec<AnyWrapper>>,
}

/// An inverse problem, and how it is solved.
///
/// ```
/// let task = stein_run::Task::parse("measurement = { kind = \"identity\", noise = 0.1 }\nmethod = { kind = \"dps\" }", &[])?;
/// assert_eq!(task.method.kind(), "dps");
/// # Ok::<(), stein::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What was measured, with its noise.
    pub measurement: MeasurementConfig,
    /// How the posterior is drawn from.
    pub method: TaskMethod,
    /// How the model is sampled otherwise than it is by itself.
    #[serde(default)]
    pub sample: TaskSample,
}

impl Task {
    /// The task of a file, after `path=value` settings such as `method.scale=0.5`.
    ///
    /// # Errors
    /// A file that cannot be read or is no task, with its path.
    pub fn read(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::of(Kind::File, format!("cannot read {}: {error}", path.display())))?;
        Self::parse(&text, settings).map_err(|error| error.at(path.display()))
    }

    /// The task of the text of such a file.
    ///
    /// # Errors
    /// A text that is no task.
    pub fn parse(text: &str, settings: &[String]) -> Result<Self> {
        let as_written: Self = with_settings(parse_toml(text)?, &[])?;
        // Settings meet the defaults too, so that what the file leaves out can be named.
        let table = Table::try_from(&as_written).expect("a task consists of tables, numbers and strings");
        with_settings(table, settings)
    }
}
