//! Families: what is learned, how, and what it can then do. One file each, and one line in the registry.
//!
//! The training loop and the commands know no family: they train its [`Learner`]s by its losses and ask what it [`Learned`] for
//! the capability they need.

mod autoencoder;
mod autoregressive;
mod classifier;
mod consistency;
mod diffusion;
mod distribution_matching;
mod energy;
mod flow;
mod gan;
mod normalizing_flow;
mod progressive;
mod teacher;
mod uncertainty;
mod vae;

pub(crate) use autoencoder::AUTOENCODER;
pub use autoencoder::{AutoencoderModel, CoderConfig, Discriminating, Latents, Perceptual};
pub use autoregressive::PixelCnn;
pub(crate) use classifier::right;
pub use classifier::{ClassifierModel, NoisyExamples};
pub use consistency::ConsistencyModel;
pub(crate) use consistency::NETWORK as CONSISTENCY_NETWORK;
pub use diffusion::Diffusion;
pub(crate) use diffusion::NETWORK as DIFFUSION_NETWORK;
pub use distribution_matching::DistributionMatching;
pub use energy::EnergyModel;
pub use flow::{FlowMatching, Reflow};
pub use gan::{Gan, Player};
pub use normalizing_flow::NormalizingFlow;
pub use progressive::ProgressiveDistillation;
pub use teacher::Teacher;
pub use vae::VaeModel;

use std::{collections::BTreeMap, sync::Arc};

use stein::{
    AnySchedule, Autoencoder, Classifier, Condition, Denoiser, Density, Device, Error, FlowMap, Interpolant, Keys,
    Kind, LatentMap, Purpose, Request, Result, Tensor, Velocity, coupling::Coupling, ensure, exact::GaussianMixture,
    noise::normal_like,
};
use stein_base::registry;
use stein_nn::{AdamWConfig, AnyNetwork, Ema, Lpips, NetworkSize, RateConfig, Tensors, Wording};

use crate::DataConfig;

/// A family of models: its settings, read from an experiment's `[family]`.
///
/// A family of a program's own is a struct with serde's traits that implements this, added by [`AnyFamily::register`]; then it is
/// trained, stopped, resumed, kept in checkpoints and sampled like those that are built in.
pub trait Family: std::fmt::Debug + Send + Sync {
    /// Fails, saying which setting and what it may be, if the settings do not fit each other.
    fn check(&self) -> Result<()>;

    /// Fails if this model can be used but not trained: it was imported, or has no objective.
    fn check_training(&self) -> Result<()> {
        Ok(())
    }

    /// The denoiser it learns from, if it has a teacher.
    fn teacher(&self) -> Option<&Teacher> {
        None
    }

    /// Where its paths begin, if not with noise.
    fn origin(&self) -> Option<Origin<'_>> {
        None
    }

    /// The features that reconstructions are compared by, if it compares them so.
    fn perceptual(&self) -> Option<&Perceptual> {
        None
    }

    /// How the examples of a batch are paired with what their paths begin from, if they are.
    fn coupling(&self) -> Option<&Coupling> {
        None
    }

    /// The learners that can begin with the weights of a model of a family, each with the name of the learner whose weights those are;
    /// all others begin fresh. By default those of the same names.
    ///
    /// # Errors
    /// Weights that would mean something else here.
    fn starts_from(&self, _other: &AnyFamily) -> Result<Vec<(&'static str, &'static str)>> {
        Ok(Vec::new())
    }

    /// Whether it learns from the known distribution of the data, which only some synthetic ones have.
    fn needs_truth(&self) -> bool {
        false
    }

    /// The parts that learn, fresh, in the order of their turns.
    ///
    /// # Errors
    /// Settings that are none of a network for such data.
    fn learners(&self, make: &Make) -> Result<Vec<Learner>>;

    /// How large the networks of the learners are, so that what they need can be compared with the memory there is before they are made; a
    /// family that names none is not looked at.
    ///
    /// # Errors
    /// Settings that are none of a network for such data.
    fn sizes(&self, _make: &Make) -> Result<Vec<NetworkSize>> {
        Ok(Vec::new())
    }

    /// The loss one learner takes a step on, on the batch; `None` where it rests at this step. Its network is trainable and all others
    /// are constants.
    ///
    /// # Errors
    /// Those of the networks.
    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>>;

    /// What else is to be known of a held-out batch beside the losses: names, and means over the rows; default nothing.
    ///
    /// # Errors
    /// Those of the networks.
    fn held_out(&self, _learners: &Learners, _batch: &Batch) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }

    /// What a person has to be told of the losses and numbers of held-out examples, by the names they have in the metrics; default nothing.
    fn concern(&self, _held_out: &[(String, f64)]) -> Option<String> {
        None
    }

    /// What was learned, of the networks (their averages where they have some).
    ///
    /// # Errors
    /// A network that is missing, and parts that do not fit, which settings that were checked rule out.
    fn learned(&self, networks: Networks) -> Result<Learned>;

    /// Whether its networks can be shown pictures beside their input; default not.
    fn takes_pictures(&self) -> bool {
        false
    }

    /// Whether its networks read texts; default not.
    fn reads_texts(&self) -> bool {
        false
    }

    /// What [`learned`](Self::learned) gives, known before anything is built.
    fn serves(&self) -> &'static [Capability];

    /// The schedule whose levels it is trained on, if it knows levels.
    fn schedule(&self) -> Option<&AnySchedule> {
        None
    }
}

registry! {
    /// Every family, tagged by `kind` in files.
    AnyFamily, "family": Family {
        /// A denoiser by denoising score matching: NCSN, DDPM, Score-SDE, EDM and flow matching are its settings.
        "diffusion" | "score_matching" => Diffusion,
        /// A velocity that carries noise, or another data set, into the data: flow matching, stochastic interpolants, rectified flow.
        "flow" | "flow_matching" | "stochastic_interpolant" => FlowMatching,
        /// A flow map: a consistency model, from any level to the clean end in one evaluation, or a map between any two levels.
        "consistency" | "consistency_model" | "flow_map" => ConsistencyModel,
        /// A denoiser that learns to make ever fewer steps, each stage from the one before (Salimans and Ho 2022).
        "progressive_distillation" | "pd" => ProgressiveDistillation,
        /// A generator of one step, moved by the difference of two scores (Yin et al. 2024), without a discriminator.
        "distribution_matching" | "dmd" => DistributionMatching,
        /// A classifier of pictures, clean or at any level of noise: features that are compared, and what guides a denoiser to a class.
        "classifier" => ClassifierModel,
        /// An autoencoder of pictures for latent diffusion (Rombach et al. 2022), with a spread of latents or a codebook.
        "autoencoder" => AutoencoderModel,
        /// A variational autoencoder: a bound on the likelihood, codes, and samples in one go.
        "vae" | "variational_autoencoder" => VaeModel,
        /// A normalizing flow, a bijection with an exact density: of rows by couplings or splines, and Glow of pictures.
        "normalizing_flow" | "real_nvp" | "neural_spline_flow" => NormalizingFlow,
        /// PixelCNN++: every pixel given those before it, with an exact probability of the gray levels.
        "pixel_cnn" | "pixel_cnn_pp" => PixelCnn,
        /// A generative adversarial network: samples in one go, learned against a discriminator.
        "gan" | "generative_adversarial_network" => Gan,
        /// An energy whose gradient is the score: a denoiser whose field has no rotation, by denoising score matching.
        "energy" | "energy_based" | "ebm" => EnergyModel,
    }
}

/// What networks are made for.
#[derive(Debug, Clone, Copy)]
pub struct Make<'a> {
    /// The shape of one sample as the networks see it: `[D]`, `[length, channels]` or `[height, width, channels]`.
    pub shape: &'a [usize],
    /// Classes of the labels they are given, 0 for none.
    pub classes: usize,
    /// Channels of the pictures they are shown beside their input, 0 for none.
    pub beside: usize,
    /// The texts they are told, if any.
    pub text: Option<&'a Wording>,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Where the weights live; with autodiff where they are trained.
    pub device: &'a Device,
}

/// A part that learns by itself: a network with an optimizer of its own.
#[derive(Debug)]
pub struct Learner {
    /// Its name, of a-z, 0-9 and _, under which it stands in checkpoints.
    pub name: String,
    /// The network.
    pub network: AnyNetwork,
    /// Its optimizer; default the experiment's.
    pub optimizer: Option<AdamWConfig>,
    /// Its learning rate; default the experiment's.
    pub rate: Option<RateConfig>,
    /// Whether its weights are averaged, and the average is what is used in the end; default true.
    pub averaged: bool,
    /// The learner it follows instead of taking steps of its own: a target of consistency training; default none.
    pub follows: Option<Follows>,
}

/// How a learner follows another: after each step w ← μ w + (1 − μ) w', w' being the other's weights.
#[derive(Clone)]
pub struct Follows {
    /// The other learner, which stands before it.
    pub learner: &'static str,
    /// μ at step k of K, in \[0, 1\].
    pub decay: Arc<dyn Fn(u64, u64) -> f64 + Send + Sync>,
}

impl std::fmt::Debug for Follows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follows").field("learner", &self.learner).finish_non_exhaustive()
    }
}

impl Learner {
    /// A learner with the experiment's optimizer and rate, and an average.
    pub fn new(name: &str, network: AnyNetwork) -> Self {
        Self { name: name.to_owned(), network, optimizer: None, rate: None, averaged: true, follows: None }
    }
}

/// Networks by the names of their learners.
#[derive(Debug, Clone, Default)]
pub struct Networks(BTreeMap<String, AnyNetwork>);

impl Networks {
    /// The network of a learner.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn get(&self, name: &str) -> Result<&AnyNetwork> {
        self.0.get(name).ok_or_else(|| missing(name))
    }

    /// The network of a learner, taken out.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn take(&mut self, name: &str) -> Result<AnyNetwork> {
        self.0.remove(name).ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> Error {
    Error::of(Kind::Mismatch, format!("there is no network of the learner `{name}`: it is not a model of this family"))
}

impl FromIterator<(String, AnyNetwork)> for Networks {
    fn from_iter<I: IntoIterator<Item = (String, AnyNetwork)>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// The learners in the middle of training.
pub struct Learners<'a> {
    pub(crate) networks: Networks,
    pub(crate) averages: &'a BTreeMap<String, Ema>,
    pub(crate) teacher: Option<&'a dyn Denoiser>,
    pub(crate) perceptual: Option<&'a Lpips>,
}

impl Learners<'_> {
    /// The network of a learner: trainable if it is its turn.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn network(&self, name: &str) -> Result<&AnyNetwork> {
        self.networks.get(name)
    }

    /// The teacher, of a family that has one.
    pub fn teacher(&self) -> Option<&dyn Denoiser> {
        self.teacher
    }

    /// The perceptual distance, of a family that has one.
    pub fn perceptual(&self) -> Option<&Lpips> {
        self.perceptual
    }

    /// The network of the averaged weights of a learner, a constant: the target of consistency training.
    ///
    /// # Errors
    /// When there is none of that name, or it has no average.
    pub fn average(&self, name: &str) -> Result<AnyNetwork> {
        let average = self.averages.get(name).ok_or_else(|| missing(name))?;
        Ok(average.network(self.networks.get(name)?))
    }
}

/// The loss of a learner on a batch.
#[derive(Debug, Clone)]
pub struct Loss {
    /// What its gradient is taken of, `[1]`.
    pub value: Tensor<1>,
    /// Weights of the learner's network that learn without gradients, by name, as they are after this batch; mostly none.
    pub left: Tensors,
}

impl Loss {
    /// A loss that leaves nothing behind, as learners have it that do not rest.
    pub fn some(value: Tensor<1>) -> Option<Self> {
        Some(Self { value, left: Tensors::new() })
    }
}

/// Where paths begin that lead to the data.
pub enum Origin<'a> {
    /// With the samples of another data set.
    Data {
        /// The data.
        data: Box<DataConfig>,
        /// Whether a sample goes with one of its own class.
        by_class: bool,
    },
    /// With noise, whose samples a model says: these pairs take the place of the data.
    Model(&'a Reflow),
}

/// Some training examples.
pub struct Batch {
    /// States `[rows, dim]`, as the codec makes them of the data.
    pub x: Tensor<2>,
    /// Rows `[rows, dim]` of what the paths of these examples begin from, where that is more than noise of their own.
    pub source: Option<Tensor<2>>,
    /// What they are given beside: labels, for what is conditioned on them or learns them.
    pub given: Condition,
    /// What keys each row: the run's seed, and the position of the example in the stream of data.
    pub keys: Keys,
    /// Steps taken before this one.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// The distribution of the states, where it is known.
    pub truth: Option<Arc<GaussianMixture>>,
}

impl Batch {
    /// What the path of each example begins from, `[rows, dim]`: noise of its own, if nothing else.
    pub fn source(&self) -> Tensor<2> {
        match &self.source {
            Some(source) => source.clone(),
            None => normal_like(&self.keys, Purpose::Perturbation, 0, &self.x),
        }
    }
}

/// Fails unless the probability of hiding a class is one.
fn check_label_dropout(probability: f64) -> Result<()> {
    ensure!(
        (0.0..=1.0).contains(&probability),
        "family.label_dropout = {probability} must be a probability from 0 to 1"
    );
    Ok(())
}

/// Fails if labels would be hidden that there are not.
fn check_hides(probability: f64, make: &Make) -> Result<()> {
    ensure!(
        probability == 0.0 || make.classes > 0 || make.text.is_some(),
        "family.label_dropout hides classes and texts, and this model is told neither: set data.conditional = true, or leave it out"
    );
    Ok(())
}

/// The condition with the labels of some rows hidden, class and text together, each with this probability by its key.
pub fn hide_labels(given: &Condition, keys: &Keys, probability: f64) -> Condition {
    let mut hidden = given.clone();
    if probability == 0.0 || !given.has_label() {
        return hidden;
    }
    for (row, _) in keys.uniform(Purpose::LabelDropout, 0).into_iter().enumerate().filter(|(_, u)| *u < probability) {
        if let Some(class) = &mut hidden.class {
            class[row] = None;
        }
        if let Some(text) = &mut hidden.text {
            text[row] = None;
        }
    }
    hidden
}

/// Something a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Estimate E\[x_0 given x_t\]: what samplers take.
    Denoiser,
    /// Say how fast a sample moves on its way: what solvers of the ODE take. A model with a denoiser has it too.
    Velocity,
    /// Say beside how the moving samples are distributed, by their score.
    Interpolant,
    /// Carry a sample along its trajectory in one evaluation: what multistep sampling takes.
    FlowMap,
    /// Make a sample in one go.
    Generator,
    /// Say of which class a noisy sample is, and what is to be seen in it.
    Classifier,
    /// Map samples to smaller latents and back.
    Autoencoder,
    /// Say how likely a sample is, without levels of noise.
    Density,
    /// Map samples to codes and back in one go.
    Codes,
}

impl Capability {
    /// What it is called in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denoiser => "a denoiser",
            Self::Velocity => "a velocity",
            Self::Interpolant => "an interpolant",
            Self::FlowMap => "a flow map",
            Self::Generator => "a generator",
            Self::Classifier => "a classifier",
            Self::Autoencoder => "an autoencoder",
            Self::Density => "a density",
            Self::Codes => "a map of codes",
        }
    }

    /// Whether it is among what a family serves.
    pub fn is_among(self, serves: &[Self]) -> bool {
        // The probability flow of a denoiser is a velocity.
        serves.contains(&self) || self == Self::Velocity && serves.contains(&Self::Denoiser)
    }

    /// Whether samples are drawn with it.
    pub fn draws(self) -> bool {
        !matches!(self, Self::Classifier | Self::Autoencoder | Self::Density | Self::Codes)
    }
}

/// Samples made without levels of noise.
pub trait Generator: Send + Sync {
    /// The states `[rows, dim]` of the samples that are asked for, each a function of its key and its condition.
    ///
    /// # Errors
    /// A condition it does not know.
    fn generate(&self, request: &Request) -> Result<Tensor<2>>;
}

/// Samples of a map of codes: those of standard normal codes.
pub(crate) struct OfCodes(pub(crate) Arc<dyn LatentMap>);

impl Generator for OfCodes {
    fn generate(&self, request: &Request) -> Result<Tensor<2>> {
        let codes = Request { dim: self.0.width(), ..request.clone() };
        self.0.decode(codes.noise_of(1.0), &request.given)
    }
}

/// What was learned: capabilities, each present or not, in the units of states.
#[derive(Clone, Default)]
pub struct Learned {
    /// An estimate of E\[x_0 given x_t\].
    pub denoiser: Option<Arc<dyn Denoiser>>,
    /// dx/dt on the way from the source to the data, where it is more than the probability flow of the denoiser.
    pub velocity: Option<Arc<dyn Velocity>>,
    /// The noise that paths have where they begin, its standard deviation, beside what they begin from; default 0.
    pub far_noise: f64,
    /// The same with the score of what moves.
    pub interpolant: Option<Arc<dyn Interpolant>>,
    /// A map along probability-flow trajectories.
    pub flow_map: Option<Arc<dyn FlowMap>>,
    /// Samples in one go.
    pub generator: Option<Arc<dyn Generator>>,
    /// The class of noisy samples, and their features.
    pub classifier: Option<Arc<dyn Classifier>>,
    /// Latents of samples, and samples of latents.
    pub autoencoder: Option<Arc<dyn Autoencoder>>,
    /// How likely samples are.
    pub density: Option<Arc<dyn Density>>,
    /// Codes of samples, and samples of codes.
    pub codes: Option<Arc<dyn LatentMap>>,
    /// Whether the classes were hidden now and then, so that rows without one mean something.
    pub knows_no_class: bool,
}

/// The sentence for a capability that a model lacks.
pub(crate) fn lacks(model: &str, family: &str, serves: &[Capability], needed: Capability, by: &str) -> Error {
    let served = serves;
    let serves: Vec<&str> = serves.iter().map(|capability| capability.name()).collect();
    let why = match (needed, served.contains(&Capability::Velocity)) {
        // Where there is no denoiser beside it.
        (Capability::Denoiser, true) => {
            ": no denoiser follows from it, as its paths are not those of data plus independent noise; the solvers ode_euler, ode_midpoint, \
             ode_heun, ode_rk4 and rk45 follow it"
        }
        _ => "",
    };
    let serves = if serves.is_empty() { "nothing that draws samples".to_owned() } else { serves.join(" and ") };
    Error::of(
        Kind::Unsupported,
        format!("{by} needs {}, and {model}, of the family {family}, is {serves}{why}", needed.name()),
    )
}
