//! What samples begin from, where that is not noise: the items of another data set, for models that lead from one to the other.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use stein::{Keys, Kind, Purpose, Request, Result, Tensor, ensure};
use stein_data::{Data, Split};

use crate::{Model, observed::named_for};

/// Items of a data set that samples begin from.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    data: Arc<Data>,
    /// The file they were read from, where it is one.
    path: Option<PathBuf>,
    /// Whether sample i begins from item i, and not from one that its key draws.
    in_order: bool,
}

impl Begin {
    /// Any of the items that a model learned to begin from: of those held out, where there are some. `None` of a model that begins from
    /// noise.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub(crate) fn of(model: &Model, folder: Option<&Path>) -> Result<Option<Self>> {
        let Some(source) = &model.source else { return Ok(None) };
        let data = match source.load(Split::Test, folder) {
            Err(error) if error.kind() == Kind::Empty => source.load(Split::Train, folder)?,
            other => other?,
        };
        Ok(Some(Self { data: Arc::new(data), path: None, in_order: false }))
    }

    /// The items of named data, in their order: a data set, a file or folder, or an experiment, read as those that the model learned to begin
    /// from; `folder` is where data sets lie.
    ///
    /// # Errors
    /// A model that begins from noise, and data that cannot be read.
    pub(crate) fn named(model: &Model, name: &str, folder: Option<&Path>) -> Result<Self> {
        let Some(source) = &model.source else { return Err(begins_from_noise(model)) };
        let named = named_for(model.subject.shape, Some(source), name)?;
        // The same data set is the part of it that was learned from.
        let config = if named.source == source.source { source.clone() } else { named };
        let data = match config.load_whole_or(true, Split::Test, folder) {
            Err(error) if error.kind() == Kind::Empty => config.load(Split::Train, folder)?,
            other => other?,
        };
        let path = Some(PathBuf::from(name)).filter(|path| path.exists());
        Ok(Self { data: Arc::new(data), path, in_order: true })
    }

    /// How many items there are.
    pub(crate) fn count(&self) -> usize {
        self.data.len()
    }

    /// The file they were read from, where it is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// This, if it is such as a model begins from, with enough items for so many samples.
    pub(crate) fn checked(self, model: &Model, n: usize) -> Result<Self> {
        let (data, subject) = (&self.data, &model.subject);
        if model.source.is_none() {
            return Err(begins_from_noise(model));
        }
        ensure_same_shape(data, &subject.name, subject.shape)?;
        ensure!(
            !self.in_order || n <= data.len(),
            "{n} samples were asked for, and {} has {} items to begin from: give -n at most that",
            data.name,
            data.len()
        );
        Ok(self)
    }

    /// The states that a batch begins from.
    pub(crate) fn rows(&self, model: &Model, request: &Request) -> Result<Tensor<2>> {
        self.of_keys(model, &request.keys())
    }

    /// The states that samples of these keys begin from.
    pub(crate) fn of_keys(&self, model: &Model, keys: &Keys) -> Result<Tensor<2>> {
        let places: Vec<usize> = match self.in_order {
            true => keys.rows.iter().map(|&row| row as usize).collect(),
            false => places(keys, self.data.len()),
        };
        Ok(model.subject.encode(&self.data.rows(&places)?, keys, &model.device)?.cast(model.dtype))
    }
}

/// One place among so many for each key, at random.
pub(crate) fn places(keys: &Keys, count: usize) -> Vec<usize> {
    keys.uniform(Purpose::Source, 0).into_iter().map(|u| ((u * count as f64) as usize).min(count - 1)).collect()
}

/// Fails unless the samples of a source have the shape of those they lead to.
pub(crate) fn ensure_same_shape(source: &Data, name: &str, shape: stein_data::Shape) -> Result<()> {
    ensure!(
        Kind::Mismatch,
        source.shape == shape,
        "{} has samples of {}, and they lead to those of {name}, of {shape}: both need one shape",
        source.name,
        source.shape
    );
    Ok(())
}

fn begins_from_noise(model: &Model) -> stein::Error {
    stein::Error::of(
        Kind::Unsupported,
        format!(
            "{} leads from noise to {}, and from no other data: leave out --source",
            model.name, model.subject.name
        ),
    )
}
