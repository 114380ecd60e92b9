//! The first stage of latent diffusion (Rombach et al., arXiv:2112.10752, section 3.1): an autoencoder of pictures of any of two kinds, as the
//! codec that brings pictures to latents and back.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};
use stein::{
    Keys, Result,
    autoencoder::{Autoencoder, DiagonalGaussian},
    ensure,
};

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

    /// The network with these weights for pictures `[height, width, channels]`, as a constant.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`latents`](Self::latents).
    pub fn coder(&self, pictures: [usize; 3], weights: &Tensors, device: &Device) -> Result<PictureCoder> {
        Ok(PictureCoder::new(self.load(weights, device)?, pictures, self.latents(pictures)?))
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

impl FirstStage {
    /// Pictures `[N, H, W, C]` of latents `[N, h, w, c]`, of any size.
    ///
    /// # Errors
    /// Latents of other channels.
    pub fn decode(&self, z: Tensor<4>) -> Result<Tensor<4>> {
        Ok(match self {
            Self::Kl(network) => network.decode(z.into())?,
            Self::Vq(network) => network.decode(z.into())?,
        }
        .value)
    }
}

/// A [`FirstStage`] on pictures of one size, as rows.
#[derive(Debug, Clone)]
pub struct PictureCoder {
    network: FirstStage,
    pictures: [usize; 3],
    latents: [usize; 3],
}

impl PictureCoder {
    /// A network for pictures and latents of these shapes, height, width and channels each.
    pub fn new(network: FirstStage, pictures: [usize; 3], latents: [usize; 3]) -> Self {
        Self { network, pictures, latents }
    }
}

/// Rows as images `[rows, height, width, channels]`.
pub fn images_of_rows(rows: Tensor<2>, shape: [usize; 3]) -> Tensor<4> {
    let [height, width, channels] = shape.map(|size| size as i32);
    rows.reshape([-1, height, width, channels])
}

/// Images as rows.
pub fn rows_of_images(images: Tensor<4>) -> Tensor<2> {
    let [rows, height, width, channels] = images.dims();
    images.reshape([rows, height * width * channels])
}

/// The posterior, as rows, of the moments `[N, h, w, 2 · latents]` that the encoder of an [`AutoencoderKl`] gives.
pub fn posterior(moments: Tensor<4>) -> DiagonalGaussian {
    let half = moments.dims()[3] / 2;
    let part = |from: usize| rows_of_images(moments.clone().narrow(3, from, half));
    DiagonalGaussian::new(part(0), part(half))
}

/// Fails unless rows have the width of a shape.
fn check_rows(rows: &Tensor<2>, shape: [usize; 3], what: &str) -> Result<()> {
    let (found, wanted) = (rows.dims()[1], shape.iter().product::<usize>());
    ensure!(found == wanted, "{what} of {found} numbers came to an autoencoder whose {what} are of {wanted}");
    Ok(())
}

impl Autoencoder for PictureCoder {
    fn latent_shape(&self) -> [usize; 3] {
        self.latents
    }

    fn encode(&self, x: Tensor<2>, keys: Option<&Keys>) -> Result<Tensor<2>> {
        check_rows(&x, self.pictures, "samples")?;
        let x = images_of_rows(x, self.pictures).into();
        Ok(match &self.network {
            FirstStage::Kl(network) => {
                let posterior = posterior(network.encode(x)?.value);
                match keys {
                    Some(keys) => posterior.sample(keys),
                    None => posterior.mode(),
                }
            }
            FirstStage::Vq(network) => rows_of_images(network.encode(x)?.value),
        })
    }

    fn decode(&self, z: Tensor<2>) -> Result<Tensor<2>> {
        check_rows(&z, self.latents, "latents")?;
        Ok(rows_of_images(self.network.decode(images_of_rows(z, self.latents))?))
    }

    fn codes(&self, z: Tensor<2>) -> Result<Option<(Vec<usize>, usize)>> {
        check_rows(&z, self.latents, "latents")?;
        let FirstStage::Vq(network) = &self.network else { return Ok(None) };
        let chosen = network.quantize(images_of_rows(z, self.latents).into())?.indices;
        let chosen = chosen.into_data().iter::<i64>().map(|code| code as usize).collect();
        Ok(Some((chosen, network.codes().dims()[0])))
    }
}
