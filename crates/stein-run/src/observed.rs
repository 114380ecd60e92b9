//! Data that a model is asked about: read as its own were, checked against what it models, and turned into its states.

use std::path::{Path, PathBuf};

use stein::{
    Condition, Keys, Result, Tensor,
    codec::{Chain, Codec, Dequantized},
    ensure, names,
};
use stein_base::memory::ensure_fits;
use stein_data::{Data, Shape, Source, Split};

use crate::{
    DataConfig, Model, Subject,
    draw::{class_of, named},
};

/// Which data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DataChoice {
    /// A data set by name, a file or folder, or an experiment; default the data the model learned from.
    pub name: Option<String>,
    /// `path=value` settings of how they are read.
    pub settings: Vec<String>,
    /// The part; default what is held out, and all of a file or folder that is named.
    pub split: Option<Split>,
    /// Directory with data sets.
    pub folder: Option<PathBuf>,
    /// The first so many samples; default all.
    pub n: Option<usize>,
    /// The class of all, for a model that is told one; default their labels.
    pub class: Option<String>,
}

/// Samples of data for a model.
pub struct Observed<'a> {
    model: &'a Model,
    /// The data.
    pub data: Data,
    /// How many of them are taken, from the first.
    pub count: usize,
    /// The class each stands for, where the model is told one.
    classes: Option<Vec<u32>>,
    /// Between data and states: the model's, after gray levels were spread, where it does not do so itself.
    codec: Chain,
}

impl<'a> Observed<'a> {
    /// Reads the data and fails unless they are such as the model knows.
    ///
    /// # Errors
    /// Data that cannot be read, of another shape or of classes that the model has not learned.
    pub fn of(model: &'a Model, choice: &DataChoice) -> Result<Self> {
        Self::with(model, model, choice)
    }

    /// As [`of`](Self::of), where the choice is meant for another model, whose data these are.
    pub(crate) fn with(model: &'a Model, of: &Model, choice: &DataChoice) -> Result<Self> {
        let data = load(of, choice)?;
        let subject = &model.subject;
        ensure!(
            data.shape == subject.shape,
            "{} has samples of {}, and {} models {}: give data of that shape, or how to read them by --set",
            data.name,
            data.shape,
            model.name,
            subject.shape
        );
        ensure!(
            data.columns.is_empty() || subject.columns.is_empty() || data.columns == subject.columns || !model.trained,
            "{} has the columns {}, and {} models {}: name them in that order by --set source.columns=[...]",
            data.name,
            names::first_of(&data.columns),
            model.name,
            names::first_of(&subject.columns)
        );
        ensure!(choice.n != Some(0), "0 samples were asked for: give -n at least 1");
        let count = choice.n.map_or(data.len(), |n| n.min(data.len()));
        if let (Some(own), Some(other)) = (subject.levels, data.levels()) {
            ensure!(
                own == other,
                "{} has {other} gray levels, and {} models {own}: give real numbers from 0 to 1",
                data.name,
                model.name
            );
        }
        // Pictures stored as real numbers may hold anything; those of gray levels cannot.
        if subject.levels.is_some() && data.levels().is_none() && data.is_held() {
            let mut row = vec![0.0; data.dim()];
            for i in 0..count {
                data.row(i, &mut row)?;
                if let Some(value) = row.iter().find(|value| !(-1e-6..=1.0 + 1e-6).contains(*value)) {
                    return Err(stein::Error::new(format!(
                        "sample {i} of {} has the value {value}, and {} models gray levels from 0 to 1: scale them so",
                        data.name, model.name
                    )));
                }
            }
        }
        let classes = classes(model, &data, choice.class.as_deref(), count)?;
        Ok(Self { model, count, classes, codec: spread(subject), data })
    }

    /// How many samples are worked on at a time, by what it needs of memory: a value and a tangent of each.
    ///
    /// # Errors
    /// More than there is.
    pub(crate) fn at_once(&self) -> Result<usize> {
        let rows = self.model.sample.batch.clamp(1, self.count);
        let networks = self.model.sizes.iter().map(|size| size.sampling(rows)).fold(0, u128::saturating_add);
        ensure_fits(&format!("a solve of {rows} samples at a time (sample.batch)"), networks.saturating_mul(2))?;
        Ok(rows)
    }

    /// The values of some of the samples, `[places, dim]`.
    ///
    /// # Errors
    /// A sample that cannot be read.
    pub fn values(&self, places: &[usize]) -> Result<Vec<f32>> {
        self.data.rows(places)
    }

    /// The states `[places, state]` of some of the samples as the model works, with gray levels spread, and, where there is one, ln |det|
    /// of the way there. The keys are what is drawn by.
    ///
    /// # Errors
    /// Samples that cannot be read or have no state.
    pub fn states(&self, places: &[usize], keys: &Keys) -> Result<(Tensor<2>, Option<Vec<f64>>)> {
        let x = self.tensor(places)?;
        let log_det = self.codec.log_det(&x, keys)?;
        Ok((self.codec.encode(x, keys)?.cast(self.model.dtype), log_det))
    }

    /// The states as the model's own codecs make them.
    ///
    /// # Errors
    /// As [`states`](Self::states).
    pub fn plain_states(&self, places: &[usize]) -> Result<Tensor<2>> {
        let x = self.tensor(places)?;
        Ok(self.model.subject.codec.encode(x, &Keys::range(0, 0, places.len()))?.cast(self.model.dtype))
    }

    fn tensor(&self, places: &[usize]) -> Result<Tensor<2>> {
        let data = stein::TensorData::new(self.values(places)?, [places.len(), self.data.dim()]);
        Ok(Tensor::from_data(data, &self.model.device))
    }

    /// The classes of some of the samples, as the model numbers them.
    pub fn labels(&self, places: &[usize]) -> Option<Vec<u32>> {
        self.classes.as_ref().map(|classes| places.iter().map(|&i| classes[i]).collect())
    }

    /// The condition of some of the samples.
    pub fn given(&self, places: &[usize]) -> Condition {
        let class = self.labels(places).map(|labels| labels.into_iter().map(Some).collect());
        Condition { class, ..Condition::none() }
    }
}

/// The codec of a model that gives its data a density.
fn spread(subject: &Subject) -> Chain {
    let spreads = subject.codec.0.iter().any(|codec| codec.kind() == "dequantize");
    let first = subject.levels.filter(|_| !spreads).map(|levels| Dequantized { levels }.into());
    Chain(first.into_iter().chain(subject.codec.0.iter().cloned()).collect())
}

fn load(model: &Model, choice: &DataChoice) -> Result<Data> {
    let own = model.data.as_ref();
    let config = match &choice.name {
        None => {
            let Some(own) = own else {
                return Err(stein::Error::new(format!(
                    "{} does not say what data it is of: name them by --data",
                    model.name
                )));
            };
            own.with(&choice.settings)?
        }
        Some(name) => named_for(model.subject.shape, own, name)?.with(&choice.settings)?,
    };
    // A file of one's own is looked at whole, a data set where the model has not been.
    let whole = choice.name.is_some() && choice.split.is_none();
    config.load_whole_or(whole, choice.split.unwrap_or(Split::Test), choice.folder.as_deref())
}

/// The data of that name, of samples of this shape: a file is read as other such data were.
pub(crate) fn named_for(shape: Shape, own: Option<&DataConfig>, name: &str) -> Result<DataConfig> {
    let path = Path::new(name);
    let is_experiment = path.extension().is_some_and(|ending| ending == "toml");
    if !path.exists() || is_experiment || Source::named(name).is_ok_and(|source| source.whole().is_none()) {
        return DataConfig::named(name, &[]);
    }
    let kind = match shape {
        Shape::Image { .. } => "images",
        Shape::Series { .. } => "series",
        Shape::Row { .. } => "table",
    };
    if let Some(own) = own.filter(|own| own.source.kind() == kind) {
        return Ok(DataConfig { source: own.source.at_path(path)?, ..own.clone() });
    }
    let size = match shape {
        Shape::Image { height, width, channels } if path.is_dir() || stein_data::is_picture(path) => {
            vec![
                format!("source.height={height}"),
                format!("source.width={width}"),
                format!("source.channels={channels}"),
            ]
        }
        _ => Vec::new(),
    };
    DataConfig::named(&format!("{kind}/{name}"), &size)
}

/// The classes of the data as the model numbers them.
fn classes(model: &Model, data: &Data, given: Option<&str>, count: usize) -> Result<Option<Vec<u32>>> {
    let known = &model.subject.classes;
    if known.is_empty() || !model.trained {
        ensure!(given.is_none(), "{} is unconditional, it has no classes: leave out --class", model.name);
        return Ok(None);
    }
    if let Some(name) = given {
        return Ok(Some(vec![class_of(name, model)?; count]));
    }
    // What a label of data is a number of need not be what the model's is.
    let learned = |name: &String| {
        let class = named(name, known).filter(|&class| model.subject.share(class) > 0.0);
        class.ok_or_else(|| names::unknown("class", name, known))
    };
    let Some(labels) = &data.labels else {
        ensure!(
            Kind::Unsupported,
            model.learned.knows_no_class,
            "{} is told the class of a sample, and {} has none: give data with labels, or --class",
            model.name,
            data.name
        );
        return Ok(None);
    };
    let mut numbers = vec![None; data.class_names.len()];
    labels[..count]
        .iter()
        .map(|&label| match numbers[label] {
            Some(class) => Ok(class),
            None => learned(&data.class_names[label]).inspect(|&class| numbers[label] = Some(class)),
        })
        .collect::<Result<_>>()
        .map(Some)
}
