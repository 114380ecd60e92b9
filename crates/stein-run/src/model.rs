//! A model ready to be used: from a run directory, a checkpoint file, or an exact mixture in a JSON file.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use stein::{
    AnySchedule, AnyWrapper, Classifier, DType, Denoiser, Device, Edm, Error, FlowMap, Kind, ProbabilityFlow, Result,
    Velocity,
    codec::Chain,
    denoiser::Converted,
    ensure,
    exact::{Exact, GaussianMixture, MixtureFile},
    guidance::{Clamped, ClassName, Surroundings, wrap},
    names,
};
use stein_data::{Shape, Source};
use stein_nn::{Checkpoint, NetworkSize, SavedWeights, Tensors, Weights, state};

use crate::{
    Capability, DataConfig, Description, Experiment, Learned, RunDir, SampleConfig, Subject,
    begin::{Begin, Begins},
    description::{FROM, described, experiment_of},
    draw::class_of,
    family::{Networks, Origin, lacks},
    subject,
};

/// Something learned with all that its use needs to know.
#[derive(Clone)]
pub struct Model {
    /// What it was made from, as given.
    pub name: String,
    /// The file it was read from, a checkpoint or a mixture.
    pub file: Option<PathBuf>,
    /// Which of the weights it was read with; an exact model has none.
    pub weights: Option<Weights>,
    /// The training steps behind the weights, and the part of them that is still what a run began with and has learned nothing.
    unlearned: Option<(u64, f64)>,
    /// The name of its family.
    pub family: String,
    /// What its family serves.
    pub serves: &'static [Capability],
    /// What it can do.
    pub learned: Learned,
    /// The schedule whose levels it knows, if it knows any.
    pub schedule: Option<AnySchedule>,
    /// Whether it was trained, and so knows only the levels of its schedule.
    pub trained: bool,
    /// How large its networks are.
    pub sizes: Vec<NetworkSize>,
    /// What it models.
    pub subject: Subject,
    /// Whether its classes are those of a classifier that steers it, and it is told none.
    pub(crate) steered: bool,
    /// The data its samples begin from, if not from noise.
    pub(crate) source: Option<Begins>,
    /// Items of these, once they were read, or others that were named.
    begin: OnceLock<Begin>,
    /// The states its samples begin with at the noisiest level, where they were given.
    pub(crate) start: Option<Arc<Start>>,
    /// Where data sets lie.
    pub(crate) folder: Option<PathBuf>,
    /// The data it learned from, where it was trained here.
    pub data: Option<DataConfig>,
    /// How it is sampled by default.
    pub sample: SampleConfig,
    /// The density of the data in their own units, where it is known: what pictures are drawn over.
    pub truth: Option<GaussianMixture>,
    /// Device and precision it works in.
    pub device: Device,
    /// As `device`.
    pub dtype: DType,
}

impl Model {
    /// Opens a run directory (its newest checkpoint), a directory of the demonstration, a checkpoint file, or `exact:FILE.json`: with
    /// the average of the weights where there is one.
    ///
    /// # Errors
    /// When it is none of these, or is damaged.
    pub fn open(name: impl AsRef<OsStr>, device: &Device) -> Result<Self> {
        let (shown, found) = (name.as_ref().to_string_lossy(), Found::at(name.as_ref())?);
        match found {
            Found::Mixture(path) => Self::exact(&shown, &path),
            Found::Checkpoint(path) => Self::read(&shown, &path, Weights::Ema, device),
        }
    }

    /// As [`open`](Self::open), with the weights that are asked for.
    ///
    /// # Errors
    /// As [`open`](Self::open), and weights that it does not have.
    pub fn open_with(name: impl AsRef<OsStr>, weights: Weights, device: &Device) -> Result<Self> {
        let shown = name.as_ref().to_string_lossy();
        let model = Self::read(&shown, &checkpoint_of(name.as_ref())?, weights, device)?;
        ensure!(
            Kind::Unsupported,
            model.weights == Some(weights),
            "{shown} has no average of its weights: leave out --weights, or give --weights raw"
        );
        Ok(model)
    }

    /// This, whose data are looked for in a folder, where one is given.
    #[must_use]
    pub fn with_data_in(self, folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned).or(self.folder), ..self }
    }

    /// This, with samples that begin from the items of named data, in their order: a data set, of which the part is taken that the model
    /// learned to begin from, a file or folder, or an experiment.
    ///
    /// # Errors
    /// A model whose samples begin from noise, and data that cannot be read or are other than such as it begins from.
    pub fn beginning_from(self, name: &str) -> Result<Self> {
        let begin = Begin::named(&self, name)?;
        Ok(Self { begin: OnceLock::from(begin), ..self })
    }

    /// This, with samples that begin with the states of an array `[n, ...state]` at the noisiest level instead of drawn ones, in their order.
    ///
    /// # Errors
    /// A file that is no such array, and numbers that are not finite.
    pub fn starting_with(self, path: &Path) -> Result<Self> {
        let (shape, values) = stein_data::read_array(path)?;
        let state = self.subject.state_shape()?;
        let fits = shape.len() > 1 && shape[0] > 0 && values.len() == shape[0] * state.iter().product::<usize>();
        ensure!(
            fits,
            "{} has the shape {shape:?}, and samples of {} begin with [n, {}]",
            path.display(),
            self.name,
            state.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        );
        ensure!(values.iter().all(|x| x.is_finite()), "{} has numbers that are not finite", path.display());
        let start = Start { path: path.to_owned(), count: shape[0], states: values };
        Ok(Self { start: Some(Arc::new(start)), ..self })
    }

    /// What samples begin from, if not from noise: read once.
    pub(crate) fn beginning(&self) -> Result<Option<Begin>> {
        if let Some(begin) = self.begin.get() {
            return Ok(Some(begin.clone()));
        }
        let found = Begin::of(self)?;
        Ok(found.map(|begin| self.begin.get_or_init(|| begin).clone()))
    }

    /// Items that samples were said to begin from.
    pub(crate) fn named_beginning(&self) -> Option<&Begin> {
        self.begin.get().filter(|begin| begin.count().is_some())
    }

    /// The files that samples begin from.
    pub(crate) fn beginning_files(&self) -> Vec<PathBuf> {
        let mut files = match self.begin.get() {
            Some(begin) => begin.paths().to_vec(),
            None => self.source.iter().filter_map(|source| source.data.source.path()).collect(),
        };
        files.extend(self.start.iter().map(|start| start.path.clone()));
        files
    }

    /// A model of data that has learned nothing: what pictures of the data are made for.
    pub(crate) fn untrained(subject: Subject) -> Self {
        Self {
            name: subject.name.clone(),
            file: None,
            weights: None,
            unlearned: None,
            family: "data".to_owned(),
            serves: &[],
            learned: Learned::default(),
            schedule: None,
            trained: false,
            sizes: Vec::new(),
            subject,
            steered: false,
            source: None,
            begin: OnceLock::new(),
            start: None,
            folder: None,
            data: None,
            sample: SampleConfig::default(),
            truth: None,
            device: Device::flex(),
            dtype: DType::F32,
        }
    }

    fn exact(name: &str, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let sentence =
                format!("cannot read the mixture {}: {error}; give exact: and the path of a JSON file", path.display());
            Error::of(Kind::File, sentence)
        })?;
        let file: MixtureFile = serde_json::from_str(&text).map_err(|error| {
            let needed = "it needs `weights`, `means` and either `stds` or `covs`";
            Error::of(
                Kind::File,
                format!("{} is no mixture: {}; {needed}", path.display(), names::short(&error.to_string())),
            )
        })?;
        let shares = file.weights.clone();
        let mixture = GaussianMixture::try_from(file).map_err(|error| error.at(path.display()))?;
        let dim = mixture.dim();
        let subject = Subject {
            name: path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
            shape: Shape::Row { dim },
            classes: (0..mixture.len()).map(|k| format!("component {k}")).collect(),
            shares,
            label: subject::label(),
            columns: (0..dim).map(|i| format!("x{i}")).collect(),
            levels: None,
            codec: Chain::default(),
            autoencoder: None,
            text: None,
            variance: mixture.variance(),
            shown: None,
            bounds: Vec::new(),
        };
        let sample = SampleConfig { batch: 4096, ..SampleConfig::default() };
        let denoiser: Arc<dyn Denoiser> = Arc::new(mixture.clone());
        Ok(Self {
            name: name.to_owned(),
            file: Some(path.to_owned()),
            weights: None,
            unlearned: None,
            family: "exact mixture".to_owned(),
            serves: &[Capability::Denoiser],
            // A mixture without a class is the whole of it.
            learned: Learned {
                denoiser: Some(denoiser),
                classifier: Some(Arc::new(mixture.clone())),
                knows_no_class: true,
                ..Learned::default()
            },
            schedule: Some(Edm::default().into()),
            trained: false,
            sizes: Vec::new(),
            subject,
            steered: false,
            source: None,
            begin: OnceLock::new(),
            start: None,
            folder: None,
            data: None,
            sample,
            truth: Some(mixture),
            device: Device::flex(),
            dtype: DType::F64,
        })
    }

    fn read(name: &str, path: &Path, wanted: Weights, device: &Device) -> Result<Self> {
        let saved = Checkpoint::read_weights(path, wanted)?;
        let model = Self::of_saved(name, saved, device).map_err(|error| error.at(path.display()))?;
        Ok(Self { file: Some(path.to_owned()), ..model })
    }

    /// The model of saved weights and what they say of themselves.
    pub(crate) fn of_saved(name: &str, saved: SavedWeights, device: &Device) -> Result<Self> {
        let SavedWeights { learners, which, step, metadata } = saved;
        let mut description = described(&metadata)?;
        description.subject.attach(&learners, device)?;
        let model = Self::of(name, networks(&description, &learners, device)?, &description, device)?;
        let Some(experiment) = experiment_of(&metadata) else { return Ok(Self { weights: Some(which), ..model }) };
        let model = model.with_weights_of_step(which, step, &experiment, metadata.contains_key(FROM));
        Ok(Self { data: Some(experiment.data.clone()), ..model.with_truth_of(&experiment.data) })
    }

    /// The model of networks in training, just trained or imported.
    ///
    /// # Errors
    /// When its parts do not fit, which a description that was checked rules out.
    pub fn of(name: &str, networks: Networks, description: &Description, device: &Device) -> Result<Self> {
        let Description { family, sample, subject } = description;
        Ok(Self {
            name: name.to_owned(),
            file: None,
            weights: None,
            unlearned: None,
            family: family.kind().to_owned(),
            serves: family.serves(),
            learned: family.learned(networks)?,
            schedule: family.schedule().cloned(),
            trained: true,
            sizes: description.sizes()?,
            truth: None,
            subject: subject.clone(),
            steered: false,
            source: match family.origin() {
                Some(Origin::Data { data, by_class }) => Some(Begins { data: *data, by_class }),
                Some(Origin::Model(_)) | None => None,
            },
            begin: OnceLock::new(),
            start: None,
            folder: None,
            data: None,
            // What draws nothing is refused whatever it would be sampled by.
            sample: sample.clone().unwrap_or_default(),
            device: device.clone(),
            dtype: DType::F32,
        })
    }

    /// With the density of the data, where their source has one.
    #[must_use]
    pub(crate) fn with_truth_of(self, data: &DataConfig) -> Self {
        Self { truth: known_density(data), ..self }
    }

    /// Whose weights are those of a step of a run, which may have begun from another model.
    #[must_use]
    pub(crate) fn with_weights_of_step(self, which: Weights, step: u64, of: &Experiment, from_model: bool) -> Self {
        let part = match which {
            Weights::Ema => of.train.ema.initial_part(step),
            Weights::Raw => {
                if step == 0 {
                    1.0
                } else {
                    0.0
                }
            }
        };
        let unlearned = (!from_model).then_some((step, part));
        Self { weights: Some(which), unlearned, ..self }
    }

    /// What to know before looking at its samples: that much of the weights is still what a run began with.
    pub fn caution(&self) -> Option<String> {
        let (step, part) = self.unlearned.filter(|(_, part)| *part > 0.1)?;
        Some(match self.weights {
            Some(Weights::Ema) if step > 0 => format!(
                "{:.0} % of the averaged weights is still what they were before training, {step} steps ago, and samples show it: \
                 sample with --weights raw until the average has caught up",
                100.0 * part
            ),
            _ => "the weights have learned nothing yet: samples are noise".to_owned(),
        })
    }

    /// The numbers of the tokens of a text.
    ///
    /// # Errors
    /// A model that reads no texts.
    pub(crate) fn tokens(&self, text: &str) -> Result<Arc<[u32]>> {
        let Some(texts) = &self.subject.text else {
            return Err(Error::of(
                Kind::Unsupported,
                format!("{} reads no texts: leave the text out (--prompt, --prompts, --negative)", self.name),
            ));
        };
        Ok(texts.tokenizer.padded(text)?.into())
    }

    /// The denoiser with what a configuration wraps around it.
    ///
    /// # Errors
    /// A model that has none, and those of the wrappers.
    pub fn denoiser(&self, config: &SampleConfig) -> Result<Arc<dyn Denoiser>> {
        let Some(bare) = &self.learned.denoiser else {
            return Err(lacks(&self.name, &self.family, self.serves, Capability::Denoiser, "this"));
        };
        wrap(Arc::clone(bare), &config.wrap, &Around(self))
    }

    /// The flow map with what a configuration wraps around it.
    ///
    /// # Errors
    /// A model that has none, and wrappers of denoisers.
    pub fn flow_map(&self, config: &SampleConfig) -> Result<Arc<dyn FlowMap>> {
        let Some(bare) = &self.learned.flow_map else { return Err(self.lacks(config)) };
        config.wrap.iter().try_fold(Arc::clone(bare), |map, wrapper| match wrapper {
            AnyWrapper::Clamp(clamp) => {
                let bounds = clamp.bounds(&Around(self))?;
                Ok(Arc::new(Clamped { inner: map, bounds }) as Arc<dyn FlowMap>)
            }
            other => Err(Error::of(
                Kind::Unsupported,
                format!("wrapper {} is for denoisers, and {} is a flow map: leave it out", other.kind(), self.name),
            )),
        })
    }

    /// This, with the classes of the classifier that a configuration steers it by, where it has none itself.
    ///
    /// # Errors
    /// A classifier that cannot be opened.
    pub(crate) fn with_classes_of(&self, config: &SampleConfig) -> Result<Cow<'_, Self>> {
        let brings = config.wrap.iter().find_map(|wrapper| wrapper.brings_classes());
        let Some(classifier) = brings.filter(|_| self.subject.classes.is_empty()) else {
            return Ok(Cow::Borrowed(self));
        };
        let Subject { classes, shares, label, .. } = Self::open(classifier, &self.device)?.subject;
        let subject = Subject { classes, shares, label, ..self.subject.clone() };
        Ok(Cow::Owned(Self { subject, steered: true, ..self.clone() }))
    }

    /// The bare velocity, the schedule of that name or its own, and the time of the data on it: what codes and densities are of. A velocity
    /// is known up to t = 0, the probability flow of a denoiser to the cleanest level.
    ///
    /// # Errors
    /// A model that has none, a schedule that is not known, and another schedule for what is no denoiser.
    pub(crate) fn flow(&self, schedule: Option<&str>, by: &str) -> Result<ModelFlow> {
        if let (Some(own), Some(velocity), None) = (&self.schedule, &self.learned.velocity, &self.learned.denoiser) {
            ensure!(
                Kind::Unsupported,
                schedule.is_none(),
                "{} is a velocity on its own schedule, {}, and on no other: leave out --schedule",
                self.name,
                own.kind()
            );
            let far_std = self.learned.far_noise.hypot(1.0);
            return Ok(ModelFlow { velocity: Arc::clone(velocity), schedule: own.clone(), start: 0.0, far_std });
        }
        let (denoiser, schedule) = self.bare_denoiser(schedule, Capability::Velocity, by)?;
        let (start, last) = schedule.span();
        let far_std = schedule.kernel(last).prior_std(self.subject.variance);
        Ok(ModelFlow { velocity: Arc::new(ProbabilityFlow(denoiser)), schedule, start, far_std })
    }

    /// The bare denoiser, and the schedule of that name or its own: what scores are of.
    ///
    /// # Errors
    /// A model that has none, and a schedule that is not known.
    pub(crate) fn score(&self, schedule: Option<&str>, by: &str) -> Result<(Arc<dyn Denoiser>, AnySchedule)> {
        self.bare_denoiser(schedule, Capability::Denoiser, by)
    }

    fn bare_denoiser(
        &self,
        schedule: Option<&str>,
        needed: Capability,
        by: &str,
    ) -> Result<(Arc<dyn Denoiser>, AnySchedule)> {
        let (Some(own), Some(denoiser)) = (&self.schedule, &self.learned.denoiser) else {
            return Err(lacks(&self.name, &self.family, self.serves, needed, by));
        };
        let schedule = schedule.map_or_else(|| Ok(own.clone()), AnySchedule::named)?;
        schedule.check()?;
        Ok((Arc::clone(denoiser), schedule))
    }

    /// The sentence for what the sampler of a configuration needs and this model lacks.
    pub(crate) fn lacks(&self, config: &SampleConfig) -> Error {
        let by = format!("sampler {}", config.sampler.kind());
        lacks(&self.name, &self.family, self.serves, config.sampler.needs(), &by)
    }
}

/// States that samples begin with.
pub(crate) struct Start {
    /// The file they were read from.
    pub(crate) path: PathBuf,
    /// How many.
    pub(crate) count: usize,
    /// In row order.
    pub(crate) states: Vec<f64>,
}

/// The velocity of a model, with the schedule that its times are of.
pub(crate) struct ModelFlow {
    /// dx/dt.
    pub(crate) velocity: Arc<dyn Velocity>,
    /// The levels that time stands for.
    pub(crate) schedule: AnySchedule,
    /// Where the data stand: t = 0, or the cleanest level.
    pub(crate) start: f64,
    /// The standard deviation of noise at the other end.
    pub(crate) far_std: f64,
}

/// The file that the name of a model leads to.
pub(crate) enum Found {
    Mixture(PathBuf),
    Checkpoint(PathBuf),
}

impl Found {
    pub(crate) fn at(name: &OsStr) -> Result<Self> {
        let path = Path::new(name);
        if let Some(file) = after(name, "exact:") {
            return Ok(Self::Mixture(file.into()));
        }
        if path.is_dir() {
            return Ok(Self::Checkpoint(RunDir::within(path)?.latest()?));
        }
        ensure!(
            Kind::File,
            path.is_file(),
            "there is no model at {}: give a run directory, a checkpoint file, or exact:FILE.json",
            path.display()
        );
        Ok(Self::Checkpoint(path.to_owned()))
    }

    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Mixture(path) | Self::Checkpoint(path) => path,
        }
    }
}

/// The checkpoint of a run directory, its newest, or of a file.
///
/// # Errors
/// When it is none of these.
pub(crate) fn checkpoint_of(name: &OsStr) -> Result<PathBuf> {
    match Found::at(name)? {
        Found::Checkpoint(path) => Ok(path),
        Found::Mixture(_) => Err(Error::new(format!(
            "{} is an exact model, which has no weights: give a run or a checkpoint",
            name.display()
        ))),
    }
}

/// What comes after a prefix, whatever bytes it is of.
fn after<'a>(name: &'a OsStr, prefix: &str) -> Option<&'a OsStr> {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_bytes())?;
    // SAFETY: the bytes are those of a string of the system behind text that is not empty, where such a string may be cut.
    Some(unsafe { OsStr::from_encoded_bytes_unchecked(rest) })
}

/// What wrappers can ask of a model.
pub(crate) struct Around<'a>(pub(crate) &'a Model);

impl Surroundings for Around<'_> {
    fn range(&self) -> Option<(f64, f64)> {
        self.0.subject.range()
    }

    fn bounds(&self) -> Option<Vec<(f64, f64)>> {
        let measured = &self.0.subject.bounds;
        self.range().map(|range| vec![range]).or_else(|| (!measured.is_empty()).then(|| measured.clone()))
    }

    fn knows_no_class(&self) -> bool {
        self.0.learned.knows_no_class
    }

    fn is_conditional(&self) -> bool {
        !self.0.subject.classes.is_empty() && !self.0.steered
    }

    fn class(&self, class: &ClassName, of: Option<&str>) -> Result<u32> {
        match of {
            Some(other) => class_of(&class.0, &Model::open(other, &self.0.device)?),
            None => class_of(&class.0, self.0),
        }
    }

    fn text(&self, text: &str) -> Result<Arc<[u32]>> {
        self.0.tokens(text)
    }

    fn denoiser(&self, model: &str) -> Result<Arc<dyn Denoiser>> {
        let other = self.same_data(model)?;
        other.denoiser(&SampleConfig { wrap: Vec::new(), ..other.sample.clone() })
    }

    fn classifier(&self, model: &str) -> Result<Arc<dyn Classifier>> {
        let other = self.same_data(model)?;
        let Some(classifier) = other.learned.classifier else {
            return Err(lacks(&other.name, &other.family, other.serves, Capability::Classifier, "guidance"));
        };
        ensure!(
            Kind::Unsupported,
            other.schedule.is_some(),
            "{model} was trained on data without noise, and guidance asks about noisy ones: train it with family.noise"
        );
        // Exact models work in double precision, and networks do not.
        Ok(Arc::new(Converted { inner: classifier, device: other.device, dtype: other.dtype }))
    }
}

impl Around<'_> {
    /// Another model, if it is of the same data.
    fn same_data(&self, model: &str) -> Result<Model> {
        let other = Model::open(model, &self.0.device)?;
        let (own, theirs) = (&self.0.subject, &other.subject);
        ensure!(
            Kind::Mismatch,
            (own.shape, &own.codec) == (theirs.shape, &theirs.codec),
            "{model} is a model of other data ({}, {}) than {} ({}, {}): give one of the same",
            theirs.name,
            theirs.shape,
            self.0.name,
            own.name,
            own.shape
        );
        Ok(other)
    }
}

/// The networks of a description with these weights, by learner.
fn networks(description: &Description, weights: &BTreeMap<String, Tensors>, device: &Device) -> Result<Networks> {
    // Found out before there is room for a network of any size; a family may have learners beside those it names.
    let described: usize = description.sizes()?.iter().map(|size| size.parameters).sum();
    let found: usize = weights.values().flat_map(Tensors::values).map(|data| data.num_elements()).sum();
    ensure!(
        Kind::Mismatch,
        described <= found,
        "the description is one of {described} weights, and there are {found}: the file is damaged"
    );
    let load = |learner: crate::Learner| {
        let weights = weights.get(&learner.name).ok_or_else(|| {
            Error::of(
                Kind::Mismatch,
                format!("there are no weights of the learner `{}`: the file is damaged", learner.name),
            )
        })?;
        Ok((learner.name, state::load(learner.network, weights)?))
    };
    let learners = description.subject.made_for(0, device, |make| description.family.learners(make))?;
    learners.into_iter().map(load).collect()
}

/// The density of data that have one, in their own units; none of some of their classes.
pub(crate) fn known_density(data: &DataConfig) -> Option<GaussianMixture> {
    let Source::Points2d(points) = &data.source else { return None };
    if !data.classes.is_empty() {
        return None;
    }
    let (weights, means, stds) = points.mixture()?;
    let means = means.into_iter().map(|mean| mean.to_vec()).collect();
    GaussianMixture::isotropic(weights, means, stds).ok()
}
