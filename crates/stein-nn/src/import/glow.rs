//! Weights of Glow as `Glow` of github.com/rosinality/glow-pytorch names them.
//!
//! A state dict does not say what it is of: the config is `{"glow": {"in_channel", "n_flow", "n_block", "affine", "conv_lu"}, "filter_size",
//! "n_bits", "size"}`, the arguments of `Glow` and of `train.py`. (The published class always has couplings of 512 channels.)

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value as Json;
use stein::{Condition, Result};

use super::{Case, Imported, Key, Layout, Names, Output, Weights, config::Reader};
use crate::{
    flows::{Glow, GlowConfig, ImageCouplingKind, InvertibleNetwork, Latent},
    init::Init,
    ops::Dual,
    trace::Trace,
};

/// A network's config, the shape of its images, and the values a pixel has.
struct Config {
    network: GlowConfig,
    shape: [usize; 3],
    values: f64,
}

fn config(json: &Json) -> Result<Config> {
    let mut read = Reader::new("Glow", json)?;
    read.skip(&["glow", "grad"]);
    let affine = read.read("glow.affine", true)?;
    let network = GlowConfig {
        levels: read.required("glow.n_block")?,
        steps: read.required("glow.n_flow")?,
        hidden: read.read("filter_size", 512)?,
        coupling: if affine { ImageCouplingKind::Affine } else { ImageCouplingKind::Additive },
        lu: read.read("glow.conv_lu", true)?,
    };
    let (size, channels, bits) = (read.required("size")?, read.read("glow.in_channel", 3)?, read.read("n_bits", 5.0)?);
    read.finish()?;
    Ok(Config { network, shape: [size, size, channels], values: f64::exp2(bits) })
}

/// The network of a config with the weights of a file.
///
/// # Errors
/// When values are missing or not supported, or the weights are not those of the network.
pub fn open(json: &Json, weights: Weights) -> Result<Imported<Glow>> {
    let Config { network, shape, values } = config(json)?;
    let network = network.glow(shape, 0, &mut Init::blank(&Device::flex().autodiff()))?;
    Imported::new(network, GlowNames, weights, move |network, case| match &case.name[..] {
        "main" => loss(network, case, shape, values),
        _ => sampled(network, case, shape),
    })
}

/// What `calc_loss` gives for `pixels` with the noise `u`, in bits per number, and on the way to it.
fn loss(network: &Glow, case: &Case, shape: [usize; 3], values: f64) -> Result<Vec<Output>> {
    let (pixels, noise) = (case.images("pixels")?.value, case.images("u")?.value);
    let x = pixels / values - 0.5 + noise / values;
    let (latents, log_det) = network.latents(x.clone(), &Condition::none())?;
    let log_prob = latents.iter().map(Latent::log_prob).reduce(|sum, next| sum + next);
    let log_prob = log_prob.expect("a Glow has a level or more");
    let numbers = shape.iter().product::<usize>() as f64;
    // A product, whose gradient is exact: the engine's of a quotient by a number is that of single precision.
    let bits = |nats: &Tensor<1>| nats.clone().mean() * (std::f64::consts::LOG2_E / numbers);
    let (bits_log_prob, bits_log_det) = (bits(&log_prob), bits(&log_det));
    let total = -(bits_log_prob.clone() + bits_log_det.clone()) + values.log2();
    let plain = |name: &str, value: Tensor<1>| Output::plain(name, Dual::from(value));
    let mut outputs = vec![
        Output::images("x", x.into()),
        plain("log_p", log_prob),
        plain("logdet", log_det),
        plain("bits_per_dim", total),
        plain("bits_log_p", bits_log_prob),
        plain("bits_logdet", bits_log_det),
    ];
    outputs
        .extend(latents.into_iter().enumerate().map(|(k, latent)| Output::images(format!("z_{k}"), latent.z.into())));
    Ok(outputs)
}

/// Images of the noise `eps_0`, `eps_1`, … of the levels.
fn sampled(network: &Glow, case: &Case, [height, width, channels]: [usize; 3]) -> Result<Vec<Output>> {
    let mut noise = Vec::new();
    while case.has(&format!("eps_{}", noise.len())) {
        let level = case.images(&format!("eps_{}", noise.len()))?.value;
        noise.push(level.clone().reshape([level.dims()[0] as i32, -1]));
    }
    let rows = if noise.is_empty() { case.rows("eps_0")?.value } else { Tensor::cat(noise, 1) };
    let x = network.decode(rows, &Condition::none())?;
    let x: Tensor<4> = x.reshape([-1, height as i32, width as i32, channels as i32]);
    Ok(vec![Output::images("x", x.into())])
}

struct GlowNames;

impl Names for GlowNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let parts: Vec<&str> = ours.split('.').collect();
        match parts[..] {
            ["levels", level, "prior", ref layer @ ..] => zero_conv(&format!("blocks.{level}.prior"), layer),
            ["levels", level, "steps", step, ref inner @ ..] => {
                let module = format!("blocks.{level}.flows.{step}");
                match *inner {
                    ["norm", "scale"] => Key::channels(module + ".actnorm.scale"),
                    ["norm", _] => Key::channels(module + ".actnorm.loc"),
                    ["mixing", "weight"] => Key::pointwise(module + ".invconv.weight", 2),
                    ["mixing", factor] => Key::same(format!("{module}.invconv.{}", factor_of(factor))),
                    ["coupling", "first", leaf] => Key::layer(&(module + ".coupling.net.0"), leaf, Layout::Conv),
                    ["coupling", "second", leaf] => Key::layer(&(module + ".coupling.net.2"), leaf, Layout::POINTWISE),
                    ["coupling", "last", ref layer @ ..] => zero_conv(&(module + ".coupling.net.4"), layer),
                    _ => Key::same(ours),
                }
            }
            _ => Key::same(ours),
        }
    }

    /// What says where factors are used, and that scales and shifts have begun.
    fn ignores(&self, theirs: &str) -> bool {
        [".l_mask", ".u_mask", ".l_eye", ".initialized"].iter().any(|buffer| theirs.ends_with(buffer))
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        trace.get(module).cloned()
    }
}

/// The reference's name of a factor of a convolution.
fn factor_of(ours: &str) -> &str {
    match ours {
        "permutation" => "w_p",
        "lower" => "w_l",
        "upper" => "w_u",
        "log_scale" => "w_s",
        "sign" => "s_sign",
        other => other,
    }
}

fn zero_conv(module: &str, layer: &[&str]) -> Key {
    match layer {
        ["conv", leaf] => Key::layer(&format!("{module}.conv"), leaf, Layout::Conv),
        _ => Key::channels(format!("{module}.scale")),
    }
}
