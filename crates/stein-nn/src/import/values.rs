//! Values of a JSON config.

use serde_json::Value as Json;
use stein::{Error, Result};

/// The text under a key.
pub(super) fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

/// The text under a key; `or` where it is left out.
pub(super) fn word<'a>(json: &'a Json, key: &str, or: &'a str) -> Result<&'a str> {
    match json.get(key) {
        None | Some(Json::Null) => Ok(or),
        Some(value) => {
            value.as_str().ok_or_else(|| Error::new(format!("the config's {key} is {value}: expected text")))
        }
    }
}

/// A number of a config, given as `section.key` or `key`; `or` where it is left out.
pub(super) fn number(json: &Json, path: &str, or: f64) -> Result<f64> {
    let value = path.split('.').try_fold(json, |json, key| json.get(key));
    match value {
        None | Some(Json::Null) => Ok(or),
        Some(value) => {
            value.as_f64().ok_or_else(|| Error::new(format!("the config's {path} is {value}: expected a number")))
        }
    }
}

/// A whole number above 0.
pub(super) fn size(json: &Json, path: &str) -> Result<usize> {
    let value = number(json, path, 0.0)?;
    if value < 1.0 || value.fract() != 0.0 {
        return Err(Error::new(format!("the config lacks {path}, or it is no whole number above 0")));
    }
    Ok(value as usize)
}

/// A switch, given as `section.key` or `key`; `or` where it is left out.
pub(super) fn flag(json: &Json, path: &str, or: bool) -> Result<bool> {
    match path.split('.').try_fold(json, |json, key| json.get(key)) {
        None | Some(Json::Null) => Ok(or),
        Some(Json::Bool(value)) => Ok(*value),
        Some(other) => Err(Error::new(format!("the config's {path} is {other}: expected true or false"))),
    }
}

/// What sizes of networks are called in the configs read here.
const SIZES: &[&str] = &[
    "attention_head_dim",
    "block_out_channels",
    "ch_mult",
    "channel_mult",
    "channel_mult_emb",
    "channel_mult_noise",
    "channels",
    "cross_attention_dim",
    "img_channels",
    "img_resolution",
    "image_size",
    "in_channels",
    "label_dim",
    "latent_channels",
    "layers_per_block",
    "model_channels",
    "nf",
    "ngf",
    "num_attention_heads",
    "num_blocks",
    "num_channels",
    "num_class_embeds",
    "num_classes",
    "num_embeds_ada_norm",
    "num_heads",
    "num_layers",
    "num_res_blocks",
    "num_scales",
    "num_vq_embeddings",
    "out_channels",
    "patch_size",
    "sample_size",
    "transformer_layers_per_block",
    "vq_embed_dim",
];
/// Sizes that count layers.
const COUNTS: &[&str] =
    &["layers_per_block", "num_blocks", "num_layers", "num_res_blocks", "transformer_layers_per_block"];

/// Fails if a config, whose maker is anyone, asks for more than any network has: before there are layers made of it.
pub(super) fn check_sizes(json: &Json) -> Result<()> {
    let Json::Object(entries) = json else { return Ok(()) };
    for (key, value) in entries {
        check_sizes(value)?;
        if !SIZES.contains(&&key[..]) {
            continue;
        }
        let most = if COUNTS.contains(&&key[..]) { 256.0 } else { 65_536.0 };
        let one = std::slice::from_ref(value);
        let (values, long) = value.as_array().map_or((one, false), |values| (&values[..], values.len() > 32));
        if long || values.iter().filter_map(Json::as_f64).any(|value| !(0.0..=most).contains(&value.abs())) {
            return Err(Error::new(format!("the config's {key} is {value}: no network is that large")));
        }
    }
    Ok(())
}
