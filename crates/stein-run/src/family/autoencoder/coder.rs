//! Encoder, latents and decoder as one network on rows.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor},
};
use serde::Serialize;
use stein::{Autoencoder as _, Context, Dual, Keys, Network, Result, ensure};
use stein_nn::{
    AutoencoderKl, AutoencoderKlConfig, BuildNetwork, CodeAverages, Decoder, FirstStage, PictureCoder, Quantized,
    Tensors, VqModel, VqModelConfig, images_of_rows, layers::Init, posterior, rows_of_images,
};

use super::{CoderConfig, Latents};

/// What a coder is built of.
#[derive(Debug, Serialize)]
pub(super) struct CoderOf {
    pub(super) latents: Latents,
    pub(super) network: CoderConfig,
}

/// A network on rows that are pictures, whose output is their reconstruction.
#[derive(Module, Debug)]
pub(super) struct Coder {
    parts: Parts,
    shape: [usize; 3],
    latent: [usize; 3],
}

#[derive(Module, Debug)]
enum Parts {
    Kl(Kl),
    Vq(Vq),
}

#[derive(Module, Debug)]
struct Kl {
    network: AutoencoderKl,
    log_scale: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Vq {
    network: VqModel,
    averages: Option<CodeAverages>,
}

impl BuildNetwork for CoderOf {
    type Net = Coder;

    fn build(&self, shape: &[usize], _: usize, init: &mut Init) -> Result<Coder> {
        let Ok(shape @ [height, width, depth]) = <[usize; 3]>::try_from(shape) else {
            return Err(stein::Error::new(format!(
                "this family is of pictures, and the data are samples of shape {shape:?}: give data of shape [height, width, channels]"
            )));
        };
        let CoderConfig { channels, blocks, attention, middle_attention, groups } = self.network.clone();
        let halvings = channels.len().saturating_sub(1) as u32;
        let smaller = |size: usize| size.checked_shr(halvings).unwrap_or(0);
        ensure!(
            [height, width].iter().all(|&size| smaller(size) << halvings == size && smaller(size) > 0),
            "pictures of {height} x {width} cannot be halved {halvings} times: give family.network.channels fewer levels"
        );
        let latent = |channels: usize| [smaller(height), smaller(width), channels];
        Ok(match self.latents {
            Latents::Kl { channels: latents, log_scale, learn_scale, .. } => {
                let config = AutoencoderKlConfig {
                    inputs: depth,
                    outputs: depth,
                    latents,
                    channels,
                    blocks,
                    attention,
                    middle_attention,
                    groups,
                    ..AutoencoderKlConfig::default()
                };
                let network = config.build(init)?;
                let log_scale = log_scale as f32;
                let log_scale =
                    if learn_scale { init.constant(1, log_scale) } else { init.frozen([1], vec![log_scale]) };
                Coder { parts: Parts::Kl(Kl { network, log_scale }), shape, latent: latent(latents) }
            }
            Latents::Vq { codes, channels: latents, decay, .. } => {
                let config = VqModelConfig {
                    inputs: depth,
                    outputs: depth,
                    latents,
                    codes,
                    code_width: None,
                    channels,
                    blocks,
                    attention,
                    middle_attention,
                    groups,
                    ..VqModelConfig::default()
                };
                let network = config.build(init)?;
                let averages = decay.map(|decay| CodeAverages::new(codes, latents, decay, init));
                Coder { parts: Parts::Vq(Vq { network, averages }), shape, latent: latent(latents) }
            }
        })
    }
}

/// What a coder makes of a batch in training.
pub(super) struct Pass {
    /// What comes before the last layer.
    features: Tensor<4>,
    /// The reconstructions `[rows, dim]`.
    pub(super) reconstruction: Tensor<2>,
    /// What the latents add to the loss, with its weight.
    pub(super) regularity: Tensor<1>,
    /// Weights that learned without gradients.
    pub(super) left: Tensors,
}

impl Pass {
    /// The norm of the gradient by the weights of the last layer, of a number whose gradient by the reconstructions is `slope`.
    pub(super) fn last_layer_norm(&self, coder: &Coder, slope: Tensor<2>) -> f64 {
        let slope = images_of_rows(slope, coder.shape);
        coder.decoder().last_layer_slope(self.features.clone(), slope).square().sum().sqrt().into_scalar()
    }
}

impl Coder {
    /// Height, width and channels of pictures.
    pub(super) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The logarithm of the scale of misfits, `[1]`; none where they are no likelihood.
    pub(super) fn log_scale(&self) -> Option<Tensor<1>> {
        match &self.parts {
            Parts::Kl(kl) => Some(kl.log_scale.val()),
            Parts::Vq(_) => None,
        }
    }

    /// What codes pictures with these weights.
    pub(super) fn coding(&self) -> PictureCoder {
        let network = match &self.parts {
            Parts::Kl(kl) => FirstStage::Kl(kl.network.clone()),
            Parts::Vq(vq) => FirstStage::Vq(vq.network.clone()),
        };
        PictureCoder::new(network, self.shape, self.latent)
    }

    fn decoder(&self) -> &Decoder {
        match &self.parts {
            Parts::Kl(kl) => kl.network.decoder(),
            Parts::Vq(vq) => vq.network.decoder(),
        }
    }

    /// Through latents, which are drawn from their posterior by the keys, or chosen from the codebook.
    pub(super) fn pass(&self, x: &Tensor<2>, keys: &Keys, settings: &Latents) -> Result<Pass> {
        let x = Dual::from(images_of_rows(x.clone(), self.shape));
        let mut left = Tensors::new();
        let (features, regularity) = match (&self.parts, settings) {
            (Parts::Kl(kl), Latents::Kl { weight, .. }) => {
                let posterior = posterior(kl.network.encode(x)?.value);
                let z = images_of_rows(posterior.sample(keys), self.latent);
                (kl.network.features(z.into())?, posterior.kl().mean().mul_scalar(*weight))
            }
            (Parts::Vq(vq), Latents::Vq { commitment, weight, .. }) => {
                let latents = vq.network.encode(x)?;
                let Quantized { values, rows, indices } = vq.network.quantize(latents.clone())?;
                let pair = (rows_of_images(latents.value.clone()), rows_of_images(rows));
                let loss = match &vq.averages {
                    Some(averages) => {
                        left = moved(averages, latents.value, indices, vq.network.codes());
                        commitment.latents_only(pair.0, pair.1)
                    }
                    None => commitment.loss(pair.0, pair.1),
                };
                (vq.network.features(values)?, loss.mul_scalar(*weight))
            }
            _ => unreachable!("a coder is built of the settings it is trained with"),
        };
        let reconstruction = rows_of_images(self.decoder().last_layer(features.clone()).value);
        Ok(Pass { features: features.value, reconstruction, regularity, left })
    }
}

/// The weights of a [`Vq`] that its averages move, by name.
fn moved(averages: &CodeAverages, latents: Tensor<4>, indices: Tensor<1, Int>, codes: Tensor<2>) -> Tensors {
    let [counts, sums, codes] = averages.moved(latents, indices, codes);
    let vector = |of: Tensor<2>| of.reshape([-1]).into_data();
    [
        ("parts.averages.counts", vector(counts)),
        ("parts.averages.sums", vector(sums)),
        ("parts.network.codes", codes.into_data()),
    ]
    .map(|(name, data)| (name.to_owned(), data))
    .into()
}

impl Network for Coder {
    fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
        ensure!(Kind::Unsupported, x.tangent.is_none(), "an autoencoder has no tangents: take the gradient");
        let coding = self.coding();
        Ok(coding.decode(coding.encode(x.value, None)?)?.into())
    }
}
