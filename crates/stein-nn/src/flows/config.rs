//! Which normalizing flow, by name.

use stein::{Device, Result};

use super::{FlowConfig as Flow, GlowConfig as Glow};
use crate::{
    init::Init,
    networks::{AnyNetwork, Build, NetworkSize, check_config},
};

stein_base::registry! {
    /// Which normalizing flow, and how large.
    InvertibleConfig, "normalizing flow": Build {
        /// Coupling or autoregressive layers with affine maps or splines, for points, tables and small images and series.
        "flow" => Flow,
        /// The multi-scale flow of images.
        "glow" => Glow,
    }
}

/// A flow of rows.
impl Default for InvertibleConfig {
    fn default() -> Self {
        Flow::default().into()
    }
}

impl InvertibleConfig {
    /// The network with fresh weights for samples of this shape: as [`NetworkConfig::build`](crate::NetworkConfig::build), and one to
    /// [get](AnyNetwork::get) an [`AnyFlow`](super::AnyFlow) of.
    ///
    /// # Errors
    /// When the config is not one of a network, or the network is not one for that shape.
    ///
    /// ```
    /// use stein::{Condition, Device, Tensor};
    /// use stein_nn::flows::{AnyFlow, InvertibleConfig, InvertibleNetwork};
    ///
    /// let network = InvertibleConfig::named("flow")?.build(&[2], 0, 1, &Device::flex())?;
    /// let flow = network.get::<AnyFlow>().expect("it was built as one");
    /// let z = Tensor::<2>::zeros([5, 2], &Device::flex());
    /// let x = flow.decode(z, &Condition::none())?;
    /// assert_eq!(flow.log_prob(x, &Condition::none())?.dims(), [5]);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(&self, shape: &[usize], classes: usize, seed: u64, device: &Device) -> Result<AnyNetwork> {
        self.size(shape, classes)?;
        self.build_any(shape, classes, &mut Init::new(seed, device))
    }

    /// How large the network is, without making it.
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
