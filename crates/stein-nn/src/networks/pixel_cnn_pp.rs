//! PixelCNN++ (Salimans et al., arXiv:1701.05517): of every pixel of a picture, what the distribution of its gray levels is given the pixels
//! before it in raster order.
//!
//! Two streams go through the network. `u` is of the rows above a pixel: its convolutions reach up and to both sides, and its first one is
//! moved down by a row. `ul` is of the rows above and of what is to the left: its convolutions reach up and left, and it takes `u` in at every
//! block. So no pixel has a part in what is said of itself or of those before it, and none that is before is blind.
//!
//! Either stream is a U-Net of gated residual blocks (van den Oord et al., arXiv:1606.05328): with elu(±h) = (elu(h), elu(−h)),
//!
//! > (a, b) = K₂ drop elu±(K₁ elu±(h) + W elu±(aside)) + V y ,  h + a ⊙ sigmoid(b) ,
//!
//! V y being of the class, if the network knows classes. Convolutions of stride 2 lead from level to level, transposed ones back, and every
//! block on the way up takes `aside` what its counterpart on the way down gave. All weights are w = g v/‖v‖ (Salimans & Kingma,
//! arXiv:1602.07868). A channel of ones is appended to the picture, so that its border can be told from zeros.
//!
//! What the paper initializes by a first batch of data, g and the biases, starts here so that a layer keeps the variance of its input.
//!
//! A picture is drawn pixel by pixel. What was found for the pixels before is kept (Ramachandran et al., arXiv:1704.06001), so that all of them
//! together cost one pass through the network, cut into small parts.

use std::sync::OnceLock;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, activation::sigmoid},
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Context, Keys, Network, Result, ensure, numbers::ensure_within, pixel::PixelDistribution};
use stein_base::Explain;

use super::{AnyNetwork, Build, NetworkSize, check_width, images::height_width_channels, takes::Takes};
use crate::{
    init::Init,
    layers::{Dropout, Linear},
    ops::{self, Activation, Dual, Fir, Packed, Weighted},
};

/// Taps down and across of the convolutions of `u` and of `ul`.
const TAPS: [[usize; 2]; 2] = [[2, 3], [2, 2]];
/// Most levels.
const MOST_LEVELS: usize = 8;
/// Standard deviation of v, as published.
const STD: f64 = 0.05;
/// g of the last convolution of a block, as published: a block starts near the identity.
const SMALL: f32 = 0.1;
/// g of transposed convolutions: a quarter of their taps reach a place.
const QUARTER: f32 = 2.0;

/// The size of a [`PixelCnnPp`]; the default is that of the paper's CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct PixelCnnPpConfig {
    /// Channels of all layers; at least 1, default 160.
    pub channels: usize,
    /// Blocks per level on the way down, of each stream; at least 1, default 5. On the way up all levels but the smallest have one more.
    pub blocks: usize,
    /// Levels, each half as high and wide as the one before; from 1 to 8, default 3. Pictures have sides that can be halved so often.
    pub levels: usize,
    /// The share of values that blocks drop in training; at least 0 and below 1, default 0.5.
    pub dropout: f64,
}

impl Default for PixelCnnPpConfig {
    fn default() -> Self {
        Self { channels: 160, blocks: 5, levels: 3, dropout: 0.5 }
    }
}

impl PixelCnnPpConfig {
    /// The network for pictures of these channels and for distributions that `outputs` numbers say each; `classes` is 0 for none.
    ///
    /// # Errors
    /// When the config is not one of a network, or there are no channels or outputs.
    ///
    /// ```
    /// use stein::{Condition, pixel::{PixelDistribution, PixelLikelihood}};
    /// use stein_nn::{PixelCnnPpConfig, burn::tensor::Tensor, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// let gray = PixelDistribution::new(PixelLikelihood::LogisticMixture { components: 5 }, 1, Default::default())?;
    /// let config = PixelCnnPpConfig { channels: 8, blocks: 1, levels: 2, ..PixelCnnPpConfig::default() };
    /// let network = config.build(gray.channels(), gray.numbers(), 0, &mut Init::new(1, &device))?;
    /// let numbers = network.numbers(Tensor::<4>::zeros([2, 6, 8, 1], &device).into(), &Condition::none(), None)?;
    /// assert_eq!(numbers.dims(), [2, 6, 8, 15]);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(&self, inputs: usize, outputs: usize, classes: usize, init: &mut Init) -> Result<PixelCnnPp> {
        let Self { channels, blocks, levels, dropout } = *self;
        ensure!(
            channels > 0 && blocks > 0,
            "a PixelCNN++ of {blocks} blocks of {channels} channels is none: give at least 1 of either"
        );
        ensure_within("network: levels", levels, 1..=MOST_LEVELS)?;
        ensure_within("network: dropout", dropout, 0.0..1.0)?;
        ensure!(
            inputs > 0 && outputs > 0,
            "pictures of {inputs} channels and distributions of {outputs} numbers are none: give at least 1 of either"
        );
        let first = |taps, sides, init: &mut Init| Shifted::new(taps, sides, inputs + 1, channels, 1.0, init);
        Ok(PixelCnnPp {
            u_init: first(TAPS[0], true, init),
            ul_init: vec![first([1, 3], true, init), first([2, 1], false, init)],
            u: Stream::new(self, classes, false, init)?,
            ul: Stream::new(self, classes, true, init)?,
            output: Normed::new([channels, outputs], 1.0, outputs, init),
            inputs,
            classes,
            dropout,
        })
    }

    /// The network for pictures `[height, width, channels]` as rows: as [`build`](Self::build).
    ///
    /// # Errors
    /// As [`build`](Self::build), and pictures whose sides cannot be halved as often as there are levels.
    pub fn on_rows(&self, shape: [usize; 3], outputs: usize, classes: usize, init: &mut Init) -> Result<PixelRows> {
        let network = self.build(shape[2], outputs, classes, init)?;
        network.check_sides(shape[0], shape[1])?;
        Ok(PixelRows { network, shape })
    }

    /// How large the network for pictures of this shape is, without making it.
    ///
    /// # Errors
    /// As [`on_rows`](Self::on_rows), and samples that are no pictures.
    pub fn size(&self, shape: &[usize], outputs: usize, classes: usize) -> Result<NetworkSize> {
        NetworkSize::of_config(&WithOutputs { config: self, outputs }, shape, classes)
    }
}

/// A config with what the network is to give.
#[derive(Serialize)]
struct WithOutputs<'a> {
    config: &'a PixelCnnPpConfig,
    outputs: usize,
}

impl Build for WithOutputs<'_> {
    fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
        self.config.on_rows(height_width_channels(shape)?, self.outputs, classes, init).map(AnyNetwork::own)
    }
}

/// The network of a [`PixelCnnPpConfig`], for pictures of any size it can halve.
#[derive(Module, Debug)]
pub struct PixelCnnPp {
    u_init: Shifted,
    ul_init: Vec<Shifted>,
    u: Stream,
    ul: Stream,
    output: Normed<2>,
    inputs: usize,
    classes: usize,
    dropout: f64,
}

impl PixelCnnPp {
    /// The numbers `[N, H, W, outputs]` that say what the distributions of the pixels of pictures `x` `[N, H, W, inputs]` are, each given the
    /// pixels before it. With keys, one a picture, blocks drop values.
    ///
    /// # Errors
    /// Pictures of other channels or whose sides cannot be halved, and conditions other than classes it knows.
    pub fn numbers(&self, x: Dual<4>, given: &Condition, dropout: Option<&Keys>) -> Result<Dual<4>> {
        let [_, height, width, channels] = x.dims();
        self.check_sides(height, width)?;
        ensure!(
            channels == self.inputs,
            "pictures of {channels} channels came to a PixelCNN++ that was built for {}",
            self.inputs
        );
        let mut pass = self.pass(x.dims()[0], given, dropout, None)?;
        let x = with_ones(x);
        let u = self.u.run(self.first_u(&x, &pass), None, &mut pass);
        let ul = self.ul.run(self.first_ul(&x, &pass), Some(&u), &mut pass);
        Ok(self.last(ul, &pass))
    }

    /// Pictures `[rows, H · W · channels]` of a distribution, drawn pixel by pixel in raster order, one for each key: what is drawn is a
    /// function of the key, whatever the batch. `shape` is `[H, W, channels]`.
    ///
    /// # Errors
    /// Pictures or a distribution the network was not built for, and conditions other than classes it knows.
    pub fn sample(
        &self,
        [height, width, channels]: [usize; 3],
        distribution: &PixelDistribution,
        keys: &Keys,
        given: &Condition,
    ) -> Result<Tensor<2>> {
        self.check_sides(height, width)?;
        let outputs = self.output.g.dims()[1];
        ensure!(
            [channels, outputs] == [distribution.channels(), distribution.numbers()] && channels == self.inputs,
            "the network gives {outputs} numbers for pixels of {} channels, and {} for pixels of {} were asked for in pictures of {channels}",
            self.inputs,
            distribution.numbers(),
            distribution.channels()
        );
        // Weights are made once for this copy, which does not change.
        let (network, n) = (self.valid(), keys.len());
        let like = network.output.g.val();
        let mut picture = Tensor::<4>::zeros([n, height, width, channels], (&like.device(), like.dtype()));
        let (mut of_u, mut of_ul) = (Kept::default(), Kept::default());
        for row in 0..height {
            // The first convolutions reach up two rows.
            let top = row.saturating_sub(2);
            let rows = row + 1 - top;
            let seen = |picture: &Tensor<4>| with_ones(picture.clone().narrow(1, top, rows).into());
            let last_row = |x: Dual<4>| x.linear(|x| x.narrow(1, rows - 1, 1));
            let mut pass = network.pass(n, given, None, Some(Part::new(&mut of_u, row, None)))?;
            let first = last_row(network.first_u(&seen(&picture), &pass));
            let u = network.u.run(first, None, &mut pass);
            for column in 0..width {
                let mut pass = network.pass(n, given, None, Some(Part::new(&mut of_ul, row, Some(column))))?;
                let first = last_row(network.first_ul(&seen(&picture), &pass)).linear(|x| x.narrow(2, column, 1));
                let ul = network.ul.run(first, Some(&u), &mut pass);
                let numbers = network.last(ul, &pass).value.reshape([n, outputs]);
                let pixel = distribution.sample(numbers, keys, (row * width + column) as u64)?;
                let place = [0..n, row..row + 1, column..column + 1, 0..channels];
                picture = picture.slice_assign(place, pixel.reshape([n, 1, 1, channels]));
            }
        }
        Ok(picture.reshape([n, height * width * channels]))
    }

    fn check_sides(&self, height: usize, width: usize) -> Result<()> {
        let halvings = self.u.halve.len();
        let fits = |side: usize| side > 0 && side.is_multiple_of(1 << halvings);
        ensure!(
            fits(height) && fits(width),
            "pictures of {height} x {width} cannot be halved {halvings} times and doubled again, as a PixelCNN++ of {} levels does: give sides \
             that are multiples of {}, or fewer levels",
            halvings + 1,
            1 << halvings
        );
        Ok(())
    }

    /// A pass of some rows through the network.
    fn pass<'a>(
        &self,
        rows: usize,
        given: &'a Condition,
        dropout: Option<&'a Keys>,
        part: Option<Part<'a>>,
    ) -> Result<Pass<'a>> {
        let like = self.output.g.val();
        let noise = Tensor::<1>::zeros([rows], &like.device());
        let context = Context { dropout, ..Context::new(noise, given) };
        Takes { classes: self.classes, ..Takes::default() }.check(&context, rows)?;
        let class = (self.classes > 0).then(|| -> Result<Dual<2>> {
            let mut chosen = vec![0f32; rows * self.classes];
            for (row, class) in given.class_rows(rows, self.classes)?.into_iter().enumerate() {
                class.into_iter().for_each(|class| chosen[row * self.classes + class as usize] = 1.0);
            }
            let chosen = TensorData::new(chosen, [rows, self.classes]);
            Ok(Tensor::from_data(chosen, (&like.device(), like.dtype())).into())
        });
        Ok(Pass { dropout: Dropout::new(self.dropout, &context), class: class.transpose()?, part })
    }

    /// What `u` starts with: of the rows above.
    fn first_u(&self, x: &Dual<4>, pass: &Pass) -> Dual<4> {
        moved(self.u_init.whole(x.clone(), pass), 1)
    }

    /// What `ul` starts with: of the row above and of what is to the left.
    fn first_ul(&self, x: &Dual<4>, pass: &Pass) -> Dual<4> {
        let [above, left] = [0, 1].map(|i| self.ul_init[i].whole(x.clone(), pass));
        moved(above, 1) + moved(left, 2)
    }

    fn last(&self, ul: States, pass: &Pass) -> Dual<4> {
        self.output.one_tap(vec![ops::activate(ul.last, Activation::Elu)], pass)
    }
}

/// A [`PixelCnnPp`] on pictures of one size as rows: its output is `[rows, H · W · outputs]`, the numbers of a pixel next to each other. It does
/// not look at noise numbers.
#[derive(Module, Debug)]
pub struct PixelRows {
    network: PixelCnnPp,
    shape: [usize; 3],
}

impl PixelRows {
    /// `[height, width, channels]` of the pictures.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The numbers of the distributions of the pixels of pictures `[rows, H · W · channels]`: as [`PixelCnnPp::numbers`].
    ///
    /// # Errors
    /// Rows of another width, and those of [`PixelCnnPp::numbers`].
    pub fn numbers(&self, x: Dual<2>, given: &Condition, dropout: Option<&Keys>) -> Result<Dual<2>> {
        let [height, width, channels] = self.shape;
        check_width(&x, height * width * channels)?;
        let rows = x.dims()[0];
        let y = self.network.numbers(x.reshape([rows, height, width, channels]), given, dropout)?;
        let outputs = y.dims()[3];
        Ok(y.reshape([rows, height * width * outputs]))
    }

    /// Pictures of a distribution, one for each key: as [`PixelCnnPp::sample`].
    ///
    /// # Errors
    /// Those of [`PixelCnnPp::sample`].
    pub fn sample(&self, distribution: &PixelDistribution, keys: &Keys, given: &Condition) -> Result<Tensor<2>> {
        self.network.sample(self.shape, distribution, keys, given)
    }
}

impl Network for PixelRows {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        self.numbers(x, context.given, context.dropout)
    }
}

/// A picture with a channel of ones.
fn with_ones(x: Dual<4>) -> Dual<4> {
    let ones = x.value.clone().narrow(3, 0, 1).ones_like();
    Dual::cat(vec![x, ones.into()], 3)
}

/// Moved by a place along an axis, zeros coming in.
fn moved(x: Dual<4>, axis: usize) -> Dual<4> {
    let size = x.dims()[axis];
    x.linear(|x| {
        let zeros = x.clone().narrow(axis, 0, 1).zeros_like();
        if size == 1 { zeros } else { Tensor::cat(vec![zeros, x.narrow(axis, 0, size - 1)], axis) }
    })
}

/// elu±(h), side by side along channels.
fn concat_elu(h: Dual<4>) -> Vec<Dual<4>> {
    [h.clone(), h.linear(|h| -h)].map(|h| ops::activate(h, Activation::Elu)).into()
}

/// Weights w = g v/‖v‖, the norm being over all axes but the last, and a bias.
#[derive(Module, Debug)]
struct Normed<const D: usize> {
    v: Param<Tensor<D>>,
    g: Param<Tensor<D>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    made: Made<D>,
    #[module(skip)]
    packed: Packed,
}

/// Weights that are made once. A copy of a layer starts with none.
#[derive(Debug)]
struct Made<const D: usize>(OnceLock<Tensor<D>>);

impl<const D: usize> Default for Made<D> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<const D: usize> Clone for Made<D> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<const D: usize> Normed<D> {
    /// With this g throughout, and a bias of zeros.
    fn new(shape: [usize; D], g: f32, outputs: usize, init: &mut Init) -> Self {
        let mut last = [1; D];
        last[D - 1] = shape[D - 1];
        Self {
            v: init.normal(shape, STD),
            g: init.given(last, vec![g; shape[D - 1]]),
            bias: init.constant(outputs, 0.0),
            made: Made::default(),
            packed: Packed::default(),
        }
    }

    /// w, which a pass that goes on where others ended keeps.
    fn weight(&self, pass: &Pass) -> Tensor<D> {
        let make = || {
            let (v, g) = (self.v.val(), self.g.val());
            let last = v.dims()[D - 1];
            let norm = v.clone().reshape([-1, last as i32]).square().sum_dim(0).sqrt();
            v * (g.clone() / norm.reshape(g.dims()))
        };
        if pass.part.is_some() { self.made.0.get_or_init(make).clone() } else { make() }
    }

    fn conv(&self, weight: Tensor<4>) -> ops::Conv<'_> {
        ops::Conv::new(Weighted { weight, bias: Some(self.bias.val()), packed: &self.packed })
    }
}

impl Normed<2> {
    /// Of images `[N, H, W, C_i]` side by side along channels: `[N, H, W, outputs]`.
    fn one_tap(&self, parts: Vec<Dual<4>>, pass: &Pass) -> Dual<4> {
        let [inputs, outputs] = self.v.dims();
        ops::conv2d(parts, self.conv(self.weight(pass).reshape([1, 1, inputs, outputs])))
    }
}

/// A convolution that reaches up, and left or to both sides.
#[derive(Module, Debug)]
struct Shifted {
    layer: Normed<4>,
    pad: [usize; 4],
    stride: usize,
}

impl Shifted {
    /// Of these taps down and across.
    fn new(taps: [usize; 2], sides: bool, inputs: usize, outputs: usize, g: f32, init: &mut Init) -> Self {
        let layer = Normed::new([taps[0], taps[1], inputs, outputs], g, outputs, init);
        Self { layer, pad: reach(taps, sides), stride: 1 }
    }

    /// The operation on images with these zeros around them.
    fn conv(&self, pad: [usize; 4], pass: &Pass) -> ops::Conv<'_> {
        ops::Conv { stride: self.stride, pad, ..self.layer.conv(self.layer.weight(pass)) }
    }

    /// Of whole images.
    fn whole(&self, x: Dual<4>, pass: &Pass) -> Dual<4> {
        ops::conv2d(vec![x], self.conv(self.pad, pass))
    }
}

/// The zeros above, below, left and right of a convolution of these taps.
fn reach([down, across]: [usize; 2], sides: bool) -> [usize; 4] {
    let (left, right) = if sides { (across / 2, across / 2) } else { (across - 1, 0) };
    [down - 1, 0, left, right]
}

/// A transposed convolution of stride 2 that reaches down, and right or to both sides: the images are twice as high and wide. It is the sum over
/// taps of an image with zeros between its places.
#[derive(Module, Debug)]
struct Doubled {
    /// `[height, width, outputs, inputs]`, whose last axis g is of.
    layer: Normed<4>,
    pad: [usize; 4],
}

impl Doubled {
    fn new(taps: [usize; 2], sides: bool, channels: usize, init: &mut Init) -> Self {
        let layer = Normed::new([taps[0], taps[1], channels, channels], QUARTER, channels, init);
        Self { layer, pad: reach(taps, sides) }
    }

    fn forward(&self, x: Dual<4>, pass: &Pass) -> Dual<4> {
        let weight = self.layer.weight(pass).flip([0, 1]).swap_dims(2, 3);
        let apart = Fir { kernel: vec![1.0], up: 2, down: 1, pad: [0; 2], gain: 1.0 };
        ops::conv2d(vec![ops::fir_resample(x, &apart)], ops::Conv { pad: self.pad, ..self.layer.conv(weight) })
    }
}

/// A gated residual block.
#[derive(Module, Debug)]
struct Gated {
    first: Shifted,
    aside: Option<Normed<2>>,
    second: Shifted,
    class: Option<Linear>,
}

impl Gated {
    /// That takes so many images of `channels` aside.
    fn new([beside, aside]: [bool; 2], channels: usize, classes: usize, init: &mut Init) -> Self {
        let conv = |outputs: usize, g: f32, init: &mut Init| {
            Shifted::new(TAPS[usize::from(beside)], !beside, 2 * channels, outputs, g, init)
        };
        let parts = usize::from(beside) + usize::from(aside);
        Self {
            first: conv(channels, 1.0, init),
            aside: (parts > 0).then(|| Normed::new([2 * parts * channels, channels], 1.0, channels, init)),
            second: conv(2 * channels, SMALL, init),
            class: (classes > 0).then(|| Linear::scaled(classes, 2 * channels, STD, init).without_bias()),
        }
    }

    fn forward(&self, x: Dual<4>, aside: Vec<Dual<4>>, level: usize, pass: &mut Pass) -> Dual<4> {
        let (seen, pad) = pass.around(level, x.clone(), self.first.pad);
        let residual = self.aside.as_ref().map(|layer| layer.one_tap(concat_elu(Dual::cat(aside, 3)), pass));
        let h = ops::conv2d(concat_elu(seen), ops::Conv { residual, ..self.first.conv(pad, pass) });
        let (seen, pad) = pass.around(level, h, self.second.pad);
        let parts = concat_elu(seen).into_iter().map(|part| pass.dropout.forward(part)).collect();
        let shift = self.class.as_ref().zip(pass.class.clone()).map(|(layer, class)| layer.forward(class));
        let gated = ops::conv2d(parts, ops::Conv { shift, ..self.second.conv(pad, pass) });
        let half = x.dims()[3];
        let [a, b] = [0, half].map(|from| gated.clone().linear(|h| h.narrow(3, from, half)));
        let slope = |b: Tensor<4>| {
            let gate = sigmoid(b);
            gate.clone() * gate.neg().add_scalar(1.0)
        };
        x + a * b.map(sigmoid, slope)
    }
}

/// One of the two streams.
#[derive(Module, Debug)]
struct Stream {
    down: Vec<Vec<Gated>>,
    halve: Vec<Shifted>,
    up: Vec<Vec<Gated>>,
    double: Vec<Doubled>,
}

/// What a stream gave, level by level.
struct States {
    /// On the way down: what the level starts with, and what its blocks gave.
    down: Vec<Vec<Dual<4>>>,
    /// On the way up: what its blocks gave.
    up: Vec<Vec<Dual<4>>>,
    /// At the end.
    last: Dual<4>,
}

impl Stream {
    /// `ul` if it goes beside another, or `u`.
    fn new(config: &PixelCnnPpConfig, classes: usize, beside: bool, init: &mut Init) -> Result<Self> {
        let PixelCnnPpConfig { channels, blocks, levels, .. } = *config;
        let taps = TAPS[usize::from(beside)];
        let mut stream = Self { down: Vec::new(), halve: Vec::new(), up: Vec::new(), double: Vec::new() };
        for level in 0..levels {
            init.at_level(level);
            let smaller = level + 1 < levels;
            let block = |aside: bool, init: &mut Init| {
                init.check()?;
                Ok(Gated::new([beside, aside], channels, classes, init))
            };
            stream.down.push((0..blocks).map(|_| block(false, init)).collect::<Result<_>>()?);
            stream.up.push((0..blocks + usize::from(smaller)).map(|_| block(true, init)).collect::<Result<_>>()?);
            if smaller {
                stream.double.push(Doubled::new(taps, !beside, channels, init));
                init.at_level(level + 1);
                let halve = Shifted::new(taps, !beside, channels, channels, 1.0, init);
                stream.halve.push(Shifted { stride: 2, ..halve });
            }
        }
        init.at_level(0);
        Ok(stream)
    }

    /// From the first images of the stream; `beside` is what the other stream gave.
    fn run(&self, mut h: Dual<4>, beside: Option<&States>, pass: &mut Pass) -> States {
        let deepest = pass.deepest(self.halve.len());
        let other = |states: fn(&States) -> &Vec<Vec<Dual<4>>>, level: usize, i: usize, pass: &Pass| {
            beside.map(|beside| pass.here(level, &states(beside)[level][i]))
        };
        let mut down = Vec::new();
        for level in 0..=deepest {
            let mut gave = vec![h.clone()];
            for (i, block) in self.down[level].iter().enumerate() {
                let aside = other(|states| &states.down, level, i + 1, pass);
                h = block.forward(h, aside.into_iter().collect(), level, pass);
                gave.push(h.clone());
            }
            down.push(gave);
            if let Some(halve) = self.halve.get(level) {
                // What is passed over is seen too.
                let (seen, pad) = pass.around(level, h.clone(), halve.pad);
                if level < deepest {
                    h = ops::conv2d(vec![seen], halve.conv(pad, pass));
                }
            }
        }
        let mut up = vec![Vec::new(); deepest + 1];
        let mut smaller = None;
        for level in (0..=deepest).rev() {
            let mut skips = down[level].iter().rev().cloned();
            h = match self.double.get(level) {
                Some(double) => pass.doubled(level, double, smaller),
                None => skips.next().expect("a level starts with an image"),
            };
            for (i, (block, skip)) in self.up[level].iter().zip(skips).enumerate() {
                let aside = other(|states| &states.up, level, i, pass).into_iter().chain([skip]).collect();
                h = block.forward(h, aside, level, pass);
                up[level].push(h.clone());
            }
            smaller = Some(h.clone());
        }
        States { down, up, last: h }
    }
}

/// One pass through the network: of whole pictures, or of a part of them that goes on where others ended.
struct Pass<'a> {
    dropout: Dropout<'a>,
    /// `[rows, classes]`, 1 at the class of a row.
    class: Option<Dual<2>>,
    part: Option<Part<'a>>,
}

/// A row of pictures, for `u`, or a pixel, for `ul`, after all that come before it.
struct Part<'a> {
    kept: &'a mut Kept,
    /// How many of what convolutions of a level saw were asked for.
    next: [usize; MOST_LEVELS],
    row: usize,
    column: Option<usize>,
}

impl<'a> Part<'a> {
    fn new(kept: &'a mut Kept, row: usize, column: Option<usize>) -> Self {
        Self { kept, next: [0; MOST_LEVELS], row, column }
    }
}

/// What one stream keeps of the parts before, level by level.
#[derive(Default)]
struct Kept {
    /// What convolutions saw, in the order they come.
    seen: [Vec<Seen>; MOST_LEVELS],
    /// What came of the places of the next smaller level on the row that is under way, or of all of the row.
    doubled: [Vec<Tensor<4>>; MOST_LEVELS],
}

/// What a convolution saw.
#[derive(Default)]
struct Seen {
    /// The row above.
    above: Option<Tensor<4>>,
    /// The row under way, place by place.
    row: Vec<Tensor<4>>,
}

impl Pass<'_> {
    /// The smallest level at which there is something new, where there are so many halvings.
    fn deepest(&self, halvings: usize) -> usize {
        let even = |place: usize| place.trailing_zeros() as usize;
        let Some(Part { row, column, .. }) = &self.part else { return halvings };
        halvings.min(even(*row)).min(column.map_or(halvings, even))
    }

    /// What is at the part of an image of `u`.
    fn here(&self, level: usize, image: &Dual<4>) -> Dual<4> {
        match self.part.as_ref().and_then(|part| part.column) {
            Some(column) => image.clone().linear(|image| image.narrow(2, column >> level, 1)),
            None => image.clone(),
        }
    }

    /// What a convolution with these zeros around images sees of `x`, and the zeros that are left around that.
    fn around(&mut self, level: usize, x: Dual<4>, pad: [usize; 4]) -> (Dual<4>, [usize; 4]) {
        let Some(Part { kept, next, column, .. }) = &mut self.part else { return (x, pad) };
        let (all, [_, below, left, right]) = (&mut kept.seen[level], pad);
        if all.len() == next[level] {
            all.push(Seen::default());
        }
        let Seen { above, row } = &mut all[next[level]];
        next[level] += 1;
        let Some(column) = column.map(|column| column >> level) else {
            let top = usize::from(above.is_none());
            let rows = above.replace(x.value.clone()).into_iter().chain([x.value]).collect();
            return (Tensor::cat(rows, 1).into(), [top, below, left, right]);
        };
        if column == 0 && !row.is_empty() {
            *above = Some(Tensor::cat(std::mem::take(row), 2));
        }
        row.push(x.value);
        let from = column.saturating_sub(1);
        let rows = above.iter().map(|above| above.clone().narrow(2, from, column + 1 - from));
        let rows = rows.chain([Tensor::cat(row[from..].to_vec(), 2)]).collect();
        (Tensor::cat(rows, 1).into(), [usize::from(above.is_none()), 0, usize::from(column == 0), 0])
    }

    /// What the next smaller level, where there is something new, is at a level.
    fn doubled(&mut self, level: usize, layer: &Doubled, smaller: Option<Dual<4>>) -> Dual<4> {
        let new = smaller.map(|smaller| layer.forward(smaller, self));
        let Some(Part { kept, row, column, .. }) = &mut self.part else {
            return new.expect("all levels of whole pictures are new");
        };
        let (all, row, column) = (&mut kept.doubled[level], *row >> level, column.map(|column| column >> level));
        if let Some(new) = new {
            if column.is_none_or(|column| column == 0) {
                all.clear();
            }
            all.push(new.value);
        }
        let of_row = |patch: &Tensor<4>| patch.clone().narrow(1, row % 2, 1);
        match column {
            None => of_row(&all[0]),
            Some(column) => of_row(&all[column / 2]).narrow(2, column % 2, 1),
        }
        .into()
    }
}
