//! A published network of any source.

use serde_json::Value as Json;
use stein::{Error, Result};

use super::{
    Kind, Reference, Setting, Source, Weights,
    config::{check_sizes, text},
    consistency, diffusers, diffusers_adm, diffusers_dit, edm, glow, guided_diffusion, latent_diffusion, ncsn, ncsn_v2,
    pixel_cnn_pp, score_sde, unsupported,
};
use crate::state::Tensors;

/// A network with published weights.
pub struct Published {
    kind: Kind,
    name: &'static str,
    reference: Box<dyn Reference>,
    setting: Result<Setting>,
}

impl Published {
    /// The network of a source.
    ///
    /// # Errors
    /// When its config is not one of a network known here, or the weights do not fit it.
    pub fn open(source: &Source) -> Result<Self> {
        let at = |error: Error| error.at(&source.origin);
        check_sizes(&source.config).map_err(at)?;
        let weights = Weights::Theirs(&source.weights);
        let (name, reference) = network(source.kind, &source.config, weights).map_err(at)?;
        let setting = Setting::of(source);
        Ok(Self { kind: source.kind, name, reference, setting })
    }

    /// Whose network it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The network's name in the field.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it can be compared and exported by.
    pub fn reference(&self) -> &dyn Reference {
        &*self.reference
    }

    /// What it takes to sample it.
    ///
    /// # Errors
    /// Why it cannot be sampled: it is an autoencoder, a classifier, or works in a latent space; its files do not say at what
    /// size it works, or on which noise it was trained; or that is nothing known here.
    pub fn setting(&self) -> Result<&Setting> {
        self.setting.as_ref().map_err(Clone::clone)
    }

    /// The weights by our names within an [`AnyNetwork`](crate::AnyNetwork).
    pub fn weights(&self) -> Tensors {
        self.reference.weights().into_iter().map(|(name, data)| (format!("{INNER}{name}"), data)).collect()
    }
}

/// A network with its name in the field.
fn network(kind: Kind, config: &Json, weights: Weights) -> Result<(&'static str, Box<dyn Reference>)> {
    Ok(match kind {
        Kind::Ncsn => ("NCSN", Box::new(ncsn::open(config, weights)?)),
        Kind::NcsnV2 => ("NCSNv2", Box::new(ncsn_v2::open(config, weights)?)),
        Kind::ScoreSde if score_sde::is_ddpm(config) => ("DDPM", Box::new(score_sde::open_ddpm(config, weights)?)),
        Kind::ScoreSde => ("NCSN++", Box::new(score_sde::open_ncsnpp(config, weights)?)),
        Kind::Edm if config.get("down").is_some() => ("blocks of EDM", edm::open_blocks(config, weights)?),
        Kind::Edm if edm::model_type(config)? == "DhariwalUNet" => {
            ("ADM (EDM)", Box::new(edm::open_dhariwal(config, weights)?))
        }
        Kind::Edm => ("DDPM++ or NCSN++ (EDM)", Box::new(edm::open_song(config, weights)?)),
        Kind::GuidedDiffusion if guided_diffusion::is_encoder(config, weights) => {
            ("ADM classifier", Box::new(guided_diffusion::open_encoder(config, weights)?))
        }
        Kind::GuidedDiffusion => ("ADM", Box::new(guided_diffusion::open(config, weights)?)),
        Kind::PixelCnnPp => ("PixelCNN++", Box::new(pixel_cnn_pp::open(config, weights)?)),
        Kind::Consistency => ("consistency U-Net", Box::new(consistency::open(config, weights)?)),
        Kind::LatentDiffusion => ("U-Net of latent diffusion", Box::new(latent_diffusion::open(config, weights)?)),
        Kind::Glow => ("Glow", Box::new(glow::open(config, weights)?)),
        Kind::Diffusers => match text(config, "_class_name").unwrap_or_default() {
            "UNet2DModel" if diffusers_adm::is_one(config) => {
                ("UNet2DModel of ADM", Box::new(diffusers_adm::open(config, weights)?))
            }
            "UNet2DModel" => ("UNet2DModel", Box::new(diffusers::unet_2d(config, weights)?)),
            "UNet2DConditionModel" => {
                ("UNet2DConditionModel", Box::new(diffusers::unet_2d_condition(config, weights)?))
            }
            "AutoencoderKL" => ("AutoencoderKL", Box::new(diffusers::autoencoder_kl(config, weights)?)),
            "VQModel" => ("VQModel", Box::new(diffusers::vq_model(config, weights)?)),
            "DiTTransformer2DModel" | "Transformer2DModel" => ("DiT", Box::new(diffusers_dit::open(config, weights)?)),
            other => {
                return Err(unsupported(format!(
                    "config.json names the model {other:?}; known are UNet2DModel, UNet2DConditionModel, AutoencoderKL, \
                     VQModel and DiTTransformer2DModel"
                )));
            }
        },
    })
}

/// Weights of ours, by our names within an [`AnyNetwork`](crate::AnyNetwork), under the names and in the layouts of a source.
///
/// # Errors
/// When the config is not one of a network known here, or the weights do not fit it.
pub fn theirs(kind: Kind, config: &Json, ours: &Tensors) -> Result<Tensors> {
    let inner = |name: &String| name.strip_prefix(INNER).unwrap_or(name).to_owned();
    let ours: Tensors = ours.iter().map(|(name, data)| (inner(name), data.clone())).collect();
    check_sizes(config)?;
    let (_, reference) = network(kind, config, Weights::Ours(&ours))?;
    Ok(reference.exported())
}

/// What the names of an image network's weights start with within an [`AnyNetwork`](crate::AnyNetwork).
const INNER: &str = "network.";
