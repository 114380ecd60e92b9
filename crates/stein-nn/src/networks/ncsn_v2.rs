//! NCSNv2 (Song & Ermon, arXiv:2006.09011, appendix B).
//!
//! A dilated RefineNet F that knows nothing of the noise, whose output is divided by its standard deviation:
//!
//! s(x, i) = F(x)/σ_i,  σ_i = σ_first (σ_last/σ_first)^(i/(L − 1)),  i = 0 … L − 1,
//!
//! or σ_i in equal steps.
//!
//! Normalizations are those of NCSN without the levels, on the way down only, and pooling takes maxima. Networks for
//! larger images have more stages that halve, and 4C channels in the two dilated ones.

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use stein::{Context, Error, Result, ensure};
use stein_base::Explain;

use super::{
    Nonlinearity,
    images::image_network,
    refine_net::{FOUR_STAGES, RefineNet, RefineNetForm, StageKind},
};
use crate::{init::Init, ops::Dual};

/// The size of an NCSNv2, and its noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct NcsnV2Config {
    /// Channels of the first stage; at least 2, default 128.
    pub channels: usize,
    /// Number of stages: 4 (default) for images of height 32 or 64, 5 ("deeper") for 96 or 128, 6 ("deepest") for 256.
    pub stages: usize,
    /// Channels of the images; at least 1, default 3.
    pub inputs: usize,
    /// Channels of the output; at least 1, default 3.
    pub outputs: usize,
    /// Number of noise levels; at least 1, default 232.
    pub levels: usize,
    /// Standard deviation of the noise of level 0; positive, default 50.
    pub sigma_first: f64,
    /// Standard deviation of the noise of the last level; positive, default 0.01.
    pub sigma_last: f64,
    /// Whether images in \[0, 1\] are mapped to \[−1, 1\] first; default true.
    pub centers: bool,
    /// The activation: `elu` (default), `relu`, `leaky_relu` or `silu`.
    pub nonlinearity: Nonlinearity,
    /// How the levels between the first and the last are spaced: `geometric` (default) or `uniform`.
    pub spacing: LevelSpacing,
}

/// How noise levels are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum LevelSpacing {
    /// In equal ratios.
    Geometric,
    /// In equal steps.
    Uniform,
}

impl Default for NcsnV2Config {
    fn default() -> Self {
        Self {
            channels: 128,
            stages: 4,
            inputs: 3,
            outputs: 3,
            levels: 232,
            sigma_first: 50.0,
            sigma_last: 0.01,
            centers: true,
            nonlinearity: Nonlinearity::Elu,
            spacing: LevelSpacing::Geometric,
        }
    }
}

impl NcsnV2Config {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<NcsnV2> {
        let Self { channels, stages, inputs, outputs, levels, sigma_first, sigma_last, centers, nonlinearity, .. } =
            *self;
        let dilated = [(4, StageKind::Dilate(2)), (4, StageKind::Dilate(4))];
        let halving = |count: usize| {
            let halved = std::iter::repeat_n((2, StageKind::Halve), count);
            std::iter::once((1, StageKind::Keep)).chain(halved).chain(dilated).collect()
        };
        let stages: Vec<_> = match stages {
            4 => FOUR_STAGES.to_vec(),
            5 => halving(2),
            6 => halving(3),
            other => return Err(Error::new(format!("network.stages is {other}: give 4, 5 or 6"))),
        };
        for (name, sigma) in [("sigma_first", sigma_first), ("sigma_last", sigma_last)] {
            ensure!(sigma > 0.0 && sigma.is_finite(), "network.{name} is {sigma}: give a positive number");
        }
        let (stages, conditional) = (&stages[..], false);
        let form = RefineNetForm { channels, inputs, outputs, stages, levels, conditional, centers, nonlinearity };
        Ok(NcsnV2 { trunk: RefineNet::new(&form, init)?, sigmas: self.sigmas() })
    }

    /// The standard deviation of the noise of every level. They are f32, as the reference has them whatever it computes
    /// in.
    pub(crate) fn sigmas(&self) -> Vec<f32> {
        let uniform = self.spacing == LevelSpacing::Uniform;
        let place = |sigma: f64| if uniform { sigma } else { sigma.ln() };
        let (first, last) = (place(self.sigma_first), place(self.sigma_last));
        let step = (last - first) / self.levels.saturating_sub(1).max(1) as f64;
        let sigma = |place: f64| if uniform { place } else { place.exp() };
        (0..self.levels).map(|level| sigma(first + step * level as f64) as f32).collect()
    }
}

/// A score network of the second version.
#[derive(Module, Debug)]
pub struct NcsnV2 {
    trunk: RefineNet,
    #[module(skip)]
    sigmas: Vec<f32>,
}

impl NcsnV2 {
    /// The score of images `[N, H, W, C]` at noise levels, whole numbers counted from 0; its derivative along a level
    /// is zero.
    ///
    /// # Errors
    /// When a number is no level, anything else is given, or the images do not fit: H and W are divisible by
    /// 2, 4 or 8 with 4, 5 or 6 stages.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        let (device, kind) = (x.value.device(), x.value.dtype());
        let levels = self.trunk.levels(&context.noise)?;
        let sigmas = TensorData::new(levels.iter().map(|level| self.sigmas[*level]).collect(), [levels.len(), 1, 1, 1]);
        let sigmas = Tensor::<4>::from_data(sigmas, (&device, kind));
        let y = self.trunk.forward(x, &levels, context)?;
        Ok(y.linear(|y| y / sigmas.clone()))
    }
}

image_network!(NcsnV2, NcsnV2Config { inputs, outputs });
