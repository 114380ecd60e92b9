//! Weights of LPIPS: backbones as torchvision names them (`features.*` of `alexnet-owt-*.pth`, `vgg16-*.pth` and
//! `squeezenet1_1-*.pth`), and the heads of the `lpips` package (`lin0.model.1.weight` … of its `weights/v0.1/*.pth`).

use std::path::Path;

use burn::{
    module::Module,
    tensor::{Device, TensorData},
};
use stein::Result;

use super::{Key, Layout, Names, Weights, key, source::state_dict_of};
use crate::{
    init::Init,
    networks::{Backbone, Lpips, Step},
    state::Tensors,
    trace::Trace,
};

/// The distance with a backbone's weights from one file and its heads' from another: state dicts in PyTorch's format or in
/// safetensors. Its weights are not trained; on a device with autodiff the distance is differentiable by the pictures.
///
/// # Errors
/// When a file cannot be read, or its weights are not those of the backbone.
pub fn load(backbone: Backbone, weights: &Path, heads: &Path, device: &Device) -> Result<Lpips> {
    let [weights_of, heads_of] = [weights, heads].map(state_dict_of);
    open(backbone, &weights_of?, &heads_of?, device)
        .map_err(|error| error.at(format!("{} with {}", weights.display(), heads.display())))
}

/// The distance with these weights: as [`load`].
///
/// # Errors
/// When weights are missing, left over, or of another shape.
pub fn open(backbone: Backbone, weights: &Tensors, heads: &Tensors, device: &Device) -> Result<Lpips> {
    let all = weights.iter().chain(heads).map(|(name, data)| (name.clone(), data.clone())).collect();
    let network = Lpips::new(backbone, &mut Init::blank(device));
    Ok(key::load(network, Weights::Theirs(&all), &LpipsNames(places(backbone)))?.no_grad())
}

/// The places of the layers with weights in torchvision's list, where activations and pools have places of their own, but a fire
/// module has one.
fn places(backbone: Backbone) -> Vec<usize> {
    let mut next = 0;
    let mut places = Vec::new();
    for step in backbone.steps() {
        let (weights, wide) = match step {
            Step::Conv { .. } => (true, 2),
            Step::Fire { .. } => (true, 1),
            Step::Pool(_) => (false, 1),
            Step::Tap => (false, 0),
        };
        if weights {
            places.push(next);
        }
        next += wide;
    }
    places
}

/// With the places of the layers.
struct LpipsNames(Vec<usize>);

impl Names for LpipsNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let parts: Vec<&str> = ours.split('.').collect();
        let place = |index: &str| index.parse::<usize>().ok().and_then(|index| self.0.get(index));
        match parts[..] {
            ["heads", index, _] => Key::pointwise(format!("lin{index}.model.1.weight"), 2),
            ["layers", index, ref inner @ .., leaf] if let Some(place) = place(index) => {
                let module = inner.iter().fold(format!("features.{place}"), |module, part| module + "." + part);
                Key::layer(&module, leaf, Layout::Conv)
            }
            _ => Key::same(ours),
        }
    }

    /// The layers after the features.
    fn ignores(&self, theirs: &str) -> bool {
        theirs.starts_with("classifier.")
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        trace.get(module).cloned()
    }
}
