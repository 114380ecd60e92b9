//! The first stage of latent diffusion (Rombach et al., arXiv:2112.10752, section 3.1): an autoencoder of pictures of any of two kinds, as the
//! codec that brings pictures to latents and back.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};
use stein::{Autoencoder, Keys, Purpose, Result, ensure};

use super::{AutoencoderKl, AutoencoderKlConfig, VqModel, VqModelConfig};
use crate::{
    init::Init,
    state::{self, Tensors},
};

/// Which autoencoder, and how large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FirstStageConfig {
    /// A variational one, whose latents are drawn: `AutoencoderKL`.
    Kl(AutoencoderKlConfig),
    /// One of a codebook, into which latents are brought before they are decoded: `VQModel`.
    Vq(VqModelConfig),
}

impl FirstStageConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<FirstStage> {
        Ok(match self {
            Self::Kl(config) => FirstStage::Kl(config.build(init)?),
            Self::Vq(config) => FirstStage::Vq(config.build(init)?),
        })
    }

    /// The network with these weights, as a constant.
    ///
    /// # Errors
    /// As [`build`](Self::build), and weights that are not its own.
    pub fn load(&self, weights: &Tensors, device: &Device) -> Result<FirstStage> {
        Ok(state::load(self.build(&mut Init::blank(device))?, weights)?.no_grad())
    }

    /// The shape of the latents of pictures `[height, width, channels]`.
    ///
    /// # Errors
    /// Pictures that it cannot halve, or of other channels.
    pub fn latents(&self, pictures: [usize; 3]) -> Result<[usize; 3]> {
        let ([height, width, channels], factor) = (pictures, self.factor());
        ensure!(
            channels == self.pictures(),
            "the pictures have {channels} channels, and the autoencoder takes {}",
            self.pictures()
        );
        ensure!(
            height > 0 && width > 0 && height.is_multiple_of(factor) && width.is_multiple_of(factor),
            "the autoencoder makes pictures {factor} times smaller, which {height} x {width} cannot be: give multiples of {factor}"
        );
        Ok([height / factor, width / factor, self.channels()])
    }

    /// The channels of pictures.
    pub fn pictures(&self) -> usize {
        match self {
            Self::Kl(config) => config.inputs,
            Self::Vq(config) => config.inputs,
        }
    }

    /// How many times smaller latents are.
    pub fn factor(&self) -> usize {
        let levels = match self {
            Self::Kl(config) => config.channels.len(),
            Self::Vq(config) => config.channels.len(),
        };
        1usize.checked_shl(levels.saturating_sub(1) as u32).unwrap_or(usize::MAX)
    }

    /// The channels of latents.
    pub fn channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latents,
            Self::Vq(config) => config.code_width.unwrap_or(config.latents),
        }
    }

    /// What latents are multiplied by, after the shift, and what is subtracted from them.
    pub fn scaling(&self) -> (f64, f64) {
        match self {
            Self::Kl(config) => (config.scaling, config.shift),
            Self::Vq(config) => (config.scaling, 0.0),
        }
    }
}

/// The network of a [`FirstStageConfig`].
#[derive(Module, Debug)]
pub enum FirstStage {
    /// See [`FirstStageConfig::Kl`].
    Kl(AutoencoderKl),
    /// See [`FirstStageConfig::Vq`].
    Vq(VqModel),
}

impl Autoencoder for FirstStage {
    /// Drawn of N(μ, diag σ²) by the keys, or before the codebook.
    fn encode(&self, x: Tensor<4>, keys: &Keys) -> Result<Tensor<4>> {
        match self {
            Self::Kl(network) => {
                let (mean, std) = network.mean_and_std(network.encode(x.into())?);
                let shape = mean.dims();
                let numbers = shape[1..].iter().product();
                let noise = keys.normal(Purpose::Latents, 0, numbers);
                let noise = stein::TensorData::new::<f64, _>(noise, shape);
                let noise = Tensor::from_data(noise, (&mean.value.device(), mean.value.dtype()));
                Ok(mean.value + std.value * noise)
            }
            Self::Vq(network) => Ok(network.encode(x.into())?.value),
        }
    }

    fn decode(&self, z: Tensor<4>) -> Result<Tensor<4>> {
        Ok(match self {
            Self::Kl(network) => network.decode(z.into())?,
            Self::Vq(network) => network.decode(z.into())?,
        }
        .value)
    }
}
