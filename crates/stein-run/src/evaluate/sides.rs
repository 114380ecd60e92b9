//! The rows that are compared: samples as they are drawn or read, the reference and what was held out.

use stein::{Keys, Kind, Result, ensure, exact::Exact, names};
use stein_data::{Data, Shape, Split};
use stein_metrics::Side;

use super::{DRAWN, EvaluateOptions, Of};
use crate::{
    Classes, DataConfig, Drawing, Model, Plan, SampleConfig, Sink, Summary, Watch, draw::named, observed::named_for,
};

/// Some of a data set, the class of each as the reference numbers them.
pub(super) struct Part {
    data: Data,
    count: usize,
    labels: Option<Vec<u32>>,
}

impl Part {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn name(&self) -> &str {
        &self.data.name
    }

    pub(super) fn labeled(&self) -> bool {
        self.labels.is_some()
    }

    /// The names of its classes.
    pub(super) fn class_names(&self) -> &[String] {
        &self.data.class_names
    }

    /// At most `most` rows from the first, with their classes.
    pub(super) fn read(&self, first: usize, most: usize) -> Result<(Vec<f32>, Option<Vec<u32>>)> {
        let places: Vec<usize> = (first..self.count.min(first + most)).collect();
        let labels = self.labels.as_ref().map(|labels| labels[first..first + places.len()].to_vec());
        Ok((self.data.rows(&places)?, labels))
    }

    /// Data as they are numbered themselves.
    fn own(data: Data) -> Self {
        let labels = data.labels.as_ref().map(|labels| labels.iter().map(|&label| label as u32).collect());
        Self { count: data.len(), labels, data }
    }

    /// Data whose classes are numbered as those of others.
    fn numbered(data: Data, classes: &[String]) -> Self {
        let numbers = numbers(&data.class_names, classes);
        let labels = data
            .labels
            .as_ref()
            .zip(numbers)
            .map(|(labels, numbers)| labels.iter().map(|&label| numbers[label]).collect());
        Self { count: data.len(), labels, data }
    }
}

/// The numbers that classes of these names have among others: by name or, where all are numbers, by number; `None` where they are
/// not the same classes.
fn numbers(names: &[String], among: &[String]) -> Option<Vec<u32>> {
    let by_name: Option<Vec<u32>> = names.iter().map(|name| named(name, among)).collect();
    let by_number = || {
        let number = |name: &String| name.parse().ok().filter(|&number| (number as usize) < among.len());
        names.iter().map(number).collect()
    };
    by_name.or_else(by_number)
}

/// Where samples come from.
pub(super) enum Samples<'a> {
    Drawn {
        model: &'a Model,
        count: usize,
        /// What number each class of the model has in the reference.
        numbers: Option<Vec<u32>>,
    },
    Read(Box<Part>),
}

/// Hands drawn rows on.
struct Each<'a> {
    numbers: Option<&'a [u32]>,
    take: &'a mut Take<'a>,
}

/// Takes rows and the class of each.
pub(super) type Take<'a> = dyn FnMut(&[f32], Option<&[u32]>) -> Result<()> + 'a;

impl Sink for Each<'_> {
    fn take(&mut self, drawing: &Drawing) -> Result<()> {
        let labels: Option<Vec<u32>> = drawing
            .labels
            .zip(self.numbers)
            .map(|(labels, numbers)| labels.iter().map(|&label| numbers[label as usize]).collect());
        (self.take)(drawing.values, labels.as_deref())
    }
}

impl Samples<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Drawn { model, .. } => &model.name,
            Self::Read(part) => part.name(),
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::Drawn { count, .. } => *count,
            Self::Read(part) => part.count,
        }
    }

    pub(super) fn labeled(&self) -> bool {
        match self {
            Self::Drawn { numbers, .. } => numbers.is_some(),
            Self::Read(part) => part.labeled(),
        }
    }

    /// Hands on all of them in order, some at a time; returns how they were drawn.
    pub(super) fn each<'t>(
        &'t self,
        sampling: Option<&SampleConfig>,
        seed: u64,
        watch: &mut dyn Watch,
        take: &'t mut Take<'t>,
    ) -> Result<Option<Summary>> {
        match self {
            Self::Drawn { model, count, numbers } => {
                let config = sampling.unwrap_or(&model.sample);
                let plan = Plan::new(model, *count, seed, &Classes::Default, config, false)?;
                plan.draw(&mut Each { numbers: numbers.as_deref(), take }, watch).map(Some)
            }
            Self::Read(part) => {
                for first in (0..part.count).step_by(super::ROWS) {
                    watch.going()?;
                    let (values, labels) = part.read(first, super::ROWS)?;
                    take(&values, labels.as_deref())?;
                }
                Ok(None)
            }
        }
    }
}

/// What samples are compared with, as it was read.
pub(super) struct Against {
    /// How the reference is read, if it is data.
    config: Option<DataConfig>,
    reference: Option<Part>,
    held_out: Option<Part>,
    /// Why the held-out part of the data, which was not asked for by name, is not there though there is one.
    unread: Option<String>,
}

impl Against {
    pub(super) fn of(of: &Of, options: &EvaluateOptions) -> Result<Self> {
        let own = match of {
            Of::Model(model) => model.data.as_ref(),
            Of::Data(_) => None,
        };
        let config = match (&options.against, of, own) {
            (Some(name), Of::Model(model), _) => Some(named_for(model.subject.shape, own, name)?),
            (Some(name), Of::Data(_), _) => Some(DataConfig::named(name, &[])?),
            (None, _, Some(own)) => Some(own.clone()),
            (None, _, None) => None,
        };
        let config = config.map(|config| config.with(&options.settings)).transpose()?;
        let whole = options.against.is_some() && options.split.is_none();
        let folder = options.folder.as_deref();
        let split = options.split.unwrap_or(Split::Train);
        let reference = match (&config, of) {
            (Some(config), _) => Some(Part::own(config.load_whole_or(whole, split, folder)?)),
            (None, Of::Model(model)) => exact_draws(model, options)?,
            (None, Of::Data(_)) => None,
        };
        let mut unread = None;
        let held_out = match (&options.held_out, &config) {
            (Some(name), _) => {
                let shape = reference.as_ref().map(|part| part.data.shape);
                let config = match shape {
                    Some(shape) => named_for(shape, config.as_ref(), name)?,
                    None => DataConfig::named(name, &[])?,
                };
                Some(config.load_whole_or(true, Split::Test, folder)?)
            }
            // A part of the same data is held out, unless all of it is compared with.
            (None, Some(config)) if split == Split::Train && (!whole || config.source.whole().is_none()) => {
                match config.load(Split::Test, folder) {
                    Ok(data) => Some(data),
                    Err(error) if error.kind() == Kind::Empty => None,
                    Err(error) => {
                        unread = Some(error.to_string());
                        None
                    }
                }
            }
            _ => None,
        };
        let classes = reference.as_ref().map(|part| part.data.class_names.clone()).unwrap_or_default();
        let held_out = held_out.map(|data| Part::numbered(data, &classes));
        Ok(Self { config, reference, held_out, unread })
    }
}

/// What is compared.
pub(super) struct Sides<'a> {
    pub(super) samples: Samples<'a>,
    pub(super) shape: Shape,
    against: Against,
}

impl<'a> Sides<'a> {
    pub(super) fn of(of: &'a Of, options: &EvaluateOptions, against: Against) -> Result<Self> {
        ensure!(options.n != Some(0), "0 samples were asked for: give -n at least 1");
        let Against { config, reference, held_out, .. } = &against;
        let classes = reference.as_ref().map(|part| part.data.class_names.clone()).unwrap_or_default();
        let samples = match of {
            Of::Model(model) => {
                // A classifier that steers it brings the classes that samples are of.
                let steered = model.with_classes_of(&model.sample.with(&options.sampling)?)?;
                let known = &steered.subject.classes;
                let labeled = !known.is_empty() && model.trained;
                let numbers = labeled.then(|| numbers(known, &classes)).flatten();
                Samples::Drawn { model, count: options.n.unwrap_or(DRAWN), numbers }
            }
            Of::Data(name) => {
                let config = match (reference, config) {
                    (Some(part), config) => named_for(part.data.shape, config.as_ref(), name)?,
                    _ => DataConfig::named(name, &[])?,
                };
                let data = config.load_whole_or(true, Split::Train, options.folder.as_deref())?;
                let mut part = Part::numbered(data, &classes);
                part.count = part.count.min(options.n.unwrap_or(usize::MAX));
                Samples::Read(Box::new(part))
            }
        };
        let shape = match (&samples, of) {
            (Samples::Read(part), _) => part.data.shape,
            (_, Of::Model(model)) => model.subject.shape,
            _ => unreachable!("samples that are not read are drawn"),
        };
        for other in [reference, held_out].into_iter().flatten() {
            ensure!(
                Kind::Mismatch,
                other.data.shape == shape,
                "{} has samples of {}, and {} of {}: give data of one shape",
                samples.name(),
                shape,
                other.name(),
                other.data.shape
            );
            same_columns(of, &samples, other)?;
        }
        Ok(Self { samples, shape, against })
    }

    /// What samples are compared with, for others.
    pub(super) fn into_against(self) -> Against {
        self.against
    }

    pub(super) fn part(&self, side: Side) -> Option<&Part> {
        match side {
            Side::Reference => self.against.reference.as_ref(),
            Side::HeldOut => self.against.held_out.as_ref(),
            Side::Samples => None,
        }
    }

    pub(super) fn rows(&self, side: Side) -> usize {
        self.part(side).map_or(0, Part::count)
    }

    pub(super) fn reference_name(&self) -> Option<String> {
        self.against.reference.as_ref().map(|part| part.name().to_owned())
    }

    /// Why there are no held-out data though the data have such a part.
    pub(super) fn unread(&self) -> Option<&str> {
        self.against.unread.as_deref()
    }

    /// Whether every sample and all of the reference have a class.
    pub(super) fn labeled(&self) -> bool {
        self.samples.labeled() && self.part(Side::Reference).is_some_and(Part::labeled)
    }
}

/// Draws of the distribution that an exact model is of: as many as there are samples, or as are asked for.
fn exact_draws(model: &Model, options: &EvaluateOptions) -> Result<Option<Part>> {
    let Some(truth) = model.truth.as_ref().filter(|_| !model.trained) else { return Ok(None) };
    let count = options.reference_n.or(options.n).unwrap_or(DRAWN);
    let values = truth.draw_clean(&Keys::range(options.seed, 0, count)).into_iter().map(|value| value as f32).collect();
    let name = format!("draws of {}", model.subject.name);
    Data::from_rows(&name, model.subject.columns.clone(), values, None, Vec::new()).map(|data| Some(Part::own(data)))
}

/// Fails if the columns of rows have other names, or the same in another order.
fn same_columns(of: &Of, samples: &Samples, other: &Part) -> Result<()> {
    let ours = match (of, samples) {
        (_, Samples::Read(part)) => &part.data.columns,
        (Of::Model(model), _) => &model.subject.columns,
        _ => return Ok(()),
    };
    let theirs = &other.data.columns;
    // Names that say nothing, such as those of arrays, are no contradiction.
    let told = |columns: &[String]| columns.iter().any(|name| name.chars().any(|c| c.is_alphabetic()));
    let same_set = ours.iter().all(|name| theirs.contains(name));
    ensure!(
        Kind::Mismatch,
        ours == theirs || !told(ours) || !told(theirs) || !same_set,
        "{} has the columns {}, and {} has {}: name them in one order by --set source.columns=[...]",
        samples.name(),
        names::first_of(ours),
        other.name(),
        names::first_of(theirs)
    );
    Ok(())
}
