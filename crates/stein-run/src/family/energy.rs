//! Energy-based models (LeCun et al. 2006): a network whose slope by its input is the score, learned by denoising score matching (Vincent
//! 2011), where score matching began. See [`stein::Potential`].

use std::sync::Arc;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{
    AnySchedule, Denoising, Edm, Examples, InputScale, Network, NoiseInput, Objective, Potential, Precondition,
    Preconditioned, Prediction, Result,
};
use stein_base::Explain;
use stein_nn::{MlpConfig, NetworkConfig, NetworkSize};

use super::{
    Batch, Capability, Family, Learned, Learner, Learners, Loss, Make, Networks, check_hides, check_label_dropout,
    hide_labels,
};

/// The name of the one learner.
const NETWORK: &str = "energy";

/// An energy and how it is trained: its slope stands where a network's output does, and all else is as in diffusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct EnergyModel {
    /// How noise grows with time.
    pub schedule: AnySchedule,
    /// What the slope stands for.
    pub prediction: Prediction,
    /// How the input is scaled before the network.
    pub input_scale: InputScale,
    /// Which number tells the network how noisy its input is.
    pub noise_input: NoiseInput,
    /// The network F of the potential ⟨x, F(x)⟩, and how large.
    pub network: NetworkConfig,
    /// How levels are drawn and weighted; a single level is the classical form.
    #[serde(default)]
    pub objective: Denoising,
    /// The probability of hiding the class of a training example, for classifier-free guidance; in [0, 1], default 0.
    #[serde(default)]
    pub label_dropout: f64,
}

/// EDM's surroundings (Karras et al. 2022) with a perceptron.
impl Default for EnergyModel {
    fn default() -> Self {
        let Precondition { prediction, input_scale, noise_input } = Precondition::edm(0.5);
        let network = NetworkConfig::Mlp(MlpConfig::default());
        let objective = Denoising::default();
        Self {
            schedule: Edm::default().into(),
            prediction,
            input_scale,
            noise_input,
            network,
            objective,
            label_dropout: 0.0,
        }
    }
}

impl EnergyModel {
    fn precondition(&self) -> Precondition {
        Precondition { prediction: self.prediction, input_scale: self.input_scale, noise_input: self.noise_input }
    }

    fn around<N: Network>(&self, network: N) -> Result<Preconditioned<Potential<N>>> {
        Preconditioned::new(Potential { network }, self.precondition(), self.schedule.clone())
    }
}

impl Family for EnergyModel {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.precondition().check(&self.schedule)?;
        check_label_dropout(self.label_dropout)?;
        self.objective.check(&self.schedule)
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        check_hides(self.label_dropout, make)?;
        Ok(vec![Learner::new(NETWORK, self.network.build(make.shape, make.classes, make.seed, make.device)?)])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        Ok(vec![self.network.size(shape, classes)?])
    }

    fn loss(&self, _: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let network = learners.network(NETWORK)?;
        let constant = network.valid();
        let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
        let examples = Examples::new(&batch.x, &given, &batch.keys);
        let model = self.around(&constant)?;
        self.objective.potential_loss(&model, &Potential { network }, &examples).map(Loss::some)
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let model = self.around(networks.take(NETWORK)?)?;
        Ok(Learned { denoiser: Some(Arc::new(model)), knows_no_class: self.label_dropout > 0.0, ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Denoiser]
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        Some(&self.schedule)
    }
}
