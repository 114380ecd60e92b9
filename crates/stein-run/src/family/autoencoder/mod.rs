//! Autoencoders of pictures for latent diffusion (Rombach et al. 2022, arXiv:2112.10752): a coder, and against it a discriminator, in
//! turns as in the published code. The losses are those of [`stein::autoencoder`].

mod coder;

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use stein::{
    Condition, Context, Device, Error, Network, Result, Tensor,
    autoencoder::{AdversarialLoss, Balance, Commitment, PixelLoss, Term, negative_log_likelihood},
    ensure,
    numbers::ensure_within,
    rows,
};
use stein_base::Explain;
use stein_nn::{
    AnyNetwork, Backbone, BuildNetwork, Lpips, NetworkSize, PatchDiscriminatorConfig, import, layers::Init,
};

use self::coder::{Coder, CoderOf};
use super::{Batch, Capability, Family, Learned, Learner, Learners, Loss, Make, Networks};
use crate::Subject;

/// The name of the learner that is used in the end.
pub(crate) const AUTOENCODER: &str = "autoencoder";

/// The name of the learner against it.
const DISCRIMINATOR: &str = "discriminator";

/// An autoencoder and how it is trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderModel {
    /// What latents are.
    pub latents: Latents,
    /// How large encoder and decoder are.
    #[serde(default)]
    pub network: CoderConfig,
    /// The misfit of a number of the picture and of its reconstruction; default l1.
    #[serde(default)]
    pub pixel_loss: PixelLoss,
    /// A misfit of features beside that of numbers; default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<Perceptual>,
    /// What learns to tell reconstructions from pictures, and is to be deceived; default nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discriminator: Option<Discriminating>,
}

/// What latents are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Latents {
    /// Continuous, with a spread: the encoder gives a normal distribution, drawn to the standard one. The misfit is the negative
    /// log-likelihood of a picture, the sum over its numbers.
    Kl {
        /// Channels, at least 1; default 4.
        #[serde(default = "channels")]
        channels: usize,
        /// What the KL divergence weighs, at least 0; default 1e-6.
        #[serde(default = "weight")]
        weight: f64,
        /// The logarithm of the scale of misfits, by which they are divided; from -30 to 20, default 0.
        #[serde(default)]
        log_scale: f64,
        /// Whether that scale learns, from there on; default false, as in the published code.
        #[serde(default)]
        learn_scale: bool,
    },
    /// Rows of a codebook. The misfit is the mean over numbers.
    Vq {
        /// Rows of the codebook, at least 1; default 512.
        #[serde(default = "codes")]
        codes: usize,
        /// Channels, the width of a row, at least 1; default 3.
        #[serde(default = "width")]
        channels: usize,
        /// How latents and codebook are drawn together.
        #[serde(default)]
        commitment: Commitment,
        /// What that weighs, at least 0; default 1.
        #[serde(default = "one")]
        weight: f64,
        /// What the codebook keeps of its averages at each step where it follows the latents by averages instead of gradients; in \[0, 1),
        /// default none, for gradients.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decay: Option<f64>,
    },
}

fn channels() -> usize {
    4
}

fn weight() -> f64 {
    1e-6
}

fn codes() -> usize {
    512
}

fn width() -> usize {
    3
}

fn one() -> f64 {
    1.0
}

impl Default for Latents {
    fn default() -> Self {
        Self::Kl { channels: channels(), weight: weight(), log_scale: 0.0, learn_scale: false }
    }
}

/// The size of encoder and decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct CoderConfig {
    /// Channels of every level; default `[128, 256, 512]`. Latents are 2^(levels − 1) times smaller than pictures.
    pub channels: Vec<usize>,
    /// Residual blocks per level of the encoder, at least 1; default 2. The decoder has one more.
    pub blocks: usize,
    /// Levels that attend, counted from 0; default none.
    pub attention: Vec<usize>,
    /// Whether the middle attends; default true.
    pub middle_attention: bool,
    /// Groups of every group normalization, a divisor of all channels; default 32.
    pub groups: usize,
}

impl Default for CoderConfig {
    fn default() -> Self {
        Self { channels: vec![128, 256, 512], blocks: 2, attention: Vec::new(), middle_attention: true, groups: 32 }
    }
}

/// The misfit of features (LPIPS).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Perceptual {
    /// The weights of its network, a file of torchvision.
    pub weights: PathBuf,
    /// The heads that weigh its features, a file of the package lpips.
    pub heads: PathBuf,
    /// The network; default vgg, the usual one for losses.
    #[serde(default = "vgg")]
    pub backbone: Backbone,
    /// What the distance weighs beside the misfit of every number, to which it is added; at least 0, default 1.
    #[serde(default = "one")]
    pub weight: f64,
}

fn vgg() -> Backbone {
    Backbone::Vgg
}

impl Perceptual {
    /// Reads the distance.
    ///
    /// # Errors
    /// Files that are none of it, and data that are no pictures from −1 to 1.
    pub(crate) fn open(&self, subject: &Subject, device: &Device) -> Result<Lpips> {
        ensure!(
            Kind::Mismatch,
            subject.range() == Some((-1.0, 1.0)) && subject.image().is_some_and(|(.., depth)| [1, 3].contains(&depth)),
            "family.perceptual is of pictures in gray or in color from -1 to 1: set data.codec = [{{ kind = \"symmetric\" }}], or leave it out"
        );
        import::lpips::load(self.backbone, &self.weights, &self.heads, device)
    }
}

/// A discriminator and how much it counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Discriminating {
    /// How large it is.
    pub network: PatchDiscriminatorConfig,
    /// What it minimizes; default hinge.
    pub loss: AdversarialLoss,
    /// How much it counts, and from when on.
    pub balance: Balance,
}

impl Discriminating {
    /// Whether it takes part at a step.
    fn is_on(&self, step: u64) -> bool {
        self.balance.factor_at(step) > 0.0
    }
}

impl AutoencoderModel {
    fn coder(&self) -> CoderOf {
        CoderOf { latents: self.latents.clone(), network: self.network.clone() }
    }

    /// How far reconstructions `[rows, dim]` are from pictures.
    fn misfit(
        &self,
        learners: &Learners,
        coder: &Coder,
        x: &Tensor<2>,
        reconstruction: Tensor<2>,
    ) -> Result<Tensor<1>> {
        let mut misfit = self.pixel_loss.each(x.clone(), reconstruction.clone());
        if let Some(Perceptual { weight, .. }) = &self.perceptual {
            let lpips =
                learners.perceptual().ok_or_else(|| Error::new("the features of family.perceptual are not there"))?;
            let [height, width, channels] = coder.shape();
            let pictures = |rows: Tensor<2>| {
                let pictures: Tensor<4> = rows.reshape([-1, height as i32, width as i32, channels as i32]);
                if channels == 1 { pictures.repeat_dim(3, 3) } else { pictures }
            };
            let distance = lpips.distance(pictures(x.clone()), pictures(reconstruction))?;
            misfit = misfit + distance.reshape([-1, 1]).mul_scalar(*weight);
        }
        Ok(match coder.log_scale() {
            Some(scale) => negative_log_likelihood(misfit, scale.detach()),
            None => misfit.mean(),
        })
    }
}

/// The coder among the networks.
fn coder(network: &AnyNetwork) -> Result<&Coder> {
    network.get().ok_or_else(|| Error::new("the network is none of an autoencoder"))
}

/// What the discriminator says of pictures `[rows, dim]`.
fn judged(discriminator: &AnyNetwork, x: Tensor<2>) -> Result<Tensor<2>> {
    let noise = rows::vector(vec![0.0; x.dims()[0]], &x);
    Ok(discriminator.forward(x.into(), &Context::new(noise, &Condition::none()))?.value)
}

impl Family for AutoencoderModel {
    fn check(&self) -> Result<()> {
        match &self.latents {
            Latents::Kl { channels, weight, log_scale, .. } => {
                ensure_within("family.latents.channels", *channels, 1..)?;
                ensure_within("family.latents.weight", *weight, 0.0..=1e6)?;
                ensure_within("family.latents.log_scale", *log_scale, -30.0..=20.0)?;
            }
            Latents::Vq { codes, channels, commitment, weight, decay } => {
                ensure_within("family.latents.codes", *codes, 1..)?;
                ensure_within("family.latents.channels", *channels, 1..)?;
                ensure_within("family.latents.commitment.beta", commitment.beta, 0.0..=1e6)?;
                ensure_within("family.latents.weight", *weight, 0.0..=1e6)?;
                ensure_within("family.latents.decay", decay.unwrap_or(0.0), 0.0..1.0)?;
            }
        }
        let weight = self.perceptual.as_ref().map_or(0.0, |perceptual| perceptual.weight);
        ensure_within("family.perceptual.weight", weight, 0.0..=1e6)?;
        let balance = self.discriminator.as_ref().map_or(Ok(()), |discriminator| discriminator.balance.check());
        balance.map_err(|error| error.at("family.discriminator.balance"))
    }

    fn perceptual(&self) -> Option<&Perceptual> {
        self.perceptual.as_ref()
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        self.sizes(make)?;
        let mut init = Init::new(make.seed, make.device);
        let coder = self.coder().build(make.shape, 0, &mut init)?;
        let mut learners = vec![Learner::new(AUTOENCODER, AnyNetwork::own(coder))];
        if let Some(discriminator) = &self.discriminator {
            let network = AnyNetwork::own(discriminator.network.build(make.shape, 0, &mut init)?);
            learners.push(Learner { averaged: false, ..Learner::new(DISCRIMINATOR, network) });
        }
        Ok(learners)
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        ensure!(classes == 0, "an autoencoder is told no classes: leave out data.conditional");
        let mut sizes = vec![NetworkSize::of_config(&self.coder(), shape, 0)?];
        if let Some(discriminator) = &self.discriminator {
            let size = NetworkSize::of_config(&discriminator.network, shape, 0);
            sizes.push(size.map_err(|error| error.at("family.discriminator"))?);
        }
        Ok(sizes)
    }

    fn loss(&self, turn: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        let against = self.discriminator.as_ref().filter(|against| against.is_on(batch.step));
        let coder = coder(learners.network(AUTOENCODER)?)?;
        if turn == DISCRIMINATOR && against.is_none() {
            return Ok(None);
        }
        let pass = coder.pass(&batch.x, &batch.keys, &self.latents)?;
        if let (DISCRIMINATOR, Some(against)) = (turn, against) {
            let discriminator = learners.network(DISCRIMINATOR)?;
            let real = judged(discriminator, batch.x.clone())?;
            let fake = judged(discriminator, pass.reconstruction.detach())?;
            let loss = against.loss.discriminator(real, fake);
            return Ok(Loss::some(loss.mul_scalar(against.balance.factor_at(batch.step))));
        }
        let misfit = |x| self.misfit(learners, coder, &batch.x, x);
        if !pass.reconstruction.is_tracked() {
            // Held-out data move nothing, and what balances the adversarial term is a gradient: it is left out.
            return Ok(Loss::some(misfit(pass.reconstruction)? + pass.regularity));
        }
        let mut term = Term::of(&pass.reconstruction, misfit)?;
        let of_misfit = term.value.clone();
        if let Some(against) = against {
            let discriminator = learners.network(DISCRIMINATOR)?;
            let deceived = |x| Ok(against.loss.generator(judged(discriminator, x)?));
            let adversarial = Term::of(&pass.reconstruction, deceived)?;
            let norm = |term: &Term| pass.last_layer_norm(coder, term.slope.clone());
            let weight = against.balance.weight(norm(&term), norm(&adversarial));
            term = term.plus(weight * against.balance.factor_at(batch.step), adversarial);
        }
        let mut value = term.on(pass.reconstruction) + pass.regularity;
        if let Some(scale) = coder.log_scale() {
            // The derivative of Σ m e^(−s) + dim s by s, and nothing of its value.
            let dim = batch.x.dims()[1] as f64;
            let slope = scale.clone().detach().add_scalar(1.0).mul_scalar(dim) - of_misfit.autodiff();
            value = value + (scale.clone() - scale.detach()) * slope;
        }
        Ok(Some(Loss { value, left: pass.left }))
    }

    fn learned(&self, networks: Networks) -> Result<Learned> {
        let coding = coder(networks.get(AUTOENCODER)?)?.coding();
        Ok(Learned { autoencoder: Some(Arc::new(coding)), ..Learned::default() })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Autoencoder]
    }
}
