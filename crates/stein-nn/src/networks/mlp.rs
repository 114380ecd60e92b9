//! A residual multi-layer perceptron for points, tables, and small images and series, flattened.
//!
//! With e the silu of the embedding of noise and class, of width `embedding_dim`:
//!
//! h₀ = W_in x,  h_{k+1} = h_k + W₂ silu(W₁ silu(LN h_k) + W_e e),  F = W_out silu(LN h_K)
//!
//! a residual network with normalization before each branch (He et al., arXiv:1603.05027) and the embedding inside it
//! as in DDPM (Ho et al., arXiv:2006.11239). W_out starts at zero, so a fresh network is the zero function.

use burn::module::Module;
use serde::{Deserialize, Serialize};
use stein::{Context, Network, Result, ensure};
use stein_base::Explain;

use super::{Takes, check_width};
use crate::{
    embedding::{Embedding, EmbeddingConfig, embedded},
    init::Init,
    layers::{LayerNorm, Linear},
    ops::{self, Dual},
};

/// The size of a residual perceptron: about `blocks` · (2 `hidden`² + `hidden` · `embedding_dim`) parameters.
///
/// `hidden = 128, blocks = 3` suits points in the plane; the default has 0.6 million parameters for rows of 64 values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Width of the residual stream; at least 1, default 256.
    pub hidden: usize,
    /// Number of residual blocks; default 4.
    pub blocks: usize,
    /// Width of the noise and class embedding; even, default 128.
    pub embedding_dim: usize,
    /// The features of the noise number; default `fourier` of scale 1.
    pub embedding: EmbeddingConfig,
    /// Whether it takes a second noise level, whose embedding is added to that of the first: for flow maps from a level to a
    /// level; default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_level: bool,
}

impl Default for MlpConfig {
    fn default() -> Self {
        let embedding = EmbeddingConfig::default();
        Self { hidden: 256, blocks: 4, embedding_dim: 128, embedding, second_level: false }
    }
}

impl MlpConfig {
    /// The network for samples of this shape and a number of classes, 0 for none.
    ///
    /// # Errors
    /// When a number of the config is out of its range.
    ///
    /// ```
    /// use stein_nn::{MlpConfig, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// // A series of 12 positions and 3 channels counts as a row of 36 values.
    /// MlpConfig::default().build(&[12, 3], 0, &mut Init::new(1, &device))?;
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Mlp> {
        let Self { hidden, blocks, embedding_dim, .. } = *self;
        ensure!(hidden > 0, "network.hidden is 0: give the width of the perceptron, such as 256");
        ensure!(
            embedding_dim > 0 && embedding_dim.is_multiple_of(2),
            "network.embedding_dim is {embedding_dim}: give a positive even number, for as many sines as cosines"
        );
        let dim = shape.iter().product();
        let mut embedding = |classes| Embedding::new(&self.embedding, embedding_dim, embedding_dim, classes, init);
        Ok(Mlp {
            embedding: embedding(classes)?,
            second_level: self.second_level.then(|| embedding(0)).transpose()?,
            input: Linear::new(dim, hidden, init),
            blocks: (0..blocks)
                .map(|_| init.check().map(|()| Block::new(hidden, embedding_dim, init)))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(hidden, init),
            output: Linear::zero(hidden, dim, init),
        })
    }
}

/// A residual multi-layer perceptron of rows `[N, dim]`, built by [`NetworkConfig`](crate::NetworkConfig).
#[derive(Module, Debug)]
pub struct Mlp {
    embedding: Embedding,
    second_level: Option<Embedding>,
    input: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    output: Linear,
}

impl Network for Mlp {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        check_width(&x, self.input.inputs())?;
        let takes =
            Takes { classes: self.embedding.classes(), second: self.second_level.is_some(), ..Takes::default() };
        takes.check(context, x.dims()[0])?;
        let embedded = ops::silu(embedded(&self.embedding, self.second_level.as_ref(), context)?);
        let hidden = self.blocks.iter().fold(self.input.forward(x), |h, block| block.forward(h, embedded.clone()));
        Ok(self.output.forward(self.norm.forward_silu(hidden)))
    }
}

#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    first: Linear,
    embedding: Linear,
    second: Linear,
}

impl Block {
    fn new(hidden: usize, embedding: usize, init: &mut Init) -> Self {
        Self {
            norm: LayerNorm::new(hidden, init),
            first: Linear::new(hidden, hidden, init),
            embedding: Linear::new(embedding, hidden, init),
            second: Linear::new(hidden, hidden, init),
        }
    }

    fn forward(&self, h: Dual<2>, embedded: Dual<2>) -> Dual<2> {
        let embedded = self.embedding.forward(embedded);
        let branch = self.first.forward_onto(self.norm.forward_silu(h.clone()), embedded);
        self.second.forward_onto(ops::silu(branch), h)
    }
}
