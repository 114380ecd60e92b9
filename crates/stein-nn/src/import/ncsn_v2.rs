//! Weights of NCSNv2, as `NCSNv2`, `NCSNv2Deeper` and `NCSNv2Deepest` of github.com/ermongroup/ncsnv2 name them.

use burn::tensor::Device;
use stein::{Result, ensure};

use super::{
    Imported, Weights,
    config::Reader,
    refine_net::{self, SIGMAS},
};
use crate::{
    init::Init,
    networks::{LevelSpacing, NcsnV2, NcsnV2Config},
    state::Tensors,
};

/// The config of a network from that of the reference, which does not say how many stages there are: as many as the weights
/// have. The size of the images makes no difference to the network.
///
/// # Errors
/// When values are missing or not supported.
pub fn config(json: &serde_json::Value, weights: Weights) -> Result<NcsnV2Config> {
    let stages = match weights {
        Weights::Theirs(weights) if has(weights, "res31.") => 6,
        Weights::Theirs(weights) if has(weights, "res5.") => 5,
        Weights::Ours(weights) if has(weights, "trunk.stages.5.") => 6,
        Weights::Ours(weights) if has(weights, "trunk.stages.4.") => 5,
        _ => 4,
    };
    let read = refine_net::Config::read(json)?;
    let refine_net::Config { channels: inputs, width: channels, levels, centers, nonlinearity } = read;
    // NCSNv2 divides its output by them.
    let mut read = Reader::new("NCSNv2", json)?;
    let (sigma_first, sigma_last) =
        (read.either("model.sigma_begin", "model.sigma_max")?, read.either("model.sigma_end", "model.sigma_min")?);
    let spacings = [("geometric", LevelSpacing::Geometric), ("uniform", LevelSpacing::Uniform)];
    let spacing = read.word("model.sigma_dist", &spacings)?;
    let outputs = inputs;
    let config = NcsnV2Config {
        channels,
        stages,
        inputs,
        outputs,
        levels,
        sigma_first,
        sigma_last,
        centers,
        nonlinearity,
        spacing,
    };
    Ok(config)
}

/// The network of a config, as deep as the weights of a file say, with these weights.
///
/// # Errors
/// As [`config`], or when the weights are not those of the network.
pub fn open(json: &serde_json::Value, weights: Weights) -> Result<Imported<NcsnV2>> {
    let config = config(json, weights)?;
    if let Weights::Theirs(weights) = weights
        && let Some(theirs) = weights.get(SIGMAS)
    {
        let ours = config.sigmas();
        let same = |(ours, theirs): (&f32, f32)| (ours - theirs).abs() <= 1e-5 * ours;
        ensure!(
            Kind::Mismatch,
            theirs.num_elements() == ours.len() && ours.iter().zip(theirs.iter::<f32>()).all(same),
            "the weights have other noise levels than the config: check model.sigma_begin, sigma_end and num_classes"
        );
    }
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    refine_net::open(network, config.stages, weights, NcsnV2::images)
}

fn has(weights: &Tensors, module: &str) -> bool {
    weights.keys().any(|name| name.starts_with(module))
}
