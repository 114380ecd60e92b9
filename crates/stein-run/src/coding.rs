//! The autoencoder of states that are latents: which it is, its weights, and how it comes out of a run.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use stein::{
    Device, Error, Keys, Kind, Result, TensorData,
    autoencoder::Autoencoder,
    codec::{AnyCodec, Chain, Codec, Latents},
    ensure, rows,
};
use stein_data::Data;
use stein_nn::{Checkpoint, FirstStageConfig, LearnerState, Tensors, Weights, state};

use crate::{
    AnyFamily, AutoencoderModel, Family,
    description::described,
    family::{AUTOENCODER, Make, Networks},
    model::checkpoint_of,
};

/// The autoencoder of latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Coding {
    /// Which it is.
    #[serde(flatten)]
    pub network: Coder,
    /// Its weights, where they are to be stored with what is trained on its latents.
    #[serde(skip)]
    weights: Arc<Tensors>,
}

/// Which autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coder {
    /// That of a pipeline.
    Published(FirstStageConfig),
    /// One that was trained here.
    Trained(AutoencoderModel),
}

/// Most pictures whose latents are looked at to measure their mean and deviation.
pub(crate) const MEASURED: usize = 1024;

impl Coding {
    /// That of a pipeline; its weights are stored by whoever imports it.
    pub(crate) fn published(config: FirstStageConfig) -> Self {
        Self { network: Coder::Published(config), weights: Arc::default() }
    }

    /// That of a run or checkpoint, with the codecs from data to its latents, shifted and scaled to mean 0 and deviation 1 over `values`, rows
    /// of the data.
    ///
    /// # Errors
    /// A model that is no autoencoder, or is one of other data.
    pub(crate) fn open(model: &str, data: &Data, values: &[f32]) -> Result<(Chain, Self)> {
        ensure!(!model.is_empty(), "codec autoencoder: give the run of the autoencoder, model = \"RUN\"");
        let at = |error: Error| error.at(format!("data.codec: {model}"));
        let path = checkpoint_of(model.as_ref()).map_err(at)?;
        let mut saved = Checkpoint::read_weights(&path, Weights::Ema).map_err(at)?;
        let description = described(&saved.metadata).map_err(at)?;
        let AnyFamily::AutoencoderModel(family) = description.family else {
            return Err(Error::of(
                Kind::Unsupported,
                format!(
                    "data.codec: {model} is a model of the family {}, and an autoencoder is needed",
                    description.family.kind()
                ),
            ));
        };
        let subject = description.subject;
        ensure!(
            Kind::Mismatch,
            subject.shape == data.shape,
            "data.codec: {model} is an autoencoder of {} ({}), and {} has samples of {}: train one on such",
            subject.name,
            subject.shape,
            data.name,
            data.shape
        );
        let weights = saved.learners.remove(AUTOENCODER).unwrap_or_default();
        // What only training needs stays behind.
        let family = AutoencoderModel { discriminator: None, perceptual: None, ..family };
        let coding = Self { network: Coder::Trained(family), weights: Arc::new(weights) };
        let Some((height, width, channels)) = subject.image() else {
            return Err(Error::of(Kind::Mismatch, format!("data.codec: {model} is no autoencoder of pictures")));
        };
        let pictures = [height, width, channels];
        let network = coding.network(pictures, &coding.weights, &Device::flex()).map_err(at)?;
        let latents = Latents { pictures, latents: network.latent_shape(), ..Latents::default() };
        let mut codec = subject.codec;
        codec.0.push(latents.into());
        codec.attach(network);
        let count = values.len() / data.dim();
        let x = TensorData::new(values.to_vec(), [count, data.dim()]);
        let x = stein::Tensor::from_data(x, &Device::flex());
        let found = rows::host(&codec.encode(x, &Keys::range(0, 0, count))?);
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        let variance = found.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / found.len() as f64;
        ensure!(
            variance > 0.0 && variance.is_finite(),
            "data.codec: all latents of {model} are {mean}: it has learned nothing of these data"
        );
        if let Some(AnyCodec::Latents(latents)) = codec.0.last_mut() {
            (latents.shift, latents.scale) = (mean, variance.sqrt().recip());
        }
        Ok((codec, coding))
    }

    /// What a checkpoint stores of it beside the learners, by name.
    pub(crate) fn stored(&self) -> (String, LearnerState) {
        let weights = (*self.weights).clone();
        (AUTOENCODER.to_owned(), LearnerState { weights, average: None, optimizer: Tensors::new() })
    }

    /// Gives latents their autoencoder, whose weights are among those of learners.
    ///
    /// # Errors
    /// Weights that are missing or of another network.
    pub(crate) fn attach(
        &self,
        codec: &mut Chain,
        pictures: [usize; 3],
        learners: &BTreeMap<String, Tensors>,
        device: &Device,
    ) -> Result<()> {
        let weights = learners.get(AUTOENCODER).ok_or_else(|| {
            Error::of(Kind::Mismatch, "there are no weights of the autoencoder of the latents: the file is damaged")
        })?;
        codec.attach(self.network(pictures, weights, device)?);
        Ok(())
    }

    /// The network for pictures `[height, width, channels]`.
    fn network(&self, pictures: [usize; 3], weights: &Tensors, device: &Device) -> Result<Arc<dyn Autoencoder>> {
        let family = match &self.network {
            Coder::Published(config) => return Ok(Arc::new(config.coder(pictures, weights, device)?)),
            Coder::Trained(family) => family,
        };
        let make = Make { shape: &pictures, classes: 0, beside: 0, text: None, seed: 0, device };
        let learners = family.learners(&make)?.into_iter().map(|learner| (learner.name, learner.network));
        let mut networks: Networks = learners.collect();
        let network = state::load(networks.take(AUTOENCODER)?, weights)?;
        let learned = family.learned([(AUTOENCODER.to_owned(), network)].into_iter().collect())?;
        learned.autoencoder.ok_or_else(|| Error::of(Kind::Mismatch, "what was stored as an autoencoder is none"))
    }
}
