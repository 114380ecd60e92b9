//! A model ready to be sampled: from a run directory, a checkpoint file, or an exact mixture in a JSON file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device};
use stein::{
    AnySampler, AnySchedule, ConsistencyFunction, Denoiser, Edm, Error, FlowMap, Grid, Heun, Preconditioned, Result,
    exact::{Exact, GaussianMixture, MixtureFile},
};
use stein_data::{Shape, Source};
use stein_nn::{AnyNetwork, Checkpoint, Part, state};

use crate::{Codec, Experiment, Recipe, RecipeModel, RunDir, SampleConfig, Subject, from_data};

/// What can be sampled.
pub enum Learned {
    /// A denoiser, in network units.
    Denoiser(Box<dyn Denoiser>),
    /// A consistency function, in network units.
    FlowMap(Box<dyn FlowMap>),
}

/// Something learned with all that sampling needs to know.
pub struct Model {
    /// What it was made from, as given.
    pub name: String,
    /// The checkpoint file it was read from.
    pub checkpoint: Option<PathBuf>,
    /// What was learned.
    pub learned: Learned,
    /// The schedule it was trained on.
    pub schedule: AnySchedule,
    /// Whether it was trained, and so knows only the levels of its schedule.
    pub trained: bool,
    /// What it models.
    pub subject: Subject,
    /// How it is sampled by default.
    pub sample: SampleConfig,
    /// Density of the data in their own units, where it is known.
    pub density: Option<GaussianMixture>,
    /// Device and precision it works in.
    pub device: Device,
    /// As `device`.
    pub dtype: DType,
}

impl Model {
    /// Opens a run directory (its newest checkpoint), a checkpoint file, or `exact:FILE.json`.
    ///
    /// # Errors
    /// When it is none of these, or is damaged.
    pub fn open(name: &str, device: &Device) -> Result<Self> {
        if let Some(file) = name.strip_prefix("exact:") {
            return Self::exact(name, Path::new(file));
        }
        let path = Path::new(name);
        if path.is_dir() {
            return Self::checkpoint(name, &RunDir::open(path)?.latest()?, device);
        }
        if path.is_file() {
            return Self::checkpoint(name, path, device);
        }
        Err(Error::new(format!(
            "there is no model at {name}: give a run directory, a checkpoint file, or exact:FILE.json"
        )))
    }

    fn exact(name: &str, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(format!(
                "cannot read the mixture {}: {error}; give exact: and the path of a JSON file",
                path.display()
            ))
        })?;
        let file: MixtureFile = serde_json::from_str(&text).map_err(|error| {
            Error::new(format!(
                "{} is no mixture: {error}; it needs `weights`, `means` and either `stds` or `covs`",
                path.display()
            ))
        })?;
        let mixture = GaussianMixture::try_from(file).map_err(|error| error.at(path.display()))?;
        let dim = mixture.dim();
        let subject = Subject {
            name: path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
            shape: Shape::Row { dim },
            classes: (0..mixture.len()).map(|k| format!("component {k}")).collect(),
            columns: (0..dim).map(|i| format!("x{i}")).collect(),
            codec: Codec::identity(),
            variance: mixture.variance(),
        };
        let sample = SampleConfig {
            sampler: AnySampler::from(Heun::default()).into(),
            grid: Grid::karras(18),
            schedule: None,
            clamp: false,
            batch: 4096,
        };
        Ok(Self {
            name: name.to_owned(),
            checkpoint: None,
            learned: Learned::Denoiser(Box::new(mixture.clone())),
            schedule: Edm::default().into(),
            trained: false,
            subject,
            sample,
            density: Some(mixture),
            device: Device::flex(),
            dtype: DType::F64,
        })
    }

    fn checkpoint(name: &str, path: &Path, device: &Device) -> Result<Self> {
        let at = |error: Error| error.at(path.display());
        let (weights, metadata) = Checkpoint::read_part(path, Part::Ema)?;
        let (recipe, density, subject) = if let Some(text) = metadata.get(RECIPE) {
            (Recipe::parse(text).map_err(at)?, None, read_subject(&metadata).map_err(at)?)
        } else {
            let (experiment, subject) = read_metadata(&metadata).map_err(at)?;
            (Recipe::from(&experiment), known_density(&experiment.data.source), subject)
        };
        let network = recipe.model.network().build(&subject.shape.dims(), subject.classes.len(), 0, device)?;
        let network = state::load(network, &weights).map_err(at)?;
        let model = Self::of_network(name, network, &recipe, subject, device)?;
        Ok(Self { checkpoint: Some(path.to_owned()), density, ..model })
    }

    /// A network in training, just trained or imported.
    ///
    /// # Errors
    /// When its parts do not fit, which a recipe that was checked rules out.
    pub fn of_network(
        name: &str,
        network: AnyNetwork,
        recipe: &Recipe,
        subject: Subject,
        device: &Device,
    ) -> Result<Self> {
        let schedule = recipe.schedule.clone();
        let learned = match &recipe.model {
            RecipeModel::Denoiser(model) => {
                Learned::Denoiser(Box::new(Preconditioned::new(network, model.precondition(), schedule)?))
            }
            RecipeModel::FlowMap(map) => {
                Learned::FlowMap(Box::new(ConsistencyFunction::new(network, map.consistency, schedule)?))
            }
        };
        Ok(Self {
            name: name.to_owned(),
            checkpoint: None,
            learned,
            schedule: recipe.schedule.clone(),
            trained: true,
            density: None,
            subject,
            sample: recipe.sample.clone(),
            device: device.clone(),
            dtype: DType::F32,
        })
    }

    /// With the density of the data, where their source has one.
    #[must_use]
    pub(crate) fn with_density_of(self, source: &Source) -> Self {
        Self { density: known_density(source), ..self }
    }
}

/// A fresh network for an experiment and its data.
pub(crate) fn build_network(experiment: &Experiment, subject: &Subject, device: &Device) -> Result<AnyNetwork> {
    experiment.model.network.build(&subject.shape.dims(), subject.classes.len(), experiment.seed, device)
}

fn known_density(source: &Source) -> Option<GaussianMixture> {
    let Source::Points2d(points) = source else { return None };
    let (weights, means, stds) = points.mixture()?;
    let means = means.into_iter().map(|mean| mean.to_vec()).collect();
    GaussianMixture::isotropic(weights, means, stds).ok()
}

const EXPERIMENT: &str = "experiment";
const RECIPE: &str = "recipe";
const SUBJECT: &str = "subject";
/// Where an imported model comes from.
pub(crate) const SOURCE: &str = "source";

/// What a checkpoint says of itself: how it came to be, and of what.
fn metadata(key: &str, toml: String, subject: &Subject) -> BTreeMap<String, String> {
    let subject = serde_json::to_string(subject).expect("a subject consists of names and finite numbers");
    [
        (key.to_owned(), toml),
        (SUBJECT.to_owned(), subject),
        ("version".to_owned(), crate::VERSION.to_owned()),
        ("commit".to_owned(), crate::COMMIT.to_owned()),
    ]
    .into()
}

/// What the checkpoint of a run says of itself.
pub(crate) fn write_metadata(experiment: &Experiment, subject: &Subject) -> BTreeMap<String, String> {
    metadata(EXPERIMENT, experiment.to_toml(), subject)
}

/// What the checkpoint of an imported model says of itself.
pub(crate) fn imported_metadata(recipe: &Recipe, subject: &Subject) -> BTreeMap<String, String> {
    metadata(RECIPE, recipe.to_toml(), subject)
}

fn entry<'a>(metadata: &'a BTreeMap<String, String>, key: &str) -> Result<&'a str> {
    let found = metadata.get(key).map(|text| &text[..]);
    found.ok_or_else(|| {
        Error::new(format!(
            "the checkpoint's metadata lack `{key}`: it was not written by `stein train` or `stein import`"
        ))
    })
}

fn read_subject(metadata: &BTreeMap<String, String>) -> Result<Subject> {
    serde_json::from_str(entry(metadata, SUBJECT)?)
        .map_err(|error| Error::new(format!("the checkpoint's metadata `{SUBJECT}` cannot be read: {error}")))
}

pub(crate) fn read_metadata(metadata: &BTreeMap<String, String>) -> Result<(Experiment, Subject)> {
    let experiment = Experiment::parse(entry(metadata, EXPERIMENT)?, &[])?;
    Ok((experiment, read_subject(metadata)?))
}

/// The data of an experiment.
pub(crate) fn load_data(source: &Source, split: stein_data::Split, dir: Option<&Path>) -> Result<stein_data::Data> {
    source.load(split, dir).map_err(from_data)
}
