//! A residual multi-layer perceptron for points, tables and small flattened images.
//!
//! With e the silu of the embedding of noise and class, of width `embedding_dim`:
//!
//! h₀ = W_in x,  h_{k+1} = h_k + W₂ silu(W₁ silu(LN h_k) + W_e e),  F = W_out silu(LN h_K)
//!
//! a residual network with normalisation before each branch (He et al., arXiv:1603.05027) and the embedding inside it
//! as in DDPM (Ho et al., arXiv:2006.11239). W_out starts at zero, so a fresh network is the zero function.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use stein::{Condition, Network, Result, ensure};

use super::check_batch;
use crate::{
    embedding::{Embedding, EmbeddingConfig},
    init::Init,
    layers::{LayerNorm, Linear},
    ops::{self, Dual},
};

/// The size of a residual perceptron: about `blocks` · (2 `hidden`² + `hidden` · `embedding_dim`) parameters.
///
/// `hidden = 128, blocks = 3` suits points in the plane; the default has 0.6 million parameters for rows of 64 values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self { hidden: 256, blocks: 4, embedding_dim: 128, embedding: EmbeddingConfig::default() }
    }
}

impl MlpConfig {
    pub(super) fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Mlp> {
        let Self { hidden, blocks, embedding_dim, .. } = *self;
        ensure!(hidden > 0, "network.hidden is 0: give the width of the perceptron, such as 256");
        ensure!(
            embedding_dim > 0 && embedding_dim.is_multiple_of(2),
            "network.embedding_dim is {embedding_dim}: give a positive even number, for as many sines as cosines"
        );
        let dim = shape.iter().product();
        Ok(Mlp {
            embedding: Embedding::new(&self.embedding, embedding_dim, embedding_dim, classes, init)?,
            input: Linear::new(dim, hidden, init),
            blocks: (0..blocks).map(|_| Block::new(hidden, embedding_dim, init)).collect(),
            norm: LayerNorm::new(hidden, init),
            output: Linear::zero(hidden, dim, init),
        })
    }
}

/// A residual multi-layer perceptron, built by [`NetworkConfig`](crate::NetworkConfig).
#[derive(Module, Debug)]
pub struct Mlp {
    embedding: Embedding,
    input: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    output: Linear,
}

impl Network for Mlp {
    fn forward(&self, x: Tensor<2>, noise: Tensor<1>, given: &Condition) -> Result<Tensor<2>> {
        Ok(self.dual(x.into(), noise.into(), given)?.value)
    }
}

impl Mlp {
    pub(super) fn dual(&self, x: Dual<2>, noise: Dual<1>, given: &Condition) -> Result<Dual<2>> {
        check_batch(&x.value, &noise.value, self.input.inputs())?;
        let embedded = ops::silu(self.embedding.forward(noise, given)?);
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
