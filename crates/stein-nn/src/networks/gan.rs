//! The two networks of a generative adversarial network: a generator G(z, y) of samples and a discriminator D(x, y) that gives one logit.
//!
//! Of pictures they are those of DCGAN (Radford et al., arXiv:1511.06434), a convolution of stride 2 or a doubled size a level, or residual
//! ones (Gulrajani et al., arXiv:1704.00028, appendix F). Three things differ: activations are silu, which is smooth, so that slopes of D have
//! derivatives everywhere; sizes double by repetition, which leaves no checkerboard; and nothing is normalized over a batch, so that a
//! sample is a function of its latent alone and D of its input alone.
//!
//! A class y stands beside z as an embedding of the width of z, and D is a projection discriminator (Miyato & Koyama, arXiv:1802.05637,
//! eq. 3): with the features φ(x),
//!
//! > D(x, y) = w · φ(x) + b + e_y · φ(x)

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use stein::{Context, Network, Result, ensure};
use stein_base::Explain;

use super::{
    NetworkSize, Takes, check_width,
    config::BuildNetwork,
    images::height_width_channels,
    units::{Norms, Units, check_halvings, halved, head},
};
use crate::{
    embedding::class_vectors,
    init::Init,
    layers::{BlockForm, Conv, Dropout, GroupNorm, Linear, ResBlock, Resample},
    ops::{self, Dual},
};

/// How group normalizations are made.
const NORMS: Norms = Norms { groups: None, epsilon: 1e-5 };

/// One of the two networks of a generative adversarial network, and how large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PlayerConfig {
    /// A perceptron, for points, rows of tables, and small pictures and series, flattened.
    Mlp {
        /// Width of the layers, at least 1; default 256.
        #[serde(default = "hidden")]
        hidden: usize,
        /// Hidden layers, at least 1; default 3.
        #[serde(default = "layers")]
        layers: usize,
    },
    /// A convolution of 3 × 3 a level, for pictures of any size.
    Convolutional {
        /// Channels of each level, the one next to the picture first; every level halves the size. Default `[32, 64, 128]`.
        #[serde(default = "channels")]
        channels: Vec<usize>,
    },
    /// A residual block a level, for pictures whose size is divisible by 2 to the number of levels.
    Residual {
        /// Channels of each level, the one next to the picture first; every level halves the size. Default `[32, 64, 128]`.
        #[serde(default = "channels")]
        channels: Vec<usize>,
    },
}

fn hidden() -> usize {
    256
}

fn layers() -> usize {
    3
}

fn channels() -> Vec<usize> {
    vec![32, 64, 128]
}

impl Default for PlayerConfig {
    fn default() -> Self {
        Self::Mlp { hidden: hidden(), layers: layers() }
    }
}

/// A picture and the levels below it.
struct Levels<'a> {
    channels: &'a [usize],
    residual: bool,
    picture: usize,
    /// Height and width of every level, that of the picture first.
    sizes: Vec<[usize; 2]>,
}

impl Levels<'_> {
    /// Values of one sample at the last level.
    fn last(&self) -> usize {
        let [height, width] = self.sizes[self.channels.len()];
        height * width * self.channels[self.channels.len() - 1]
    }

    /// A residual block.
    fn block(channels: [usize; 2], resample: Resample, init: &mut Init) -> Result<ResBlock> {
        Units { form: BlockForm::default(), norms: NORMS }.block(channels, resample, init)
    }
}

impl PlayerConfig {
    /// Width and number of the layers of a perceptron, or the levels of pictures.
    fn parts(&self, shape: &[usize]) -> Result<std::result::Result<[usize; 2], Levels<'_>>> {
        let (channels, residual) = match self {
            Self::Mlp { hidden, layers } => {
                ensure!(
                    *hidden > 0 && *layers > 0,
                    "a perceptron of {layers} layers of {hidden} numbers is none: give network.layers and network.hidden of at least 1"
                );
                return Ok(Ok([*hidden, *layers]));
            }
            Self::Convolutional { channels } => (channels, false),
            Self::Residual { channels } => (channels, true),
        };
        let [height, width, picture] = height_width_channels(shape)?;
        ensure!(
            !channels.is_empty() && channels.iter().all(|&channels| channels > 0),
            "network.channels is {channels:?}: give the channels of each level, such as [32, 64, 128]"
        );
        if residual {
            check_halvings([height, width], channels.len())?;
        }
        let half = |size: &[usize; 2]| Some(size.map(|size| size.div_ceil(2)));
        let sizes = std::iter::successors(Some([height, width]), half).take(channels.len() + 1).collect();
        Ok(Err(Levels { channels, residual, picture, sizes }))
    }

    /// The generator of samples of this shape of `latent` numbers each and a class, if it knows any.
    ///
    /// # Errors
    /// When a number of the config is out of its range, or samples are no pictures the config is for.
    pub fn generator(&self, latent: usize, shape: &[usize], classes: usize, init: &mut Init) -> Result<Generator> {
        ensure!(latent > 0, "the latent has no numbers: give it at least one");
        let inputs = if classes > 0 { 2 * latent } else { latent };
        let classes = (classes > 0).then(|| init.normal([classes, latent], 1.0));
        let (input, body) = match self.parts(shape)? {
            Ok([hidden, layers]) => {
                let input = Linear::new(inputs, hidden, init);
                let layers = (1..layers).map(|_| init.check().map(|()| Linear::new(hidden, hidden, init)));
                let layers = layers.collect::<Result<_>>()?;
                let output = Linear::new(hidden, shape.iter().product(), init);
                (input, Making::Row(RowMaking { layers, output }))
            }
            Err(levels) => {
                let channels = levels.channels;
                init.at_level(usize::BITS as usize);
                let input = Linear::new(inputs, levels.last(), init);
                let mut ups = Vec::new();
                for level in (0..channels.len()).rev() {
                    init.at_level(level);
                    init.check()?;
                    let through = [channels[level], channels[level.saturating_sub(1)]];
                    ups.push(if levels.residual {
                        Up::Residual(Levels::block(through, Resample::Nearest, init)?)
                    } else {
                        let norm = NORMS.of(through[0], init)?;
                        Up::Plain(PlainUp { norm, conv: Conv::new(through[0], through[1], init) })
                    });
                }
                let norm = NORMS.of(channels[0], init)?;
                let output = Conv::new(channels[0], levels.picture, init);
                let making =
                    PictureMaking { ups, norm, output, sizes: levels.sizes, last: channels[channels.len() - 1] };
                (input, Making::Picture(making))
            }
        };
        Ok(Generator { input, classes, body, latent })
    }

    /// The discriminator of samples of this shape, and of whether they are of the class that is said, if it knows any.
    ///
    /// # Errors
    /// As [`generator`](Self::generator).
    pub fn discriminator(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Discriminator> {
        let dim = shape.iter().product();
        let (features, width) = match self.parts(shape)? {
            Ok([hidden, layers]) => {
                let layer = |i| init.check().map(|()| Linear::new(if i == 0 { dim } else { hidden }, hidden, init));
                (Features::Row((0..layers).map(layer).collect::<Result<_>>()?), hidden)
            }
            Err(levels) => {
                let (first, all) = (levels.channels[0], levels.channels);
                let features = if levels.residual {
                    let input = Conv::new(levels.picture, first, init);
                    let mut block = |level: usize| {
                        init.at_level(level + 1);
                        init.check()?;
                        Levels::block([all[level.saturating_sub(1)], all[level]], Resample::Mean, init)
                    };
                    let blocks = (0..all.len()).map(&mut block).collect::<Result<_>>()?;
                    let norm = NORMS.of(all[all.len() - 1], init)?;
                    Features::Residual(ResidualFeatures { input, blocks, norm, shape: picture_shape(&levels) })
                } else {
                    let mut conv = |level: usize| {
                        init.at_level(level + 1);
                        let inputs = if level == 0 { levels.picture } else { all[level - 1] };
                        init.check().map(|()| Conv::new(inputs, all[level], init))
                    };
                    let convs = (0..all.len()).map(&mut conv).collect::<Result<_>>()?;
                    Features::Plain(PlainFeatures { convs, shape: picture_shape(&levels) })
                };
                (features, levels.last())
            }
        };
        init.at_level(usize::BITS as usize);
        Ok(Discriminator {
            features,
            logit: Linear::new(width, 1, init),
            classes: (classes > 0).then(|| init.normal([classes, width], (width as f64).powf(-0.5))),
            dim,
        })
    }

    /// How large the generator is, without making it.
    ///
    /// # Errors
    /// As [`generator`](Self::generator).
    pub fn generator_size(&self, latent: usize, shape: &[usize], classes: usize) -> Result<NetworkSize> {
        NetworkSize::of_config(&Generating { config: self, latent }, shape, classes)
    }

    /// How large the discriminator is, without making it.
    ///
    /// # Errors
    /// As [`discriminator`](Self::discriminator).
    pub fn discriminator_size(&self, shape: &[usize], classes: usize) -> Result<NetworkSize> {
        NetworkSize::of_config(&Discriminating { config: self }, shape, classes)
    }
}

fn picture_shape(levels: &Levels) -> [usize; 3] {
    let [height, width] = levels.sizes[0];
    [height, width, levels.picture]
}

#[derive(Serialize)]
struct Generating<'a> {
    config: &'a PlayerConfig,
    latent: usize,
}

impl BuildNetwork for Generating<'_> {
    type Net = Generator;

    fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Generator> {
        self.config.generator(self.latent, shape, classes, init)
    }
}

#[derive(Serialize)]
struct Discriminating<'a> {
    config: &'a PlayerConfig,
}

impl BuildNetwork for Discriminating<'_> {
    type Net = Discriminator;

    fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Discriminator> {
        self.config.discriminator(shape, classes, init)
    }
}

/// A generator, built by [`PlayerConfig::generator`]: of latents `[rows, latent]`, samples `[rows, dim]`. It does not look at noise numbers.
#[derive(Module, Debug)]
pub struct Generator {
    input: Linear,
    classes: Option<Param<Tensor<2>>>,
    body: Making,
    latent: usize,
}

/// Classes that a table is of.
fn known(table: Option<&Param<Tensor<2>>>) -> usize {
    table.map_or(0, |table| table.dims()[0])
}

impl Network for Generator {
    fn forward(&self, z: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let rows = z.dims()[0];
        check_width(&z, self.latent)?;
        Takes { classes: known(self.classes.as_ref()), ..Takes::default() }.check(context, rows)?;
        let z = match &self.classes {
            Some(table) => {
                let class = class_vectors(table, context.given, &z.value)?;
                Dual::cat(vec![z, class.into()], 1)
            }
            None => z,
        };
        Ok(self.body.forward(self.input.forward(z)))
    }
}

#[derive(Module, Debug)]
enum Making {
    Row(RowMaking),
    Picture(PictureMaking),
}

#[derive(Module, Debug)]
struct RowMaking {
    layers: Vec<Linear>,
    output: Linear,
}

#[derive(Module, Debug)]
struct PictureMaking {
    ups: Vec<Up>,
    norm: GroupNorm,
    output: Conv,
    #[module(skip)]
    sizes: Vec<[usize; 2]>,
    last: usize,
}

/// From a level to the one above it, of twice the size.
#[derive(Module, Debug)]
enum Up {
    Plain(PlainUp),
    Residual(ResBlock),
}

/// K silu(GN h) of every place repeated.
#[derive(Module, Debug)]
struct PlainUp {
    norm: GroupNorm,
    conv: Conv,
}

impl Making {
    fn forward(&self, h: Dual<2>) -> Dual<2> {
        match self {
            Self::Row(RowMaking { layers, output }) => {
                output.forward(ops::silu(layers.iter().fold(h, |h, layer| layer.forward(ops::silu(h)))))
            }
            Self::Picture(PictureMaking { ups, norm, output, sizes, last }) => {
                let rows = h.dims()[0];
                let [height, width] = sizes[ups.len()];
                let mut h = h.reshape([rows, height, width, *last]);
                for (up, &size) in ups.iter().zip(sizes[..ups.len()].iter().rev()) {
                    h = match up {
                        Up::Plain(PlainUp { norm, conv }) => {
                            conv.forward(cropped(ops::upsample_nearest(norm.forward_silu(h)), size))
                        }
                        Up::Residual(block) => block.forward(vec![h], None, &Dropout::none()),
                    };
                }
                let picture = head(h, norm, output, None);
                let [_, height, width, channels] = picture.dims();
                picture.reshape([rows, height * width * channels])
            }
        }
    }
}

/// The upper left part of images, of this size: what was doubled from half of an odd size has a row too many.
fn cropped(h: Dual<4>, [height, width]: [usize; 2]) -> Dual<4> {
    let [_, tall, wide, _] = h.dims();
    if [tall, wide] == [height, width] { h } else { h.linear(|h| h.narrow(1, 0, height).narrow(2, 0, width)) }
}

/// A discriminator, built by [`PlayerConfig::discriminator`]: of samples `[rows, dim]`, logits `[rows, 1]`. It does not look at noise numbers.
#[derive(Module, Debug)]
pub struct Discriminator {
    features: Features,
    logit: Linear,
    classes: Option<Param<Tensor<2>>>,
    dim: usize,
}

impl Network for Discriminator {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        check_width(&x, self.dim)?;
        Takes { classes: known(self.classes.as_ref()), ..Takes::default() }.check(context, x.dims()[0])?;
        let features = self.features.forward(x);
        let logit = self.logit.forward(features.clone());
        let Some(table) = &self.classes else { return Ok(logit) };
        let class = class_vectors(table, context.given, &features.value)?;
        Ok(logit + (features * class.into()).linear(|x| x.sum_dim(1)))
    }
}

#[derive(Module, Debug)]
enum Features {
    Row(Vec<Linear>),
    Plain(PlainFeatures),
    Residual(ResidualFeatures),
}

#[derive(Module, Debug)]
struct PlainFeatures {
    convs: Vec<Conv>,
    shape: [usize; 3],
}

#[derive(Module, Debug)]
struct ResidualFeatures {
    input: Conv,
    blocks: Vec<ResBlock>,
    norm: GroupNorm,
    shape: [usize; 3],
}

impl Features {
    /// Of rows, `[rows, width]`.
    fn forward(&self, x: Dual<2>) -> Dual<2> {
        let rows = x.dims()[0];
        let picture = |x: Dual<2>, [height, width, channels]: [usize; 3]| x.reshape([rows, height, width, channels]);
        let h = match self {
            Self::Row(layers) => return layers.iter().fold(x, |h, layer| ops::silu(layer.forward(h))),
            Self::Plain(PlainFeatures { convs, shape }) => {
                convs.iter().fold(picture(x, *shape), |h, conv| ops::silu(halved(vec![h], conv, false)))
            }
            Self::Residual(ResidualFeatures { input, blocks, norm, shape }) => {
                let none = Dropout::none();
                let through = |h, block: &ResBlock| block.forward(vec![h], None, &none);
                norm.forward_silu(blocks.iter().fold(input.forward(picture(x, *shape)), through))
            }
        };
        let [_, height, width, channels] = h.dims();
        h.reshape([rows, height * width * channels])
    }
}
