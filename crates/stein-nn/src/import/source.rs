//! What there is to import: files and folders of weights, unpacked to named tensors and a config.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use serde_json::Value as Json;
use stein::{Error, Result, ensure};

use super::{
    diffusers_scheduler::scheduler,
    pickle::{self, Value},
};
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
    /// `pclucas14/pixel-cnn-pp`.
    PixelCnnPp,
    /// Models of `huggingface/diffusers`.
    Diffusers,
    /// Models by class of `CompVis/latent-diffusion`.
    LatentDiffusion,
    /// `rosinality/glow-pytorch`.
    Glow,
}

impl Kind {
    /// The kinds by name.
    pub const ALL: [(&str, Self); 10] = [
        ("ncsn", Self::Ncsn),
        ("ncsnv2", Self::NcsnV2),
        ("score_sde", Self::ScoreSde),
        ("edm", Self::Edm),
        ("guided_diffusion", Self::GuidedDiffusion),
        ("consistency_models", Self::Consistency),
        ("pixel_cnn_pp", Self::PixelCnnPp),
        ("diffusers", Self::Diffusers),
        ("latent_diffusion", Self::LatentDiffusion),
        ("glow_pytorch", Self::Glow),
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
        } else if any("model.diffusion_model.") {
            Some(Self::LatentDiffusion)
        } else if any("input_blocks.") {
            Some(Self::GuidedDiffusion)
        } else if any("normalizer.embed.") {
            Some(Self::Ncsn)
        } else if any("normalizer.alpha") {
            Some(Self::NcsnV2)
        } else if any(".invconv.") {
            Some(Self::Glow)
        } else if any("ul_init.") {
            Some(Self::PixelCnnPp)
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
    /// The tensors.
    pub weights: Tensors,
    /// What was read.
    pub origin: String,
    /// Which of the weights there are these are, and what else there is.
    pub which: String,
}

/// Which weights to take where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The average over training.
    Ema,
    /// Those training ended with.
    Raw,
}

impl Which {
    /// Those of that name, `ema` or `raw`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "ema" => Ok(Self::Ema),
            "raw" => Ok(Self::Raw),
            _ => Err(stein_base::names::unknown("kind of weights", name, &["ema", "raw"])),
        }
    }
}

/// What to read otherwise than files say themselves.
#[derive(Debug, Clone, Default)]
pub struct Reading<'a> {
    /// What the weights are of, where names do not say.
    pub kind: Option<Kind>,
    /// The config where it does not lie beside the weights.
    pub config: Option<&'a Path>,
    /// Which weights; the average where there is one.
    pub which: Option<Which>,
    /// How a network of diffusers was trained: a scheduler's config to read, `{…}` as JSON, or the name of a scheduler that has its
    /// defaults.
    pub schedule: Option<&'a str>,
}

/// The names files of weights have in a folder, the preferred first: whole numbers before halves, the average before what training
/// ended with, safetensors before pickles. One that ends in `.json` is an index of files that each have some of the tensors.
pub fn names_of_weights(which: Option<Which>) -> Vec<String> {
    let mut names = Vec::new();
    let forms: [(&str, &[&str]); 2] = [
        ("safetensors", &["diffusion_pytorch_model", "weights", "model"]),
        ("bin", &["diffusion_pytorch_model", "pytorch_model"]),
    ];
    let mut variants = ["", ".fp16", ".bf16", RAW];
    if which == Some(Which::Raw) {
        variants.rotate_right(1);
    }
    for variant in variants {
        for (ending, stems) in forms {
            for stem in stems {
                names.push(format!("{stem}{variant}.{ending}"));
                names.push(format!("{stem}.{ending}.index{variant}.json"));
            }
        }
    }
    names
}

/// What diffusers calls weights that are no average, beside others that are.
const RAW: &str = ".non_ema";

/// The files beside an index that it names.
///
/// # Errors
/// When it cannot be read or is no index, or names a file elsewhere.
pub fn parts_of_index(path: &Path) -> Result<Vec<String>> {
    let index = json(path)?;
    let files = index.get("weight_map").and_then(Json::as_object).filter(|files| !files.is_empty());
    let files = files.ok_or_else(|| fault(format!("{} has no weight_map: it is no index", path.display())))?;
    let mut names: Vec<String> = files.values().filter_map(Json::as_str).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        ensure!(
            Kind::File,
            !name.contains(['/', '\\']) && !name.ends_with(".json"),
            "{} names the file {name}, which is not beside it",
            path.display()
        );
    }
    Ok(names)
}

impl Source {
    /// Reads a file of weights, or a folder with weights and `config.json`, such as diffusers save a model or a whole
    /// pipeline in. `config` is the config where it does not lie beside the weights; `kind` what they are where names do not
    /// say.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn open(path: &Path, kind: Option<Kind>, config: Option<&Path>) -> Result<Self> {
        Self::read(path, &Reading { kind, config, ..Reading::default() })
    }

    /// The same, otherwise than the files say themselves.
    ///
    /// # Errors
    /// When a file is missing, damaged, or not one of weights, or lacks the weights that are asked for, or nothing says what kind they
    /// are.
    pub fn read(path: &Path, reading: &Reading) -> Result<Self> {
        let mut others = Vec::new();
        let (folder, file) = if path.is_dir() {
            let folder = network(path, reading.which)?;
            let file;
            (file, others) = weights_in(&folder, reading.which)?;
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
        let (mut scheduler, latent) = pipeline(&folder)?;
        if let Some(stated) = reading.schedule {
            scheduler = Some(scheduler_of(stated)?);
        }
        let config = reading.config.map_or_else(|| folder.join("config.json"), Path::to_owned);
        let config = json(&config).map_err(|error| {
            Error::of(
                error.kind(),
                format!("{error}; weights alone do not say which network they are of: give --config FILE.json"),
            )
        })?;
        let Found { weights, which } = weights(&file, reading.which)?;
        let kind = reading.kind.or_else(|| Kind::of(&config, &weights)).ok_or_else(|| {
            let names = Kind::ALL.map(|(name, _)| name).join(", ");
            Error::new(format!(
                "nothing in {} says which implementation it is from: give --from, one of {names}",
                file.display()
            ))
        })?;
        ensure!(
            reading.schedule.is_none() || kind == Kind::Diffusers,
            "--schedule is for networks of diffusers, whose configs do not say it: state that of {} in its config",
            kind.name()
        );
        let mut which = match which {
            Some(which) => which,
            None => which_file(&file, &folder, &config, reading.which)?,
        };
        if !others.is_empty() {
            which += &format!("; not {}, which the folder has too", others.join(", "));
        }
        Ok(Self { kind, config, scheduler, latent, weights, origin: file.display().to_string(), which })
    }
}

/// The file of weights in a folder, and the names of others there.
pub(super) fn weights_in(folder: &Path, which: Option<Which>) -> Result<(PathBuf, Vec<String>)> {
    let known = names_of_weights(which);
    let mut there = known.iter().filter(|name| folder.join(name).exists());
    let file = there.next().ok_or_else(|| {
        let usual = known.iter().filter(|name| !name.contains(".index")).take(5).map(String::as_str);
        let usual: Vec<_> = usual.collect();
        fault(format!("{} has no weights: there is no {}, and the like", folder.display(), usual.join(", ")))
    })?;
    Ok((folder.join(file), there.cloned().collect()))
}

/// A scheduler as a file, JSON or a name say it.
fn scheduler_of(stated: &str) -> Result<Json> {
    let path = Path::new(stated);
    if stated.trim_start().starts_with('{') {
        return serde_json::from_str(stated)
            .map_err(|error| Error::new(format!("--schedule {stated} is no JSON: {error}")));
    }
    if path.extension().is_some() || path.exists() { json(path) } else { scheduler(stated) }
}

/// Which weights a file has that names none: what its own name says, its folder's or its config.
fn which_file(file: &Path, folder: &Path, config: &Json, wanted: Option<Which>) -> Result<String> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file_name = name(file);
    let raw = file_name.contains(RAW);
    let by = if raw || says_average(&file_name) {
        Some(("its name", file_name))
    } else if says_average(&name(folder)) {
        Some(("the name of its folder", name(folder)))
    } else if config.get("optimization_step").is_some_and(|step| !step.is_null()) {
        Some(("its config", "optimization_step".to_owned()))
    } else {
        None
    };
    let Some((by, word)) = by else {
        ensure!(
            wanted.is_none(),
            "{} has one set of weights, and does not say which: leave out --weights",
            file.display()
        );
        return Ok("the only ones of the file, which does not say whether they are an average".to_owned());
    };
    let found = if raw { Which::Raw } else { Which::Ema };
    let said = if raw { "raw" } else { "ema" };
    ensure!(
        wanted.is_none_or(|wanted| wanted == found),
        "{} has only the other weights, {said} by {by}: leave out --weights",
        file.display()
    );
    Ok(format!("{said}, by {by} ({word})"))
}

/// The folder of the network of a model or a pipeline.
fn network(path: &Path, which: Option<Which>) -> Result<PathBuf> {
    let found = network_folder(which, |name| path.join(name).exists(), |name| path.join(name).is_dir());
    found.map(|part| if part.is_empty() { path.to_owned() } else { path.join(part) }).ok_or_else(|| {
        fault(format!("{} is a pipeline without a folder unet or transformer: there is no network", path.display()))
    })
}

/// What names the parts of a pipeline.
pub const PIPELINE: &str = "model_index.json";

/// The folder that the network of a model is in: none of its own, or one of a pipeline or of what training scripts save on their
/// way, in which the average may have a folder too. None if there is no network.
pub fn network_folder(
    which: Option<Which>,
    has_file: impl Fn(&str) -> bool,
    has_folder: impl Fn(&str) -> bool,
) -> Option<&'static str> {
    let raw = which == Some(Which::Raw);
    let parts = if raw { ["unet", "transformer", "unet_ema"] } else { ["unet_ema", "unet", "transformer"] };
    // Some pipelines have their network in a folder, some beside the index.
    let inside = has_file(PIPELINE) || !has_file("config.json");
    let part = parts.into_iter().filter(|_| inside).find(|part| has_folder(part));
    part.or_else(|| (has_file("config.json") || !has_file(PIPELINE)).then_some(""))
}

/// How the pipeline samples whose network lies in a folder, and whether it does in the latents of an autoencoder.
fn pipeline(folder: &Path) -> Result<(Option<Json>, bool)> {
    let above = folder.join("..");
    let files = [folder.join("scheduler_config.json"), above.join("scheduler/scheduler_config.json")];
    let inside = above.join(PIPELINE).exists();
    let file = files.iter().take(if inside { 2 } else { 1 }).find(|file| file.exists());
    let scheduler = file.map(|file| json(file)).transpose()?;
    let latent = inside && {
        let index = json(&above.join(PIPELINE))?;
        ["vae", "vqvae"].iter().any(|part| has_part(&index, part))
    };
    Ok((scheduler, latent))
}

/// Whether the index of a pipeline has a part: one that is left out is null, or a pair of nulls.
pub(super) fn has_part(index: &Json, part: &str) -> bool {
    index.get(part).and_then(|part| part.get(0)).is_some_and(|library| !library.is_null())
}

/// The JSON of a file, in which [`NOT_NUMBERS`] may stand.
pub(crate) fn json(path: &Path) -> Result<Json> {
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

/// The tensors of a file, and which of those in it they are where it says so.
struct Found {
    weights: Tensors,
    which: Option<String>,
}

fn weights(path: &Path, which: Option<Which>) -> Result<Found> {
    let found = match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => found(unwrapped(read_tensors(path)?), which),
        Some("json") => found(sharded(path)?, which),
        _ => unwrap(&pickle::read(path)?, which),
    };
    found.map_err(|error| error.at(path.display()))
}

/// The tensors of one file.
pub(super) fn state_dict_of(path: &Path) -> Result<Tensors> {
    Ok(weights(path, None)?.weights)
}

/// Under the names of the network, where it was saved from within a wrapper that spreads batches over devices, or compiles.
fn unwrapped(weights: impl IntoIterator<Item = (String, TensorData)>) -> Tensors {
    const WRAPPERS: [&str; 2] = ["_orig_mod.", "module."];
    let plain = |name: String| {
        let mut rest = &name[..];
        while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
            rest = inner;
        }
        rest.to_owned()
    };
    weights.into_iter().map(|(name, data)| (plain(name), data)).collect()
}

/// The tensors of all files an index names.
fn sharded(path: &Path) -> Result<Tensors> {
    let mut all = Tensors::new();
    for name in parts_of_index(path)? {
        let part = path.with_file_name(&name);
        ensure!(
            Kind::File,
            part.exists(),
            "{} names {name}, which is not there: copy or download it too",
            path.display()
        );
        all.extend(weights(&part, None)?.weights);
    }
    Ok(all)
}

/// Whether words of a name speak of an average.
fn says_average(name: &str) -> bool {
    let mut words = name.split(|c: char| !c.is_ascii_alphabetic()).map(str::to_ascii_lowercase);
    words.any(|word| ["average", "averaged", "avg", "ema", "shadow", "swa"].contains(&&word[..]))
}

/// The weights of one list of tensors, which may have an average of others under a name of its own: `ema.conv.weight` beside
/// `conv.weight`.
fn found(all: Tensors, which: Option<Which>) -> Result<Found> {
    let section = |name: &str| {
        name.split_once('.').map(|(first, _)| first).filter(|first| says_average(first)).map(str::to_owned)
    };
    let Some(average) = all.keys().find_map(|name| section(name)) else {
        return Ok(Found { weights: all, which: None });
    };
    let (averaged, raw): (Tensors, Tensors) =
        all.into_iter().partition(|(name, _)| section(name).as_ref() == Some(&average));
    // Latent diffusion's average leaves dots out of names, and the module all are in.
    let dotless = |name: &String| name.strip_prefix("model.").unwrap_or(name).replace('.', "");
    let dotted: BTreeMap<String, String> = raw.keys().map(|name| (dotless(name), name.clone())).collect();
    let averaged = averaged.into_iter().map(|(name, data)| {
        let name = &name[average.len() + 1..];
        let dotted = dotted.get(name).filter(|_| !raw.contains_key(name)).cloned();
        (dotted.unwrap_or_else(|| name.to_owned()), data)
    });
    let averaged = unwrapped(averaged);
    let raw =
        raw.into_iter().map(|(name, data)| (name.strip_prefix("online_model.").unwrap_or(&name).to_owned(), data));
    Sections { raw: ("", unwrapped(raw)), average: Some((&average[..], averaged)), step: None }.take(which)
}

/// The weights of a file and their average, each with the name it has there.
struct Sections<'a> {
    raw: (&'a str, Tensors),
    average: Option<(&'a str, Tensors)>,
    /// Of how many steps they are.
    step: Option<i64>,
}

impl Sections<'_> {
    /// The weights that are wanted: the average where there is one, with what is not averaged of the others.
    fn take(self, which: Option<Which>) -> Result<Found> {
        let Self { raw: (raw, mut weights), average, step } = self;
        let quoted = |name: &str| if name.is_empty() { String::new() } else { format!(" (`{name}`)") };
        let step = step.map_or_else(String::new, |step| format!(" at step {step}"));
        let which = match (average, which) {
            (None, Some(Which::Ema)) => {
                return Err(fault("has no average of its weights, which --weights ema asks for"));
            }
            (None, _) => format!("raw{}{step}; the file has no average", quoted(raw)),
            (Some((average, _)), Some(Which::Raw)) => {
                ensure!(
                    Kind::File,
                    !weights.is_empty(),
                    "has only the average `{average}`, and --weights raw asks for others"
                );
                format!("raw{}{step}; not the average{}", quoted(raw), quoted(average))
            }
            (Some((average, averaged)), _) => {
                weights.extend(averaged);
                format!("ema{}{step}", quoted(average))
            }
        };
        Ok(Found { weights, which: Some(which) })
    }
}

/// What state dicts lie in that an implementation or a training framework saves, but for those that are an average.
const STATE_DICTS: [&str; 6] = ["model", "state_dict", "model_state_dict", "net", "network", "module"];

/// The weights of what an implementation saves: its state dict, or a list or dictionary that has it with an average.
fn unwrap(root: &Value, which: Option<Which>) -> Result<Found> {
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
            let average = items.get(4).map(Value::tensors).filter(|average| !average.is_empty());
            let average = average.map(|average| ("", owned(average)));
            let step = match items.get(3) {
                Some(Value::Int(step)) => Some(*step),
                _ => None,
            };
            Sections { raw: ("", owned(first)), average, step }.take(which)
        }
        Value::Dict(entries) => {
            let (raw, state) = STATE_DICTS
                .iter()
                .find_map(|name| Some((*name, state_dict(root.get(name)?)?)))
                .unwrap_or_else(|| ("", root.tensors()));
            let step = STEPS.iter().find_map(|name| match root.get(name) {
                Some(Value::Int(step)) => Some(*step),
                _ => None,
            });
            let averages = entries.iter().filter_map(|(name, value)| match name {
                Value::Text(name) if says_average(name) => Some((&name[..], value)),
                _ => None,
            });
            let averages: Vec<(&str, Tensors)> = averages
                .filter_map(|(name, value)| Some(averaged(value, &state)?.map(|average| (name, average))))
                .collect::<Result<_>>()?;
            if let [first, second, ..] = &averages[..] {
                return Err(fault(format!(
                    "has several averages, `{}` and `{}` among them: save one of them alone",
                    first.0, second.0
                )));
            }
            let average = averages.into_iter().next();
            ensure!(Kind::File, !state.is_empty() || average.is_some(), "has no tensors: it is no state dict");
            let state = owned(state);
            if average.is_none() {
                let inside = found(state.clone(), which)?;
                if raw.is_empty() || inside.which.is_some() {
                    return Ok(inside);
                }
            }
            Sections { raw: (raw, state), average, step }.take(which)
        }
        _ => Err(fault("is neither a state dict nor a list that starts with one: it has no weights")),
    }
}

/// What the number of steps is called.
const STEPS: [&str; 3] = ["step", "global_step", "iteration"];

/// The tensors of a state dict, or of one within what keeps it.
fn state_dict(value: &Value) -> Option<Vec<(&str, &TensorData)>> {
    let own = value.tensors();
    if own.len() > 1 {
        return Some(own);
    }
    let inner =
        ["state_dict", "module", "shadow", "model", "params"].iter().find_map(|name| state_dict(value.get(name)?));
    inner.or_else(|| Some(own).filter(|own| !own.is_empty()))
}

/// An average: a list of tensors in the order of the parameters, alone or as `shadow_params`, or a state dict, whose names may say
/// that it is one; none where it has no tensors.
fn averaged(value: &Value, state: &[(&str, &TensorData)]) -> Option<Result<Tensors>> {
    let list = value.get("shadow_params").unwrap_or(value);
    if let Value::List(shadow) = list {
        return shadow.iter().any(|item| matches!(item, Value::Tensor(_))).then(|| average(state, shadow));
    }
    let tensors = state_dict(value)?;
    let tensors = tensors.into_iter().map(|(name, data)| (name.to_owned(), data.clone()));
    let tensors: Tensors = unwrapped(tensors);
    // What averages count, and the weights that one of them keeps beside its own.
    let own = |(name, data): (String, TensorData)| {
        let plain = name.strip_prefix("ema_model.").map(str::to_owned);
        let kept = plain.unwrap_or_else(|| name.clone());
        (!COUNTERS.contains(&&name[..]) && !name.starts_with("online_model.")).then_some((kept, data))
    };
    Some(Ok(unwrapped(tensors.into_iter().filter_map(own))))
}

/// Tensors of an average that count what it has seen.
const COUNTERS: [&str; 5] = ["decay", "initted", "n_averaged", "num_updates", "step"];

/// Averaged parameters, listed in the order of the model's trained ones, under their names.
fn average(names: &[(&str, &TensorData)], shadow: &[Value]) -> Result<Tensors> {
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
    let pair = |((name, data), value): (&(&str, &TensorData), &Value)| match value {
        Value::Tensor(average) if average.shape() == data.shape() => Ok(((*name).to_owned(), (**average).clone())),
        _ => Err(fault(format!("has an average of {name} that does not fit it: it is damaged"))),
    };
    Ok(unwrapped(owners.into_iter().zip(shadow).map(pair).collect::<Result<Vec<_>>>()?))
}
