//! A model ready to be sampled: from a run directory, a checkpoint file, or an exact mixture in a JSON file.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use stein::{
    AnySchedule, Denoiser, Edm, Error, Grid, Heun, Preconditioned, Result,
    exact::{Exact, GaussianMixture, MixtureFile},
};
use stein_data::{Shape, Source};
use stein_nn::{AnyNetwork, Checkpoint, Part, state};

use crate::{Codec, Experiment, RunDir, SampleConfig, Subject, from_data};

/// A denoiser with all that sampling needs to know.
pub struct Model {
    /// What it was made from, as given.
    pub name: String,
    /// The checkpoint file it was read from.
    pub checkpoint: Option<PathBuf>,
    /// The denoiser, in network units.
    pub denoiser: Box<dyn Denoiser>,
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
            sampler: Heun::default().into(),
            grid: Grid::karras(18),
            schedule: None,
            clamp: false,
            batch: 4096,
        };
        Ok(Self {
            name: name.to_owned(),
            checkpoint: None,
            denoiser: Box::new(mixture.clone()),
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
        let (weights, metadata) = Checkpoint::read_part(path, Part::Ema)?;
        let (experiment, subject) = read_metadata(&metadata).map_err(|error| error.at(path.display()))?;
        let network = state::load(build_network(&experiment, &subject, device)?, &weights)
            .map_err(|error| error.at(path.display()))?;
        let model = Self::of_network(name, network, &experiment, subject, device)?;
        Ok(Self { checkpoint: Some(path.to_owned()), ..model })
    }

    /// A network in training or just trained.
    ///
    /// # Errors
    /// When its parts do not fit, which an experiment that was checked rules out.
    pub fn of_network(
        name: &str,
        network: AnyNetwork,
        experiment: &Experiment,
        subject: Subject,
        device: &Device,
    ) -> Result<Self> {
        let denoiser = Preconditioned::new(network, experiment.model.precondition(), experiment.schedule.clone())?;
        Ok(Self {
            name: name.to_owned(),
            checkpoint: None,
            denoiser: Box::new(denoiser),
            schedule: experiment.schedule.clone(),
            trained: true,
            density: known_density(&experiment.data.source),
            subject,
            sample: experiment.sample.clone(),
            device: device.clone(),
            dtype: DType::F32,
        })
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
const SUBJECT: &str = "subject";

/// What a checkpoint says of itself.
pub(crate) fn write_metadata(experiment: &Experiment, subject: &Subject) -> std::collections::BTreeMap<String, String> {
    let subject = serde_json::to_string(subject).expect("a subject consists of names and finite numbers");
    [
        (EXPERIMENT.to_owned(), experiment.to_toml()),
        (SUBJECT.to_owned(), subject),
        ("version".to_owned(), crate::VERSION.to_owned()),
        ("commit".to_owned(), crate::COMMIT.to_owned()),
    ]
    .into()
}

pub(crate) fn read_metadata(metadata: &std::collections::BTreeMap<String, String>) -> Result<(Experiment, Subject)> {
    let get = |key: &str| {
        metadata.get(key).ok_or_else(|| {
            Error::new(format!("the checkpoint's metadata lack `{key}`: it was not written by `stein train`"))
        })
    };
    let experiment = Experiment::parse(get(EXPERIMENT)?, &[])?;
    let subject = serde_json::from_str(get(SUBJECT)?)
        .map_err(|error| Error::new(format!("the checkpoint's metadata `{SUBJECT}` cannot be read: {error}")))?;
    Ok((experiment, subject))
}

/// The data of an experiment.
pub(crate) fn load_data(source: &Source, split: stein_data::Split, dir: Option<&Path>) -> Result<stein_data::Data> {
    source.load(split, dir).map_err(from_data)
}
