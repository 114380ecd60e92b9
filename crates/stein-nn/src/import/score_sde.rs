//! DDPM, DDPM++ and NCSN++ of [score_sde_pytorch](https://github.com/yang-song/score_sde_pytorch).
//!
//! Its state dicts number modules in the order in which the network makes them; the config gives that order.

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{Device, TensorData},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use stein::{Condition, Context, Error, Result, ensure};

use super::{Imported, Key, Output, Weights, load};
use crate::{
    init::Init,
    networks::{
        Combine, Ddpm, DdpmConfig, InputPyramid, Ncsnpp, NcsnppConfig, NoiseLevels, NoiseNumber, OutputPyramid,
        ResidualBlock,
    },
    ops::Dual,
    trace::Trace,
};

#[derive(Deserialize)]
struct Images {
    image_size: usize,
    num_channels: usize,
    centered: bool,
}

/// What both networks read.
#[derive(Deserialize)]
struct Common {
    sigma_min: f64,
    sigma_max: f64,
    num_scales: usize,
    dropout: f64,
    nonlinearity: String,
    normalization: String,
    resamp_with_conv: bool,
    conditional: bool,
    scale_by_sigma: bool,
    nf: usize,
    ch_mult: Vec<usize>,
    num_res_blocks: usize,
    attn_resolutions: Vec<usize>,
}

/// What only NCSN++ reads.
#[derive(Deserialize)]
struct More {
    fir: bool,
    fir_kernel: Vec<f32>,
    skip_rescale: bool,
    resblock_type: String,
    progressive: String,
    progressive_input: String,
    progressive_combine: String,
    embedding_type: String,
    fourier_scale: f64,
}

fn section<T: DeserializeOwned>(json: &Value, name: &str) -> Result<T> {
    T::deserialize(&json[name]).map_err(|error| {
        Error::new(format!("{name} of the config is not that of a score_sde_pytorch network: {error}"))
    })
}

/// The value of a name, whatever its case.
fn named<T: Copy>(field: &str, name: &str, known: &[(&str, T)]) -> Result<T> {
    let found = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<_> = known.iter().map(|(known, _)| *known).collect();
        Error::new(format!("model.{field} is {name:?}: only {} can be imported", known.join(", ")))
    })
}

/// Whether a network of score_sde is DDPM's, not NCSN++'s.
pub(super) fn is_ddpm(json: &Value) -> bool {
    match json.get("model").and_then(|model| model.get("name").and_then(Value::as_str)) {
        Some(name) => name == "ddpm",
        // What only the other network knows.
        None => json.get("model").is_some_and(|model| model.get("embedding_type").is_none()),
    }
}

/// Fails unless sizes change with convolutions, which BigGAN's blocks do not ask.
fn with_convolutions(json: &Value) -> Result<()> {
    let common: Common = section(json, "model")?;
    ensure!(
        common.resamp_with_conv,
        "model.resamp_with_conv is false: only networks that change sizes with convolutions can be imported"
    );
    Ok(())
}

/// The config of a DDPM, from the reference's.
///
/// # Errors
/// When it lacks something, or has a value no published network of that kind has.
pub fn ddpm_config(json: &Value) -> Result<DdpmConfig> {
    with_convolutions(json)?;
    shared(json)
}

/// What all their networks have.
fn shared(json: &Value) -> Result<DdpmConfig> {
    let Images { image_size: size, num_channels: image_channels, centered } = section(json, "data")?;
    let common: Common = section(json, "model")?;
    named("nonlinearity", &common.nonlinearity, &[("swish", ())])?;
    named("normalization", &common.normalization, &[("GroupNorm", ())])?;
    let occurs = |width: &usize| (0..common.ch_mult.len()).any(|level| size >> level == *width);
    Ok(DdpmConfig {
        size,
        image_channels,
        channels: common.nf,
        attention: common.attn_resolutions.into_iter().filter(occurs).collect(),
        multipliers: common.ch_mult,
        blocks: common.num_res_blocks,
        dropout: common.dropout,
        conditional: common.conditional,
        scale_by_sigma: common.scale_by_sigma,
        levels: NoiseLevels { min: common.sigma_min, max: common.sigma_max, count: common.num_scales },
        centered,
    })
}

/// The config of an NCSN++ or DDPM++, from the reference's.
///
/// # Errors
/// As [`ddpm_config`].
pub fn ncsnpp_config(json: &Value) -> Result<NcsnppConfig> {
    let more: More = section(json, "model")?;
    let noise =
        [("fourier", NoiseNumber::Fourier { scale: more.fourier_scale }), ("positional", NoiseNumber::Positional)];
    let blocks = [("biggan", ResidualBlock::Biggan), ("ddpm", ResidualBlock::Ddpm)];
    let inputs =
        [("none", InputPyramid::None), ("input_skip", InputPyramid::InputSkip), ("residual", InputPyramid::Residual)];
    let outputs = [
        ("none", OutputPyramid::None),
        ("output_skip", OutputPyramid::OutputSkip),
        ("residual", OutputPyramid::Residual),
    ];
    let block = named("resblock_type", &more.resblock_type, &blocks)?;
    if block != ResidualBlock::Biggan {
        with_convolutions(json)?;
    }
    Ok(NcsnppConfig {
        noise: named("embedding_type", &more.embedding_type, &noise)?,
        filter: if more.fir { more.fir_kernel } else { Vec::new() },
        rescale: more.skip_rescale,
        block,
        input: named("progressive_input", &more.progressive_input, &inputs)?,
        output: named("progressive", &more.progressive, &outputs)?,
        combine: named(
            "progressive_combine",
            &more.progressive_combine,
            &[("sum", Combine::Sum), ("cat", Combine::Cat)],
        )?,
        ..shared(json)?.general()
    })
}

/// A DDPM with the weights of a state dict.
///
/// # Errors
/// As [`ddpm_config`] and [`load`].
pub fn open_ddpm(json: &Value, weights: Weights) -> Result<Imported<Ddpm>> {
    let config = ddpm_config(json)?;
    open(
        config.build(&mut Init::blank(&Device::flex().autodiff()))?,
        Names::new(&config.general()),
        weights,
        Ddpm::images,
    )
}

/// An NCSN++ or DDPM++ with the weights of a state dict.
///
/// # Errors
/// As [`ncsnpp_config`] and [`load`].
pub fn open_ncsnpp(json: &Value, weights: Weights) -> Result<Imported<Ncsnpp>> {
    let config = ncsnpp_config(json)?;
    open(config.build(&mut Init::blank(&Device::flex().autodiff()))?, Names::new(&config), weights, Ncsnpp::images)
}

type Forward<N> = fn(&N, Dual<4>, &Context) -> Result<Dual<4>>;

fn open<N: Module + 'static>(network: N, names: Names, weights: Weights, forward: Forward<N>) -> Result<Imported<N>> {
    let network = load(network, weights, |name| names.key(name), |name| names.is_idle(name))?;
    let names = Arc::new(names);
    let seen = names.clone();
    Ok(Imported {
        network,
        key: Arc::new(move |name| names.key(name)),
        run: Arc::new(move |network, case| {
            let y = forward(network, case.images("x")?, &case.context("t", &Condition::none())?)?;
            Ok(vec![("out".to_owned(), Output::images(y))])
        }),
        seen: Arc::new(move |module, trace| seen.seen(module, trace)),
    })
}

/// Our names of the reference's modules, at their numbers, and what else names depend on.
struct Names {
    modules: Vec<String>,
    filtered: bool,
    block: ResidualBlock,
    conditional: bool,
}

impl Names {
    fn new(config: &NcsnppConfig) -> Self {
        let levels = config.multipliers.len();
        let mut modules: Vec<String> = Vec::new();
        // The reference makes the frequencies even where nobody is told of the noise.
        if config.noise != NoiseNumber::Positional {
            modules.push("embedding.frequencies".to_owned());
        }
        if config.conditional {
            modules.extend(["embedding.first", "embedding.second"].map(str::to_owned));
        }
        modules.push("input".to_owned());
        for level in 0..levels {
            for unit in 0..config.blocks {
                modules.push(format!("down.{level}.units.{unit}.block"));
                if config.attends(level) {
                    modules.push(format!("down.{level}.units.{unit}.attention"));
                }
            }
            if level + 1 < levels {
                modules.push(format!("down.{level}.change"));
                if config.input != InputPyramid::None {
                    modules.push(format!("down.{level}.entry"));
                }
            }
        }
        modules.extend(["middle.0.block", "middle.0.attention", "middle.1.block"].map(str::to_owned));
        for (place, level) in (0..levels).rev().enumerate() {
            modules.extend((0..=config.blocks).map(|unit| format!("up.{place}.units.{unit}.block")));
            if config.attends(level) {
                modules.push(format!("up.{place}.units.{}.attention", config.blocks));
            }
            match config.output {
                OutputPyramid::None => {}
                OutputPyramid::Residual if place > 0 => modules.push(format!("up.{place}.exit")),
                _ => modules.extend(["norm", "conv"].map(|layer| format!("up.{place}.exit.{layer}"))),
            }
            if level > 0 {
                modules.push(format!("up.{place}.change"));
            }
        }
        if config.output != OutputPyramid::OutputSkip {
            modules.extend(["output.norm", "output.conv"].map(str::to_owned));
        }
        let &NcsnppConfig { block, conditional, .. } = config;
        Self { modules, filtered: !config.filter.is_empty(), block, conditional }
    }

    /// Whether a tensor of the reference is no weight in use.
    fn is_idle(&self, name: &str) -> bool {
        let known =
            [".Dense_0.weight", ".Dense_0.bias"].iter().any(|end| name.ends_with(end)) || name == "all_modules.0.W";
        name == "sigmas" || !self.conditional && known
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        let number: usize = module.strip_prefix("all_modules.")?.parse().ok()?;
        trace.get(self.modules.get(number)?).cloned()
    }

    fn key(&self, name: &str) -> Key {
        let name = name.strip_prefix("network.").unwrap_or(name);
        let inside = |module: &String| name.strip_prefix(module.as_str())?.strip_prefix('.');
        let (number, rest) = (self.modules.iter().enumerate())
            .find_map(|(number, module)| Some((number, inside(module)?)))
            .expect("every parameter is in a module of the table");
        let (layer, tensor) = rest.rsplit_once('.').unwrap_or(("", rest));
        let theirs = match layer {
            "first_norm" | "norm" => "GroupNorm_0.",
            "second_norm" => "GroupNorm_1.",
            "first" | "mix" => "Conv_0.",
            "second" => "Conv_1.",
            "conv" if self.filtered => "Conv2d_0.",
            "conv" => "Conv_0.",
            "embedding" => "Dense_0.",
            "skip" if self.block == ResidualBlock::Biggan => "Conv_2.",
            "skip" | "queries" => "NIN_0.",
            "keys" => "NIN_1.",
            "values" => "NIN_2.",
            "output" => "NIN_3.",
            _ => "",
        };
        let module = format!("all_modules.{number}.{theirs}");
        match tensor {
            "drawn" => Key::same(module + "W"),
            "weight" if theirs.starts_with("NIN") => Key::same(module + "W"),
            "bias" if theirs.starts_with("NIN") => Key::same(module + "b"),
            "weight" => {
                let name = module + "weight";
                match layer {
                    "skip" | "mix" => Key::pointwise(name, 2),
                    "embedding" => Key::linear(name),
                    "" if self.modules[number].starts_with("embedding.") => Key::linear(name),
                    _ => Key::conv(name),
                }
            }
            "gamma" => Key::same(module + "weight"),
            _ => Key::same(module + "bias"),
        }
    }
}
