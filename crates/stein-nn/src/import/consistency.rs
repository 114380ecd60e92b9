//! Consistency models of `openai/consistency_models` (Song et al., arXiv:2303.01469): the U-Net of guided-diffusion,
//! and the denoiser around it (`UNetModel`, `KarrasDenoiser`).
//!
//! Rows of queries, keys and values are in the order (three, heads, channels of a head), whatever the config says, and
//! the maps of attention are convolutions over two axes.

use serde_json::Value;
use stein::{AnySchedule, Edm, Error, MapForm, MapSettings, NoiseInput, Precondition, Result};

use super::{
    Imported, Output, Surroundings, Weights,
    config::Reader,
    guided_diffusion::{self, AdmNames, Order},
};
use crate::networks::{Adm, AdmConfig};

/// The noise number of σ: 250 ln σ.
const NOISE_INPUT: NoiseInput = NoiseInput::LogSigma { factor: 250.0, unit: 1.0 };

/// The settings of the denoiser: in a section of their own, or among the flags.
pub(super) fn denoiser(json: &Value) -> &Value {
    json.get("karras_denoiser").filter(|section| !section.is_null()).unwrap_or(json)
}

/// What surrounds a network under the settings of their denoiser: those of a consistency function, which is the identity at the
/// smallest σ, or of EDM's denoiser of the same network, the teacher.
pub(super) fn surroundings(settings: &Value, consistent: bool) -> Result<Surroundings> {
    let mut read = Reader::new("karras_denoiser", settings)?;
    let schedule = Edm { sigma_min: read.read("sigma_min", 0.002)?, sigma_max: read.read("sigma_max", 80.0)? };
    let (schedule, sigma_data): (AnySchedule, _) = (schedule.into(), read.read("sigma_data", 0.5)?);
    Ok(if consistent {
        Surroundings::FlowMap(
            schedule,
            MapSettings { form: MapForm::EdmShifted { sigma_data }, noise_input: NOISE_INPUT },
        )
    } else {
        let precondition = Precondition { noise_input: NOISE_INPUT, ..Precondition::edm(sigma_data) };
        Surroundings::Denoiser(schedule, precondition)
    })
}

/// The arguments of the network: beside those of the denoiser, or alone.
pub(super) fn unet(json: &Value) -> Result<&Value> {
    match json.get("unet") {
        Some(unet) => Ok(unet),
        None if json.get("karras_denoiser").is_none() => Ok(json),
        None => Err(Error::new("this config of a consistency model has no unet")),
    }
}

/// The config of the U-Net.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn config(json: &Value) -> Result<AdmConfig> {
    guided_diffusion::config(unet(json)?)
}

/// A U-Net with the weights of a file. Stored cases are the network itself (`out` of `x`, `timesteps`, `y`) or, where they
/// have a `sigma`, what the denoiser makes of it (`denoised`): in the case `denoise_plain` the teacher, in others the consistency
/// function.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Adm>> {
    let settings = denoiser(json);
    let around = [surroundings(settings, false)?, surroundings(settings, true)?];
    let names = AdmNames { config: config(json)?, order: Order::PartsFirst, axes: 2 };
    guided_diffusion::open_as(names, weights, move |network, case| {
        let given = case.classes("y")?;
        if !case.has("sigma") {
            return case.out("timesteps", &given, |x, context| network.images(x, context));
        }
        let around = &around[usize::from(case.name != "denoise_plain")];
        let (raw, denoised) = case.denoised(&given, |x, context| network.images(x, context), around)?;
        Ok(vec![Output::images("model_output", raw), Output::images("denoised", denoised)])
    })
}
