//! Pipelines in the latent space of an autoencoder: of the `diffusers` library Stable Diffusion 1 and 2, and DiT, and models by class of
//! CompVis/latent-diffusion.

use std::path::Path;

use burn::tensor::{DType, Device};
use serde_json::Value as Json;
use stein::{Result, ensure};

use super::{
    Kind, Published, Reading, Setting, Source, Weights, clip_text,
    config::{check_sizes, text},
    diffusers, json,
    latent_diffusion::{self, LatentDiffusion},
    source::{PIPELINE, has_part, state_dict_of, weights_in},
    unsupported,
};
use crate::{
    ClipText, FirstStage, FirstStageConfig, NetworkConfig, TextConfig, Tokenizer,
    networks::AnyNetwork,
    state::{self, Tensors},
};

/// The pipelines that are read.
const KNOWN: [&str; 3] = ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "DiTPipeline"];

/// What the names of the denoiser's weights begin with beside those of what reads texts, within a [`Told`](crate::networks::Told).
const INNER: &str = "network.";

/// A latent model: a denoiser of latents, the autoencoder they are of, and what reads texts.
pub struct Pipeline {
    /// Whose it is.
    pub kind: Kind,
    /// What its library calls it.
    pub name: String,
    /// Which of the weights there are the denoiser's are.
    pub which: String,
    /// The weights of the denoiser, with what reads texts, by our names within an [`AnyNetwork`].
    pub weights: Tensors,
    /// The autoencoder.
    pub autoencoder: FirstStageConfig,
    /// The autoencoder's weights by our names.
    pub autoencoder_weights: Tensors,
    /// What reads texts, where something does.
    pub text: Option<PipelineText>,
    /// The scheduler's config.
    pub scheduler: Json,
    /// How the network is fed, and sampled unless asked otherwise; its shape is that of latents.
    pub setting: Setting,
    /// The scale of classifier-free guidance unless asked otherwise.
    pub guidance: f64,
}

/// What guidance is unless asked otherwise: in diffusers of texts and of classes, and in latent diffusion of classes.
const OF_TEXTS: f64 = 7.5;
const OF_CLASSES: f64 = 4.0;
const OF_CLASS_TOKENS: f64 = 3.0;

/// What reads the texts of a pipeline.
pub struct PipelineText {
    /// What makes tokens of texts.
    pub tokenizer: Tokenizer,
    /// The transformer's config.
    pub config: TextConfig,
    /// The transformer.
    pub network: ClipText,
}

/// The class of a pipeline in the latents of an autoencoder, if a folder is one.
///
/// # Errors
/// An index that cannot be read.
pub fn latent_pipeline(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(PIPELINE);
    if !path.exists() {
        return Ok(None);
    }
    let index = json(&path)?;
    let name = text(&index, "_class_name").unwrap_or_default().to_owned();
    Ok(has_part(&index, "vae").then_some(name))
}

/// Fails if a folder is a pipeline in latents that is not read here, by its name.
///
/// # Errors
/// See above, and an index that cannot be read.
pub fn ensure_known_pipeline(folder: &Path) -> Result<()> {
    match latent_pipeline(folder)? {
        Some(name) => check_name(folder, &name),
        None => Ok(()),
    }
}

fn check_name(folder: &Path, name: &str) -> Result<()> {
    ensure!(Kind::Unsupported, KNOWN.contains(&name), "{}: {}", folder.display(), refusal(name));
    Ok(())
}

impl Pipeline {
    /// Reads a folder whose [class](latent_pipeline) is known to be one in latents.
    ///
    /// # Errors
    /// A pipeline that is not read here, by its name, parts that are missing, damaged or do not fit each other.
    pub fn read(folder: &Path, name: &str, reading: &Reading) -> Result<Self> {
        check_name(folder, name)?;
        let network = Source::read(folder, reading)?;
        let mut weights = Published::open(&network)?.weights();
        let setting = Setting::of_pipeline(&network).map_err(|error| error.at(folder.display()))?;
        let autoencoder = Source::open(&folder.join("vae"), Some(Kind::Diffusers), None)?;
        let autoencoder_weights = Published::open(&autoencoder)?.reference().weights();
        let autoencoder = first_stage(&autoencoder.config).map_err(|error| error.at(&autoencoder.origin))?;
        check_channels(&setting, &autoencoder).map_err(|error| error.at(folder.display()))?;
        let text = match &setting.network {
            NetworkConfig::Unet2dCondition(unet) => {
                Some(PipelineText::read(&folder.join("text_encoder"), &folder.join("tokenizer"), unet.context)?)
            }
            _ => None,
        };
        if let Some(text) = &text {
            let inside = weights.into_iter().map(|(name, data)| (format!("{INNER}{name}"), data));
            let read = state::tensors(&text.network).into_iter().map(|(name, data)| (format!("text.{name}"), data));
            weights = inside.chain(read).collect();
        }
        let scheduler = network.scheduler.unwrap_or_default();
        let guidance = if text.is_some() { OF_TEXTS } else { OF_CLASSES };
        let (kind, name, which) = (Kind::Diffusers, name.to_owned(), network.which);
        Ok(Self { kind, name, which, weights, autoencoder, autoencoder_weights, text, scheduler, setting, guidance })
    }

    /// A model by class of [`LatentDiffusion`](Kind::LatentDiffusion), whose file has all parts.
    ///
    /// # Errors
    /// A config that is none of one, and weights that do not fit it.
    pub fn of_checkpoint(source: &Source) -> Result<Self> {
        let at = |error: stein::Error| error.at(&source.origin);
        check_sizes(&source.config).map_err(at)?;
        let weights = Weights::Theirs(&source.weights);
        let LatentDiffusion { unet, side, first_stage, scheduler } =
            LatentDiffusion::read(&source.config, &source.weights).map_err(at)?;
        let (shape, classes) = ([side, side, unet.inputs], unet.classes);
        let setting =
            Setting::of_latents(NetworkConfig::Unet2dCondition(unet), shape, classes, &scheduler).map_err(at)?;
        check_channels(&setting, &first_stage).map_err(at)?;
        Ok(Self {
            kind: source.kind,
            name: "LatentDiffusion".to_owned(),
            which: source.which.clone(),
            weights: Published::open(source)?.weights(),
            autoencoder_weights: latent_diffusion::open_first_stage(&first_stage, weights).map_err(at)?.weights(),
            autoencoder: first_stage,
            text: None,
            scheduler,
            setting,
            guidance: OF_CLASS_TOKENS,
        })
    }

    /// The denoiser's network for latents of a shape, without what reads texts, in a float type.
    ///
    /// # Errors
    /// Latents it is none for.
    pub(super) fn network(&self, shape: [usize; 3], kind: DType) -> Result<AnyNetwork> {
        let network = self.setting.network.build(&shape, self.setting.classes, 0, &Device::flex())?;
        let inner = |name: &str| {
            if self.text.is_some() { name.strip_prefix(INNER).map(str::to_owned) } else { Some(name.to_owned()) }
        };
        let weights = self.weights.iter().filter_map(|(name, data)| Some((inner(name)?, data.clone()))).collect();
        Ok(state::cast(state::load(network, &weights)?, kind))
    }

    /// The autoencoder, in a float type.
    ///
    /// # Errors
    /// Weights that do not fit the config.
    pub(super) fn first_stage(&self, kind: DType) -> Result<FirstStage> {
        Ok(state::cast(self.autoencoder.load(&self.autoencoder_weights, &Device::flex())?, kind))
    }
}

impl PipelineText {
    fn read(folder: &Path, tokenizer: &Path, context: usize) -> Result<Self> {
        let config = json(&folder.join("config.json"))?;
        let form = clip_text::form(&config).map_err(|error| error.at(folder.display()))?;
        ensure!(
            Kind::Mismatch,
            form.width == context,
            "{}: texts are tokens of width {}, and the network attends to tokens of width {context}: parts of two pipelines",
            folder.display(),
            form.width
        );
        let (weights, _) = weights_in(folder, None)?;
        let network = clip_text::open(&config, &state_dict_of(&weights)?, DType::F32, &Device::flex())
            .map_err(|error| error.at(folder.display()))?;
        let tokenizer = Tokenizer::open(tokenizer, form.length)?;
        ensure!(
            Kind::Mismatch,
            tokenizer.vocabulary() <= form.vocabulary,
            "{}: the tokenizer has {} tokens, and the embedding knows {}: they are parts of two pipelines",
            folder.display(),
            tokenizer.vocabulary(),
            form.vocabulary
        );
        let config = TextConfig {
            width: form.width,
            middle: form.middle,
            heads: form.heads,
            blocks: form.blocks,
            skipped: 0,
            gelu: form.gelu,
            epsilon: form.epsilon,
        };
        Ok(Self { tokenizer, config, network })
    }
}

/// Fails unless a network works on the latents of an autoencoder.
fn check_channels(setting: &Setting, autoencoder: &FirstStageConfig) -> Result<()> {
    let ([_, _, channels], found) = (setting.shape, autoencoder.channels());
    ensure!(
        Kind::Mismatch,
        found == channels,
        "the network works on {channels} channels, and the autoencoder has latents of {found}: they are parts of two pipelines"
    );
    Ok(())
}

/// The autoencoder of a config.
fn first_stage(config: &Json) -> Result<FirstStageConfig> {
    match text(config, "_class_name").unwrap_or_default() {
        "AutoencoderKL" => diffusers::autoencoder_kl_config(config).map(FirstStageConfig::Kl),
        "VQModel" => diffusers::vq_model_config(config).map(FirstStageConfig::Vq),
        other => Err(unsupported(format!("the autoencoder is a {other}: known are AutoencoderKL and VQModel"))),
    }
}

/// Why a pipeline is not read.
fn refusal(name: &str) -> String {
    let why = if name.contains("XL") {
        "its texts are read by two transformers, and its network is told sizes beside: neither is read here"
    } else if ["StableDiffusion3", "Flux", "SD3", "PixArt", "AuraFlow", "Sana"].iter().any(|part| name.contains(part)) {
        "its network is a transformer of texts and pictures together (MMDiT and the like), which is not built here"
    } else {
        "it is not among those read here"
    };
    format!("a pipeline {name}: {why}; known are {}", KNOWN.join(", "))
}
