//! The conditional U-Net of the `diffusers` library, `UNet2DConditionModel`: that of latent diffusion (Rombach et al.,
//! arXiv:2112.10752).
//!
//! Levels, blocks and convolutions are those of DDPM (Ho et al., arXiv:2006.11239); in the place of attention, after
//! blocks of the levels in `attention` and always in the middle, stand transformers whose layers attend to the image
//! itself and to a context of tokens.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Context, Result, Tokens, ensure};
use stein_base::Explain;

use super::{
    Takes,
    images::image_network,
    unet_2d_blocks::{Body, BodyPlan, Mixing},
    units::Norms,
};
use crate::{embedding::EmbeddingConfig, init::Init, ops::Dual};

/// What the norms before transformers add to the variance.
const TRANSFORMER_EPSILON: f64 = 1e-6;

/// The size and form of a `UNet2DConditionModel`; the default is the network of Stable Diffusion 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Unet2dConditionConfig {
    /// Channels of an image; at least 1, default 4.
    pub inputs: usize,
    /// Channels of the output; at least 1, default 4.
    pub outputs: usize,
    /// Classes the network knows; default 0, for none.
    pub classes: usize,
    /// Whether the context is one token, that of the class, of a table that has one more for no class, as in latent diffusion by class;
    /// default false: the class is added to the embedding.
    pub class_token: bool,
    /// Width of the tokens of the context; at least 1, default 768.
    pub context: usize,
    /// Channels of every level, the first even; default `[320, 640, 1280, 1280]`. The embedding is four times as wide
    /// as the first. Images may have any size.
    pub channels: Vec<usize>,
    /// Residual blocks per level on the way down; at least 1, default 2.
    pub blocks: usize,
    /// Levels with transformers, counted from 0; default `[0, 1, 2]`. The middle always has one.
    pub attention: Vec<usize>,
    /// Levels with transformers on the way up, where they are others; default none: those of `attention`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_up: Option<Vec<usize>>,
    /// Attention heads of every level, divisors of its channels; default `[8, 8, 8, 8]`. The middle has those of the
    /// last.
    pub heads: Vec<usize>,
    /// Layers of a transformer of every level; default `[1, 1, 1, 1]`. The middle has those of the last.
    pub layers: Vec<usize>,
    /// Groups of group normalizations, a divisor of the channels wherever one stands; default 32.
    pub groups: usize,
    /// What group normalizations add to the variance, those before transformers excepted; positive, default 1e-5.
    pub epsilon: f64,
    /// Divides the sums of residual blocks in the middle; positive, default 1.
    pub middle_rescale: f64,
    /// Whether the embedding scales and shifts the second normalization of every block; default false: it is added before.
    pub modulate: bool,
    /// Probability of dropping a value inside a residual block in training; in \[0, 1), default 0.
    pub dropout: f64,
    /// The features of the noise number, a step; default `positional`.
    pub embedding: EmbeddingConfig,
    /// Whether images in \[0, 1\] are mapped to \[−1, 1\] first; default false.
    pub centers: bool,
}

impl Default for Unet2dConditionConfig {
    fn default() -> Self {
        Self {
            inputs: 4,
            outputs: 4,
            classes: 0,
            class_token: false,
            context: 768,
            channels: vec![320, 640, 1280, 1280],
            blocks: 2,
            attention: vec![0, 1, 2],
            attention_up: None,
            heads: vec![8; 4],
            layers: vec![1; 4],
            groups: 32,
            epsilon: 1e-5,
            middle_rescale: 1.0,
            modulate: false,
            dropout: 0.0,
            embedding: EmbeddingConfig::Positional { max_period: 1e4, shift: 0, sine_first: false },
            centers: false,
        }
    }
}

impl Unet2dConditionConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// When the config is not one of a network.
    pub fn build(&self, init: &mut Init) -> Result<Unet2dCondition> {
        let levels = self.channels.len();
        ensure!(self.context > 0, "context is 0: give the width of the tokens to attend to, such as 768");
        ensure!(
            self.heads.len() == levels && self.layers.len() == levels,
            "heads has {} numbers and layers {}: give one per level, that is {levels}",
            self.heads.len(),
            self.layers.len()
        );
        ensure!(
            matches!(self.embedding, EmbeddingConfig::Positional { .. }),
            "embedding is fourier: this network takes steps, so give positional"
        );
        ensure!(
            !self.class_token || self.classes > 0,
            "class_token is true and classes is 0: give the number of classes, or have texts for the context (family.text)"
        );
        let norms = Norms { groups: Some(self.groups), epsilon: self.epsilon };
        let plan = BodyPlan {
            inputs: self.inputs,
            outputs: self.outputs,
            classes: if self.class_token { 0 } else { self.classes },
            channels: &self.channels,
            blocks: self.blocks,
            attention: &self.attention,
            attention_up: self.attention_up.as_deref(),
            mixing: Mixing::Cross { heads: self.heads.clone(), layers: self.layers.clone(), context: self.context },
            norms,
            attention_norms: Norms { epsilon: TRANSFORMER_EPSILON, ..norms },
            middle_rescale: self.middle_rescale,
            modulate: self.modulate,
            filters: false,
            pad_after: false,
            dropout: self.dropout,
            embedding: &self.embedding,
            centers: self.centers,
            features: self.channels.first().copied().unwrap_or(0),
        };
        let body = plan.build(init)?;
        let classes = self.class_token.then(|| init.normal([self.classes + 1, self.context], 1.0));
        Ok(Unet2dCondition { body, classes, context: self.context })
    }
}

/// The network of a [`Unet2dConditionConfig`].
#[derive(Module, Debug)]
pub struct Unet2dCondition {
    body: Body,
    /// The tokens of classes, and of none.
    classes: Option<Param<Tensor<2>>>,
    context: usize,
}

image_network!(Unet2dCondition, Unet2dConditionConfig { inputs, outputs, classes });

impl Unet2dCondition {
    /// The output `[N, H, W, outputs]` for images that have, with those of the condition beside them, `inputs` channels; the noise
    /// number is a step, and what the network attends to are the tokens of the condition, or the token of its class.
    ///
    /// # Errors
    /// When the images or the context do not fit the network, or there are no tokens.
    pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
        if let Some(table) = &self.classes {
            return self.by_class(x, context, table.val());
        }
        let takes = Takes { classes: self.body.embedding.classes(), tokens: self.context, ..Takes::default() };
        let x = takes.input(x, context, self.body.inputs)?;
        ensure!(
            context.given.tokens.is_some(),
            "this network attends to tokens: give the condition some, or those of an empty text for none"
        );
        self.body.forward(x, context.noise.clone(), context)
    }

    /// The same where the context is the row of a class in a table, whose last row is that of no class.
    fn by_class(&self, x: Dual<4>, context: &Context, table: Tensor<2>) -> Result<Dual<4>> {
        let classes = table.dims()[0] - 1;
        let x = Takes { classes, ..Takes::default() }.input(x, context, self.body.inputs)?;
        let rows = x.dims()[0];
        let class = context.given.class_rows(rows, classes)?;
        let index = class.into_iter().map(|class| class.map_or(classes as i64, i64::from)).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows]), &table.device());
        let values = table.select(0, index).reshape([rows, 1, self.context]);
        let tokens = Some(Tokens { values, mask: None });
        let given = Condition { class: None, tokens, ..context.given.clone() };
        self.body.forward(x, context.noise.clone(), &Context { given: &given, ..context.clone() })
    }
}
