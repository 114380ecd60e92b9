//! Which network, by name.

use burn::tensor::Device;
use stein::{Network, Result, ensure};

use super::{
    AdmConfig as Adm, AnyNetwork, DdpmConfig as Ddpm, DhariwalUnetConfig as DhariwalUnet, MlpConfig as Mlp,
    NcsnConfig as Ncsn, NcsnV2Config as NcsnV2, NcsnppConfig as Ncsnpp, SongUnetConfig as SongUnet,
    Unet1dConfig as Unet1d, Unet2dConfig as Unet2d, UnetConfig as Unet,
};
use crate::init::Init;

stein_base::registry! {
    /// Which network, and how large.
    NetworkConfig, "network": Build {
        /// A residual multi-layer perceptron for points, tables and small images and series.
        "mlp" => Mlp,
        /// A residual U-Net for images.
        "unet" => Unet,
        /// A residual U-Net along one axis, for series.
        "unet1d" => Unet1d,
        /// The published RefineNet of NCSN, with levels by number.
        "ncsn" => Ncsn,
        /// The published RefineNet of NCSNv2, whose output is divided by σ.
        "ncsn_v2" => NcsnV2,
        /// DDPM's published U-Net, as Score-SDE has it.
        "ddpm" => Ddpm,
        /// Score-SDE's published NCSN++ and DDPM++.
        "ncsnpp" => Ncsnpp,
        /// EDM's published DDPM++ and NCSN++.
        "song_unet" => SongUnet,
        /// ADM's U-Net as EDM publishes it.
        "dhariwal_unet" => DhariwalUnet,
        /// ADM's published U-Net (guided-diffusion).
        "adm" | "guided_diffusion" => Adm,
        /// The U-Net of the diffusers library, `UNet2DModel`.
        "unet2d" | "unet_2d_model" => Unet2d,
    }
}

impl NetworkConfig {
    /// The network with fresh weights, which are a function of the config, `shape`, `classes` and `seed` alone.
    ///
    /// `shape` is that of one sample: `[D]` for rows, `[L, C]` for series or `[H, W, C]` for images. `classes` is the number of classes the
    /// network knows, 0 for none. Weights are trainable if the device has autodiff.
    ///
    /// # Errors
    /// When the config is not one of a network, or the network is not one for that shape.
    ///
    /// ```
    /// use stein_nn::NetworkConfig;
    ///
    /// let config: NetworkConfig = toml::from_str("kind = \"unet1d\"\nchannels = 8\nmultipliers = [1, 2]").unwrap();
    /// let network = config.build(&[25, 3], 0, 1, &stein::Device::flex())?;
    /// assert_eq!(network.parameters(), config.parameters(&[25, 3], 0)?);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(&self, shape: &[usize], classes: usize, seed: u64, device: &Device) -> Result<AnyNetwork> {
        self.checked(shape, classes, &mut Init::new(seed, device))
    }

    /// The number of values in all parameters, frozen ones included, without making them.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn parameters(&self, shape: &[usize], classes: usize) -> Result<usize> {
        Ok(self.checked(shape, classes, &mut Init::blank(&Device::flex()))?.parameters())
    }

    fn checked(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        ensure!(
            !shape.is_empty() && shape.iter().all(|size| *size > 0),
            "a sample of shape {shape:?} has no values: give [D] for rows, [length, channels] for series or [height, width, channels] \
             for images"
        );
        self.build_any(shape, classes, init)
    }
}

/// What every config of a network does. One of one's own implements [`BuildNetwork`], from which this follows.
pub trait Build: Send + Sync {
    /// The network for samples of this shape and a number of classes, 0 for none.
    ///
    /// # Errors
    /// When the config is not one of a network, or the network is not one for that shape.
    fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork>;
}

/// The config of a network of one's own: its fields are the settings in files, once it is [registered](NetworkConfig::register).
///
/// See [`layers`](crate::layers) for an example, and [`Takes`](super::Takes) for what a network checks first.
pub trait BuildNetwork: Send + Sync {
    /// The network.
    type Net: burn::module::Module + Network + 'static;

    /// The network for samples of this shape, `[D]`, `[L, C]` or `[H, W, C]`, and a number of classes, 0 for none, with the weights `init`
    /// draws in the order they are asked for.
    ///
    /// # Errors
    /// When the config is not one of a network, or the network is not one for that shape.
    fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Self::Net>;
}

impl<C: BuildNetwork> Build for C {
    fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        self.build(shape, classes, init).map(AnyNetwork::own)
    }
}

impl Build for Mlp {
    fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        self.build(shape, classes, init).map(AnyNetwork::Mlp)
    }
}

impl Build for Unet {
    fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        self.build(shape, classes, init).map(AnyNetwork::Unet)
    }
}

impl Build for Unet1d {
    fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        self.build(shape, classes, init).map(AnyNetwork::Unet)
    }
}
