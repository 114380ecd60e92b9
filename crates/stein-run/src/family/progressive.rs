//! Progressive distillation (Salimans and Ho 2022, arXiv:2202.00512): a denoiser that learns to make ever fewer steps of DDIM.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    AnySchedule, Edm, Examples, InputScale, NoiseInput, Precondition, Preconditioned, Prediction, Result,
    consistency::{Halves, Halving, Metric, PairWeighting},
    ensure,
};
use stein_base::Explain;
use stein_nn::{MlpConfig, NetworkConfig, NetworkSize};

use super::{
    AnyFamily, Batch, Capability, DIFFUSION_NETWORK, Family, Follows, Learned, Learner, Learners, Loss, Make, Networks,
    Teacher, diffusion::same_surroundings,
};

/// The name of the learner whose network is used in the end.
const NETWORK: &str = "denoiser";

/// The name of the learner that makes twice as many steps: what the student was at the end of the stage before.
const TEACHER: &str = "teacher";

/// A denoiser for few steps and how it is distilled, from a teacher with the same surroundings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct ProgressiveDistillation {
    /// How noise grows with time.
    pub schedule: AnySchedule,
    /// What the raw output stands for.
    pub prediction: Prediction,
    /// How the input is scaled before the network.
    pub input_scale: InputScale,
    /// Which number tells the network how noisy its input is.
    pub noise_input: NoiseInput,
    /// The network, and how large.
    pub network: NetworkConfig,
    /// How many steps, and for how long.
    #[serde(default)]
    pub halving: Halving,
    /// The distance of estimates; default `l2`.
    #[serde(default = "metric")]
    pub metric: Metric,
    /// What each level counts; default `snr_plus_one`. Published: the larger of the signal-to-noise ratio and 1, `truncated_snr`.
    #[serde(default = "weighting")]
    pub weighting: PairWeighting,
    /// The denoiser it begins as, the teacher of the first stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
}

fn metric() -> Metric {
    Metric::L2 {}
}

fn weighting() -> PairWeighting {
    PairWeighting::SnrPlusOne {}
}

/// EDM (Karras et al. 2022) with a perceptron.
impl Default for ProgressiveDistillation {
    fn default() -> Self {
        let Precondition { prediction, input_scale, noise_input } = Precondition::edm(0.5);
        Self {
            schedule: Edm::default().into(),
            prediction,
            input_scale,
            noise_input,
            network: NetworkConfig::Mlp(MlpConfig::default()),
            halving: Halving::default(),
            metric: metric(),
            weighting: weighting(),
            teacher: None,
        }
    }
}

impl ProgressiveDistillation {
    pub(super) fn precondition(&self) -> Precondition {
        Precondition { prediction: self.prediction, input_scale: self.input_scale, noise_input: self.noise_input }
    }
}

impl Family for ProgressiveDistillation {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.precondition().check(&self.schedule)?;
        self.halving.check()?;
        self.metric.check()?;
        self.weighting.check()?;
        let Some(teacher) = &self.teacher else { return Ok(()) };
        ensure!(teacher.start, "a student of fewer steps begins as its teacher: leave out family.teacher.start");
        ensure!(
            teacher.wrap.is_empty(),
            "the teacher of fewer steps is a network alone: leave out family.teacher.wrap"
        );
        teacher.check()
    }

    fn check_training(&self) -> Result<()> {
        ensure!(self.teacher.is_some(), "steps are halved of a denoiser: name one, family.teacher.model = \"RUN\"");
        Ok(())
    }

    fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref()
    }

    fn starts_from(&self, other: &AnyFamily) -> Result<Vec<(&'static str, &'static str)>> {
        same_surroundings(other, &self.precondition())?;
        Ok(vec![(NETWORK, DIFFUSION_NETWORK)])
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        let network = self.network.build(make.shape, make.classes, make.seed, make.device)?;
        let halving = self.halving;
        let decay = move |step, _| if halving.ends(step) { 0.0 } else { 1.0 };
        let follows = Follows { learner: NETWORK, decay: Arc::new(decay) };
        let teacher = Learner { follows: Some(follows), averaged: false, ..Learner::new(TEACHER, network.clone()) };
        Ok(vec![Learner::new(NETWORK, network), teacher])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        Ok(vec![self.network.size(shape, classes)?])
    }

    fn loss(&self, _: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let student = Preconditioned::new(learners.network(NETWORK)?, self.precondition(), self.schedule.clone())?;
        let teacher = Preconditioned::new(learners.network(TEACHER)?, self.precondition(), self.schedule.clone())?;
        let halves = Halves::drawn(self.halving.at(batch.step), &*self.schedule, &batch.keys)?;
        let examples = Examples::new(&batch.x, &batch.given, &batch.keys);
        let eps = examples.noise()?;
        let counts = (self.metric, self.weighting);
        let found = halves.losses(&student.view(), &teacher, &examples, &eps, Some(&batch.keys), counts)?;
        Ok(Loss::some(found.losses.mean()))
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let model = Preconditioned::new(networks.take(NETWORK)?, self.precondition(), self.schedule.clone())?;
        Ok(Learned { denoiser: Some(Arc::new(model)), ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Denoiser]
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        Some(&self.schedule)
    }
}
