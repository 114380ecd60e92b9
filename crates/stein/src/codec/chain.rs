//! Codecs one after the other: encoding from the first to the last, decoding from the last to the first; ln |det| is the sum of
//! theirs, each at the point it is applied to.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{AnyCodec, AnyCodecConfig, Attached, Codec, DataSample};
use crate::{Keys, Result, autoencoder::Autoencoder};

/// Codecs one after the other; without any, the data are the states.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Chain(pub Vec<AnyCodec>);

impl Chain {
    /// Fits every codec to what the ones before it make of the data.
    ///
    /// # Errors
    /// Those of the codecs, with their places and names.
    pub fn fit(configs: &[AnyCodecConfig], sample: &DataSample) -> Result<Self> {
        sample.check()?;
        let keys = Keys::range(0, 0, sample.rows());
        let mut chain = Self::default();
        // What the last codec made; before the first there are the data.
        let mut made: Option<Tensor<2>> = None;
        for (place, config) in configs.iter().enumerate() {
            let named = |error: crate::Error| error.at(format!("codec {} ({})", place + 1, config.kind()));
            let (codec, x) = match made {
                None => {
                    let data = TensorData::new(sample.values.to_vec(), [sample.rows(), sample.dim]);
                    let x = Tensor::from_data(data, (&Device::flex(), DType::F32));
                    (config.fit(sample).map_err(named)?, x)
                }
                Some(x) => {
                    let values: Vec<f32> = x.to_data().iter::<f32>().collect();
                    // What a codec before it made is no longer of levels.
                    let sample = DataSample { values: &values, dim: x.dims()[1], levels: None };
                    (config.fit(&sample).map_err(named)?, x)
                }
            };
            made = Some(codec.encode(x, &keys).map_err(named)?);
            chain.0.push(codec);
        }
        Ok(chain)
    }

    /// Gives the latents in it their network.
    pub fn attach(&mut self, network: Arc<dyn Autoencoder>) {
        for codec in &mut self.0 {
            if let AnyCodec::Latents(latents) = codec {
                latents.network = Attached(Some(Arc::clone(&network)));
            }
        }
    }
}

impl Codec for Chain {
    fn check(&self) -> Result<()> {
        self.0.iter().try_for_each(|codec| codec.check())
    }

    fn state(&self, data: &[usize]) -> Result<Vec<usize>> {
        self.0.iter().try_fold(data.to_vec(), |shape, codec| codec.state(&shape))
    }

    fn encode(&self, x: Tensor<2>, keys: &Keys) -> Result<Tensor<2>> {
        self.0.iter().try_fold(x, |x, codec| codec.encode(x, keys))
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        self.0.iter().rev().try_fold(x, |x, codec| codec.decode(x))
    }

    fn log_det(&self, x: &Tensor<2>, keys: &Keys) -> Result<Option<Vec<f64>>> {
        let mut sum = vec![0.0; x.dims()[0]];
        let mut x = x.clone();
        for codec in &self.0 {
            let Some(terms) = codec.log_det(&x, keys)? else { return Ok(None) };
            sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            x = codec.encode(x, keys)?;
        }
        Ok(Some(sum))
    }

    fn range(&self, data: (f64, f64)) -> Option<(f64, f64)> {
        self.0.iter().try_fold(data, |range, codec| codec.range(range))
    }
}
