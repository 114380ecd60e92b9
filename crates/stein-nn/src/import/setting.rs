//! The conventions published networks were trained under, of any source: what it takes to sample them.

use serde_json::Value as Json;
use stein::{
    AnySampler, AnySchedule, Ddim, Discrete, Error, Grid, Heun, Langevin, LevelList, MapSettings, NoiseInput, OdeEuler,
    Precondition, Prediction, Result, Spacing, SubVp, Ve, Vp, ensure,
};

use super::{
    Kind, Source, Surroundings, Weights,
    config::{Reader, check_sizes, text},
    consistency, diffusers, diffusers_adm, diffusers_dit, diffusers_sampling,
    diffusers_scheduler::{self, Denoiser, Trained},
    edm, guided_diffusion, ncsn, ncsn_v2, score_sde, unsupported,
};
use crate::{LevelSpacing, NetworkConfig};

/// How a network is fed and what its output stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The network.
    pub network: NetworkConfig,
    /// Height, width and channels it was trained at.
    pub shape: [usize; 3],
    /// Classes it knows, 0 for none.
    pub classes: usize,
    /// The noise it was trained on.
    pub schedule: AnySchedule,
    /// What the network is used as, with its preconditioning.
    pub role: Role,
    /// Whether it works on pictures from −1 to 1, not 0 to 1.
    pub symmetric: bool,
    /// Whether estimates of the picture are kept in that range unless asked otherwise.
    pub clamp: bool,
    /// The levels it is sampled on unless asked otherwise.
    pub grid: Grid,
    /// What its files say that is not taken, or taken otherwise, in sentences.
    pub notes: Vec<String>,
}

/// What a network is used as.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// A denoiser.
    Denoiser {
        /// What surrounds the network.
        precondition: Precondition,
        /// How it is sampled unless asked otherwise.
        sampler: AnySampler,
    },
    /// A consistency function.
    FlowMap(MapSettings),
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
    /// What the config of a source, and the scheduler's beside it, say; of the weights only the names are looked at.
    ///
    /// # Errors
    /// Why the network cannot be sampled: see [`Published::setting`](super::Published::setting).
    pub fn of(source: &Source) -> Result<Self> {
        check_sizes(&source.config)?;
        let setting = setting_of(source, Weights::Theirs(&source.weights))?;
        setting.schedule.check()?;
        match &setting.role {
            Role::Denoiser { precondition, .. } => precondition.check(&setting.schedule)?,
            Role::FlowMap(consistency) => consistency.check(&setting.schedule)?,
        }
        setting.grid.kernels(&*setting.schedule)?;
        Ok(setting)
    }

    /// What the config of a network of latents and the scheduler of its pipeline say.
    ///
    /// # Errors
    /// A network of nothing but a picture and a text or a class, no scheduler, and settings that do not fit each other.
    pub(super) fn of_pipeline(source: &Source) -> Result<Self> {
        let json = &source.config;
        check_sizes(json)?;
        let ([inputs, outputs, classes], network) = match text(json, "_class_name").unwrap_or_default() {
            "UNet2DConditionModel" => {
                let config = diffusers::unet_2d_condition_config(json)?;
                ([config.inputs, config.outputs, config.classes], NetworkConfig::Unet2dCondition(config))
            }
            "DiTTransformer2DModel" | "Transformer2DModel" => {
                let config = diffusers_dit::config(json)?;
                ([config.inputs, config.outputs, config.classes], NetworkConfig::Dit(config))
            }
            other => return Err(unsupported(format!("a network {other} of latents is not sampled here"))),
        };
        check_channels(inputs, outputs)?;
        let [height, width] = sides(json)?;
        let scheduler = source.scheduler.as_ref().ok_or_else(|| {
            Error::new("there is no scheduler_config.json, which says on what noise the network was trained")
        })?;
        Self::of_latents(network, [height, width, inputs], classes, scheduler)
    }

    /// That of a network of latents that was trained on the noise of a scheduler of diffusers.
    ///
    /// # Errors
    /// Noise that is not known here, and settings that do not fit each other.
    pub(super) fn of_latents(
        network: NetworkConfig,
        shape: [usize; 3],
        classes: usize,
        scheduler: &Json,
    ) -> Result<Self> {
        let (sampler, grid, taken) = diffusers_sampling::usual(scheduler);
        let mut said = scheduler.clone();
        if let Some(said) = said.as_object_mut() {
            said.retain(|key, _| !taken.contains(&key.as_str()));
        }
        let trained = diffusers_scheduler::trained_on(&said, false);
        let (trained, mut notes) = trained.map_err(|error| error.at("scheduler_config.json"))?;
        let Trained::Denoiser(Denoiser { schedule, precondition, clamp, .. }) = trained else {
            return Err(unsupported("a consistency function of latents is not sampled here"));
        };
        if clamp {
            notes.push("latents have no range, and are not kept in one (clip_sample)".to_owned());
        }
        precondition.check(&schedule)?;
        grid.kernels(&*schedule)?;
        let role = Role::Denoiser { precondition, sampler };
        Ok(Self { network, shape, classes, schedule, role, symmetric: true, clamp: false, grid, notes })
    }

    /// Var\[data\] of the prior in network units: pictures have a standard deviation of about a quarter of their range.
    pub fn variance(&self) -> f64 {
        if self.symmetric { 0.25 } else { 0.0625 }
    }
}

/// What it takes to sample the network of a source.
fn setting_of(source: &Source, weights: Weights) -> Result<Setting> {
    let config = &source.config;
    let alone = |what: &str| Err(unsupported(format!("{what} cannot be sampled by itself")));
    match source.kind {
        Kind::Ncsn => ncsn_setting(config),
        Kind::NcsnV2 => ncsn_v2_setting(config, weights),
        Kind::ScoreSde if score_sde::is_ddpm(config) => ddpm_setting(config),
        Kind::ScoreSde => ncsnpp_setting(config),
        Kind::Edm if config.get("down").is_some() => alone("a pair of blocks"),
        Kind::Edm if edm::model_type(config)? == "DhariwalUNet" => dhariwal_setting(config),
        Kind::Edm => song_setting(config),
        Kind::GuidedDiffusion if guided_diffusion::is_encoder(config, weights) => alone("a classifier"),
        Kind::GuidedDiffusion => adm_setting(config),
        Kind::Consistency => consistency_setting(config),
        Kind::LatentDiffusion => alone("a network of the latents of an autoencoder"),
        Kind::Glow => {
            Err(unsupported("a normalizing flow is imported and checked, and not sampled from a file of weights"))
        }
        Kind::PixelCnnPp => Err(unsupported("an autoregressive network has no noise levels to be sampled on")),
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

/// A denoiser with a sampler for its schedule: DDIM for what was trained on steps, Heun elsewhere.
fn setting(
    network: NetworkConfig,
    shape: [usize; 3],
    classes: usize,
    schedule: impl Into<AnySchedule>,
    precondition: Precondition,
    symmetric: bool,
) -> Setting {
    let schedule: AnySchedule = schedule.into();
    let (sampler, grid) = match (&schedule, schedule.levels()) {
        (_, Some(levels)) => {
            let steps = levels.min(50);
            (Ddim::default().into(), Grid { spacing: Spacing::Trailing {}, steps, ..Grid::default() })
        }
        (AnySchedule::Rectified(_), None) => (OdeEuler {}.into(), Grid::uniform(50)),
        (_, None) => (Heun::default().into(), Grid::karras(18)),
    };
    let role = Role::Denoiser { precondition, sampler };
    Setting { network, shape, classes, schedule, role, symmetric, clamp: false, grid, notes: Vec::new() }
}

/// NCSN's own sampling: annealed Langevin dynamics over all levels, as published unless the config says.
fn annealed(
    json: &Json,
    network: NetworkConfig,
    channels: usize,
    schedule: AnySchedule,
    published: Langevin,
) -> Result<Setting> {
    let mut read = Reader::new("the config", json)?;
    ensure!(
        Kind::Unsupported,
        !read.read("data.logit_transform", false)?,
        "the network works on logits of pictures (data.logit_transform), which are not sampled here"
    );
    let langevin = Langevin {
        steps: read.read("sampling.n_steps_each", published.steps)?,
        epsilon: read.read("sampling.step_lr", published.epsilon)?,
        denoise: read.read("sampling.denoise", published.denoise)?,
        ..published
    };
    let side = read.required("data.image_size")?;
    ensure!(side > 0, "the config's data.image_size is 0: it is the side of the images");
    let symmetric = read.read("data.rescaled", false)? || read.read("data.centered", false)?;
    let grid = Grid { spacing: Spacing::Uniform {}, steps: schedule.levels().unwrap_or(1), ..Grid::default() };
    let precondition = Precondition::unscaled(Prediction::Score {}, FROM_NOISIEST);
    let setting = setting(network, [side, side, channels], 0, schedule, precondition, symmetric);
    Ok(Setting { role: Role::Denoiser { precondition, sampler: langevin.into() }, grid, ..setting })
}

/// NCSN's levels, σ from the cleanest to the noisiest.
fn geometric(first: f64, last: f64, count: usize) -> Result<AnySchedule> {
    Ok(Discrete::new(LevelList::Geometric { first, last, count })?.into())
}

/// Levels counted from the noisiest, as NCSN does.
const FROM_NOISIEST: NoiseInput = NoiseInput::Level { noisiest_first: true, factor: 1.0 };
/// Levels counted from the cleanest, as DDPM does.
const FROM_CLEANEST: NoiseInput = NoiseInput::Level { noisiest_first: false, factor: 1.0 };

fn ncsn_setting(json: &Json) -> Result<Setting> {
    let config = ncsn::config(json)?;
    let mut read = Reader::new("the config", json)?;
    let (first, last) = (read.read("model.sigma_end", 0.01)?, read.read("model.sigma_begin", 1.0)?);
    let schedule = geometric(first, last, config.levels)?;
    let channels = config.inputs;
    // Its sampler leaves the noise of the last level in.
    let published = Langevin { steps: 100, epsilon: Some(2e-5), denoise: false, ..Langevin::default() };
    annealed(json, NetworkConfig::Ncsn(config), channels, schedule, published)
}

fn ncsn_v2_setting(json: &Json, weights: Weights) -> Result<Setting> {
    let config = ncsn_v2::config(json, weights)?;
    let schedule = match config.spacing {
        LevelSpacing::Geometric => geometric(config.sigma_last, config.sigma_first, config.levels)?,
        LevelSpacing::Uniform => {
            let values = config.sigmas().into_iter().rev().map(f64::from).collect();
            Discrete::new(LevelList::Sigmas { values })?.into()
        }
    };
    let channels = config.inputs;
    let published = Langevin { steps: 5, epsilon: Some(6.2e-6), denoise: true, ..Langevin::default() };
    annealed(json, NetworkConfig::NcsnV2(config), channels, schedule, published)
}

/// Fails unless a network makes a picture of a noisy one, or a picture and the variance of a step.
fn check_channels(inputs: usize, outputs: usize) -> Result<()> {
    ensure!(
        Kind::Unsupported,
        [inputs, 2 * inputs].contains(&outputs),
        "the network takes {inputs} channels and gives {outputs}: one that is not made of a noisy picture alone is not sampled here"
    );
    Ok(())
}

/// What is wrong with a config that does not say at what size its network works.
fn without_size() -> Error {
    Error::new("the config lacks image_size, the side of the images to sample")
}

/// The stochastic differential equation a network of score_sde was trained on.
fn equation(json: &Json) -> Result<(AnySchedule, Precondition)> {
    let mut read = Reader::new("the config", json)?;
    let continuous = read.read("training.continuous", true)?;
    let fourier = read.read("model.embedding_type", String::new())?.eq_ignore_ascii_case("fourier");
    let usual = if fourier { "vesde" } else { "vpsde" };
    let named = read.read("training.sde", usual.to_owned())?.to_lowercase();
    let count: usize = read.read("model.num_scales", 1000)?;
    let (first, last) = (read.read("model.beta_min", 0.1)?, read.read("model.beta_max", 20.0)?);
    let time = NoiseInput::Time { factor: 999.0 };
    let (schedule, prediction, noise): (AnySchedule, _, _) = match named.as_str() {
        "vesde" => {
            let (low, high) = (read.read("model.sigma_min", 0.01)?, read.read("model.sigma_max", 50.0)?);
            if continuous {
                ensure!(
                    Kind::Unsupported,
                    fourier,
                    "a positional embedding of the continuous noise of vesde is not known here: is training.continuous false?"
                );
                (Ve { sigma_min: low, sigma_max: high }.into(), Prediction::Score {}, NoiseInput::Sigma {})
            } else {
                (geometric(low, high, count)?, Prediction::Score {}, FROM_NOISIEST)
            }
        }
        "vpsde" if continuous => {
            (Vp { beta_min: first, beta_max: last, ..Vp::default() }.into(), Prediction::Eps {}, time)
        }
        "vpsde" => {
            let (first, last) = (first / count as f64, last / count as f64);
            (Discrete::new(LevelList::Linear { first, last, count })?.into(), Prediction::Eps {}, FROM_CLEANEST)
        }
        "subvpsde" => (SubVp { beta_min: first, beta_max: last, ..SubVp::default() }.into(), Prediction::Eps {}, time),
        other => return Err(unsupported(format!("training.sde is {other}: known are vesde, vpsde and subvpsde"))),
    };
    Ok((schedule, Precondition::unscaled(prediction, noise)))
}

/// That what a config of score_sde says of sampling is not taken, if it says anything.
fn sampled_otherwise(json: &Json) -> Vec<String> {
    let names =
        json.get("sampling").and_then(Json::as_object).map(|sampling| sampling.keys().cloned().collect::<Vec<_>>());
    let said =
        |names: Vec<String>| format!("of the config's sampling, which is chosen anew, not taken: {}", names.join(", "));
    names.filter(|names| !names.is_empty()).map(said).into_iter().collect()
}

fn ddpm_setting(json: &Json) -> Result<Setting> {
    let config = score_sde::ddpm_config(json)?;
    let (schedule, precondition) = equation(json)?;
    let (shape, symmetric) = ([config.size, config.size, config.image_channels], config.centered);
    let notes = sampled_otherwise(json);
    Ok(Setting { notes, ..setting(NetworkConfig::Ddpm(config), shape, 0, schedule, precondition, symmetric) })
}

fn ncsnpp_setting(json: &Json) -> Result<Setting> {
    let config = score_sde::ncsnpp_config(json)?;
    let (schedule, precondition) = equation(json)?;
    let (shape, symmetric) = ([config.size, config.size, config.image_channels], config.centered);
    let notes = sampled_otherwise(json);
    Ok(Setting { notes, ..setting(NetworkConfig::Ncsnpp(config), shape, 0, schedule, precondition, symmetric) })
}

fn of_edm(network: NetworkConfig, shape: [usize; 3], classes: usize, json: &Json) -> Result<Setting> {
    let (schedule, precondition) = edm::surroundings(edm::wrapper(json)?, json)?;
    Ok(setting(network, shape, classes, schedule, precondition, true))
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

/// A network of consistency models under the settings of their denoiser: a consistency function sampled in one step, or the
/// teacher.
fn of_karras(
    network: NetworkConfig,
    shape: [usize; 3],
    classes: usize,
    settings: &Json,
    consistent: bool,
) -> Result<Setting> {
    let mut read = Reader::new("the config", settings)?;
    let spacing = Spacing::Karras { rho: read.read("rho", 7.0)? };
    let clamp = read.read("clip_denoised", true)?;
    match consistency::surroundings(settings, consistent)? {
        Surroundings::FlowMap(schedule, consistency) => {
            let grid = Grid { spacing, steps: 1, clean: false, ..Grid::default() };
            let role = Role::FlowMap(consistency);
            Ok(Setting { network, shape, classes, schedule, role, symmetric: true, clamp, grid, notes: Vec::new() })
        }
        Surroundings::Denoiser(schedule, precondition) => {
            let grid = Grid { spacing, steps: 40, ..Grid::default() };
            Ok(Setting { grid, clamp, ..setting(network, shape, classes, schedule, precondition, true) })
        }
    }
}

fn consistency_setting(json: &Json) -> Result<Setting> {
    let config = consistency::config(json)?;
    let settings = consistency::denoiser(json);
    let side = guided_diffusion::process(consistency::unet(json)?)?.image_size.ok_or_else(without_size)?;
    let (shape, classes) = ([side, side, config.inputs], config.classes);
    // Their distillation flag separates a consistency function from EDM's denoiser of the same network, the teacher.
    let consistent = Reader::new("karras_denoiser", settings)?.read("distillation", true)?;
    of_karras(NetworkConfig::Adm(config), shape, classes, settings, consistent)
}

fn adm_setting(json: &Json) -> Result<Setting> {
    let config = guided_diffusion::config(json)?;
    let process = guided_diffusion::process(json)?;
    ensure!(
        Kind::Unsupported,
        process.large_size.is_none(),
        "a network that raises the resolution of pictures is not sampled here"
    );
    check_channels(config.inputs, config.outputs)?;
    // improved-diffusion's networks are of any size, and their configs do not say it.
    let side = process.image_size.ok_or_else(without_size)?;
    let (shape, classes) = ([side, side, config.inputs], config.classes);
    let count = process.diffusion_steps;
    let per = 1000.0 / count as f64;
    let schedule = Discrete::new(match process.noise_schedule.as_str() {
        "linear" => LevelList::Linear { first: per * 1e-4, last: per * 0.02, count },
        "cosine" => LevelList::Cosine { offset: 0.008, max_beta: 0.999, count },
        other => return Err(unsupported(format!("noise_schedule is {other}: known are linear and cosine"))),
    })?;
    let factor = match process.rescale_timesteps {
        Some(true) => per,
        Some(false) => 1.0,
        None if count == 1000 => 1.0,
        None => {
            return Err(Error::new(format!(
                "the config lacks rescale_timesteps, which matters for {count} diffusion_steps: it is true in improved-diffusion and \
                 false in guided-diffusion unless said otherwise"
            )));
        }
    };
    let noise = NoiseInput::Level { noisiest_first: false, factor };
    let prediction = if process.predict_xstart { Prediction::X0 {} } else { Prediction::Eps {} };
    let setting =
        setting(NetworkConfig::Adm(config), shape, classes, schedule, Precondition::unscaled(prediction, noise), true);
    let respaced = text(json, "timestep_respacing").filter(|text| !text.is_empty());
    let notes = respaced.map(|steps| format!("how many steps are sampled, timestep_respacing {steps}, is not taken"));
    Ok(Setting { clamp: true, notes: notes.into_iter().collect(), ..setting })
}

/// Height and width at which a network of diffusers was trained.
fn sides(json: &Json) -> Result<[usize; 2]> {
    let sides: Vec<usize> = match json.get("sample_size") {
        Some(Json::Array(sides)) => sides.iter().filter_map(Json::as_u64).map(|side| side as usize).collect(),
        Some(Json::Number(side)) => side.as_u64().map_or_else(Vec::new, |side| vec![side as usize; 2]),
        _ => Vec::new(),
    };
    sides.try_into().map_err(|_| {
        Error::new("the config's sample_size is neither a side nor height and width: there is no size to sample at")
    })
}

fn unet_2d_setting(json: &Json, scheduler: Option<&Json>) -> Result<Setting> {
    let [height, width] = sides(json)?;
    let adm = diffusers_adm::is_one(json);
    let ([inputs, outputs, classes], network) = if adm {
        let config = diffusers_adm::config(json)?;
        ([config.inputs, config.outputs, config.classes], NetworkConfig::Adm(config))
    } else {
        let config = diffusers::unet_2d_config(json)?;
        ([config.inputs, config.outputs, config.classes], NetworkConfig::Unet2d(config))
    };
    check_channels(inputs, outputs)?;
    let shape = [height, width, inputs];
    let fourier = text(json, "time_embedding_type") == Some("fourier");
    let Some(scheduler) = scheduler else {
        ensure!(
            !fourier && !adm,
            "there is no scheduler_config.json, which says on what noise the network was trained: state it with --schedule, such as {}",
            if fourier { "--schedule ScoreSdeVe" } else { "--schedule CMStochasticIterative or --schedule DDPM" }
        );
        let precondition = Precondition::unscaled(Prediction::Eps {}, FROM_CLEANEST);
        let assumed = setting(network, shape, classes, Discrete::default(), precondition, true);
        let notes = vec![
            "there is no scheduler_config.json: DDPM's noise is assumed; state another with --schedule".to_owned(),
        ];
        return Ok(Setting { clamp: true, notes, ..assumed });
    };
    let trained = diffusers_scheduler::trained_on(scheduler, fourier);
    let (trained, notes) = trained.map_err(|error| error.at("scheduler_config.json"))?;
    let setting = match trained {
        Trained::EndPoints => of_karras(network, shape, classes, scheduler, true)?,
        Trained::Denoiser(Denoiser { schedule, precondition, symmetric, clamp, grid }) => {
            let usual = setting(network, shape, classes, schedule, precondition, symmetric);
            Setting { clamp, grid: grid.unwrap_or_else(|| usual.grid.clone()), ..usual }
        }
    };
    Ok(Setting { notes, ..setting })
}
