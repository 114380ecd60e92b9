//! Latents of an autoencoder (Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752, section
//! 3.2 and appendix G): with its encoder E and decoder D, a state is z = scale (E(x) − shift), and data are x = D(z/scale + shift).
//!
//! There is no density of data, as an autoencoder is no bijection. The numbers here say how latents are moved; the network, which has weights,
//! is stored beside the model and [attached](super::Chain::attach) where the model is read.

use std::{ops::Range, sync::Arc};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnyCodec, Codec, DataSample, FitCodec, check_width};
use crate::{Error, Keys, Result, autoencoder::Autoencoder, ensure, numbers::ensure_within};

/// Latents of pictures of one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Latents {
    /// Height, width and channels of a picture.
    pub pictures: [usize; 3],
    /// Height, width and channels of its latents.
    pub latents: [usize; 3],
    /// What is subtracted from latents.
    pub shift: f64,
    /// What they are then multiplied by.
    pub scale: f64,
    /// The autoencoder, once it is attached.
    #[serde(skip)]
    pub network: Attached,
}

impl Default for Latents {
    fn default() -> Self {
        Self { pictures: [1; 3], latents: [1; 3], shift: 0.0, scale: 1.0, network: Attached(None) }
    }
}

/// Latents of a trained autoencoder: what an experiment says of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct OfAutoencoder {
    /// The run or checkpoint of the autoencoder, which was trained on such data; it must be given. Its own codecs come before, so that it
    /// stands alone. Latents are shifted and scaled to mean 0 and deviation 1, drawn once for each example, and kept in the run.
    pub model: String,
}

impl FitCodec for OfAutoencoder {
    fn fit(&self, _: &DataSample) -> Result<AnyCodec> {
        Err(Error::new("an autoencoder comes from a model, and stands alone among the codecs: leave out the others"))
    }
}

/// An autoencoder, or the place for one. All are equal: which it is stands beside.
#[derive(Clone, Default)]
pub struct Attached(pub Option<Arc<dyn Autoencoder>>);

impl PartialEq for Attached {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Attached" } else { "None" })
    }
}

/// Most numbers of pictures that are encoded or decoded at a time: their activations are some hundred times larger.
const AT_ONCE: usize = 1 << 16;

impl Latents {
    /// Rows `[rows, width]` through the network, a few at a time, to rows of another width.
    fn in_parts(
        &self,
        x: Tensor<2>,
        [from, to]: [[usize; 3]; 2],
        of: impl Fn(&dyn Autoencoder, Tensor<2>, Range<usize>) -> Result<Tensor<2>>,
    ) -> Result<Tensor<2>> {
        let Some(network) = &self.network.0 else {
            return Err(Error::new("the autoencoder of these latents is not attached: its weights are missing"));
        };
        let [rows, found] = x.dims();
        check_width("autoencoder", from.iter().product(), found)?;
        let part = (AT_ONCE / self.pictures.iter().product::<usize>()).max(1);
        let mut parts = Vec::with_capacity(rows.div_ceil(part));
        for first in (0..rows).step_by(part) {
            let range = first..rows.min(first + part);
            let y = of(&**network, x.clone().narrow(0, first, range.len()), range.clone())?;
            ensure!(
                y.dims() == [range.len(), to.iter().product()],
                "the autoencoder gives rows of {} numbers where {to:?} was said: its file is of another model",
                y.dims()[1]
            );
            parts.push(y);
        }
        Ok(Tensor::cat(parts, 0))
    }
}

impl Codec for Latents {
    fn check(&self) -> Result<()> {
        ensure_within("codec autoencoder: shift", self.shift, -1e6..=1e6)?;
        ensure_within("codec autoencoder: the size of scale", self.scale.abs(), 1e-6..=1e6)?;
        ensure!(
            self.pictures.iter().chain(&self.latents).all(|&size| (1..=1 << 20).contains(&size)),
            "codec autoencoder: pictures of {:?} and latents of {:?} are none",
            self.pictures,
            self.latents
        );
        Ok(())
    }

    fn state(&self, data: &[usize]) -> Result<Vec<usize>> {
        ensure!(
            data == self.pictures,
            "codec autoencoder: the autoencoder is one of pictures of {:?} (height, width, channels), and the data are {data:?}",
            self.pictures
        );
        Ok(self.latents.to_vec())
    }

    fn encode(&self, x: Tensor<2>, keys: &Keys) -> Result<Tensor<2>> {
        let latents = self.in_parts(x, [self.pictures, self.latents], |network, x, rows| {
            network.encode(x, Some(&keys.select(&rows.collect::<Vec<_>>())))
        })?;
        Ok((latents - self.shift) * self.scale)
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        let latents = x / self.scale + self.shift;
        self.in_parts(latents, [self.latents, self.pictures], |network, z, _| network.decode(z))
    }

    fn log_det(&self, _: &Tensor<2>, _: &Keys) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }
}
