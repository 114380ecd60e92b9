//! The one description of a model: the same in a run, an import and a checkpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stein::{Device, Error, Kind, Result};
use stein_nn::NetworkSize;

use crate::{
    AnyFamily, Experiment, SampleConfig, Subject,
    experiment::{parse_toml, with_settings},
};

/// What a model is, how it is sampled by default, and what it is a model of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What was learned, and how.
    pub family: AnyFamily,
    /// How it is sampled; none where there is nothing that draws samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleConfig>,
    /// What it is a model of.
    pub subject: Subject,
}

impl Description {
    /// Of the model of an experiment on data.
    pub fn of(experiment: &Experiment, subject: Subject) -> Self {
        Self { family: experiment.family.clone(), sample: experiment.sample.clone(), subject }
    }

    /// Reads what [`to_toml`](Self::to_toml) wrote.
    ///
    /// # Errors
    /// Text that is no TOML, a key or name nobody knows, a value out of range.
    pub fn parse(text: &str) -> Result<Self> {
        let description: Self = with_settings(parse_toml(text)?, &[])?;
        description.check()?;
        Ok(description)
    }

    /// Fails if the parts do not fit each other.
    pub fn check(&self) -> Result<()> {
        self.family.check()?;
        self.subject.check()?;
        SampleConfig::check_all(self.sample.as_ref(), &self.family)
    }

    /// How large the networks are, as far as the family names them.
    ///
    /// # Errors
    /// Networks that are none for such data, or do not fit into memory.
    pub fn sizes(&self) -> Result<Vec<NetworkSize>> {
        let device = Device::flex();
        self.subject.made_for(0, &device, |make| self.family.sizes(make))
    }

    /// Everything, as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a description consists of tables, numbers and strings")
    }
}

const DESCRIPTION: &str = "model";
const EXPERIMENT: &str = "experiment";
/// The checkpoint the first weights of a run were taken from.
pub(crate) const FROM: &str = "from";
/// What a run has measured since its last line of metrics.
pub(crate) const WINDOW: &str = "window";
/// Where an imported model comes from.
pub(crate) const SOURCE: &str = "source";

/// What a checkpoint says of itself.
pub(crate) fn metadata(description: &Description) -> BTreeMap<String, String> {
    let said =
        [(DESCRIPTION, description.to_toml()), ("version", crate::VERSION.into()), ("commit", crate::COMMIT.into())];
    said.map(|(key, text)| (key.to_owned(), text)).into()
}

/// What the checkpoint of a run says of itself.
pub(crate) fn run_metadata(description: &Description, experiment: &Experiment) -> BTreeMap<String, String> {
    let mut said = metadata(description);
    said.insert(EXPERIMENT.to_owned(), experiment.to_toml());
    said
}

/// The description in a checkpoint's metadata.
pub(crate) fn described(metadata: &BTreeMap<String, String>) -> Result<Description> {
    let Some(text) = metadata.get(DESCRIPTION) else {
        return Err(Error::of(
            Kind::File,
            format!(
                "the checkpoint's metadata lack `{DESCRIPTION}`: it was not written by `stein train` or `stein import`"
            ),
        ));
    };
    Description::parse(text)
}

/// The experiment in the metadata of a run's checkpoint; an imported model has none.
pub(crate) fn experiment_of(metadata: &BTreeMap<String, String>) -> Option<Experiment> {
    Experiment::parse(metadata.get(EXPERIMENT)?, &[]).ok()
}
