//! Which network, by name.

use burn::tensor::Device;
use serde::Serialize;
use stein::{Network, Result, ensure, settings};
use toml::Value;

use super::{
    AdmConfig as Adm, AnyNetwork, DdpmConfig as Ddpm, DhariwalUnetConfig as DhariwalUnet, DitConfig as Dit,
    MlpConfig as Mlp, NcsnConfig as Ncsn, NcsnV2Config as NcsnV2, NcsnppConfig as Ncsnpp, SongUnetConfig as SongUnet,
    Unet1dConfig as Unet1d, Unet2dConditionConfig as Unet2dCondition, Unet2dConfig as Unet2d, UnetConfig as Unet,
};
use crate::init::Init;

stein_base::registry! {
    /// Which network, and how large: no whole number of a network that is built in is above 2^20, and no list longer than 64.
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
        /// The U-Net of latent diffusion, which attends to texts (family.text) or to the token of a class.
        "unet2d_condition" | "unet_2d_condition_model" => Unet2dCondition,
        /// The diffusion transformer.
        "dit" | "diffusion_transformer" => Dit,
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
        self.size(shape, classes)?;
        self.build_any(shape, classes, &mut Init::new(seed, device))
    }

    /// The number of values in all parameters, frozen ones included, without making them.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn parameters(&self, shape: &[usize], classes: usize) -> Result<usize> {
        Ok(self.size(shape, classes)?.parameters)
    }

    /// How large the network is, without making it.
    ///
    /// ```
    /// use stein_nn::{MlpConfig, NetworkConfig};
    ///
    /// let small = NetworkConfig::from(MlpConfig::default());
    /// assert!(small.size(&[2], 0)?.training(128) < 100_000_000);
    /// let large = NetworkConfig::from(MlpConfig { hidden: 1_000_000, ..MlpConfig::default() });
    /// assert!(large.size(&[2], 0).unwrap_err().to_string().starts_with("this network needs 32 TB"));
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn size(&self, shape: &[usize], classes: usize) -> Result<NetworkSize> {
        if !matches!(self, Self::Own(_)) {
            check_config(self)?;
        }
        NetworkSize::of(&**self, shape, classes)
    }
}

/// Most that any number of a config may be, so that products of some of them can be counted, and most items of a list.
const LARGEST: i64 = 1 << 20;
const LONGEST: usize = 64;

/// Fails if a number or a list of a config that is built in is larger than any network has.
pub(crate) fn check_config(config: &impl Serialize) -> Result<()> {
    check_numbers("network", &settings::write(config)?)
}

/// Fails if a number or a list of the settings of a network is larger than any network has.
fn check_numbers(path: &str, value: &Value) -> Result<()> {
    match value {
        Value::Integer(number) => {
            ensure!(*number <= LARGEST, "{path} is {number}: give at most {LARGEST}");
        }
        Value::Float(number) => ensure!(
            number.abs() <= f64::from(f32::MAX),
            "{path} is {number}: give a finite number that single precision can hold"
        ),
        Value::Array(items) => {
            ensure!(items.len() <= LONGEST, "{path} lists {} numbers: give at most {LONGEST}", items.len());
            items.iter().enumerate().try_for_each(|(i, item)| check_numbers(&format!("{path}.{i}"), item))?;
        }
        Value::Table(table) => {
            table.iter().try_for_each(|(key, value)| check_numbers(&format!("{path}.{key}"), value))?;
        }
        _ => {}
    }
    Ok(())
}

/// How large a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkSize {
    /// Values in all parameters, frozen ones included.
    pub parameters: usize,
    /// Values that the layers give for one sample.
    pub outputs: u128,
}

impl NetworkSize {
    /// That of the network of a config that is built in or part of a family, without making it.
    ///
    /// # Errors
    /// When the config is not one of a network, or the network is not one for that shape.
    pub fn of_config(config: &(impl Build + Serialize), shape: &[usize], classes: usize) -> Result<Self> {
        check_config(config)?;
        Self::of(config, shape, classes)
    }

    /// That of the network of a config, whose numbers have been checked.
    pub(crate) fn of(config: &dyn Build, shape: &[usize], classes: usize) -> Result<Self> {
        ensure!(
            !shape.is_empty() && shape.iter().all(|size| *size > 0),
            "a sample of shape {shape:?} has no values: give [D] for rows, [length, channels] for series or [height, width, channels] \
             for images"
        );
        let values = shape.iter().try_fold(1usize, |values, size| values.checked_mul(*size));
        ensure!(values.is_some(), "a sample of shape {shape:?} has more values than can be counted");
        let device = Device::flex();
        let mut init = Init::blank(&device).of_samples(shape);
        let network = config.build_any(shape, classes, &mut init)?;
        Ok(Self { outputs: init.fits()?, parameters: network.parameters() })
    }

    /// Bytes that training takes with this many samples on a tape: of the weights with their gradient, the two means of the
    /// optimizer and an average, and of what the layers give, which the backward pass needs.
    pub fn training(&self, rows: usize) -> u128 {
        self.bytes(5, self.outputs, rows)
    }

    /// Bytes that sampling takes with this many samples at a time: of the weights, and of what is alive at once of what the layers
    /// give, about a quarter.
    pub fn sampling(&self, rows: usize) -> u128 {
        self.bytes(1, self.outputs / 4, rows)
    }

    fn bytes(&self, copies: u128, values: u128, rows: usize) -> u128 {
        let weights = (self.parameters as u128).saturating_mul(copies);
        values.saturating_mul(rows as u128).saturating_add(weights).saturating_mul(4)
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
