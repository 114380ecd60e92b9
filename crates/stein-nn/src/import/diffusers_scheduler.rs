//! What `scheduler_config.json` of the `diffusers` library says of the noise a network was trained on.
//!
//! Their schedulers are samplers too; which one the file names matters only for what it tells of training. Steps, spacing and
//! such are chosen anew when sampling.

use serde_json::Value as Json;
use stein::{
    AnySchedule, Discrete, Edm, Error, InputScale, Levels, NoiseInput, Precondition, Prediction, Rectified, Result, Ve,
    ensure,
};

use super::values::{flag, number, text};

/// What a network was trained to be.
pub(super) enum Trained {
    /// A denoiser of this noise.
    Denoiser {
        /// The noise.
        schedule: AnySchedule,
        /// What surrounds the network.
        precondition: Precondition,
        /// Whether pictures run from −1 to 1, not 0 to 1.
        symmetric: bool,
    },
    /// A consistency function; the file has its levels.
    EndPoints,
}

/// What a network, whose embedding is of `fourier` features of ln σ or of positional ones of steps, was trained on; DDPM's noise
/// or NCSN++'s where there is no file.
///
/// # Errors
/// When it is nothing known here.
pub(super) fn trained_on(scheduler: &Json, fourier: bool) -> Result<Trained> {
    let name = text(scheduler, "_class_name").unwrap_or_default();
    let plain = |prediction, noise_input| Precondition { prediction, input_scale: InputScale::None {}, noise_input };
    let has_betas = ["beta_schedule", "beta_start", "trained_betas"].iter().any(|key| scheduler.get(key).is_some());
    match name {
        "CMStochasticIterativeScheduler" => Ok(Trained::EndPoints),
        "" | "ScoreSdeVeScheduler" if fourier => {
            let (sigma_min, sigma_max) =
                (number(scheduler, "sigma_min", 0.01)?, number(scheduler, "sigma_max", 1348.0)?);
            let precondition = plain(Prediction::Score {}, NoiseInput::Sigma {});
            Ok(Trained::Denoiser { schedule: Ve { sigma_min, sigma_max }.into(), precondition, symmetric: false })
        }
        "EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler" => {
            let schedule = Edm {
                sigma_min: number(scheduler, "sigma_min", 0.002)?,
                sigma_max: number(scheduler, "sigma_max", 80.0)?,
            };
            let mut precondition = Precondition::edm(number(scheduler, "sigma_data", 0.5)?);
            if prediction(scheduler)? == (Prediction::V {}) {
                return Err(unknown("EDM's preconditioning of a v prediction"));
            }
            precondition.noise_input = NoiseInput::QuarterLogNoise {};
            Ok(Trained::Denoiser { schedule: schedule.into(), precondition, symmetric: true })
        }
        "FlowMatchEulerDiscreteScheduler" if !fourier => {
            // Told of σ times the number of steps; what it shifts is the grid.
            let noise = NoiseInput::Time { factor: number(scheduler, "num_train_timesteps", 1000.0)? };
            let precondition = plain(Prediction::Velocity {}, noise);
            Ok(Trained::Denoiser { schedule: Rectified::default().into(), precondition, symmetric: true })
        }
        _ if !fourier && (name.is_empty() || has_betas) => {
            let precondition = plain(prediction(scheduler)?, NoiseInput::Level { noisiest_first: false, factor: 1.0 });
            let schedule = Discrete::new(betas(scheduler)?)?.into();
            Ok(Trained::Denoiser { schedule, precondition, symmetric: true })
        }
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Error {
    Error::new(format!("the noise of scheduler {name} with this network is not known here"))
}

fn prediction(scheduler: &Json) -> Result<Prediction> {
    match text(scheduler, "prediction_type").unwrap_or("epsilon") {
        "epsilon" => Ok(Prediction::Eps {}),
        "sample" => Ok(Prediction::X0 {}),
        "v_prediction" => Ok(Prediction::V {}),
        other => Err(Error::new(format!(
            "the scheduler's prediction_type is {other}: known are epsilon, sample and v_prediction"
        ))),
    }
}

/// ᾱ of the noisiest level where its signal is scaled away: the library's, so that a logarithm stays finite.
const LEAST_SIGNAL: f64 = 1.0 / (1 << 24) as f64;

fn betas(scheduler: &Json) -> Result<Levels> {
    let (first, last) = (number(scheduler, "beta_start", 1e-4)?, number(scheduler, "beta_end", 0.02)?);
    let count = number(scheduler, "num_train_timesteps", 1000.0)?;
    ensure!((2.0..=1e6).contains(&count), "the scheduler's num_train_timesteps is {count}: it is a number of levels");
    let count = count as usize;
    let levels = if let Some(listed) = scheduler.get("trained_betas").and_then(Json::as_array) {
        let values: Vec<f64> = listed.iter().filter_map(Json::as_f64).collect();
        ensure!(values.len() == listed.len(), "the scheduler's trained_betas are not all numbers");
        Levels::Betas { values }
    } else {
        match text(scheduler, "beta_schedule").unwrap_or("linear") {
            "linear" => Levels::Linear { first, last, count },
            "scaled_linear" => Levels::SqrtLinear { first, last, count },
            "squaredcos_cap_v2" => Levels::Cosine { offset: 0.008, max_beta: 0.999, count },
            "sigmoid" => Levels::Sigmoid { first, last, reach: 6.0, count },
            other => {
                return Err(Error::new(format!(
                    "the scheduler's beta_schedule is {other}: known are linear, scaled_linear, squaredcos_cap_v2 and sigmoid"
                )));
            }
        }
    };
    if flag(scheduler, "rescale_betas_zero_snr", false) { without_signal(levels) } else { Ok(levels) }
}

/// Lin et al. (arXiv:2305.08891, algorithm 1): √ᾱ moved and scaled so that the noisiest level has no signal.
fn without_signal(levels: Levels) -> Result<Levels> {
    let mut alpha_bar = Discrete::new(levels)?.alpha_bar();
    let (first, last) = (alpha_bar[0].sqrt(), alpha_bar[alpha_bar.len() - 1].sqrt());
    for bar in &mut alpha_bar {
        *bar = ((bar.sqrt() - last) * first / (first - last)).powi(2).max(LEAST_SIGNAL);
    }
    let before = std::iter::once(1.0).chain(alpha_bar.iter().copied());
    Ok(Levels::Betas { values: before.zip(&alpha_bar).map(|(before, bar)| 1.0 - bar / before).collect() })
}
