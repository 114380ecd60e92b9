//! Distribution matching distillation (Yin et al. 2024, arXiv:2311.18828), without a discriminator: a generator of one step, moved by the
//! difference of a teacher and a denoiser of the generator's own samples.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    AnySchedule, Denoising, Edm, Error, Examples, LevelDistribution, Levels, MapForm, MapNetwork, MapSettings, Network,
    NoiseInput, Objective, Precondition, Preconditioned, Purpose, Result, Tensor, Weighting,
    consistency::distribution_matching, denoise, ensure, noise, rows,
};
use stein_base::Explain;
use stein_nn::{MlpConfig, NetworkConfig, NetworkSize};

use super::{
    AnyFamily, Batch, Capability, DIFFUSION_NETWORK, Family, Learned, Learner, Learners, Loss, Make, Networks, Teacher,
    diffusion::same_surroundings,
};

/// The name of the learner of the denoiser of the generator's samples.
const FAKE: &str = "fake";

/// The name of the learner whose network is used in the end.
const GENERATOR: &str = "generator";

/// A one-step generator and how it is distilled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct DistributionMatching {
    /// How noise grows; the generator starts at its noisiest level, with EDM's scalings.
    pub schedule: AnySchedule,
    /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
    pub sigma_data: f64,
    /// Which number tells the networks how noisy their input is.
    pub noise_input: NoiseInput,
    /// The networks, and how large.
    pub network: NetworkConfig,
    /// How levels are drawn, at which the two scores are compared and the second is trained.
    pub levels: LevelDistribution,
    /// Steps of the denoiser of the generator's samples for one of the generator, at least 1; default 5.
    #[serde(default = "updates")]
    pub updates: u64,
    /// The denoiser it is distilled from, whose weights both networks begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
}

fn updates() -> u64 {
    5
}

/// With a perceptron.
impl Default for DistributionMatching {
    fn default() -> Self {
        Self {
            schedule: Edm::default().into(),
            sigma_data: 0.5,
            noise_input: NoiseInput::QuarterLogNoise {},
            network: NetworkConfig::Mlp(MlpConfig::default()),
            levels: LevelDistribution::default(),
            updates: updates(),
            teacher: None,
        }
    }
}

impl DistributionMatching {
    fn precondition(&self) -> Precondition {
        Precondition { noise_input: self.noise_input, ..Precondition::edm(self.sigma_data) }
    }

    fn map<N: Network>(&self, network: N) -> Result<MapNetwork<N>> {
        let form = MapForm::Edm { sigma_data: self.sigma_data };
        MapNetwork::new(network, MapSettings { form, noise_input: self.noise_input }, self.schedule.clone())
    }

    /// Samples of the generator, one for each example, with its class.
    fn samples(&self, learners: &Learners, batch: &Batch) -> Result<Tensor<2>> {
        let start = self.schedule.kernel(self.schedule.span().1);
        let z = noise::normal_like(&batch.keys, Purpose::Prior, 0, &batch.x);
        let x = z.mul_scalar(start.prior_std(self.sigma_data.powi(2))).into();
        let generator = self.map(learners.network(GENERATOR)?)?;
        let end = stein::Kernel::CLEAN;
        let dropout = Some(&batch.keys);
        Ok(generator.carry_at(x, Levels::Same(&start), Levels::Same(&end), &batch.given, dropout)?.value)
    }
}

impl Family for DistributionMatching {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.precondition().check(&self.schedule)?;
        self.levels.check(&*self.schedule)?;
        ensure!(self.updates > 0, "family.updates is 0: give the steps of the denoiser for one of the generator");
        self.teacher.as_ref().map_or(Ok(()), Teacher::check)
    }

    fn check_training(&self) -> Result<()> {
        ensure!(
            self.teacher.is_some(),
            "a generator is distilled from a denoiser: name one, family.teacher.model = \"RUN\""
        );
        Ok(())
    }

    fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref()
    }

    fn starts_from(&self, other: &AnyFamily) -> Result<Vec<(&'static str, &'static str)>> {
        if matches!(other, AnyFamily::DistributionMatching(_)) {
            return Ok(Vec::new());
        }
        same_surroundings(other, &self.precondition())?;
        Ok(vec![(FAKE, DIFFUSION_NETWORK), (GENERATOR, DIFFUSION_NETWORK)])
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        let network = self.network.build(make.shape, make.classes, make.seed, make.device)?;
        let fake = Learner { averaged: false, ..Learner::new(FAKE, network.clone()) };
        Ok(vec![fake, Learner::new(GENERATOR, network)])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        let size = self.network.size(shape, classes)?;
        Ok(vec![size, size])
    }

    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        if turn == GENERATOR && !batch.step.is_multiple_of(self.updates) {
            return Ok(None);
        }
        let x = self.samples(learners, batch)?;
        let fake = Preconditioned::new(learners.network(FAKE)?, self.precondition(), self.schedule.clone())?;
        if turn == FAKE {
            let objective = Denoising { levels: self.levels, weighting: Weighting::Unit {} };
            return objective.loss(&fake.view(), &Examples::new(&x, &batch.given, &batch.keys)).map(Loss::some);
        }
        let Some(teacher) = learners.teacher() else {
            return Err(Error::new("there is no teacher: name one in family.teacher"));
        };
        let at: Vec<_> = self.levels.draw(&*self.schedule, &batch.keys).into_iter().map(|(at, _)| at).collect();
        let levels = Levels::Each(&at);
        let eps = Examples::new(&batch.x, &batch.given, &batch.keys).noise()?;
        let noisy = rows::scale(x.clone().detach(), &levels.factors(|at| at.alpha))
            + rows::scale(eps, &levels.factors(|at| at.sigma));
        let real = denoise(teacher, noisy.clone(), levels, &batch.given)?;
        let of_fake = denoise(&fake, noisy, levels, &batch.given)?;
        Ok(Loss::some(distribution_matching(x, real, of_fake).mean()))
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let map = self.map(networks.take(GENERATOR)?)?;
        Ok(Learned { flow_map: Some(Arc::new(map)), ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::FlowMap]
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        Some(&self.schedule)
    }
}
