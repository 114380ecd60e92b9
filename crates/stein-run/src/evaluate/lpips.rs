//! LPIPS: how different pictures look, by the features of a network (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep
//! Features as a Perceptual Metric").
//!
//! A sample is compared with the picture it should be, row i with row i. The number is the mean over pairs, its error s/√n.

use std::{path::PathBuf, sync::Once};

use serde::{Deserialize, Serialize};
use stein::{Device, Error, Result, Tensor, TensorData, ensure};
use stein_base::Explain;
use stein_metrics::{AnyMetric, Better, Content, Measured, Metric, Needs, Pairing, Rows, Running};
use stein_nn::{Backbone, import};

/// Learned perceptual distance of pairs of pictures.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Lpips {
    /// The network: `alex`, `vgg` or `squeeze`; default `alex`, which the paper measures with.
    pub backbone: Backbone,
    /// Its weights, a file of torchvision.
    pub weights: Option<PathBuf>,
    /// The heads that weigh its features, a file of the package lpips.
    pub heads: Option<PathBuf>,
    /// The shape of a picture, `[height, width, channels]`; default that of the data.
    pub shape: Vec<usize>,
}

/// Pairs that are compared at a time.
const AT_ONCE: usize = 16;

impl Metric for Lpips {
    fn needs(&self) -> Needs {
        Needs { content: Content::Picture, pairs: Pairing::Rows, ..Needs::SETS }
    }

    fn better(&self) -> Better {
        Better::Smaller
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.weights.is_some() && self.heads.is_some(),
            "it needs the weights of its network and the heads: give lpips.weights (torchvision's) and lpips.heads (the package lpips') \
             by --metric-set"
        );
        Ok(())
    }

    fn start(&self, dim: usize) -> Result<Running> {
        self.check()?;
        let &[height, width, channels] = &self.shape[..] else {
            return Err(Error::new("lpips.shape is [height, width, channels] of a picture"));
        };
        ensure!(
            height * width * channels == dim,
            "lpips.shape = {:?} is not that of rows of {dim} numbers",
            self.shape
        );
        let (Some(weights), Some(heads)) = (&self.weights, &self.heads) else { unreachable!("they were checked") };
        let network = import::lpips::load(self.backbone, weights, heads, &Device::flex())?;
        Ok(Running::whole(move |sides| {
            let pictures = |rows: &Rows, first: usize, count: usize| {
                let values = rows.block(first..first + count).into_iter().map(|value| (2.0 * value - 1.0) as f32);
                let data = TensorData::new(values.collect(), [count, height, width, channels]);
                let pictures = Tensor::<4>::from_data(data, &Device::flex());
                if channels == 1 { pictures.repeat_dim(3, 3) } else { pictures }
            };
            let mut distances: Vec<f64> = Vec::new();
            for first in (0..sides.samples.len()).step_by(AT_ONCE) {
                let count = AT_ONCE.min(sides.samples.len() - first);
                let pair = [&sides.samples, &sides.reference].map(|rows| pictures(rows, first, count));
                let [one, other] = pair;
                distances.extend(network.distance(one, other)?.to_data().iter::<f64>());
            }
            Ok(Measured::mean_of(&distances))
        }))
    }
}

/// Its name.
pub(super) const NAME: &str = "lpips";

/// Makes it known by its name, once.
pub(crate) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| AnyMetric::register_explained::<Lpips>(NAME));
}
