//! The conventions published networks were trained under, of any source: what it takes to sample them.

use serde_json::Value as Json;
use stein::{
    AnySampler, AnySchedule, Consistency, Ddim, Discrete, Edm, Error, Grid, Heun, InputScale, Langevin, Levels,
    NoiseInput, OdeEuler, Precondition, Prediction, Result, Spacing, SubVp, Ve, Vp, ensure,
};

use super::{
    Kind, Source, Weights, consistency, diffusers, diffusers_adm,
    diffusers_scheduler::{self, Trained},
    edm::{self, Wrapper},
    guided_diffusion, ncsn, ncsn_v2,
    published::{is_ddpm, is_dhariwal},
    score_sde,
    values::{flag, number, size, text},
};
use crate::NetworkConfig;

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
    /// What it is made with what surrounds it.
    pub role: Role,
    /// Whether it works on pictures from −1 to 1, not 0 to 1.
    pub symmetric: bool,
    /// Whether estimates of the picture are kept in that range unless told otherwise.
    pub clamp: bool,
    /// The levels it is sampled on unless told otherwise.
    pub grid: Grid,
}

/// What a network is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// A denoiser.
    Denoiser {
        /// What surrounds the network.
        precondition: Precondition,
        /// How it is sampled unless told otherwise.
        sampler: AnySampler,
    },
    /// A consistency function.
    FlowMap(Consistency),
}

impl Role {
    /// What the output stands for, in a word.
    pub fn prediction(&self) -> &'static str {
        match self {
            Self::Denoiser { precondition, .. } => precondition.prediction.kind(),
            Self::FlowMap(_) => "end of the trajectory",
        }
    }
}

impl Setting {
    /// Var\[data\] of the prior in network units: pictures have a standard deviation of about a quarter of their range.
    pub fn variance(&self) -> f64 {
        if self.symmetric { 0.25 } else { 0.0625 }
    }
}

/// What it takes to sample the network of a source.
pub(super) fn setting_of(source: &Source, weights: Weights) -> Result<Setting> {
    let config = &source.config;
    let alone = |what: &str| Err(Error::new(format!("{what} cannot be sampled by itself")));
    match source.kind {
        Kind::Ncsn => ncsn_setting(config),
        Kind::NcsnV2 => ncsn_v2_setting(config, weights),
        Kind::ScoreSde if is_ddpm(config) => ddpm_setting(config),
        Kind::ScoreSde => ncsnpp_setting(config),
        Kind::Edm if config.get("down").is_some() => alone("a pair of blocks"),
        Kind::Edm if is_dhariwal(config) => dhariwal_setting(config),
        Kind::Edm => song_setting(config),
        Kind::GuidedDiffusion if guided_diffusion::is_encoder(config, weights) => alone("a classifier"),
        Kind::GuidedDiffusion => adm_setting(config),
        Kind::Consistency => consistency_setting(config),
        Kind::Diffusers if source.latent => alone("a network of the latents of an autoencoder"),
        Kind::Diffusers => match text(config, "_class_name").unwrap_or_default() {
            "UNet2DModel" => unet_2d_setting(config, source.scheduler.as_ref()),
            "UNet2DConditionModel" | "DiTTransformer2DModel" | "Transformer2DModel" => {
                alone("a network of the latents of an autoencoder")
            }
            _ => alone("an autoencoder"),
        },
    }
}

fn setting(
    network: NetworkConfig,
    shape: [usize; 3],
    classes: usize,
    schedule: impl Into<AnySchedule>,
    (prediction, noise_input): (Prediction, NoiseInput),
    symmetric: bool,
) -> Setting {
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
    let role = Role::Denoiser { precondition, sampler };
    Setting { network, shape, classes, schedule, role, symmetric, clamp: symmetric, grid }
}

/// NCSN's own sampling: annealed Langevin dynamics over all levels, `steps` and `epsilon` as published unless the config says.
fn annealed(setting: Setting, json: &Json, steps: f64, epsilon: f64, levels: usize) -> Result<Setting> {
    let steps = number(json, "sampling.n_steps_each", steps)? as usize;
    let epsilon = Some(number(json, "sampling.step_lr", epsilon)?);
    let denoise = flag(json, "sampling.denoise", Langevin::default().denoise);
    let langevin = AnySampler::from(Langevin { epsilon, steps, denoise, ..Langevin::default() });
    let grid = Grid { spacing: Spacing::Uniform {}, steps: levels, ..Grid::default() };
    ensure!(
        !flag(json, "data.logit_transform", false),
        "the network works on logits of pictures (data.logit_transform), which are not sampled here"
    );
    let Role::Denoiser { precondition, .. } = setting.role else { return Ok(setting) };
    Ok(Setting { role: Role::Denoiser { precondition, sampler: langevin }, grid, ..setting })
}

/// NCSN's levels, σ from the cleanest to the noisiest.
fn geometric(first: f64, last: f64, count: usize) -> Result<AnySchedule> {
    Ok(Discrete::new(Levels::Geometric { first, last, count })?.into())
}

/// Levels counted from the noisiest, as NCSN does.
const FROM_NOISIEST: NoiseInput = NoiseInput::Level { noisiest_first: true, factor: 1.0 };
/// Levels counted from the cleanest, as DDPM does.
const FROM_CLEANEST: NoiseInput = NoiseInput::Level { noisiest_first: false, factor: 1.0 };

fn ncsn_setting(json: &Json) -> Result<Setting> {
    let config = ncsn::config(json)?;
    let (first, last) = (number(json, "model.sigma_end", 0.01)?, number(json, "model.sigma_begin", 1.0)?);
    let schedule = geometric(first, last, config.levels)?;
    let side = size(json, "data.image_size")?;
    let shape = [side, side, config.inputs];
    let levels = config.levels;
    let symmetric = flag(json, "data.rescaled", false);
    let setting =
        setting(NetworkConfig::Ncsn(config), shape, 0, schedule, (Prediction::Score {}, FROM_NOISIEST), symmetric);
    annealed(setting, json, 100.0, 2e-5, levels)
}

fn ncsn_v2_setting(json: &Json, weights: Weights) -> Result<Setting> {
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

/// Fails unless a network makes a picture of a noisy one, or a picture and the variance of a step.
fn check_channels(inputs: usize, outputs: usize) -> Result<()> {
    ensure!(
        [inputs, 2 * inputs].contains(&outputs),
        "the network makes {outputs} channels of {inputs}, so what it takes is no noisy picture alone, and it is not sampled here"
    );
    Ok(())
}

/// What is wrong with a config that does not say at what size its network works.
fn without_size() -> Error {
    Error::new("the config lacks image_size, the side of the images to sample")
}

/// The stochastic differential equation a network of score_sde was trained on.
fn equation(json: &Json) -> Result<(AnySchedule, Prediction, NoiseInput)> {
    let continuous = flag(json, "training.continuous", true);
    let word = |section: &str, key: &str| json.get(section).and_then(|part| text(part, key)).map(str::to_lowercase);
    let fourier = word("model", "embedding_type").as_deref() == Some("fourier");
    let named = word("training", "sde");
    let count = number(json, "model.num_scales", 1000.0)? as usize;
    let (first, last) = (number(json, "model.beta_min", 0.1)?, number(json, "model.beta_max", 20.0)?);
    let time = NoiseInput::Time { factor: 999.0 };
    Ok(match named.as_deref().unwrap_or(if fourier { "vesde" } else { "vpsde" }) {
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

fn ddpm_setting(json: &Json) -> Result<Setting> {
    let config = score_sde::ddpm_config(json)?;
    let (schedule, prediction, noise) = equation(json)?;
    let (shape, symmetric) = ([config.size, config.size, config.image_channels], config.centered);
    Ok(setting(NetworkConfig::Ddpm(config), shape, 0, schedule, (prediction, noise), symmetric))
}

fn ncsnpp_setting(json: &Json) -> Result<Setting> {
    let config = score_sde::ncsnpp_config(json)?;
    let (schedule, prediction, noise) = equation(json)?;
    let (shape, symmetric) = ([config.size, config.size, config.image_channels], config.centered);
    Ok(setting(NetworkConfig::Ncsnpp(config), shape, 0, schedule, (prediction, noise), symmetric))
}

fn of_edm(network: NetworkConfig, shape: [usize; 3], classes: usize, json: &Json) -> Result<Setting> {
    let heun = || AnySampler::from(Heun::default());
    let (schedule, role): (AnySchedule, _) = match edm::wrapper(json)? {
        Wrapper::Edm => {
            let precondition = Precondition::edm(number(json, "sigma_data", 0.5)?);
            (Edm::default().into(), Role::Denoiser { precondition, sampler: heun() })
        }
        Wrapper::Vp => {
            let (rise, first) = (number(json, "beta_d", 19.9)?, number(json, "beta_min", 0.1)?);
            let precondition = Precondition {
                prediction: Prediction::Eps {},
                input_scale: InputScale::None {},
                noise_input: NoiseInput::Time { factor: number(json, "M", 1000.0)? - 1.0 },
            };
            let schedule = Vp { beta_min: first, beta_max: first + rise, ..Vp::default() };
            (schedule.into(), Role::Denoiser { precondition, sampler: heun() })
        }
        // The noise of the opposite sign, of ln(σ/2): no prediction here.
        Wrapper::Ve => {
            return Err(Error::new("a VEPrecond is not sampled here"));
        }
    };
    let grid = Grid::karras(18);
    Ok(Setting { network, shape, classes, schedule, role, symmetric: true, clamp: true, grid })
}

fn song_setting(json: &Json) -> Result<Setting> {
    let config = edm::song_config(json)?;
    let (shape, classes) = ([config.height, config.height, config.inputs], config.classes);
    of_edm(NetworkConfig::SongUnet(config), shape, classes, json)
}

fn dhariwal_setting(json: &Json) -> Result<Setting> {
    let config = edm::dhariwal_config(json)?;
    let (shape, classes) = ([config.height, config.height, config.inputs], config.classes);
    of_edm(NetworkConfig::DhariwalUnet(config), shape, classes, json)
}

/// A consistency function of the levels `at` names σ_d, ε, the largest σ and ρ in, sampled in one step.
fn end_points(network: NetworkConfig, shape: [usize; 3], classes: usize, at: &Json) -> Result<Setting> {
    let schedule = Edm { sigma_min: number(at, "sigma_min", 0.002)?, sigma_max: number(at, "sigma_max", 80.0)? };
    let sigma_data = number(at, "sigma_data", 0.5)?;
    let role = Role::FlowMap(Consistency { sigma_data, noise_input: NoiseInput::LogSigma { factor: 250.0 } });
    let spacing = Spacing::Karras { rho: number(at, "rho", 7.0)? };
    let grid = Grid { spacing, steps: 1, clean: false, ..Grid::default() };
    let clamp = flag(at, "clip_denoised", true);
    Ok(Setting { network, shape, classes, schedule: schedule.into(), role, symmetric: true, clamp, grid })
}

fn consistency_setting(json: &Json) -> Result<Setting> {
    let config = consistency::config(json)?;
    let denoiser = json.get("karras_denoiser").unwrap_or(&Json::Null);
    let side = guided_diffusion::process(consistency::unet(json)?)?.image_size.ok_or_else(without_size)?;
    let (shape, classes) = ([side, side, config.inputs], config.classes);
    // Their distillation flag tells a consistency function from EDM's denoiser of the same network, the teacher.
    if flag(denoiser, "distillation", true) {
        end_points(NetworkConfig::Adm(config), shape, classes, denoiser)
    } else {
        let sigma_data = number(denoiser, "sigma_data", 0.5)?;
        let precondition = Precondition {
            prediction: Prediction::Edm { sigma_data },
            input_scale: InputScale::UnitVariance { sigma_data },
            noise_input: NoiseInput::LogSigma { factor: 250.0 },
        };
        let role = Role::Denoiser { precondition, sampler: Heun::default().into() };
        let (network, schedule) = (NetworkConfig::Adm(config), Edm::default().into());
        let grid = Grid::karras(40);
        Ok(Setting { network, shape, classes, schedule, role, symmetric: true, clamp: true, grid })
    }
}

fn adm_setting(json: &Json) -> Result<Setting> {
    let config = guided_diffusion::config(json)?;
    let process = guided_diffusion::process(json)?;
    ensure!(process.large_size.is_none(), "a network that raises the resolution of pictures is not sampled here");
    check_channels(config.inputs, config.outputs)?;
    // improved-diffusion's networks are of any size, and their configs do not say it.
    let side = process.image_size.ok_or_else(without_size)?;
    let (shape, classes) = ([side, side, config.inputs], config.classes);
    let count = process.diffusion_steps;
    let per = 1000.0 / count as f64;
    let schedule = Discrete::new(match process.noise_schedule.as_str() {
        "linear" => Levels::Linear { first: per * 1e-4, last: per * 0.02, count },
        "cosine" => Levels::Cosine { offset: 0.008, max_beta: 0.999, count },
        other => return Err(Error::new(format!("noise_schedule is {other}: known are linear and cosine"))),
    })?;
    let factor = if process.rescale_timesteps { per } else { 1.0 };
    let noise = NoiseInput::Level { noisiest_first: false, factor };
    let prediction = if process.predict_xstart { Prediction::X0 {} } else { Prediction::Eps {} };
    Ok(setting(NetworkConfig::Adm(config), shape, classes, schedule, (prediction, noise), true))
}

fn unet_2d_setting(json: &Json, scheduler: Option<&Json>) -> Result<Setting> {
    let side: Vec<usize> = match json.get("sample_size") {
        Some(Json::Array(sides)) => sides.iter().filter_map(Json::as_u64).map(|side| side as usize).collect(),
        Some(Json::Number(side)) => side.as_u64().map_or_else(Vec::new, |side| vec![side as usize; 2]),
        _ => Vec::new(),
    };
    let &[height, width] = &side[..] else {
        return Err(Error::new(
            "the config's sample_size is neither a side nor height and width: there is no size to sample at",
        ));
    };
    let (network, inputs, outputs, classes) = if diffusers_adm::is_one(json) {
        let config = diffusers_adm::config(json)?;
        (NetworkConfig::Adm(config.clone()), config.inputs, config.outputs, config.classes)
    } else {
        let config = diffusers::unet_2d_config(json)?;
        (NetworkConfig::Unet2d(config.clone()), config.inputs, config.outputs, config.classes)
    };
    check_channels(inputs, outputs)?;
    let shape = [height, width, inputs];
    let fourier = text(json, "time_embedding_type") == Some("fourier");
    let scheduler = scheduler.unwrap_or(&Json::Null);
    match diffusers_scheduler::trained_on(scheduler, fourier)? {
        Trained::EndPoints => end_points(network, shape, classes, scheduler),
        Trained::Denoiser { schedule, precondition, symmetric } => {
            let parts = (precondition.prediction, precondition.noise_input);
            let mut setting = setting(network, shape, classes, schedule, parts, symmetric);
            if let Role::Denoiser { precondition: own, sampler } = &mut setting.role {
                *own = precondition;
                if matches!(setting.schedule, AnySchedule::Rectified(_)) {
                    (*sampler, setting.grid) = (OdeEuler {}.into(), Grid::uniform(50));
                }
            }
            setting.clamp = symmetric && flag(scheduler, "clip_sample", true);
            Ok(setting)
        }
    }
}
