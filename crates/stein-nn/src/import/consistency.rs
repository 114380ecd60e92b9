//! Consistency models of `openai/consistency_models` (Song et al., arXiv:2303.01469): the U-Net of guided-diffusion,
//! and the denoiser around it (`UNetModel`, `KarrasDenoiser`).
//!
//! Rows of queries, keys and values are in the order (three, heads, channels of a head), whatever the config says, and
//! the maps of attention have two axes of places.

use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;
use stein::{Error, Result, ensure};

use super::{
    Imported, Output, Weights,
    guided_diffusion::{self, Names, Order},
};
use crate::{
    networks::{Adm, AdmConfig, Given},
    ops::Dual,
};

/// Keeps the logarithm of σ = 0 finite.
const LEAST: f64 = 1e-44;

/// The denoiser x̂₀ = c_skip x + c_out F(c_in x, 250 ln σ) around a network F (Karras et al., arXiv:2206.00364), with d
/// the standard deviation of the data and ε the smallest σ:
///
/// c_in = 1/√(σ² + d²), c_skip = d²/(σ² + d²), c_out = σ d/√(σ² + d²), or as a consistency function, which is the
/// identity at ε, c_skip = d²/((σ − ε)² + d²), c_out = (σ − ε) d/√(σ² + d²).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Denoiser {
    /// The standard deviation of the data.
    #[serde(rename = "sigma_data")]
    pub data: f64,
    /// The smallest σ.
    #[serde(rename = "sigma_min")]
    pub least: f64,
}

impl Denoiser {
    /// The output of the network, and x̂₀, for noisy images and a σ each.
    ///
    /// # Errors
    /// When the images or what is given do not fit the network.
    pub fn denoise(
        &self,
        network: &Adm,
        x: Dual<4>,
        sigma: Tensor<1>,
        given: &Given,
        consistent: bool,
    ) -> Result<(Dual<4>, Dual<4>)> {
        let rows = sigma.dims()[0];
        let data = self.data.powi(2);
        let total = sigma.clone().square() + data;
        let past = if consistent { sigma.clone() - self.least } else { sigma.clone() };
        let [input, skip, output] = [
            total.clone().powf_scalar(-0.5),
            (past.clone().square() + data).recip() * data,
            past * self.data / total.sqrt(),
        ]
        .map(|factor| factor.reshape([rows, 1, 1, 1]));
        let noise = (sigma + LEAST).log() * 250.0;
        let found = network.images(x.clone().linear(|x| x * input.clone()), noise.into(), given)?;
        let denoised = found.clone().linear(|y| y * output.clone()) + x.linear(|x| x * skip.clone());
        Ok((found, denoised))
    }
}

/// The part of a config that has this name.
fn part<'a>(json: &'a Value, name: &str) -> Result<&'a Value> {
    json.get(name).ok_or_else(|| Error::new(format!("this config of a consistency model has no {name}")))
}

/// The config of the U-Net.
///
/// # Errors
/// When it is not one of theirs, or one that is not supported.
pub fn config(json: &Value) -> Result<AdmConfig> {
    guided_diffusion::config(part(json, "unet")?)
}

/// A U-Net with the weights of a file.
///
/// # Errors
/// When config or weights are not those of one.
pub fn open(json: &Value, weights: Weights) -> Result<Imported<Adm>> {
    let denoiser: Denoiser = serde_json::from_value(part(json, "karras_denoiser")?.clone())
        .map_err(|error| Error::new(format!("karras_denoiser is no config of their denoiser: {error}")))?;
    ensure!(denoiser.data > 0.0, "sigma_data is {}: it is a positive number", denoiser.data);
    let names = Names { config: config(json)?, order: Order::PartsFirst, ones: 2 };
    guided_diffusion::open_as(names, weights, move |network, case| {
        let (x, given) = (case.images("x")?, guided_diffusion::told(case)?);
        if case.has("sigma") {
            let sigma = case.numbers("sigma")?.value;
            let consistent = case.name != "denoise_plain";
            let (found, denoised) = denoiser.denoise(network, x, sigma, &given, consistent)?;
            let outputs = [("model_output", found), ("denoised", denoised)];
            return Ok(outputs.map(|(name, y)| (name.to_owned(), Output::images(y))).into());
        }
        let y = network.images(x, case.numbers("timesteps")?, &given)?;
        Ok(vec![("out".to_owned(), Output::images(y))])
    })
}
