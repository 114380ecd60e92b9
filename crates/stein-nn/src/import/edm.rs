//! Networks of NVlabs/edm (Karras et al., arXiv:2206.00364): the state dicts of `EDMPrecond` around a `SongUNet` or a
//! `DhariwalUNet`, with their constructor's arguments as the config.
//!
//! Theirs: `model.enc.16x16_block0.conv0.weight`, a block named by the nominal size of its images. Queries, keys and
//! values are one convolution whose output channels are ordered (heads, channels of a head, three). Filters of changes
//! of size are buffers that follow from the config.

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use serde_json::Value;
use stein::{
    AnySchedule, Condition, Context, Discrete, Edm, Error, LevelList, NoiseInput, Precondition, Prediction, Result, Ve,
    Vp, ensure,
};

use super::{
    Case, Imported, Key, Names, Output, Reference, Surroundings, Weights,
    config::{Reader, text},
    mismatch, unsupported,
};
use crate::{
    init::Init,
    layers::{BlockForm, Dropout},
    networks::{
        DhariwalUnet, DhariwalUnetConfig, EdmBlock, EdmForm, Heads, Size, SongDecoder, SongEncoder, SongFeatures,
        SongUnet, SongUnetConfig,
    },
    ops::Dual,
    trace::Trace,
};

/// What surrounds a network there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapper {
    /// `EDMPrecond`.
    Edm,
    /// `VPPrecond`.
    Vp,
    /// `VEPrecond`.
    Ve,
    /// `iDDPMPrecond`.
    Iddpm,
}

/// The wrappers by name, the usual first.
const WRAPPERS: [(&str, Wrapper); 4] = [
    ("EDMPrecond", Wrapper::Edm),
    ("VPPrecond", Wrapper::Vp),
    ("VEPrecond", Wrapper::Ve),
    ("iDDPMPrecond", Wrapper::Iddpm),
];

/// What `class_name` of the config says surrounds the network: `EDMPrecond` where it says nothing.
///
/// # Errors
/// When it is none of [`Wrapper`].
pub(super) fn wrapper(json: &Value) -> Result<Wrapper> {
    let name = text(json, "class_name").unwrap_or(WRAPPERS[0].0);
    let found = WRAPPERS.iter().find(|(known, _)| name.rsplit('.').next() == Some(*known));
    found.map(|(_, wrapper)| *wrapper).ok_or_else(|| {
        unsupported(format!("class_name is {name}: known are {}", WRAPPERS.map(|(known, _)| known).join(", ")))
    })
}

/// The network within: where nothing is said, that of its wrapper.
///
/// # Errors
/// As [`wrapper`].
pub(super) fn model_type(json: &Value) -> Result<&str> {
    let usual = match wrapper(json)? {
        Wrapper::Edm | Wrapper::Iddpm => "DhariwalUNet",
        Wrapper::Vp | Wrapper::Ve => "SongUNet",
    };
    Ok(text(json, "model_type").unwrap_or(usual))
}

/// The noise a network within a wrapper was trained on, and how it is fed: what samples it, and what is compared with stored
/// outputs of the wrapper.
pub(super) fn surroundings(wrapper: Wrapper, json: &Value) -> Result<(AnySchedule, Precondition)> {
    let mut read = Reader::new(WRAPPERS[wrapper as usize].0, json)?;
    Ok(match wrapper {
        Wrapper::Edm => {
            // Its sampler stays within what the network supports.
            let published = Edm::default();
            let schedule = Edm {
                sigma_min: read.read("sigma_min", 0.0f64)?.max(published.sigma_min),
                sigma_max: read.read("sigma_max", f64::INFINITY)?.min(published.sigma_max),
            };
            (schedule.into(), Precondition::edm(read.read("sigma_data", 0.5)?))
        }
        Wrapper::Vp => {
            let (rise, first) = (read.read("beta_d", 19.9)?, read.read("beta_min", 0.1)?);
            let noise = NoiseInput::Time { factor: read.read("M", 1000.0)? - 1.0 };
            // It is trained down to t = epsilon_t; its sampler stops at 0.001.
            let schedule = Vp { beta_min: first, beta_max: first + rise, t_min: 1e-3 };
            (schedule.into(), Precondition::unscaled(Prediction::Eps {}, noise))
        }
        Wrapper::Ve => {
            let schedule = Ve { sigma_min: read.read("sigma_min", 0.02)?, sigma_max: read.read("sigma_max", 100.0)? };
            let half = NoiseInput::LogSigma { factor: 1.0, unit: 2.0 };
            (schedule.into(), Precondition::unscaled(Prediction::SigmaScore {}, half))
        }
        Wrapper::Iddpm => {
            // Its list u of σ/α, from the noisiest, is that of these betas: levels are counted from the cleanest.
            let levels = LevelList::Cosine {
                offset: read.read("C_2", 0.008)?,
                max_beta: 1.0 - read.read("C_1", 0.001)?,
                count: read.read("M", 1000)?,
            };
            let level = NoiseInput::Level { noisiest_first: false, factor: 1.0 };
            (Discrete::new(levels)?.into(), Precondition::unscaled(Prediction::Eps {}, level))
        }
    })
}

/// A reader of the arguments of a network, without what its wrapper takes for itself.
fn arguments<'a>(json: &'a Value, model: &'a str) -> Result<Reader<'a>> {
    let mut read = Reader::new(model, json)?;
    let kind = model_type(json)?;
    ensure!(Kind::Mismatch, kind == model, "the config is of a {kind}, not of a {model}");
    read.skip(match wrapper(json)? {
        Wrapper::Edm => &["sigma_data"],
        Wrapper::Vp => &["beta_d", "beta_min", "M", "epsilon_t"],
        Wrapper::Ve => &[],
        Wrapper::Iddpm => &["C_1", "C_2", "M"],
    });
    // Labels are dropped in training alone.
    read.skip(&["class_name", "model_type", "sigma_min", "sigma_max", "use_fp16", "label_dropout"]);
    Ok(read)
}

/// The config of a network: the arguments both have, those named, and for what is missing the reference's defaults, which are
/// ours too.
macro_rules! config {
    ($json:ident, $read:ident, $Config:ident { $($field:ident: $value:expr,)* }) => {{
        let (inputs, default): (usize, _) = ($read.required("img_channels")?, $Config::default());
        $Config {
            height: $read.required("img_resolution")?,
            inputs,
            // Beside the noise it learned variances, which nothing there uses.
            outputs: if wrapper($json)? == Wrapper::Iddpm { 2 * inputs } else { inputs },
            classes: $read.read("label_dim", default.classes)?,
            augment: $read.read("augment_dim", default.augment)?,
            channels: $read.read("model_channels", default.channels)?,
            multipliers: $read.read("channel_mult", default.multipliers)?,
            embedding_multiplier: $read.read("channel_mult_emb", default.embedding_multiplier)?,
            blocks: $read.read("num_blocks", default.blocks)?,
            attention: $read.read("attn_resolutions", default.attention)?,
            dropout: $read.read("dropout", default.dropout)?,
            $($field: $value,)*
        }
    }};
}

/// Reads the arguments of `EDMPrecond` around a `SongUNet`; arguments that are missing have the reference's defaults.
///
/// # Errors
/// When an argument is unknown, of another type, or of an unsupported value.
pub fn song_config(json: &Value) -> Result<SongUnetConfig> {
    let features = [("positional", SongFeatures::Positional), ("fourier", SongFeatures::Fourier)];
    let encoders =
        [("standard", SongEncoder::Standard), ("skip", SongEncoder::Skip), ("residual", SongEncoder::Residual)];
    let decoders = [("standard", SongDecoder::Standard), ("skip", SongDecoder::Skip)];
    let mut read = arguments(json, "SongUNet")?;
    let usual = SongUnetConfig::default();
    let config = config!(
        json,
        read,
        SongUnetConfig {
            feature_multiplier: read.read("channel_mult_noise", usual.feature_multiplier)?,
            features: read.word("embedding_type", &features)?,
            encoder: read.word("encoder_type", &encoders)?,
            decoder: read.word("decoder_type", &decoders)?,
            filter: read.read("resample_filter", usual.filter)?,
        }
    );
    read.finish()?;
    Ok(config)
}

/// Reads the arguments of `EDMPrecond` around a `DhariwalUNet`; arguments that are missing have the reference's
/// defaults.
///
/// # Errors
/// When an argument is unknown, of another type, or of an unsupported value.
pub fn dhariwal_config(json: &Value) -> Result<DhariwalUnetConfig> {
    let mut read = arguments(json, "DhariwalUNet")?;
    let config = config!(json, read, DhariwalUnetConfig {});
    read.finish()?;
    Ok(config)
}

/// Our layers and blocks beside their modules.
#[derive(Default)]
struct Modules(Vec<(String, String)>);

/// Our projections of attention that are one layer of theirs, in the order of their channels.
const FUSED: [&str; 3] = ["queries", "keys", "values"];

impl Modules {
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
        names.add("trunk.input", format!("{}_conv", level_name("enc", height, 0)));
        names.block("trunk.middle.0", &format!("{}_in0", level_name("dec", height, levels - 1)));
        names.block("trunk.middle.1", &format!("{}_in1", level_name("dec", height, levels - 1)));
        for level in 0..levels {
            let (ours, theirs) = (format!("trunk.down.{level}"), level_name("enc", height, level));
            names.block(&format!("{ours}.change"), &format!("{theirs}_down"));
            for block in 0..blocks {
                names.block(&format!("{ours}.blocks.{block}"), &format!("{theirs}_block{block}"));
            }
            let (ours, theirs) = (format!("trunk.up.{}", levels - 1 - level), level_name("dec", height, level));
            names.block(&format!("{ours}.change"), &format!("{theirs}_up"));
            for block in 0..=blocks {
                names.block(&format!("{ours}.blocks.{block}"), &format!("{theirs}_block{block}"));
            }
        }
        names
    }
}

impl Names for Modules {
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

    fn ignores(&self, theirs: &str) -> bool {
        theirs == "u" || theirs.ends_with(".resample_filter")
    }

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
fn level_name(side: &str, height: usize, level: usize) -> String {
    let height = height >> level;
    format!("model.{side}.{height}x{height}")
}

/// Three times `[N, positions, C]` as `[N, 3C, positions]`, of channel after channel each of the three.
fn interleaved(parts: [&TensorData; 3]) -> Option<TensorData> {
    let &[samples, positions, channels] = &parts[0].shape()[..] else { return None };
    let parts = parts.map(|part| part.iter::<f64>().collect::<Vec<_>>());
    let mut all = Vec::with_capacity(3 * samples * positions * channels);
    for sample in 0..samples {
        for channel in 0..channels {
            for part in &parts {
                all.extend((0..positions).map(|i| part[(sample * positions + i) * channels + channel]));
            }
        }
    }
    Some(TensorData::new(all, [samples, 3 * channels, positions]))
}

/// A `SongUNet` with its weights. Stored cases are the network itself (`out` of `x`, `noise_labels`, `class_labels`,
/// `augment_labels`) or, in a case named after one, what a wrapper makes of it (`D_x` of `x`, `sigma`, `class_labels`).
///
/// # Errors
/// When the config or the weights are not of such a network.
pub fn open_song(json: &Value, weights: Weights) -> Result<Imported<SongUnet>> {
    let config = song_config(json)?;
    check_levels(json, weights)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    let levels = config.multipliers.len();
    let mut modules = Modules::trunk(config.height, levels, config.blocks);
    let entry = if config.encoder == SongEncoder::Skip { "skip" } else { "residual" };
    for level in 0..levels {
        let theirs = level_name("dec", config.height, level);
        for part in ["norm", "conv", "up"] {
            modules.add(format!("exits.{level}.{part}"), format!("{theirs}_aux_{part}"));
        }
        let theirs = level_name("enc", config.height, level + 1);
        modules.add(format!("entries.{level}"), format!("{theirs}_aux_{entry}"));
        modules.add(format!("entries.{level}.down"), format!("{theirs}_aux_down"));
    }
    let json = json.clone();
    Imported::new(network, modules, weights, move |network: &SongUnet, case| {
        evaluate(case, &json, |x, context| network.images(x, context))
    })
}

/// A `DhariwalUNet` with its weights; the rest as [`open_song`].
///
/// # Errors
/// When the config or the weights are not of such a network.
pub fn open_dhariwal(json: &Value, weights: Weights) -> Result<Imported<DhariwalUnet>> {
    let config = dhariwal_config(json)?;
    check_levels(json, weights)?;
    let network = config.build(&mut Init::blank(&Device::flex().autodiff()))?;
    let mut modules = Modules::trunk(config.height, config.multipliers.len(), config.blocks);
    modules.add("output_norm", "model.out_norm");
    modules.add("output", "model.out_conv");
    let json = json.clone();
    Imported::new(network, modules, weights, move |network: &DhariwalUnet, case| {
        evaluate(case, &json, |x, context| network.images(x, context))
    })
}

/// Fails if the levels of an `iDDPMPrecond`, which it keeps beside its weights, are others than those of its config.
fn check_levels(json: &Value, weights: Weights) -> Result<()> {
    let Weights::Theirs(theirs) = weights else { return Ok(()) };
    let (Wrapper::Iddpm, Some(u)) = (wrapper(json)?, theirs.get("u")) else { return Ok(()) };
    let (schedule, _) = surroundings(Wrapper::Iddpm, json)?;
    let (count, noise) =
        (schedule.levels().unwrap_or(0), |level: usize| schedule.kernel(level as f64).noise_to_signal());
    // From the noisiest, and then the clean end.
    let same = |(place, u): (usize, f64)| place == count || (noise(count - 1 - place) - u).abs() <= 1e-2 * u;
    ensure!(
        Kind::Mismatch,
        u.num_elements() == count + 1 && u.iter::<f64>().enumerate().all(same),
        "the weights have other noise levels than the config: check C_1, C_2 and M"
    );
    Ok(())
}

fn evaluate(
    case: &Case,
    json: &Value,
    network: impl Fn(Dual<4>, &Context) -> Result<Dual<4>> + Send + Sync,
) -> Result<Vec<Output>> {
    let given = given(case)?;
    let wrapper = match case.name.as_str() {
        "edm" | "edm_nolabel" => Wrapper::Edm,
        "vp" => Wrapper::Vp,
        "ve" => Wrapper::Ve,
        "iddpm" => Wrapper::Iddpm,
        _ => return case.out("noise_labels", &given, network),
    };
    let (schedule, precondition) = surroundings(wrapper, json)?;
    let around = Surroundings::Denoiser(schedule, precondition);
    let (_, denoised) = case.denoised(&given, network, &around)?;
    Ok(vec![Output::images("D_x", denoised)])
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
        class.ok_or_else(|| mismatch("the stored class_labels are not one-hot rows, which this network takes alone"))
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
    let mut modules = Modules::default();
    modules.block("down", "down");
    modules.block("up", "up");
    let imported = Imported::new(network, modules, weights, |network: &Blocks, case| {
        let (x, embedded, dropout) = (case.images("x")?, case.rows("emb")?, Dropout::none());
        let h = network.down.forward(|| "down".to_owned(), vec![x], &embedded, &dropout);
        let y = network.up.forward(|| "up".to_owned(), vec![h], &embedded, &dropout);
        Ok(vec![Output::images("out", y)])
    })?;
    Ok(Box::new(imported))
}

fn open_block(json: &Value, init: &mut Init) -> Result<EdmBlock> {
    let mut read = Reader::new("UNetBlock", json)?;
    let size = match (read.read("up", false)?, read.read("down", false)?) {
        (false, false) => Size::Keep,
        (false, true) => Size::Halve,
        (true, false) => Size::Double,
        (true, true) => return Err(unsupported("a UNetBlock that halves and doubles is not supported")),
    };
    let per_head = read.read("channels_per_head", 64)?;
    let form = EdmForm {
        block: BlockForm {
            embedding: Some(read.required("emb_channels")?),
            modulate: read.read("adaptive_scale", true)?,
            rescale: 1.0 / read.read("skip_scale", 1.0)?,
            skip: read.read("resample_proj", false)?,
            ..BlockForm::default()
        },
        epsilon: read.read("eps", 1e-5)?,
        heads: read.read("num_heads", None)?.map_or(Heads::Channels(per_head), Heads::Count),
        filter: read.read("resample_filter", vec![1.0, 1.0])?,
    };
    let channels = [read.required("in_channels")?, read.required("out_channels")?];
    let attends = read.read("attention", false)?;
    // Of training alone.
    read.skip(&["dropout"]);
    read.finish()?;
    EdmBlock::new(channels, size, attends, &form, init)
}
