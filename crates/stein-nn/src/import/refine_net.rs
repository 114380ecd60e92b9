//! What the importers of NCSN and NCSNv2 share: the references have the same modules under the same names.

use std::sync::Arc;

use burn::{module::Module, tensor::TensorData};
use serde::Deserialize;
use stein::{Condition, Context, Error, Result, ensure};

use super::{Imported, Key, Output, Weights, load};
use crate::{ops::Dual, trace::Trace};

/// What of a config of the references makes the network.
#[derive(Deserialize)]
pub(super) struct Config {
    pub(super) data: Data,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct Data {
    pub(super) channels: usize,
    logit_transform: bool,
    #[serde(default)]
    rescaled: bool,
}

#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) ngf: usize,
    pub(super) num_classes: usize,
    pub(super) sigma_begin: Option<f64>,
    pub(super) sigma_end: Option<f64>,
    sigma_dist: Option<String>,
    normalization: Option<String>,
    nonlinearity: Option<String>,
    #[serde(default)]
    spec_norm: bool,
}

impl Config {
    pub(super) fn read(json: &serde_json::Value) -> Result<Self> {
        let config: Self = Deserialize::deserialize(json)
            .map_err(|error| Error::new(format!("the config is none of NCSN or NCSNv2: {error}")))?;
        let model = &config.model;
        for (name, value, known) in [
            ("sigma_dist", &model.sigma_dist, "geometric"),
            ("normalization", &model.normalization, "InstanceNorm++"),
            ("nonlinearity", &model.nonlinearity, "elu"),
        ] {
            let value = value.as_deref().unwrap_or(known);
            ensure!(value == known, "model.{name} of the config is {value:?}: only {known:?} can be imported");
        }
        ensure!(!model.spec_norm, "model.spec_norm of the config is true: spectral normalization cannot be imported");
        Ok(config)
    }

    /// Whether the reference maps images from \[0, 1\] to \[−1, 1\].
    pub(super) fn centers(&self) -> bool {
        !self.data.logit_transform && !self.data.rescaled
    }
}

/// The reference's names of the stages, and of the refinements in the order they are done in.
fn names(stages: usize) -> (&'static [&'static str], &'static [&'static str]) {
    const PLAIN: &[&str] = &["1", "2", "3", "4", "5"];
    match stages {
        6 => (&["1", "2", "3", "31", "4", "5"], &["1", "2", "31", "3", "4", "5"]),
        _ => (PLAIN, PLAIN),
    }
}

fn key(name: &str, stages: usize) -> Key {
    let theirs = name.strip_prefix("trunk.").and_then(|name| renamed(name, stages)).unwrap_or_else(|| name.to_owned());
    if name.ends_with(".weight") { Key::conv(theirs) } else { Key::same(theirs) }
}

/// The reference's name of a parameter of the RefineNet, if there is one of that name.
fn renamed(name: &str, stages: usize) -> Option<String> {
    let (stage_names, refine_names) = names(stages);
    let named = |names: &[&'static str], index: &str| names.get(index.parse::<usize>().ok()?).copied();
    let (module, value) = name.rsplit_once('.')?;
    let value = if value == "table" { "embed.weight" } else { value };
    let module = match module.split('.').collect::<Vec<_>>()[..] {
        ["input"] => "begin_conv".to_owned(),
        ["output"] => "end_conv".to_owned(),
        ["norm"] => "normalizer".to_owned(),
        ["stages", stage, block, layer] => {
            let halves = block == "0" && (1..stages - 2).contains(&stage.parse().ok()?);
            let layer = match layer {
                "first_norm" => "normalize1",
                "second_norm" => "normalize2",
                "first" => "conv1",
                "second" if halves => "conv2.conv",
                "second" => "conv2",
                "skip" if halves => "shortcut.conv",
                "skip" => "shortcut",
                _ => return None,
            };
            format!("res{}.{block}.{layer}", named(stage_names, stage)?)
        }
        ["refine", refine, ref part @ .., layer] => {
            let refine = named(refine_names, refine)?;
            // Units come in pairs, counted from one.
            let pair = |unit: &str| unit.parse::<usize>().ok().map(|unit| format!("{}_{}", unit / 2 + 1, unit % 2 + 1));
            let part = match *part {
                ["adapt", image, unit] => format!("adapt_convs.{image}.{}_{layer}", pair(unit)?),
                ["output", unit] => format!("output_convs.{}_{layer}", pair(unit)?),
                ["merge", unit] => format!("msf.{layer}s.{unit}"),
                ["pool", unit] => format!("crp.{layer}s.{unit}"),
                _ => return None,
            };
            format!("refine{refine}.{part}")
        }
        _ => return None,
    };
    Some(format!("{module}.{value}"))
}

/// What a module of the reference returned, from what was noted on the way.
fn seen(module: &str, stages: usize, trace: &Trace) -> Option<TensorData> {
    let (stage_names, refine_names) = names(stages);
    let place = |names: &[&str], name: &str| names.iter().position(|other| *other == name);
    let ours = if module == "normalizer" {
        "norm".to_owned()
    } else if let Some(refine) = module.strip_prefix("refine") {
        format!("refine.{}", place(refine_names, refine)?)
    } else {
        let (stage, block) = module.strip_prefix("res")?.split_once('.')?;
        format!("stages.{}.{block}", place(stage_names, stage)?)
    };
    trace.get(&ours).cloned()
}

/// The network with the weights of a file, for a network of `stages` stages and its function of images.
pub(super) fn open<N: Module + 'static>(
    network: N,
    stages: usize,
    weights: Weights,
    ignored: impl Fn(&str) -> bool,
    images: fn(&N, Dual<4>, &Context) -> Result<Dual<4>>,
) -> Result<Imported<N>> {
    let key = move |name: &str| key(name, stages);
    Ok(Imported {
        network: load(network, weights, key, ignored)?,
        key: Arc::new(key),
        run: Arc::new(move |network, case| {
            let y = images(network, case.images("x")?, &case.context("y", &Condition::none())?)?;
            Ok(vec![("out".to_owned(), Output::images(y))])
        }),
        seen: Arc::new(move |module, trace| seen(module, stages, trace)),
    })
}
