//! What `scheduler_config.json` of the `diffusers` library says of the noise a network was trained on.
//!
//! Their schedulers are samplers too; which one the file names matters only for what it tells of training. Steps, spacing and
//! such are chosen anew when sampling.

use serde_json::Value as Json;
use stein::{
    AnySchedule, Discrete, Edm, Error, LevelList, NoiseInput, Precondition, Prediction, Rectified, Result, Ve, ensure,
};

use super::values::{flag, number, word};

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
        /// Whether estimates of the picture are kept in that range.
        clamp: bool,
    },
    /// A consistency function; the file has its levels.
    EndPoints,
}

/// The schedulers of networks that were trained on a list of betas, and whether each clips unless told otherwise.
const OF_BETAS: [(&str, bool); 19] = [
    ("DDIMInverseScheduler", true),
    ("DDIMParallelScheduler", true),
    ("DDIMScheduler", true),
    ("DDPMParallelScheduler", true),
    ("DDPMScheduler", true),
    ("RePaintScheduler", true),
    ("DEISMultistepScheduler", false),
    ("DPMSolverMultistepInverseScheduler", false),
    ("DPMSolverMultistepScheduler", false),
    ("DPMSolverSDEScheduler", false),
    ("DPMSolverSinglestepScheduler", false),
    ("EulerAncestralDiscreteScheduler", false),
    ("EulerDiscreteScheduler", false),
    ("HeunDiscreteScheduler", false),
    ("KDPM2AncestralDiscreteScheduler", false),
    ("KDPM2DiscreteScheduler", false),
    ("LMSDiscreteScheduler", false),
    ("PNDMScheduler", false),
    ("UniPCMultistepScheduler", false),
];

/// What a network, whose embedding is of `fourier` features of ln σ or of positional ones of steps, was trained on.
///
/// # Errors
/// When it is nothing known here.
pub(super) fn trained_on(scheduler: &Json, fourier: bool) -> Result<Trained> {
    // A file that names nothing has betas.
    let name = word(scheduler, "_class_name", "DDPMScheduler")?;
    for key in ["thresholding", "invert_sigmas"] {
        ensure!(!flag(scheduler, key, false)?, "{key} is true, which is not known here");
    }
    for key in ["clip_sample_range", "s_noise"] {
        ensure!(number(scheduler, key, 1.0)? == 1.0, "{key} is not 1, and only that is known here");
    }
    let steps = word(scheduler, "timestep_type", "discrete")?;
    ensure!(steps == "discrete", "timestep_type is {steps}, which is not known here");
    let of_betas = OF_BETAS.iter().find(|(known, _)| *known == name).filter(|_| !fourier);
    match (name, fourier) {
        ("CMStochasticIterativeScheduler", false) => Ok(Trained::EndPoints),
        ("ScoreSdeVeScheduler", true) => {
            let (low, high) = (number(scheduler, "sigma_min", 0.01)?, number(scheduler, "sigma_max", 1348.0)?);
            Ok(Trained::Denoiser {
                schedule: Ve { sigma_min: low, sigma_max: high }.into(),
                precondition: Precondition::unscaled(Prediction::Score {}, NoiseInput::Sigma {}),
                symmetric: false,
                clamp: false,
            })
        }
        ("EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler", false) => {
            ensure!(
                prediction(scheduler)? == (Prediction::Eps {}),
                "EDM's preconditioning is known here for prediction_type epsilon alone"
            );
            let (low, high) = (number(scheduler, "sigma_min", 0.002)?, number(scheduler, "sigma_max", 80.0)?);
            Ok(Trained::Denoiser {
                schedule: Edm { sigma_min: low, sigma_max: high }.into(),
                precondition: Precondition::edm(number(scheduler, "sigma_data", 0.5)?),
                symmetric: true,
                clamp: false,
            })
        }
        ("FlowMatchEulerDiscreteScheduler" | "FlowMatchHeunDiscreteScheduler", false) => {
            // Told of σ times the number of steps, the last of which is one over it; what is shifted is the grid.
            let count = steps_of(scheduler)? as f64;
            Ok(Trained::Denoiser {
                schedule: Rectified { t_min: 1.0 / count }.into(),
                precondition: Precondition::unscaled(Prediction::Velocity {}, NoiseInput::Time { factor: count }),
                symmetric: true,
                clamp: false,
            })
        }
        _ => {
            let Some((_, clips)) = of_betas else {
                return Err(Error::new(format!("the noise of scheduler {name} with this network is not known here")));
            };
            Ok(Trained::Denoiser {
                schedule: Discrete::new(betas(scheduler)?)?.into(),
                precondition: Precondition::unscaled(
                    prediction(scheduler)?,
                    NoiseInput::Level { noisiest_first: false, factor: 1.0 },
                ),
                symmetric: true,
                clamp: flag(scheduler, "clip_sample", *clips)?,
            })
        }
    }
}

fn steps_of(scheduler: &Json) -> Result<usize> {
    let count = number(scheduler, "num_train_timesteps", 1000.0)?;
    ensure!(
        (2.0..=1e6).contains(&count) && count.fract() == 0.0,
        "num_train_timesteps is {count}: it is a whole number from 2 to 1000000"
    );
    Ok(count as usize)
}

fn prediction(scheduler: &Json) -> Result<Prediction> {
    match word(scheduler, "prediction_type", "epsilon")? {
        "epsilon" => Ok(Prediction::Eps {}),
        "sample" => Ok(Prediction::X0 {}),
        "v_prediction" => Ok(Prediction::V {}),
        other => Err(Error::new(format!("prediction_type is {other}: known are epsilon, sample and v_prediction"))),
    }
}

/// ᾱ of the noisiest level where its signal is scaled away: that of the library's Euler, so that a logarithm stays finite.
const LEAST_SIGNAL: f64 = 1.0 / (1 << 24) as f64;

fn betas(scheduler: &Json) -> Result<LevelList> {
    let (first, last) = (number(scheduler, "beta_start", 1e-4)?, number(scheduler, "beta_end", 0.02)?);
    let count = steps_of(scheduler)?;
    let levels = if let Some(listed) = scheduler.get("trained_betas").and_then(Json::as_array) {
        let values: Vec<f64> = listed.iter().filter_map(Json::as_f64).collect();
        ensure!(values.len() == listed.len(), "trained_betas are not all numbers");
        LevelList::Betas { values }
    } else {
        match word(scheduler, "beta_schedule", "linear")? {
            "linear" => LevelList::Linear { first, last, count },
            "scaled_linear" => LevelList::SqrtLinear { first, last, count },
            "squaredcos_cap_v2" => LevelList::Cosine { offset: 0.008, max_beta: 0.999, count },
            "sigmoid" => LevelList::Sigmoid { first, last, reach: 6.0, count },
            other => {
                return Err(Error::new(format!(
                    "beta_schedule is {other}: known are linear, scaled_linear, squaredcos_cap_v2 and sigmoid"
                )));
            }
        }
    };
    if flag(scheduler, "rescale_betas_zero_snr", false)? { without_signal(levels) } else { Ok(levels) }
}

/// Lin et al. (arXiv:2305.08891, algorithm 1): √ᾱ moved and scaled so that the noisiest level has no signal.
fn without_signal(levels: LevelList) -> Result<LevelList> {
    let mut alpha_bar = Discrete::new(levels)?.alpha_bar();
    let (first, last) = (alpha_bar[0].sqrt(), alpha_bar[alpha_bar.len() - 1].sqrt());
    for bar in &mut alpha_bar {
        *bar = ((bar.sqrt() - last) * first / (first - last)).powi(2);
    }
    // Below the level before it, which may have less than the library's least.
    let noisiest = alpha_bar.len() - 1;
    alpha_bar[noisiest] = LEAST_SIGNAL.min(0.5 * alpha_bar[noisiest - 1]);
    let before = std::iter::once(1.0).chain(alpha_bar.iter().copied());
    Ok(LevelList::Betas { values: before.zip(&alpha_bar).map(|(before, bar)| 1.0 - bar / before).collect() })
}
