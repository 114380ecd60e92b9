//! Values of the JSON configs of sources.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use stein::{
    Error, Result, ensure,
    names::{first_of, short},
};

use super::unsupported;

/// Most that any whole number of a config may be, and most items of a list, so that products of some of them can be counted.
const LARGEST: u64 = 1 << 20;

fn is_bearable(value: &Json) -> bool {
    match value {
        Json::Number(number) => number.as_u64().is_none_or(|number| number <= LARGEST),
        Json::Array(items) => items.len() as u64 <= LARGEST && items.iter().all(is_bearable),
        _ => true,
    }
}

/// The values of a config, read one by one.
pub(super) struct Reader<'a> {
    /// What it is the config of, for sentences.
    what: &'a str,
    json: &'a Json,
    /// The entries nobody has asked for.
    left: BTreeSet<&'a str>,
}

impl<'a> Reader<'a> {
    /// For the config of something.
    pub(super) fn new(what: &'a str, json: &'a Json) -> Result<Self> {
        let entries = json.as_object();
        let entries =
            entries.ok_or_else(|| Error::new(format!("{what}: its config is no table of names and values")))?;
        Ok(Self { what, json, left: entries.keys().map(String::as_str).collect() })
    }

    /// The value under a name, or under names of tables within each other with dots between them, if it is there.
    fn get(&mut self, path: &str) -> Option<&'a Json> {
        self.left.remove(path);
        path.split('.').try_fold(self.json, |json, key| json.get(key))
    }

    /// Whether an entry is there and is null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.json.get(key).is_some_and(Json::is_null)
    }

    /// A value, or the default where there is none, or null for what is never null.
    pub(super) fn read<T: DeserializeOwned>(&mut self, path: &str, default: T) -> Result<T> {
        let Some(value) = self.get(path) else { return Ok(default) };
        ensure!(
            is_bearable(value),
            "{}: {path} is {}, and no number of a config is above {LARGEST} nor is a list longer",
            self.what,
            short(&value.to_string())
        );
        match T::deserialize(value) {
            Ok(read) => Ok(read),
            Err(_) if value.is_null() => Ok(default),
            Err(error) => Err(Error::new(format!(
                "{}: {path} is {}, which cannot be: {}",
                self.what,
                short(&value.to_string()),
                short(&error.to_string())
            ))),
        }
    }

    /// A value that has to be there.
    pub(super) fn required<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let read = self.read(path, None)?;
        read.ok_or_else(|| Error::new(format!("{}: its config lacks {path}", self.what)))
    }

    /// A value that has to be there under one of two names.
    pub(super) fn either<T: DeserializeOwned>(&mut self, path: &str, other: &str) -> Result<T> {
        match self.read(other, None)? {
            Some(read) => Ok(read),
            None => self.required(path),
        }
    }

    /// What one of a few words means, of whatever case; the first where there is none.
    pub(super) fn word<T: Clone>(&mut self, path: &str, known: &[(&str, T)]) -> Result<T> {
        let word = self.read(path, known[0].0.to_owned())?;
        self.meaning(path, &word, known)
    }

    /// What one of a few words means, which has to be there.
    pub(super) fn required_word<T: Clone>(&mut self, path: &str, known: &[(&str, T)]) -> Result<T> {
        let word: String = self.required(path)?;
        self.meaning(path, &word, known)
    }

    fn meaning<T: Clone>(&self, path: &str, word: &str, known: &[(&str, T)]) -> Result<T> {
        let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, meaning)| meaning.clone());
        found.ok_or_else(|| {
            let known: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            unsupported(format!("{}: {path} is {}: known are {}", self.what, short(word), known.join(", ")))
        })
    }

    /// Fails if an entry has another value than these; none and null stand for the first.
    pub(super) fn only(&mut self, path: &str, allowed: &[Json]) -> Result<()> {
        let Some(value) = self.get(path).filter(|value| !value.is_null()) else { return Ok(()) };
        let known: Vec<_> = allowed.iter().map(Json::to_string).collect();
        ensure!(
            Kind::Unsupported,
            allowed.iter().any(|neutral| same(value, neutral)),
            "{}: {path} is {}, which is not supported: only {} is",
            self.what,
            short(&value.to_string()),
            if known.is_empty() { "null".to_owned() } else { known.join(" or ") }
        );
        Ok(())
    }

    /// Entries that do not change the network.
    pub(super) fn skip(&mut self, keys: &[&str]) {
        self.left.retain(|left| !keys.contains(left));
    }

    /// The entries nobody asked for, but for those that are null or false and the marks of a library.
    pub(super) fn others(&self) -> Vec<&'a str> {
        let says = |key: &&&str| {
            !key.starts_with('_') && !self.is_null(key) && self.json.get(**key) != Some(&Json::Bool(false))
        };
        self.left.iter().filter(says).copied().collect()
    }

    /// Fails if there are entries nobody asked for, but for those that are null and the marks of a library, which start with
    /// `_`.
    pub(super) fn finish(self) -> Result<()> {
        let left = self.left.iter().filter(|key| !key.starts_with('_') && !self.is_null(key));
        let left: Vec<_> = left.copied().collect();
        ensure!(
            Kind::Unsupported,
            left.is_empty(),
            "{}: its config has entries that are not known here: {}",
            self.what,
            first_of(&left)
        );
        Ok(())
    }
}

/// The same value, whether whole numbers are written with a point or not, and whether a list has it for all items.
fn same(value: &Json, neutral: &Json) -> bool {
    match (value.as_array(), value.as_f64(), neutral.as_f64()) {
        (Some(items), _, _) => items.iter().all(|item| same(item, neutral)),
        (None, Some(value), Some(neutral)) => value == neutral,
        _ => value == neutral,
    }
}

/// The text under a key.
pub(super) fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

/// What sizes of networks are called in the configs read here.
const SIZES: &[&str] = &[
    "attention_head_dim",
    "block_out_channels",
    "ch",
    "ch_mult",
    "channel_mult",
    "channel_mult_emb",
    "channel_mult_noise",
    "channels",
    "context_dim",
    "cross_attention_dim",
    "embed_dim",
    "filter_size",
    "img_channels",
    "img_resolution",
    "image_size",
    "in_channel",
    "in_channels",
    "label_dim",
    "latent_channels",
    "layers_per_block",
    "model_channels",
    "n_block",
    "n_classes",
    "n_embed",
    "n_flow",
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
    "out_ch",
    "out_channels",
    "patch_size",
    "resolution",
    "sample_size",
    "transformer_depth",
    "transformer_layers_per_block",
    "vq_embed_dim",
    "z_channels",
];
/// Sizes that count layers.
const COUNTS: &[&str] = &[
    "layers_per_block",
    "n_block",
    "n_flow",
    "num_blocks",
    "num_layers",
    "num_res_blocks",
    "transformer_depth",
    "transformer_layers_per_block",
];

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
            let value = short(&value.to_string());
            return Err(Error::new(format!("the config's {key} is {value}: no network is that large")));
        }
    }
    Ok(())
}
