//! Networks of NVlabs/edm (Karras et al., arXiv:2206.00364): the state dicts of `EDMPrecond` around a `SongUNet` or a
//! `DhariwalUNet`, with their constructor's arguments as the config.
//!
//! Theirs: `model.enc.16x16_block0.conv0.weight`, a block named by the nominal size of its images. Queries, keys and
//! values are one convolution whose output channels are ordered (heads, channels of a head, three). Filters of changes
//! of size are buffers that follow from the config.

use std::{collections::BTreeMap, sync::Arc};

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use stein::{Condition, Context, Error, Result, ensure};

use super::{Case, Imported, Key, Output, Reference, Weights, load, values::number};
use crate::{
    init::Init,
    layers::{BlockForm, Dropout},
    networks::{
        DhariwalUnet, DhariwalUnetConfig, EdmBlock, EdmForm, Heads, Size, SongDecoder, SongEncoder, SongFeatures,
        SongUnet, SongUnetConfig,
    },
    ops::Dual,
    state,
    trace::Trace,
};

/// The arguments of a constructor, taken out one by one.
struct Arguments<'a> {
    what: &'a str,
    left: Map<String, Value>,
}

impl<'a> Arguments<'a> {
    fn new(what: &'a str, json: &Value) -> Result<Self> {
        let left = json.as_object().cloned();
        let left = left.ok_or_else(|| Error::new(format!("the config of {what} is no table of names and values")))?;
        Ok(Self { what, left })
    }

    fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.left.remove(name) else { return Ok(None) };
        let text = value.to_string();
        let read = serde_json::from_value(value);
        read.map_err(|error| Error::new(format!("{name} of {} is {text}, which cannot be: {error}", self.what)))
    }

    fn or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        let what = self.what;
        self.optional(name)?.ok_or_else(|| Error::new(format!("the config of {what} lacks {name}")))
    }

    /// One of a few words.
    fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<T> {
        let word: String = self.or(name, words[0].0.to_owned())?;
        let known = words.iter().find(|(known, _)| *known == word);
        known.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(known, _)| *known).collect();
            Error::new(format!("{name} of {} is {word}: known are {}", self.what, known.join(", ")))
        })
    }

    fn finish(self) -> Result<()> {
        let left: Vec<_> = self.left.keys().map(String::as_str).collect();
        ensure!(left.is_empty(), "the config of {} has unknown entries: {}", self.what, left.join(", "));
        Ok(())
    }

    /// What the preconditioning wrapper takes for itself, besides the type of the model.
    fn unwrap(&mut self, model: &str) -> Result<()> {
        let json = Value::Object(self.left.clone());
        let kind = model_type(&json)?;
        ensure!(kind == model, "the config is of a {kind}, not of a {model}");
        let own: &[&str] = match wrapper(&json)? {
            Wrapper::Edm => &["sigma_data"],
            Wrapper::Vp => &["beta_d", "beta_min", "M", "epsilon_t"],
            Wrapper::Ve => &[],
        };
        // Labels are dropped in training alone.
        let all = ["class_name", "model_type", "sigma_min", "sigma_max", "use_fp16", "label_dropout"];
        for name in own.iter().chain(&all) {
            self.left.remove(*name);
        }
        Ok(())
    }
}

/// What surrounds a network there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapper {
    /// `EDMPrecond`.
    Edm,
    /// `VPPrecond`.
    Vp,
    /// `VEPrecond`.
    Ve,
}

/// What `class_name` of the config says surrounds the network: `EDMPrecond` where it says nothing.
///
/// # Errors
/// When it is none of [`Wrapper`].
pub(super) fn wrapper(json: &Value) -> Result<Wrapper> {
    let name = json.get("class_name").and_then(Value::as_str).unwrap_or("EDMPrecond");
    match name.rsplit('.').next().unwrap_or(name) {
        "EDMPrecond" => Ok(Wrapper::Edm),
        "VPPrecond" => Ok(Wrapper::Vp),
        "VEPrecond" => Ok(Wrapper::Ve),
        _ => Err(Error::new(format!("class_name is {name}: known are EDMPrecond, VPPrecond and VEPrecond"))),
    }
}

/// The network within, where nothing is said that of its wrapper.
///
/// # Errors
/// As [`wrapper`].
pub(super) fn model_type(json: &Value) -> Result<&str> {
    let usual = if wrapper(json)? == Wrapper::Edm { "DhariwalUNet" } else { "SongUNet" };
    Ok(json.get("model_type").and_then(Value::as_str).unwrap_or(usual))
}

/// Reads the arguments of `EDMPrecond` around a `SongUNet`; arguments that are missing have the reference's defaults.
///
/// # Errors
/// When an argument is unknown, of another type, or of an unsupported value.
pub fn song_config(json: &Value) -> Result<SongUnetConfig> {
    let mut read = Arguments::new("SongUNet", json)?;
    read.unwrap("SongUNet")?;
    let inputs = read.required("img_channels")?;
    let default = SongUnetConfig::default();
    let config = SongUnetConfig {
        height: read.required("img_resolution")?,
        inputs,
        outputs: inputs,
        classes: read.or("label_dim", default.classes)?,
        augment: read.or("augment_dim", default.augment)?,
        channels: read.or("model_channels", default.channels)?,
        multipliers: read.or("channel_mult", default.multipliers)?,
        embedding_multiplier: read.or("channel_mult_emb", default.embedding_multiplier)?,
        feature_multiplier: read.or("channel_mult_noise", default.feature_multiplier)?,
        blocks: read.or("num_blocks", default.blocks)?,
        attention: read.or("attn_resolutions", default.attention)?,
        dropout: read.or("dropout", default.dropout)?,
        features: read
            .word("embedding_type", &[("positional", SongFeatures::Positional), ("fourier", SongFeatures::Fourier)])?,
        encoder: read.word(
            "encoder_type",
            &[("standard", SongEncoder::Standard), ("skip", SongEncoder::Skip), ("residual", SongEncoder::Residual)],
        )?,
        decoder: read.word("decoder_type", &[("standard", SongDecoder::Standard), ("skip", SongDecoder::Skip)])?,
        filter: read.or("resample_filter", default.filter)?,
    };
    read.finish()?;
    Ok(config)
}

/// Reads the arguments of `EDMPrecond` around a `DhariwalUNet`; arguments that are missing have the reference's
/// defaults.
///
/// # Errors
/// When an argument is unknown, of another type, or of an unsupported value.
pub fn dhariwal_config(json: &Value) -> Result<DhariwalUnetConfig> {
    let mut read = Arguments::new("DhariwalUNet", json)?;
    read.unwrap("DhariwalUNet")?;
    let inputs = read.required("img_channels")?;
    let default = DhariwalUnetConfig::default();
    let config = DhariwalUnetConfig {
        height: read.required("img_resolution")?,
        inputs,
        outputs: inputs,
        classes: read.or("label_dim", default.classes)?,
        augment: read.or("augment_dim", default.augment)?,
        channels: read.or("model_channels", default.channels)?,
        multipliers: read.or("channel_mult", default.multipliers)?,
        embedding_multiplier: read.or("channel_mult_emb", default.embedding_multiplier)?,
        blocks: read.or("num_blocks", default.blocks)?,
        attention: read.or("attn_resolutions", default.attention)?,
        dropout: read.or("dropout", default.dropout)?,
    };
    read.finish()?;
    Ok(config)
}

/// Our layers and blocks beside their modules.
#[derive(Default)]
struct Names(Vec<(String, String)>);

/// Our projections of attention that are one layer of theirs, in the order of their channels.
const FUSED: [&str; 3] = ["queries", "keys", "values"];

impl Names {
    fn add(&mut self, ours: impl Into<String>, theirs: impl Into<String>) {
        self.0.push((ours.into(), theirs.into()));
    }

    fn block(&mut self, ours: &str, theirs: &str) {
        let layers = [
            ("first_norm", "norm0"),
            ("first", "conv0"),
            ("embedding", "affine"),
            ("second_norm", "norm1"),
            ("second", "conv1"),
            ("skip", "skip"),
        ];
        for (layer, module) in layers {
            self.add(format!("{ours}.residual.{layer}"), format!("{theirs}.{module}"));
        }
        for layer in FUSED {
            self.add(format!("{ours}.attention.{layer}"), format!("{theirs}.qkv"));
        }
        self.add(format!("{ours}.attention.norm"), format!("{theirs}.norm2"));
        self.add(format!("{ours}.attention.output"), format!("{theirs}.proj"));
        self.add(ours, theirs);
    }

    /// Of what both networks have.
    fn trunk(height: usize, levels: usize, blocks: usize) -> Self {
        let mut names = Self::default();
        names.add("frequencies", "model.map_noise");
        names.add("class", "model.map_label");
        names.add("augment", "model.map_augment");
        names.add("first", "model.map_layer0");
        names.add("second", "model.map_layer1");
        names.add("trunk.input", format!("{}_conv", place("enc", height, 0)));
        names.block("trunk.middle.0", &format!("{}_in0", place("dec", height, levels - 1)));
        names.block("trunk.middle.1", &format!("{}_in1", place("dec", height, levels - 1)));
        for level in 0..levels {
            let (ours, theirs) = (format!("trunk.down.{level}"), place("enc", height, level));
            names.block(&format!("{ours}.change"), &format!("{theirs}_down"));
            for block in 0..blocks {
                names.block(&format!("{ours}.blocks.{block}"), &format!("{theirs}_block{block}"));
            }
            let (ours, theirs) = (format!("trunk.up.{}", levels - 1 - level), place("dec", height, level));
            names.block(&format!("{ours}.change"), &format!("{theirs}_up"));
            for block in 0..=blocks {
                names.block(&format!("{ours}.blocks.{block}"), &format!("{theirs}_block{block}"));
            }
        }
        names
    }

    /// Where a parameter of this shape is.
    fn key(&self, name: &str, shape: &[usize]) -> Key {
        let known = name.rsplit_once('.').and_then(|(layer, parameter)| {
            let (_, theirs) = self.0.iter().find(|(ours, _)| ours == layer)?;
            Some((layer, parameter, theirs))
        });
        let Some((layer, parameter, theirs)) = known else { return Key::same(name) };
        let role = layer.rsplit('.').next().unwrap_or(layer);
        let fused = FUSED.iter().position(|fused| *fused == role);
        let theirs = match parameter {
            "gamma" => format!("{theirs}.weight"),
            "beta" => format!("{theirs}.bias"),
            "drawn" => format!("{theirs}.freqs"),
            same => format!("{theirs}.{same}"),
        };
        let key = match shape.len() {
            4 => Key::conv(theirs),
            2 if fused.is_some() || ["skip", "output"].contains(&role) => Key::pointwise(theirs, 2),
            2 => Key::linear(theirs),
            _ => Key::same(theirs),
        };
        match (fused, shape.last()) {
            (Some(part), Some(&channels)) => {
                key.rows((0..channels).map(|channel| 3 * channel + part).collect(), 3 * channels)
            }
            _ => key,
        }
    }

    /// What a module of theirs returned.
    fn seen(&self, module: &str, seen: &Trace) -> Option<TensorData> {
        let noted: Vec<_> =
            self.0.iter().filter(|(_, theirs)| theirs == module).map(|(ours, _)| seen.get(ours)).collect();
        match noted[..] {
            [Some(one)] => Some(one.clone()),
            [Some(queries), Some(keys), Some(values)] => interleaved([queries, keys, values]),
            _ => None,
        }
    }
}

/// How the modules of a level are named, but for what they are.
fn place(side: &str, height: usize, level: usize) -> String {
    let height = height >> level;
    format!("model.{side}.{height}x{height}")
}

/// Three times `[N, places, C]` as `[N, 3C, places]`, of channel after channel each of the three.
fn interleaved(parts: [&TensorData; 3]) -> Option<TensorData> {
    let &[samples, places, channels] = &parts[0].shape()[..] else { return None };
    let parts = parts.map(|part| part.iter::<f64>().collect::<Vec<_>>());
    let mut all = Vec::with_capacity(3 * samples * places * channels);
    for sample in 0..samples {
        for channel in 0..channels {
            for part in &parts {
                all.extend((0..places).map(|place| part[(sample * places + place) * channels + channel]));
            }
        }
    }
    Some(TensorData::new(all, [samples, 3 * channels, places]))
}

/// A network with the weights of a file, and its tables.
fn imported<N: Module>(
    network: N,
    names: Names,
    weights: Weights,
    run: impl Fn(&N, &Case) -> Result<Vec<(String, Output)>> + Send + Sync + 'static,
) -> Result<Imported<N>> {
    let own = state::shapes(&network);
    let keys: BTreeMap<_, _> = own.iter().map(|(name, own)| (name.clone(), names.key(name, own))).collect();
    let key = move |name: &str| keys.get(name).cloned().unwrap_or_else(|| Key::same(name));
    let network = load(network, weights, &key, |name| name.ends_with(".resample_filter"))?;
    let seen = move |module: &str, seen: &Trace| names.seen(module, seen);
    Ok(Imported { network, key: Arc::new(key), run: Arc::new(run), seen: Arc::new(seen) })
}

/// A `SongUNet` with its weights. Stored cases are the network itself (`out` of `x`, `noise_labels`, `class_labels`,
/// `augment_labels`) or, in a case named after one, a preconditioning of it (`D_x` of `x`, `sigma`, `class_labels`).
///
/// # Errors
/// When the config or the weights are not of such a network.
pub fn open_song(json: &Value, weights: Weights) -> Result<Imported<SongUnet>> {
    let config = song_config(json)?;
    let around = Around::read(json)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    let levels = config.multipliers.len();
    let mut names = Names::trunk(config.height, levels, config.blocks);
    let entry = if config.encoder == SongEncoder::Skip { "skip" } else { "residual" };
    for level in 0..levels {
        let theirs = place("dec", config.height, level);
        names.add(format!("exits.{level}.norm"), format!("{theirs}_aux_norm"));
        names.add(format!("exits.{level}.conv"), format!("{theirs}_aux_conv"));
        let theirs = place("enc", config.height, level + 1);
        names.add(format!("entries.{level}"), format!("{theirs}_aux_{entry}"));
    }
    imported(network, names, weights, move |network, case| {
        evaluate(case, around, |x, context| network.images(x, context))
    })
}

/// A `DhariwalUNet` with its weights; the rest as [`open_song`].
///
/// # Errors
/// When the config or the weights are not of such a network.
pub fn open_dhariwal(json: &Value, weights: Weights) -> Result<Imported<DhariwalUnet>> {
    let config = dhariwal_config(json)?;
    let around = Around::read(json)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    let mut names = Names::trunk(config.height, config.multipliers.len(), config.blocks);
    names.add("output_norm", "model.out_norm");
    names.add("output", "model.out_conv");
    imported(network, names, weights, move |network, case| {
        evaluate(case, around, |x, context| network.images(x, context))
    })
}

/// The numbers of the wrappers.
#[derive(Debug, Clone, Copy)]
struct Around {
    /// The standard deviation of the data, of `EDMPrecond`.
    data: f64,
    /// β_d, β₀ and one less than the number of steps, of `VPPrecond`.
    rise: f64,
    least: f64,
    last: f64,
}

impl Around {
    fn read(json: &Value) -> Result<Self> {
        Ok(Self {
            data: number(json, "sigma_data", 0.5)?,
            rise: number(json, "beta_d", 19.9)?,
            least: number(json, "beta_min", 0.1)?,
            last: number(json, "M", 1000.0)? - 1.0,
        })
    }
}

fn evaluate(
    case: &Case,
    around: Around,
    network: impl Fn(Dual<4>, &Context) -> Result<Dual<4>>,
) -> Result<Vec<(String, Output)>> {
    let (x, given) = (case.images("x")?, given(case)?);
    let form = match case.name.as_str() {
        "edm" | "edm_nolabel" => Preconditioning::edm,
        "vp" => Preconditioning::vp,
        "ve" => Preconditioning::ve,
        _ => return Ok(vec![("out".to_owned(), Output::images(network(x, &case.context("noise_labels", &given)?)?))]),
    };
    let Preconditioning { skip, output, input, noise } = form(case.numbers("sigma")?.value, around);
    let rows = x.dims()[0];
    let times = |x: Dual<4>, factor: Tensor<1>| {
        let factor = factor.reshape([rows, 1, 1, 1]);
        x.linear(|x| x * factor.clone())
    };
    let f = network(times(x.clone(), input), &Context::new(noise, &given))?;
    Ok(vec![("D_x".to_owned(), Output::images(times(x, skip) + times(f, output)))])
}

/// The factors of D = skip · x + output · F(input · x, noise), a number per sample.
struct Preconditioning {
    skip: Tensor<1>,
    output: Tensor<1>,
    input: Tensor<1>,
    noise: Tensor<1>,
}

impl Preconditioning {
    fn edm(sigma: Tensor<1>, Around { data, .. }: Around) -> Self {
        let total = sigma.clone() * sigma.clone() + data * data;
        Self {
            skip: total.clone().recip() * (data * data),
            output: sigma.clone() * data / total.clone().sqrt(),
            input: total.sqrt().recip(),
            noise: sigma.log() / 4.0,
        }
    }

    /// Of the schedule σ² = exp(β_d t²/2 + β₀ t) − 1 for a time t, which the network takes as a step.
    fn vp(sigma: Tensor<1>, Around { rise, least, last, .. }: Around) -> Self {
        let total = sigma.clone() * sigma.clone() + 1.0;
        let time = ((total.clone().log() * (2.0 * rise) + least * least).sqrt() - least) / rise;
        Self { skip: sigma.ones_like(), output: -sigma, input: total.sqrt().recip(), noise: time * last }
    }

    fn ve(sigma: Tensor<1>, _: Around) -> Self {
        let one = sigma.ones_like();
        Self { skip: one.clone(), output: sigma.clone(), input: one, noise: (sigma * 0.5).log() }
    }
}

/// What a stored case conditions on.
fn given(case: &Case) -> Result<Condition> {
    let class = if case.has("class_labels") { Some(classes(case.rows("class_labels")?.value)?) } else { None };
    let vector = if case.has("augment_labels") { Some(case.rows("augment_labels")?.value) } else { None };
    Ok(Condition { class, vector, ..Condition::none() })
}

/// The classes of one-hot rows.
fn classes(rows: Tensor<2>) -> Result<Vec<Option<u32>>> {
    let [_, count] = rows.dims();
    let values: Vec<f64> = rows.into_data().iter::<f64>().collect();
    let class = |row: &[f64]| {
        let class = row.iter().position(|x| *x == 1.0);
        let class = class.filter(|_| row.iter().filter(|x| **x != 0.0).count() == 1);
        let class = class.map(|class| Some(class as u32));
        class.ok_or_else(|| Error::new("the stored class_labels are not one-hot rows, which this network takes alone"))
    };
    values.chunks_exact(count.max(1)).map(class).collect()
}

/// Two bare blocks in a row.
#[derive(Module, Debug)]
struct Blocks {
    down: EdmBlock,
    up: EdmBlock,
}

/// The bare blocks `down` and `up`, one after the other, each of the arguments of `UNetBlock`. Stored cases are `out`
/// of `x` and `emb`.
///
/// # Errors
/// When the config or the weights are not of such blocks.
pub fn open_blocks(json: &Value, weights: Weights) -> Result<Box<dyn Reference>> {
    let device = Device::flex().autodiff();
    let init = &mut Init::blank(&device);
    let mut block = |name: &str| {
        let json = json.get(name).ok_or_else(|| Error::new(format!("the config lacks the block {name}")))?;
        open_block(json, init)
    };
    let network = Blocks { down: block("down")?, up: block("up")? };
    let mut names = Names::default();
    names.block("down", "down");
    names.block("up", "up");
    let imported = imported(network, names, weights, |network: &Blocks, case| {
        let (x, embedded, dropout) = (case.images("x")?, case.rows("emb")?, Dropout::none());
        let h = network.down.forward(|| "down".to_owned(), vec![x], &embedded, &dropout);
        let y = network.up.forward(|| "up".to_owned(), vec![h], &embedded, &dropout);
        Ok(vec![("out".to_owned(), Output::images(y))])
    })?;
    Ok(Box::new(imported))
}

fn open_block(json: &Value, init: &mut Init) -> Result<EdmBlock> {
    let mut read = Arguments::new("UNetBlock", json)?;
    let size = match (read.or("up", false)?, read.or("down", false)?) {
        (false, false) => Size::Keep,
        (false, true) => Size::Halve,
        (true, false) => Size::Double,
        (true, true) => return Err(Error::new("a UNetBlock that halves and doubles is not supported")),
    };
    let per_head = read.or("channels_per_head", 64)?;
    let heads = read.optional("num_heads")?.map_or(Heads::Channels(per_head), Heads::Count);
    let scale: f64 = read.or("skip_scale", 1.0)?;
    let form = EdmForm {
        block: BlockForm {
            embedding: Some(read.required("emb_channels")?),
            modulate: read.or("adaptive_scale", true)?,
            rescale: 1.0 / scale,
            skip: read.or("resample_proj", false)?,
            ..BlockForm::default()
        },
        epsilon: read.or("eps", 1e-5)?,
        heads,
        filter: read.or("resample_filter", vec![1.0, 1.0])?,
    };
    let channels = [read.required("in_channels")?, read.required("out_channels")?];
    let attends = read.or("attention", false)?;
    // Of training alone.
    read.left.remove("dropout");
    read.finish()?;
    EdmBlock::new(channels, size, attends, &form, init)
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use serde_json::json;

    use super::*;

    /// The number of trained values of a network.
    fn trained(network: &impl Module) -> usize {
        let all = state::tensors(network);
        all.iter().filter(|(name, _)| *name != "frequencies.drawn").map(|(_, values)| values.num_elements()).sum()
    }

    fn song(json: &Value) -> Result<SongUnet> {
        song_config(json)?.build(&mut Init::blank(&Device::flex()))
    }

    fn dhariwal(json: &Value) -> Result<DhariwalUnet> {
        dhariwal_config(json)?.build(&mut Init::blank(&Device::flex()))
    }

    /// DDPM++ and NCSN++ for CIFAR-10, without classes.
    #[test]
    fn published_sizes() {
        let mut json = json!({
            "model_type": "SongUNet", "img_resolution": 32, "img_channels": 3, "augment_dim": 9,
            "channel_mult": [2, 2, 2]
        });
        assert_eq!(trained(&song(&json).unwrap()), 55_733_891);
        json["embedding_type"] = "fourier".into();
        json["encoder_type"] = "residual".into();
        json["channel_mult_noise"] = 2.into();
        json["resample_filter"] = json!([1, 3, 3, 1]);
        // Wider features and one more convolution on each of two levels.
        let wider = 128 * 512 + 128 * 9;
        let entries = (9 * 3 * 256 + 256) + (9 * 256 * 256 + 256);
        assert_eq!(trained(&song(&json).unwrap()), 55_733_891 + wider + entries);
    }

    /// ADM for ImageNet 64 has 295.9 million values. Their number is a polynomial of second degree in the channels, so
    /// three narrow networks say it of the wide one.
    #[test]
    fn published_size_of_adm() {
        let [a, b, c] = [32, 64, 96].map(|channels| {
            let json = json!({
                "model_type": "DhariwalUNet", "img_resolution": 64, "img_channels": 3, "label_dim": 1000,
                "model_channels": channels
            });
            trained(&dhariwal(&json).unwrap()) as i64
        });
        assert_eq!(a + 5 * (b - a) + 10 * (c - 2 * b + a), 295_899_267);
    }

    /// The network in f64, with other weights than zeros.
    fn shaken<N: Module>(network: N) -> N {
        let shaken = state::map(network, |_, values| {
            let count = values.dims()[0];
            let data: Vec<f32> = (0..count).map(|index| 0.1 * (1.3 * index as f32).cos()).collect();
            let shake: Tensor<1> = Tensor::from_data(data.as_slice(), &values.device());
            values + shake
        });
        state::cast(shaken, DType::F64)
    }

    fn wave<const D: usize>(shape: [usize; D], pace: f64) -> Tensor<D> {
        let data: Vec<f64> = (0..shape.iter().product()).map(|index| (pace * f64::from(index as u32)).sin()).collect();
        Tensor::from_data(TensorData::new(data, shape), (&Device::flex(), DType::F64))
    }

    fn largest(x: Tensor<4>) -> f64 {
        x.abs().max().into_scalar::<f64>()
    }

    /// The tangent against the difference quotient of fourth order.
    fn follows(network: impl Fn(Dual<4>, Context) -> Result<Dual<4>>) {
        let (x, dx) = (wave([2, 8, 16, 3], 0.7), wave([2, 8, 16, 3], 1.9));
        let (noise, dnoise) = (wave([2], 0.3), wave([2], 1.1));
        let given = Condition::none();
        let context = |noise: Dual<1>| Context { noise, second: None, given: &given, dropout: None };
        let both = Dual::new(noise.clone(), dnoise.clone());
        let tangent = network(Dual::new(x.clone(), dx.clone()), context(both)).unwrap();
        let at = |t: f64| {
            let (x, noise) = (x.clone() + dx.clone() * t, noise.clone() + dnoise.clone() * t);
            network(x.into(), context(noise.into())).unwrap().value
        };
        let step = 1e-4;
        let quotient =
            (at(step) - at(-step)) * (2.0 / 3.0 / step) - (at(2.0 * step) - at(-2.0 * step)) * (1.0 / 12.0 / step);
        let tangent = tangent.tangent.unwrap();
        assert!(largest(tangent.clone()) > 0.0);
        assert!(largest(tangent - quotient.clone()) < 1e-7 * largest(quotient));
    }

    #[test]
    fn tangents() {
        for encoder in ["skip", "residual"] {
            let network = shaken(
                song(&json!({
                    "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3, "label_dim": 3, "augment_dim": 2,
                    "model_channels": 8, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [8],
                    "encoder_type": encoder, "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]
                }))
                .unwrap(),
            );
            let vector = Some(wave([2, 2], 0.5));
            let given = Condition { class: Some(vec![None, Some(2)]), vector, ..Condition::none() };
            follows(|x, context| network.images(x, &Context { given: &given, ..context }));
        }
        let network = shaken(
            dhariwal(&json!({
                "model_type": "DhariwalUNet", "img_resolution": 16, "img_channels": 3, "label_dim": 3,
                "model_channels": 16, "channel_mult": [1, 4], "num_blocks": 1, "attn_resolutions": [8]
            }))
            .unwrap(),
        );
        follows(|x, context| network.images(x, &context));
    }

    #[test]
    fn refusals() {
        let fault = |extra: &str, value: Value| {
            let mut json = json!({ "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3 });
            json[extra] = value;
            song(&json).unwrap_err().to_string()
        };
        assert!(fault("encoder_type", json!("deep")).contains("known are standard, skip, residual"));
        assert!(fault("depth", json!(1)).contains("unknown entries: depth"));
        assert!(fault("model_type", json!("DhariwalUNet")).contains("not of a SongUNet"));
        assert!(fault("class_name", json!("training.networks.iDDPMPrecond")).contains("known are EDMPrecond"));
        assert!(fault("beta_d", json!(19.9)).contains("unknown entries: beta_d"));
        // Of training alone, and of a wrapper that is named.
        for extra in
            [json!({ "label_dropout": 0.1 }), json!({ "class_name": "training.networks.VPPrecond", "beta_d": 19.9 })]
        {
            let mut json = json!({
                "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3, "model_channels": 8, "channel_mult": [1]
            });
            json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            song(&json).map(|_| ()).unwrap();
        }
        assert!(fault("resample_filter", json!([1, 2, 1])).contains("network.filter"));
        assert!(fault("img_resolution", json!(12)).contains("network.height"));
        assert!(classes(wave([2, 3], 0.7)).is_err());
    }
}
