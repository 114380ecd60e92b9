//! Weights of PixelCNN++, as github.com/pclucas14/pixel-cnn-pp names them.
//!
//! What is compared besides the network is the discretized mixture of logistics: its loss and gradient, and what is drawn of it.

use burn::tensor::{Device, Tensor, TensorData};
use stein::{
    Condition, Result, ensure,
    objective::Pixels,
    pixel::{LogisticMixture, PixelDistribution, PixelLikelihood},
};

use super::{Case, Imported, Key, Layout, Names, Output, Weights, config::Reader};
use crate::{
    init::Init,
    networks::{PixelCnnPp, PixelCnnPpConfig, rows_of_images},
    ops::Dual,
    trace::Trace,
};

/// Levels of the reference.
const LEVELS: usize = 3;

/// The config of a network from the arguments of the reference, under `net` or alone, with its channels and the numbers it gives for a pixel.
///
/// # Errors
/// When values are not supported.
pub fn config(json: &serde_json::Value) -> Result<(PixelCnnPpConfig, [usize; 2])> {
    let mut read = Reader::new("PixelCNN++", json.get("net").unwrap_or(json))?;
    let inputs = read.read("input_channels", 3)?;
    let components: usize = read.read("nr_logistic_mix", 10)?;
    read.only("resnet_nonlinearity", &["concat_elu".into()])?;
    let config = PixelCnnPpConfig {
        channels: read.read("nr_filters", 80)?,
        blocks: read.read("nr_resnet", 5)?,
        levels: LEVELS,
        ..PixelCnnPpConfig::default()
    };
    Ok((config, [inputs, components * if inputs == 1 { 3 } else { 10 }]))
}

/// The network of a config, with these weights.
///
/// # Errors
/// As [`config`], or when the weights are not those of the network.
pub fn open(json: &serde_json::Value, weights: Weights) -> Result<Imported<PixelCnnPp>> {
    let (config, [inputs, outputs]) = config(json)?;
    let network = config.build(inputs, outputs, 0, &mut Init::blank(&Device::flex().autodiff()))?;
    Imported::new(network, PixelCnnPpNames, weights, run)
}

/// A case of the network, `x` alone; of the likelihood, `x` and the numbers `l`; or of what is drawn of `l` by uniform numbers `u1` and `u2`.
fn run(network: &PixelCnnPp, case: &Case) -> Result<Vec<Output>> {
    if case.has("u1") {
        return drawn(case);
    }
    let x = case.images("x")?;
    if case.has("l") {
        let numbers = case.images("l")?.value.autodiff().require_grad();
        let nll = nll(x.value.autodiff(), numbers.clone())?;
        let loss = nll.clone().sum();
        let slope = numbers.grad(&loss.backward()).map(Dual::from);
        let outputs = [Output::plain("loss", loss.into()), Output::plain("nll", nll.into())];
        return Ok(outputs.into_iter().chain(slope.map(|slope| Output::images("grad.l", slope))).collect());
    }
    let out = network.numbers(x.clone(), &Condition::none(), None)?;
    let loss = nll(x.value, out.value.clone())?.sum();
    Ok(vec![Output::images("out", out), Output::plain("loss", loss.into())])
}

/// −ln P of every pixel of pictures `[N, H, W, C]` given numbers `[N, H, W, K]`: `[N, H · W]`.
fn nll(x: Tensor<4>, numbers: Tensor<4>) -> Result<Tensor<2>> {
    let [channels, width] = [&x, &numbers].map(|images| images.dims()[3]);
    let components = components(width, channels)?;
    let likelihood = PixelLikelihood::LogisticMixture { components };
    let distribution = PixelDistribution::new(likelihood, channels, Pixels::default())?;
    Ok(distribution.log_probability(rows_of_images(x), rows_of_images(numbers))?.neg())
}

/// The components of mixtures in this many numbers.
fn components(width: usize, channels: usize) -> Result<usize> {
    ensure!(
        Kind::Mismatch,
        [1, 3].contains(&channels),
        "the stored pixels have {channels} channels: a mixture is of 1 or 3"
    );
    let own = LogisticMixture::numbers_per_component(channels);
    ensure!(
        Kind::Mismatch,
        width > 0 && width.is_multiple_of(own),
        "the stored mixtures have {width} numbers, which is no multiple of {own}"
    );
    Ok(width / own)
}

/// Pixels that are not rounded to levels, as in the reference.
fn drawn(case: &Case) -> Result<Vec<Output>> {
    let l = case.images("l")?.value;
    // `[N, H, W, …]` as they are.
    let [u1, u2] = ["u1", "u2"].map(|name| Ok(case.images(name)?.value.permute([0, 3, 1, 2])));
    let (u1, u2): (Tensor<4>, Tensor<4>) = (u1?, u2?);
    let ([n, height, width, numbers], channels) = (l.dims(), u2.dims()[3]);
    let pixels = |images: Tensor<4>| {
        let last = images.dims()[3];
        images.reshape([n * height * width, last])
    };
    let fits =
        u1.dims() == [n, height, width, components(numbers, channels)?] && u2.dims() == [n, height, width, channels];
    ensure!(Kind::Mismatch, fits, "the stored uniform numbers are not those of the mixtures");
    let uniforms = Tensor::cat(vec![pixels(u1), pixels(u2)], 1);
    let x = LogisticMixture::of(pixels(l), channels).draw(uniforms, &Pixels::default(), false);
    Ok(vec![Output::images("x", x.reshape([n, height, width, channels]).into())])
}

/// Their first level on the way back is our last.
struct PixelCnnPpNames;

impl Names for PixelCnnPpNames {
    fn key(&self, ours: &str, _: &[usize]) -> Key {
        let parts: Vec<&str> = ours.split('.').collect();
        let back = |level: &str, first: usize| level.parse().ok().and_then(|level| first.checked_sub(level));
        let module = match parts[..] {
            ["u_init", "layer", _] => Some("u_init.conv".to_owned()),
            ["ul_init", i, "layer", _] => Some(format!("ul_init.{i}.conv")),
            ["output", _] => Some("nin_out.lin_a".to_owned()),
            [stream, "halve", level, "layer", _] => Some(format!("downsize_{stream}_stream.{level}.conv")),
            [stream, "double", level, "layer", _] => {
                back(level, LEVELS - 2).map(|level: usize| format!("upsize_{stream}_stream.{level}.deconv"))
            }
            [stream, "down", level, i, ref inner @ .., _] => {
                layer(inner).map(|layer| format!("up_layers.{level}.{stream}_stream.{i}.{layer}"))
            }
            [stream, "up", level, i, ref inner @ .., _] => back(level, LEVELS - 1)
                .zip(layer(inner))
                .map(|(level, layer): (usize, _)| format!("down_layers.{level}.{stream}_stream.{i}.{layer}")),
            _ => None,
        };
        let (Some(module), Some(leaf)) = (module, parts.last()) else { return Key::same(ours) };
        let layout = if module.ends_with("lin_a") { Layout::LINEAR } else { Layout::Conv };
        match *leaf {
            "bias" => Key::same(format!("{module}.bias")),
            leaf => Key { layout, ..Key::same(format!("{module}.weight_{leaf}")) },
        }
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        trace.get(module).cloned()
    }
}

/// What a layer of a block is called.
fn layer(ours: &[&str]) -> Option<&'static str> {
    match ours {
        ["first", "layer"] => Some("conv_input.conv"),
        ["second", "layer"] => Some("conv_out.conv"),
        ["aside"] => Some("nin_skip.lin_a"),
        _ => None,
    }
}
