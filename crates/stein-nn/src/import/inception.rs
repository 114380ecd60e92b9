//! Weights of FID's Inception-v3, as `pytorch-fid` and `torch-fidelity` name them (`pt_inception-2015-12-05-6726825d.pth`).
//!
//! Every convolution there is followed by a batch normalization, which is folded into it here, in f64: K γ/√(v + ε) and
//! β − γ m/√(v + ε). A fold moves features by a few roundings of f32.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Device, TensorData},
};
use stein::Result;

use super::{Key, Layout, Names, Weights, key, mismatch, source::state_dict_of};
use crate::{
    init::Init,
    networks::Inception,
    state::{self, Tensors},
    trace::Trace,
};

/// What batch normalizations add to the variance.
const EPSILON: f64 = 1e-3;

/// The network with the weights of a file: a state dict in PyTorch's format or in safetensors. Its weights are not trained; on a
/// device with autodiff features are differentiable by the pictures.
///
/// # Errors
/// When the file cannot be read, or its weights are not those of the network.
pub fn load(path: &Path, device: &Device) -> Result<Inception> {
    open(&state_dict_of(path)?, DType::F32, device).map_err(|error| error.at(path.display()))
}

/// The network with these weights in a float type: as [`load`].
///
/// # Errors
/// When weights are missing, left over, or of another shape.
pub fn open(weights: &Tensors, kind: DType, device: &Device) -> Result<Inception> {
    let network = state::cast(Inception::new(&mut Init::blank(device)), kind);
    Ok(key::load(network, Weights::Theirs(&folded(weights)?), &InceptionNames)?.no_grad())
}

/// The tensors of a file with every batch normalization folded into the convolution before it, which leaves its `bn.bias` for a
/// bias.
fn folded(file: &Tensors) -> Result<Tensors> {
    let mut all = file.clone();
    for (name, kernel) in file {
        let Some(module) = name.strip_suffix(".conv.weight") else { continue };
        let outputs = kernel.shape().first().copied().unwrap_or(0);
        let mut taken = |leaf: &str| {
            let name = format!("{module}.bn.{leaf}");
            match all.remove(&name) {
                Some(data) if data.shape().to_vec() == [outputs] && data.dtype().is_float() => {
                    Ok(data.iter::<f64>().collect::<Vec<_>>())
                }
                _ => Err(mismatch(format!(
                    "the weights have no {name} of {outputs} numbers: they are not of FID's Inception-v3"
                ))),
            }
        };
        let [scale, shift, mean, variance] =
            [taken("weight")?, taken("bias")?, taken("running_mean")?, taken("running_var")?];
        let factors: Vec<f64> =
            scale.iter().zip(&variance).map(|(scale, variance)| scale / (variance + EPSILON).sqrt()).collect();
        let taps = (kernel.num_elements() / outputs.max(1)).max(1);
        let weight = kernel.iter::<f64>().enumerate().map(|(i, tap)| tap * factors[i / taps]);
        let bias = (0..outputs).map(|o| shift[o] - factors[o] * mean[o]);
        all.insert(name.clone(), TensorData::new(weight.collect::<Vec<_>>(), kernel.shape().to_vec()));
        all.insert(format!("{module}.bn.bias"), TensorData::new(bias.collect::<Vec<_>>(), [outputs]));
    }
    Ok(all)
}

struct InceptionNames;

impl Names for InceptionNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let (module, leaf) = ours.rsplit_once('.').unwrap_or(("", ours));
        if module == "fc" {
            return Key::layer(module, leaf, Layout::LINEAR);
        }
        // Blocks are capitalized there: `Mixed_5b`.
        let module = module[..1].to_uppercase() + &module[1..];
        match leaf {
            "weight" => Key::conv(format!("{module}.conv.weight")),
            _ => Key::same(format!("{module}.bn.bias")),
        }
    }

    /// Counters of batches.
    fn ignores(&self, theirs: &str) -> bool {
        theirs.ends_with(".num_batches_tracked")
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        trace.get(&module.to_lowercase()).cloned()
    }
}
