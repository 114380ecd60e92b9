//! A transformer over the positions of an image, which attends to a context too (Rombach et al., arXiv:2112.10752).
//!
//! h + W_o T(W_i GN h), with T made of layers
//!
//! t ← t + A(LN t, LN t),  t ← t + A(LN t, context),  t ← t + W₂ (u ⊙ gelu(v)) with \[u, v\] = W₁ LN t
//!
//! (Shazeer, arXiv:2002.05202) and A(t, c) = W_a softmax(q kᵀ/√d) v, q = W_q t, k = W_k c, v = W_v c per head.

use burn::module::Module;

use crate::{
    init::Init,
    layers::{GroupNorm, LayerNorm, Linear},
    ops::{self, Activation, Dual},
};

/// How much wider than a token the inside of a feed-forward part is.
const WIDER: usize = 4;

/// The transformer.
#[derive(Module, Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    input: Linear,
    layers: Vec<Layer>,
    output: Linear,
}

impl Transformer {
    /// `heads` divides `channels`; the context is `context` wide.
    pub(super) fn new(
        norm: GroupNorm,
        channels: usize,
        heads: usize,
        layers: usize,
        context: usize,
        init: &mut Init,
    ) -> Self {
        Self {
            norm,
            input: Linear::new(channels, channels, init),
            layers: (0..layers).map(|_| Layer::new(channels, heads, context, init)).collect(),
            output: Linear::zero(channels, channels, init),
        }
    }

    pub(super) fn forward(&self, h: Dual<4>, context: &Dual<3>) -> Dual<4> {
        let [n, height, width, c] = h.dims();
        let rows = |x: Dual<4>| x.reshape([n, height * width, c]);
        let mut tokens = self.input.forward(rows(ops::group_norm(h.clone(), &self.norm.norm(None))));
        for layer in &self.layers {
            tokens = layer.forward(tokens, context);
        }
        self.output.forward_onto(tokens, rows(h)).reshape([n, height, width, c])
    }
}

#[derive(Module, Debug)]
struct Layer {
    own_norm: LayerNorm,
    own: TokenAttention,
    cross_norm: LayerNorm,
    cross: TokenAttention,
    norm: LayerNorm,
    gated: Linear,
    output: Linear,
}

impl Layer {
    fn new(channels: usize, heads: usize, context: usize, init: &mut Init) -> Self {
        Self {
            own_norm: LayerNorm::new(channels, init),
            own: TokenAttention::new(channels, channels, heads, init),
            cross_norm: LayerNorm::new(channels, init),
            cross: TokenAttention::new(channels, context, heads, init),
            norm: LayerNorm::new(channels, init),
            gated: Linear::new(channels, 2 * WIDER * channels, init),
            output: Linear::new(WIDER * channels, channels, init),
        }
    }

    fn forward(&self, tokens: Dual<3>, context: &Dual<3>) -> Dual<3> {
        let normal = self.own_norm.forward(tokens.clone());
        let tokens = self.own.forward_onto(normal.clone(), normal, tokens);
        let normal = self.cross_norm.forward(tokens.clone());
        let tokens = self.cross.forward_onto(normal, context.clone(), tokens);
        let both = self.gated.forward(self.norm.forward(tokens.clone()));
        let half = both.dims()[2] / 2;
        let gate = ops::activate(both.clone().linear(|x| x.narrow(2, half, half)), Activation::Gelu);
        self.output.forward_onto(both.linear(|x| x.narrow(2, 0, half)) * gate, tokens)
    }
}

/// Attention of tokens to tokens.
#[derive(Module, Debug)]
struct TokenAttention {
    queries: Linear,
    keys: Linear,
    values: Linear,
    output: Linear,
    heads: usize,
}

impl TokenAttention {
    fn new(channels: usize, context: usize, heads: usize, init: &mut Init) -> Self {
        Self {
            queries: Linear::new(channels, channels, init).without_bias(),
            keys: Linear::new(context, channels, init).without_bias(),
            values: Linear::new(context, channels, init).without_bias(),
            output: Linear::new(channels, channels, init),
            heads,
        }
    }

    fn forward_onto(&self, tokens: Dual<3>, context: Dual<3>, residual: Dual<3>) -> Dual<3> {
        let (keys, values) = (self.keys.forward(context.clone()), self.values.forward(context));
        let attended = ops::attention(self.queries.forward(tokens), keys, values, self.heads);
        self.output.forward_onto(attended, residual)
    }
}
