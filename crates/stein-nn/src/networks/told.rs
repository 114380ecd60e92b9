//! A network that attends to what a text says: a transformer of texts before it, both of which learn together or are imported (Rombach et
//! al., arXiv:2112.10752, section 3.3: y ↦ τ(y) ↦ cross-attention).

use std::{collections::HashMap, sync::Arc};

use burn::{
    module::Module,
    tensor::{Int, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Context, Error, Network, Result, Tokens, ensure};
use stein_base::Explain;

use super::{AnyNetwork, ClipText, ClipTextForm, Gelu, NetworkConfig, NetworkSize, TextEnd, config::check_config};
use crate::{init::Init, ops::Dual};

/// The transformer that reads the texts a network is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// The width of a token, a multiple of `heads`: that of the tokens the network attends to (`network.context`); default 128.
    pub width: usize,
    /// The width of the middle of a block; default 512.
    pub middle: usize,
    /// Attention heads; default 4.
    pub heads: usize,
    /// Blocks; default 4.
    pub blocks: usize,
    /// How many of the last blocks are left out ("clip skip"); default 0.
    pub skipped: usize,
    /// The function in the middle of a block; default `exact`.
    pub gelu: Gelu,
    /// What normalizations add to the variance; positive, default 1e-5.
    pub epsilon: f64,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self { width: 128, middle: 512, heads: 4, blocks: 4, skipped: 0, gelu: Gelu::Exact, epsilon: 1e-5 }
    }
}

/// The texts a network is told: what a tokenizer makes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    /// The largest number of a token, and one.
    pub vocabulary: usize,
    /// Tokens of a text.
    pub length: usize,
    /// The tokens of the empty text: what a row without a text is told.
    pub empty: Vec<u32>,
}

impl TextConfig {
    /// The form of the transformer for texts of a tokenizer.
    fn form(&self, wording: &Wording) -> ClipTextForm {
        ClipTextForm {
            vocabulary: wording.vocabulary,
            length: wording.length,
            width: self.width,
            middle: self.middle,
            heads: self.heads,
            blocks: self.blocks,
            gelu: self.gelu,
            epsilon: self.epsilon,
            end: TextEnd::Largest,
        }
    }
}

/// A network and the transformer that reads its texts.
#[derive(Module, Debug)]
pub struct Told {
    network: AnyNetwork,
    text: ClipText,
    #[module(skip)]
    empty: Arc<[u32]>,
    skipped: usize,
}

impl Told {
    /// The network of a config, made to attend to what the texts of a tokenizer say, with fresh weights that are a function of the settings
    /// and the seed alone.
    ///
    /// # Errors
    /// Settings of no transformer, an empty text of another length, and those of [`NetworkConfig::build`].
    pub fn build(
        text: &TextConfig,
        wording: &Wording,
        config: &NetworkConfig,
        shape: &[usize],
        classes: usize,
        seed: u64,
        device: &stein::Device,
    ) -> Result<Self> {
        let network = config.build(shape, classes, seed, device)?;
        // Its weights are others than those of the network.
        let text_seed = seed ^ 0x7465_7874;
        Self::with(network, text, wording, &mut Init::new(text_seed, device))
    }

    fn with(network: AnyNetwork, text: &TextConfig, wording: &Wording, init: &mut Init) -> Result<Self> {
        check_config(text)?;
        let Wording { vocabulary, length, ref empty } = *wording;
        ensure!(
            empty.len() == length && empty.iter().all(|&token| (token as usize) < vocabulary),
            "the empty text is one of {} tokens, and texts have {length} of {vocabulary}",
            empty.len()
        );
        ensure!(
            text.skipped < text.blocks,
            "family.text.skipped is {}, and there are {} blocks: leave fewer out",
            text.skipped,
            text.blocks
        );
        let reader = ClipText::new(text.form(wording), init).map_err(|error| error.at("family.text"))?;
        Ok(Self { network, text: reader, empty: empty[..].into(), skipped: text.skipped })
    }

    /// How large it is, without making it.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn size(
        text: &TextConfig,
        wording: &Wording,
        config: &NetworkConfig,
        shape: &[usize],
        classes: usize,
    ) -> Result<NetworkSize> {
        let mut size = config.size(shape, classes)?;
        let device = stein::Device::flex();
        let mut init = Init::blank(&device);
        let reader = Self::with(AnyNetwork::own(Nothing {}), text, wording, &mut init)?;
        let TextConfig { width, middle, heads, blocks, .. } = *text;
        size.parameters = size.parameters.saturating_add(reader.num_params());
        // What a block gives for a token, and the scores of its heads.
        let token = 8 * width as u128 + 2 * middle as u128 + (heads * wording.length) as u128;
        size.outputs = size.outputs.saturating_add(token * (blocks * wording.length) as u128);
        Ok(size)
    }

    /// What texts say, `[rows, length, width]`; a row without one is told the empty text. A text is read once, whatever the number of its rows.
    fn said(&self, texts: &[Option<Arc<[u32]>>]) -> Result<Tensor<3>> {
        let mut places = HashMap::new();
        let mut different: Vec<Vec<u32>> = Vec::new();
        let rows: Vec<i64> = texts
            .iter()
            .map(|text| {
                let text = text.as_ref().unwrap_or(&self.empty);
                *places.entry(Arc::clone(text)).or_insert_with(|| {
                    different.push(text.to_vec());
                    different.len() as i64 - 1
                })
            })
            .collect();
        let said = self.text.said(&different, self.skipped)?;
        let count = rows.len();
        let index = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &said.device());
        Ok(said.select(0, index))
    }
}

impl Network for Told {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let rows = x.dims()[0];
        let none = vec![None; rows];
        let texts = context.given.text.as_ref().unwrap_or(&none);
        ensure!(
            texts.len() == rows,
            "the condition has {} texts for a batch of {rows} rows: give one per row",
            texts.len()
        );
        ensure!(
            context.given.tokens.is_none(),
            "this network reads texts, and the condition has tokens: give it one of both"
        );
        let tokens = Some(Tokens { values: self.said(texts)?, mask: None });
        let given = Condition { text: None, tokens, ..context.given.clone() };
        self.network.forward(x, &Context { given: &given, ..context.clone() })
    }
}

/// The network of a size that is counted elsewhere.
#[derive(Module, Debug)]
struct Nothing {}

impl Network for Nothing {
    fn forward(&self, _: Dual<2>, _: &Context) -> Result<Dual<2>> {
        Err(Error::new("this network is only counted"))
    }
}
