//! Weights of CLIP's transformer of texts as the transformers library has them, `CLIPTextModel`: a folder `text_encoder` of a pipeline with
//! `config.json` and `model.safetensors`. Names may begin with `text_model.`, as in published files, or not.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Device, TensorData},
};
use serde_json::Value as Json;
use stein::{Result, ensure};

use super::{
    Key, Layout, Names, Weights,
    config::Reader,
    key,
    source::{json, state_dict_of, weights_in},
};
use crate::{
    init::Init,
    networks::{ClipText, ClipTextForm, Gelu, TextEnd},
    state::{self, Tensors},
    trace::Trace,
};

/// What published names begin with.
const PREFIX: &str = "text_model.";
/// The number of the last token in old configs, whatever the tokenizer: texts end with the largest there.
const OLD_END: u32 = 2;

/// The network of a folder, a constant.
///
/// # Errors
/// When a file cannot be read, the config is of another network, or the weights do not fit it.
pub fn load(folder: &Path, device: &Device) -> Result<ClipText> {
    let config = json(&folder.join("config.json"))?;
    let (weights, _) = weights_in(folder, None)?;
    open(&config, &state_dict_of(&weights)?, DType::F32, device).map_err(|error| error.at(folder.display()))
}

/// The network of a config with these weights, in a float type.
///
/// # Errors
/// As [`load`].
pub fn open(config: &Json, weights: &Tensors, kind: DType, device: &Device) -> Result<ClipText> {
    let names = Transformers { prefixed: weights.keys().any(|name| name.starts_with(PREFIX)) };
    let network = state::cast(ClipText::new(form(config)?, &mut Init::blank(device))?, kind);
    Ok(key::load(network, Weights::Theirs(weights), &names)?.no_grad())
}

/// The size and form that a config says.
///
/// # Errors
/// When it is of another network, or says what is not supported.
pub fn form(config: &Json) -> Result<ClipTextForm> {
    // A config of the whole of CLIP has that of its texts inside.
    let config = match config.get("text_config") {
        Some(texts) if config.get("hidden_size").is_none() => texts,
        _ => config,
    };
    let kind = config.get("model_type").and_then(Json::as_str).unwrap_or("clip_text_model");
    ensure!(
        Kind::Mismatch,
        ["clip_text_model", "clip"].contains(&kind),
        "the config is one of {kind}, not of CLIP's texts, clip_text_model"
    );
    let mut reader = Reader::new("CLIPTextModel", config)?;
    let form = ClipTextForm {
        vocabulary: reader.read("vocab_size", 49_408)?,
        length: reader.read("max_position_embeddings", 77)?,
        width: reader.read("hidden_size", 512)?,
        middle: reader.read("intermediate_size", 2048)?,
        heads: reader.read("num_attention_heads", 8)?,
        blocks: reader.read("num_hidden_layers", 12)?,
        gelu: reader.word("hidden_act", &[("quick_gelu", Gelu::Quick), ("gelu", Gelu::Exact)])?,
        epsilon: reader.read("layer_norm_eps", 1e-5)?,
        end: match reader.read("eos_token_id", Some(49_407))? {
            None | Some(OLD_END) => TextEnd::Largest,
            Some(token) => TextEnd::Token(token),
        },
    };
    reader.only("attention_dropout", &[0.0.into()])?;
    Ok(form)
}

/// The library's names.
#[derive(Debug, Clone, Copy)]
struct Transformers {
    prefixed: bool,
}

impl Transformers {
    fn prefix(self) -> &'static str {
        if self.prefixed { PREFIX } else { "" }
    }
}

impl Names for Transformers {
    fn key(&self, ours: &str, _shape: &[usize]) -> Key {
        let named = |name: &str| format!("{}{name}", self.prefix());
        let parts: Vec<&str> = ours.split('.').collect();
        match parts[..] {
            ["tokens"] => Key::same(named("embeddings.token_embedding.weight")),
            ["places"] => Key::same(named("embeddings.position_embedding.weight")),
            ["last", leaf] => Key::norm(&named("final_layer_norm"), leaf),
            ["blocks", index, layer, leaf] => {
                let of = |name: &str| named(&format!("encoder.layers.{index}.{name}"));
                match layer {
                    "first" => Key::norm(&of("layer_norm1"), leaf),
                    "second" => Key::norm(&of("layer_norm2"), leaf),
                    "queries" => Key::layer(&of("self_attn.q_proj"), leaf, Layout::LINEAR),
                    "keys" => Key::layer(&of("self_attn.k_proj"), leaf, Layout::LINEAR),
                    "values" => Key::layer(&of("self_attn.v_proj"), leaf, Layout::LINEAR),
                    "attended" => Key::layer(&of("self_attn.out_proj"), leaf, Layout::LINEAR),
                    "widen" => Key::layer(&of("mlp.fc1"), leaf, Layout::LINEAR),
                    "narrow" => Key::layer(&of("mlp.fc2"), leaf, Layout::LINEAR),
                    _ => Key::same(ours),
                }
            }
            _ => Key::same(ours),
        }
    }

    /// Another tower's, and the places in a row, which old files have.
    fn ignores(&self, theirs: &str) -> bool {
        self.prefixed && !theirs.starts_with(PREFIX) || theirs.ends_with("position_ids")
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        trace.get(&module.replace(&format!("{}encoder.layers", self.prefix()), "blocks")).cloned()
    }
}
