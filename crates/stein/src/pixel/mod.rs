//! Distributions of the gray levels of a pixel, which image decoders and autoregressive models give by numbers for each pixel. One file
//! each.
//!
//! Pictures are rows, `[rows, pixels · channels]`, the channels of a pixel next to each other; the numbers of their distributions lie the
//! same way, `[rows, pixels · numbers]`.

mod bernoulli;
mod categorical;
mod logistic_mixture;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

pub use logistic_mixture::LogisticMixture;

use crate::{Error, Keys, Purpose, Result, ensure, numbers::ensure_within, objective::Pixels, rows};

/// Which distribution a pixel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PixelLikelihood {
    /// A mixture of logistic laws, cut into the bins of the gray levels; of three channels each has its mean moved by those before it
    /// (Salimans et al., arXiv:1701.05517, equations 1 to 3).
    LogisticMixture {
        /// Components of the mixture, from 1 to 1000; default 10.
        #[serde(default = "ten")]
        components: usize,
    },
    /// A probability of every gray level, the softmax of as many logits; channels are independent.
    Categorical {},
    /// The probability of the upper of two levels, the sigmoid of a logit; channels are independent.
    Bernoulli {},
}

fn ten() -> usize {
    10
}

impl Default for PixelLikelihood {
    fn default() -> Self {
        Self::LogisticMixture { components: ten() }
    }
}

/// The distribution of pixels of a number of channels, each of which has one of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelDistribution {
    likelihood: PixelLikelihood,
    channels: usize,
    pixels: Pixels,
}

impl PixelDistribution {
    /// This distribution of pixels with these channels and values.
    ///
    /// # Errors
    /// Settings out of range, no channels, and a distribution that is not one of such pixels: a logistic mixture is of 1 or 3 channels, a
    /// Bernoulli law of 2 levels.
    pub fn new(likelihood: PixelLikelihood, channels: usize, pixels: Pixels) -> Result<Self> {
        pixels.check()?;
        ensure!(channels > 0, "the pixels have no channels: give pictures with at least 1");
        match likelihood {
            PixelLikelihood::LogisticMixture { components } => {
                ensure_within("likelihood: components", components, 1..=1000)?;
                ensure!(
                    [1, 3].contains(&channels),
                    "a logistic mixture is of pixels with 1 or 3 channels, and these have {channels}: take kind = \"categorical\""
                );
            }
            PixelLikelihood::Categorical {} => {}
            PixelLikelihood::Bernoulli {} => ensure!(
                pixels.levels == 2,
                "a Bernoulli law is of 2 levels, and the pixels have {}: take kind = \"logistic_mixture\" or \"categorical\"",
                pixels.levels
            ),
        }
        Ok(Self { likelihood, channels, pixels })
    }

    /// The channels of a pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The values of its channels.
    pub fn pixels(&self) -> &Pixels {
        &self.pixels
    }

    /// How many numbers say what the distribution of a pixel is.
    pub fn numbers(&self) -> usize {
        match self.likelihood {
            PixelLikelihood::LogisticMixture { components } => {
                components * LogisticMixture::numbers_per_component(self.channels)
            }
            PixelLikelihood::Categorical {} => self.channels * self.pixels.levels as usize,
            PixelLikelihood::Bernoulli {} => self.channels,
        }
    }

    /// How many uniform numbers it takes to draw a pixel: of a mixture one for each component, then one for each channel.
    pub fn uniforms(&self) -> usize {
        match self.likelihood {
            PixelLikelihood::LogisticMixture { components } => components + self.channels,
            PixelLikelihood::Categorical {} | PixelLikelihood::Bernoulli {} => self.channels,
        }
    }

    /// ln P of every pixel of pictures `x` `[rows, pixels · channels]`, given `numbers` `[rows, pixels · numbers]`: `[rows, pixels]`, in nats
    /// and differentiable by the numbers.
    ///
    /// # Errors
    /// Widths that do not fit.
    pub fn log_probability(&self, x: Tensor<2>, numbers: Tensor<2>) -> Result<Tensor<2>> {
        let ([rows, dim], wide) = (x.dims(), numbers.dims());
        let pixels = dim / self.channels;
        ensure!(
            dim == pixels * self.channels && wide == [rows, pixels * self.numbers()],
            "the distributions of {pixels} pixels of {rows} pictures are {} numbers each, and {wide:?} came for {rows} x {dim} values",
            self.numbers()
        );
        let x = x.reshape([rows * pixels, self.channels]);
        let numbers = numbers.reshape([rows * pixels, self.numbers()]);
        let each = match self.likelihood {
            PixelLikelihood::LogisticMixture { .. } => {
                LogisticMixture::of(numbers, self.channels).log_probability(x, &self.pixels)
            }
            PixelLikelihood::Categorical {} => categorical::log_probability(x, numbers, &self.pixels),
            PixelLikelihood::Bernoulli {} => bernoulli::log_probability(x, numbers, &self.pixels),
        };
        Ok(each.reshape([rows, pixels]))
    }

    /// Pictures `[rows, pixels · channels]` of `numbers` `[rows, pixels · numbers]` and of uniform numbers in \[0, 1\]
    /// `[rows, pixels · uniforms]`: each channel has exactly one of its values.
    ///
    /// # Errors
    /// Widths that do not fit.
    pub fn draw(&self, numbers: Tensor<2>, uniforms: Tensor<2>) -> Result<Tensor<2>> {
        let ([rows, wide], given) = (numbers.dims(), uniforms.dims());
        let pixels = wide / self.numbers();
        ensure!(
            wide == pixels * self.numbers() && given == [rows, pixels * self.uniforms()],
            "pixels are drawn of {} numbers each and {} uniform ones, and {given:?} uniform ones came for {rows} x {wide}",
            self.numbers(),
            self.uniforms()
        );
        let numbers = numbers.reshape([rows * pixels, self.numbers()]);
        let uniforms = uniforms.reshape([rows * pixels, self.uniforms()]);
        let x = match self.likelihood {
            PixelLikelihood::LogisticMixture { .. } => {
                LogisticMixture::of(numbers, self.channels).draw(uniforms, &self.pixels, true)
            }
            PixelLikelihood::Categorical {} => categorical::draw(numbers, uniforms, &self.pixels),
            PixelLikelihood::Bernoulli {} => bernoulli::draw(numbers, uniforms, &self.pixels),
        };
        Ok(x.reshape([rows, pixels * self.channels]))
    }

    /// The same by keys, one for each row; `step` tells draws of one row apart.
    ///
    /// # Errors
    /// Widths that do not fit, and other than one key for each row.
    pub fn sample(&self, numbers: Tensor<2>, keys: &Keys, step: u64) -> Result<Tensor<2>> {
        let [rows, wide] = numbers.dims();
        ensure!(keys.len() == rows, "{} keys came for {rows} pictures: give one for each", keys.len());
        let dim = wide / self.numbers() * self.uniforms();
        let uniforms = rows::matrix(keys.uniforms(Purpose::Sampler, step, dim), dim, &numbers);
        self.draw(numbers, uniforms)
    }
}

impl Pixels {
    /// Fails unless all states are gray levels, within a hundredth of the distance of two.
    ///
    /// # Errors
    /// The first that is none, with what to do about it.
    pub fn check_states(&self, x: &Tensor<2>) -> Result<()> {
        let Self { levels, low, high } = *self;
        let off = rows::host(x).into_iter().find(|x| {
            let place = (x - low) / (2.0 * self.half_bin());
            (place - place.round()).abs() > 0.01 || !(-0.01..f64::from(levels) - 0.99).contains(&place)
        });
        let Some(off) = off else { return Ok(()) };
        Err(Error::new(format!(
            "pixels have {levels} levels from {low} to {high}, and a state is {off}: give the levels of the data, and codecs that keep them, such \
             as symmetric alone"
        )))
    }

    /// The numbers of the levels next to `x`, from 0, as numbers of the kind of `x`.
    fn level<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let number = x.sub_scalar(self.low).div_scalar(2.0 * self.half_bin()).round();
        number.clamp(0.0, f64::from(self.levels - 1))
    }

    /// The values of levels by number.
    fn value<const D: usize>(&self, level: Tensor<D>) -> Tensor<D> {
        level.mul_scalar(2.0 * self.half_bin()).add_scalar(self.low)
    }
}
