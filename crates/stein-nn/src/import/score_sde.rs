//! DDPM, DDPM++ and NCSN++ of [score_sde_pytorch](https://github.com/yang-song/score_sde_pytorch).
//!
//! Its state dicts number modules in the order in which the network makes them; the config gives that order.

use burn::{
    module::Module,
    tensor::{Device, TensorData},
};
use serde_json::Value;
use stein::{Condition, Context, Result};

use super::{
    Imported, Key, Names, Weights,
    config::{Reader, text},
    refine_net::NONLINEARITIES,
};
use crate::{
    init::Init,
    networks::{
        Combine, Ddpm, DdpmConfig, InputPyramid, Ncsnpp, NcsnppConfig, NoiseLevels, NoiseNumber, OutputPyramid,
        ResidualBlock,
    },
    ops::Dual,
    trace::Trace,
};

/// Whether a network of score_sde is DDPM's, not NCSN++'s.
pub(super) fn is_ddpm(json: &Value) -> bool {
    match json.get("model").and_then(|model| text(model, "name")) {
        Some(name) => name == "ddpm",
        // What only the other network knows.
        None => json.get("model").is_some_and(|model| model.get("embedding_type").is_none()),
    }
}

/// The config of a DDPM, from the reference's.
///
/// # Errors
/// When it lacks something, or has a value no published network of that kind has.
pub fn ddpm_config(json: &Value) -> Result<DdpmConfig> {
    let mut read = Reader::new("score_sde_pytorch", json)?;
    let resize_convolutions = read.required("model.resamp_with_conv")?;
    Ok(DdpmConfig { resize_convolutions, ..shared(&mut read)? })
}

/// What all their networks have.
fn shared(read: &mut Reader) -> Result<DdpmConfig> {
    read.required_word("model.normalization", &[("GroupNorm", ())])?;
    let (size, multipliers): (usize, Vec<usize>) = (read.required("data.image_size")?, read.required("model.ch_mult")?);
    let occurs = |width: &usize| (0..multipliers.len().min(64)).any(|level| size >> level == *width);
    let attention: Vec<usize> = read.required("model.attn_resolutions")?;
    Ok(DdpmConfig {
        size,
        image_channels: read.required("data.num_channels")?,
        channels: read.required("model.nf")?,
        attention: attention.into_iter().filter(occurs).collect(),
        multipliers,
        blocks: read.required("model.num_res_blocks")?,
        dropout: read.required("model.dropout")?,
        conditional: read.required("model.conditional")?,
        scale_by_sigma: read.required("model.scale_by_sigma")?,
        levels: NoiseLevels {
            min: read.required("model.sigma_min")?,
            max: read.required("model.sigma_max")?,
            count: read.required("model.num_scales")?,
        },
        nonlinearity: read.required_word("model.nonlinearity", &NONLINEARITIES)?,
        resize_convolutions: true,
        centered: read.required("data.centered")?,
    })
}

/// The config of an NCSN++ or DDPM++, from the reference's.
///
/// # Errors
/// As [`ddpm_config`].
pub fn ncsnpp_config(json: &Value) -> Result<NcsnppConfig> {
    let mut read = Reader::new("score_sde_pytorch", json)?;
    let fourier = NoiseNumber::Fourier { scale: read.required("model.fourier_scale")? };
    let noise = [("fourier", fourier), ("positional", NoiseNumber::Positional)];
    let blocks = [("biggan", ResidualBlock::Biggan), ("ddpm", ResidualBlock::Ddpm)];
    let inputs =
        [("none", InputPyramid::None), ("input_skip", InputPyramid::InputSkip), ("residual", InputPyramid::Residual)];
    let outputs = [
        ("none", OutputPyramid::None),
        ("output_skip", OutputPyramid::OutputSkip),
        ("residual", OutputPyramid::Residual),
    ];
    let block = read.required_word("model.resblock_type", &blocks)?;
    // BigGAN's blocks do not ask it.
    let convolutions = block == ResidualBlock::Biggan || read.required("model.resamp_with_conv")?;
    let filter = read.required("model.fir_kernel")?;
    Ok(NcsnppConfig {
        noise: read.required_word("model.embedding_type", &noise)?,
        filter: if read.required("model.fir")? { filter } else { Vec::new() },
        rescale: read.required("model.skip_rescale")?,
        block,
        resize_convolutions: convolutions,
        input: read.required_word("model.progressive_input", &inputs)?,
        output: read.required_word("model.progressive", &outputs)?,
        combine: read.required_word("model.progressive_combine", &[("sum", Combine::Sum), ("cat", Combine::Cat)])?,
        ..shared(&mut read)?.general()
    })
}

/// A DDPM with the weights of a state dict.
///
/// # Errors
/// As [`ddpm_config`] and `state::load`.
pub fn open_ddpm(json: &Value, weights: Weights) -> Result<Imported<Ddpm>> {
    let config = ddpm_config(json)?;
    open(
        config.build(&mut Init::blank(&Device::flex().autodiff()))?,
        Modules::new(&config.general()),
        weights,
        Ddpm::images,
    )
}

/// An NCSN++ or DDPM++ with the weights of a state dict.
///
/// # Errors
/// As [`ncsnpp_config`] and `state::load`.
pub fn open_ncsnpp(json: &Value, weights: Weights) -> Result<Imported<Ncsnpp>> {
    let config = ncsnpp_config(json)?;
    open(config.build(&mut Init::blank(&Device::flex().autodiff()))?, Modules::new(&config), weights, Ncsnpp::images)
}

type Forward<N> = fn(&N, Dual<4>, &Context) -> Result<Dual<4>>;

fn open<N: Module + 'static>(network: N, names: Modules, weights: Weights, images: Forward<N>) -> Result<Imported<N>> {
    Imported::new(network, names, weights, move |network, case| {
        case.out("t", &Condition::none(), |x, context| images(network, x, context))
    })
}

/// Our names of the reference's modules, at their numbers, and what else names depend on.
struct Modules {
    modules: Vec<String>,
    filtered: bool,
    block: ResidualBlock,
    conditional: bool,
}

impl Modules {
    fn new(config: &NcsnppConfig) -> Self {
        let levels = config.multipliers.len();
        let mut modules: Vec<String> = Vec::new();
        // The reference makes the frequencies even where the network is not conditioned on the noise.
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
        for (step, level) in (0..levels).rev().enumerate() {
            modules.extend((0..=config.blocks).map(|unit| format!("up.{step}.units.{unit}.block")));
            if config.attends(level) {
                modules.push(format!("up.{step}.units.{}.attention", config.blocks));
            }
            match config.output {
                OutputPyramid::None => {}
                OutputPyramid::Residual if step > 0 => modules.push(format!("up.{step}.exit")),
                _ => modules.extend(["norm", "conv"].map(|layer| format!("up.{step}.exit.{layer}"))),
            }
            if level > 0 {
                modules.push(format!("up.{step}.change"));
            }
        }
        if config.output != OutputPyramid::OutputSkip {
            modules.extend(["output.norm", "output.conv"].map(str::to_owned));
        }
        let &NcsnppConfig { block, conditional, .. } = config;
        Self { modules, filtered: !config.filter.is_empty(), block, conditional }
    }
}

impl Names for Modules {
    fn ignores(&self, theirs: &str) -> bool {
        let known =
            [".Dense_0.weight", ".Dense_0.bias"].iter().any(|end| theirs.ends_with(end)) || theirs == "all_modules.0.W";
        theirs == "sigmas" || !self.conditional && known
    }

    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData> {
        let number: usize = module.strip_prefix("all_modules.")?.parse().ok()?;
        trace.get(self.modules.get(number)?).cloned()
    }

    fn key(&self, name: &str, _: &[usize]) -> Key {
        let name = name.strip_prefix("network.").unwrap_or(name);
        let inside = |module: &String| name.strip_prefix(module.as_str())?.strip_prefix('.');
        let found = self.modules.iter().enumerate().find_map(|(number, module)| Some((number, inside(module)?)));
        let Some((number, rest)) = found else { return Key::same(name) };
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
