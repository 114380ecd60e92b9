//! The networks, one per file: their configs by name, and any one of them as a value.
//!
//! Adding one is its file, named below, and a line of the [registry](NetworkConfig); one of images says so with
//! `image_network!`.

mod adm;
mod adm_encoder;
mod autoencoder;
mod autoencoder_kl;
mod config;
mod ddpm;
mod dhariwal_unet;
mod dit;
mod edm_block;
mod images;
mod mlp;
mod ncsn;
mod ncsn_v2;
mod ncsnpp;
mod own;
mod refine_net;
mod song_unet;
mod transformer_2d;
mod unet;
mod unet_1d;
mod unet_2d;
mod unet_2d_blocks;
mod unet_2d_condition;
mod units;
mod vq_model;
mod walk;

use std::ops::Range;

use burn::module::Module;
use stein::{Context, Network, Result, ensure};

use crate::{ops::Dual, tapes};

pub use adm::{Adm, AdmConfig};
pub use adm_encoder::{AdmEncoder, AdmEncoderConfig, Pool};
pub use autoencoder_kl::{AutoencoderKl, AutoencoderKlConfig};
pub use config::{Build, BuildNetwork, NetworkConfig};
pub use ddpm::{Ddpm, DdpmConfig};
pub use dhariwal_unet::{DhariwalUnet, DhariwalUnetConfig};
pub use dit::{Dit, DitConfig};
pub(crate) use edm_block::{EdmBlock, EdmForm, Heads, Size};
pub use images::{ImageNetwork, OnRows};
pub use mlp::{Mlp, MlpConfig};
pub use ncsn::{Ncsn, NcsnConfig};
pub use ncsn_v2::{NcsnV2, NcsnV2Config};
pub use ncsnpp::{Combine, InputPyramid, Ncsnpp, NcsnppConfig, NoiseLevels, NoiseNumber, OutputPyramid, ResidualBlock};
pub use own::Boxed;
pub use song_unet::{SongDecoder, SongEncoder, SongFeatures, SongUnet, SongUnetConfig};
pub use unet::{Unet, UnetConfig};
pub use unet_1d::Unet1dConfig;
pub use unet_2d::{Unet2d, Unet2dConfig};
pub use unet_2d_condition::{Unet2dCondition, Unet2dConditionConfig};
pub use vq_model::{Quantized, VqModel, VqModelConfig};

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

/// What a network takes of a [`Context`] besides one noise number per row.
#[derive(Debug, Clone, Copy, Default)]
struct Takes {
    /// The classes it knows.
    classes: usize,
    /// The width of vectors, 0 for none.
    vector: usize,
    /// The width of tokens, 0 for none.
    tokens: usize,
    /// Whether there are images beside its own.
    image: bool,
    /// Whether there is a second noise level.
    second: bool,
}

impl Takes {
    /// Fails unless a context is one of `rows` rows and has what the network takes and nothing else.
    fn check(self, context: &Context, rows: usize) -> Result<()> {
        let Context { noise, second, given, dropout } = context;
        let per_row = |numbers: usize, what: &str| {
            ensure!(numbers == rows, "a batch of {rows} rows came with {numbers} {what}: give one per row");
            Ok(())
        };
        per_row(noise.dims()[0], "noise numbers")?;
        match second {
            Some(second) => {
                ensure!(self.second, "this network takes one noise level: leave the second out");
                per_row(second.dims()[0], "second noise numbers")?;
            }
            None => ensure!(!self.second, "this network takes a second noise level: none was given"),
        }
        if let Some(keys) = dropout {
            per_row(keys.len(), "keys for dropout")?;
        }
        given.check(rows)?;
        given.class_rows(rows, self.classes)?;
        if let Some(vector) = &given.vector {
            ensure!(self.vector > 0, "this network takes no vectors: leave the condition's out");
            let width = vector.dims()[1];
            ensure!(
                width == self.vector,
                "the condition has vectors of {width} numbers: this network takes {}",
                self.vector
            );
        }
        if let Some(tokens) = &given.tokens {
            ensure!(self.tokens > 0, "this network attends to no tokens: leave the condition's out");
            let [_, length, width] = tokens.values.dims();
            ensure!(
                length > 0 && width == self.tokens,
                "the condition has {length} tokens of width {width}: this network attends to one or more of width {}",
                self.tokens
            );
            ensure!(
                tokens.mask.is_none(),
                "this network attends to all tokens of a row: leave the mask out and give sequences of one length"
            );
        }
        ensure!(
            self.image || given.image.is_none(),
            "this network takes no images beside its own: leave the condition's out"
        );
        Ok(())
    }
}

/// Fails unless a batch has the width a network was built for.
fn check_width(x: &Dual<2>, width: usize) -> Result<()> {
    let [_, dim] = x.dims();
    ensure!(dim == width, "the batch has rows of {dim} values: this network was built for {width}");
    Ok(())
}

/// Images with those of the condition beside them along channels, as many as a network was built for; and a context of as many
/// rows that has what the network takes.
fn input(x: Dual<4>, context: &Context, channels: usize, takes: Takes) -> Result<Dual<4>> {
    let [rows, height, width, depth] = x.dims();
    ensure!(depth <= channels, "the images have {depth} channels: this network was built for {channels}");
    Takes { image: depth < channels, ..takes }.check(context, rows)?;
    let beside = channels - depth;
    if beside == 0 {
        return Ok(x);
    }
    let Some(image) = &context.given.image else {
        return Err(stein::Error::new(format!(
            "the images have {depth} channels, and this network was built for {channels}: the condition has to have an image of \
             {beside} channels per row"
        )));
    };
    let [_, high, wide, more] = image.dims();
    ensure!(
        [high, wide, more] == [height, width, beside],
        "the condition has images of {high} x {wide} x {more}: this network takes {height} x {width} x {beside} beside its own"
    );
    let image = image.clone().cast(x.value.dtype());
    Ok(Dual::cat(vec![x, image.into()], 3))
}
