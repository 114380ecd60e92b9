//! The noise-conditional classifier of ADM (Dhariwal & Nichol, arXiv:2105.05233, section 4): the way down and the
//! middle of its U-Net, and a pool of all positions.
//!
//! With h the output of the middle, g = silu(GN h) and P its positions, the logits are
//! - `attention`: W_o softmax(q kᵀ/√d) v + b_o for one query, that of the mean of g, where q, k, v are linear in the
//!   mean and the positions of g, all with a learned vector of their position added (Radford et al., arXiv:2103.00020). It
//!   fixes the size of images.
//! - `adaptive`: W_o mean_P(g) + b_o, where W_o starts at zero.
//! - `spatial`: W₂ relu(W₁ m + b₁) + b₂, where m is the means over positions of the first convolution, of every step down
//!   and of h, side by side; `spatial_v2` has silu(GN(W₁ m + b₁)) for the relu.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use stein::{Context, Result, ensure};

use super::adm::{AdmConfig, Contracted, Contracting, NORMS};
use crate::{
    init::Init,
    layers::{GroupNorm, Linear},
    ops::{self, Activation, Dual},
};

/// The width of the hidden layer of [`Pool::Spatial`].
const HIDDEN: usize = 2048;

/// How a classifier pools positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// By attention of their mean to them.
    #[default]
    Attention,
    /// By their mean.
    Adaptive,
    /// By their means at every step.
    Spatial,
    /// The same with a normalized hidden layer.
    SpatialV2,
}

/// The size and form of a noise-conditional classifier; what is named as in [`AdmConfig`] means the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmEncoderConfig {
    /// Height and width of the images, divisible by 2^(levels − 1); default 64. Only the pool `attention` is bound to
    /// it.
    pub size: usize,
    /// Channels of the images; at least 1, default 3.
    pub inputs: usize,
    /// Logits, one per class; at least 1, default 1000.
    pub outputs: usize,
    /// Channels at a level of multiplier 1; even, default 128.
    pub channels: usize,
    /// Channels of each level over `channels`; one per level, default `[1, 2, 3, 4]`.
    pub multipliers: Vec<f64>,
    /// Residual blocks per level; at least 1, default 2.
    pub blocks: usize,
    /// The levels to attend at; of 1, 2, 4, …; default `[2, 4, 8]`.
    pub attention: Vec<usize>,
    /// Attention heads where `head_channels` is not given; a divisor of the channels wherever there is attention,
    /// default 1.
    pub heads: usize,
    /// Channels of each attention head, a divisor of the channels wherever there is attention; default 64. The pool
    /// `attention` needs it.
    pub head_channels: Option<usize>,
    /// Whether the embedding scales and shifts the second norm of a block; default true.
    pub modulate: bool,
    /// Whether residual blocks halve images; default true.
    pub resize_blocks: bool,
    /// Whether, where blocks do not, convolutions halve images, not means; default true.
    pub resize_convolutions: bool,
    /// Probability of dropping a value inside a block in training; in \[0, 1), default 0.
    pub dropout: f64,
    /// How positions are pooled: `attention` (default), `adaptive`, `spatial` or `spatial_v2`.
    pub pool: Pool,
}

impl Default for AdmEncoderConfig {
    fn default() -> Self {
        Self {
            size: 64,
            inputs: 3,
            outputs: 1000,
            channels: 128,
            multipliers: vec![1.0, 2.0, 3.0, 4.0],
            blocks: 2,
            attention: vec![2, 4, 8],
            heads: 1,
            head_channels: Some(64),
            modulate: true,
            resize_blocks: true,
            resize_convolutions: true,
            dropout: 0.0,
            pool: Pool::Attention,
        }
    }
}

impl AdmEncoderConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<AdmEncoder> {
        let Self { size, outputs, .. } = *self;
        ensure!(outputs > 0, "network.outputs is 0: give the number of classes, such as 1000");
        let way = self.way_down();
        let (contracting, skips) = Contracting::new(&way, init)?;
        let levels = self.multipliers.len();
        let channels = way.width(levels - 1);
        let head = match self.pool {
            Pool::Attention => {
                ensure!(
                    self.head_channels.is_some(),
                    "network.pool is \"attention\", which needs network.head_channels: give it, such as 64"
                );
                let divisor = 1 << (levels - 1);
                ensure!(
                    size > 0 && size % divisor == 0,
                    "network.size is {size}: with {levels} multipliers it has to be positive and divisible by {divisor}"
                );
                let count = (size / divisor).pow(2);
                Head::Attention(AttentionPool {
                    norm: NORMS.of(channels, init)?,
                    positions: init.normal([count + 1, channels], (channels as f64).powf(-0.5)),
                    queries: Linear::new(channels, channels, init),
                    keys: Linear::new(channels, channels, init),
                    values: Linear::new(channels, channels, init),
                    output: Linear::new(channels, outputs, init),
                    heads: way.heads_of(channels, false)?,
                })
            }
            Pool::Adaptive => Head::Adaptive(MeanPool {
                norm: NORMS.of(channels, init)?,
                output: Linear::zero(channels, outputs, init),
            }),
            Pool::Spatial | Pool::SpatialV2 => {
                let means = skips.iter().sum::<usize>() + channels;
                let normalized = self.pool == Pool::SpatialV2;
                Head::Spatial(SpatialPool {
                    hidden: Linear::new(means, HIDDEN, init),
                    norm: normalized.then(|| NORMS.of(HIDDEN, init)).transpose()?,
                    output: Linear::new(HIDDEN, outputs, init),
                })
            }
        };
        Ok(AdmEncoder { contracting, head, dropout: self.dropout })
    }

    /// The U-Net whose way down and middle these are.
    pub(crate) fn way_down(&self) -> AdmConfig {
        AdmConfig {
            inputs: self.inputs,
            outputs: self.outputs,
            classes: 0,
            channels: self.channels,
            multipliers: self.multipliers.clone(),
            blocks: self.blocks,
            attention: self.attention.clone(),
            heads: self.heads,
            heads_up: None,
            head_channels: self.head_channels,
            modulate: self.modulate,
            resize_blocks: self.resize_blocks,
            resize_convolutions: self.resize_convolutions,
            dropout: self.dropout,
        }
    }
}

/// A noise-conditional classifier.
#[derive(Module, Debug)]
pub struct AdmEncoder {
    contracting: Contracting,
    head: Head,
    dropout: f64,
}

impl AdmEncoder {
    /// The logits `[N, outputs]` of images `[N, H, W, inputs]`.
    ///
    /// # Errors
    /// When the images or the context do not fit the network.
    pub fn logits(&self, x: Dual<4>, context: &Context) -> Result<Dual<2>> {
        let seen = self.contracting.forward(x, context, self.dropout)?;
        match &self.head {
            Head::Attention(pool) => pool.forward(seen.bottom),
            Head::Adaptive(pool) => Ok(pool.forward(seen.bottom)),
            Head::Spatial(pool) => Ok(pool.forward(seen)),
        }
    }
}

/// The pool and the last layer.
#[derive(Module, Debug)]
enum Head {
    /// See [`Pool::Attention`].
    Attention(AttentionPool),
    /// See [`Pool::Adaptive`].
    Adaptive(MeanPool),
    /// See [`Pool::Spatial`] and [`Pool::SpatialV2`].
    Spatial(SpatialPool),
}

#[derive(Module, Debug)]
struct AttentionPool {
    norm: GroupNorm,
    positions: Param<Tensor<2>>,
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    heads: usize,
}

impl AttentionPool {
    fn forward(&self, h: Dual<4>) -> Result<Dual<2>> {
        let [rows, height, width, channels] = h.dims();
        let (positions, count) = (self.positions.val(), height * width + 1);
        ensure!(
            positions.dims()[0] == count,
            "this classifier pools {} positions, not {height} x {width}: give images of the size it was built for",
            positions.dims()[0] - 1
        );
        let x = ops::group_norm(h, &self.norm.norm(Some(Activation::Silu))).reshape([rows, count - 1, channels]);
        let mean = x.clone().linear(|x| x.mean_dim(1));
        let x = Dual::cat(vec![mean, x], 1) + positions.reshape([1, count, channels]).into();
        let mean = x.clone().linear(|x| x.narrow(1, 0, 1));
        let (q, k, v) = (self.queries.forward(mean), self.keys.forward(x.clone()), self.values.forward(x));
        let pooled = ops::attention(q, k, v, self.heads).reshape([rows, channels]);
        Ok(self.output.forward(pooled))
    }
}

#[derive(Module, Debug)]
struct MeanPool {
    norm: GroupNorm,
    output: Linear,
}

impl MeanPool {
    fn forward(&self, h: Dual<4>) -> Dual<2> {
        self.output.forward(mean(ops::group_norm(h, &self.norm.norm(Some(Activation::Silu)))))
    }
}

#[derive(Module, Debug)]
struct SpatialPool {
    hidden: Linear,
    norm: Option<GroupNorm>,
    output: Linear,
}

impl SpatialPool {
    fn forward(&self, Contracted { mut skips, bottom, .. }: Contracted) -> Dual<2> {
        skips.push(bottom);
        let hidden = self.hidden.forward(Dual::cat(skips.into_iter().map(mean).collect(), 1));
        let [rows, width] = hidden.dims();
        self.output.forward(match &self.norm {
            None => ops::activate(hidden, Activation::Relu),
            Some(norm) => norm.forward_silu(hidden.reshape([rows, 1, 1, width])).reshape([rows, width]),
        })
    }
}

/// Over all positions.
fn mean(x: Dual<4>) -> Dual<2> {
    let [rows, height, width, channels] = x.dims();
    x.linear(|x| x.reshape([rows, height * width, channels]).mean_dim(1).reshape([rows, channels]))
}
