//! The networks, one a file: their configs by name, and any one of them as a value.

mod mlp;
mod unet;

use std::ops::Range;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Network, Result, ensure};

use crate::{ops::Dual, tapes};

pub use mlp::{Mlp, MlpConfig};
pub use unet::{Unet, UnetConfig};

/// Which network, and how large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NetworkConfig {
    /// A residual multi-layer perceptron for points, tables and small images.
    Mlp(MlpConfig),
    /// A residual U-Net for images.
    Unet(UnetConfig),
}

impl NetworkConfig {
    /// The values of `kind`.
    pub const NAMES: &[&str] = &["mlp", "unet"];

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
        Ok(match self {
            Self::Mlp(config) => AnyNetwork::Mlp(config.build(shape, classes, seed, device)?),
            Self::Unet(config) => AnyNetwork::Unet(config.build(shape, classes, seed, device)?),
        })
    }
}

/// Any one of the networks.
#[derive(Module, Debug)]
pub enum AnyNetwork {
    /// See [`NetworkConfig::Mlp`].
    Mlp(Mlp),
    /// See [`NetworkConfig::Unet`].
    Unet(Unet),
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
            Self::Unet(_) => vec![tapes::one(self, batch, work)],
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
        }
    }
}

/// Fails unless a batch has the width a network was built for and one noise number a row.
fn check_batch(x: &Tensor<2>, noise: &Tensor<1>, width: usize) -> Result<()> {
    let [rows, dim] = x.dims();
    ensure!(dim == width, "the batch has rows of {dim} values: this network was built for {width}");
    let numbers = noise.dims()[0];
    ensure!(numbers == rows, "a batch of {rows} rows came with {numbers} noise numbers: give one a row");
    Ok(())
}
