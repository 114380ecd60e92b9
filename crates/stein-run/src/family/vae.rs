//! Variational autoencoders (Kingma & Welling 2014), with one layer of latent variables or a ladder of them: what score models are compared
//! with that pay for a likelihood by a bound. The losses are those of [`stein::vae`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    Condition, Density, Error, Keys, LatentMap, Meaning, Purpose, Request, Result, Tensor, ensure,
    likelihood::LogDensity,
    noise::normal_like,
    numbers::ensure_within,
    rows,
    vae::{Decoding, importance_bound},
};
use stein_base::Explain;
use stein_nn::{AnyNetwork, Inferred, NetworkSize, Vae, VaeConfig, layers::Init};

use super::{
    Batch, Capability, Family, Generator, Learned, Learner, Learners, Loss, Make, Networks, check_hides, hide_labels,
};

/// The name of the one learner.
const NETWORK: &str = "vae";

/// A variational autoencoder and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct VaeModel {
    /// The law of a sample, of what the decoder puts out.
    pub decoder: Decoding,
    /// How large encoder and decoder are, and how many latent variables there are.
    pub network: VaeConfig,
    /// β, what the divergence of the latent variables from their prior weighs; at least 0, default 1. Only 1 is a bound on ln p.
    pub beta: f64,
    /// The divergence of a layer of latent variables, in nats, below which it costs nothing, so that they are used (free bits, Kingma et al.
    /// 2016, arXiv:1606.04934, section 4); at least 0, default 0. It is that of the mean over the batch.
    pub free_nats: f64,
    /// Draws of the latent variables in the importance-weighted bound, from 1 to 1000; default 1, for the evidence lower bound.
    pub importance: usize,
    /// Whether samples are the means E\[x given z\] instead of draws of p(x given z), as is usual for pictures; default false.
    pub means: bool,
    /// The probability that an example's class is hidden in training; default 0. With some, one may sample without a class.
    pub label_dropout: f64,
}

impl Default for VaeModel {
    fn default() -> Self {
        Self {
            decoder: Decoding::default(),
            network: VaeConfig::default(),
            beta: 1.0,
            free_nats: 0.0,
            importance: 1,
            means: false,
            label_dropout: 0.0,
        }
    }
}

/// The bound and its two terms, of a batch, each a mean over its rows, `[1]`.
struct Terms {
    bound: Tensor<1>,
    log_density: Tensor<1>,
    divergence: Tensor<1>,
    loss: Tensor<1>,
}

impl VaeModel {
    /// The terms of the evidence lower bound, whose latent variables are drawn once.
    fn terms(&self, network: &Vae, batch: &Batch) -> Result<Terms> {
        let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
        let (found, outputs) = inferred(network, &batch.x, &given, &batch.keys, 0)?;
        let log_density = self.decoder.log_density(&batch.x, outputs).mean();
        let each: Vec<Tensor<1>> = found.iter().map(|layer| layer.posterior.kl_from(&layer.prior).mean()).collect();
        let sum = |terms: Vec<Tensor<1>>| Tensor::cat(terms, 0).sum();
        let divergence = sum(each.clone());
        let charged = sum(each.into_iter().map(|layer| layer.clamp_min(self.free_nats)).collect());
        Ok(Terms {
            bound: log_density.clone() - divergence.clone(),
            loss: charged.mul_scalar(self.beta) - log_density.clone(),
            log_density,
            divergence,
        })
    }
}

/// Latent variables drawn from their posterior for the `draw`-th time, and what the decoder puts out for them.
fn inferred(
    network: &Vae,
    x: &Tensor<2>,
    given: &Condition,
    keys: &Keys,
    draw: usize,
) -> Result<(Vec<Inferred>, Tensor<2>)> {
    let layers = network.widths().len();
    let eps = |layer: usize, like: &Tensor<2>| normal_like(keys, Purpose::Latent, (draw * layers + layer) as u64, like);
    network.infer(x.clone(), given, &eps)
}

/// The importance-weighted bound of every row, `[rows, 1]`.
fn weighted_bound(
    decoder: &Decoding,
    network: &Vae,
    x: &Tensor<2>,
    given: &Condition,
    keys: &Keys,
    draws: usize,
) -> Result<Tensor<2>> {
    let weights = (0..draws).map(|draw| {
        let (found, outputs) = inferred(network, x, given, keys, draw)?;
        let latent = |layer: Inferred| layer.prior.log_density(layer.z.clone()) - layer.posterior.log_density(layer.z);
        Ok(found.into_iter().map(latent).fold(decoder.log_density(x, outputs), |sum, layer| sum + layer))
    });
    Ok(importance_bound(Tensor::cat(weights.collect::<Result<_>>()?, 1)))
}

fn vae(network: &AnyNetwork) -> Result<&Vae> {
    network.get().ok_or_else(|| Error::of(stein::Kind::Mismatch, "the network is none of a variational autoencoder"))
}

impl Family for VaeModel {
    fn check(&self) -> Result<()> {
        self.decoder.check()?;
        ensure_within("family.beta", self.beta, 0.0..=1e6)?;
        ensure_within("family.free_nats", self.free_nats, 0.0..=1e6)?;
        ensure_within("family.importance", self.importance, 1..=1000)?;
        ensure!(
            self.importance == 1 || self.beta == 1.0 && self.free_nats == 0.0,
            "the importance-weighted bound (family.importance) has no divergence of its own: leave out family.beta and family.free_nats"
        );
        super::check_label_dropout(self.label_dropout)
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        check_hides(self.label_dropout, make)?;
        let dim = make.shape.iter().product();
        let init = &mut Init::new(make.seed, make.device);
        let network = self.network.build(dim, self.decoder.outputs(dim), make.classes, init)?;
        Ok(vec![Learner::new(NETWORK, AnyNetwork::own(network))])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        Ok(vec![self.network.size(shape, self.decoder.outputs(shape.iter().product()), classes)?])
    }

    fn loss(&self, _: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        if batch.step == 0 {
            self.decoder.check_states(&batch.x)?;
        }
        let network = vae(learners.network(NETWORK)?)?;
        if self.importance > 1 {
            let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
            let bound = weighted_bound(&self.decoder, network, &batch.x, &given, &batch.keys, self.importance)?;
            return Ok(Loss::some(bound.mean().neg()));
        }
        Ok(Loss::some(self.terms(network, batch)?.loss))
    }

    /// The evidence lower bound and its two terms, in nats a sample.
    fn held_out(&self, learners: &Learners, batch: &Batch) -> Result<Vec<(String, f64)>> {
        let terms = self.terms(vae(learners.network(NETWORK)?)?, batch)?;
        let named = [("bound", terms.bound), ("log_density", terms.log_density), ("divergence", terms.divergence)];
        Ok(named.map(|(name, value)| (name.to_owned(), value.into_scalar())).into())
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let network = vae(&networks.take(NETWORK)?)?.clone();
        let model = Arc::new(Trained { network, decoder: self.decoder, means: self.means });
        let (generator, density, codes) = (model.clone(), model.clone(), model);
        Ok(Learned {
            generator: Some(generator),
            density: Some(density),
            codes: Some(codes),
            knows_no_class: self.label_dropout > 0.0,
            ..Learned::default()
        })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Generator, Capability::Density, Capability::Codes]
    }
}

/// A trained autoencoder.
struct Trained {
    network: Vae,
    decoder: Decoding,
    means: bool,
}

impl Generator for Trained {
    fn generate(&self, request: &Request) -> Result<Tensor<2>> {
        let codes = Request { dim: self.width(), ..request.clone() }.noise_of(1.0);
        if self.means {
            return self.decode(codes, &request.given);
        }
        Ok(self.decoder.sample(self.network.decode(codes, &request.given)?, &request.keys()))
    }
}

impl LatentMap for Trained {
    fn width(&self) -> usize {
        self.network.widths().iter().sum()
    }

    fn encode(&self, x: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        self.decoder.check_states(&x)?;
        self.network.encode(x, given)
    }

    fn decode(&self, z: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        Ok(self.decoder.mean(self.network.decode(z, given)?))
    }
}

impl Density for Trained {
    fn log_density(&self, x: Tensor<2>, given: &Condition, keys: &Keys, draws: usize) -> Result<LogDensity> {
        if let Decoding::Bernoulli {} = self.decoder {
            let gray = rows::host(&x).into_iter().find(|x| *x != 0.0 && *x != 1.0);
            ensure!(
                Kind::Unsupported,
                gray.is_none(),
                "a decoder of kind bernoulli has a likelihood for numbers that are 0 or 1, and one of these is {}: take the kind gaussian",
                gray.unwrap_or_default()
            );
        }
        let bound = weighted_bound(&self.decoder, &self.network, &x, given, keys, draws)?;
        Ok(LogDensity { nats: rows::host(&bound), standard_errors: None, codes: None, evaluations: draws })
    }

    fn meaning(&self) -> Meaning {
        Meaning {
            bound: true,
            of_levels: matches!(self.decoder, Decoding::Bernoulli {}),
            method: "the importance-weighted bound of Burda et al. 2016",
        }
    }
}
