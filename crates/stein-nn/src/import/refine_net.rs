//! What the importers of NCSN and NCSNv2 share: the references have the same modules under the same names.

use burn::{module::Module, tensor::TensorData};
use serde_json::Value;
use stein::{Condition, Context, Result};

use super::{Imported, Key, Names, Weights, config::Reader};
use crate::{networks::Nonlinearity, ops::Dual, trace::Trace};

/// What of a config of the references makes the network.
pub(super) struct Config {
    pub(super) channels: usize,
    /// The width of the narrowest layers.
    pub(super) width: usize,
    pub(super) levels: usize,
    /// Whether the reference maps images from \[0, 1\] to \[−1, 1\].
    pub(super) centers: bool,
    pub(super) nonlinearity: Nonlinearity,
}

impl Config {
    pub(super) fn read(json: &Value) -> Result<Self> {
        let mut read = Reader::new("NCSN", json)?;
        read.only("model.normalization", &["InstanceNorm++".into()])?;
        // score_sde_pytorch, which has these networks too, says by one word what the others say by two.
        let centers = match read.read("data.centered", None::<bool>)? {
            Some(centered) => !centered,
            None => !read.required::<bool>("data.logit_transform")? && !read.read("data.rescaled", false)?,
        };
        Ok(Self {
            channels: read.either("data.channels", "data.num_channels")?,
            width: read.either("model.ngf", "model.nf")?,
            levels: read.either("model.num_classes", "model.num_scales")?,
            centers,
            nonlinearity: read.word("model.nonlinearity", &NONLINEARITIES)?,
        })
    }
}

/// The references' names of activations, that of NCSN first.
pub(super) const NONLINEARITIES: [(&str, Nonlinearity); 4] = [
    ("elu", Nonlinearity::Elu),
    ("relu", Nonlinearity::Relu),
    ("lrelu", Nonlinearity::LeakyRelu),
    ("swish", Nonlinearity::Silu),
];

/// The reference's names of the stages, and of the refinements in the order they are done in.
fn names(stages: usize) -> (&'static [&'static str], &'static [&'static str]) {
    const PLAIN: &[&str] = &["1", "2", "3", "4", "5"];
    match stages {
        6 => (&["1", "2", "3", "31", "4", "5"], &["1", "2", "31", "3", "4", "5"]),
        _ => (PLAIN, PLAIN),
    }
}

/// The names and layouts of a network of some stages.
struct StageNames(usize);

impl Names for StageNames {
    fn key(&self, name: &str, _: &[usize]) -> Key {
        let known = name.strip_prefix("trunk.").and_then(|name| renamed(name, self.0));
        let theirs = known.unwrap_or_else(|| name.to_owned());
        if name.ends_with(".weight") { Key::conv(theirs) } else { Key::same(theirs) }
    }

    /// The noise levels follow from the config.
    fn ignores(&self, theirs: &str) -> bool {
        theirs == SIGMAS
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        let (stages, refinements) = names(self.0);
        let index = |names: &[&str], name: &str| names.iter().position(|other| *other == name);
        let ours = if module == "normalizer" {
            "norm".to_owned()
        } else if let Some(refine) = module.strip_prefix("refine") {
            format!("refine.{}", index(refinements, refine)?)
        } else {
            let (stage, block) = module.strip_prefix("res")?.split_once('.')?;
            format!("stages.{}.{block}", index(stages, stage)?)
        };
        trace.get(&ours).cloned()
    }
}

/// The buffer of noise levels of NCSNv2.
pub(super) const SIGMAS: &str = "sigmas";

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

/// The network with the weights of a file, for a network of `stages` stages and its function of images.
pub(super) fn open<N: Module + 'static>(
    network: N,
    stages: usize,
    weights: Weights,
    images: fn(&N, Dual<4>, &Context) -> Result<Dual<4>>,
) -> Result<Imported<N>> {
    Imported::new(network, StageNames(stages), weights, move |network, case| {
        case.out("y", &Condition::none(), |x, context| images(network, x, context))
    })
}
