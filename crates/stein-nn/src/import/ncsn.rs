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
    let theirs = refine_net::Config::read(json)?;
    let channels = theirs.data.channels;
    Ok(NcsnConfig {
        channels: theirs.model.ngf,
        inputs: channels,
        outputs: channels,
        levels: theirs.model.num_classes,
        centers: theirs.centers(),
    })
}

/// The network of a config with the weights of a file.
///
/// # Errors
/// As [`config`], or when the weights are not those of the network.
pub fn open(json: &serde_json::Value, weights: Weights) -> Result<Imported<Ncsn>> {
    let network = config(json)?.build(&mut Init::blank(&Device::flex().autodiff()))?;
    refine_net::open(network, STAGES, weights, |_| false, Ncsn::images)
}
