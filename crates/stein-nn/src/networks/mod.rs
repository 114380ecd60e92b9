//! The networks, one a file: their configs by name, and any one of them as a value.

mod adm;
mod adm_encoder;
mod autoencoder;
mod autoencoder_kl;
mod ddpm;
mod dhariwal_unet;
mod dit;
mod edm_block;
mod mlp;
mod ncsn;
mod ncsn_v2;
mod ncsnpp;
mod refine_net;
mod song_unet;
mod transformer_2d;
mod unet;
mod unet_2d;
mod unet_2d_blocks;
mod unet_2d_condition;
mod vq_model;

use std::ops::Range;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Network, Result, ensure};

use crate::{init::Init, ops::Dual, tapes};

pub use adm::{Adm, AdmConfig};
pub use adm_encoder::{AdmEncoder, AdmEncoderConfig, Pool};
pub use autoencoder_kl::{AutoencoderKl, AutoencoderKlConfig};
pub use ddpm::{Ddpm, DdpmConfig};
pub use dhariwal_unet::{DhariwalUnet, DhariwalUnetConfig};
pub use dit::{Dit, DitConfig};
pub(crate) use edm_block::{Change, EdmBlock, Form, Heads};
pub use mlp::{Mlp, MlpConfig};
pub use ncsn::{Ncsn, NcsnConfig};
pub use ncsn_v2::{NcsnV2, NcsnV2Config};
pub use ncsnpp::{Combine, InputPyramid, Ncsnpp, NcsnppConfig, NoiseLevels, NoiseNumber, OutputPyramid, ResidualBlock};
pub use song_unet::{SongDecoder, SongEncoder, SongFeatures, SongUnet, SongUnetConfig};
pub use unet::{Unet, UnetConfig};
pub use unet_2d::{Unet2d, Unet2dConfig};
pub use unet_2d_condition::{Unet2dCondition, Unet2dConditionConfig};
pub use vq_model::{Quantized, VqModel, VqModelConfig};

/// Which network, and how large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkConfig {
    /// A residual multi-layer perceptron for points, tables and small images.
    Mlp(MlpConfig),
    /// A residual U-Net for images.
    Unet(UnetConfig),
    /// NCSN's network.
    Ncsn(NcsnConfig),
    /// NCSNv2's.
    NcsnV2(NcsnV2Config),
    /// DDPM's, as Score-SDE has it.
    Ddpm(DdpmConfig),
    /// NCSN++ and DDPM++.
    Ncsnpp(NcsnppConfig),
    /// EDM's DDPM++ and NCSN++.
    SongUnet(SongUnetConfig),
    /// EDM's ADM.
    DhariwalUnet(DhariwalUnetConfig),
    /// ADM's.
    Adm(AdmConfig),
    /// The U-Net of the diffusers library.
    Unet2d(Unet2dConfig),
}

impl NetworkConfig {
    /// The values of `kind`.
    pub const NAMES: &[&str] =
        &["mlp", "unet", "ncsn", "ncsn_v2", "ddpm", "ncsnpp", "song_unet", "dhariwal_unet", "adm", "unet2d"];

    /// The network with fresh weights, which are a function of the config, `shape`, `classes` and `seed` alone.
    ///
    /// `shape` is that of one sample: `[D]` for rows or `[H, W, C]` for images. `classes` is the number of classes the
    /// network is told of, 0 for none. Weights are trainable if the device has autodiff.
    ///
    /// # Errors
    /// When the config is not one of a network, or the network is not one for that shape.
    pub fn build(&self, shape: &[usize], classes: usize, seed: u64, device: &Device) -> Result<AnyNetwork> {
        ensure!(
            !shape.is_empty() && shape.iter().all(|size| *size > 0),
            "a sample of shape {shape:?} has no values: give [D] for rows or [height, width, channels] for images"
        );
        self.build_with(shape, classes, &mut Init::new(seed, device))
    }

    /// The number of values in all parameters, frozen ones included, without making them.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn parameters(&self, shape: &[usize], classes: usize) -> Result<usize> {
        Ok(self.build_with(shape, classes, &mut Init::blank(&Device::flex()))?.parameters())
    }

    fn build_with(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        let (network, channels, told) = match self {
            Self::Mlp(config) => return Ok(AnyNetwork::Mlp(config.build(shape, classes, init)?)),
            Self::Unet(config) => return Ok(AnyNetwork::Unet(config.build(shape, classes, init)?)),
            Self::Ncsn(config) => (ImageNetwork::Ncsn(config.build(init)?), config.inputs, 0),
            Self::NcsnV2(config) => (ImageNetwork::NcsnV2(config.build(init)?), config.inputs, 0),
            Self::Ddpm(config) => (ImageNetwork::Ddpm(config.build(init)?), config.image_channels, 0),
            Self::Ncsnpp(config) => (ImageNetwork::Ncsnpp(config.build(init)?), config.image_channels, 0),
            Self::SongUnet(config) => (ImageNetwork::SongUnet(config.build(init)?), config.inputs, config.classes),
            Self::DhariwalUnet(config) => {
                (ImageNetwork::DhariwalUnet(config.build(init)?), config.inputs, config.classes)
            }
            Self::Adm(config) => (ImageNetwork::Adm(config.build(init)?), config.inputs, config.classes),
            Self::Unet2d(config) => (ImageNetwork::Unet2d(config.build(init)?), config.inputs, config.classes),
        };
        let given = match self {
            Self::Adm(config) => Some(config.outputs),
            Self::Unet2d(config) => Some(config.outputs),
            // As many as they take.
            _ => None,
        };
        let &[height, width, depth] = shape else {
            return Err(stein::Error::new(format!(
                "this network works on images, not on samples of shape {shape:?}: give [height, width, channels] or use \
                 kind = \"mlp\""
            )));
        };
        ensure!(
            depth == channels && classes == told,
            "the data have {depth} channels and {classes} classes, the network {channels} and {told}: set its channels and \
             classes to those of the data"
        );
        ensure!(
            given.is_none_or(|outputs| outputs == depth || outputs == 2 * depth),
            "the network gives {} channels for images of {depth}: as many, or twice as many with a learned variance",
            given.unwrap_or(0)
        );
        Ok(AnyNetwork::Image(OnRows { network, height, width, depth }))
    }
}

/// A published network of images.
#[derive(Module, Debug)]
pub enum ImageNetwork {
    /// See [`NetworkConfig::Ncsn`].
    Ncsn(Ncsn),
    /// See [`NetworkConfig::NcsnV2`].
    NcsnV2(NcsnV2),
    /// See [`NetworkConfig::Ddpm`].
    Ddpm(Ddpm),
    /// See [`NetworkConfig::Ncsnpp`].
    Ncsnpp(Ncsnpp),
    /// See [`NetworkConfig::SongUnet`].
    SongUnet(SongUnet),
    /// See [`NetworkConfig::DhariwalUnet`].
    DhariwalUnet(DhariwalUnet),
    /// See [`NetworkConfig::Adm`].
    Adm(Adm),
    /// See [`NetworkConfig::Unet2d`].
    Unet2d(Unet2d),
}

impl ImageNetwork {
    /// The output `[N, H, W, C']` for images `x` `[N, H, W, C]` and noise numbers `[N]`.
    ///
    /// # Errors
    /// When the images or what is given do not fit the network.
    pub fn images(&self, x: Dual<4>, noise: Dual<1>, given: &Given) -> Result<Dual<4>> {
        match self {
            Self::Ncsn(network) => network.images(x, noise, given),
            Self::NcsnV2(network) => network.images(x, noise, given),
            Self::Ddpm(network) => network.images(x, noise, given),
            Self::Ncsnpp(network) => network.images(x, noise, given),
            Self::SongUnet(network) => network.images(x, noise, given),
            Self::DhariwalUnet(network) => network.images(x, noise, given),
            Self::Adm(network) => network.images(x, noise, given),
            Self::Unet2d(network) => network.images(x, noise, given),
        }
    }

    fn set_dropout(&mut self, key: Option<u64>) {
        match self {
            // NCSN's networks have none.
            Self::Ncsn(_) | Self::NcsnV2(_) => {}
            Self::Ddpm(network) => network.set_dropout(key),
            Self::Ncsnpp(network) => network.set_dropout(key),
            Self::SongUnet(network) => network.set_dropout(key),
            Self::DhariwalUnet(network) => network.set_dropout(key),
            Self::Adm(network) => network.set_dropout(key),
            Self::Unet2d(network) => network.set_dropout(key),
        }
    }
}

/// A network of images, on images of one size as rows.
#[derive(Module, Debug)]
pub struct OnRows {
    network: ImageNetwork,
    height: usize,
    width: usize,
    depth: usize,
}

impl OnRows {
    fn dual(&self, x: Dual<2>, noise: Dual<1>, given: &Condition) -> Result<Dual<2>> {
        let Self { height, width, depth, .. } = *self;
        check_batch(&x.value, &noise.value, height * width * depth)?;
        let rows = x.dims()[0];
        given.check(rows)?;
        let given = Given { class: given.class.clone(), ..Given::default() };
        let y = self.network.images(x.reshape([rows, height, width, depth]), noise, &given)?;
        // A learned variance is more channels, after those of the mean.
        let y = if y.dims()[3] > depth { y.linear(|y| y.narrow(3, 0, depth)) } else { y };
        Ok(y.reshape([rows, height * width * depth]))
    }
}

/// Any one of the networks.
#[derive(Module, Debug)]
pub enum AnyNetwork {
    /// See [`NetworkConfig::Mlp`].
    Mlp(Mlp),
    /// See [`NetworkConfig::Unet`].
    Unet(Unet),
    /// Any of the others.
    Image(OnRows),
}

impl AnyNetwork {
    /// The number of values in all parameters, frozen ones included.
    pub fn parameters(&self) -> usize {
        self.num_params()
    }

    /// Gives `work` the rows of a batch, all or in equal shares side by side, each with this network on a tape of its own:
    /// as is fastest for the network, whatever the number of threads. The results are in the order of the rows.
    pub fn on_tapes<T: Send>(&self, batch: usize, work: impl Fn(Self, Range<usize>) -> T + Sync) -> Vec<T> {
        match self {
            Self::Mlp(_) => tapes::side_by_side(self, batch, work),
            Self::Unet(_) | Self::Image(_) => vec![tapes::one(self, batch, work)],
        }
    }

    /// Turns dropout on with masks that are a function of the key, or off with `None`, as in a fresh network.
    ///
    /// A training step gives a key of its own, drawn from the run's seed and the number of the step (and micro-batch),
    /// so that a resumed run drops the same values; two networks given one key drop the same values too.
    pub fn set_dropout(&mut self, key: Option<u64>) {
        match self {
            Self::Mlp(_) => {}
            Self::Unet(network) => network.set_dropout(key),
            Self::Image(network) => network.network.set_dropout(key),
        }
    }
}

impl AnyNetwork {
    /// The output and its Jacobian-vector product: the derivative of the output along (`dx`, `dnoise`), in one pass
    /// forward. Its parameter gradient is exact, as it is made of differentiable operations.
    ///
    /// # Errors
    /// As [`Network::forward`].
    ///
    /// # Panics
    /// If a tangent has another shape than its value.
    pub fn jvp(
        &self,
        (x, dx): (Tensor<2>, Tensor<2>),
        (noise, dnoise): (Tensor<1>, Tensor<1>),
        given: &Condition,
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        let (x, noise) = (Dual::new(x, dx), Dual::new(noise, dnoise));
        let y = match self {
            Self::Mlp(network) => network.dual(x, noise, given)?,
            Self::Unet(network) => network.dual(x, noise, given)?,
            Self::Image(network) => network.dual(x, noise, given)?,
        };
        let tangent = y.tangent_or_zero();
        Ok((y.value, tangent))
    }
}

impl Network for AnyNetwork {
    fn forward(&self, x: Tensor<2>, noise: Tensor<1>, given: &Condition) -> Result<Tensor<2>> {
        match self {
            Self::Mlp(network) => network.forward(x, noise, given),
            Self::Unet(network) => network.forward(x, noise, given),
            Self::Image(network) => Ok(network.dual(x.into(), noise.into(), given)?.value),
        }
    }
}

/// What an image network is told of every sample of a batch besides its noise.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// A class.
    pub class: Option<Vec<usize>>,
    /// How it was augmented, `[N, K]` (Karras et al., arXiv:2206.00364, appendix F.2).
    pub augment: Option<Tensor<2>>,
    /// Tokens to attend to, `[N, L, C]`.
    pub context: Option<Tensor<3>>,
}

/// Fails unless a batch has the width a network was built for and one noise number a row.
fn check_batch(x: &Tensor<2>, noise: &Tensor<1>, width: usize) -> Result<()> {
    let [rows, dim] = x.dims();
    ensure!(dim == width, "the batch has rows of {dim} values: this network was built for {width}");
    check_noise(noise, rows)
}

/// Fails unless images have the channels a network was built for and one noise number each.
fn check_images(x: &Dual<4>, noise: &Dual<1>, channels: usize) -> Result<()> {
    let [rows, _, _, depth] = x.dims();
    ensure!(depth == channels, "the images have {depth} channels: this network was built for {channels}");
    check_noise(&noise.value, rows)
}

fn check_noise(noise: &Tensor<1>, rows: usize) -> Result<()> {
    let numbers = noise.dims()[0];
    ensure!(numbers == rows, "a batch of {rows} rows came with {numbers} noise numbers: give one a row");
    Ok(())
}
