//! The U-Net of DDPM against stored values of the `diffusers` library's, of the same random weights.
//!
//! The files lie outside the repository, in `../shared/golden`; without them there is nothing to compare with.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Device, Gradients, Tensor, TensorData},
};
use safetensors::{Dtype, SafeTensors};
use stein::{Condition, Network};
use stein_nn::{AnyNetwork, EmbeddingConfig, NetworkConfig, Tensors, UnetConfig, state};

use crate::moved;

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/diffusers_unet2d_ddpm");
    if !folder.is_dir() {
        println!("{} is not there: nothing is compared with it", folder.display());
        return None;
    }
    Some(folder)
}

fn file(folder: &Path, name: &str) -> Tensors {
    let bytes = fs::read(folder.join(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, safetensors::tensor::TensorView)| {
        let kind = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::I64 => DType::I64,
            other => panic!("{name} is of type {other:?}"),
        };
        (name.to_owned(), TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), kind))
    };
    file.iter().map(tensor).collect()
}

/// What of `config.json` says which network it is.
#[derive(serde::Deserialize)]
struct Config {
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    layers_per_block: usize,
    norm_num_groups: usize,
    norm_eps: f64,
    downsample_padding: usize,
    freq_shift: usize,
    flip_sin_to_cos: bool,
    attention_head_dim: Option<usize>,
}

impl Config {
    /// Ours, for images of that height. We say where to attend by the height of images, `diffusers` by the level.
    fn ours(&self, height: usize) -> NetworkConfig {
        let attends = |types: &[String]| -> Vec<bool> { types.iter().map(|kind| kind.starts_with("Attn")).collect() };
        let (down, mut up) = (attends(&self.down_block_types), attends(&self.up_block_types));
        up.reverse();
        assert_eq!(down, up, "we attend on both ways or on none");
        assert_eq!(self.attention_head_dim, None, "one head");
        let channels = self.block_out_channels[0];
        let embedding =
            EmbeddingConfig::Positional { max_period: 1e4, shift: self.freq_shift, sine_first: !self.flip_sin_to_cos };
        NetworkConfig::Unet(UnetConfig {
            channels,
            multipliers: self.block_out_channels.iter().map(|wide| wide / channels).collect(),
            blocks: self.layers_per_block,
            attention: (0..down.len()).filter(|level| down[*level]).map(|level| height >> level).collect(),
            groups: Some(self.norm_num_groups),
            epsilon: self.norm_eps,
            pad_after: self.downsample_padding == 0,
            embedding,
            ..UnetConfig::default()
        })
    }
}

/// The name here of a weight there.
fn name(theirs: &str) -> String {
    let words: Vec<&str> = theirs.split('.').collect();
    let side = |side: &str| side.strip_suffix("_blocks").unwrap().to_owned();
    match words[..] {
        ["conv_in", leaf] => format!("input.{leaf}"),
        ["conv_out", leaf] => format!("output.{leaf}"),
        ["conv_norm_out", leaf] => format!("norm.{}", of_norm(leaf)),
        ["time_embedding", "linear_1", leaf] => format!("embedding.first.{leaf}"),
        ["time_embedding", "linear_2", leaf] => format!("embedding.second.{leaf}"),
        ["mid_block", part, i, ref rest @ ..] => format!("middle.{i}.{}", within(part, rest)),
        [blocks, i, "downsamplers" | "upsamplers", "0", "conv", leaf] => {
            format!("{}.{i}.resample.{leaf}", side(blocks))
        }
        [blocks, i, part, j, ref rest @ ..] => format!("{}.{i}.units.{j}.{}", side(blocks), within(part, rest)),
        _ => panic!("{theirs}"),
    }
}

fn within(part: &str, rest: &[&str]) -> String {
    match (part, rest) {
        ("resnets", ["norm1", leaf]) => format!("block.first_norm.{}", of_norm(leaf)),
        ("resnets", ["conv1", leaf]) => format!("block.first.{leaf}"),
        ("resnets", ["time_emb_proj", leaf]) => format!("block.embedding.{leaf}"),
        ("resnets", ["norm2", leaf]) => format!("block.second_norm.{}", of_norm(leaf)),
        ("resnets", ["conv2", leaf]) => format!("block.second.{leaf}"),
        ("resnets", ["conv_shortcut", leaf]) => format!("block.skip.{leaf}"),
        ("attentions", ["group_norm", leaf]) => format!("attention.norm.{}", of_norm(leaf)),
        ("attentions", ["to_q", leaf]) => format!("attention.queries.{leaf}"),
        ("attentions", ["to_k", leaf]) => format!("attention.keys.{leaf}"),
        ("attentions", ["to_v", leaf]) => format!("attention.values.{leaf}"),
        ("attentions", ["to_out", "0", leaf]) => format!("attention.output.{leaf}"),
        _ => panic!("{part}.{}", rest.join(".")),
    }
}

fn of_norm(leaf: &str) -> &'static str {
    if leaf == "weight" { "gamma" } else { "beta" }
}

/// `[outputs, inputs, height, width]` to `[height, width, inputs, outputs]` and `[outputs, inputs]` to
/// `[inputs, outputs]`; what is linear here is a 1 × 1 convolution there.
fn layout(theirs: &TensorData) -> TensorData {
    let (data, kind) = (theirs.clone(), theirs.dtype());
    let device = Device::flex();
    match *theirs.shape().as_slice() {
        [outputs, inputs, 1, 1] => {
            let weight = Tensor::<4>::from_data(data, (&device, kind)).reshape([outputs, inputs]);
            weight.transpose().into_data()
        }
        [_, _, _, _] => Tensor::<4>::from_data(data, (&device, kind)).permute([2, 3, 1, 0]).into_data(),
        [_, _] => Tensor::<2>::from_data(data, (&device, kind)).transpose().into_data(),
        _ => data,
    }
}

/// `[N, C, H, W]` as rows of channels-last images.
fn rows(theirs: &TensorData, kind: DType, device: &Device) -> Tensor<2> {
    let samples = theirs.shape()[0] as isize;
    Tensor::<4>::from_data(theirs.clone(), (device, kind)).permute([0, 2, 3, 1]).reshape([samples, -1])
}

fn values(data: &TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

fn close(what: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= tolerance, "{what}, number {i}: {found} for {wanted}");
    }
}

fn network(folder: &Path, [height, width]: [usize; 2], kind: DType) -> AnyNetwork {
    let config: Config = serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let weights = file(folder, "diffusion_pytorch_model.safetensors");
    let weights = weights.iter().map(|(theirs, data)| (name(theirs), layout(data))).collect();
    let device = Device::flex().autodiff();
    let network = config.ours(height).build(&[height, width, 3], 0, 1, &device).unwrap();
    state::load(moved(network, kind, 0.0), &weights).unwrap()
}

#[test]
fn outputs_are_those_of_diffusers() {
    let Some(folder) = folder() else { return };
    let stored = file(&folder, "io.safetensors");
    // The fixture's suggested tolerances, ten times its own difference of f32 from f64. In f64 our frequencies are still
    // numbers of f32: angles up to 1000 are off by up to 3e-5.
    for (case, size, tolerance) in [("", [16, 16], 4e-5), ("nonsquare.", [8, 24], 3e-5)] {
        for kind in [DType::F32, DType::F64] {
            let network = network(&folder, size, kind).valid();
            let steps: Vec<f64> = stored[&format!("{case}timesteps")].iter::<i64>().map(|step| step as f64).collect();
            let noise = Tensor::<1>::from_data(steps.as_slice(), (&Device::flex(), kind));
            let x = rows(&stored[&format!("{case}x")], kind, &Device::flex());
            let y = network.forward(x, noise, &Condition::none()).unwrap().into_data();
            let wanted = rows(&stored[&format!("{case}out_f64")], DType::F64, &Device::flex()).into_data();
            close(&format!("{case}out in {kind:?}"), &values(&y), &values(&wanted), tolerance);
        }
    }
}

/// Gradients of parameters by name.
struct Named<'a>(Vec<(String, bool)>, &'a Gradients, BTreeMap<String, Vec<f64>>);

impl ModuleVisitor for Named<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.push((name.to_owned(), !container.starts_with("Enum:")));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let words: Vec<&str> = self.0.iter().filter(|(_, kept)| *kept).map(|(name, _)| name.as_str()).collect();
        let gradient = param.val().grad(self.1).unwrap().into_data();
        self.2.insert(words.join("."), values(&gradient));
    }
}

#[test]
fn gradients_are_those_of_diffusers() {
    let Some(folder) = folder() else { return };
    let stored = file(&folder, "io.safetensors");
    let gradients = file(&folder, "grad.safetensors");
    let device = Device::flex().autodiff();
    // The fixture's suggested tolerance, of the largest number of each gradient.
    let tolerance = 2e-4;
    for kind in [DType::F32, DType::F64] {
        let network = network(&folder, [16, 16], kind);
        let x = rows(&stored["x"], kind, &device).detach().require_grad();
        let steps: Vec<f64> = stored["timesteps"].iter::<i64>().map(|step| step as f64).collect();
        let noise = Tensor::<1>::from_data(steps.as_slice(), (&device, kind));
        let y = network.forward(x.clone(), noise, &Condition::none()).unwrap();
        let found = (y * rows(&gradients["r"], kind, &device)).sum().backward();
        let mut named = Named(Vec::new(), &found, BTreeMap::new());
        network.visit(&mut named);
        let mut compared = 0;
        for (key, wanted) in gradients.iter().filter_map(|(key, data)| Some((key.strip_prefix("grad_f64.")?, data))) {
            let (found, wanted) = match key {
                "x" => (
                    values(&x.grad(&found).unwrap().into_data()),
                    values(&rows(wanted, DType::F64, &Device::flex()).into_data()),
                ),
                _ => (named.2[&name(key)].clone(), values(&layout(wanted))),
            };
            let largest = wanted.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
            close(&format!("gradient of {key} in {kind:?}"), &found, &wanted, tolerance * largest);
            compared += 1;
        }
        assert_eq!(compared, 4);
    }
}
