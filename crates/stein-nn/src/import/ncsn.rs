//! Weights of NCSN, as `CondRefineNetDilated` of github.com/ermongroup/ncsn names them.

use burn::tensor::Device;
use stein::Result;

use super::{Imported, Weights, refine_net};
use crate::{
    init::Init,
    networks::{Ncsn, NcsnConfig},
};

const STAGES: usize = 4;

/// The config of a network from that of the reference. The size of the images makes no difference to the network.
///
/// # Errors
/// When values are missing or not supported.
pub fn config(json: &serde_json::Value) -> Result<NcsnConfig> {
    let refine_net::Config { channels: inputs, width: channels, levels, centers } = refine_net::Config::read(json)?;
    Ok(NcsnConfig { channels, inputs, outputs: inputs, levels, centers })
}

/// The network of a config with the weights of a file.
///
/// # Errors
/// As [`config`], or when the weights are not those of the network.
pub fn open(json: &serde_json::Value, weights: Weights) -> Result<Imported<Ncsn>> {
    let network = config(json)?.build(&mut Init::blank(&Device::flex().autodiff()))?;
    refine_net::open(network, STAGES, weights, Ncsn::images)
}
