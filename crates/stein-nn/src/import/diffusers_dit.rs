//! DiT of the `diffusers` library (`DiTTransformer2DModel`, of older files `Transformer2DModel`).
//!
//! Unlike the paper's code it gives every block an embedding of its own (published files repeat one in all), divides
//! the exponents of frequencies by one less than their number, and adds 1e-5 to the variance in one norm of each block.

use std::sync::Arc;

use burn::tensor::Device;
use serde::Deserialize;
use serde_json::Value;
use stein::{Condition, Error, Result, ensure};

use super::{Imported, Key, Output, Weights, guided_diffusion::weighted, load};
use crate::{
    embedding::EmbeddingConfig,
    init::Init,
    networks::{Dit, DitConfig},
};

/// Options of older files' class of networks, which DiT has turned off.
const OFF: [&str; 3] = ["double_self_attention", "only_cross_attention", "use_linear_projection"];

/// Their config, with its defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Theirs {
    num_attention_heads: usize,
    attention_head_dim: usize,
    in_channels: usize,
    out_channels: Option<usize>,
    num_layers: usize,
    dropout: f64,
    /// Of no effect in DiT.
    #[serde(rename = "norm_num_groups")]
    _groups: usize,
    attention_bias: bool,
    sample_size: usize,
    patch_size: usize,
    activation_fn: String,
    num_embeds_ada_norm: usize,
    /// How it computes, not what.
    #[serde(rename = "upcast_attention")]
    _upcast: bool,
    norm_type: String,
    norm_elementwise_affine: bool,
    norm_eps: f64,
}

impl Default for Theirs {
    fn default() -> Self {
        Self {
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: None,
            num_layers: 28,
            dropout: 0.0,
            _groups: 32,
            attention_bias: true,
            sample_size: 32,
            patch_size: 2,
            activation_fn: "gelu-approximate".to_owned(),
            num_embeds_ada_norm: 1000,
            _upcast: false,
            norm_type: "ada_norm_zero".to_owned(),
            norm_elementwise_affine: false,
            norm_eps: 1e-5,
        }
    }
}

/// The config of a network.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn config(json: &Value) -> Result<DitConfig> {
    let mut fields = json.as_object().cloned().ok_or_else(|| Error::new("a config of diffusers is a JSON object"))?;
    fields.retain(|name, value| {
        let off = OFF.contains(&name.as_str()) && *value == Value::Bool(false);
        let usual = name == "attention_type" && value == "default";
        let averaging = super::diffusers::AVERAGE.contains(&&name[..]);
        !name.starts_with('_') && !value.is_null() && !off && !usual && !averaging
    });
    let theirs: Theirs = serde_json::from_value(Value::Object(fields))
        .map_err(|error| Error::new(format!("this is no config of diffusers' DiT: {error}")))?;
    ensure!(theirs.dropout == 0.0, "dropout is {}: a DiT drops nothing here", theirs.dropout);
    ensure!(theirs.attention_bias, "attention_bias is false: attention has biases in a DiT");
    ensure!(!theirs.norm_elementwise_affine, "norm_elementwise_affine is true: norms have no weights in a DiT");
    ensure!(
        theirs.activation_fn == "gelu-approximate",
        "activation_fn is {:?}: it is gelu-approximate in a DiT",
        theirs.activation_fn
    );
    ensure!(theirs.norm_type == "ada_norm_zero", "norm_type is {:?}: it is ada_norm_zero in a DiT", theirs.norm_type);
    ensure!(theirs.num_embeds_ada_norm > 0, "num_embeds_ada_norm is 0: it is the number of classes, at least 1");
    Ok(DitConfig {
        size: theirs.sample_size,
        inputs: theirs.in_channels,
        outputs: theirs.out_channels.unwrap_or(theirs.in_channels),
        classes: theirs.num_embeds_ada_norm,
        patch: theirs.patch_size,
        channels: theirs.num_attention_heads * theirs.attention_head_dim,
        blocks: theirs.num_layers,
        heads: theirs.num_attention_heads,
        own_embeddings: true,
        epsilon: theirs.norm_eps,
        embedding: EmbeddingConfig::Positional { max_period: 1e4, shift: 1, sine_first: false },
    })
}

/// A network with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Dit>> {
    let device = Device::flex().autodiff();
    let config = config(json)?;
    let network = config.build(&mut Init::blank(&device))?;
    // The vectors of places, which follow from the config.
    let network = load(network, weights, key, |name| name == "pos_embed.pos_embed")?;
    Ok(Imported {
        network,
        key: Arc::new(key),
        run: Arc::new(move |network, case| {
            // Their label after the last is that of no class.
            let class = case.classes("class_labels")?.into_iter();
            let class = class.map(|class| Some(class).filter(|class| (*class as usize) < config.classes)).collect();
            let given = Condition { class: Some(class), ..Condition::none() };
            let y = network.images(case.images("x")?, &case.context("timestep", &given)?)?;
            Ok(vec![("out".to_owned(), Output::images(y))])
        }),
        seen: Arc::new(|module, trace| {
            let ours = match module.strip_prefix("transformer_blocks.") {
                Some(index) => format!("blocks.{index}"),
                None if module == "pos_embed" => "tokens".to_owned(),
                None => return None,
            };
            trace.get(&ours).cloned()
        }),
    })
}

fn key(ours: &str) -> Key {
    let words: Vec<&str> = ours.split('.').collect();
    let linear = |theirs: &str, leaf: &str| weighted(theirs, leaf, Key::linear);
    match words[..] {
        ["patches", leaf] => weighted("pos_embed.proj", leaf, Key::conv),
        ["embeddings", index, "classes"] => {
            Key::same(format!("transformer_blocks.{index}.norm1.emb.class_embedder.embedding_table.weight"))
        }
        ["embeddings", index, layer, leaf] => {
            let layer = if layer == "first" { 1 } else { 2 };
            linear(&format!("transformer_blocks.{index}.norm1.emb.timestep_embedder.linear_{layer}"), leaf)
        }
        ["blocks", index, layer, leaf] => {
            let theirs = match layer {
                "modulation" => "norm1.linear",
                "queries" => "attn1.to_q",
                "keys" => "attn1.to_k",
                "values" => "attn1.to_v",
                "attended" => "attn1.to_out.0",
                "widen" => "ff.net.0.proj",
                "narrow" => "ff.net.2",
                other => other,
            };
            linear(&format!("transformer_blocks.{index}.{theirs}"), leaf)
        }
        ["modulation", leaf] => linear("proj_out_1", leaf),
        ["output", leaf] => linear("proj_out_2", leaf),
        // Missing in the file under any name, and reported as that.
        _ => Key::same(ours),
    }
}
