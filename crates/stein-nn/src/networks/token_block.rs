//! The block of transformers that normalize before each part (Dosovitskiy et al., arXiv:2010.11929; Radford et al., arXiv:2103.00020): with LN the
//! normalization of every token,
//!
//! h ← h + s₁ ⊙ attention(LN h),
//! h ← h + s₂ ⊙ (W₂ f(W₁ LN h + b₁) + b₂).

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    init::Init,
    layers::{LayerNorm, Linear},
    ops::{self, Activation, Dual},
};

/// The factor of [`Gelu::Quick`].
const QUICK: f64 = 1.702;

/// The function f in the middle of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Gelu {
    /// x Φ(x).
    Exact,
    /// x/(1 + e^(−1.702 x)), of OpenAI's CLIP.
    Quick,
}

/// The size and form of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenBlockForm {
    /// The width of a token.
    pub(super) width: usize,
    /// The width of the middle.
    pub(super) middle: usize,
    /// Heads of attention, a divisor of the width.
    pub(super) heads: usize,
    /// f.
    pub(super) gelu: Gelu,
    /// What normalizations add to the variance.
    pub(super) epsilon: f64,
    /// Whether s₁ and s₂ are learned; otherwise they are 1.
    pub(super) scaled: bool,
    /// Whether a token attends to none that follow.
    pub(super) causal: bool,
}

/// A block.
#[derive(Module, Debug)]
pub(super) struct TokenBlock {
    first: LayerNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    attended: Linear,
    first_scale: Option<Param<Tensor<1>>>,
    second: LayerNorm,
    widen: Linear,
    narrow: Linear,
    second_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    form: TokenBlockForm,
}

impl TokenBlock {
    pub(super) fn new(form: TokenBlockForm, init: &mut Init) -> Self {
        let TokenBlockForm { width, middle, epsilon, scaled, .. } = form;
        let norm = |init: &mut Init| LayerNorm::new(width, init).with_epsilon(epsilon);
        let scale = |init: &mut Init| scaled.then(|| init.constant(width, 1.0));
        Self {
            first: norm(init),
            queries: Linear::new(width, width, init),
            keys: Linear::new(width, width, init),
            values: Linear::new(width, width, init),
            attended: Linear::new(width, width, init),
            first_scale: scale(init),
            second: norm(init),
            widen: Linear::new(width, middle, init),
            narrow: Linear::new(middle, width, init),
            second_scale: scale(init),
            form,
        }
    }

    pub(super) fn forward(&self, h: Dual<3>) -> Dual<3> {
        let TokenBlockForm { heads, gelu, causal, .. } = self.form;
        let x = self.first.forward(h.clone());
        let [q, k, v] = [&self.queries, &self.keys, &self.values].map(|layer| layer.forward(x.clone()));
        let attend = if causal { ops::causal_attention } else { ops::attention };
        let h = h + scaled(self.attended.forward(attend(q, k, v, heads)), self.first_scale.as_ref());
        let wide = self.widen.forward(self.second.forward(h.clone()));
        let wide = match gelu {
            Gelu::Exact => ops::activate(wide, Activation::Gelu),
            Gelu::Quick => ops::silu(wide.linear(|x| x * QUICK)).linear(|x| x / QUICK),
        };
        h + scaled(self.narrow.forward(wide), self.second_scale.as_ref())
    }
}

/// s ⊙ x, where there is an s.
fn scaled(x: Dual<3>, scale: Option<&Param<Tensor<1>>>) -> Dual<3> {
    let Some(scale) = scale else { return x };
    x.linear(|x| x * scale.val().unsqueeze())
}
