//! A small convolutional classifier of pictures: a feature extractor for metrics, and, where it takes the noise level, the
//! p(y | x, σ) of classifier guidance (Dhariwal & Nichol, arXiv:2105.05233, section 4).
//!
//! A convolution, and per level one residual block, K₂ silu(GN(K₁ silu(GN h) + W_e e)) + S h, with a convolution of stride 2 from
//! level to level; then
//!
//! f = W_f mean_p silu(GN h) + b_f,  logits = W silu(f) + b,
//!
//! where e is the silu of the [embedding](crate::EmbeddingConfig) of the noise number; without one there is no W_e. f is the
//! feature vector. W starts at zero, so fresh logits are zero. Pictures are `[N, H, W, C]` of any size; channels-last
//! throughout.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Classified, Condition, Context, Network, Result, ensure};
use stein_base::Explain;

use super::{
    AnyNetwork, Build, NetworkSize, check_width,
    images::height_width_channels,
    takes::Takes,
    units::{Norms, Units, check_multipliers, halved},
};
use crate::{
    embedding::{Embedding, EmbeddingConfig},
    init::Init,
    layers::{BlockForm, Conv, Dropout, GroupNorm, Linear, ResBlock, Resample},
    ops::{self, Dual},
};

/// What group normalizations add to the variance.
const EPSILON: f64 = 1e-5;

/// The size of a classifier; the default has 0.2 million weights, for pictures of about 32 × 32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Channels at the first level for multiplier 1; even, default 32.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 2]`.
    pub multipliers: Vec<usize>,
    /// Numbers of the feature vector; at least 1, default 64.
    pub features: usize,
    /// The features of the noise number, for a classifier of noisy pictures; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<EmbeddingConfig>,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self { channels: 32, multipliers: vec![1, 2, 2], features: 64, embedding: None }
    }
}

impl ClassifierConfig {
    /// The network for pictures of this many channels and for this many classes.
    ///
    /// # Errors
    /// When the config is not one of a network, or there are no channels or classes.
    ///
    /// ```
    /// use stein_nn::{ClassifierConfig, burn::tensor::Tensor, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// let network = ClassifierConfig::default().build(1, 10, &mut Init::new(1, &device))?;
    /// let seen = network.forward(Tensor::<4>::zeros([2, 28, 28, 1], &device).into(), None)?;
    /// assert_eq!((seen.logits.dims(), seen.features.dims()), ([2, 10], [2, 64]));
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(&self, inputs: usize, classes: usize, init: &mut Init) -> Result<Classifier> {
        let Self { channels, features, .. } = *self;
        ensure!(
            channels > 0 && channels.is_multiple_of(2),
            "classifier.channels is {channels}: give a positive even number, such as 32"
        );
        ensure!(features > 0, "classifier.features is 0: give the length of the feature vector, such as 64");
        ensure!(
            inputs > 0 && classes > 0,
            "a classifier of {classes} classes for pictures of {inputs} channels has nothing to tell: give at least one of each"
        );
        check_multipliers(&self.multipliers)?;
        let wide = 4 * channels;
        let embedding = self.embedding.as_ref();
        let embedding = embedding.map(|config| Embedding::new(config, channels, wide, 0, init)).transpose()?;
        let form = BlockForm { embedding: embedding.is_some().then_some(wide), ..BlockForm::default() };
        let norms = Norms { groups: None, epsilon: EPSILON };
        let units = Units { form, norms };
        let input = Conv::new(inputs, channels, init);
        let mut last = channels;
        let mut levels = Vec::new();
        for (level, multiplier) in self.multipliers.iter().enumerate() {
            let halve = (level > 0).then(|| Conv::new(last, last, init));
            let outputs = channels * multiplier;
            levels.push(Level { halve, block: units.block([last, outputs], Resample::Keep, init)? });
            last = outputs;
        }
        Ok(Classifier {
            embedding,
            input,
            levels,
            norm: norms.of(last, init)?,
            features: Linear::new(last, features, init),
            logits: Linear::zero(features, classes, init),
            inputs,
        })
    }

    /// How large the network for pictures of this shape is, without making it.
    ///
    /// # Errors
    /// When the config is not one of a network, or there are no channels or classes, or samples are no pictures.
    pub fn size(&self, shape: &[usize], classes: usize) -> Result<NetworkSize> {
        NetworkSize::of_config(self, shape, classes)
    }
}

/// As any other network on rows: its output is `[rows, classes + features]`, logits first, and one of pictures without noise does not
/// look at the noise numbers.
impl Build for ClassifierConfig {
    fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        let shape = height_width_channels(shape)?;
        let network = self.build(shape[2], classes, init)?;
        Ok(AnyNetwork::own(ClassifierOnRows { network, shape }))
    }
}

/// The network of a [`ClassifierConfig`].
#[derive(Module, Debug)]
pub struct Classifier {
    embedding: Option<Embedding>,
    input: Conv,
    levels: Vec<Level>,
    norm: GroupNorm,
    features: Linear,
    logits: Linear,
    inputs: usize,
}

impl Classifier {
    /// Of pictures `[N, H, W, C]`, and of their noise numbers `[N]` if it takes them.
    ///
    /// # Errors
    /// When the pictures have other channels or no places, or noise numbers are missing, not one per picture, or not taken.
    pub fn forward(&self, x: Dual<4>, noise: Option<Dual<1>>) -> Result<Classified> {
        let [rows, height, width, channels] = x.dims();
        ensure!(
            channels == self.inputs && height > 0 && width > 0,
            "the pictures are {height} x {width} x {channels}: this classifier takes {} channels of at least one place",
            self.inputs
        );
        let embedded = match (&self.embedding, noise) {
            (None, None) => None,
            (Some(embedding), Some(noise)) => {
                let numbers = noise.dims()[0];
                ensure!(
                    numbers == rows,
                    "a batch of {rows} pictures came with {numbers} noise numbers: give one per picture"
                );
                Some(ops::silu(embedding.forward(noise, &Condition::none())?))
            }
            (None, Some(_)) => {
                return Err(stein::Error::new(
                    "this classifier is of pictures without noise: leave the noise numbers out",
                ));
            }
            (Some(_), None) => {
                return Err(stein::Error::new("this classifier is of noisy pictures: give the noise number of each"));
            }
        };
        let h = self.levels.iter().fold(self.input.forward(x), |h, level| level.forward(h, embedded.clone()));
        let h = self.norm.forward_silu(h);
        let [_, height, width, channels] = h.dims();
        let mean = h.linear(|h| h.reshape([rows, height * width, channels]).mean_dim(1).reshape([rows, channels]));
        let features = self.features.forward(mean);
        Ok(Classified { logits: self.logits.forward(ops::silu(features.clone())), features })
    }
}

/// The blocks of one level, and the convolution to it from the one before.
#[derive(Module, Debug)]
struct Level {
    halve: Option<Conv>,
    block: ResBlock,
}

impl Level {
    fn forward(&self, h: Dual<4>, embedded: Option<Dual<2>>) -> Dual<4> {
        let h = match &self.halve {
            Some(conv) => halved(vec![h], conv, false),
            None => h,
        };
        self.block.forward(vec![h], embedded, &Dropout::none())
    }
}

/// A classifier of pictures of one size as rows.
#[derive(Module, Debug)]
struct ClassifierOnRows {
    network: Classifier,
    shape: [usize; 3],
}

impl Network for ClassifierOnRows {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let [rows, _] = x.dims();
        let [height, width, channels] = self.shape;
        check_width(&x, height * width * channels)?;
        Takes::default().check(context, rows)?;
        let noise = self.network.embedding.is_some().then(|| context.noise.clone());
        let said = self.network.forward(x.reshape([rows, height, width, channels]), noise)?;
        Ok(Dual::cat(vec![said.logits, said.features], 1))
    }
}
