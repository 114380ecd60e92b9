//! Consistency models of `openai/consistency_models` (Song et al., arXiv:2303.01469): the U-Net of guided-diffusion,
//! and the denoiser around it (`UNetModel`, `KarrasDenoiser`).
//!
//! Rows of queries, keys and values are in the order (three, heads, channels of a head), whatever the config says, and
//! the maps of attention have two axes of places.

use burn::tensor::{Tensor, TensorData};
use serde::Deserialize;
use serde_json::{Map, Value};
use stein::{Condition, Context, Error, Result, Scalings, ensure};

use super::{
    Imported, Output, Weights,
    guided_diffusion::{self, Names, Order},
};
use crate::{
    networks::{Adm, AdmConfig},
    ops::Dual,
};

/// What ln σ is multiplied by on its way into the network.
pub(super) const LOG_FACTOR: f64 = 250.0;

/// Keeps the logarithm of σ = 0 finite.
const LEAST: f64 = 1e-44;

/// The config of the denoiser around the network.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default)]
struct Denoiser {
    /// The standard deviation of the data.
    sigma_data: f64,
    /// The smallest σ.
    sigma_min: f64,
}

impl Default for Denoiser {
    fn default() -> Self {
        Self { sigma_data: 0.5, sigma_min: 0.002 }
    }
}

impl Denoiser {
    /// The output of the network, and what becomes of it, for noisy images and a σ each: as a consistency function, which is
    /// the identity at the smallest σ, or as EDM's denoiser, whose scalings are the same with the smallest σ at 0.
    fn denoise(
        &self,
        network: &Adm,
        x: Dual<4>,
        sigma: Tensor<1>,
        given: &Condition,
        consistent: bool,
    ) -> Result<(Dual<4>, Dual<4>)> {
        let end = if consistent { self.sigma_min } else { 0.0 };
        let rows: Vec<_> =
            sigma.to_data().iter::<f64>().map(|sigma| Scalings::at(sigma, end, self.sigma_data)).collect();
        let column = |factors: Vec<f64>| {
            let count = factors.len();
            Tensor::<4>::from_data(TensorData::new(factors, [count, 1, 1, 1]), (&sigma.device(), sigma.dtype()))
        };
        let input = column(rows.iter().map(|row| row.input).collect());
        let skip = column(rows.iter().map(|row| row.skip).collect());
        let output = column(rows.iter().map(|row| row.output).collect());
        let noise = (sigma + LEAST).log() * LOG_FACTOR;
        let found = network.images(x.clone().linear(|x| x * input.clone()), &Context::new(noise, given))?;
        let denoised = found.clone().linear(|y| y * output.clone()) + x.linear(|x| x * skip.clone());
        Ok((found, denoised))
    }
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

/// A U-Net with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Adm>> {
    let denoiser = json.get("karras_denoiser").filter(|section| !section.is_null());
    let denoiser = denoiser.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    ensure!(denoiser.is_object(), "karras_denoiser is {denoiser}: it is a table of names and values");
    let denoiser: Denoiser = serde_json::from_value(denoiser)
        .map_err(|error| Error::new(format!("karras_denoiser is no config of their denoiser: {error}")))?;
    ensure!(denoiser.sigma_data > 0.0, "sigma_data is {}: it is a positive number", denoiser.sigma_data);
    let names = Names { config: config(json)?, order: Order::PartsFirst, ones: 2 };
    guided_diffusion::open_as(names, weights, move |network, case| {
        let (x, given) = (case.images("x")?, guided_diffusion::condition(case)?);
        if case.has("sigma") {
            let sigma = case.numbers("sigma")?.value;
            let consistent = case.name != "denoise_plain";
            let (found, denoised) = denoiser.denoise(network, x, sigma, &given, consistent)?;
            let outputs = [("model_output", found), ("denoised", denoised)];
            return Ok(outputs.map(|(name, y)| (name.to_owned(), Output::images(y))).into());
        }
        let y = network.images(x, &case.context("timesteps", &given)?)?;
        Ok(vec![("out".to_owned(), Output::images(y))])
    })
}
