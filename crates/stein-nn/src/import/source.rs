//! What there is to import: files and folders of weights, unpacked to named tensors and a config.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use serde_json::Value as Json;
use stein::{Error, Result, ensure};

use super::pickle::{self, Value};
use crate::{
    files::{fault, read_tensors},
    state::Tensors,
};

/// Which implementation weights come from: their names, layouts and conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ermongroup/ncsn`.
    Ncsn,
    /// `ermongroup/ncsnv2`.
    NcsnV2,
    /// `yang-song/score_sde_pytorch`.
    ScoreSde,
    /// `NVlabs/edm`.
    Edm,
    /// `openai/guided-diffusion` and `openai/improved-diffusion`.
    GuidedDiffusion,
    /// `openai/consistency_models`.
    Consistency,
    /// Models of `huggingface/diffusers`.
    Diffusers,
}

impl Kind {
    /// The kinds by name.
    pub const ALL: [(&str, Self); 7] = [
        ("ncsn", Self::Ncsn),
        ("ncsnv2", Self::NcsnV2),
        ("score_sde", Self::ScoreSde),
        ("edm", Self::Edm),
        ("guided_diffusion", Self::GuidedDiffusion),
        ("consistency_models", Self::Consistency),
        ("diffusers", Self::Diffusers),
    ];

    /// The kind of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let names = Self::ALL.map(|(name, _)| name).join(", ");
        found.ok_or_else(|| Error::new(format!("there is no kind of weights {name}: give one of {names}")))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// What the names of tensors and the config say.
    fn of(config: &Json, weights: &Tensors) -> Option<Self> {
        let any = |part: &str| weights.keys().any(|key| key.contains(part));
        if config.get("_class_name").is_some() {
            Some(Self::Diffusers)
        } else if config.get("karras_denoiser").is_some() {
            Some(Self::Consistency)
        } else if any("all_modules.") {
            Some(Self::ScoreSde)
        } else if any("model.enc.") || any("up.conv0.") {
            Some(Self::Edm)
        } else if any("input_blocks.") {
            Some(Self::GuidedDiffusion)
        } else if any("normalizer.embed.") {
            Some(Self::Ncsn)
        } else if any("normalizer.alpha") {
            Some(Self::NcsnV2)
        } else {
            None
        }
    }
}

/// Weights as they were published.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where they come from.
    pub kind: Kind,
    /// The config of their implementation.
    pub config: Json,
    /// How the implementation samples, where a file says so: `scheduler_config.json` of diffusers.
    pub scheduler: Option<Json>,
    /// Whether the network works on the latents of an autoencoder that is part of the same pipeline.
    pub latent: bool,
    /// The tensors; the average of the weights where there is one.
    pub weights: Tensors,
    /// What was read: files, and which of the weights in them.
    pub origin: String,
}

/// The names files of weights have in a folder, the preferred first.
const WEIGHTS: &[&str] = &[
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "weights.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
];

impl Source {
    /// Reads a file of weights, or a folder with weights and `config.json`, such as diffusers save a model or a whole
    /// pipeline in. `config` is the config where it does not lie beside the weights; `kind` what they are where names do not
    /// say.
    ///
    /// # Errors
    /// When a file is missing, damaged, or not one of weights, or nothing says what kind they are.
    pub fn open(path: &Path, kind: Option<Kind>, config: Option<&Path>) -> Result<Self> {
        let (folder, file) = if path.is_dir() {
            let folder = network(path)?;
            let file = WEIGHTS.iter().map(|name| folder.join(name)).find(|file| file.exists());
            let file = file.ok_or_else(|| {
                fault(format!("{} has no weights: there is none of {} in it", folder.display(), WEIGHTS.join(", ")))
            })?;
            (folder, file)
        } else {
            ensure!(
                Kind::File,
                path.exists(),
                "there is no {}: give a file of weights, or a folder with one",
                path.display()
            );
            (path.parent().unwrap_or(Path::new("")).to_owned(), path.to_owned())
        };
        let (scheduler, latent) = pipeline(&folder)?;
        let config = config.map_or_else(|| folder.join("config.json"), Path::to_owned);
        let config = json(&config).map_err(|error| {
            Error::of(
                error.kind(),
                format!("{error}; weights alone do not say which network they are of: give --config FILE.json"),
            )
        })?;
        let (weights, part) = weights(&file)?;
        let kind = kind.or_else(|| Kind::of(&config, &weights)).ok_or_else(|| {
            let names = Kind::ALL.map(|(name, _)| name).join(", ");
            Error::new(format!(
                "nothing in {} says which implementation it is from: give --from, one of {names}",
                file.display()
            ))
        })?;
        Ok(Self { kind, config, scheduler, latent, weights, origin: format!("{}{part}", file.display()) })
    }
}

/// The folder of the network of a model or a pipeline.
fn network(path: &Path) -> Result<PathBuf> {
    // Some pipelines have their network in a folder, some beside the index.
    let found = ["unet", "transformer"].map(|part| path.join(part)).into_iter().find(|part| part.is_dir());
    if !path.join(INDEX).exists() || (found.is_none() && path.join("config.json").exists()) {
        return Ok(path.to_owned());
    }
    found.ok_or_else(|| {
        fault(format!("{} is a pipeline without a folder unet or transformer: there is no network", path.display()))
    })
}

/// What names the parts of a pipeline.
const INDEX: &str = "model_index.json";

/// How the pipeline samples whose network lies in a folder, and whether it does in the latents of an autoencoder.
fn pipeline(folder: &Path) -> Result<(Option<Json>, bool)> {
    let above = folder.join("..");
    let files = [folder.join("scheduler_config.json"), above.join("scheduler/scheduler_config.json")];
    let inside = above.join(INDEX).exists();
    let file = files.iter().take(if inside { 2 } else { 1 }).find(|file| file.exists());
    let scheduler = file.map(|file| json(file)).transpose()?;
    let latent = inside && {
        let index = json(&above.join(INDEX))?;
        // A part that is left out is null, or a pair of nulls.
        let there = |part: &Json| part.get(0).is_some_and(|library| !library.is_null());
        ["vae", "vqvae"].iter().any(|part| index.get(part).is_some_and(there))
    };
    Ok((scheduler, latent))
}

fn json(path: &Path) -> Result<Json> {
    let text = fs::read_to_string(path).map_err(|error| fault(format!("cannot read {}: {error}", path.display())))?;
    serde_json::from_str(&finite(&text)).map_err(|error| fault(format!("{} is no JSON: {error}", path.display())))
}

/// The numbers that are none, which Python writes and the format does not know.
pub const NOT_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// JSON with words for [`NOT_NUMBERS`].
fn finite(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if !quoted && let Some(word) = NOT_NUMBERS.iter().find(|word| rest.starts_with(**word)) {
            plain.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        (quoted, escaped) = match next {
            '"' if !escaped => (!quoted, false),
            '\\' if quoted => (true, !escaped),
            _ => (quoted, false),
        };
        plain.push(next);
        rest = &rest[next.len_utf8()..];
    }
    plain
}

/// The tensors of a file, and which of those in it they are.
fn weights(path: &Path) -> Result<(Tensors, String)> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => Ok((unwrapped(read_tensors(path)?), String::new())),
        Some("json") => Ok((unwrapped(sharded(path)?), String::new())),
        _ => {
            let root = pickle::read(path)?;
            unwrap(&root).map_err(|error| error.at(path.display()))
        }
    }
}

/// Under the names of the network, where it was saved from within a wrapper that spreads batches over devices.
fn unwrapped(weights: impl IntoIterator<Item = (String, TensorData)>) -> Tensors {
    let plain = |name: String| name.strip_prefix("module.").map(str::to_owned).unwrap_or(name);
    weights.into_iter().map(|(name, data)| (plain(name), data)).collect()
}

/// The tensors of all files an index names.
fn sharded(path: &Path) -> Result<Tensors> {
    let index = json(path)?;
    let files = index.get("weight_map").and_then(Json::as_object);
    let files = files.ok_or_else(|| fault(format!("{} has no weight_map: it is no index", path.display())))?;
    let mut names: Vec<&str> = files.values().filter_map(Json::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let mut all = Tensors::new();
    for name in names {
        ensure!(
            Kind::File,
            !name.contains(['/', '\\']) && !name.ends_with(".json"),
            "{} names the file {name}, which is not beside it",
            path.display()
        );
        let (part, _) = weights(&path.with_file_name(name))?;
        all.extend(part);
    }
    Ok(all)
}

/// The weights of what an implementation saves: its state dict, or a list or dictionary that has it with an average.
fn unwrap(root: &Value) -> Result<(Tensors, String)> {
    // The average is kept without the wrapper's names even where the weights are not.
    let owned = |pairs: Vec<(&str, &TensorData)>| {
        unwrapped(pairs.into_iter().map(|(name, data)| (name.to_owned(), data.clone())))
    };
    match root {
        // NCSN: [weights, optimizer]; NCSNv2: [weights, optimizer, epoch, step, average].
        Value::List(items) => {
            let first = items.first().map(Value::tensors).unwrap_or_default();
            ensure!(
                Kind::File,
                !first.is_empty(),
                "is a list that does not start with a state dict: it has no weights"
            );
            let mut weights = owned(first);
            let average = items.get(4).map(Value::tensors).unwrap_or_default();
            let part = if average.is_empty() { "" } else { ", averaged weights" };
            weights.extend(owned(average));
            Ok((weights, part.to_owned()))
        }
        Value::Dict(_) => {
            if let Some(model) = root.get("model") {
                let names = model.tensors();
                let mut weights = owned(names.clone());
                let Some(Value::List(shadow)) = root.get("ema").and_then(|ema| ema.get("shadow_params")) else {
                    return Ok((weights, String::new()));
                };
                average(&names, shadow, &mut weights)?;
                let step = match root.get("step") {
                    Some(Value::Int(step)) => format!(" at step {step}"),
                    _ => String::new(),
                };
                return Ok((weights, format!(", averaged weights{step}")));
            }
            let inner = root.get("state_dict").unwrap_or(root).tensors();
            ensure!(Kind::File, !inner.is_empty(), "has no tensors: it is no state dict");
            Ok((owned(inner), String::new()))
        }
        _ => Err(fault("is neither a state dict nor a list that starts with one: it has no weights")),
    }
}

/// Puts averaged parameters, listed in the order of the model's trained ones, under their names.
fn average(names: &[(&str, &TensorData)], shadow: &[Value], weights: &mut Tensors) -> Result<()> {
    // Not averaged: the table of noise levels, and random frequencies, which are not trained.
    let averaged = |name: &str| !name.ends_with("sigmas");
    let frozen = |name: &str| name.ends_with("all_modules.0.W");
    let all: Vec<_> = names.iter().filter(|(name, _)| averaged(name)).collect();
    let trained: Vec<_> = all.iter().filter(|(name, _)| !frozen(name)).copied().collect();
    let owners = if shadow.len() == all.len() { all } else { trained };
    ensure!(
        Kind::File,
        shadow.len() == owners.len(),
        "has {} averaged tensors for {} parameters: it is damaged",
        shadow.len(),
        owners.len()
    );
    for ((name, data), value) in owners.into_iter().zip(shadow) {
        match value {
            Value::Tensor(average) if average.shape() == data.shape() => {
                weights.insert(name.strip_prefix("module.").unwrap_or(name).to_owned(), (**average).clone());
            }
            _ => return Err(fault(format!("has an average of {name} that does not fit it: it is damaged"))),
        }
    }
    Ok(())
}
