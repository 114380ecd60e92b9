//! Flow maps: consistency models (Song et al. 2023, arXiv:2303.01469), which lead from any level to the end of its trajectory in one
//! evaluation, and maps between any two levels (MeanFlow, shortcut and trajectory models).

use std::sync::Arc;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{
    AnySchedule, Edm, Error, Examples, Kind, MapForm, MapNetwork, MapSettings, Network, NoiseInput, Precondition,
    Result,
    consistency::{AnyMapObjective, Maps, Target},
    ensure,
};
use stein_base::Explain;
use stein_nn::{MlpConfig, NetworkConfig, NetworkSize};

use super::{
    AnyFamily, Batch, Capability, DIFFUSION_NETWORK, Family, Follows, Learned, Learner, Learners, Loss, Make, Networks,
    Teacher, check_hides, check_label_dropout, diffusion::same_surroundings, hide_labels, uncertainty,
};

/// The name of the learner whose network is used in the end.
pub(crate) const NETWORK: &str = "consistency";

/// The name of the average that is the target.
const TARGET: &str = "target";

/// A flow map and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyModel {
    /// How noise grows; trajectories start at its noisiest level.
    pub schedule: AnySchedule,
    /// How the network's output makes the map, and where that leads.
    pub form: MapForm,
    /// Which number tells the network how noisy its input is; a map between two levels is also told the difference of both numbers.
    pub noise_input: NoiseInput,
    /// The network, and how large.
    pub network: NetworkConfig,
    /// What is minimized; absent from a model that was imported, which is sampled and not trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<AnyMapObjective>,
    /// The denoiser it is distilled from, for objectives that follow one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
    /// The probability of hiding the class of a training example; in [0, 1], default 0.
    #[serde(default)]
    pub label_dropout: f64,
}

/// The published scalings with a perceptron.
impl Default for ConsistencyModel {
    fn default() -> Self {
        Self {
            schedule: Edm::default().into(),
            form: MapForm::EdmShifted { sigma_data: 0.5 },
            noise_input: NoiseInput::QuarterLogNoise {},
            network: NetworkConfig::Mlp(MlpConfig::default()),
            objective: None,
            teacher: None,
            label_dropout: 0.0,
        }
    }
}

impl ConsistencyModel {
    fn settings(&self) -> MapSettings {
        MapSettings { form: self.form, noise_input: self.noise_input }
    }

    fn objective(&self) -> Result<&AnyMapObjective> {
        self.objective.as_ref().ok_or_else(|| {
            Error::new(
                "family.objective is missing: give a kind, such as { kind = \"distillation\" }, to train this model",
            )
        })
    }

    fn map<'a>(&self, network: &'a dyn Network) -> Result<MapNetwork<&'a dyn Network>> {
        MapNetwork::new(network, self.settings(), self.schedule.clone())
    }
}

impl Family for ConsistencyModel {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.settings().check(&self.schedule)?;
        check_label_dropout(self.label_dropout)?;
        if let Some(teacher) = &self.teacher {
            teacher.check()?;
        }
        let Some(objective) = &self.objective else { return Ok(()) };
        objective.check(&self.settings(), &self.schedule)?;
        ensure!(
            objective.needs_teacher() || self.teacher.is_none(),
            "the objective {} follows no teacher: leave family.teacher out; to begin with its weights train with --from",
            objective.kind()
        );
        Ok(())
    }

    fn check_training(&self) -> Result<()> {
        let objective = self.objective()?;
        ensure!(
            !objective.needs_teacher() || self.teacher.is_some(),
            "the objective {} distills a denoiser: name one, family.teacher.model = \"RUN\"",
            objective.kind()
        );
        Ok(())
    }

    fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref()
    }

    fn starts_from(&self, other: &AnyFamily) -> Result<Vec<(&'static str, &'static str)>> {
        if matches!(other, AnyFamily::ConsistencyModel(_)) {
            return Ok(vec![(NETWORK, NETWORK)]);
        }
        let (MapForm::EdmShifted { sigma_data } | MapForm::Edm { sigma_data }) = self.form else {
            return Err(Error::of(
                Kind::Mismatch,
                "the weights of a denoiser mean something else in a map of this form: set family.form to edm or edm_shifted, or begin fresh",
            ));
        };
        same_surroundings(other, &Precondition { noise_input: self.noise_input, ..Precondition::edm(sigma_data) })?;
        Ok(vec![(NETWORK, DIFFUSION_NETWORK)])
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        check_hides(self.label_dropout, make)?;
        let network = self.network.build(make.shape, make.classes, make.seed, make.device)?;
        let mut learners = vec![Learner::new(NETWORK, network.clone())];
        let Some(objective) = &self.objective else { return Ok(learners) };
        ensure!(
            !objective.guides() || (self.label_dropout > 0.0 && make.classes > 0),
            "family.objective guides by classes: set data.conditional = true and family.label_dropout above 0, so that the network \
             learns what no class means"
        );
        if matches!(objective.target(), Target::Following { .. } | Target::Adaptive { .. }) {
            let objective = objective.clone();
            let decay = move |step, steps| objective.target().decay(objective.points(step, steps)).unwrap_or(0.0);
            let follows = Follows { learner: NETWORK, decay: Arc::new(decay) };
            learners.push(Learner { follows: Some(follows), averaged: false, ..Learner::new(TARGET, network) });
        }
        if objective.learns_weight() {
            learners.push(uncertainty::learner(make)?);
        }
        Ok(learners)
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        Ok(vec![self.network.size(shape, classes)?])
    }

    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let objective = self.objective()?;
        let network = learners.network(NETWORK)?;
        let target = match objective.target() {
            Target::Own {} => network.valid(),
            Target::Averaged {} => learners.average(NETWORK)?,
            Target::Following { .. } | Target::Adaptive { .. } => learners.network(TARGET)?.clone(),
        };
        let maps = Maps {
            student: self.map(network)?,
            target: self.map(&target)?,
            teacher: learners.teacher(),
            step: batch.step,
            steps: batch.steps,
        };
        let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
        let examples = Examples::new(&batch.x, &given, &batch.keys);
        if objective.learns_weight() {
            let losses = |examples: &Examples| {
                let found = objective.losses(&maps, examples)?;
                Ok((found.losses, found.at))
            };
            return uncertainty::weighted(turn, learners, &examples, losses).map(Loss::some);
        }
        Ok(Loss::some(objective.losses(&maps, &examples)?.losses.mean()))
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let network = networks.take(NETWORK)?;
        let map = MapNetwork::new(network, self.settings(), self.schedule.clone())?;
        let knows_no_class = self.label_dropout > 0.0;
        Ok(Learned { flow_map: Some(Arc::new(map)), knows_no_class, ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::FlowMap]
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        Some(&self.schedule)
    }
}
