//! DiT of the `diffusers` library (`DiTTransformer2DModel`, of older files `Transformer2DModel`).
//!
//! Unlike the paper's code it gives every block an embedding of its own (published files repeat one in all), divides
//! the exponents of frequencies by one less than their number, and adds 1e-5 to the variance in one norm of each block.

use burn::tensor::{Device, TensorData};
use serde_json::{Value, json};
use stein::{Result, ensure};

use super::{
    Imported, Key, Layout, Names, Weights,
    config::{Reader, text},
};
use crate::{
    embedding::EmbeddingConfig,
    init::Init,
    networks::{Dit, DitConfig},
    trace::Trace,
};

/// The config of a network.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn config(json: &Value) -> Result<DitConfig> {
    // The name of older files.
    let older = "Transformer2DModel";
    let class = if text(json, "_class_name") == Some(older) { older } else { "DiTTransformer2DModel" };
    let mut reader = Reader::of_class(class, json)?;
    let heads = reader.read("num_attention_heads", 16)?;
    let inputs = reader.read("in_channels", 4)?;
    let config = DitConfig {
        size: reader.read("sample_size", 32)?,
        inputs,
        outputs: reader.read("out_channels", None)?.unwrap_or(inputs),
        classes: reader.read("num_embeds_ada_norm", 1000)?,
        patch: reader.read("patch_size", 2)?,
        channels: reader.read("attention_head_dim", 72usize)?.saturating_mul(heads),
        blocks: reader.read("num_layers", 28)?,
        heads,
        own_embeddings: true,
        epsilon: reader.read("norm_eps", 1e-5)?,
        embedding: EmbeddingConfig::Positional { max_period: 1e4, shift: 1, sine_first: false },
    };
    reader.all_only([
        ("activation_fn", json!("gelu-approximate")),
        ("attention_bias", json!(true)),
        ("attention_type", json!("default")),
        ("double_self_attention", json!(false)),
        ("dropout", json!(0.0)),
        ("norm_elementwise_affine", json!(false)),
        ("norm_type", json!("ada_norm_zero")),
        ("only_cross_attention", json!(false)),
        ("use_linear_projection", json!(false)),
    ])?;
    // Of no effect in a DiT, or on how it computes alone.
    reader.skip(&["norm_num_groups", "upcast_attention"]);
    reader.finish()?;
    ensure!(config.classes > 0, "num_embeds_ada_norm is 0: it is the number of classes, at least 1");
    Ok(config)
}

/// A network with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Dit>> {
    let config = config(json)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    Imported::new(network, DitNames, weights, move |network: &Dit, case| {
        let given = case.classes_or_none("class_labels", config.classes)?;
        case.out("timestep", &given, |x, context| network.images(x, context))
    })
}

/// The names and layouts of the weights.
struct DitNames;

impl Names for DitNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let words: Vec<&str> = ours.split('.').collect();
        let linear = |theirs: &str, leaf: &str| Key::layer(theirs, leaf, Layout::LINEAR);
        match words[..] {
            ["patches", leaf] => Key::layer("pos_embed.proj", leaf, Layout::Conv),
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

    /// The embedding of positions follows from the config.
    fn ignores(&self, theirs: &str) -> bool {
        theirs == "pos_embed.pos_embed"
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        let ours = match module.strip_prefix("transformer_blocks.") {
            Some(index) => format!("blocks.{index}"),
            None if module == "pos_embed" => "tokens".to_owned(),
            None => return None,
        };
        trace.get(&ours).cloned()
    }
}
