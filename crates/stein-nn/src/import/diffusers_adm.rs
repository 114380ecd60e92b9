//! `UNet2DModel` of the `diffusers` library as it holds the networks of ADM and of consistency models: blocks that change sizes
//! within (`ResnetDownsampleBlock2D`, `downsample_type` resnet), and an embedding that scales and shifts.

use burn::tensor::{Device, TensorData};
use serde_json::Value;
use stein::{Result, ensure};

use super::{
    Imported, Key, Layout, Names, Weights,
    config::{Reader, text},
    diffusers::{attended, block},
};
use crate::{
    init::Init,
    networks::{Adm, AdmConfig},
    trace::Trace,
};

/// Whether the network is one of these.
pub(super) fn is_one(json: &Value) -> bool {
    text(json, "resnet_time_scale_shift") == Some("scale_shift")
}

/// The config of a network.
///
/// # Errors
/// When it is none, or has blocks or options that are not supported.
pub fn config(json: &Value) -> Result<AdmConfig> {
    let mut reader = Reader::of_class("UNet2DModel", json)?;
    let widths: Vec<usize> = reader.read("block_out_channels", vec![224, 448, 672, 896])?;
    let levels = reader.attention(
        ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        ["ResnetUpsampleBlock2D", "AttnUpBlock2D"],
        &widths,
    )?;
    let channels = widths.first().copied().unwrap_or(0);
    ensure!(channels > 0 && widths.len() < 32, "block_out_channels of UNet2DModel is {widths:?}: give 1 to 31 widths");
    let config = AdmConfig {
        inputs: reader.read("in_channels", 3)?,
        outputs: reader.read("out_channels", 3)?,
        classes: reader.read("num_class_embeds", None)?.unwrap_or(0),
        channels,
        // The next number up, so that the product with the channels is not cut to one less.
        multipliers: widths.iter().map(|width| (*width as f64 / channels as f64).next_up()).collect(),
        blocks: reader.one("layers_per_block", 2)?,
        attention: levels.into_iter().map(|level| 1 << level).collect(),
        heads: 1,
        heads_up: None,
        head_channels: reader.read("attention_head_dim", Some(8))?,
        modulate: true,
        resize_blocks: true,
        resize_convolutions: true,
        dropout: reader.read("dropout", 0.0)?,
    };
    reader.all_only([
        ("add_attention", Value::from(true)),
        ("attn_norm_num_groups", 32.into()),
        ("center_input_sample", false.into()),
        ("downsample_type", "resnet".into()),
        ("flip_sin_to_cos", true.into()),
        ("freq_shift", 0.into()),
        ("mid_block_scale_factor", 1.into()),
        ("norm_eps", 1e-5.into()),
        ("norm_num_groups", 32.into()),
        ("resnet_time_scale_shift", "scale_shift".into()),
        ("time_embedding_type", "positional".into()),
        ("upsample_type", "resnet".into()),
    ])?;
    ensure!(
        Kind::Unsupported,
        json.get("attn_norm_num_groups").is_some_and(|groups| !groups.is_null()),
        "attn_norm_num_groups of UNet2DModel is not given, so its middle attends without a norm: only 32 is supported"
    );
    reader.finish_unet(4 * channels)?;
    let same = |level: usize| config.width(level) == widths[level];
    ensure!(
        Kind::Unsupported,
        (0..widths.len()).all(same),
        "block_out_channels of UNet2DModel is {widths:?}, which is not supported"
    );
    Ok(config)
}

/// A network with its weights.
///
/// # Errors
/// As [`config`], or when the weights are not those of the config.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Adm>> {
    let config = config(json)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    let steps = Steps { levels: config.multipliers.len(), steps: config.blocks + 1 };
    Imported::new(network, steps, weights, |network: &Adm, case| {
        case.out("timesteps", &case.classes("class_labels")?, |x, context| network.images(x, context))
    })
}

/// Where steps, which are counted through here, are in levels.
#[derive(Debug, Clone, Copy)]
struct Steps {
    levels: usize,
    /// Of a level: its blocks and a change of size on the way down, its blocks on the way up.
    steps: usize,
}

impl Names for Steps {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let words: Vec<&str> = ours.split('.').collect();
        let known = match words[..] {
            ["contracting", "embedding", "classes"] => Some(Key::same("class_embedding.weight")),
            ["contracting", "embedding", "first", leaf] => {
                Some(Key::layer("time_embedding.linear_1", leaf, Layout::LINEAR))
            }
            ["contracting", "embedding", "second", leaf] => {
                Some(Key::layer("time_embedding.linear_2", leaf, Layout::LINEAR))
            }
            ["contracting", "input", leaf] => Some(Key::layer("conv_in", leaf, Layout::Conv)),
            ["contracting", "down", index, ref rest @ ..] => self.step("down", index, rest),
            ["contracting", "middle", index, "block", ref rest @ ..] => {
                Some(block(&format!("mid_block.resnets.{index}"), rest))
            }
            ["contracting", "middle", "0", "attention", ref rest @ ..] => {
                Some(attended("mid_block.attentions.0", rest, false))
            }
            ["up", index, ref rest @ ..] => self.step("up", index, rest),
            ["norm", leaf] => Some(Key::layer("conv_norm_out", leaf, Layout::LINEAR)),
            ["output", leaf] => Some(Key::layer("conv_out", leaf, Layout::Conv)),
            _ => None,
        };
        // A name that is none of these is missing in the file under any name, and is reported as that.
        known.unwrap_or_else(|| Key::same(ours))
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        trace.get(&self.ours(module)?).cloned()
    }
}

impl Steps {
    fn step(self, side: &str, index: &str, rest: &[&str]) -> Option<Key> {
        let index: usize = index.parse().ok()?;
        let (level, step) = (index / self.steps, index % self.steps);
        let level = format!("{side}_blocks.{level}");
        match rest {
            ["unit", "block", rest @ ..] => Some(block(&format!("{level}.resnets.{step}"), rest)),
            ["unit", "attention", rest @ ..] => Some(attended(&format!("{level}.attentions.{step}"), rest, false)),
            ["resize", rest @ ..] => Some(block(&format!("{level}.{side}samplers.0"), rest)),
            _ => None,
        }
    }

    /// What is noted here of a module of theirs.
    fn ours(self, module: &str) -> Option<String> {
        let last = |level: &str| -> Option<usize> { Some((level.parse::<usize>().ok()? + 1) * self.steps - 1) };
        match module.split_once('.') {
            None if module == "time_embedding" => Some("embedding".to_owned()),
            None if module == "mid_block" => Some("middle".to_owned()),
            // The last level has no change of size.
            Some(("down_blocks", level)) => {
                let step = last(level)?.min(self.levels * self.steps - 2);
                Some(format!("down.{}", step + 1))
            }
            Some(("up_blocks", level)) => Some(format!("up.{}", last(level)?)),
            _ => None,
        }
    }
}
