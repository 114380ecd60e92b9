//! NCSN, the noise-conditional score network (Song & Ermon, arXiv:1907.05600, appendix A).
//!
//! A dilated RefineNet whose every normalization has a gain γ, a gain α and a shift β of the noise level i:
//!
//! γ_i ((x − μ)/√(var + ε) + α_i (μ − m)/√(v + ε)) + β_i
//!
//! with μ and var the mean and the variance of every channel of an image, m and v the mean and the unbiased variance of
//! μ. Four stages have C, 2C, 2C and 2C channels; the second halves the image, the third and the fourth dilate their
//! convolutions by 2 and 4 instead. The output is the score of the data blurred with noise of level i.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Result};
use stein_base::Explain;

use super::{
    Nonlinearity,
    images::image_network,
    refine_net::{FOUR_STAGES, RefineNet, RefineNetForm},
};
use crate::{init::Init, ops::Dual};

/// The size of an NCSN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct NcsnConfig {
    /// Channels of the first stage, half of those of the others; at least 2, default 128; 64 was published for MNIST.
    pub channels: usize,
    /// Channels of the images; at least 1, default 3.
    pub inputs: usize,
    /// Channels of the output; at least 1, default 3.
    pub outputs: usize,
    /// Number of noise levels, each of which has gains and shifts of its own; at least 1, default 10.
    pub levels: usize,
    /// Whether images in \[0, 1\] are mapped to \[−1, 1\] first; default true.
    pub centers: bool,
    /// The activation: `elu` (default), `relu`, `leaky_relu` or `silu`.
    pub nonlinearity: Nonlinearity,
}

impl Default for NcsnConfig {
    fn default() -> Self {
        Self { channels: 128, inputs: 3, outputs: 3, levels: 10, centers: true, nonlinearity: Nonlinearity::Elu }
    }
}

impl NcsnConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<Ncsn> {
        let Self { channels, inputs, outputs, levels, centers, nonlinearity } = *self;
        let (stages, conditional) = (FOUR_STAGES, true);
        let form = RefineNetForm { channels, inputs, outputs, stages, levels, conditional, centers, nonlinearity };
        Ok(Ncsn { trunk: RefineNet::new(&form, init)? })
    }
}

/// A noise-conditional score network.
#[derive(Module, Debug)]
pub struct Ncsn {
    trunk: RefineNet,
}

impl Ncsn {
    /// The score of images `[N, H, W, C]` at noise levels, whole numbers counted from 0; its derivative along a level
    /// is zero.
    ///
    /// # Errors
    /// When a number is no level, anything else is given, or the images do not fit: H and W are even.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        self.trunk.forward(x, &self.trunk.levels(&context.noise)?, context)
    }
}

image_network!(Ncsn, NcsnConfig { inputs, outputs });
