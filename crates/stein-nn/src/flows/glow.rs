//! Glow (Kingma & Dhariwal, arXiv:1807.03039): a multi-scale normalizing flow of images, in the form of github.com/rosinality/glow-pytorch.
//!
//! Every level folds 2 × 2 places into channels, takes steps of [`ActNorm`], [`InvertibleConv`] and [`ImageCoupling`], and then lets half of its
//! channels go as noise (Dinh et al., arXiv:1605.08803, section 3.6):
//!
//! z_l ~ N(m, e^{2s}),  (m, s) = K h_l
//!
//! of the half h_l that stays, the last level of zeros, plus what is learned of a class. The noise of the whole network is
//! (z_l − m)/eˢ of all levels, one after the other, each in the order of height, width and channels.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Result, ensure};
use stein_base::Explain;

use super::{
    ActNorm, ActNormForm, AnyFlow, ImageCoupling, ImageCouplingKind, InvertibleConv, InvertibleNetwork, Mapped,
    ZeroConv, check_width, image_coupling::halves, over_rows,
};
use crate::{
    embedding::of_classes,
    init::Init,
    networks::{BuildNetwork, Takes, height_width_channels},
};

/// Most channels of a level: their rotations take the cube of them to draw.
const MOST_CHANNELS: usize = 2048;

/// The size and form of a Glow; the default suits gray pictures of 32 × 32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct GlowConfig {
    /// Levels, each of half the size of the one before; at least 1, default 3. Height and width are multiples of 2^levels.
    pub levels: usize,
    /// Steps of a level; at least 1, default 8.
    pub steps: usize,
    /// Channels within the networks of couplings; at least 1, default 128.
    pub hidden: usize,
    /// What a coupling does; default affine.
    pub coupling: ImageCouplingKind,
    /// Whether the convolutions that mix channels are trained by their factors L U, whose determinant costs nothing; default true.
    /// Those of the last level always are, as in the published code.
    pub lu: bool,
}

impl Default for GlowConfig {
    fn default() -> Self {
        Self { levels: 3, steps: 8, hidden: 128, coupling: ImageCouplingKind::Affine, lu: true }
    }
}

impl GlowConfig {
    /// The network for images `[height, width, channels]` and a number of classes, 0 for none.
    ///
    /// # Errors
    /// When a number of the config is out of its range, and for images that cannot be halved so often.
    pub fn glow(&self, shape: [usize; 3], classes: usize, init: &mut Init) -> Result<Glow> {
        let Self { levels, steps, hidden, coupling, lu } = *self;
        ensure!(
            levels > 0 && steps > 0 && hidden > 0,
            "a Glow of {levels} levels of {steps} steps with {hidden} channels in a coupling is none: give 1 or more of each"
        );
        let [height, width, channels] = shape;
        let smaller = |size: usize| size.checked_shr(levels as u32).unwrap_or(0);
        ensure!(
            [height, width].iter().all(|&size| smaller(size) > 0 && smaller(size) << levels == size),
            "images of {height} x {width} cannot be halved {levels} times: give fewer levels, or sizes that are multiples of 2^levels"
        );
        let most = channels.saturating_mul(2 << levels);
        ensure!(
            most <= MOST_CHANNELS,
            "the last of {levels} levels has {most} channels, and {MOST_CHANNELS} are the most: give fewer levels"
        );
        let mut all = Vec::new();
        for level in 1..=levels {
            init.at_level(level);
            let (wide, last) = (channels << (level + 1), level == levels);
            let step = |_| {
                init.check()?;
                Ok(Step {
                    norm: ActNorm::new(wide, ActNormForm::Published, init),
                    mixing: InvertibleConv::new(wide, lu || last, init),
                    coupling: ImageCoupling::new(wide, hidden, coupling, init),
                })
            };
            let steps = (0..steps).map(step).collect::<Result<_>>()?;
            let seen = if last { wide } else { wide / 2 };
            all.push(Level { steps, prior: ZeroConv::new(seen, 2 * seen, init) });
        }
        let classes = (classes > 0).then(|| init.normal([classes, 2 * most], 0.0));
        Ok(Glow { levels: all, classes, shape })
    }
}

impl BuildNetwork for GlowConfig {
    type Net = AnyFlow;

    fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyFlow> {
        Ok(AnyFlow::Glow(self.glow(height_width_channels(shape)?, classes, init)?))
    }
}

/// The network of a [`GlowConfig`].
#[derive(Module, Debug)]
pub struct Glow {
    levels: Vec<Level>,
    classes: Option<Param<Tensor<2>>>,
    shape: [usize; 3],
}

#[derive(Module, Debug)]
struct Level {
    steps: Vec<Step>,
    prior: ZeroConv,
}

#[derive(Module, Debug)]
struct Step {
    norm: ActNorm,
    mixing: InvertibleConv,
    coupling: ImageCoupling,
}

/// What a level lets go, and the normal distribution it has there.
#[derive(Debug, Clone)]
pub struct Latent {
    /// `[N, h, w, c]`
    pub z: Tensor<4>,
    /// Of that shape.
    pub mean: Tensor<4>,
    /// The logarithm of the standard deviation, of that shape.
    pub log_scale: Tensor<4>,
}

impl Latent {
    /// ln N(z; mean, e^{2 log_scale}) of every image, `[N]`.
    pub fn log_prob(&self) -> Tensor<1> {
        let constant = std::f64::consts::TAU.ln();
        sums((self.noise().square() + constant) * -0.5 - self.log_scale.clone())
    }

    /// (z − mean)/e^log_scale.
    fn noise(&self) -> Tensor<4> {
        (self.z.clone() - self.mean.clone()) * (-self.log_scale.clone()).exp()
    }
}

impl Glow {
    /// What every level lets go of images `[N, H, W, C]`, and ln|det| of the map to that, `[N]`.
    ///
    /// # Errors
    /// Images of another shape, classes it does not know, and convolutions that have become singular.
    pub fn latents(&self, x: Tensor<4>, given: &Condition) -> Result<(Vec<Latent>, Tensor<1>)> {
        let count = x.dims()[0];
        ensure!(
            x.dims() == [count, self.shape[0], self.shape[1], self.shape[2]],
            "the images are of {:?}: this Glow was built for {:?}",
            &x.dims()[1..],
            self.shape
        );
        let classes = self.class_rows(count, given)?;
        let mut sum = Tensor::zeros([count], (&x.device(), x.dtype()));
        let mut latents = Vec::with_capacity(self.levels.len());
        let mut h = x;
        for (number, level) in self.levels.iter().enumerate() {
            h = squeezed(h);
            for step in &level.steps {
                let (y, log_det) = step.forward(h)?;
                (h, sum) = (y, sum + log_det);
            }
            let (stays, z) = if number + 1 == self.levels.len() {
                (h.zeros_like(), h.clone())
            } else {
                let [stays, goes] = halves(h);
                (stays, goes)
            };
            let [mean, log_scale] = self.prior(number, stays.clone(), &classes);
            latents.push(Latent { z, mean, log_scale });
            h = stays;
        }
        Ok((latents, sum))
    }

    fn class_rows(&self, rows: usize, given: &Condition) -> Result<Vec<Option<u32>>> {
        let known = self.classes.as_ref().map_or(0, |table| table.dims()[0]);
        Takes { classes: known, ..Takes::default() }.condition(given, rows)?;
        given.class_rows(rows, known)
    }

    /// Mean and logarithm of the deviation of what a level lets go, of what stays.
    fn prior(&self, level: usize, stays: Tensor<4>, classes: &[Option<u32>]) -> [Tensor<4>; 2] {
        let out = self.levels[level].prior.forward(stays);
        let table = self.classes.as_ref().filter(|_| level + 1 == self.levels.len());
        let [count, .., wide] = out.dims();
        halves(match table.and_then(|table| of_classes(table.val(), classes)) {
            Some(added) => out + added.reshape([count, 1, 1, wide]),
            None => out,
        })
    }

    /// The shape `[h, w, c]` of what a level lets go.
    fn latent_shape(&self, level: usize) -> [usize; 3] {
        let [height, width, channels] = self.shape;
        // The last level keeps nothing.
        let kept = usize::from(level + 1 < self.levels.len());
        [height >> (level + 1), width >> (level + 1), (channels << (level + 2)) >> kept]
    }

    fn images(&self, x: Tensor<2>) -> Result<Tensor<4>> {
        let [height, width, channels] = self.shape;
        check_width(&x, height * width * channels)?;
        Ok(x.reshape([-1, height as i32, width as i32, channels as i32]))
    }
}

impl InvertibleNetwork for Glow {
    fn dim(&self) -> usize {
        self.shape.iter().product()
    }

    fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        let rows = x.dims()[0] as i32;
        let (latents, log_det) = self.latents(self.images(x)?, given)?;
        let log_det = latents.iter().fold(log_det, |sum, latent| sum - sums(latent.log_scale.clone()));
        let noise = latents.iter().map(|latent| latent.noise().reshape([rows, -1])).collect();
        Ok((Tensor::cat(noise, 1), log_det))
    }

    fn inverse(&self, z: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        let [rows, mut end] = z.dims();
        check_width(&z, self.shape.iter().product())?;
        let classes = self.class_rows(rows, given)?;
        let mut sum = Tensor::zeros([rows], (&z.device(), z.dtype()));
        let mut stays = None;
        for (number, level) in self.levels.iter().enumerate().rev() {
            let [height, width, channels] = self.latent_shape(number);
            let count = height * width * channels;
            end -= count;
            let noise = z.clone().narrow(1, end, count).reshape([rows, height, width, channels]);
            let seen = stays.clone().unwrap_or_else(|| noise.zeros_like());
            let [mean, log_scale] = self.prior(number, seen, &classes);
            sum = sum + sums(log_scale.clone());
            let goes = noise * log_scale.exp() + mean;
            let mut h = match stays {
                Some(stays) => Tensor::cat(vec![stays, goes], 3),
                None => goes,
            };
            for step in level.steps.iter().rev() {
                let (x, log_det) = step.inverse(h)?;
                (h, sum) = (x, sum + log_det);
            }
            stays = Some(unsqueezed(h));
        }
        let x = stays.expect("a Glow has a level or more");
        Ok((x.reshape([rows as i32, -1]), sum))
    }

    fn initialized(&self, x: Tensor<2>, given: &Condition) -> Result<Self> {
        self.class_rows(x.dims()[0], given)?;
        let mut h = self.images(x)?;
        let mut levels = self.levels.clone();
        for level in &mut levels {
            h = squeezed(h);
            for step in &mut level.steps {
                step.norm = step.norm.initialized(&h)?;
                h = step.forward(h)?.0;
            }
            [h, _] = halves(h);
        }
        Ok(Self { levels, ..self.clone() })
    }
}

impl Step {
    fn forward(&self, x: Tensor<4>) -> Result<Mapped<4>> {
        let (x, norm) = self.norm.forward(x);
        let (x, mixing) = self.mixing.forward(x)?;
        let (x, coupling) = self.coupling.forward(x);
        Ok((x, norm + mixing + coupling))
    }

    fn inverse(&self, y: Tensor<4>) -> Result<Mapped<4>> {
        let (y, coupling) = self.coupling.inverse(y);
        let (y, mixing) = self.mixing.inverse(y)?;
        let (y, norm) = self.norm.inverse(y);
        Ok((y, norm + mixing + coupling))
    }
}

/// The sums over images.
fn sums(x: Tensor<4>) -> Tensor<1> {
    let count = x.dims()[0] as i32;
    over_rows(x.reshape([count, -1]))
}

/// 2 × 2 places as channels: `[N, H, W, C]` to `[N, H/2, W/2, 4C]`, channel 4c + 2y + x being channel c of place (y, x).
fn squeezed(x: Tensor<4>) -> Tensor<4> {
    let [n, height, width, channels] = x.dims();
    x.reshape([n, height / 2, 2, width / 2, 2, channels]).permute([0, 1, 3, 5, 2, 4]).reshape([
        n,
        height / 2,
        width / 2,
        4 * channels,
    ])
}

/// The way back.
fn unsqueezed(x: Tensor<4>) -> Tensor<4> {
    let [n, height, width, channels] = x.dims();
    x.reshape([n, height, width, channels / 4, 2, 2]).permute([0, 1, 4, 2, 5, 3]).reshape([
        n,
        2 * height,
        2 * width,
        channels / 4,
    ])
}
