//! U-Nets and noise-conditional classifiers of `openai/guided-diffusion` (`UNetModel`, `EncoderUNetModel`), and U-Nets
//! of `openai/improved-diffusion`, whose names and layouts are the same.
//!
//! Their attention keeps queries, keys and values in one tensor, whose rows are in one of two orders.

use burn::tensor::{Device, TensorData};
use serde_json::{Map, Value, json};
use stein::{Error, Result, ensure};

use super::{
    Case, Imported, Key, Layout, Names, Output, Weights,
    config::{Reader, check_sizes},
    unsupported,
};
use crate::{
    init::Init,
    networks::{Adm, AdmConfig, AdmEncoder, AdmEncoderConfig, Pool},
    state::Tensors,
    trace::Trace,
};

/// What a network of theirs was trained on, with the defaults of their scripts.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// The side of its images; none where the config does not say.
    pub image_size: Option<usize>,
    /// The side of what it makes of smaller pictures, if it raises the resolution.
    pub large_size: Option<usize>,
    /// Levels.
    pub diffusion_steps: usize,
    /// `linear` or `cosine`.
    pub noise_schedule: String,
    /// Whether the network is given levels as if there were 1000; none where the config does not say, as the two implementations
    /// then differ.
    pub rescale_timesteps: Option<bool>,
    /// Whether it predicts the image, not the noise.
    pub predict_xstart: bool,
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

/// What their configs are called in sentences.
const WHAT: &str = "guided-diffusion";

/// Whether the flags are those of their scripts for a classifier alone.
fn is_of_classifier(json: &Value) -> bool {
    json.get("classifier_width").is_some() && json.get("num_channels").is_none()
}

/// The flags of a classifier, with the defaults of their scripts, as those of a U-Net.
fn of_classifier(all: &Map<String, Value>) -> Value {
    let mut flags: Map<String, Value> = all
        .iter()
        .filter(|(key, _)| !key.starts_with("classifier_"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (theirs, name, usual) in [
        ("classifier_width", "num_channels", json!(128)),
        ("classifier_depth", "num_res_blocks", json!(2)),
        ("classifier_attention_resolutions", "attention_resolutions", json!("32,16,8")),
        ("classifier_use_scale_shift_norm", "use_scale_shift_norm", json!(true)),
        ("classifier_resblock_updown", "resblock_updown", json!(true)),
        ("classifier_pool", "pool", json!("attention")),
    ] {
        flags.insert(name.to_owned(), all.get(theirs).cloned().unwrap_or(usual));
    }
    for (name, fixed) in [("num_heads", 1), ("num_head_channels", 64), ("out_channels", 1000)] {
        flags.insert(name.to_owned(), json!(fixed));
    }
    Value::Object(flags)
}

/// The arguments of the network, from those or from the flags of their scripts, which name its width `num_channels`.
fn arguments(json: &Value) -> Result<Value> {
    let mut read = Reader::new(WHAT, json)?;
    let all = json.as_object().ok_or_else(|| Error::new("the config is no table of names and values"))?;
    if is_of_classifier(json) {
        return arguments(&of_classifier(all));
    }
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
        ("out_channels", json!(if read.read("learn_sigma", false)? { 6 } else { 3 })),
        ("num_classes", if read.read("class_cond", false)? { json!(1000) } else { Value::Null }),
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
    let mut read = Reader::new(WHAT, json)?;
    let process = Process {
        image_size: read.read("image_size", None)?,
        large_size: read.read("large_size", None)?,
        diffusion_steps: read.read("diffusion_steps", 1000)?,
        noise_schedule: read.read("noise_schedule", "linear".to_owned())?,
        rescale_timesteps: read.read("rescale_timesteps", None)?,
        predict_xstart: read.read("predict_xstart", false)?,
    };
    ensure!(process.image_size != Some(0), "the config's image_size is 0");
    ensure!(
        (1..=1_000_000).contains(&process.diffusion_steps),
        "the config's diffusion_steps is {}: it is a number of levels, such as 1000",
        process.diffusion_steps
    );
    Ok(process)
}

/// What the arguments of both networks say: a U-Net, the order of rows in its attention, and how a classifier pools.
struct Arguments {
    network: AdmConfig,
    order: Order,
    pool: Option<String>,
}

impl Arguments {
    fn read(json: &Value) -> Result<Self> {
        let json = &arguments(json)?;
        let mut read = Reader::new(WHAT, json)?;
        let multipliers: Vec<f64> = read.read("channel_mult", vec![1.0, 2.0, 4.0, 8.0])?;
        let attention: Vec<usize> = read.required("attention_resolutions")?;
        let levels = multipliers.len();
        // −1 stands for none.
        let mut given = |name: &str| -> Result<Option<usize>> {
            match read.read(name, -1)? {
                -1i64 => Ok(None),
                number => usize::try_from(number)
                    .map(Some)
                    .map_err(|_| Error::new(format!("{name} is {number}: it is -1 or a positive number"))),
            }
        };
        let (head_channels, heads_up) = (given("num_head_channels")?, given("num_heads_upsample")?);
        let network = AdmConfig {
            inputs: read.required("in_channels")?,
            outputs: read.required("out_channels")?,
            classes: read.read("num_classes", None)?.unwrap_or(0),
            channels: read.required("model_channels")?,
            // Factors that no level has are left out, as they do there.
            attention: attention.into_iter().filter(|of| (0..levels.min(63)).any(|level| 1 << level == *of)).collect(),
            multipliers,
            blocks: read.required("num_res_blocks")?,
            heads: read.read("num_heads", 1)?,
            heads_up,
            head_channels,
            modulate: read.read("use_scale_shift_norm", false)?,
            resize_blocks: read.read("resblock_updown", false)?,
            resize_convolutions: read.read("conv_resample", true)?,
            dropout: read.read("dropout", 0.0)?,
        };
        let dims = read.read("dims", 2)?;
        ensure!(Kind::Unsupported, dims == 2, "dims is {dims}: only networks of images, of 2 dims, are known here");
        let new = read.read("use_new_attention_order", false)?;
        let order = if new { Order::PartsFirst } else { Order::HeadsFirst };
        let pool = read.read("pool", None)?;
        read.finish()?;
        Ok(Self { network, order, pool })
    }

    fn unet(self) -> Result<AdmConfig> {
        ensure!(
            Kind::Mismatch,
            self.pool.is_none(),
            "the config has a pool: it is one of a classifier, not of a U-Net"
        );
        Ok(self.network)
    }

    fn encoder(self, size: usize) -> Result<AdmEncoderConfig> {
        let AdmConfig { inputs, outputs, classes, channels, multipliers, blocks, attention, .. } = self.network;
        let AdmConfig { heads, head_channels, modulate, resize_blocks, resize_convolutions, dropout, .. } =
            self.network;
        ensure!(Kind::Mismatch, classes == 0, "the config has num_classes: a classifier is given no class");
        let pool = match self.pool.as_deref() {
            Some("attention") => Pool::Attention,
            None | Some("adaptive") => Pool::Adaptive,
            Some("spatial") => Pool::Spatial,
            Some("spatial_v2") => Pool::SpatialV2,
            Some(other) => {
                return Err(unsupported(format!(
                    "pool is {other:?}: known are attention, adaptive, spatial and spatial_v2"
                )));
            }
        };
        Ok(AdmEncoderConfig {
            size,
            inputs,
            outputs,
            channels,
            multipliers,
            blocks,
            attention,
            heads,
            head_channels,
            modulate,
            resize_blocks,
            resize_convolutions,
            dropout,
            pool,
        })
    }
}

/// The config of a U-Net.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn config(json: &Value) -> Result<AdmConfig> {
    Arguments::read(json)?.unet()
}

/// Whether the network is a classifier: it pools, or has no way up.
pub(super) fn is_encoder(json: &Value, weights: Weights) -> bool {
    let no_way_up =
        |weights: &Tensors| !weights.is_empty() && !weights.keys().any(|key| key.starts_with("output_blocks."));
    json.get("pool").is_some()
        || is_of_classifier(json)
        || matches!(weights, Weights::Theirs(theirs) if no_way_up(theirs))
}

/// The config of a classifier.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn encoder_config(json: &Value) -> Result<AdmEncoderConfig> {
    Arguments::read(json)?.encoder(process(json)?.image_size.unwrap_or(0))
}

/// A U-Net with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Adm>> {
    let arguments = Arguments::read(json)?;
    let names = AdmNames { order: arguments.order, config: arguments.unet()?, axes: 1 };
    open_as(names, weights, |network, case| {
        case.out("timesteps", &case.classes("y")?, |x, context| network.images(x, context))
    })
}

/// A U-Net with the weights of a file under these names.
pub(super) fn open_as(
    names: AdmNames,
    weights: Weights,
    run: impl Fn(&Adm, &Case) -> Result<Vec<Output>> + Send + Sync + 'static,
) -> Result<Imported<Adm>> {
    let network = names.config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    Imported::new(network, names, weights, run)
}

/// A classifier with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open_encoder(json: &Value, weights: Weights) -> Result<Imported<AdmEncoder>> {
    let order = Arguments::read(json)?.order;
    let config = encoder_config(json)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    let trunk = AdmNames { config: config.way_down(), order, axes: 1 };
    let names = EncoderNames { trunk, pool: config.pool };
    Imported::new(network, names, weights, |network: &AdmEncoder, case| {
        let given = case.classes("y")?;
        let y = network.logits(case.images("x")?, &case.context("timesteps", &given)?)?;
        Ok(vec![Output::plain("out", y)])
    })
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

/// The names and layouts of a U-Net's weights.
pub(super) struct AdmNames {
    pub(super) config: AdmConfig,
    pub(super) order: Order,
    /// Over how many axes the linear maps of attention are convolutions.
    pub(super) axes: usize,
}

/// The names and layouts of a classifier's weights.
struct EncoderNames {
    trunk: AdmNames,
    pool: Pool,
}

impl Names for AdmNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let words: Vec<&str> = ours.split('.').collect();
        let known = match words[..] {
            ["contracting", "embedding", "classes"] => Some(Key::same("label_emb.weight")),
            ["contracting", "embedding", "first", leaf] => Some(Key::layer("time_embed.0", leaf, Layout::LINEAR)),
            ["contracting", "embedding", "second", leaf] => Some(Key::layer("time_embed.2", leaf, Layout::LINEAR)),
            ["contracting", "input", leaf] => Some(Key::layer("input_blocks.0.0", leaf, Layout::Conv)),
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
            ["norm", leaf] => Some(Key::norm("out.0", leaf)),
            ["output", leaf] => Some(Key::layer("out.2", leaf, Layout::Conv)),
            _ => None,
        };
        // A name that is none of these is missing in the file under any name, and is reported as that.
        known.unwrap_or_else(|| Key::same(ours))
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        let ours = match module.split_once('.') {
            None if module == "time_embed" => "embedding".to_owned(),
            None if module == "middle_block" => "middle".to_owned(),
            Some(("input_blocks", index)) => format!("down.{index}"),
            Some(("output_blocks", index)) => format!("up.{index}"),
            _ => return None,
        };
        trace.get(&ours).cloned()
    }
}

impl AdmNames {
    fn step(&self, theirs: &str, level: usize, up: bool, rest: &[&str]) -> Option<Key> {
        let after = if up { 1 + usize::from(self.config.attends(level)) } else { 0 };
        match rest {
            ["unit", "block", rest @ ..] => block(&format!("{theirs}.0"), rest),
            ["unit", "attention", rest @ ..] => self.attention(&format!("{theirs}.1"), level, up, rest),
            ["resize", leaf] => {
                let name = if up { "conv" } else { "op" };
                Some(Key::layer(&format!("{theirs}.{after}.{name}"), leaf, Layout::Conv))
            }
            ["resize", rest @ ..] => block(&format!("{theirs}.{after}"), rest),
            _ => None,
        }
    }

    fn attention(&self, theirs: &str, level: usize, up: bool, rest: &[&str]) -> Option<Key> {
        let channels = self.config.width(level);
        let heads = self.config.heads_of(channels, up).ok()?;
        match rest {
            ["norm", leaf] => Some(Key::norm(&format!("{theirs}.norm"), leaf)),
            ["output", leaf] => {
                Some(Key::layer(&format!("{theirs}.proj_out"), leaf, Layout::Turned { ones: self.axes }))
            }
            [part, leaf] => fused(&format!("{theirs}.qkv"), part, leaf, [channels, heads], self.order, self.axes),
            _ => None,
        }
    }
}

impl Names for EncoderNames {
    fn key(&self, ours: &str, shape: &[usize]) -> Key {
        let Some(head) = ours.strip_prefix("head.") else { return self.trunk.key(ours, shape) };
        let config = &self.trunk.config;
        let channels = config.width(config.multipliers.len() - 1);
        let words: Vec<&str> = head.split('.').collect();
        let known = match (self.pool, &words[..]) {
            (Pool::SpatialV2, ["norm", leaf]) => Some(Key::norm("out.1", leaf)),
            (_, ["norm", leaf]) => Some(Key::norm("out.0", leaf)),
            // Theirs has a column per position.
            (Pool::Attention, ["positions"]) => Some(Key::linear("out.2.positional_embedding")),
            (Pool::Attention, ["output", leaf]) => Some(Key::layer("out.2.c_proj", leaf, Layout::Turned { ones: 1 })),
            (Pool::Attention, [part, leaf]) => config
                .heads_of(channels, false)
                .ok()
                .and_then(|heads| fused("out.2.qkv_proj", part, leaf, [channels, heads], Order::PartsFirst, 1)),
            (Pool::Adaptive, ["output", leaf]) => Some(Key::layer("out.3", leaf, Layout::POINTWISE)),
            (Pool::Spatial, ["hidden", leaf]) => Some(Key::layer("out.0", leaf, Layout::LINEAR)),
            (Pool::Spatial, ["output", leaf]) => Some(Key::layer("out.2", leaf, Layout::LINEAR)),
            (Pool::SpatialV2, ["hidden", leaf]) => Some(Key::layer("out.0", leaf, Layout::LINEAR)),
            (Pool::SpatialV2, ["output", leaf]) => Some(Key::layer("out.3", leaf, Layout::LINEAR)),
            _ => None,
        };
        known.unwrap_or_else(|| Key::same(ours))
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        self.trunk.seen(module, trace)
    }
}

/// A residual block.
pub(super) fn block(theirs: &str, rest: &[&str]) -> Option<Key> {
    Some(match *rest {
        ["first_norm", leaf] => Key::norm(&format!("{theirs}.in_layers.0"), leaf),
        ["first", leaf] => Key::layer(&format!("{theirs}.in_layers.2"), leaf, Layout::Conv),
        ["embedding", leaf] => Key::layer(&format!("{theirs}.emb_layers.1"), leaf, Layout::LINEAR),
        ["second_norm", leaf] => Key::norm(&format!("{theirs}.out_layers.0"), leaf),
        ["second", leaf] => Key::layer(&format!("{theirs}.out_layers.3"), leaf, Layout::Conv),
        ["skip", leaf] => Key::layer(&format!("{theirs}.skip_connection"), leaf, Layout::POINTWISE),
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
    axes: usize,
) -> Option<Key> {
    let part = ["queries", "keys", "values"].iter().position(|name| *name == part)?;
    let whole = Key::layer(theirs, leaf, Layout::Turned { ones: axes });
    Some(whole.rows(rows(order, part, channels, heads), 3 * channels))
}
