//! The networks, one per file: their configs by name, and any one of them as a value.
//!
//! Adding one is its file, named below, and a line of the [registry](NetworkConfig); one of images says so with
//! `image_network!`.

mod adm;
mod adm_encoder;
mod autoencoder;
mod autoencoder_kl;
mod beside;
mod classifier;
mod clip_text;
mod config;
mod ddpm;
mod dhariwal_unet;
mod dit;
mod edm_block;
mod first_stage;
mod gan;
mod images;
mod inception;
mod interpolate;
mod lpips;
mod mlp;
mod ncsn;
mod ncsn_v2;
mod ncsnpp;
mod nonlinearity;
mod own;
mod patch_discriminator;
mod pixel_cnn_pp;
mod refine_net;
mod song_unet;
mod takes;
mod token_block;
mod told;
mod transformer_2d;
mod unet;
mod unet_1d;
mod unet_2d;
mod unet_2d_blocks;
mod unet_2d_condition;
mod units;
mod vae;
mod vit;
mod vq_model;
mod walk;

use std::ops::Range;

use burn::module::Module;
use stein::{Context, Network, Result, ensure};

use crate::{ops::Dual, tapes};

pub use adm::{Adm, AdmConfig};
pub use adm_encoder::{AdmEncoder, AdmEncoderConfig, Pool};
pub use autoencoder::Decoder;
pub use autoencoder_kl::{AutoencoderKl, AutoencoderKlConfig};
pub use beside::Beside;
pub use classifier::{Classifier, ClassifierConfig};
pub use clip_text::{ClipText, ClipTextForm, TextEnd};
pub(crate) use config::check_config;
pub use config::{Build, BuildNetwork, NetworkConfig, NetworkSize};
pub use ddpm::{Ddpm, DdpmConfig};
pub use dhariwal_unet::{DhariwalUnet, DhariwalUnetConfig};
pub use dit::{Dit, DitConfig};
pub(crate) use edm_block::{EdmBlock, EdmForm, Heads, Size};
pub use first_stage::{FirstStage, FirstStageConfig, PictureCoder, images_of_rows, posterior, rows_of_images};
pub use gan::{Discriminator, Generator, PlayerConfig};
pub(crate) use images::height_width_channels;
pub use images::{ImageNetwork, OnRows};
pub use inception::{Features, Inception, Resize};
pub(crate) use lpips::Step;
pub use lpips::{Backbone, Lpips};
pub use mlp::{Mlp, MlpConfig};
pub use ncsn::{Ncsn, NcsnConfig};
pub use ncsn_v2::{LevelSpacing, NcsnV2, NcsnV2Config};
pub use ncsnpp::{Combine, InputPyramid, Ncsnpp, NcsnppConfig, NoiseLevels, NoiseNumber, OutputPyramid, ResidualBlock};
pub use nonlinearity::Nonlinearity;
pub use own::Boxed;
pub use patch_discriminator::{PatchDiscriminator, PatchDiscriminatorConfig};
pub use pixel_cnn_pp::{PixelCnnPp, PixelCnnPpConfig, PixelRows};
pub use song_unet::{SongDecoder, SongEncoder, SongFeatures, SongUnet, SongUnetConfig};
pub use takes::Takes;
pub use token_block::Gelu;
pub use told::{TextConfig, Told, Wording};
pub use unet::{Unet, UnetConfig};
pub use unet_1d::Unet1dConfig;
pub use unet_2d::{Unet2d, Unet2dConfig};
pub use unet_2d_condition::{Unet2dCondition, Unet2dConditionConfig};
pub use vae::{Inferred, Vae, VaeConfig};
pub use vit::{Tower, Vit, VitForm};
pub use vq_model::{CodeAverages, Quantized, VqModel, VqModelConfig, quantize};

/// Any one of the networks.
#[derive(Module, Debug)]
pub enum AnyNetwork {
    /// See [`NetworkConfig::Mlp`].
    Mlp(Mlp),
    /// See [`NetworkConfig::Unet`] and [`NetworkConfig::Unet1d`].
    Unet(Unet),
    /// Any other, built in or the program's own.
    Own(Boxed),
}

impl AnyNetwork {
    /// A network of any type, such as one of one's own.
    pub fn own(network: impl Module + Network + 'static) -> Self {
        Self::Own(Boxed::new(network))
    }

    /// The network, if it was made by [`own`](Self::own) of this type.
    pub fn get<N: 'static>(&self) -> Option<&N> {
        match self {
            Self::Own(network) => network.get(),
            Self::Mlp(_) | Self::Unet(_) => None,
        }
    }

    /// The number of values in all parameters, frozen ones included.
    pub fn parameters(&self) -> usize {
        self.num_params()
    }

    /// Gives `work` the rows of a batch, all or in equal shares side by side, each with this network on a tape of its own:
    /// as is fastest for the network, whatever the number of threads. The results are in the order of the rows.
    pub fn on_tapes<T: Send>(&self, batch: usize, work: impl Fn(Self, Range<usize>) -> T + Sync) -> Vec<T> {
        match self {
            Self::Mlp(_) => tapes::side_by_side(self, batch, work),
            Self::Unet(_) | Self::Own(_) => vec![tapes::one(self, batch, work)],
        }
    }
}

/// As [`AnyNetwork::on_tapes`], for several networks that are trained together.
pub fn on_tapes<T: Send>(
    networks: Vec<AnyNetwork>,
    batch: usize,
    work: impl Fn(Vec<AnyNetwork>, Range<usize>) -> T + Sync,
) -> Vec<T> {
    if networks.iter().all(|network| matches!(network, AnyNetwork::Mlp(_))) {
        tapes::side_by_side(&networks, batch, work)
    } else {
        vec![tapes::one(&networks, batch, work)]
    }
}

impl Network for AnyNetwork {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        match self {
            Self::Mlp(network) => network.forward(x, context),
            Self::Unet(network) => network.forward(x, context),
            Self::Own(network) => network.forward(x, context),
        }
    }
}

/// Fails unless a batch has the width a network was built for.
fn check_width(x: &Dual<2>, width: usize) -> Result<()> {
    let [_, dim] = x.dims();
    ensure!(dim == width, "the batch has rows of {dim} values: this network was built for {width}");
    Ok(())
}
