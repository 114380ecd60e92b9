//! Weights of vision transformers: DINOv2's as its authors name them (`dinov2_vits14_pretrain.pth` and its larger siblings of plain blocks), and
//! CLIP's tower of images as OpenAI names it (`visual.*`) or the transformers library (`vision_model.*`, with the class
//! `CLIPVisionModelWithProjection` or the whole `CLIPModel`). The size follows from the tensors.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Device, TensorData},
};
use stein::{Result, ensure};

use super::{Key, Layout, Names, Weights, key, mismatch, source::state_dict_of};
use crate::{
    init::Init,
    networks::{Tower, Vit, VitForm},
    state::{self, Tensors},
    trace::Trace,
};

/// The network with the weights of a file: a state dict in PyTorch's format or in safetensors. Its weights are not trained; on a
/// device with autodiff features are differentiable by the pictures.
///
/// # Errors
/// When the file cannot be read, or its weights are not those of such a network.
pub fn load(path: &Path, device: &Device) -> Result<Vit> {
    open(&state_dict_of(path)?, DType::F32, device).map_err(|error| error.at(path.display()))
}

/// The network with these weights in a float type: as [`load`].
///
/// # Errors
/// When weights are missing, left over, or of another shape.
pub fn open(weights: &Tensors, kind: DType, device: &Device) -> Result<Vit> {
    let Some(source) = [Source::Dino, Source::OpenAi, Source::Transformers]
        .into_iter()
        .find(|source| weights.contains_key(source.patches()))
    else {
        return Err(mismatch(
            "the weights are of no vision transformer that is known: give those of DINOv2, or of CLIP by OpenAI or of the transformers library",
        ));
    };
    let form = source.form(weights)?;
    let mut weights = weights.clone();
    for name in ["cls_token", "pos_embed"] {
        // One of a batch of one there.
        if let Some(data) = weights.get_mut(name).filter(|data| data.shape().first() == Some(&1)) {
            let shape: Vec<usize> = data.shape().iter().copied().filter(|&size| size != 1).collect();
            let (bytes, _, kind) = data.clone().into_parts();
            *data = TensorData::from_bytes(bytes, shape, kind);
        }
    }
    let network = state::cast(Vit::new(form, &mut Init::blank(device))?, kind);
    Ok(key::load(network, Weights::Theirs(&weights), &source)?.no_grad())
}

/// Who named the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Dino,
    OpenAi,
    Transformers,
}

impl Source {
    /// The tensor of the map from squares to tokens.
    fn patches(self) -> &'static str {
        match self {
            Self::Dino => "patch_embed.proj.weight",
            Self::OpenAi => "visual.conv1.weight",
            Self::Transformers => "vision_model.embeddings.patch_embedding.weight",
        }
    }

    fn block(self) -> &'static str {
        match self {
            Self::Dino => "blocks",
            Self::OpenAi => "visual.transformer.resblocks",
            Self::Transformers => "vision_model.encoder.layers",
        }
    }

    /// What the shapes say.
    fn form(self, weights: &Tensors) -> Result<VitForm> {
        let shape = |name: &str| {
            let shape = weights.get(name).map(|data| data.shape().to_vec());
            shape.ok_or_else(|| mismatch(format!("the weights have no {name}: they are not whole")))
        };
        let sizes = shape(self.patches())?;
        let &[width, 3, patch, _] = &sizes[..] else {
            return Err(mismatch(format!("{} is {sizes:?}, and maps no squares of three colors", self.patches())));
        };
        let (places, tower) = match self {
            Self::Dino => ("pos_embed", Tower::Dino),
            Self::OpenAi => {
                let outputs = shape("visual.proj")?.last().copied().unwrap_or(0);
                ("visual.positional_embedding", Tower::Clip { outputs })
            }
            Self::Transformers => {
                let outputs = shape("visual_projection.weight")?.first().copied().unwrap_or(0);
                ("vision_model.embeddings.position_embedding.weight", Tower::Clip { outputs })
            }
        };
        let rows = shape(places)?.iter().rev().nth(1).copied().unwrap_or(0);
        let side = rows.saturating_sub(1).isqrt();
        ensure!(
            Kind::Mismatch,
            side > 0 && side * side + 1 == rows,
            "{places} has {rows} rows, not one for a token and one for each square of a square"
        );
        let of_block = |index: usize| format!("{}.{index}.", self.block());
        let has = |index: usize| {
            weights.range(of_block(index)..).next().is_some_and(|(name, _)| name.starts_with(&of_block(index)))
        };
        let blocks = (0..).take_while(|&index| has(index)).count();
        Ok(VitForm { tower, width, blocks, patch, places: side })
    }
}

impl Names for Source {
    fn key(&self, ours: &str, shape: &[usize]) -> Key {
        let parts: Vec<&str> = ours.split('.').collect();
        match (parts[..].split_first(), self) {
            (Some((&"blocks", [index, inner @ ..])), _) => self.of_block(index, inner, shape),
            _ => self.around(&parts, ours),
        }
    }

    /// What training or another tower has.
    fn ignores(&self, theirs: &str) -> bool {
        match self {
            Self::Dino => theirs == "mask_token",
            Self::OpenAi => !theirs.starts_with("visual."),
            Self::Transformers => {
                !theirs.starts_with("vision_model.") && theirs != "visual_projection.weight"
                    || theirs.ends_with(".position_ids")
            }
        }
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        trace.get(&module.replace(self.block(), "blocks")).cloned()
    }
}

impl Source {
    /// A parameter outside the blocks.
    fn around(self, parts: &[&str], ours: &str) -> Key {
        let [patches, class, places, first, last] = match self {
            Self::Dino => ["patch_embed.proj", "cls_token", "pos_embed", "", "norm"],
            Self::OpenAi => [
                "visual.conv1",
                "visual.class_embedding",
                "visual.positional_embedding",
                "visual.ln_pre",
                "visual.ln_post",
            ],
            Self::Transformers => [
                "vision_model.embeddings.patch_embedding",
                "vision_model.embeddings.class_embedding",
                "vision_model.embeddings.position_embedding.weight",
                // So they spell it.
                "vision_model.pre_layrnorm",
                "vision_model.post_layernorm",
            ],
        };
        match parts {
            ["patches", leaf] => Key::layer(patches, leaf, Layout::Conv),
            ["class"] => Key::same(class),
            ["places"] => Key::same(places),
            ["first", leaf] => Key::norm(first, leaf),
            ["last", leaf] => Key::norm(last, leaf),
            ["projection", _] if self == Self::OpenAi => Key::same("visual.proj"),
            ["projection", _] => Key::linear("visual_projection.weight"),
            _ => Key::same(ours),
        }
    }

    /// A parameter of a block.
    fn of_block(self, index: &str, inner: &[&str], shape: &[usize]) -> Key {
        let module = |name: &str| format!("{}.{index}.{name}", self.block());
        // Attention, what comes after it, and the layers of the middle.
        let [first, attended, second, widen, narrow] = match self {
            Self::Dino => ["norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"],
            Self::OpenAi => ["ln_1", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"],
            Self::Transformers => ["layer_norm1", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2"],
        };
        let third = |part: usize, leaf: &str| {
            let width = shape.last().copied().unwrap_or(0);
            let key = match self {
                Self::Dino => Key::layer(&module("attn.qkv"), leaf, Layout::LINEAR),
                Self::OpenAi if leaf == "weight" => Key::linear(module("attn.in_proj_weight")),
                Self::OpenAi => Key::same(module("attn.in_proj_bias")),
                Self::Transformers => {
                    let name = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"][part];
                    return Key::layer(&module(name), leaf, Layout::LINEAR);
                }
            };
            key.rows((part * width..(part + 1) * width).collect(), 3 * width)
        };
        match inner {
            ["first", leaf] => Key::norm(&module(first), leaf),
            ["second", leaf] => Key::norm(&module(second), leaf),
            ["queries", leaf] => third(0, leaf),
            ["keys", leaf] => third(1, leaf),
            ["values", leaf] => third(2, leaf),
            ["attended", leaf] => Key::layer(&module(attended), leaf, Layout::LINEAR),
            ["widen", leaf] => Key::layer(&module(widen), leaf, Layout::LINEAR),
            ["narrow", leaf] => Key::layer(&module(narrow), leaf, Layout::LINEAR),
            ["first_scale"] => Key::same(module("ls1.gamma")),
            ["second_scale"] => Key::same(module("ls2.gamma")),
            _ => Key::same(module(&inner.join("."))),
        }
    }
}
