//! The diffusion transformer DiT (Peebles & Xie, arXiv:2212.09748), with adaLN-Zero blocks.
//!
//! An image, or a latent, is cut into `patch` × `patch` squares. Each becomes a token by a linear map, and a fixed
//! vector of its position is added: sines and cosines of its column, then of its row, of frequencies 10⁴^(−4k/C). With e
//! the silu of the embedding of noise and class, and LN the normalization of every token without weights, a block is
//!
//! (t₁, s₁, g₁, t₂, s₂, g₂) = W_e e + b_e,
//! h ← h + g₁ ⊙ attention((1 + s₁) ⊙ LN h + t₁),
//! h ← h + g₂ ⊙ (W₂ gelu(W₁ ((1 + s₂) ⊙ LN h + t₂) + b₁) + b₂),
//!
//! attention being over all tokens in heads, gelu in its tanh form, and the middle four times as wide. After the last
//! block one linear map of (1 + s) ⊙ LN h + t, again with (t, s) linear in e, gives every token its square of the
//! output. W_e and the output start at zero, so a fresh block is the identity and a fresh network the zero function.

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Context, Result, ensure};
use stein_base::Explain;

use super::{Takes, images::image_network};
use crate::{
    embedding::{Embedding, EmbeddingConfig},
    init::Init,
    layers::{Conv, Linear},
    ops::{self, Activation, Dual},
    trace,
};

/// What normalizations add to the variance, but for those [`DitConfig::epsilon`] is about.
const EPSILON: f64 = 1e-6;
/// The sines and cosines of a noise number.
const FEATURES: usize = 256;
/// How many times wider a block is in its middle.
const EXPANSION: usize = 4;
/// The longest period of the vectors of positions, over 2π.
const MAX_PERIOD: f64 = 1e4;

/// The size and form of a diffusion transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct DitConfig {
    /// Height and width at which neighboring squares are one unit apart, a multiple of `patch`; default 32. Images of
    /// another size are stretched to it.
    pub size: usize,
    /// Channels of the images; at least 1, default 4, those of a latent.
    pub inputs: usize,
    /// Channels of the output; at least 1, default 4. Twice `inputs` where the network also predicts variances: first
    /// the noise, then the variances.
    pub outputs: usize,
    /// Classes the network knows; 0 (default) for none. One more label stands for no class.
    pub classes: usize,
    /// Height and width of a square; at least 1, default 2.
    pub patch: usize,
    /// The width of a token, a multiple of 4 and of `heads`; default 384.
    pub channels: usize,
    /// Blocks; at least 1, default 12.
    pub blocks: usize,
    /// Attention heads; default 6.
    pub heads: usize,
    /// Whether every block has an embedding of noise and class of its own, and the last layer that of the first block,
    /// as in the `diffusers` library; default false: all share one.
    pub own_embeddings: bool,
    /// What the second normalization of every block adds to the variance, where the `diffusers` library has 1e-5; positive, default
    /// 1e-6.
    pub epsilon: f64,
    /// The features of the noise number, where the `diffusers` library has `shift` 1; default `positional`.
    pub embedding: EmbeddingConfig,
}

impl Default for DitConfig {
    fn default() -> Self {
        Self {
            size: 32,
            inputs: 4,
            outputs: 4,
            classes: 0,
            patch: 2,
            channels: 384,
            blocks: 12,
            heads: 6,
            own_embeddings: false,
            epsilon: EPSILON,
            embedding: EmbeddingConfig::Positional { max_period: 1e4, shift: 0, sine_first: false },
        }
    }
}

impl DitConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<Dit> {
        let Self { size, inputs, outputs, classes, patch, channels, blocks, heads, epsilon, .. } = *self;
        ensure!(inputs > 0, "network.inputs is 0: give the channels of the images, such as 4");
        ensure!(outputs > 0, "network.outputs is 0: give the channels of the output, such as 4");
        ensure!(patch > 0, "network.patch is 0: give the height of a square, such as 2");
        ensure!(
            size > 0 && size.is_multiple_of(patch),
            "network.size is {size}: give a positive multiple of network.patch, which is {patch}"
        );
        ensure!(
            channels > 0 && channels.is_multiple_of(4),
            "network.channels is {channels}: give a positive multiple of 4, such as 384"
        );
        ensure!(
            heads > 0 && channels.is_multiple_of(heads),
            "network.heads is {heads}, which does not divide the {channels} channels of a token"
        );
        ensure!(blocks > 0, "network.blocks is 0: give the number of blocks, such as 12");
        ensure!(epsilon > 0.0, "network.epsilon is {epsilon}: give a small positive number, such as 1e-6");
        let known = if classes == 0 { 0 } else { classes + 1 };
        let embeddings = if self.own_embeddings { blocks } else { 1 };
        Ok(Dit {
            patches: Conv::of_size([patch; 2], inputs, channels, init),
            embeddings: (0..embeddings)
                .map(|_| Embedding::new(&self.embedding, FEATURES, channels, known, init))
                .collect::<Result<_>>()?,
            blocks: (0..blocks)
                .map(|_| init.check().map(|()| Block::new(channels, heads, epsilon, init)))
                .collect::<Result<_>>()?,
            modulation: Linear::zero(channels, 2 * channels, init),
            output: Linear::zero(channels, patch * patch * outputs, init),
            side: size / patch,
            classes,
            patch,
            inputs,
            outputs,
            channels,
        })
    }
}

/// A diffusion transformer.
#[derive(Module, Debug)]
pub struct Dit {
    patches: Conv,
    embeddings: Vec<Embedding>,
    blocks: Vec<Block>,
    modulation: Linear,
    output: Linear,
    side: usize,
    classes: usize,
    patch: usize,
    inputs: usize,
    outputs: usize,
    channels: usize,
}

image_network!(Dit, DitConfig { inputs, outputs, classes });

impl Dit {
    /// The output `[N, H, W, outputs]` for images that have, with those of the condition beside them, `inputs` channels. A row
    /// without a class has the label that stands for none.
    ///
    /// # Errors
    /// When the images or the context do not fit the network.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        let Self { patch, inputs, outputs, .. } = *self;
        let x = Takes { classes: self.classes, ..Takes::default() }.input(x, context, inputs)?;
        let [rows, height, width, _] = x.dims();
        ensure!(
            height % patch == 0 && width % patch == 0,
            "images of {height} x {width} cannot be cut into squares of {patch} x {patch}: give a multiple of {patch}"
        );
        let class = context.given.class_rows(rows, self.classes)?;
        let none = self.classes as u32;
        let label = class.into_iter().map(|class| class.unwrap_or(none));
        let label = if self.classes > 0 { Condition::classes(label) } else { Condition::none() };
        let embedded = self
            .embeddings
            .iter()
            .map(|embedding| Ok(ops::silu(embedding.forward(context.noise.clone(), &label)?)))
            .collect::<Result<Vec<_>>>()?;
        let (down, across) = (height / patch, width / patch);
        let positions = self.positions(down, across, &x.value);
        let squares = x.linear(|x| {
            let x = x.reshape([rows, down, patch, across, patch, inputs]);
            x.permute([0, 1, 3, 2, 4, 5]).reshape([rows, down * across, patch * patch * inputs])
        });
        let mut h = self.patches.of_windows(squares) + positions.into();
        trace::note(|| "tokens".to_owned(), &h);
        for (index, block) in self.blocks.iter().enumerate() {
            h = block.forward(h, embedded[index.min(embedded.len() - 1)].clone());
            trace::note(|| format!("blocks.{index}"), &h);
        }
        let [shift, scale] = parts(self.modulation.forward(embedded[0].clone()));
        let squares = self.output.forward(modulated(h, shift, scale, EPSILON));
        Ok(squares.linear(|x| {
            let x = x.reshape([rows, down, across, patch, patch, outputs]);
            x.permute([0, 1, 3, 2, 4, 5]).reshape([rows, height, width, outputs])
        }))
    }

    /// The vectors of positions down and across, `[1, positions, channels]`, of the kind of `like`.
    fn positions(&self, down: usize, across: usize, like: &Tensor<4>) -> Tensor<3> {
        let half = self.channels / 2;
        let axis = |count: usize, shape: [usize; 3]| {
            let unit = self.side as f64 / count as f64;
            // Published weights belong to vectors rounded to f32, whatever is computed in.
            let values: Vec<f32> =
                (0..count).flat_map(|position| features(position as f64 * unit, half)).map(|x| x as f32).collect();
            Tensor::<3>::from_data(TensorData::new(values, shape), (&like.device(), like.dtype()))
                .expand([down, across, half])
        };
        let (rows, columns) = (axis(down, [down, 1, half]), axis(across, [1, across, half]));
        Tensor::cat(vec![columns, rows], 2).reshape([1, down * across, self.channels])
    }
}

/// `count` numbers, sines before cosines, of a position.
fn features(position: f64, count: usize) -> impl Iterator<Item = f64> {
    let half = count / 2;
    let angle = move |k: usize| position * MAX_PERIOD.powf(-(k as f64) / half as f64);
    (0..half).map(move |k| angle(k).sin()).chain((0..half).map(move |k| angle(k).cos()))
}

#[derive(Module, Debug)]
struct Block {
    modulation: Linear,
    queries: Linear,
    keys: Linear,
    values: Linear,
    attended: Linear,
    widen: Linear,
    narrow: Linear,
    heads: usize,
    epsilon: f64,
}

impl Block {
    fn new(channels: usize, heads: usize, epsilon: f64, init: &mut Init) -> Self {
        Self {
            modulation: Linear::zero(channels, 6 * channels, init),
            queries: Linear::new(channels, channels, init),
            keys: Linear::new(channels, channels, init),
            values: Linear::new(channels, channels, init),
            attended: Linear::new(channels, channels, init),
            widen: Linear::new(channels, EXPANSION * channels, init),
            narrow: Linear::new(EXPANSION * channels, channels, init),
            heads,
            epsilon,
        }
    }

    fn forward(&self, h: Dual<3>, embedded: Dual<2>) -> Dual<3> {
        let [first_shift, first_scale, first_gate, second_shift, second_scale, second_gate] =
            parts(self.modulation.forward(embedded));
        let x = modulated(h.clone(), first_shift, first_scale, EPSILON);
        let (q, k) = (self.queries.forward(x.clone()), self.keys.forward(x.clone()));
        let attended = ops::attention(q, k, self.values.forward(x), self.heads);
        let h = h + self.attended.forward(attended) * first_gate;
        let x = modulated(h.clone(), second_shift, second_scale, self.epsilon);
        let wide = ops::activate(self.widen.forward(x), Activation::GeluTanh);
        h + self.narrow.forward(wide) * second_gate
    }
}

/// Vectors of every sample, `[N, 1, C]` each, that lie side by side.
fn parts<const K: usize>(x: Dual<2>) -> [Dual<3>; K] {
    let [rows, wide] = x.dims();
    let wide = wide / K;
    std::array::from_fn(|k| x.clone().linear(|x| x.narrow(1, k * wide, wide).reshape([rows, 1, wide])))
}

/// (1 + scale) ⊙ LN h + shift.
fn modulated(h: Dual<3>, shift: Dual<3>, scale: Dual<3>, epsilon: f64) -> Dual<3> {
    let ([_, _, wide], of) = (h.dims(), (&h.value.device(), h.value.dtype()));
    let normal = ops::layer_norm(h, Tensor::ones([wide], of), Tensor::zeros([wide], of), epsilon, false);
    normal.clone() + normal * scale + shift
}
