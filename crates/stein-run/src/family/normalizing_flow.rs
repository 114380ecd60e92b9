//! Normalizing flows (Rezende & Mohamed, arXiv:1505.05770): networks that are bijections, with an exact density, exact codes, and samples in
//! one go. The loss is −ln p(x), in nats a sample, the mean over the batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{Condition, Density, Error, Keys, Kind, LatentMap, Meaning, Result, Tensor, likelihood::LogDensity, rows};
use stein_base::Explain;
use stein_nn::{
    AnyNetwork, NetworkSize, Tensors,
    flows::{AnyFlow, InvertibleConfig, InvertibleNetwork},
    state,
};

use super::{
    Batch, Capability, Family, Learned, Learner, Learners, Loss, Make, Networks, OfCodes, check_hides,
    check_label_dropout, hide_labels,
};

/// The name of the one learner.
const NETWORK: &str = "flow";

/// A normalizing flow; it has no other settings of training than its network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct NormalizingFlow {
    /// The bijection; default a flow of rows.
    pub network: InvertibleConfig,
    /// The probability that an example's class is hidden in training; default 0. With some, one may sample without a class.
    pub label_dropout: f64,
}

fn bijection(network: &AnyNetwork) -> Result<&AnyFlow> {
    network.get().ok_or_else(|| Error::of(Kind::Mismatch, "the network is none of a normalizing flow"))
}

impl Family for NormalizingFlow {
    fn check(&self) -> Result<()> {
        check_label_dropout(self.label_dropout)
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        check_hides(self.label_dropout, make)?;
        Ok(vec![Learner::new(NETWORK, self.network.build(make.shape, make.classes, make.seed, make.device)?)])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        Ok(vec![self.network.size(shape, classes)?])
    }

    fn loss(&self, _: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let flow = bijection(learners.network(NETWORK)?)?;
        let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
        let value = flow.log_prob(batch.x.clone(), &given)?.mean().neg();
        // What normalizes is set by the first batch, whatever the step on it does.
        let left = if batch.step == 0 { begun(flow, batch, &given)? } else { Tensors::new() };
        Ok(Some(Loss { value, left }))
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let model = Arc::new(Bijection(bijection(&networks.take(NETWORK)?)?.clone()));
        let codes: Arc<dyn LatentMap> = model.clone();
        Ok(Learned {
            generator: Some(Arc::new(OfCodes(codes.clone()))),
            density: Some(model),
            codes: Some(codes),
            knows_no_class: self.label_dropout > 0.0,
            ..Learned::default()
        })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Generator, Capability::Density, Capability::Codes]
    }
}

/// The weights that the data-dependent initialization by a batch changes, by name.
fn begun(flow: &AnyFlow, batch: &Batch, given: &Condition) -> Result<Tensors> {
    let before = state::tensors(flow);
    let mut after = state::tensors(&flow.initialized(batch.x.clone(), given)?);
    after.retain(|name, weights| before.get(name).is_none_or(|before| before != weights));
    Ok(after)
}

/// A trained flow.
struct Bijection(AnyFlow);

impl LatentMap for Bijection {
    fn width(&self) -> usize {
        self.0.dim()
    }

    fn encode(&self, x: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        InvertibleNetwork::encode(&self.0, x, given)
    }

    fn decode(&self, z: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        InvertibleNetwork::decode(&self.0, z, given)
    }
}

impl Density for Bijection {
    fn log_density(&self, x: Tensor<2>, given: &Condition, _: &Keys, _: usize) -> Result<LogDensity> {
        let count = x.dims()[0];
        let nats = rows::host(&self.0.log_prob(x, given)?.reshape([count, 1]));
        Ok(LogDensity { nats, standard_errors: Some(vec![0.0; count]), codes: None, evaluations: 1 })
    }

    fn meaning(&self) -> Meaning {
        Meaning { bound: false, of_levels: false, method: "the change of variables, exactly" }
    }
}
