//! Consistency models (Song et al. 2023, arXiv:2303.01469): a map from any point of a probability-flow trajectory to its end. Imported
//! ones are sampled; they are not trained here yet.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{AnySchedule, Consistency, ConsistencyFunction, Edm, Error, Kind, NoiseInput, Result, Tensor};
use stein_base::Explain;
use stein_nn::{MlpConfig, NetworkConfig, NetworkSize};

use super::{Batch, Capability, Family, Learned, Learner, Learners, Make, Networks};

/// The name of the one learner.
pub(crate) const NETWORK: &str = "consistency";

/// A consistency function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyModel {
    /// How noise grows; trajectories end at its cleanest level.
    pub schedule: AnySchedule,
    /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
    pub sigma_data: f64,
    /// Which number tells the network how noisy its input is.
    pub noise_input: NoiseInput,
    /// The network, and how large.
    pub network: NetworkConfig,
}

/// The published scalings with a perceptron.
impl Default for ConsistencyModel {
    fn default() -> Self {
        Self {
            schedule: Edm::default().into(),
            sigma_data: 0.5,
            noise_input: NoiseInput::QuarterLogNoise {},
            network: NetworkConfig::Mlp(MlpConfig::default()),
        }
    }
}

impl ConsistencyModel {
    fn consistency(&self) -> Consistency {
        Consistency { sigma_data: self.sigma_data, noise_input: self.noise_input }
    }
}

impl Family for ConsistencyModel {
    fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.consistency().check(&self.schedule)
    }

    fn check_training(&self) -> Result<()> {
        Err(Error::of(Kind::Unsupported, "consistency models are imported and sampled, and not trained yet"))
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        let network = self.network.build(make.shape, make.classes, make.seed, make.device)?;
        Ok(vec![Learner::new(NETWORK, network)])
    }

    fn sizes(&self, shape: &[usize], classes: usize, _: usize) -> Result<Vec<NetworkSize>> {
        Ok(vec![self.network.size(shape, classes)?])
    }

    fn loss(&self, _: &str, _: &Learners, _: &Batch) -> Result<Option<Tensor<1>>> {
        self.check_training().map(|()| None)
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let network = networks.take(NETWORK)?;
        let map = ConsistencyFunction::new(network, self.consistency(), self.schedule.clone())?;
        Ok(Learned { flow_map: Some(Arc::new(map)), ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::FlowMap]
    }

    fn schedule(&self) -> Option<&AnySchedule> {
        Some(&self.schedule)
    }
}
