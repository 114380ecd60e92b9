//! Weights of NCSN, as `CondRefineNetDilated` of github.com/ermongroup/ncsn names them.

use burn::tensor::Device;
use stein::Result;

use super::{Imported, Weights, config::Reader, refine_net};
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
    let mut read = Reader::new("NCSN", json)?;
    read.only("model.sigma_dist", &["geometric".into()])?;
    // NCSNv2's networks do not ask it.
    read.only("model.spec_norm", &[false.into()])?;
    let read = refine_net::Config::read(json)?;
    let refine_net::Config { channels: inputs, width: channels, levels, centers, nonlinearity } = read;
    Ok(NcsnConfig { channels, inputs, outputs: inputs, levels, centers, nonlinearity })
}

/// The network of a config with the weights of a file.
///
/// # Errors
/// As [`config`], or when the weights are not those of the network.
pub fn open(json: &serde_json::Value, weights: Weights) -> Result<Imported<Ncsn>> {
    let network = config(json)?.build(&mut Init::blank(&Device::flex().autodiff()))?;
    refine_net::open(network, STAGES, weights, Ncsn::images)
}
