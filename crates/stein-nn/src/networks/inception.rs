//! The Inception-v3 of the Fréchet inception distance (Heusel et al., arXiv:1706.08500; Szegedy et al., arXiv:1512.00567):
//! the network of TensorFlow's graph of 2015-12-05, whose features published FID, KID, Inception Scores and precisions and
//! recalls compare.
//!
//! It is not the Inception-v3 of torchvision: it has 1008 logits, means over 3 × 3 windows leave out what lies beyond the
//! image, and the last block takes the maximum of its windows where the one before it takes the mean. A unit is
//! relu(K x + b), b and K having taken up the batch normalization that follows the convolution:
//! K γ/√(v + 0.001) and β − γ m/√(v + 0.001), with the statistics m and v it was trained with.
//!
//! Pictures are `[N, H, W, C]` of any size, in color or gray, with numbers in \[−1, 1\]. They are resized to 299 × 299 by one of
//! the [two conventions](Resize) of published numbers, which differ.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use stein::Result;
use stein_base::Explain;

use super::{
    images::check_pictures,
    interpolate::{Grid, interpolate},
};
use crate::{
    init::Init,
    layers::{Conv, Linear},
    ops::{self, Activation, Dual, Windows},
    trace::note,
};

/// Height and width of the images the network works on.
const SIZE: usize = 299;
/// Numbers of a picture's features.
const FEATURES: usize = 2048;
/// Classes of the graph, of which 1000 are those of ImageNet.
const CLASSES: usize = 1008;
/// Pictures that are computed at once: what all layers of more of them give would leave the processor's caches anyway.
const AT_ONCE: usize = 8;

/// How pictures become images of 299 × 299. Neither averages where pictures shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Bilinear between the centers of places, and numbers as they are: `pytorch-fid`.
    #[default]
    Bilinear,
    /// Bilinear between places counted from the first, as version 1 of TensorFlow does, and numbers v of 0 to 255 as
    /// (v − 128)/128: the original graph and `torch-fidelity`.
    Tensorflow,
}

impl Resize {
    /// Images `[N, 299, 299, C]` as the network takes them, of pictures `[N, H, W, C]` in \[−1, 1\].
    pub fn apply(self, pictures: Tensor<4>) -> Tensor<4> {
        let to = |grid| interpolate(pictures.into(), [SIZE, SIZE], grid).value;
        match self {
            Self::Bilinear => to(Grid::Centers),
            // (127.5 (x + 1) − 128)/128
            Self::Tensorflow => to(Grid::Origin) * (127.5 / 128.0) - 0.5 / 128.0,
        }
    }
}

/// What the network sees in pictures.
#[derive(Debug, Clone)]
pub struct Features {
    /// The means over positions of the last block, `[N, 2048]`: what distances compare.
    pub pool: Tensor<2>,
    /// The logits of the classes, `[N, 1008]`.
    pub logits: Tensor<2>,
    /// The same without the bias of the last layer, of which Inception Scores are made.
    pub unbiased_logits: Tensor<2>,
}

/// The network. [`import::inception`](crate::import::inception) reads its weights.
#[derive(Module, Debug)]
pub struct Inception {
    conv2d_1a_3x3: Conv,
    conv2d_2a_3x3: Conv,
    conv2d_2b_3x3: Conv,
    conv2d_3b_1x1: Conv,
    conv2d_4a_3x3: Conv,
    mixed_5b: Mixed35,
    mixed_5c: Mixed35,
    mixed_5d: Mixed35,
    mixed_6a: To17,
    mixed_6b: Mixed17,
    mixed_6c: Mixed17,
    mixed_6d: Mixed17,
    mixed_6e: Mixed17,
    mixed_7a: To8,
    mixed_7b: Mixed8,
    mixed_7c: Mixed8,
    fc: Linear,
}

impl Inception {
    /// Numbers of its features.
    pub const FEATURES: usize = FEATURES;
    /// Classes it tells apart.
    pub const CLASSES: usize = CLASSES;

    /// The network with fresh weights.
    pub fn new(init: &mut Init) -> Self {
        let conv = |size: usize, inputs, outputs, init: &mut Init| Conv::of_size([size; 2], inputs, outputs, init);
        Self {
            conv2d_1a_3x3: conv(3, 3, 32, init),
            conv2d_2a_3x3: conv(3, 32, 32, init),
            conv2d_2b_3x3: conv(3, 32, 64, init),
            conv2d_3b_1x1: conv(1, 64, 80, init),
            conv2d_4a_3x3: conv(3, 80, 192, init),
            mixed_5b: Mixed35::new(192, 32, init),
            mixed_5c: Mixed35::new(256, 64, init),
            mixed_5d: Mixed35::new(288, 64, init),
            mixed_6a: To17::new(init),
            mixed_6b: Mixed17::new(128, init),
            mixed_6c: Mixed17::new(160, init),
            mixed_6d: Mixed17::new(160, init),
            mixed_6e: Mixed17::new(192, init),
            mixed_7a: To8::new(init),
            mixed_7b: Mixed8::new(1280, init),
            mixed_7c: Mixed8::new(FEATURES, init),
            fc: Linear::new(FEATURES, CLASSES, init),
        }
    }

    /// The features of pictures `[N, H, W, C]` of one or three channels with numbers in \[−1, 1\], on the network's device.
    /// Published numbers are of pictures in 8 bits: round to those first where they shall be compared.
    ///
    /// # Errors
    /// When there are no pictures, or they have other channels or numbers out of that range.
    ///
    /// ```
    /// use stein_nn::{Inception, Resize, burn::tensor::Tensor, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// let network = Inception::new(&mut Init::new(1, &device));
    /// let gray = Tensor::<4>::zeros([1, 28, 28, 1], &device);
    /// assert_eq!(network.features(gray.clone(), Resize::Bilinear)?.pool.dims(), [1, 2048]);
    /// assert!(network.features(gray + 2.0, Resize::Bilinear).is_err());
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn features(&self, pictures: Tensor<4>, resize: Resize) -> Result<Features> {
        check_pictures(&pictures)?;
        let count = pictures.dims()[0];
        let parts = (0..count).step_by(AT_ONCE).map(|from| {
            let part = pictures.clone().narrow(0, from, AT_ONCE.min(count - from));
            let size = part.dims()[0];
            self.pool(resize.apply(part).expand([size, SIZE, SIZE, 3]).into()).value
        });
        let pool = Tensor::cat(parts.collect(), 0);
        let logits = |layer: &Linear| layer.forward(Dual::from(pool.clone())).value;
        let (logits, unbiased_logits) = (logits(&self.fc), logits(&self.fc.clone().without_bias()));
        Ok(Features { pool, logits, unbiased_logits })
    }

    /// The features `[N, 2048]` of images `[N, 299, 299, 3]`.
    fn pool(&self, x: Dual<4>) -> Dual<2> {
        let noted = |name: &str, x: Dual<4>| {
            note(|| name.to_owned(), &x);
            x
        };
        let h = noted("conv2d_1a_3x3", inside(&self.conv2d_1a_3x3, 2, x));
        let h = noted("conv2d_2a_3x3", inside(&self.conv2d_2a_3x3, 1, h));
        let h = noted("conv2d_2b_3x3", unit(&self.conv2d_2b_3x3, h));
        let h = noted("max_1", ops::max_pool(h, &HALVING));
        let h = noted("conv2d_3b_1x1", unit(&self.conv2d_3b_1x1, h));
        let h = noted("conv2d_4a_3x3", inside(&self.conv2d_4a_3x3, 1, h));
        let h = noted("max_2", ops::max_pool(h, &HALVING));
        let h = noted("mixed_5b", self.mixed_5b.forward(h));
        let h = noted("mixed_5c", self.mixed_5c.forward(h));
        let h = noted("mixed_5d", self.mixed_5d.forward(h));
        let h = noted("mixed_6a", self.mixed_6a.forward(h));
        let h = noted("mixed_6b", self.mixed_6b.forward(h));
        let h = noted("mixed_6c", self.mixed_6c.forward(h));
        let h = noted("mixed_6d", self.mixed_6d.forward(h));
        let h = noted("mixed_6e", self.mixed_6e.forward(h));
        let h = noted("mixed_7a", self.mixed_7a.forward(h));
        let mean = unit_of_mean(&self.mixed_7b.branch_pool, h.clone());
        let h = noted("mixed_7b", self.mixed_7b.forward(h, mean));
        let largest = unit(&self.mixed_7c.branch_pool, ops::max_pool(h.clone(), &AROUND));
        let h = noted("mixed_7c", self.mixed_7c.forward(h, largest));
        let [n, height, width, channels] = h.dims();
        h.linear(|h| h.reshape([n, height * width, channels]).mean_dim(1).reshape([n, channels]))
    }
}

/// 3 × 3 windows all inside, two places apart.
const HALVING: Windows = Windows { size: 3, stride: 2, pad: 0, partial: false };
/// 3 × 3 windows around every place.
const AROUND: Windows = Windows { size: 3, stride: 1, pad: 1, partial: false };

fn relu(x: Dual<4>) -> Dual<4> {
    ops::activate(x, Activation::Relu)
}

/// A unit that keeps the size of images.
fn unit(conv: &Conv, x: Dual<4>) -> Dual<4> {
    relu(conv.forward(x))
}

/// A unit whose windows are all inside.
fn inside(conv: &Conv, stride: usize, x: Dual<4>) -> Dual<4> {
    relu(ops::conv2d(vec![x], ops::Conv { stride, pad: [0; 4], ..conv.plain() }))
}

/// A unit of one tap, of the mean of every 3 × 3 window. The mean is taken of what its sum over channels gives, which is the same
/// and has fewer channels.
fn unit_of_mean(conv: &Conv, x: Dual<4>) -> Dual<4> {
    relu(ops::mean_pool(conv.forward(x), &AROUND))
}

/// Units one after another.
fn units<'a>(convs: impl IntoIterator<Item = &'a Conv>, x: Dual<4>) -> Dual<4> {
    convs.into_iter().fold(x, |x, conv| unit(conv, x))
}

/// A block of 35 × 35 positions.
#[derive(Module, Debug)]
struct Mixed35 {
    branch1x1: Conv,
    branch5x5_1: Conv,
    branch5x5_2: Conv,
    branch3x3dbl_1: Conv,
    branch3x3dbl_2: Conv,
    branch3x3dbl_3: Conv,
    branch_pool: Conv,
}

impl Mixed35 {
    fn new(inputs: usize, pooled: usize, init: &mut Init) -> Self {
        let conv = |size: usize, inputs, outputs, init: &mut Init| Conv::of_size([size; 2], inputs, outputs, init);
        Self {
            branch1x1: conv(1, inputs, 64, init),
            branch5x5_1: conv(1, inputs, 48, init),
            branch5x5_2: conv(5, 48, 64, init),
            branch3x3dbl_1: conv(1, inputs, 64, init),
            branch3x3dbl_2: conv(3, 64, 96, init),
            branch3x3dbl_3: conv(3, 96, 96, init),
            branch_pool: conv(1, inputs, pooled, init),
        }
    }

    fn forward(&self, x: Dual<4>) -> Dual<4> {
        let parts = vec![
            unit(&self.branch1x1, x.clone()),
            units([&self.branch5x5_1, &self.branch5x5_2], x.clone()),
            units([&self.branch3x3dbl_1, &self.branch3x3dbl_2, &self.branch3x3dbl_3], x.clone()),
            unit_of_mean(&self.branch_pool, x),
        ];
        Dual::cat(parts, 3)
    }
}

/// The block from 35 × 35 to 17 × 17 positions.
#[derive(Module, Debug)]
struct To17 {
    branch3x3: Conv,
    branch3x3dbl_1: Conv,
    branch3x3dbl_2: Conv,
    branch3x3dbl_3: Conv,
}

impl To17 {
    fn new(init: &mut Init) -> Self {
        Self {
            branch3x3: Conv::new(288, 384, init),
            branch3x3dbl_1: Conv::of_size([1, 1], 288, 64, init),
            branch3x3dbl_2: Conv::new(64, 96, init),
            branch3x3dbl_3: Conv::new(96, 96, init),
        }
    }

    fn forward(&self, x: Dual<4>) -> Dual<4> {
        let double = units([&self.branch3x3dbl_1, &self.branch3x3dbl_2], x.clone());
        let parts = vec![
            inside(&self.branch3x3, 2, x.clone()),
            inside(&self.branch3x3dbl_3, 2, double),
            ops::max_pool(x, &HALVING),
        ];
        Dual::cat(parts, 3)
    }
}

/// A block of 17 × 17 positions.
#[derive(Module, Debug)]
struct Mixed17 {
    branch1x1: Conv,
    branch7x7_1: Conv,
    branch7x7_2: Conv,
    branch7x7_3: Conv,
    branch7x7dbl_1: Conv,
    branch7x7dbl_2: Conv,
    branch7x7dbl_3: Conv,
    branch7x7dbl_4: Conv,
    branch7x7dbl_5: Conv,
    branch_pool: Conv,
}

impl Mixed17 {
    /// With this many channels between the taps across and down.
    fn new(between: usize, init: &mut Init) -> Self {
        let [one, across, down] = [[1, 1], [1, 7], [7, 1]];
        Self {
            branch1x1: Conv::of_size(one, 768, 192, init),
            branch7x7_1: Conv::of_size(one, 768, between, init),
            branch7x7_2: Conv::of_size(across, between, between, init),
            branch7x7_3: Conv::of_size(down, between, 192, init),
            branch7x7dbl_1: Conv::of_size(one, 768, between, init),
            branch7x7dbl_2: Conv::of_size(down, between, between, init),
            branch7x7dbl_3: Conv::of_size(across, between, between, init),
            branch7x7dbl_4: Conv::of_size(down, between, between, init),
            branch7x7dbl_5: Conv::of_size(across, between, 192, init),
            branch_pool: Conv::of_size(one, 768, 192, init),
        }
    }

    fn forward(&self, x: Dual<4>) -> Dual<4> {
        let double = [
            &self.branch7x7dbl_1,
            &self.branch7x7dbl_2,
            &self.branch7x7dbl_3,
            &self.branch7x7dbl_4,
            &self.branch7x7dbl_5,
        ];
        let parts = vec![
            unit(&self.branch1x1, x.clone()),
            units([&self.branch7x7_1, &self.branch7x7_2, &self.branch7x7_3], x.clone()),
            units(double, x.clone()),
            unit_of_mean(&self.branch_pool, x),
        ];
        Dual::cat(parts, 3)
    }
}

/// The block from 17 × 17 to 8 × 8 positions.
#[derive(Module, Debug)]
struct To8 {
    branch3x3_1: Conv,
    branch3x3_2: Conv,
    branch7x7x3_1: Conv,
    branch7x7x3_2: Conv,
    branch7x7x3_3: Conv,
    branch7x7x3_4: Conv,
}

impl To8 {
    fn new(init: &mut Init) -> Self {
        Self {
            branch3x3_1: Conv::of_size([1, 1], 768, 192, init),
            branch3x3_2: Conv::new(192, 320, init),
            branch7x7x3_1: Conv::of_size([1, 1], 768, 192, init),
            branch7x7x3_2: Conv::of_size([1, 7], 192, 192, init),
            branch7x7x3_3: Conv::of_size([7, 1], 192, 192, init),
            branch7x7x3_4: Conv::new(192, 192, init),
        }
    }

    fn forward(&self, x: Dual<4>) -> Dual<4> {
        let single = unit(&self.branch3x3_1, x.clone());
        let double = units([&self.branch7x7x3_1, &self.branch7x7x3_2, &self.branch7x7x3_3], x.clone());
        let parts = vec![
            inside(&self.branch3x3_2, 2, single),
            inside(&self.branch7x7x3_4, 2, double),
            ops::max_pool(x, &HALVING),
        ];
        Dual::cat(parts, 3)
    }
}

/// A block of 8 × 8 positions.
#[derive(Module, Debug)]
struct Mixed8 {
    branch1x1: Conv,
    branch3x3_1: Conv,
    branch3x3_2a: Conv,
    branch3x3_2b: Conv,
    branch3x3dbl_1: Conv,
    branch3x3dbl_2: Conv,
    branch3x3dbl_3a: Conv,
    branch3x3dbl_3b: Conv,
    branch_pool: Conv,
}

impl Mixed8 {
    fn new(inputs: usize, init: &mut Init) -> Self {
        let [one, across, down] = [[1, 1], [1, 3], [3, 1]];
        Self {
            branch1x1: Conv::of_size(one, inputs, 320, init),
            branch3x3_1: Conv::of_size(one, inputs, 384, init),
            branch3x3_2a: Conv::of_size(across, 384, 384, init),
            branch3x3_2b: Conv::of_size(down, 384, 384, init),
            branch3x3dbl_1: Conv::of_size(one, inputs, 448, init),
            branch3x3dbl_2: Conv::new(448, 384, init),
            branch3x3dbl_3a: Conv::of_size(across, 384, 384, init),
            branch3x3dbl_3b: Conv::of_size(down, 384, 384, init),
            branch_pool: Conv::of_size(one, inputs, 192, init),
        }
    }

    /// With what the branch of windows gives.
    fn forward(&self, x: Dual<4>, pooled: Dual<4>) -> Dual<4> {
        let single = unit(&self.branch3x3_1, x.clone());
        let double = units([&self.branch3x3dbl_1, &self.branch3x3dbl_2], x.clone());
        let parts = vec![
            unit(&self.branch1x1, x),
            unit(&self.branch3x3_2a, single.clone()),
            unit(&self.branch3x3_2b, single),
            unit(&self.branch3x3dbl_3a, double.clone()),
            unit(&self.branch3x3dbl_3b, double),
            pooled,
        ];
        Dual::cat(parts, 3)
    }
}
