//! Class-conditional checkpoints of CompVis/latent-diffusion (Rombach et al., arXiv:2112.10752), such as `cin256-v2`: one file has a U-Net that
//! attends to the token of a class, the table of those tokens, and the autoencoder.
//!
//! The config is that of the repository, its YAML as JSON, or a flat table with `unet` (the arguments of its `UNetModel`), `ddconfig`,
//! `embed_dim`, `n_embed`, `first_stage` (`vq` or `kl`), `n_classes`, `scale_factor`, `linear_start`, `linear_end` and `timesteps`. The last
//! row of the table of tokens is that of no class. Their schedule `linear` is that of square roots of β, squared.

use burn::tensor::{Device, TensorData};
use serde_json::{Value, json};
use stein::{Result, ensure};

use super::{
    Case, Imported, Key, Layout, Names, Reference, Weights,
    config::{Reader, text},
    diffusers, guided_diffusion, mismatch, unsupported,
};
use crate::{
    init::Init,
    networks::{
        AutoencoderKl, AutoencoderKlConfig, FirstStageConfig, Unet2dCondition, Unet2dConditionConfig, VqModel,
        VqModelConfig,
    },
    state::Tensors,
    trace::Trace,
};

/// Where the weights of the U-Net, of the table of classes and of the autoencoder lie.
const UNET: &str = "model.diffusion_model.";
const CLASSES: &str = "cond_stage_model.embedding.weight";
const FIRST_STAGE: &str = "first_stage_model.";

/// Groups of all norms.
const GROUPS: usize = 32;

/// A latent model by class, without its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentDiffusion {
    /// The U-Net.
    pub unet: Unet2dConditionConfig,
    /// Height and width of the latents it was trained on.
    pub side: usize,
    /// The autoencoder.
    pub first_stage: FirstStageConfig,
    /// The noise and how it is sampled, as a scheduler of diffusers.
    pub scheduler: Value,
}

/// The tables of a config.
struct Sections<'a> {
    process: &'a Value,
    unet: &'a Value,
    first_stage: &'a Value,
    /// Whether the autoencoder has a codebook.
    quantized: bool,
    classes: &'a Value,
}

impl<'a> Sections<'a> {
    fn of(json: &'a Value) -> Result<Self> {
        let known = |kind: &str, vq: &str, kl: &str| {
            ensure!(Kind::Unsupported, [vq, kl].contains(&kind), "the first stage is {kind}: known are {vq} and {kl}");
            Ok(kind == vq)
        };
        let Some(process) = json.pointer("/model/params") else {
            let unet = json.get("unet").ok_or_else(|| {
                mismatch("the config has neither model.params, as those of latent diffusion do, nor a table unet")
            })?;
            let quantized = known(text(json, "first_stage").unwrap_or("vq"), "vq", "kl")?;
            return Ok(Self { process: json, unet, first_stage: json, quantized, classes: json });
        };
        let part = |name: &str| {
            let part = process.get(name).filter(|part| part.get("params").is_some());
            part.ok_or_else(|| mismatch(format!("the config's model.params has no {name} with params")))
        };
        let class =
            |part: &Value| text(part, "target").unwrap_or("none").rsplit('.').next().unwrap_or_default().to_owned();
        let (unet, first_stage, classes) =
            (part("unet_config")?, part("first_stage_config")?, part("cond_stage_config")?);
        ensure!(
            Kind::Unsupported,
            class(classes) == "ClassEmbedder",
            "the network is told what a {} says: only models by class, with a ClassEmbedder, are read here",
            class(classes)
        );
        let first_class = class(first_stage);
        let quantized = known(first_class.trim_end_matches("Interface"), "VQModel", "AutoencoderKL")?;
        Ok(Self {
            process,
            unet: &unet["params"],
            first_stage: &first_stage["params"],
            quantized,
            classes: &classes["params"],
        })
    }
}

impl LatentDiffusion {
    /// What a config says; the scale of latents is that of the file where it has one.
    ///
    /// # Errors
    /// When it is none of a model by class, or has options that are not supported.
    pub fn read(json: &Value, weights: &Tensors) -> Result<Self> {
        let sections = Sections::of(json)?;
        let (unet, side) = unet(&sections)?;
        let mut process = Reader::new("the config", sections.process)?;
        process.only("conditioning_key", &["crossattn".into()])?;
        process.only("given_betas", &[])?;
        // One that was measured lies among the buffers.
        let measured = weights.get("scale_factor").and_then(|scale| scale.iter::<f64>().next());
        let scaling = measured.map_or_else(|| process.read("scale_factor", 1.0), Ok)?;
        let first_stage = first_stage(&sections, scaling)?;
        let scheduler = json!({
            "_class_name": "DDIMScheduler",
            "beta_start": process.read("linear_start", 1e-4)?,
            "beta_end": process.read("linear_end", 2e-2)?,
            "beta_schedule": process.word("beta_schedule", &[("linear", "scaled_linear"), ("sqrt_linear", "linear")])?,
            "clip_sample": false,
            "num_train_timesteps": process.read("timesteps", 1000)?,
            "prediction_type": process.word("parameterization", &[("eps", "epsilon"), ("x0", "sample")])?,
            // Steps are counted from 1, and the last arrives at the first level.
            "set_alpha_to_one": false,
            "steps_offset": 1,
        });
        Ok(Self { unet, side, first_stage, scheduler })
    }
}

/// The U-Net, and the side of the latents it was trained on.
fn unet(sections: &Sections) -> Result<(Unet2dConditionConfig, usize)> {
    let mut read = Reader::new("the U-Net", sections.unet)?;
    ensure!(
        Kind::Unsupported,
        read.read("use_spatial_transformer", false)?,
        "the U-Net has no use_spatial_transformer: only models by class, which attend to a token of it, are read here"
    );
    let width: usize = read.required("model_channels")?;
    let multipliers: Vec<usize> = read.read("channel_mult", vec![1, 2, 4, 8])?;
    let channels: Vec<usize> = multipliers.iter().map(|multiplier| multiplier.saturating_mul(width)).collect();
    let factors: Vec<usize> = read.required("attention_resolutions")?;
    let attention = (0..channels.len().min(63)).filter(|level| factors.contains(&(1 << level))).collect();
    let (heads, head_channels): (i64, i64) = (read.read("num_heads", -1)?, read.read("num_head_channels", -1)?);
    let heads_of = |channels: &usize| match (usize::try_from(heads), usize::try_from(head_channels)) {
        (_, Ok(wide @ 1..)) => Ok(channels / wide),
        (Ok(heads), _) => Ok(heads),
        _ => Err(mismatch("the U-Net's config has neither num_heads nor num_head_channels")),
    };
    let levels = channels.len();
    let stated: Option<usize> = Reader::new("the class embedder", sections.classes)?.read("n_classes", None)?;
    // The default, 1000, is one of networks that know no row of no class.
    let stated = stated.filter(|rows| *rows > 1).ok_or_else(|| {
        unsupported("the class embedder's n_classes is not stated: it counts the classes and, as the last, no class")
    })?;
    let config = Unet2dConditionConfig {
        inputs: read.required("in_channels")?,
        outputs: read.required("out_channels")?,
        classes: stated - 1,
        class_token: true,
        context: read.required("context_dim")?,
        blocks: read.required("num_res_blocks")?,
        attention,
        heads: channels.iter().map(heads_of).collect::<Result<_>>()?,
        layers: vec![read.read("transformer_depth", 1)?; levels],
        groups: GROUPS,
        modulate: read.read("use_scale_shift_norm", false)?,
        dropout: read.read("dropout", 0.0)?,
        channels,
        ..Unet2dConditionConfig::default()
    };
    let side = read.required("image_size")?;
    for (key, only) in [
        ("conv_resample", json!(true)),
        ("dims", json!(2)),
        ("num_heads_upsample", json!(-1)),
        ("resblock_updown", json!(false)),
    ] {
        read.only(key, &[only])?;
    }
    for key in ["n_embed", "num_classes"] {
        read.only(key, &[])?;
    }
    // Of attention without tokens alone, and of how it is computed.
    read.skip(&["legacy", "use_checkpoint", "use_fp16", "use_new_attention_order"]);
    read.finish()?;
    Ok((config, side))
}

/// The autoencoder.
fn first_stage(sections: &Sections, scaling: f64) -> Result<FirstStageConfig> {
    let nothing = json!({});
    let mut read = Reader::new("the first stage", sections.first_stage.get("ddconfig").unwrap_or(&nothing))?;
    let width: usize = read.required("ch")?;
    let multipliers: Vec<usize> = read.required("ch_mult")?;
    let channels: Vec<usize> = multipliers.iter().map(|multiplier| multiplier.saturating_mul(width)).collect();
    let side: usize = read.required("resolution")?;
    let sides: Vec<usize> = read.read("attn_resolutions", Vec::new())?;
    let attention = (0..channels.len().min(63)).filter(|level| sides.contains(&(side >> level))).collect();
    let (inputs, outputs, latents) =
        (read.required("in_channels")?, read.required("out_ch")?, read.required("z_channels")?);
    let blocks = read.required("num_res_blocks")?;
    for (key, only) in [
        ("attn_type", json!("vanilla")),
        ("double_z", json!(!sections.quantized)),
        ("give_pre_end", json!(false)),
        ("resamp_with_conv", json!(true)),
        ("tanh_out", json!(false)),
        ("use_linear_attn", json!(false)),
    ] {
        read.only(key, &[only])?;
    }
    read.skip(&["dropout"]);
    read.finish()?;
    let mut around = Reader::new("the first stage", sections.first_stage)?;
    let width: usize = around.required("embed_dim")?;
    if sections.quantized {
        return Ok(FirstStageConfig::Vq(VqModelConfig {
            inputs,
            outputs,
            latents,
            codes: around.required("n_embed")?,
            code_width: Some(width),
            channels,
            blocks,
            attention,
            middle_attention: true,
            groups: GROUPS,
            scaling,
        }));
    }
    ensure!(
        Kind::Unsupported,
        width == latents,
        "the first stage's embed_dim is {width} and its z_channels {latents}: only the same of both is supported"
    );
    let (map_moments, map_latents) = (true, true);
    Ok(FirstStageConfig::Kl(AutoencoderKlConfig {
        inputs,
        outputs,
        latents,
        channels,
        blocks,
        attention,
        middle_attention: true,
        groups: GROUPS,
        map_moments,
        map_latents,
        scaling,
        shift: 0.0,
    }))
}

/// The U-Net with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Unet2dCondition>> {
    let (config, _) = unet(&Sections::of(json)?)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    let classes = config.classes;
    let run = move |network: &Unet2dCondition, case: &Case| {
        let given = case.classes_or_none("labels", classes)?;
        case.out("timesteps", &given, |x, context| network.images(x, context))
    };
    Imported::new(network, UnetNames { config }, weights, run)
}

/// The autoencoder of a config with the weights of a file.
///
/// # Errors
/// When the weights are not those of the config.
pub fn open_first_stage(config: &FirstStageConfig, weights: Weights) -> Result<Box<dyn Reference>> {
    let device = Device::flex().autodiff();
    let init = &mut Init::blank(&device);
    let uncompared = || Err(unsupported("an autoencoder of latent diffusion is compared within its checkpoint"));
    Ok(match config {
        FirstStageConfig::Kl(config) => {
            let names = FirstStageNames { levels: config.channels.len() };
            Box::new(Imported::new(config.build(init)?, names, weights, move |_: &AutoencoderKl, _| uncompared())?)
        }
        FirstStageConfig::Vq(config) => {
            let names = FirstStageNames { levels: config.channels.len() };
            Box::new(Imported::new(config.build(init)?, names, weights, move |_: &VqModel, _| uncompared())?)
        }
    })
}

/// The names and layouts of the weights of a U-Net.
struct UnetNames {
    config: Unet2dConditionConfig,
}

impl UnetNames {
    fn part(&self, words: &[&str]) -> Option<Key> {
        // All that stands at one level, on the way down with what halves the size.
        let steps = self.config.blocks + 1;
        let number = |word: &str| word.parse::<usize>().ok();
        Some(match *words {
            ["embedding", "first", leaf] => Key::layer("time_embed.0", leaf, Layout::LINEAR),
            ["embedding", "second", leaf] => Key::layer("time_embed.2", leaf, Layout::LINEAR),
            ["input", leaf] => Key::layer("input_blocks.0.0", leaf, Layout::Conv),
            ["down", level, "units", unit, ref rest @ ..] => {
                step(&format!("input_blocks.{}", 1 + number(level)? * steps + number(unit)?), [0, 1], rest)?
            }
            ["down", level, "halve", leaf] => {
                Key::layer(&format!("input_blocks.{}.0.op", (number(level)? + 1) * steps), leaf, Layout::Conv)
            }
            ["middle", unit, ref rest @ ..] => step("middle_block", [2 * number(unit)?, 1], rest)?,
            ["up", stage, "units", unit, ref rest @ ..] => {
                step(&format!("output_blocks.{}", number(stage)? * steps + number(unit)?), [0, 1], rest)?
            }
            ["up", stage, "double", leaf] => {
                let stage = number(stage)?;
                // After the block, and after the transformer where there is one.
                let attends = self.config.attention.contains(&(self.config.channels.len() - 1 - stage));
                let place = 1 + usize::from(attends);
                Key::layer(&format!("output_blocks.{}.{place}.conv", (stage + 1) * steps - 1), leaf, Layout::Conv)
            }
            ["norm", leaf] => Key::norm("out.0", leaf),
            ["output", leaf] => Key::layer("out.2", leaf, Layout::Conv),
            _ => return None,
        })
    }
}

/// A residual block or a transformer, at these places of what stands together.
fn step(module: &str, [block, transformer]: [usize; 2], words: &[&str]) -> Option<Key> {
    match *words {
        ["block", ref rest @ ..] => guided_diffusion::block(&format!("{module}.{block}"), rest),
        ["attention", ref rest @ ..] => Some(diffusers::transformer(&format!("{module}.{transformer}"), rest)),
        _ => None,
    }
}

impl Names for UnetNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        if ours == "classes" {
            return Key::same(CLASSES);
        }
        let words: Vec<&str> = ours.strip_prefix("body.").unwrap_or(ours).split('.').collect();
        // What is none of these is missing in the file under any name, and reported as that.
        within(UNET, self.part(&words).unwrap_or_else(|| Key::same(ours)))
    }

    /// The autoencoder, tables of the noise, and what an average counts.
    fn ignores(&self, theirs: &str) -> bool {
        !theirs.starts_with("model.") && !theirs.starts_with("cond_stage_model.")
    }

    fn seen(&self, _: &str, _: &Trace) -> Option<TensorData> {
        None
    }
}

/// The names and layouts of the weights of an autoencoder.
struct FirstStageNames {
    levels: usize,
}

impl FirstStageNames {
    fn part(&self, words: &[&str]) -> Option<Key> {
        let number = |word: &str| word.parse::<usize>().ok();
        // Stages of the way up are counted from the smallest images, theirs from the largest.
        let level = |side: &str, stage: &str| {
            let stage = number(stage)?;
            Some(if side == "up" { (self.levels - 1).checked_sub(stage)? } else { stage })
        };
        Some(match *words {
            ["input", leaf] => Key::layer("conv_in", leaf, Layout::Conv),
            ["norm", leaf] => Key::norm("norm_out", leaf),
            ["output", leaf] => Key::layer("conv_out", leaf, Layout::Conv),
            ["middle", unit, "block", ref rest @ ..] => coder_block(&format!("mid.block_{}", number(unit)? + 1), rest),
            ["middle", _, "attention", ref rest @ ..] => coder_attention("mid.attn_1", rest)?,
            [side, stage, "units", unit, "block", ref rest @ ..] => {
                coder_block(&format!("{side}.{}.block.{unit}", level(side, stage)?), rest)
            }
            [side, stage, "units", unit, "attention", ref rest @ ..] => {
                coder_attention(&format!("{side}.{}.attn.{unit}", level(side, stage)?), rest)?
            }
            [side, stage, "halve" | "double", leaf] => {
                Key::layer(&format!("{side}.{}.{side}sample.conv", level(side, stage)?), leaf, Layout::Conv)
            }
            _ => return None,
        })
    }
}

/// A residual block, whose skip alone has another name than in diffusers.
fn coder_block(module: &str, words: &[&str]) -> Key {
    match *words {
        ["skip", leaf] => Key::layer(&format!("{module}.nin_shortcut"), leaf, Layout::POINTWISE),
        _ => diffusers::block(module, words),
    }
}

fn coder_attention(module: &str, words: &[&str]) -> Option<Key> {
    let [part, leaf] = *words else { return None };
    let name = match part {
        "norm" => return Some(Key::norm(&format!("{module}.norm"), leaf)),
        "queries" => "q",
        "keys" => "k",
        "values" => "v",
        "output" => "proj_out",
        _ => return None,
    };
    Some(Key::layer(&format!("{module}.{name}"), leaf, Layout::POINTWISE))
}

impl Names for FirstStageNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let words: Vec<&str> = ours.split('.').collect();
        let known = match words[..] {
            ["codes"] => Some(Key::same("quantize.embedding.weight")),
            ["enter", leaf] => Some(Key::layer("quant_conv", leaf, Layout::POINTWISE)),
            ["leave", leaf] => Some(Key::layer("post_quant_conv", leaf, Layout::POINTWISE)),
            [side @ ("encoder" | "decoder"), ref rest @ ..] => {
                self.part(rest).map(|key| within(&format!("{side}."), key))
            }
            _ => None,
        };
        within(FIRST_STAGE, known.unwrap_or_else(|| Key::same(ours)))
    }

    /// The U-Net, and what the autoencoder was trained with.
    fn ignores(&self, theirs: &str) -> bool {
        let inside = theirs.strip_prefix(FIRST_STAGE);
        inside.is_none_or(|name| name.starts_with("loss.") || name.starts_with("model_ema."))
    }

    fn seen(&self, _: &str, _: &Trace) -> Option<TensorData> {
        None
    }
}

/// A key of a module that lies within another.
fn within(prefix: &str, key: Key) -> Key {
    Key { name: format!("{prefix}{}", key.name), ..key }
}
