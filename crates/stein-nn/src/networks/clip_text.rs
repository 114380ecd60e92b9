//! CLIP's transformer of texts (Radford et al., arXiv:2103.00020, section 2.4), whose tokens tell latent diffusion what to draw (Rombach et al.,
//! arXiv:2112.10752).
//!
//! A token is a learned vector of its number plus one of its place. With LN the normalization of every token, a block is
//!
//! h ← h + attention(LN h),
//! h ← h + W₂ f(W₁ LN h + b₁) + b₂,
//!
//! where a token attends to itself and to those before it, and to padding as to any other. What the text says is LN of all tokens after the last
//! block, `[N, length, width]`, or after an earlier one ("clip skip"); one vector of it is that at the end of the text.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData, activation::softmax},
};
use stein::{Result, ensure};

use crate::{
    init::Init,
    layers::{LayerNorm, Linear},
    ops::{self, Activation, Dual},
    trace,
};

/// The factor of OpenAI's f.
const QUICK: f64 = 1.702;

/// The function f in the middle of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextActivation {
    /// x/(1 + e^(−1.702 x)): OpenAI's models, and Stable Diffusion 1.
    QuickGelu,
    /// x Φ(x): OpenCLIP's models, and Stable Diffusion 2.
    Gelu,
}

/// The token that a text ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEnd {
    /// The first of the largest number: so OpenAI found it.
    Largest,
    /// The first of this number.
    Token(u32),
}

/// The size and form of CLIP's transformer of texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipTextForm {
    /// How many tokens it knows.
    pub vocabulary: usize,
    /// Tokens of the longest text, 77 in all that were published.
    pub length: usize,
    /// The width of a token.
    pub width: usize,
    /// The width of the middle of a block.
    pub middle: usize,
    /// Heads of attention, a divisor of the width.
    pub heads: usize,
    /// Blocks.
    pub blocks: usize,
    /// f.
    pub activation: TextActivation,
    /// What normalizations add to the variance.
    pub epsilon: f64,
    /// The token at the end of a text.
    pub end: TextEnd,
}

/// CLIP's transformer of texts. [`import::clip_text`](crate::import::clip_text) reads its weights.
#[derive(Module, Debug)]
pub struct ClipText {
    tokens: Param<Tensor<2>>,
    places: Param<Tensor<2>>,
    blocks: Vec<Block>,
    last: LayerNorm,
    #[module(skip)]
    form: ClipTextForm,
}

impl ClipText {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// Sizes of 0, and a width that the heads do not divide.
    pub fn new(form: ClipTextForm, init: &mut Init) -> Result<Self> {
        let ClipTextForm { vocabulary, length, width, middle, heads, blocks, epsilon, .. } = form;
        ensure!(
            [vocabulary, length, width, middle, heads, blocks].iter().all(|&size| size > 0)
                && width.is_multiple_of(heads)
                && epsilon > 0.0,
            "a transformer of texts with {vocabulary} tokens, texts of {length}, width {width}, middle {middle}, {heads} heads, {blocks} blocks and \
             epsilon {epsilon} is none: all are above 0, and the heads divide the width"
        );
        Ok(Self {
            tokens: init.normal([vocabulary, width], 0.02),
            places: init.normal([length, width], 0.01),
            blocks: (0..blocks).map(|_| Block::new(&form, init)).collect(),
            last: LayerNorm::new(width, init).with_epsilon(epsilon),
            form,
        })
    }

    /// Its size and form.
    pub fn form(&self) -> ClipTextForm {
        self.form
    }

    /// What texts say, `[N, length, width]`, by the numbers of their tokens, all of one length; `skipped` of the last blocks are left out.
    ///
    /// # Errors
    /// No texts, texts of different lengths or longer than it knows, a token it does not know, and more blocks left out than there are before the
    /// first.
    ///
    /// ```
    /// use stein_nn::{ClipText, ClipTextForm, TextActivation, TextEnd, layers::Init};
    ///
    /// let form = ClipTextForm {
    ///     vocabulary: 100,
    ///     length: 8,
    ///     width: 16,
    ///     middle: 64,
    ///     heads: 2,
    ///     blocks: 2,
    ///     activation: TextActivation::QuickGelu,
    ///     epsilon: 1e-5,
    ///     end: TextEnd::Largest,
    /// };
    /// let network = ClipText::new(form, &mut Init::new(1, &stein::Device::flex()))?;
    /// let said = network.said(&[vec![98, 7, 99], vec![98, 3, 99]], 0)?;
    /// assert_eq!(said.dims(), [2, 3, 16]);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn said(&self, texts: &[Vec<u32>], skipped: usize) -> Result<Tensor<3>> {
        let ClipTextForm { vocabulary, length: longest, width, blocks, .. } = self.form;
        let length = texts.first().map_or(0, Vec::len);
        ensure!(
            length > 0 && length <= longest && texts.iter().all(|text| text.len() == length),
            "texts come to a network of texts as 1 to {longest} tokens each, all as many: pad the shorter ones"
        );
        if let Some(token) = texts.iter().flatten().find(|&&token| token as usize >= vocabulary) {
            return Err(stein::Error::new(format!(
                "token {token} came to a network that knows 0 to {}: its tokenizer is that of another",
                vocabulary - 1
            )));
        }
        ensure!(skipped < blocks, "{skipped} of {blocks} blocks would be left out: leave at least one");
        let tokens = self.tokens.val();
        let numbers = texts.iter().flatten().map(|&token| i64::from(token)).collect::<Vec<_>>();
        let count = numbers.len();
        let index = Tensor::<1, Int>::from_data(TensorData::new(numbers, [count]), &tokens.device());
        let vectors = tokens.select(0, index).reshape([texts.len(), length, width]);
        let mut h = Dual::from(vectors + self.places.val().narrow(0, 0, length).unsqueeze());
        let ahead = ahead(length, &h.value);
        for (index, block) in self.blocks[..blocks - skipped].iter().enumerate() {
            h = block.forward(h, &ahead);
            trace::note(|| format!("blocks.{index}"), &h);
        }
        Ok(self.last.forward(h).value)
    }

    /// One vector a text, `[N, width]`: what is said where each ends.
    ///
    /// # Errors
    /// A text that does not end.
    pub fn pooled(&self, said: &Tensor<3>, texts: &[Vec<u32>]) -> Result<Tensor<2>> {
        let ends = texts.iter().map(|text| {
            let end = match self.form.end {
                TextEnd::Largest => text.iter().max().copied(),
                TextEnd::Token(token) => Some(token),
            };
            let place = text.iter().position(|&token| Some(token) == end);
            place.ok_or_else(|| stein::Error::new("a text has no token that ends it: add the one the tokenizer has"))
        });
        let width = self.form.width;
        let rows: Vec<Tensor<3>> = ends
            .enumerate()
            .map(|(row, place)| place.map(|place| said.clone().slice([row..row + 1, place..place + 1])))
            .collect::<Result<_>>()?;
        Ok(Tensor::cat(rows, 0).reshape([texts.len(), width]))
    }
}

/// −∞ where the token of a column comes after that of the row, `[1, length, length]`, and 0 elsewhere.
fn ahead(length: usize, like: &Tensor<3>) -> Tensor<3> {
    let values = (0..length * length).map(|i| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 }).collect();
    Tensor::from_data(TensorData::new::<f32, _>(values, [1, length, length]), (&like.device(), like.dtype()))
}

#[derive(Module, Debug)]
struct Block {
    first: LayerNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    attended: Linear,
    second: LayerNorm,
    widen: Linear,
    narrow: Linear,
    heads: usize,
    #[module(skip)]
    activation: TextActivation,
}

impl Block {
    fn new(form: &ClipTextForm, init: &mut Init) -> Self {
        let &ClipTextForm { width, middle, heads, activation, epsilon, .. } = form;
        let norm = |init: &mut Init| LayerNorm::new(width, init).with_epsilon(epsilon);
        Self {
            first: norm(init),
            queries: Linear::new(width, width, init),
            keys: Linear::new(width, width, init),
            values: Linear::new(width, width, init),
            attended: Linear::new(width, width, init),
            second: norm(init),
            widen: Linear::new(width, middle, init),
            narrow: Linear::new(middle, width, init),
            heads,
            activation,
        }
    }

    fn forward(&self, h: Dual<3>, ahead: &Tensor<3>) -> Dual<3> {
        let x = self.first.forward(h.clone());
        let [q, k, v] = [&self.queries, &self.keys, &self.values].map(|layer| layer.forward(x.clone()).value);
        let h = self.attended.forward_onto(self.attention(q, k, v, ahead).into(), h);
        let wide = self.widen.forward(self.second.forward(h.clone()));
        let wide = match self.activation {
            TextActivation::Gelu => ops::activate(wide, Activation::Gelu),
            TextActivation::QuickGelu => ops::silu(wide.linear(|x| x * QUICK)).linear(|x| x / QUICK),
        };
        self.narrow.forward_onto(wide, h)
    }

    /// softmax(q kᵀ/√d + ahead) v per head: texts are short, so the scores are kept.
    fn attention(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, ahead: &Tensor<3>) -> Tensor<3> {
        let [rows, length, width] = q.dims();
        let head = width / self.heads;
        let split = |x: Tensor<3>| {
            let x = x.reshape([rows, length, self.heads, head]).swap_dims(1, 2);
            x.reshape([rows * self.heads, length, head])
        };
        let scores = split(q).matmul(split(k).swap_dims(1, 2)) * (head as f64).powf(-0.5) + ahead.clone();
        let attended = softmax(scores, 2).matmul(split(v)).reshape([rows, self.heads, length, head]);
        attended.swap_dims(1, 2).reshape([rows, length, width])
    }
}
