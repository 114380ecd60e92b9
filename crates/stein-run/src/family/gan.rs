//! Generative adversarial networks (Goodfellow et al. 2014): a generator of samples in one go, and against it a discriminator, in turns. What
//! score models are compared with that pay for sharp samples by an unstable game. The losses are those of [`stein::adversarial`].

use std::sync::Arc;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{
    Condition, Context, Dual, Network, Purpose, Request, Result, Tensor,
    adversarial::{Game, Penalty},
    ensure,
    noise::normal_like,
    numbers::ensure_within,
    rows,
};
use stein_base::{Explain, distances};
use stein_nn::{AdamWConfig, AnyNetwork, NetworkSize, PlayerConfig, RateConfig, layers::Init};

use super::{Batch, Capability, Family, Generator, Learned, Learner, Learners, Loss, Make, Networks};

/// The name of the learner that is used in the end.
const GENERATOR: &str = "generator";

/// The name of the learner against it.
const DISCRIMINATOR: &str = "discriminator";

/// The spread of samples, in that of the data, below which a generator makes nearly the same sample always.
const COLLAPSED: f64 = 0.1;

/// A generator and a discriminator, and how they are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Gan {
    /// Numbers of the latent N(0, I) of a sample; at least 1, default 64.
    pub latent: usize,
    /// What makes samples.
    pub generator: Player,
    /// What tells them from the data.
    pub discriminator: Player,
    /// What the two minimize; default non_saturating.
    pub game: Game,
    /// A penalty on the slope of the discriminator; default R1 with γ = 10.
    pub penalty: Penalty,
    /// Steps of the discriminator for one of the generator, at least 1; default 1.
    pub updates: u64,
}

impl Default for Gan {
    fn default() -> Self {
        Self {
            latent: 64,
            generator: Player::default(),
            discriminator: Player::default(),
            game: Game::default(),
            penalty: Penalty::default(),
            updates: 1,
        }
    }
}

/// One of the two networks, and how it learns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Player {
    /// The network, and how large.
    pub network: PlayerConfig,
    /// Its optimizer; default that of the experiment, where the game wants beta1 from 0 to 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<AdamWConfig>,
    /// Its learning rate; default that of the experiment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateConfig>,
}

impl Player {
    fn check(&self) -> Result<()> {
        self.optimizer.as_ref().map_or(Ok(()), AdamWConfig::check)?;
        self.rate.as_ref().map_or(Ok(()), RateConfig::check)
    }

    fn learner(&self, name: &str, network: AnyNetwork) -> Learner {
        Learner { optimizer: self.optimizer.clone(), rate: self.rate.clone(), ..Learner::new(name, network) }
    }
}

/// What a network of the game gives for its input.
fn played(network: &impl Network, x: Dual<2>, given: &Condition) -> Result<Dual<2>> {
    let noise = rows::vector(vec![0.0; x.dims()[0]], &x.value);
    network.forward(x, &Context::new(noise, given))
}

impl Gan {
    /// What the generator makes for a batch, one sample for each example and of its class, `[rows, dim]`; each `draw` is another.
    fn samples(&self, learners: &Learners, batch: &Batch, draw: u64) -> Result<Tensor<2>> {
        let like = Tensor::zeros([batch.keys.len(), self.latent], (&batch.x.device(), batch.x.dtype()));
        let z = normal_like(&batch.keys, Purpose::Latent, draw, &like);
        Ok(played(learners.network(GENERATOR)?, z.into(), &batch.given)?.value)
    }
}

impl Family for Gan {
    fn check(&self) -> Result<()> {
        ensure_within("family.latent", self.latent, 1..=1 << 20)?;
        ensure_within("family.updates", self.updates, 1..=1_000_000)?;
        self.penalty.check()?;
        ensure!(
            self.game != Game::Wasserstein || self.penalty != Penalty::None {},
            "the game wasserstein has no end without a penalty on the slope: set family.penalty = {{ kind = \"gradient\" }}"
        );
        self.generator.check().map_err(|error| error.at("family.generator"))?;
        self.discriminator.check().map_err(|error| error.at("family.discriminator"))
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        self.sizes(make)?;
        let &Make { shape, classes, seed, device, .. } = make;
        let init = &mut Init::new(seed, device);
        let generator = self.generator.network.generator(self.latent, shape, classes, init)?;
        let discriminator = self.discriminator.network.discriminator(shape, classes, init)?;
        let discriminator = self.discriminator.learner(DISCRIMINATOR, AnyNetwork::own(discriminator));
        Ok(vec![
            Learner { averaged: false, ..discriminator },
            self.generator.learner(GENERATOR, AnyNetwork::own(generator)),
        ])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        let generator = self.generator.network.generator_size(self.latent, shape, classes);
        let discriminator = self.discriminator.network.discriminator_size(shape, classes);
        Ok(vec![
            discriminator.map_err(|error| error.at("family.discriminator"))?,
            generator.map_err(|error| error.at("family.generator"))?,
        ])
    }

    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let discriminator = learners.network(DISCRIMINATOR)?;
        let judged = |x: Tensor<2>| Ok::<_, stein::Error>(played(discriminator, x.into(), &batch.given)?.value);
        if turn == GENERATOR {
            if !batch.step.is_multiple_of(self.updates) {
                return Ok(None);
            }
            return Ok(Loss::some(self.game.generator(judged(self.samples(learners, batch, 1)?)?)));
        }
        let fake = self.samples(learners, batch, 0)?;
        let loss = self.game.discriminator(judged(batch.x.clone())?, judged(fake.clone())?);
        let weight = self.penalty.weight_at(batch.step);
        if weight == 0.0 || !loss.is_tracked() {
            // Held-out data move nothing, and have no penalty.
            return Ok(Loss::some(loss));
        }
        let constant = discriminator.valid();
        let points = self.penalty.points(batch.x.clone(), fake, &batch.keys);
        let value = self.penalty.at(
            points,
            |x| played(&constant, x, &batch.given),
            |x| played(discriminator, x, &batch.given),
        )?;
        Ok(Loss::some(loss + value.mul_scalar(weight)))
    }

    /// The mean distance of two samples of the generator over that of two examples.
    fn held_out(&self, learners: &Learners, batch: &Batch) -> Result<Vec<(String, f64)>> {
        let (generated, data) = (apart(&self.samples(learners, batch, 0)?), apart(&batch.x));
        Ok(if data > 0.0 { vec![("spread".to_owned(), generated / data)] } else { Vec::new() })
    }

    fn concern(&self, held_out: &[(String, f64)]) -> Option<String> {
        let (_, spread) = held_out.iter().find(|(name, _)| name == "held_out_spread")?;
        (*spread < COLLAPSED).then(|| {
            format!(
                "the generator has collapsed: its samples are {spread:.3} times as far apart as the data; lower train.rate.rate, or \
                 raise family.penalty or family.updates"
            )
        })
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let generator = Trained { network: networks.take(GENERATOR)?, latent: self.latent };
        Ok(Learned { generator: Some(Arc::new(generator)), ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Generator]
    }
}

/// The mean distance of two of the rows `[rows, dim]`; 0 for fewer than two.
fn apart(x: &Tensor<2>) -> f64 {
    let [count, dim] = x.dims();
    let rows = rows::host(x);
    let mut squares = vec![0.0; count * count];
    distances::squared(&rows, &rows, dim, &mut squares);
    squares.iter().map(|square| square.sqrt()).sum::<f64>() / (count * (count - 1)).max(1) as f64
}

/// A trained generator.
struct Trained {
    network: AnyNetwork,
    latent: usize,
}

impl Generator for Trained {
    fn generate(&self, request: &Request) -> Result<Tensor<2>> {
        let z = Request { dim: self.latent, ..request.clone() }.noise_of(1.0);
        Ok(played(&self.network, z.into(), &request.given)?.value)
    }
}
