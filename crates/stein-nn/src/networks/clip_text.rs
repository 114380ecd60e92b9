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
    tensor::{Int, Tensor, TensorData},
};
use stein::{Result, ensure};

use super::token_block::{Gelu, TokenBlock, TokenBlockForm};
use crate::{init::Init, layers::LayerNorm, ops::Dual, trace};

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
    /// f: quick of OpenAI's models and Stable Diffusion 1, exact of OpenCLIP's and Stable Diffusion 2.
    pub gelu: Gelu,
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
    blocks: Vec<TokenBlock>,
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
        let ClipTextForm { vocabulary, length, width, middle, heads, blocks, gelu, epsilon, .. } = form;
        ensure!(
            [vocabulary, length, width, middle, heads, blocks].iter().all(|&size| size > 0)
                && width.is_multiple_of(heads)
                && epsilon > 0.0,
            "a transformer of texts with {vocabulary} tokens, texts of {length}, width {width}, middle {middle}, {heads} heads, {blocks} blocks and \
             epsilon {epsilon} is none: all are above 0, and the heads divide the width"
        );
        let block = TokenBlockForm { width, middle, heads, gelu, epsilon, scaled: false, causal: true };
        Ok(Self {
            tokens: init.normal([vocabulary, width], 0.02),
            places: init.normal([length, width], 0.01),
            blocks: (0..blocks).map(|_| TokenBlock::new(block, init)).collect(),
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
    /// use stein_nn::{ClipText, ClipTextForm, Gelu, TextEnd, layers::Init};
    ///
    /// let form = ClipTextForm {
    ///     vocabulary: 100,
    ///     length: 8,
    ///     width: 16,
    ///     middle: 64,
    ///     heads: 2,
    ///     blocks: 2,
    ///     gelu: Gelu::Quick,
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
        for (index, block) in self.blocks[..blocks - skipped].iter().enumerate() {
            h = block.forward(h);
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
