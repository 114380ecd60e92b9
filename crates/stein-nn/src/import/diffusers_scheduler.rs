//! What `scheduler_config.json` of the `diffusers` library says of the noise a network was trained on.
//!
//! Their schedulers are samplers too; which one the file names matters only for what it says of training. Steps, spacing and
//! such are chosen anew when sampling.

use serde_json::Value as Json;
use stein::{
    AnySchedule, Discrete, Edm, LevelList, NoiseInput, Precondition, Prediction, Rectified, Result, Ve, ensure,
};

use super::{config::Reader, unsupported};

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

/// The schedulers of networks that were trained on a list of betas, and whether each clips unless it says otherwise.
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
    let read = &mut Reader::new("the scheduler", scheduler)?;
    // A file that names nothing has betas.
    let name = read.read("_class_name", "DDPMScheduler".to_owned())?;
    for key in ["thresholding", "invert_sigmas"] {
        read.only(key, &[false.into()])?;
    }
    for key in ["clip_sample_range", "s_noise"] {
        read.only(key, &[1.0.into()])?;
    }
    read.word("timestep_type", &[("discrete", ())])?;
    let of_betas = OF_BETAS.iter().find(|(known, _)| *known == name).filter(|_| !fourier);
    match (&name[..], fourier) {
        ("CMStochasticIterativeScheduler", false) => Ok(Trained::EndPoints),
        ("ScoreSdeVeScheduler", true) => {
            let schedule = Ve { sigma_min: read.read("sigma_min", 0.01)?, sigma_max: read.read("sigma_max", 1348.0)? };
            Ok(Trained::Denoiser {
                schedule: schedule.into(),
                precondition: Precondition::unscaled(Prediction::Score {}, NoiseInput::Sigma {}),
                symmetric: false,
                clamp: false,
            })
        }
        ("EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler", false) => {
            // EDM's preconditioning is known here for this alone.
            read.word("prediction_type", &[("epsilon", ())])?;
            let schedule = Edm { sigma_min: read.read("sigma_min", 0.002)?, sigma_max: read.read("sigma_max", 80.0)? };
            Ok(Trained::Denoiser {
                schedule: schedule.into(),
                precondition: Precondition::edm(read.read("sigma_data", 0.5)?),
                symmetric: true,
                clamp: false,
            })
        }
        ("FlowMatchEulerDiscreteScheduler" | "FlowMatchHeunDiscreteScheduler", false) => {
            // Fed σ times the number of steps, the last of which is one over it; what is shifted is the grid.
            let count = steps_of(read)? as f64;
            Ok(Trained::Denoiser {
                schedule: Rectified { t_min: 1.0 / count }.into(),
                precondition: Precondition::unscaled(Prediction::Velocity {}, NoiseInput::Time { factor: count }),
                symmetric: true,
                clamp: false,
            })
        }
        _ => {
            let Some((_, clips)) = of_betas else {
                return Err(unsupported(format!("the noise of scheduler {name} with this network is not known here")));
            };
            let predictions =
                [("epsilon", Prediction::Eps {}), ("sample", Prediction::X0 {}), ("v_prediction", Prediction::V {})];
            let prediction = read.word("prediction_type", &predictions)?;
            Ok(Trained::Denoiser {
                schedule: Discrete::new(betas(read)?)?.into(),
                precondition: Precondition::unscaled(
                    prediction,
                    NoiseInput::Level { noisiest_first: false, factor: 1.0 },
                ),
                symmetric: true,
                clamp: read.read("clip_sample", *clips)?,
            })
        }
    }
}

fn steps_of(read: &mut Reader) -> Result<usize> {
    let count = read.read("num_train_timesteps", 1000)?;
    ensure!((2..=1_000_000).contains(&count), "num_train_timesteps is {count}: it is a whole number from 2 to 1000000");
    Ok(count)
}

/// ᾱ of the noisiest level where its signal is scaled away: that of the library's Euler, so that a logarithm stays finite.
const LEAST_SIGNAL: f64 = 1.0 / (1 << 24) as f64;

fn betas(read: &mut Reader) -> Result<LevelList> {
    let (first, last) = (read.read("beta_start", 1e-4)?, read.read("beta_end", 0.02)?);
    let count = steps_of(read)?;
    let lists = [
        ("linear", LevelList::Linear { first, last, count }),
        ("scaled_linear", LevelList::SqrtLinear { first, last, count }),
        ("squaredcos_cap_v2", LevelList::Cosine { offset: 0.008, max_beta: 0.999, count }),
        ("sigmoid", LevelList::Sigmoid { first, last, reach: 6.0, count }),
    ];
    let levels = match read.read("trained_betas", None)? {
        Some(values) => LevelList::Betas { values },
        None => read.word("beta_schedule", &lists)?,
    };
    if read.read("rescale_betas_zero_snr", false)? { without_signal(levels) } else { Ok(levels) }
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
