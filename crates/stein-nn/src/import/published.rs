//! A published network of any source, with the conventions it was trained under: what it takes to sample it.

use serde_json::Value as Json;
use stein::{
    AnySampler, AnySchedule, Ddim, Discrete, Edm, Error, Grid, Heun, InputScale, Langevin, Levels, NoiseInput,
    Precondition, Prediction, Result, Spacing, SubVp, Ve, Vp,
};

use super::{
    Kind, Reference, Source, Weights, consistency, diffusers, diffusers_dit, edm, guided_diffusion, ncsn, ncsn_v2,
    score_sde,
};
use crate::{NetworkConfig, state::Tensors};

/// How a network is fed and what its output stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The network.
    pub network: NetworkConfig,
    /// Height, width and channels it was trained at.
    pub shape: [usize; 3],
    /// Classes it is told of, 0 for none.
    pub classes: usize,
    /// The noise it was trained on.
    pub schedule: AnySchedule,
    /// What surrounds it.
    pub precondition: Precondition,
    /// Whether it works on pictures from −1 to 1, not 0 to 1.
    pub symmetric: bool,
    /// How it is sampled unless told otherwise.
    pub sampler: AnySampler,
    /// The grid of that sampler.
    pub grid: Grid,
}

impl Setting {
    /// Var\[data\] of the prior in network units: pictures have a standard deviation of about a quarter of their range.
    pub fn variance(&self) -> f64 {
        if self.symmetric { 0.25 } else { 0.0625 }
    }
}

/// A network with published weights.
pub struct Published {
    kind: Kind,
    name: &'static str,
    reference: Box<dyn Reference>,
    setting: Option<Setting>,
}

impl Published {
    /// The network of a source.
    ///
    /// # Errors
    /// When its config is not one of a network known here, or the weights do not fit it.
    pub fn open(source: &Source) -> Result<Self> {
        Self::build(source.kind, &source.config, source.scheduler.as_ref(), Weights::Theirs(&source.weights))
            .map_err(|error| error.at(&source.origin))
    }

    /// Whose network it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The network's name in the field.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it can be compared and exported by.
    pub fn reference(&self) -> &dyn Reference {
        &*self.reference
    }

    /// What it takes to sample it; none for an autoencoder, a classifier, a network in a latent space, or one whose output is an
    /// end point and no denoised image.
    pub fn setting(&self) -> Option<&Setting> {
        self.setting.as_ref()
    }

    fn build(kind: Kind, config: &Json, scheduler: Option<&Json>, weights: Weights) -> Result<Self> {
        check_sizes(config)?;
        let (name, reference, setting): (_, Box<dyn Reference>, _) = match kind {
            Kind::Ncsn => ("NCSN", Box::new(ncsn::open(config, weights)?), ncsn_setting(config)?),
            Kind::NcsnV2 => ("NCSNv2", Box::new(ncsn_v2::open(config, weights)?), ncsn_v2_setting(config, weights)?),
            Kind::ScoreSde if is_ddpm(config) => {
                ("DDPM", Box::new(score_sde::open_ddpm(config, weights)?), ddpm_setting(config)?)
            }
            Kind::ScoreSde => ("NCSN++", Box::new(score_sde::open_ncsnpp(config, weights)?), ncsnpp_setting(config)?),
            Kind::Edm if text(config, "model_type") == Some("DhariwalUNet") => {
                ("ADM (EDM)", Box::new(edm::open_dhariwal(config, weights)?), dhariwal_setting(config)?)
            }
            Kind::Edm if config.get("down").is_some() => ("blocks of EDM", edm::open_blocks(config, weights)?, None),
            Kind::Edm => ("DDPM++ or NCSN++ (EDM)", Box::new(edm::open_song(config, weights)?), song_setting(config)?),
            Kind::GuidedDiffusion if config.get("pool").is_some() => {
                ("ADM classifier", Box::new(guided_diffusion::open_encoder(config, weights)?), None)
            }
            Kind::GuidedDiffusion => ("ADM", Box::new(guided_diffusion::open(config, weights)?), adm_setting(config)?),
            Kind::Consistency => ("consistency U-Net", Box::new(consistency::open(config, weights)?), None),
            Kind::Diffusers => match text(config, "_class_name").unwrap_or_default() {
                "UNet2DModel" => {
                    let setting = unet_2d_setting(config, scheduler)?;
                    ("UNet2DModel", Box::new(diffusers::unet_2d(config, weights)?), setting)
                }
                "UNet2DConditionModel" => {
                    ("UNet2DConditionModel", Box::new(diffusers::unet_2d_condition(config, weights)?), None)
                }
                "AutoencoderKL" => ("AutoencoderKL", Box::new(diffusers::autoencoder_kl(config, weights)?), None),
                "VQModel" => ("VQModel", Box::new(diffusers::vq_model(config, weights)?), None),
                "DiTTransformer2DModel" | "Transformer2DModel" => {
                    ("DiT", Box::new(diffusers_dit::open(config, weights)?), None)
                }
                other => {
                    return Err(Error::new(format!(
                        "config.json names the model {other:?}; known are UNet2DModel, UNet2DConditionModel, AutoencoderKL, \
                         VQModel and DiTTransformer2DModel"
                    )));
                }
            },
        };
        Ok(Self { kind, name, reference, setting })
    }
}

/// Weights of ours, by our names within an [`AnyNetwork`](crate::AnyNetwork), under the names and in the layouts of a source.
///
/// # Errors
/// When the config is not one of a network known here, or the weights do not fit it.
pub fn theirs(kind: Kind, config: &Json, ours: &Tensors) -> Result<Tensors> {
    let inner = |name: &String| name.strip_prefix(INNER).unwrap_or(name).to_owned();
    let ours: Tensors = ours.iter().map(|(name, data)| (inner(name), data.clone())).collect();
    Ok(Published::build(kind, config, None, Weights::Ours(&ours))?.reference.exported())
}

/// What the names of an image network's weights start with within an [`AnyNetwork`](crate::AnyNetwork).
const INNER: &str = "network.";

impl Published {
    /// The weights by our names within an [`AnyNetwork`](crate::AnyNetwork).
    pub fn weights(&self) -> Tensors {
        self.reference.weights().into_iter().map(|(name, data)| (format!("{INNER}{name}"), data)).collect()
    }
}

/// What sizes of networks are called in the configs read here.
const SIZES: &[&str] = &[
    "attention_head_dim",
    "block_out_channels",
    "ch_mult",
    "channel_mult",
    "channel_mult_emb",
    "channel_mult_noise",
    "channels",
    "cross_attention_dim",
    "img_channels",
    "img_resolution",
    "image_size",
    "in_channels",
    "label_dim",
    "latent_channels",
    "layers_per_block",
    "model_channels",
    "nf",
    "ngf",
    "num_attention_heads",
    "num_blocks",
    "num_channels",
    "num_class_embeds",
    "num_classes",
    "num_embeds_ada_norm",
    "num_heads",
    "num_layers",
    "num_res_blocks",
    "num_scales",
    "num_vq_embeddings",
    "out_channels",
    "patch_size",
    "sample_size",
    "transformer_layers_per_block",
    "vq_embed_dim",
];
/// Sizes that count layers.
const COUNTS: &[&str] =
    &["layers_per_block", "num_blocks", "num_layers", "num_res_blocks", "transformer_layers_per_block"];

/// Fails if a config, whose maker is anyone, asks for more than any network has: before there are layers made of it.
fn check_sizes(json: &Json) -> Result<()> {
    let Json::Object(entries) = json else { return Ok(()) };
    for (key, value) in entries {
        check_sizes(value)?;
        if !SIZES.contains(&&key[..]) {
            continue;
        }
        let most = if COUNTS.contains(&&key[..]) { 256.0 } else { 65_536.0 };
        let one = std::slice::from_ref(value);
        let (values, long) = value.as_array().map_or((one, false), |values| (&values[..], values.len() > 32));
        if long || values.iter().filter_map(Json::as_f64).any(|value| !(0.0..=most).contains(&value.abs())) {
            return Err(Error::new(format!("the config's {key} is {value}: no network is that large")));
        }
    }
    Ok(())
}

fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

/// A number of a config, given as `section.key` or `key`; `or` where it is left out.
fn number(json: &Json, path: &str, or: f64) -> Result<f64> {
    let value = path.split('.').try_fold(json, |json, key| json.get(key));
    match value {
        None | Some(Json::Null) => Ok(or),
        Some(value) => {
            value.as_f64().ok_or_else(|| Error::new(format!("the config's {path} is {value}: expected a number")))
        }
    }
}

fn size(json: &Json, path: &str) -> Result<usize> {
    let value = number(json, path, 0.0)?;
    if value < 1.0 || value.fract() != 0.0 {
        return Err(Error::new(format!("the config lacks {path}, or it is no whole number above 0")));
    }
    Ok(value as usize)
}

fn flag(json: &Json, path: &str, or: bool) -> bool {
    path.split('.').try_fold(json, |json, key| json.get(key)).and_then(Json::as_bool).unwrap_or(or)
}

fn setting(
    network: NetworkConfig,
    shape: [usize; 3],
    classes: usize,
    schedule: impl Into<AnySchedule>,
    (prediction, noise_input): (Prediction, NoiseInput),
    symmetric: bool,
) -> Option<Setting> {
    let schedule: AnySchedule = schedule.into();
    let precondition = Precondition { prediction, input_scale: InputScale::None {}, noise_input };
    // DDIM for what was trained on steps, Heun elsewhere.
    let (sampler, grid) = match schedule.levels() {
        Some(levels) => {
            let steps = levels.min(50);
            (Ddim::default().into(), Grid { spacing: Spacing::Trailing {}, steps, ..Grid::default() })
        }
        None => (Heun::default().into(), Grid::karras(18)),
    };
    Some(Setting { network, shape, classes, schedule, precondition, symmetric, sampler, grid })
}

/// NCSN's own sampling: annealed Langevin dynamics over all levels, `steps` and `epsilon` as published unless the config says.
fn annealed(setting: Option<Setting>, json: &Json, steps: f64, epsilon: f64, levels: usize) -> Result<Option<Setting>> {
    let steps = number(json, "sampling.n_steps_each", steps)? as usize;
    let epsilon = Some(number(json, "sampling.step_lr", epsilon)?);
    let sampler = AnySampler::from(Langevin { epsilon, steps, ..Langevin::default() });
    let grid = Grid { spacing: Spacing::Uniform {}, steps: levels, ..Grid::default() };
    Ok(setting.map(|setting| Setting { sampler, grid, ..setting }))
}

/// NCSN's levels, σ from the cleanest to the noisiest.
fn geometric(first: f64, last: f64, count: usize) -> Result<AnySchedule> {
    Ok(Discrete::new(Levels::Geometric { first, last, count })?.into())
}

/// Levels counted from the noisiest, as NCSN does.
const FROM_NOISIEST: NoiseInput = NoiseInput::Level { noisiest_first: true };
/// Levels counted from the cleanest, as DDPM does.
const FROM_CLEANEST: NoiseInput = NoiseInput::Level { noisiest_first: false };

fn ncsn_setting(json: &Json) -> Result<Option<Setting>> {
    let config = ncsn::config(json)?;
    let (first, last) = (number(json, "model.sigma_end", 0.01)?, number(json, "model.sigma_begin", 1.0)?);
    let schedule = geometric(first, last, config.levels)?;
    let side = size(json, "data.image_size")?;
    let shape = [side, side, config.inputs];
    let levels = config.levels;
    let setting =
        setting(NetworkConfig::Ncsn(config), shape, 0, schedule, (Prediction::Score {}, FROM_NOISIEST), false);
    annealed(setting, json, 100.0, 2e-5, levels)
}

fn ncsn_v2_setting(json: &Json, weights: Weights) -> Result<Option<Setting>> {
    let config = ncsn_v2::config(json, weights)?;
    let schedule = geometric(config.sigma_last, config.sigma_first, config.levels)?;
    let side = size(json, "data.image_size")?;
    let shape = [side, side, config.inputs];
    let symmetric = flag(json, "data.rescaled", false);
    let levels = config.levels;
    let setting =
        setting(NetworkConfig::NcsnV2(config), shape, 0, schedule, (Prediction::Score {}, FROM_NOISIEST), symmetric);
    annealed(setting, json, 5.0, 6.2e-6, levels)
}

fn is_ddpm(json: &Json) -> bool {
    match json.get("model").and_then(|model| text(model, "name")) {
        Some(name) => name == "ddpm",
        // What only the other network is told.
        None => json.get("model").is_some_and(|model| model.get("embedding_type").is_none()),
    }
}

/// The stochastic differential equation a network of score_sde was trained on.
fn equation(json: &Json) -> Result<(AnySchedule, Prediction, NoiseInput)> {
    let continuous = flag(json, "training.continuous", true);
    let fourier = json.get("model").and_then(|model| text(model, "embedding_type")) == Some("fourier");
    let named = json.get("training").and_then(|training| text(training, "sde"));
    let count = number(json, "model.num_scales", 1000.0)? as usize;
    let (first, last) = (number(json, "model.beta_min", 0.1)?, number(json, "model.beta_max", 20.0)?);
    let time = NoiseInput::Time { factor: 999.0 };
    Ok(match named.unwrap_or(if fourier { "vesde" } else { "vpsde" }) {
        "vesde" => {
            let (low, high) = (number(json, "model.sigma_min", 0.01)?, number(json, "model.sigma_max", 50.0)?);
            if continuous {
                let noise = if fourier { NoiseInput::Sigma {} } else { FROM_NOISIEST };
                (Ve { sigma_min: low, sigma_max: high }.into(), Prediction::Score {}, noise)
            } else {
                (geometric(low, high, count)?, Prediction::Score {}, FROM_NOISIEST)
            }
        }
        "vpsde" if continuous => {
            (Vp { beta_min: first, beta_max: last, ..Vp::default() }.into(), Prediction::Eps {}, time)
        }
        "vpsde" => {
            let (first, last) = (first / count as f64, last / count as f64);
            let schedule = Discrete::new(Levels::Linear { first, last, count })?.into();
            (schedule, Prediction::Eps {}, FROM_CLEANEST)
        }
        "subvpsde" => (SubVp { beta_min: first, beta_max: last, ..SubVp::default() }.into(), Prediction::Eps {}, time),
        other => return Err(Error::new(format!("training.sde is {other}: known are vesde, vpsde and subvpsde"))),
    })
}

fn ddpm_setting(json: &Json) -> Result<Option<Setting>> {
    let config = score_sde::ddpm_config(json)?;
    let (schedule, prediction, noise) = equation(json)?;
    let (shape, symmetric) = ([config.size, config.size, config.image_channels], config.centered);
    Ok(setting(NetworkConfig::Ddpm(config), shape, 0, schedule, (prediction, noise), symmetric))
}

fn ncsnpp_setting(json: &Json) -> Result<Option<Setting>> {
    let config = score_sde::ncsnpp_config(json)?;
    let (schedule, prediction, noise) = equation(json)?;
    let (shape, symmetric) = ([config.size, config.size, config.image_channels], config.centered);
    Ok(setting(NetworkConfig::Ncsnpp(config), shape, 0, schedule, (prediction, noise), symmetric))
}

fn of_edm(network: NetworkConfig, shape: [usize; 3], classes: usize, json: &Json) -> Result<Option<Setting>> {
    let precondition = Precondition::edm(number(json, "sigma_data", 0.5)?);
    let schedule = Edm::default().into();
    let (sampler, grid) = (Heun::default().into(), Grid::karras(18));
    Ok(Some(Setting { network, shape, classes, schedule, precondition, symmetric: true, sampler, grid }))
}

fn song_setting(json: &Json) -> Result<Option<Setting>> {
    let config = edm::song_config(json)?;
    let (shape, classes) = ([config.height, config.height, config.inputs], config.classes);
    of_edm(NetworkConfig::SongUnet(config), shape, classes, json)
}

fn dhariwal_setting(json: &Json) -> Result<Option<Setting>> {
    let config = edm::dhariwal_config(json)?;
    let (shape, classes) = ([config.height, config.height, config.inputs], config.classes);
    of_edm(NetworkConfig::DhariwalUnet(config), shape, classes, json)
}

fn adm_setting(json: &Json) -> Result<Option<Setting>> {
    let config = guided_diffusion::config(json)?;
    let side = size(json, "image_size")?;
    let (shape, classes) = ([side, side, config.inputs], config.classes);
    let schedule = Discrete::new(match text(json, "noise_schedule") {
        Some("cosine") => Levels::Cosine { offset: 0.008, max_beta: 0.999, count: 1000 },
        _ => Levels::Linear { first: 1e-4, last: 0.02, count: 1000 },
    })?;
    Ok(setting(NetworkConfig::Adm(config), shape, classes, schedule, (Prediction::Eps {}, FROM_CLEANEST), true))
}

fn unet_2d_setting(json: &Json, scheduler: Option<&Json>) -> Result<Option<Setting>> {
    let config = diffusers::unet_2d_config(json)?;
    let side = match json.get("sample_size") {
        Some(Json::Array(sides)) => sides.iter().filter_map(Json::as_u64).map(|side| side as usize).collect(),
        _ => vec![size(json, "sample_size")?; 2],
    };
    let &[height, width] = &side[..] else {
        return Err(Error::new("the config's sample_size is neither a side nor height and width"));
    };
    let (shape, classes) = ([height, width, config.inputs], config.classes);
    let network = NetworkConfig::Unet2d(config);
    let own = Json::Null;
    let told = scheduler.unwrap_or(&own);
    if text(json, "time_embedding_type") == Some("fourier") {
        let (sigma_min, sigma_max) = (number(told, "sigma_min", 0.01)?, number(told, "sigma_max", 1348.0)?);
        let schedule = Ve { sigma_min, sigma_max };
        return Ok(setting(network, shape, classes, schedule, (Prediction::Score {}, NoiseInput::Sigma {}), false));
    }
    let (first, last) = (number(told, "beta_start", 1e-4)?, number(told, "beta_end", 0.02)?);
    let count = number(told, "num_train_timesteps", 1000.0)? as usize;
    let levels = match text(told, "beta_schedule").unwrap_or("linear") {
        "linear" => Levels::Linear { first, last, count },
        "scaled_linear" => Levels::SqrtLinear { first, last, count },
        "squaredcos_cap_v2" => Levels::Cosine { offset: 0.008, max_beta: 0.999, count },
        other => {
            return Err(Error::new(format!(
                "the scheduler's beta_schedule is {other}: known are linear, scaled_linear, squaredcos_cap_v2"
            )));
        }
    };
    let prediction = match text(told, "prediction_type").unwrap_or("epsilon") {
        "epsilon" => Prediction::Eps {},
        "sample" => Prediction::X0 {},
        "v_prediction" => Prediction::V {},
        other => {
            return Err(Error::new(format!(
                "the scheduler's prediction_type is {other}: known are epsilon, sample and v_prediction"
            )));
        }
    };
    Ok(setting(network, shape, classes, Discrete::new(levels)?, (prediction, FROM_CLEANEST), true))
}
