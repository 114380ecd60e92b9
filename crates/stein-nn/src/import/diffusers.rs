//! Networks of the `diffusers` library: a folder of a model has `config.json` and
//! `diffusion_pytorch_model.safetensors`.
//!
//! Of `UNet2DModel` the plain blocks (with and without attention) and those of NCSN++ are read (those of ADM are in
//! [`diffusers_adm`](super::diffusers_adm)), of
//! `UNet2DConditionModel` those with and without cross attention, of `AutoencoderKL` and `VQModel` the encoder's and
//! decoder's (with and without attention). Options of a config that change a network and are not read have to have
//! their neutral values. Weights may be named as before version 0.14 of the library (`query`, `proj_attn`), too.

use burn::{
    module::Module,
    tensor::{Device, TensorData},
};
use serde_json::{Value, json};
use stein::{Condition, Error, Result, Tokens, ensure};

use super::{
    Case, Imported, Key, Layout, Names, Output, Weights,
    config::{Reader, text},
    unsupported,
};
use crate::{
    embedding::EmbeddingConfig,
    init::Init,
    networks::{
        AutoencoderKl, AutoencoderKlConfig, Unet2d, Unet2dCondition, Unet2dConditionConfig, Unet2dConfig, VqModel,
        VqModelConfig,
    },
    ops::Dual,
    trace::Trace,
};

/// The longest period of positional frequencies over 2π.
const MAX_PERIOD: f64 = 1e4;

/// The library's random frequencies.
const FOURIER: EmbeddingConfig = EmbeddingConfig::Fourier { scale: 16.0 };

/// How weights were averaged, which stands among the entries of the config of an average.
const AVERAGE: [&str; 7] =
    ["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"];

impl<'a> Reader<'a> {
    /// For the config of a class of the library.
    pub(super) fn of_class(class: &'static str, json: &'a Value) -> Result<Self> {
        let mut reader = Self::new(class, json)?;
        let named = text(json, "_class_name").unwrap_or(class);
        ensure!(Kind::Mismatch, named == class, "the config is one of {named}, not of {class}");
        // What the library keeps of an average beside the config is none of the network's.
        reader.skip(&AVERAGE);
        Ok(reader)
    }

    /// The levels that attend, the same on both ways.
    pub(super) fn attention(&mut self, down: [&str; 2], up: [&str; 2], channels: &[usize]) -> Result<Vec<usize>> {
        let (down, up) = self.attentions(down, up, channels)?;
        ensure!(
            Kind::Unsupported,
            up.is_none(),
            "attention at other levels on the way up than on the way down is not supported"
        );
        Ok(down)
    }

    /// The levels that attend, of block types without and with attention, on the way down, and on the way up where they are others.
    fn attentions(
        &mut self,
        down: [&str; 2],
        up: [&str; 2],
        channels: &[usize],
    ) -> Result<(Vec<usize>, Option<Vec<usize>>)> {
        let mut attends = |key: &str, kinds: [&str; 2]| -> Result<Vec<bool>> {
            let types: Vec<String> = self.read(key, Vec::new())?;
            ensure!(
                types.len() == channels.len(),
                "{key} has {} blocks and block_out_channels {}: give as many",
                types.len(),
                channels.len()
            );
            let known = |kind: String| {
                let index = kinds.iter().position(|known| *known == kind);
                index.map(|index| index == 1).ok_or_else(|| {
                    let [plain, attending] = kinds;
                    unsupported(format!(
                        "{key} has block {kind}, which is not supported here: only {plain} and {attending} are"
                    ))
                })
            };
            types.into_iter().map(known).collect()
        };
        let (down, mut up) = (attends("down_block_types", down)?, attends("up_block_types", up)?);
        up.reverse();
        let [down, up] = [down, up].map(|attends| (0..attends.len()).filter(|level| attends[*level]).collect());
        let other = (up != down).then_some(up);
        Ok((down, other))
    }

    /// A number for every level, where the file may have one for all.
    fn levels(&mut self, key: &str, default: usize, levels: usize) -> Result<Vec<usize>> {
        match self.read(key, json!(default))? {
            Value::Array(_) => self.read(key, Vec::new()),
            _ => Ok(vec![self.read(key, default)?; levels]),
        }
    }

    /// One number, where the file may repeat it for every level.
    pub(super) fn one(&mut self, key: &str, default: usize) -> Result<usize> {
        let values = self.levels(key, default, 1)?;
        let one = *values.first().ok_or_else(|| Error::new(format!("{key} is an empty list: give a number")))?;
        ensure!(
            Kind::Unsupported,
            values.iter().all(|value| *value == one),
            "{key} is {values:?}: only the same at every level is supported"
        );
        Ok(one)
    }

    /// The middle: one named, as there is one even where the file says nothing, but not where it says null.
    fn middle(&mut self, kind: &str) -> Result<()> {
        let none = self.is_null("mid_block_type");
        ensure!(Kind::Unsupported, !none, "mid_block_type is null: only networks with a middle are supported");
        self.only("mid_block_type", &[json!(kind)])
    }

    fn positional(&mut self) -> Result<EmbeddingConfig> {
        Ok(EmbeddingConfig::Positional {
            max_period: MAX_PERIOD,
            shift: self.read("freq_shift", 0)?,
            sine_first: !self.read("flip_sin_to_cos", true)?,
        })
    }

    /// Entries that each have one value known here.
    pub(super) fn all_only<const N: usize>(&mut self, known: [(&str, Value); N]) -> Result<()> {
        known.into_iter().try_for_each(|(key, value)| self.only(key, &[value]))
    }

    /// The last entries of a `UNet2DModel` with an embedding of this width.
    pub(super) fn finish_unet(mut self, embedding: usize) -> Result<()> {
        self.only("act_fn", &SILU.map(Value::from))?;
        self.middle("UNetMidBlock2D")?;
        self.only("time_embedding_dim", &[json!(embedding)])?;
        self.only("class_embed_type", &[])?;
        // The number of steps is for embeddings that are learned, the padding for convolutions.
        self.skip(&["downsample_padding", "num_train_timesteps", "sample_size"]);
        self.finish()
    }
}

/// The config of a `UNet2DModel`.
///
/// # Errors
/// When it is none, or has blocks or options that are not supported.
pub fn unet_2d_config(json: &Value) -> Result<Unet2dConfig> {
    let mut reader = Reader::of_class("UNet2DModel", json)?;
    let channels: Vec<usize> = reader.read("block_out_channels", vec![224, 448, 672, 896])?;
    let first: Vec<String> = reader.read("down_block_types", Vec::new())?;
    let filters = first.first().is_some_and(|kind| kind.contains("Skip"));
    let (attention, attention_up) = if filters {
        reader.attentions(
            ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
            ["SkipUpBlock2D", "AttnSkipUpBlock2D"],
            &channels,
        )?
    } else {
        reader.attentions(["DownBlock2D", "AttnDownBlock2D"], ["UpBlock2D", "AttnUpBlock2D"], &channels)?
    };
    let positional = reader.positional()?;
    let config = Unet2dConfig {
        inputs: reader.read("in_channels", 3)?,
        outputs: reader.read("out_channels", 3)?,
        classes: reader.read("num_class_embeds", None)?.unwrap_or(0),
        blocks: reader.one("layers_per_block", 2)?,
        attention,
        attention_up,
        head_channels: reader.read("attention_head_dim", Some(8))?,
        groups: reader.read("norm_num_groups", Some(32))?,
        epsilon: reader.read("norm_eps", 1e-5)?,
        middle_rescale: reader.read("mid_block_scale_factor", 1.0)?,
        filters,
        pad_after: reader.read("downsample_padding", 1)? == 0,
        dropout: reader.read("dropout", 0.0)?,
        embedding: reader.word("time_embedding_type", &[("positional", positional), ("fourier", FOURIER)])?,
        centers: reader.read("center_input_sample", false)?,
        channels,
    };
    reader.all_only([
        ("add_attention", json!(true)),
        ("downsample_type", json!("conv")),
        ("resnet_time_scale_shift", json!("default")),
        ("upsample_type", json!("conv")),
    ])?;
    reader.only("attn_norm_num_groups", &config.groups.map(Value::from).into_iter().collect::<Vec<_>>())?;
    reader.finish_unet(4 * config.channels.first().copied().unwrap_or(0))?;
    Ok(config)
}

/// The config of a `UNet2DModel` that is this network, for pictures of a height and a width: what [`unet_2d_config`] reads.
///
/// # Errors
/// When the library's network has no setting that one of this network's is.
pub fn unet_2d_json(config: &Unet2dConfig, [height, width]: [usize; 2]) -> Result<Value> {
    ensure!(
        Kind::Unsupported,
        config.filters || config.groups.is_some(),
        "the network's groups differ from level to level, and diffusers has one number for all: train it with groups = 8 or so"
    );
    let skip = if config.filters { "Skip" } else { "" };
    let blocks = |side: &str, attention: &[usize], levels: &mut dyn Iterator<Item = usize>| -> Vec<String> {
        let kind = |level| if attention.contains(&level) { "Attn" } else { "" };
        levels.map(|level| format!("{}{skip}{side}Block2D", kind(level))).collect()
    };
    let levels = 0..config.channels.len();
    let up = config.attention_up.as_ref().unwrap_or(&config.attention);
    let (embedding, shift, sine_first) = match config.embedding {
        EmbeddingConfig::Positional { shift, sine_first, .. } => ("positional", shift, sine_first),
        EmbeddingConfig::Fourier { .. } => ("fourier", 0, false),
    };
    let json = json!({
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "attention_head_dim": config.head_channels,
        "block_out_channels": config.channels,
        "center_input_sample": config.centers,
        "down_block_types": blocks("Down", &config.attention, &mut levels.clone()),
        "downsample_padding": usize::from(!config.pad_after),
        "dropout": config.dropout,
        "flip_sin_to_cos": !sine_first,
        "freq_shift": shift,
        "in_channels": config.inputs,
        "layers_per_block": config.blocks,
        "mid_block_scale_factor": config.middle_rescale,
        "norm_eps": config.epsilon,
        "norm_num_groups": config.groups,
        "num_class_embeds": Some(config.classes).filter(|classes| *classes > 0),
        "out_channels": config.outputs,
        "sample_size": [height, width],
        "time_embedding_type": embedding,
        "up_block_types": blocks("Up", up, &mut levels.rev()),
    });
    ensure!(
        Kind::Unsupported,
        unet_2d_config(&json)?.embedding == config.embedding,
        "diffusers has no such embedding of the noise number: it has positional with a max_period of 10000, and fourier with a scale \
         of 16"
    );
    Ok(json)
}

/// The config of a `UNet2DConditionModel`.
///
/// # Errors
/// When it is none, or has blocks or options that are not supported.
pub fn unet_2d_condition_config(json: &Value) -> Result<Unet2dConditionConfig> {
    let mut reader = Reader::of_class("UNet2DConditionModel", json)?;
    let channels: Vec<usize> = reader.read("block_out_channels", vec![320, 640, 1280, 1280])?;
    let levels = channels.len();
    let (attention, attention_up) =
        reader.attentions(["DownBlock2D", "CrossAttnDownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"], &channels)?;
    let config = Unet2dConditionConfig {
        inputs: reader.read("in_channels", 4)?,
        outputs: reader.read("out_channels", 4)?,
        classes: reader.read("num_class_embeds", None)?.unwrap_or(0),
        class_token: false,
        context: reader.one("cross_attention_dim", 1280)?,
        blocks: reader.one("layers_per_block", 2)?,
        attention,
        attention_up,
        // It counts heads: the name in the library is known to be wrong.
        heads: reader.levels("attention_head_dim", 8, levels)?,
        layers: reader.levels("transformer_layers_per_block", 1, levels)?,
        groups: reader.read("norm_num_groups", 32)?,
        epsilon: reader.read("norm_eps", 1e-5)?,
        middle_rescale: reader.read("mid_block_scale_factor", 1.0)?,
        modulate: false,
        dropout: reader.read("dropout", 0.0)?,
        embedding: reader.positional()?,
        centers: reader.read("center_input_sample", false)?,
        channels,
    };
    reader.all_only([
        ("attention_type", json!("default")),
        ("class_embeddings_concat", json!(false)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("downsample_padding", json!(1)),
        ("dual_cross_attention", json!(false)),
        ("mid_block_only_cross_attention", json!(false)),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("time_embedding_type", json!("positional")),
    ])?;
    for key in [
        "addition_embed_type",
        "class_embed_type",
        "cross_attention_norm",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "num_attention_heads",
        "reverse_transformer_layers_per_block",
        "time_cond_proj_dim",
        "time_embedding_act_fn",
        "timestep_post_act",
    ] {
        reader.only(key, &[])?;
    }
    reader.only("act_fn", &SILU.map(Value::from))?;
    reader.middle("UNetMidBlock2DCrossAttn")?;
    reader.only("time_embedding_dim", &[json!(4 * config.channels.first().copied().unwrap_or(0))])?;
    reader.skip(&[
        "addition_embed_type_num_heads",
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
        "sample_size",
        "upcast_attention",
        "use_linear_projection",
    ]);
    reader.finish()?;
    Ok(config)
}

/// The config of an `AutoencoderKL`.
///
/// # Errors
/// When it is none, or has blocks or options that are not supported.
pub fn autoencoder_kl_config(json: &Value) -> Result<AutoencoderKlConfig> {
    let mut reader = Reader::of_class("AutoencoderKL", json)?;
    let channels: Vec<usize> = reader.read("block_out_channels", vec![64])?;
    let config = AutoencoderKlConfig {
        inputs: reader.read("in_channels", 3)?,
        outputs: reader.read("out_channels", 3)?,
        latents: reader.read("latent_channels", 4)?,
        blocks: reader.one("layers_per_block", 1)?,
        attention: reader.attention(CODER_BLOCKS[0], CODER_BLOCKS[1], &channels)?,
        middle_attention: reader.read("mid_block_add_attention", true)?,
        groups: reader.read("norm_num_groups", 32)?,
        map_moments: reader.read("use_quant_conv", true)?,
        map_latents: reader.read("use_post_quant_conv", true)?,
        scaling: reader.read("scaling_factor", 0.18215)?,
        shift: reader.read("shift_factor", None)?.unwrap_or(0.0),
        channels,
    };
    reader.only("act_fn", &SILU.map(Value::from))?;
    // Latents are shifted and scaled by pipelines, not by the network.
    reader.skip(&["force_upcast", "latents_mean", "latents_std", "sample_size"]);
    reader.finish()?;
    Ok(config)
}

/// The config of a `VQModel`.
///
/// # Errors
/// When it is none, or has blocks or options that are not supported.
pub fn vq_model_config(json: &Value) -> Result<VqModelConfig> {
    let mut reader = Reader::of_class("VQModel", json)?;
    let channels: Vec<usize> = reader.read("block_out_channels", vec![64])?;
    let config = VqModelConfig {
        inputs: reader.read("in_channels", 3)?,
        outputs: reader.read("out_channels", 3)?,
        latents: reader.read("latent_channels", 3)?,
        codes: reader.read("num_vq_embeddings", 256)?,
        code_width: reader.read("vq_embed_dim", None)?,
        blocks: reader.read("layers_per_block", 1)?,
        attention: reader.attention(CODER_BLOCKS[0], CODER_BLOCKS[1], &channels)?,
        middle_attention: reader.read("mid_block_add_attention", true)?,
        groups: reader.read("norm_num_groups", 32)?,
        scaling: reader.read("scaling_factor", 0.18215)?,
        channels,
    };
    reader.only("act_fn", &SILU.map(Value::from))?;
    reader.only("norm_type", &[json!("group")])?;
    reader.skip(&["force_upcast", "lookup_from_codebook", "sample_size"]);
    reader.finish()?;
    Ok(config)
}

/// Names of x · sigmoid(x).
const SILU: [&str; 2] = ["silu", "swish"];

/// Types of levels of autoencoders.
const CODER_BLOCKS: [[&str; 2]; 2] =
    [["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]];

/// What names and layouts depend on besides our names.
#[derive(Debug, Clone, Copy, Default)]
struct LibraryNames {
    /// Whether attention is named as before version 0.14.
    old: bool,
    /// Whether sizes change by filters.
    filters: bool,
    /// Of networks with transformers: how the linear maps around them lie.
    around: Option<Layout>,
}

impl LibraryNames {
    fn of(weights: Weights) -> Self {
        // What is written has the names of today.
        let old = match weights {
            Weights::Theirs(weights) => weights.keys().any(|name| name.contains(".proj_attn.")),
            Weights::Ours(_) => false,
        };
        Self { old, ..Self::default() }
    }

    fn part(self, words: &[&str]) -> Key {
        match *words {
            ["embedding", "frequencies", "drawn"] => Key::same("time_proj.weight"),
            ["embedding", "first", leaf] => Key::layer("time_embedding.linear_1", leaf, Layout::LINEAR),
            ["embedding", "second", leaf] => Key::layer("time_embedding.linear_2", leaf, Layout::LINEAR),
            ["embedding", "classes"] => Key::same("class_embedding.weight"),
            ["codes"] => Key::same("quantize.embedding.weight"),
            ["enter", leaf] => Key::layer("quant_conv", leaf, Layout::POINTWISE),
            ["leave", leaf] => Key::layer("post_quant_conv", leaf, Layout::POINTWISE),
            ["input", leaf] => Key::layer("conv_in", leaf, Layout::Conv),
            ["norm", leaf] => Key::layer("conv_norm_out", leaf, Layout::LINEAR),
            ["output", leaf] => Key::layer("conv_out", leaf, Layout::Conv),
            ["middle", i, ref rest @ ..] => self.unit("mid_block", i, rest),
            // After the last block of a level on the way up stands its only attention.
            ["up", level, "units", _, "attention", ref rest @ ..] if self.filters => {
                self.attention(&format!("up_blocks.{level}.attentions.0"), rest)
            }
            [side, level, "units", i, ref rest @ ..] => self.unit(&format!("{side}_blocks.{level}"), i, rest),
            [side, level, "halve" | "double", "block", ref rest @ ..] => {
                block(&format!("{side}_blocks.{level}.resnet_{side}"), rest)
            }
            ["down", level, "halve", "image", leaf] => {
                Key::layer(&format!("down_blocks.{level}.skip_conv"), leaf, Layout::POINTWISE)
            }
            ["up", level, "double", "image", leaf] => {
                Key::layer(&format!("up_blocks.{level}.skip_conv"), leaf, Layout::Conv)
            }
            ["up", level, "double", "norm", leaf] => {
                Key::layer(&format!("up_blocks.{level}.skip_norm"), leaf, Layout::LINEAR)
            }
            [side, level, "halve" | "double", leaf] => {
                Key::layer(&format!("{side}_blocks.{level}.{side}samplers.0.conv"), leaf, Layout::Conv)
            }
            _ => Key::same(words.join(".")),
        }
    }

    fn unit(self, module: &str, i: &str, words: &[&str]) -> Key {
        match *words {
            ["attention", ref rest @ ..] => self.attention(&format!("{module}.attentions.{i}"), rest),
            ["block", ref rest @ ..] => block(&format!("{module}.resnets.{i}"), rest),
            _ => Key::same(format!("{module}.{i}.{}", words.join("."))),
        }
    }

    fn attention(self, module: &str, words: &[&str]) -> Key {
        let Some(around) = self.around else { return self.plain_attention(module, words) };
        match *words {
            ["norm", leaf] => Key::layer(&format!("{module}.norm"), leaf, Layout::LINEAR),
            ["input", leaf] => Key::layer(&format!("{module}.proj_in"), leaf, around),
            ["output", leaf] => Key::layer(&format!("{module}.proj_out"), leaf, around),
            ["layers", i, name, ref rest @ ..] => {
                let module = format!("{module}.transformer_blocks.{i}");
                match (name, rest) {
                    ("own", rest) => self.plain_attention(&format!("{module}.attn1"), rest),
                    ("cross", rest) => self.plain_attention(&format!("{module}.attn2"), rest),
                    ("own_norm", [leaf]) => Key::layer(&format!("{module}.norm1"), leaf, Layout::LINEAR),
                    ("cross_norm", [leaf]) => Key::layer(&format!("{module}.norm2"), leaf, Layout::LINEAR),
                    ("norm", [leaf]) => Key::layer(&format!("{module}.norm3"), leaf, Layout::LINEAR),
                    ("gated", [leaf]) => Key::layer(&format!("{module}.ff.net.0.proj"), leaf, Layout::LINEAR),
                    ("output", [leaf]) => Key::layer(&format!("{module}.ff.net.2"), leaf, Layout::LINEAR),
                    _ => Key::same(format!("{module}.{name}.{}", rest.join("."))),
                }
            }
            _ => Key::same(format!("{module}.{}", words.join("."))),
        }
    }

    fn plain_attention(self, module: &str, words: &[&str]) -> Key {
        attended(module, words, self.old)
    }
}

impl Names for LibraryNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let words: Vec<&str> = ours.strip_prefix("body.").unwrap_or(ours).split('.').collect();
        match words[..] {
            [side @ ("encoder" | "decoder"), ref rest @ ..] => {
                let key = self.part(rest);
                Key { name: format!("{side}.{}", key.name), ..key }
            }
            _ => self.part(&words),
        }
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        let ours = match module {
            "time_proj" => "embedding.features".to_owned(),
            "time_embedding" => "embedding".to_owned(),
            _ => module.replace("_blocks.", ".").replace("mid_block", "middle").replace(".attentions.", ".units."),
        };
        trace.get(&ours).cloned()
    }
}

/// A transformer, with linear maps around it that are convolutions of one tap.
pub(super) fn transformer(module: &str, words: &[&str]) -> Key {
    LibraryNames { around: Some(Layout::POINTWISE), ..LibraryNames::default() }.attention(module, words)
}

/// Of attention, named as today or as before version 0.14.
pub(super) fn attended(module: &str, words: &[&str], old: bool) -> Key {
    let [part, leaf] = *words else { return Key::same(format!("{module}.{}", words.join("."))) };
    let name = match (part, old) {
        ("norm", _) => "group_norm",
        ("queries", false) => "to_q",
        ("queries", true) => "query",
        ("keys", false) => "to_k",
        ("keys", true) => "key",
        ("values", false) => "to_v",
        ("values", true) => "value",
        ("output", false) => "to_out.0",
        ("output", true) => "proj_attn",
        (other, _) => other,
    };
    Key::layer(&format!("{module}.{name}"), leaf, Layout::LINEAR)
}

/// A residual block.
pub(super) fn block(module: &str, words: &[&str]) -> Key {
    let [part, leaf] = *words else { return Key::same(format!("{module}.{}", words.join("."))) };
    let (name, layout) = match part {
        "first_norm" => ("norm1", Layout::LINEAR),
        "first" => ("conv1", Layout::Conv),
        "embedding" => ("time_emb_proj", Layout::LINEAR),
        "second_norm" => ("norm2", Layout::LINEAR),
        "second" => ("conv2", Layout::Conv),
        "skip" => ("conv_shortcut", Layout::POINTWISE),
        other => (other, Layout::LINEAR),
    };
    Key::layer(&format!("{module}.{name}"), leaf, layout)
}

fn imported<N: Module>(
    build: impl FnOnce(&mut Init) -> Result<N>,
    weights: Weights,
    names: LibraryNames,
    run: impl Fn(&N, &Case) -> Result<Vec<Output>> + Send + Sync + 'static,
) -> Result<Imported<N>> {
    Imported::new(build(&mut Init::blank(&Device::flex().autodiff()))?, names, weights, run)
}

/// A `UNet2DModel` with its weights.
///
/// # Errors
/// As [`unet_2d_config`], or when the weights are not those of the config.
pub fn unet_2d(json: &Value, weights: Weights) -> Result<Imported<Unet2d>> {
    let config = unet_2d_config(json)?;
    let names = LibraryNames { filters: config.filters, ..LibraryNames::of(weights) };
    let build = |init: &mut Init| config.build(init);
    imported(build, weights, names, |network: &Unet2d, case| {
        case.out("timesteps", &case.classes("class_labels")?, |x, context| network.images(x, context))
    })
}

/// A `UNet2DConditionModel` with its weights.
///
/// # Errors
/// As [`unet_2d_condition_config`], or when the weights are not those of the config.
pub fn unet_2d_condition(json: &Value, weights: Weights) -> Result<Imported<Unet2dCondition>> {
    let config = unet_2d_condition_config(json)?;
    let linear = json.get("use_linear_projection").and_then(Value::as_bool).unwrap_or(false);
    let around = Some(if linear { Layout::LINEAR } else { Layout::POINTWISE });
    let names = LibraryNames { around, ..LibraryNames::of(weights) };
    let build = |init: &mut Init| config.build(init);
    imported(build, weights, names, |network: &Unet2dCondition, case| {
        let tokens = Some(Tokens { values: case.tokens("context")?.value, mask: None });
        let given = Condition { tokens, ..case.classes("class_labels")? };
        case.out("timesteps", &given, |x, context| network.images(x, context))
    })
}

/// An `AutoencoderKL` with its weights.
///
/// # Errors
/// As [`autoencoder_kl_config`], or when the weights are not those of the config.
pub fn autoencoder_kl(json: &Value, weights: Weights) -> Result<Imported<AutoencoderKl>> {
    let config = autoencoder_kl_config(json)?;
    let build = |init: &mut Init| config.build(init);
    imported(build, weights, LibraryNames::of(weights), |network: &AutoencoderKl, case| {
        if case.has("z") {
            return Ok(vec![Output::images("out", network.decode(case.images("z")?)?)]);
        }
        let moments = network.encode(case.images("x")?)?;
        let (mean, std) = network.mean_and_std(moments.clone());
        let out = network.decode(mean.clone())?;
        let named = [("out", out), ("moments", moments), ("mean", mean), ("std", std)];
        Ok(named.map(|(name, x)| Output::images(name, x)).into())
    })
}

/// A `VQModel` with its weights.
///
/// # Errors
/// As [`vq_model_config`], or when the weights are not those of the config.
pub fn vq_model(json: &Value, weights: Weights) -> Result<Imported<VqModel>> {
    let config = vq_model_config(json)?;
    let build = |init: &mut Init| config.build(init);
    imported(build, weights, LibraryNames::of(weights), |network: &VqModel, case| {
        let latents = network.encode(case.images("x")?)?;
        let quantized = network.quantize(latents.clone())?;
        Ok(vec![
            Output::images("out", network.decode(latents.clone())?),
            Output::images("latents", latents),
            Output::images("quantized", quantized.values),
            Output::plain("indices", Dual::<1>::from(quantized.indices.float())),
        ])
    })
}

/// The number of parameters of the network a config describes.
///
/// # Errors
/// When the config names none of these networks, or as the function for its config.
pub fn parameters(json: &Value) -> Result<usize> {
    let device = Device::flex();
    let init = &mut Init::blank(&device);
    Ok(match text(json, "_class_name") {
        Some("UNet2DModel") => unet_2d_config(json)?.build(init)?.num_params(),
        Some("UNet2DConditionModel") => unet_2d_condition_config(json)?.build(init)?.num_params(),
        Some("AutoencoderKL") => autoencoder_kl_config(json)?.build(init)?.num_params(),
        Some("VQModel") => vq_model_config(json)?.build(init)?.num_params(),
        other => {
            return Err(unsupported(format!(
                "the config is one of {}: UNet2DModel, UNet2DConditionModel, AutoencoderKL and VQModel are supported",
                other.unwrap_or("no class")
            )));
        }
    })
}
