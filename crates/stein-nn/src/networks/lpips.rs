//! LPIPS, a perceptual distance of pictures (Zhang et al., arXiv:1801.03924, equation 1), in its version 0.1.
//!
//! d(a, b) = Σ_l mean_p Σ_c w_lc (â_lpc − b̂_lpc)², where a_l and b_l are what layer l of a network of ImageNet's classes
//! gives for (a − shift)/scale and (b − shift)/scale, with hats divided by their length ‖·‖ + 1e-10 over channels c at every position p,
//! and w_l ≥ 0 were fitted to judgments of people.
//!
//! Pictures are `[N, H, W, 3]` with numbers in \[−1, 1\]. The distance is 0 for equal pictures; in f32 it is differentiable
//! there too, with gradient 0.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use stein::{Result, ensure};
use stein_base::Explain;

use crate::{
    init::Init,
    layers::{Conv, Linear},
    ops::{self, Activation, Dual, Windows},
    trace::note,
};

/// What is subtracted from every channel, and what divides it then.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// What is added to lengths, so that zeros stay zeros.
const EPSILON: f64 = 1e-10;
/// The least square of a length, far below [`EPSILON`]²: the root's slope is finite from there on.
const LEAST: f64 = 1e-30;

/// The network of ImageNet's classes whose layers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Backbone {
    /// AlexNet (Krizhevsky, arXiv:1404.5997), five layers: the usual choice for reported distances.
    #[default]
    Alex,
    /// VGG-16 (Simonyan & Zisserman, arXiv:1409.1556), five layers: the usual choice for losses.
    Vgg,
    /// SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360), seven layers: the smallest.
    Squeeze,
}

/// A step through a backbone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// A convolution and relu.
    Conv { size: usize, stride: usize, pad: usize, outputs: usize },
    /// A fire module: a squeezing convolution of one tap, and two side by side that expand it by this factor, of one tap and of
    /// 3 × 3, each with relu.
    Fire { squeeze: usize, expand: usize },
    /// Maxima of windows.
    Pool(Windows),
    /// A layer to compare ends here.
    Tap,
}

impl Backbone {
    /// The steps, in order.
    pub(crate) fn steps(self) -> Vec<Step> {
        let conv = |size, stride, pad, outputs| Step::Conv { size, stride, pad, outputs };
        let fire = |squeeze, expand| Step::Fire { squeeze, expand };
        match self {
            Self::Alex => {
                let pool = Step::Pool(Windows::new(3, 2));
                vec![
                    conv(11, 4, 2, 64),
                    Step::Tap,
                    pool,
                    conv(5, 1, 2, 192),
                    Step::Tap,
                    pool,
                    conv(3, 1, 1, 384),
                    Step::Tap,
                    conv(3, 1, 1, 256),
                    Step::Tap,
                    conv(3, 1, 1, 256),
                    Step::Tap,
                ]
            }
            Self::Vgg => {
                let mut steps = Vec::new();
                for (stage, (count, outputs)) in
                    [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)].into_iter().enumerate()
                {
                    if stage > 0 {
                        steps.push(Step::Pool(Windows::new(2, 2)));
                    }
                    steps.extend(vec![conv(3, 1, 1, outputs); count]);
                    steps.push(Step::Tap);
                }
                steps
            }
            Self::Squeeze => {
                let pool = Step::Pool(Windows { partial: true, ..Windows::new(3, 2) });
                vec![
                    conv(3, 2, 0, 64),
                    Step::Tap,
                    pool,
                    fire(16, 4),
                    fire(16, 4),
                    Step::Tap,
                    pool,
                    fire(32, 4),
                    fire(32, 4),
                    Step::Tap,
                    pool,
                    fire(48, 4),
                    Step::Tap,
                    fire(48, 4),
                    Step::Tap,
                    fire(64, 4),
                    Step::Tap,
                    fire(64, 4),
                    Step::Tap,
                ]
            }
        }
    }

    /// Whether every window finds as many places as it has, of pictures of this height or width.
    fn fits(self, size: usize) -> bool {
        let after = |places: Option<usize>, step: Step| {
            let places = places?;
            match step {
                Step::Conv { size, stride, pad, .. } => Some((places + 2 * pad).checked_sub(size)? / stride + 1),
                Step::Pool(windows) => (places >= windows.size).then(|| windows.count(places)),
                Step::Fire { .. } | Step::Tap => Some(places),
            }
        };
        self.steps().into_iter().fold(Some(size), after).is_some()
    }
}

/// The distance: a backbone and its weights w. [`import::lpips`](crate::import::lpips) reads them.
#[derive(Module, Debug)]
pub struct Lpips {
    layers: Vec<Layer>,
    heads: Vec<Linear>,
    #[module(skip)]
    backbone: Backbone,
}

impl Lpips {
    /// The distance with fresh weights of the backbone, and w = 0.
    pub fn new(backbone: Backbone, init: &mut Init) -> Self {
        let (mut layers, mut heads) = (Vec::new(), Vec::new());
        let mut channels = 3;
        for step in backbone.steps() {
            match step {
                Step::Conv { size, outputs, .. } => {
                    layers.push(Layer::Conv(Conv::of_size([size; 2], channels, outputs, init)));
                    channels = outputs;
                }
                Step::Fire { squeeze, expand } => {
                    layers.push(Layer::Fire(Fire {
                        squeeze: Conv::of_size([1, 1], channels, squeeze, init),
                        expand1x1: Conv::of_size([1, 1], squeeze, squeeze * expand, init),
                        expand3x3: Conv::new(squeeze, squeeze * expand, init),
                    }));
                    channels = 2 * squeeze * expand;
                }
                Step::Pool(_) => {}
                Step::Tap => heads.push(Linear::zero(channels, 1, init).without_bias()),
            }
        }
        Self { layers, heads, backbone }
    }

    /// The distances `[N]` of pictures `[N, H, W, 3]` with numbers in \[−1, 1\].
    ///
    /// # Errors
    /// When there are no pictures, their sizes differ, they are not in color, or they are too small for the backbone.
    ///
    /// ```
    /// use stein_nn::{Backbone, Lpips, burn::tensor::Tensor, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// let distance = Lpips::new(Backbone::Squeeze, &mut Init::new(1, &device));
    /// let black = Tensor::<4>::ones([2, 32, 32, 3], &device) * -1.0;
    /// assert_eq!(distance.distance(black.clone(), -black)?.dims(), [2]);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn distance(&self, a: Tensor<4>, b: Tensor<4>) -> Result<Tensor<1>> {
        let [count, ..] = a.dims();
        Ok(self.per_layer(a, b)?.sum_dim(1).reshape([count]))
    }

    /// The terms of the distance, `[N, layers]`.
    ///
    /// # Errors
    /// As [`distance`](Self::distance).
    pub fn per_layer(&self, a: Tensor<4>, b: Tensor<4>) -> Result<Tensor<2>> {
        let [count, height, width, channels] = a.dims();
        ensure!(
            a.dims() == b.dims(),
            "pictures of shape {:?} have no distance to others of {:?}: give two batches of one shape",
            a.dims(),
            b.dims()
        );
        ensure!(count > 0, "there are no pictures to take distances of");
        ensure!(channels == 3, "the pictures have {channels} channels: this distance is of color, 3 channels");
        let side = height.min(width);
        ensure!(
            self.backbone.fits(side),
            "the pictures are {height} x {width}: this backbone takes no less than {least} x {least}",
            least = (side + 1..).find(|side| self.backbone.fits(*side)).unwrap_or(usize::MAX)
        );
        let terms = self.taps(a).into_iter().zip(self.taps(b)).zip(&self.heads).map(|((a, b), head)| {
            let [_, height, width, _] = a.dims();
            let difference = directions(a) - directions(b);
            let weighted = head.forward(Dual::from(difference.clone() * difference)).value;
            weighted.reshape([count, height * width]).mean_dim(1)
        });
        Ok(Tensor::cat(terms.collect(), 1))
    }

    /// What the layers that are compared give for pictures.
    fn taps(&self, pictures: Tensor<4>) -> Vec<Tensor<4>> {
        let constant = |values: [f32; 3]| {
            Tensor::<1>::from_data(values, (&pictures.device(), pictures.dtype())).reshape([1, 1, 1, 3])
        };
        let mut h = Dual::from((pictures.clone() - constant(SHIFT)) / constant(SCALE));
        let mut layers = self.layers.iter();
        let mut taps = Vec::with_capacity(self.heads.len());
        for step in self.backbone.steps() {
            h = match step {
                Step::Pool(windows) => ops::max_pool(h, &windows),
                Step::Tap => {
                    note(|| format!("taps.{}", taps.len()), &h);
                    taps.push(h.value.clone());
                    h
                }
                Step::Conv { stride, pad, .. } => match layers.next() {
                    Some(Layer::Conv(conv)) => relu(vec![h], ops::Conv { stride, pad: [pad; 4], ..conv.plain() }),
                    _ => unreachable!("layers were made of the same steps"),
                },
                Step::Fire { .. } => match layers.next() {
                    Some(Layer::Fire(fire)) => fire.forward(h),
                    _ => unreachable!("layers were made of the same steps"),
                },
            };
        }
        taps
    }
}

/// A layer with weights.
#[derive(Module, Debug)]
enum Layer {
    /// See [`Step::Conv`].
    Conv(Conv),
    /// See [`Step::Fire`].
    Fire(Fire),
}

#[derive(Module, Debug)]
struct Fire {
    squeeze: Conv,
    expand1x1: Conv,
    expand3x3: Conv,
}

impl Fire {
    fn forward(&self, x: Dual<4>) -> Dual<4> {
        let h = relu(vec![x], self.squeeze.plain());
        let expanded = [&self.expand1x1, &self.expand3x3].map(|conv| relu(vec![h.clone()], conv.plain()));
        Dual::cat(expanded.into(), 3)
    }
}

fn relu(parts: Vec<Dual<4>>, conv: ops::Conv) -> Dual<4> {
    ops::activate(ops::conv2d(parts, conv), Activation::Relu)
}

/// The features of every position divided by their length.
fn directions(x: Tensor<4>) -> Tensor<4> {
    let square = (x.clone() * x.clone()).sum_dim(3).clamp_min(LEAST);
    x / (square.sqrt() + EPSILON)
}
