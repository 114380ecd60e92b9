//! Flow matching: a velocity that carries a source, noise or another data set, into the data, learned from pairs of both.
//!
//! With noise as the source, pairs drawn independently and no noise on the path it is the diffusion of the same schedule, and a denoiser
//! beside the velocity. With pairs that were chosen, by optimal transport or by a model's own paths (reflow), it is a velocity alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    AnySchedule, Error, Kernel, LevelDistribution, NoiseInput, Precondition, Preconditioned, Prediction, Purpose,
    Rectified, Request, Result, Tensor,
    coupling::Coupling,
    ensure,
    flow_matching::{NoisyFlow, PathNoise, VelocityNetwork, check_noise_input},
    noise::normal_like,
    numbers::ensure_within,
};
use stein_base::Explain;
use stein_data::Source;
use stein_nn::{AnyNetwork, MlpConfig, NetworkConfig, NetworkSize};

use super::{
    AnyFamily, Batch, Capability, Family, Generator, Learned, Learner, Learners, Loss, Make, Networks, Origin,
    check_hides, check_label_dropout, diffusion::NETWORK as DIFFUSION_NETWORK, hide_labels,
};
use crate::DataConfig;

/// The names of the learners.
const VELOCITY: &str = "velocity";
const NOISE: &str = "noise";

/// A velocity and how it is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct FlowMatching {
    /// The path from the data at t = 0 to the source at the noisiest time: x_t = α x_0 + σ x_1; default `rectified`: straight lines.
    #[serde(default = "straight")]
    pub schedule: AnySchedule,
    /// What is added between the ends; default nothing.
    #[serde(default, skip_serializing_if = "PathNoise::is_none")]
    pub path_noise: PathNoise,
    /// What the paths begin from; default noise, N(0, I). A data set is read as `data.source` is, and becomes states by the codecs of the
    /// data; it is neither mirrored nor moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The classes of the source whose samples are used, by name; default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_classes: Vec<String>,
    /// How items of the data and of the source are paired; default `independent`. Pairs are chosen among the examples of a
    /// batch, or of each of the parts that `train.accumulate` cuts it into, so that larger ones give straighter paths.
    #[serde(default)]
    pub coupling: Coupling,
    /// How times are drawn; default `uniform`.
    #[serde(default = "uniform")]
    pub levels: LevelDistribution,
    /// Whether the noise of the paths is also learned, by a second network like that of the velocity: then the score is known, and samples can
    /// be drawn by a diffusion too (`interpolant_sde`); needs `path_noise`, default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub score: bool,
    /// Which number tells the network the time.
    pub noise_input: NoiseInput,
    /// The network, and how large.
    pub network: NetworkConfig,
    /// The probability of hiding the class of a training example; in [0, 1], default 0.
    #[serde(default)]
    pub label_dropout: f64,
    /// A model whose own pairs of noise and sample are learned from, instead of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reflow: Option<Reflow>,
}

/// Pairs that a model makes: noise, and where its flow leads that (Liu et al. 2023, "Flow Straight and Fast", section 2.2). What is learned
/// from them is straighter. With `levels = { kind = "single", noise = inf }` only the whole way is learned, in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Reflow {
    /// The model: a run directory or a checkpoint file.
    pub model: String,
    /// How many pairs are made before the first step, a twentieth of them held out; from 20 to 1e9, default 20,000.
    #[serde(default = "default_pairs")]
    pub pairs: usize,
    /// Relative and absolute tolerance of its ODE; from 1e-12 to 0.1, default 1e-4.
    #[serde(default = "default_tolerance")]
    pub tolerance: f64,
    /// Whether training begins with its weights; default true.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub start: bool,
}

fn straight() -> AnySchedule {
    Rectified::default().into()
}

fn uniform() -> LevelDistribution {
    LevelDistribution::UNIFORM
}

fn default_pairs() -> usize {
    20_000
}

fn default_tolerance() -> f64 {
    1e-4
}

fn yes() -> bool {
    true
}

/// Straight lines between noise and data, paired independently, with a perceptron.
impl Default for FlowMatching {
    fn default() -> Self {
        Self {
            schedule: straight(),
            path_noise: PathNoise::default(),
            source: None,
            source_classes: Vec::new(),
            coupling: Coupling::default(),
            levels: uniform(),
            score: false,
            noise_input: NoiseInput::Time { factor: 1.0 },
            network: NetworkConfig::Mlp(MlpConfig::default()),
            label_dropout: 0.0,
            reflow: None,
        }
    }
}

impl Reflow {
    fn check(&self) -> Result<()> {
        ensure!(!self.model.is_empty(), "family.reflow.model is empty: give a run directory or a checkpoint file");
        ensure_within("family.reflow.pairs", self.pairs, 20..=1_000_000_000)?;
        ensure_within("family.reflow.tolerance", self.tolerance, 1e-12..=0.1)
    }
}

impl FlowMatching {
    /// Whether x_t is data plus independent noise, so that the velocity says what the denoiser is.
    fn is_diffusion(&self) -> bool {
        let independent = matches!(self.coupling, Coupling::Independent {});
        independent && self.source.is_none() && self.reflow.is_none() && self.path_noise.is_none()
    }

    /// Whether only the whole way is learned, from the source in one step.
    fn is_one_step(&self) -> bool {
        matches!(self.levels, LevelDistribution::Single { noise } if noise.is_infinite())
    }

    fn precondition(&self) -> Precondition {
        Precondition::unscaled(Prediction::Velocity {}, self.noise_input)
    }

    fn around<N: stein::Network>(&self, network: N) -> VelocityNetwork<N> {
        VelocityNetwork { network, noise_input: self.noise_input, schedule: self.schedule.clone() }
    }
}

/// The whole way in one step: what x_0 follows from the velocity α̇ x_0 + σ̇ x_1 where x_t is x_1.
struct OneStep<N> {
    velocity: VelocityNetwork<N>,
}

impl<N: stein::Network> Generator for OneStep<N> {
    fn generate(&self, request: &Request) -> Result<Tensor<2>> {
        let schedule = &self.velocity.schedule;
        let at = schedule.kernel(schedule.span().1);
        let x1 = request.noise_of(1.0);
        let velocity = self.velocity.raw(x1.clone().into(), (&at).into(), &request.given, None)?.value;
        Ok((velocity - x1.mul_scalar(at.d_sigma)).div_scalar(at.d_alpha))
    }
}

impl Family for FlowMatching {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        ensure!(
            self.schedule.levels().is_none(),
            "family.schedule is a list of levels, and paths need every time from the data on: take rectified, or another in continuous time"
        );
        self.precondition().check(&self.schedule)?;
        check_noise_input(self.noise_input, &self.schedule)?;
        self.levels.check(&*self.schedule)?;
        self.path_noise.check(&*self.schedule)?;
        self.coupling.check().map_err(|error| error.at("coupling"))?;
        check_label_dropout(self.label_dropout)?;
        let far = self.schedule.kernel(self.schedule.span().1);
        ensure!(
            far.alpha < 0.01 && (far.sigma - 1.0).abs() < 0.01,
            "family.schedule {} does not lead to the source alone: a path ends with alpha = 0 and sigma = 1, as rectified, trigonometric, \
             polynomial and linear_vp do",
            self.schedule.kind()
        );
        ensure!(
            self.source.is_some() || self.source_classes.is_empty(),
            "family.source_classes names classes of a source, and there is none: set family.source, or leave them out"
        );
        ensure!(
            !self.score || !self.path_noise.is_none(),
            "family.score is learned from the noise of the path: set family.path_noise = {{ kind = \"bridge\", sigma = 1.0 }}, or leave it out"
        );
        ensure!(
            !self.is_one_step()
                || self.source.is_none() && self.path_noise.is_none() && far.alpha == 0.0 && far.d_alpha != 0.0,
            "levels of infinite noise learn one step from noise, on straight or trigonometric paths without noise: leave out family.source and \
             family.path_noise"
        );
        let Some(reflow) = &self.reflow else { return Ok(()) };
        reflow.check()?;
        ensure!(
            self.source.is_none() && self.path_noise.is_none() && matches!(self.coupling, Coupling::Independent {}),
            "family.reflow brings its own pairs: leave out family.source, family.coupling and family.path_noise"
        );
        Ok(())
    }

    fn starts_from(&self, other: &AnyFamily) -> Result<Vec<(&'static str, &'static str)>> {
        let theirs = match other {
            AnyFamily::FlowMatching(theirs)
                if theirs.schedule == self.schedule && theirs.noise_input == self.noise_input =>
            {
                VELOCITY
            }
            AnyFamily::Diffusion(theirs)
                if theirs.schedule == self.schedule && theirs.precondition() == self.precondition() =>
            {
                DIFFUSION_NETWORK
            }
            _ => {
                return Err(Error::of(
                    stein::Kind::Mismatch,
                    format!(
                        "the weights of this model, of the family {}, mean something else here: begin with those of a velocity on the same \
                         schedule, with the same noise input",
                        other.kind()
                    ),
                ));
            }
        };
        let both = matches!(other, AnyFamily::FlowMatching(theirs) if theirs.score && self.score);
        Ok([(VELOCITY, theirs)].into_iter().chain(both.then_some((NOISE, NOISE))).collect())
    }

    fn origin(&self) -> Option<Origin<'_>> {
        if let Some(reflow) = &self.reflow {
            return Some(Origin::Model(reflow));
        }
        let data = Box::new(DataConfig::of(self.source.clone()?, self.source_classes.clone()));
        Some(Origin::Data { data, by_class: self.coupling.within_class() })
    }

    fn coupling(&self) -> Option<&Coupling> {
        Some(&self.coupling).filter(|coupling| !matches!(coupling, Coupling::Independent {}))
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        check_hides(self.label_dropout, make)?;
        ensure!(
            !self.coupling.within_class() || make.classes > 0,
            "family.coupling.within_class pairs rows of a class, and this model is not conditioned on one: set data.conditional = true, or \
             leave it out"
        );
        let build = |seed| self.network.build(make.shape, make.classes, seed, make.device);
        let mut learners = vec![Learner::new(VELOCITY, build(make.seed)?)];
        if self.score {
            learners.push(Learner::new(NOISE, build(make.seed.wrapping_add(1))?));
        }
        Ok(learners)
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        let size = self.network.size(shape, classes)?;
        Ok(vec![size; 1 + usize::from(self.score)])
    }

    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let (x0, x1) = (batch.x.clone(), batch.source());
        let z = normal_like(&batch.keys, Purpose::Perturbation, 1, &x0);
        let (at, ratios): (Vec<Kernel>, Vec<f64>) = self.levels.draw(&*self.schedule, &batch.keys).into_iter().unzip();
        let at: Vec<Kernel> = at.into_iter().map(|at| self.path_noise.inside(at, &*self.schedule)).collect();
        let points = self.path_noise.points(x0, x1, z, at);
        let network = self.around(learners.network(turn)?);
        let (target, weights) = match turn {
            NOISE => (points.noise.clone(), ratios),
            _ => {
                let weight = |(at, ratio): (&Kernel, f64)| ratio * self.path_noise.weight(at.t);
                (points.velocity.clone(), points.at.iter().zip(ratios).map(weight).collect())
            }
        };
        let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
        network.loss(&points, target, weights, &given, &batch.keys).map(Loss::some)
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let network = networks.take(VELOCITY)?;
        // What a bridge adds is gone at its ends.
        let far_noise = match self.path_noise {
            PathNoise::Constant { sigma } => sigma,
            PathNoise::None {} | PathNoise::Bridge { .. } => 0.0,
        };
        let learned = Learned { far_noise, knows_no_class: self.label_dropout > 0.0, ..Learned::default() };
        if self.is_one_step() {
            let velocity = self.around(network);
            return Ok(Learned { generator: Some(Arc::new(OneStep { velocity })), ..learned });
        }
        if self.is_diffusion() {
            let denoiser = Preconditioned::new(network.clone(), self.precondition(), self.schedule.clone())?;
            let velocity = self.around(network);
            return Ok(Learned { denoiser: Some(Arc::new(denoiser)), velocity: Some(Arc::new(velocity)), ..learned });
        }
        let velocity = self.around(network);
        if !self.score {
            return Ok(Learned { velocity: Some(Arc::new(velocity)), ..learned });
        }
        let noise = self.around(networks.take(NOISE)?);
        let flow: Arc<NoisyFlow<AnyNetwork>> = Arc::new(NoisyFlow { velocity, noise, path: self.path_noise });
        Ok(Learned { velocity: Some(flow.clone()), interpolant: Some(flow), ..learned })
    }

    fn serves(&self) -> &'static [Capability] {
        if self.is_one_step() {
            return &[Capability::Generator];
        }
        match (self.is_diffusion(), self.score) {
            (true, _) => &[Capability::Denoiser, Capability::Velocity],
            (false, false) => &[Capability::Velocity],
            (false, true) => &[Capability::Velocity, Capability::Interpolant],
        }
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        Some(&self.schedule)
    }
}
