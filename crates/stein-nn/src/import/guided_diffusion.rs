//! U-Nets and noise-conditional classifiers of `openai/guided-diffusion` (`UNetModel`, `EncoderUNetModel`), and U-Nets
//! of `openai/improved-diffusion`, whose names and layouts are the same.
//!
//! Their attention keeps queries, keys and values in one tensor, whose rows are in one of two orders.

use std::sync::Arc;

use burn::tensor::Device;
use serde::Deserialize;
use serde_json::{Value, json};
use stein::{Condition, Error, Result, ensure};

use super::{
    Case, Imported, Key, Output, Weights, load,
    values::{check_sizes, flag},
};
use crate::{
    init::Init,
    networks::{Adm, AdmConfig, AdmEncoder, AdmEncoderConfig, Pool},
    state::Tensors,
    trace::Trace,
};

/// The arguments of their networks, with their defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    in_channels: usize,
    model_channels: usize,
    out_channels: usize,
    num_res_blocks: usize,
    attention_resolutions: Vec<usize>,
    #[serde(default)]
    dropout: f64,
    #[serde(default = "multipliers")]
    channel_mult: Vec<f64>,
    #[serde(default = "yes")]
    conv_resample: bool,
    #[serde(default = "two")]
    dims: usize,
    num_classes: Option<usize>,
    #[serde(default = "one")]
    num_heads: usize,
    #[serde(default = "follows")]
    num_head_channels: i64,
    #[serde(default = "follows")]
    num_heads_upsample: i64,
    #[serde(default)]
    use_scale_shift_norm: bool,
    #[serde(default)]
    resblock_updown: bool,
    #[serde(default)]
    use_new_attention_order: bool,
    pool: Option<String>,
}

/// What a network of theirs was trained on, with the defaults of their scripts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Process {
    /// The side of its images; none where the config does not say.
    pub image_size: Option<usize>,
    /// The side of what it makes of smaller pictures, if it raises the resolution.
    pub large_size: Option<usize>,
    /// Levels.
    #[serde(default = "thousand")]
    pub diffusion_steps: usize,
    /// `linear` or `cosine`.
    #[serde(default = "linear")]
    pub noise_schedule: String,
    /// Whether the network is given levels as if there were 1000; none where the config does not say, as the two implementations
    /// then differ.
    pub rescale_timesteps: Option<bool>,
    /// Whether it predicts the image, not the noise.
    #[serde(default)]
    pub predict_xstart: bool,
}

fn multipliers() -> Vec<f64> {
    vec![1.0, 2.0, 4.0, 8.0]
}

fn thousand() -> usize {
    1000
}

fn linear() -> String {
    "linear".to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn follows() -> i64 {
    -1
}

/// What their scripts take besides the arguments of the network: [`Process`], and how they compute and train.
const BESIDES: [&str; 20] = [
    "class_cond",
    "diffusion_steps",
    "distillation",
    "image_size",
    "large_size",
    "learn_sigma",
    "noise_schedule",
    "num_channels",
    "predict_xstart",
    "rescale_learned_sigmas",
    "rescale_timesteps",
    "sigma_max",
    "sigma_min",
    "sigma_small",
    "small_size",
    "timestep_respacing",
    "use_checkpoint",
    "use_fp16",
    "use_kl",
    "weight_schedule",
];

/// The arguments of the network, from those or from the flags of their scripts, which name its width `num_channels`.
fn arguments(json: &Value) -> Result<Value> {
    let all = json.as_object().ok_or_else(|| Error::new("the config is no table of names and values"))?;
    let mut network = all.clone();
    network.retain(|key, _| !BESIDES.contains(&&key[..]));
    let Some(width) = all.get("num_channels") else { return Ok(Value::Object(network)) };
    let sizes = process(json)?;
    let side = sizes.large_size.or(sizes.image_size);
    let side = side.ok_or_else(|| Error::new("the config lacks image_size, which num_channels needs"))?;
    // Lists are text there.
    let numbers = |key: &str, or: &str| -> Result<Vec<f64>> {
        let text = match all.get(key) {
            None | Some(Value::Null) => or.to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string().trim_matches(['[', ']']).to_owned(),
        };
        let bad = || Error::new(format!("{key} is {text:?}: it is a list of numbers, such as \"16,8\""));
        text.split(',').filter(|part| !part.is_empty()).map(|part| part.trim().parse().map_err(|_| bad())).collect()
    };
    let attention: Vec<usize> = numbers("attention_resolutions", "16,8")?
        .into_iter()
        .map(|resolution| if resolution >= 1.0 { side / resolution as usize } else { 0 })
        .collect();
    let mut multipliers = numbers("channel_mult", "")?;
    if multipliers.is_empty() {
        multipliers = match side {
            512 if sizes.large_size.is_none() => vec![0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            256 | 512 => vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0],
            128 => vec![1.0, 1.0, 2.0, 3.0, 4.0],
            64 => vec![1.0, 2.0, 3.0, 4.0],
            32 => vec![1.0, 2.0, 2.0, 2.0],
            _ => {
                return Err(Error::new(format!(
                    "image_size is {side}, for which there is no usual channel_mult: give it"
                )));
            }
        };
    }
    network.insert("model_channels".to_owned(), width.clone());
    network.insert("attention_resolutions".to_owned(), json!(attention));
    network.insert("channel_mult".to_owned(), json!(multipliers));
    let defaults = [
        ("in_channels", json!(if sizes.large_size.is_some() { 6 } else { 3 })),
        ("out_channels", json!(if flag(json, "learn_sigma", false)? { 6 } else { 3 })),
        ("num_classes", if flag(json, "class_cond", false)? { json!(1000) } else { Value::Null }),
        ("num_res_blocks", json!(2)),
        ("num_heads", json!(4)),
        ("use_scale_shift_norm", json!(true)),
    ];
    for (key, value) in defaults {
        network.entry(key).or_insert(value);
    }
    let network = Value::Object(network);
    check_sizes(&network)?;
    Ok(network)
}

/// What the network was trained on.
///
/// # Errors
/// When the config is not one of theirs.
pub fn process(json: &Value) -> Result<Process> {
    let read: Process = serde_json::from_value(json.clone())
        .map_err(|error| Error::new(format!("this is no config of guided-diffusion's networks: {error}")))?;
    ensure!(read.image_size != Some(0), "the config's image_size is 0");
    ensure!(
        (1..=1_000_000).contains(&read.diffusion_steps),
        "the config's diffusion_steps is {}: it is a number of levels, such as 1000",
        read.diffusion_steps
    );
    Ok(read)
}

impl Arguments {
    fn read(json: &Value) -> Result<Self> {
        let read: Self = serde_json::from_value(arguments(json)?)
            .map_err(|error| Error::new(format!("this is no config of guided-diffusion's networks: {error}")))?;
        ensure!(read.dims == 2, "dims is {}: only networks of images, of 2 dims, are known here", read.dims);
        ensure!(
            read.conv_resample || read.resblock_updown,
            "conv_resample is false without resblock_updown: images are resized by weights only here"
        );
        Ok(read)
    }

    /// Factors that no level has are left out, as they do there.
    fn attention(&self) -> Vec<usize> {
        let levels = self.channel_mult.len();
        self.attention_resolutions.iter().copied().filter(|of| (0..levels).any(|level| 1 << level == *of)).collect()
    }

    fn order(&self) -> Order {
        if self.use_new_attention_order { Order::PartsFirst } else { Order::HeadsFirst }
    }
}

/// A number where −1 stands for none.
fn given(number: i64, name: &str) -> Result<Option<usize>> {
    if number == -1 {
        return Ok(None);
    }
    usize::try_from(number)
        .map(Some)
        .map_err(|_| Error::new(format!("{name} is {number}: it is -1 or a positive number")))
}

/// The config of a U-Net.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn config(json: &Value) -> Result<AdmConfig> {
    let theirs = Arguments::read(json)?;
    ensure!(theirs.pool.is_none(), "the config has a pool: it is one of a classifier, not of a U-Net");
    Ok(AdmConfig {
        inputs: theirs.in_channels,
        outputs: theirs.out_channels,
        classes: theirs.num_classes.unwrap_or(0),
        channels: theirs.model_channels,
        attention: theirs.attention(),
        heads_up: given(theirs.num_heads_upsample, "num_heads_upsample")?,
        head_channels: given(theirs.num_head_channels, "num_head_channels")?,
        multipliers: theirs.channel_mult,
        blocks: theirs.num_res_blocks,
        heads: theirs.num_heads,
        modulate: theirs.use_scale_shift_norm,
        resize_blocks: theirs.resblock_updown,
        dropout: theirs.dropout,
    })
}

/// Whether the network is a classifier: it pools, or has no way up.
pub(super) fn is_encoder(json: &Value, weights: Weights) -> bool {
    let no_way_up =
        |weights: &Tensors| !weights.is_empty() && !weights.keys().any(|key| key.starts_with("output_blocks."));
    json.get("pool").is_some() || matches!(weights, Weights::Theirs(theirs) if no_way_up(theirs))
}

/// The config of a classifier.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn encoder_config(json: &Value) -> Result<AdmEncoderConfig> {
    let theirs = Arguments::read(json)?;
    ensure!(theirs.num_classes.is_none(), "the config has num_classes: a classifier is given no class");
    let pool = match theirs.pool.as_deref() {
        Some("attention") => Pool::Attention,
        None | Some("adaptive") => Pool::Adaptive,
        Some("spatial") => Pool::Spatial,
        Some(other) => {
            return Err(Error::new(format!("pool is {other:?}: known here are attention, adaptive and spatial")));
        }
    };
    Ok(AdmEncoderConfig {
        size: process(json)?.image_size.unwrap_or(0),
        inputs: theirs.in_channels,
        outputs: theirs.out_channels,
        channels: theirs.model_channels,
        attention: theirs.attention(),
        head_channels: given(theirs.num_head_channels, "num_head_channels")?,
        multipliers: theirs.channel_mult,
        blocks: theirs.num_res_blocks,
        heads: theirs.num_heads,
        modulate: theirs.use_scale_shift_norm,
        resize_blocks: theirs.resblock_updown,
        dropout: theirs.dropout,
        pool,
    })
}

/// A U-Net with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Adm>> {
    let order = Arguments::read(json)?.order();
    let names = Names { config: config(json)?, order, ones: 1 };
    open_as(names, weights, |network, case| {
        let y = network.images(case.images("x")?, &case.context("timesteps", &condition(case)?)?)?;
        Ok(vec![("out".to_owned(), Output::images(y))])
    })
}

/// A U-Net with the weights of a file under these names.
pub(super) fn open_as(
    names: Names,
    weights: Weights,
    run: impl Fn(&Adm, &Case) -> Result<Vec<(String, Output)>> + Send + Sync + 'static,
) -> Result<Imported<Adm>> {
    let device = Device::flex().autodiff();
    let network = names.config.build(&mut Init::blank(&device))?;
    let key = move |ours: &str| names.key(ours);
    let network = load(network, weights, &key, |_| false)?;
    Ok(Imported { network, key: Arc::new(key), run: Arc::new(run), seen: Arc::new(seen) })
}

/// What a stored case conditions on.
pub(super) fn condition(case: &Case) -> Result<Condition> {
    Ok(if case.has("y") { Condition::classes(case.classes("y")?) } else { Condition::none() })
}

/// A classifier with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open_encoder(json: &Value, weights: Weights) -> Result<Imported<AdmEncoder>> {
    let config = encoder_config(json)?;
    let device = Device::flex().autodiff();
    let network = config.build(&mut Init::blank(&device))?;
    let names = Names { config: config.way_down(), order: Arguments::read(json)?.order(), ones: 1 };
    let key = move |ours: &str| match ours.strip_prefix("head.") {
        Some(rest) => names.head(config.pool, rest),
        None => names.key(ours),
    };
    let network = load(network, weights, &key, |_| false)?;
    Ok(Imported {
        network,
        key: Arc::new(key),
        run: Arc::new(|network, case| {
            let y = network.logits(case.images("x")?, &case.context("timesteps", &Condition::none())?)?;
            Ok(vec![("out".to_owned(), Output::plain(y))])
        }),
        seen: Arc::new(seen),
    })
}

fn seen(module: &str, trace: &Trace) -> Option<burn::tensor::TensorData> {
    let ours = match module.split_once('.') {
        None if module == "time_embed" => "embedding".to_owned(),
        None if module == "middle_block" => "middle".to_owned(),
        Some(("input_blocks", index)) => format!("down.{index}"),
        Some(("output_blocks", index)) => format!("up.{index}"),
        _ => return None,
    };
    trace.get(&ours).cloned()
}

/// The order of rows of queries, keys and values in one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By head, then queries, keys and values, then channel of the head.
    HeadsFirst,
    /// Queries, keys and values, each by head, then channel of the head.
    PartsFirst,
}

/// Where the rows of queries (0), keys (1) or values (2) are.
fn rows(order: Order, part: usize, channels: usize, heads: usize) -> Vec<usize> {
    let size = channels / heads;
    let row = |channel: usize| match order {
        Order::HeadsFirst => channel / size * 3 * size + part * size + channel % size,
        Order::PartsFirst => part * channels + channel,
    };
    (0..channels).map(row).collect()
}

/// The names and layouts of a network's weights.
pub(super) struct Names {
    pub(super) config: AdmConfig,
    pub(super) order: Order,
    /// How many axes of places the linear maps of attention have.
    pub(super) ones: usize,
}

impl Names {
    fn key(&self, ours: &str) -> Key {
        let words: Vec<&str> = ours.split('.').collect();
        let known = match words[..] {
            ["contracting", "embedding", "classes"] => Some(Key::same("label_emb.weight")),
            ["contracting", "embedding", "first", leaf] => Some(weighted("time_embed.0", leaf, Key::linear)),
            ["contracting", "embedding", "second", leaf] => Some(weighted("time_embed.2", leaf, Key::linear)),
            ["contracting", "input", leaf] => Some(weighted("input_blocks.0.0", leaf, Key::conv)),
            ["contracting", "down", index, ref rest @ ..] => index.parse().ok().and_then(|index: usize| {
                let level = index / (self.config.blocks + 1);
                self.step(&format!("input_blocks.{}", index + 1), level, false, rest)
            }),
            ["contracting", "middle", index, "block", ref rest @ ..] => {
                block(&format!("middle_block.{}", if index == "0" { 0 } else { 2 }), rest)
            }
            ["contracting", "middle", "0", "attention", ref rest @ ..] => {
                self.attention("middle_block.1", self.config.multipliers.len() - 1, false, rest)
            }
            ["up", index, ref rest @ ..] => index.parse().ok().and_then(|index: usize| {
                let level = self.config.multipliers.len() - 1 - index / (self.config.blocks + 1);
                self.step(&format!("output_blocks.{index}"), level, true, rest)
            }),
            ["norm", leaf] => Some(normalized("out.0", leaf)),
            ["output", leaf] => Some(weighted("out.2", leaf, Key::conv)),
            _ => None,
        };
        // A name that is none of these is missing in the file under any name, and is reported as that.
        known.unwrap_or_else(|| Key::same(ours))
    }

    fn step(&self, theirs: &str, level: usize, up: bool, rest: &[&str]) -> Option<Key> {
        let after = if up { 1 + usize::from(self.config.attends(level)) } else { 0 };
        match rest {
            ["unit", "block", rest @ ..] => block(&format!("{theirs}.0"), rest),
            ["unit", "attention", rest @ ..] => self.attention(&format!("{theirs}.1"), level, up, rest),
            ["resize", leaf] => {
                let name = if up { "conv" } else { "op" };
                Some(weighted(&format!("{theirs}.{after}.{name}"), leaf, Key::conv))
            }
            ["resize", rest @ ..] => block(&format!("{theirs}.{after}"), rest),
            _ => None,
        }
    }

    fn attention(&self, theirs: &str, level: usize, up: bool, rest: &[&str]) -> Option<Key> {
        let channels = self.config.width(level);
        let heads = self.config.heads_of(channels, up).ok()?;
        match rest {
            ["norm", leaf] => Some(normalized(&format!("{theirs}.norm"), leaf)),
            ["output", leaf] => {
                Some(weighted(&format!("{theirs}.proj_out"), leaf, |name| Key::pointwise(name, self.ones)))
            }
            [part, leaf] => fused(&format!("{theirs}.qkv"), part, leaf, [channels, heads], self.order, self.ones),
            _ => None,
        }
    }

    fn head(&self, pool: Pool, ours: &str) -> Key {
        let channels = self.config.width(self.config.multipliers.len() - 1);
        let words: Vec<&str> = ours.split('.').collect();
        let known = match (pool, &words[..]) {
            (_, ["norm", leaf]) => Some(normalized("out.0", leaf)),
            // Theirs has a column a place.
            (Pool::Attention, ["positions"]) => Some(Key::linear("out.2.positional_embedding")),
            (Pool::Attention, ["output", leaf]) => Some(weighted("out.2.c_proj", leaf, |name| Key::pointwise(name, 1))),
            (Pool::Attention, [part, leaf]) => self
                .config
                .heads_of(channels, false)
                .ok()
                .and_then(|heads| fused("out.2.qkv_proj", part, leaf, [channels, heads], Order::PartsFirst, 1)),
            (Pool::Adaptive, ["output", leaf]) => Some(weighted("out.3", leaf, |name| Key::pointwise(name, 2))),
            (Pool::Spatial, ["hidden", leaf]) => Some(weighted("out.0", leaf, Key::linear)),
            (Pool::Spatial, ["output", leaf]) => Some(weighted("out.2", leaf, Key::linear)),
            _ => None,
        };
        known.unwrap_or_else(|| Key::same(ours))
    }
}

/// A weight in a layout, or a bias.
pub(super) fn weighted(theirs: &str, leaf: &str, weight: impl Fn(String) -> Key) -> Key {
    let name = format!("{theirs}.{leaf}");
    if leaf == "bias" { Key::same(name) } else { weight(name) }
}

fn normalized(theirs: &str, leaf: &str) -> Key {
    Key::same(format!("{theirs}.{}", if leaf == "gamma" { "weight" } else { "bias" }))
}

fn block(theirs: &str, rest: &[&str]) -> Option<Key> {
    Some(match *rest {
        ["first_norm", leaf] => normalized(&format!("{theirs}.in_layers.0"), leaf),
        ["first", leaf] => weighted(&format!("{theirs}.in_layers.2"), leaf, Key::conv),
        ["embedding", leaf] => weighted(&format!("{theirs}.emb_layers.1"), leaf, Key::linear),
        ["second_norm", leaf] => normalized(&format!("{theirs}.out_layers.0"), leaf),
        ["second", leaf] => weighted(&format!("{theirs}.out_layers.3"), leaf, Key::conv),
        ["skip", leaf] => weighted(&format!("{theirs}.skip_connection"), leaf, |name| Key::pointwise(name, 2)),
        _ => return None,
    })
}

/// Queries, keys or values of their one tensor.
fn fused(
    theirs: &str,
    part: &str,
    leaf: &str,
    [channels, heads]: [usize; 2],
    order: Order,
    ones: usize,
) -> Option<Key> {
    let part = ["queries", "keys", "values"].iter().position(|name| *name == part)?;
    let whole = weighted(theirs, leaf, |name| Key::pointwise(name, ones));
    Some(whole.rows(rows(order, part, channels, heads), 3 * channels))
}
