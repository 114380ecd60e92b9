//! What samples begin from, where that is not noise: the items of another data set, for models that lead from one to the other.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use stein::{Error, Keys, Kind, Purpose, Result, Tensor, ensure};
use stein_data::{Data, Split};

use crate::{DataConfig, Model, Subject, observed::named_for};

/// What a model learned to begin from.
#[derive(Debug, Clone)]
pub(crate) struct Begins {
    /// The data.
    pub(crate) data: DataConfig,
    /// Whether a sample begins from an item of its own class.
    pub(crate) by_class: bool,
}

/// Items of a data set that samples begin from.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    data: Arc<Data>,
    /// The places of each class by the model's numbers, where a sample begins from an item of its own.
    of_class: Option<BTreeMap<u32, Vec<usize>>>,
    /// The files they were read from.
    paths: Vec<PathBuf>,
    /// Whether sample i begins from item i, and not from one that its key draws.
    in_order: bool,
}

impl Begin {
    /// Any of the items that a model learned to begin from: of those held out, where there are some. `None` of a model that begins from
    /// noise.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub(crate) fn of(model: &Model) -> Result<Option<Self>> {
        let Some(source) = &model.source else { return Ok(None) };
        let data = held_out_or_all(&source.data, false, model.folder.as_deref())?;
        Self::made(model, source, data, source.data.source.path().into_iter().collect(), false).map(Some)
    }

    /// The items of named data, in their order: a data set, of which those the model learned to begin from are taken, a file or folder, or an
    /// experiment.
    ///
    /// # Errors
    /// A model that begins from noise, and data that cannot be read or are other than such as it begins from.
    pub(crate) fn named(model: &Model, name: &str) -> Result<Self> {
        let Some(source) = &model.source else {
            return Err(Error::of(
                Kind::Unsupported,
                format!(
                    "{} leads from noise to {}, and from no other data: leave out --source",
                    model.name, model.subject.name
                ),
            ));
        };
        let named = named_for(model.subject.shape, Some(&source.data), name)?;
        let is_file = Path::new(name).exists();
        let config = match (is_file, named.source == source.data.source) {
            // The same data set is the part of it that was learned from.
            (false, true) => source.data.clone(),
            // A file of one's own is taken whole, an experiment as it says.
            (true, _) if !name.ends_with(".toml") => DataConfig { classes: Vec::new(), ..named },
            _ => named,
        };
        let data = held_out_or_all(&config, true, model.folder.as_deref())?;
        let paths = config.source.path().into_iter().chain(is_file.then(|| name.into())).collect();
        Self::made(model, source, data, paths, true)
    }

    fn made(model: &Model, source: &Begins, data: Data, paths: Vec<PathBuf>, in_order: bool) -> Result<Self> {
        ensure_such(&data, &model.subject)?;
        let of_class = source.by_class.then(|| by_classes(&data, &model.subject.classes));
        Ok(Self { data: Arc::new(data), of_class, paths, in_order })
    }

    /// The name of the data.
    pub(crate) fn name(&self) -> &str {
        &self.data.name
    }

    /// How many items there are, where each is the beginning of one sample.
    pub(crate) fn count(&self) -> Option<usize> {
        self.in_order.then(|| self.data.len())
    }

    /// The files they were read from.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The classes of samples that begin from the items in their order, where a sample has that of its item.
    ///
    /// # Errors
    /// Items whose class the model does not know, or too few of them.
    pub(crate) fn classes(&self, n: usize) -> Result<Option<Vec<u32>>> {
        if let Some(count) = self.count() {
            ensure!(
                n <= count,
                "{n} samples were asked for, and {} has {count} items to begin from: give -n at most that",
                self.data.name
            );
        }
        let Some(of_class) = self.of_class.as_ref().filter(|_| self.in_order) else { return Ok(None) };
        let mut classes = vec![None; self.data.len()];
        of_class.iter().for_each(|(&class, places)| places.iter().for_each(|&place| classes[place] = Some(class)));
        let known: Option<Vec<u32>> = classes.into_iter().take(n).collect();
        known.map(Some).ok_or_else(|| {
            Error::new(format!(
                "samples begin from items of their own class, and some of {} have none that the model was told: name data with its classes",
                self.data.name
            ))
        })
    }

    /// The states that samples of these keys and classes begin from.
    ///
    /// # Errors
    /// Items that cannot be read, and a class without one.
    pub(crate) fn rows(&self, model: &Model, keys: &Keys, class: Option<&[Option<u32>]>) -> Result<Tensor<2>> {
        let places = match (self.in_order, &self.of_class, class) {
            (true, ..) => keys.rows.iter().map(|&row| row as usize).collect(),
            (false, Some(of_class), Some(class)) => places_of_classes(keys, class, of_class)?,
            _ => places(keys, self.data.len()),
        };
        Ok(encoded(&self.data, &places, &model.subject, keys, &model.device)?.cast(model.dtype))
    }
}

/// What is held out of data, or all of them where nothing is, or of a file of one's own.
fn held_out_or_all(config: &DataConfig, whole: bool, folder: Option<&Path>) -> Result<Data> {
    match config.load_whole_or(whole, Split::Test, folder) {
        Err(error) if error.kind() == Kind::Empty => config.load(Split::Train, folder),
        other => other,
    }
}

/// The states of some samples of a source.
///
/// # Errors
/// Samples that cannot be read, and those of the codecs.
pub(crate) fn encoded(
    source: &Data,
    places: &[usize],
    subject: &Subject,
    keys: &Keys,
    device: &stein::Device,
) -> Result<Tensor<2>> {
    // What codecs draw for the source is not what they draw for the data that have the same keys.
    let own = Keys { seed: keys.seed, rows: keys.rows.iter().map(|row| row ^ 1 << 62).collect() };
    subject.encode(&source.rows(places)?, &own, device)
}

/// One place among so many for each key, at random.
pub(crate) fn places(keys: &Keys, count: usize) -> Vec<usize> {
    keys.uniform(Purpose::Source, 0).into_iter().map(|u| place(u, count)).collect()
}

fn place(u: f64, count: usize) -> usize {
    // Rounding may bring it to the very end.
    ((u * count as f64) as usize).min(count - 1)
}

/// One place for each key among those of its class, at random.
///
/// # Errors
/// A key without a class, or with one that has no place.
pub(crate) fn places_of_classes(
    keys: &Keys,
    class: &[Option<u32>],
    of_class: &BTreeMap<u32, Vec<usize>>,
) -> Result<Vec<usize>> {
    let drawn = keys.uniform(Purpose::Source, 0);
    let one = |(class, u): (&Option<u32>, f64)| {
        let own = class.and_then(|class| of_class.get(&class)).filter(|own| !own.is_empty());
        own.map(|own| own[place(u, own.len())])
            .ok_or_else(|| Error::new("a sample begins from an item of its own class, and there is none of its class"))
    };
    class.iter().zip(drawn).map(one).collect()
}

/// The places of the samples of each of these classes, by its number among them.
pub(crate) fn by_classes(source: &Data, classes: &[String]) -> BTreeMap<u32, Vec<usize>> {
    let mut found = BTreeMap::<u32, Vec<usize>>::new();
    for (place, label) in source.labels.iter().flatten().enumerate() {
        if let Some(class) = classes.iter().position(|known| *known == source.class_names[*label]) {
            found.entry(class as u32).or_default().push(place);
        }
    }
    found
}

/// Fails unless the samples of a source are such as those they lead to.
///
/// # Errors
/// Another shape, other columns, or another number of gray levels.
pub(crate) fn ensure_such(source: &Data, subject: &Subject) -> Result<()> {
    ensure!(
        Kind::Mismatch,
        source.shape == subject.shape,
        "{} has samples of {}, and they lead to those of {}, of {}: both need one shape",
        source.name,
        source.shape,
        subject.name,
        subject.shape
    );
    ensure!(
        Kind::Mismatch,
        source.columns.is_empty() || subject.columns.is_empty() || source.columns == subject.columns,
        "{} has the columns {}, and they lead to {}: give them in that order",
        source.name,
        source.columns.join(", "),
        subject.columns.join(", ")
    );
    ensure!(
        Kind::Mismatch,
        source.levels().is_none() || subject.levels.is_none() || source.levels() == subject.levels,
        "{} has other gray levels than {}: both need as many",
        source.name,
        subject.name
    );
    Ok(())
}
