//! Autoregressive models of pictures (van den Oord et al. 2016): a distribution of every pixel given those before it, with an exact
//! probability of the gray levels, and samples pixel by pixel. The loss is −ln P(x), in nats a picture, the mean over the batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{
    Condition, Density, Error, Keys, Kind, Meaning, Request, Result, Tensor,
    likelihood::LogDensity,
    objective::Pixels,
    pixel::{PixelDistribution, PixelLikelihood},
    rows,
};
use stein_base::Explain;
use stein_nn::{AnyNetwork, NetworkSize, PixelCnnPpConfig, PixelRows, layers::Init};

use super::{
    Batch, Capability, Family, Generator, Learned, Learner, Learners, Loss, Make, Networks, check_hides,
    check_label_dropout, hide_labels,
};

/// The name of the one learner.
const NETWORK: &str = "pixel_cnn";

/// An autoregressive model of pictures and how it is trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct PixelCnn {
    /// The distribution of a pixel.
    pub likelihood: PixelLikelihood,
    /// The gray levels, as the codecs make states of them.
    pub pixels: Pixels,
    /// How large the network is.
    pub network: PixelCnnPpConfig,
    /// The probability that an example's class is hidden in training; default 0. With some, one may sample without a class.
    pub label_dropout: f64,
}

impl PixelCnn {
    fn distribution(&self, shape: &[usize]) -> Result<(PixelDistribution, [usize; 3])> {
        let Ok(shape) = <[usize; 3]>::try_from(shape) else {
            return Err(Error::new(format!(
                "a PixelCNN is of pictures, and the data are samples of shape {shape:?}: give data of shape [height, width, channels]"
            )));
        };
        Ok((PixelDistribution::new(self.likelihood, shape[2], self.pixels)?, shape))
    }

    /// ln P of rows, in nats, `[rows, 1]`.
    fn log_probability(
        &self,
        network: &PixelRows,
        x: &Tensor<2>,
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<Tensor<2>> {
        let (distribution, _) = self.distribution(&network.shape())?;
        let numbers = network.numbers(x.clone().into(), given, dropout)?.value;
        Ok(distribution.log_probability(x.clone(), numbers)?.sum_dim(1))
    }
}

fn pixels(network: &AnyNetwork) -> Result<&PixelRows> {
    network.get().ok_or_else(|| Error::of(Kind::Mismatch, "the network is no PixelCNN"))
}

impl Family for PixelCnn {
    fn check(&self) -> Result<()> {
        self.pixels.check()?;
        check_label_dropout(self.label_dropout)
    }

    fn learners(&self, make: &Make) -> Result<Vec<Learner>> {
        check_hides(self.label_dropout, make)?;
        let (distribution, shape) = self.distribution(make.shape)?;
        let init = &mut Init::new(make.seed, make.device);
        let network = self.network.on_rows(shape, distribution.numbers(), make.classes, init)?;
        Ok(vec![Learner::new(NETWORK, AnyNetwork::own(network))])
    }

    fn sizes(&self, &Make { shape, classes, .. }: &Make) -> Result<Vec<NetworkSize>> {
        let (distribution, _) = self.distribution(shape)?;
        Ok(vec![self.network.size(shape, distribution.numbers(), classes)?])
    }

    fn loss(&self, _: &str, learners: &Learners, batch: &Batch) -> Result<Option<Loss>> {
        if batch.step == 0 {
            self.pixels.check_states(&batch.x)?;
        }
        let given = hide_labels(&batch.given, &batch.keys, self.label_dropout);
        let network = pixels(learners.network(NETWORK)?)?;
        Ok(Loss::some(self.log_probability(network, &batch.x, &given, Some(&batch.keys))?.mean().neg()))
    }

    /// bits/dim, without dropout.
    fn held_out(&self, learners: &Learners, batch: &Batch) -> Result<Vec<(String, f64)>> {
        let nats = self.log_probability(pixels(learners.network(NETWORK)?)?, &batch.x, &batch.given, None)?.mean();
        let bits = -nats.into_scalar::<f64>() / batch.x.dims()[1] as f64 / std::f64::consts::LN_2;
        Ok(vec![("bits_per_dim".to_owned(), bits)])
    }

    fn learned(&self, mut networks: Networks) -> Result<Learned> {
        let network = pixels(&networks.take(NETWORK)?)?.clone();
        let model = Arc::new(Trained { model: self.clone(), network });
        Ok(Learned {
            generator: Some(model.clone()),
            density: Some(model),
            knows_no_class: self.label_dropout > 0.0,
            ..Learned::default()
        })
    }

    fn serves(&self) -> &'static [Capability] {
        &[Capability::Generator, Capability::Density]
    }
}

/// A trained model.
struct Trained {
    model: PixelCnn,
    network: PixelRows,
}

impl Generator for Trained {
    fn generate(&self, request: &Request) -> Result<Tensor<2>> {
        let (distribution, _) = self.model.distribution(&self.network.shape())?;
        self.network.sample(&distribution, &request.keys(), &request.given)
    }
}

impl Density for Trained {
    fn log_density(&self, x: Tensor<2>, given: &Condition, _: &Keys, _: usize) -> Result<LogDensity> {
        self.model.pixels.check_states(&x)?;
        let count = x.dims()[0];
        let nats = rows::host(&self.model.log_probability(&self.network, &x, given, None)?);
        Ok(LogDensity { nats, standard_errors: Some(vec![0.0; count]), codes: None, evaluations: 1 })
    }

    fn meaning(&self) -> Meaning {
        Meaning { bound: false, of_levels: true, method: "the chain rule over pixels, exactly" }
    }
}
