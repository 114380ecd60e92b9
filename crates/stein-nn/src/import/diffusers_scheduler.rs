//! What `scheduler_config.json` of the `diffusers` library says of the noise a network was trained on.
//!
//! Their schedulers are samplers too; which one the file names matters only for what it says of training and of the levels to
//! sample on. What else it says of sampling is chosen anew, and named as left aside.

use serde_json::{Value as Json, json};
use stein::{
    AnySchedule, Discrete, Edm, Grid, LevelList, NoiseInput, Precondition, Prediction, Rectified, Result, Spacing, Ve,
    ensure,
};

use super::{config::Reader, unsupported};

/// What a network was trained to be.
pub(super) enum Trained {
    /// A denoiser of this noise.
    Denoiser(Denoiser),
    /// A consistency function; the file has its levels.
    EndPoints,
}

/// A network trained to denoise.
pub(super) struct Denoiser {
    /// The noise.
    pub(super) schedule: AnySchedule,
    /// What surrounds the network.
    pub(super) precondition: Precondition,
    /// Whether pictures run from −1 to 1, not 0 to 1.
    pub(super) symmetric: bool,
    /// Whether estimates of the picture are kept in that range.
    pub(super) clamp: bool,
    /// The levels it is sampled on, where the file says which.
    pub(super) grid: Option<Grid>,
}

/// The schedulers of networks that were trained on a list of betas, whether each clips unless it says otherwise, and the first and
/// last of its betas unless it says others.
const OF_BETAS: [(&str, bool, [f64; 2]); 19] = [
    ("DDIMInverseScheduler", true, DDPM),
    ("DDIMParallelScheduler", true, DDPM),
    ("DDIMScheduler", true, DDPM),
    ("DDPMParallelScheduler", true, DDPM),
    ("DDPMScheduler", true, DDPM),
    ("RePaintScheduler", true, DDPM),
    ("DEISMultistepScheduler", false, DDPM),
    ("DPMSolverMultistepInverseScheduler", false, DDPM),
    ("DPMSolverMultistepScheduler", false, DDPM),
    ("DPMSolverSDEScheduler", false, STABLE_DIFFUSION),
    ("DPMSolverSinglestepScheduler", false, DDPM),
    ("EulerAncestralDiscreteScheduler", false, DDPM),
    ("EulerDiscreteScheduler", false, DDPM),
    ("HeunDiscreteScheduler", false, STABLE_DIFFUSION),
    ("KDPM2AncestralDiscreteScheduler", false, STABLE_DIFFUSION),
    ("KDPM2DiscreteScheduler", false, STABLE_DIFFUSION),
    ("LMSDiscreteScheduler", false, DDPM),
    ("PNDMScheduler", false, DDPM),
    ("UniPCMultistepScheduler", false, DDPM),
];
pub(super) const DDPM: [f64; 2] = [1e-4, 0.02];
const STABLE_DIFFUSION: [f64; 2] = [0.00085, 0.012];

/// The schedulers of other networks.
const OTHERS: [&str; 6] = [
    "CMStochasticIterativeScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "ScoreSdeVeScheduler",
];

/// What only says something together with entries that are refused, or of nothing at all.
const IDLE: [&str; 8] = [
    "base_image_seq_len",
    "base_shift",
    "dynamic_thresholding_ratio",
    "flow_shift",
    "max_image_seq_len",
    "max_shift",
    "sample_max_value",
    "time_shift_type",
];

/// The file of the library's scheduler of this name, with or without `Scheduler` at its end, with its defaults.
///
/// # Errors
/// When it is none known here.
pub fn scheduler(name: &str) -> Result<Json> {
    let all: Vec<&str> = OF_BETAS.iter().map(|(known, ..)| *known).chain(OTHERS).collect();
    let same = |known: &&&str| **known == name || known.strip_suffix("Scheduler") == Some(name);
    let found = all.iter().find(same).ok_or_else(|| stein_base::names::unknown("scheduler", name, &all))?;
    Ok(json!({ "_class_name": found }))
}

/// The file of a scheduler of the library for a network that was trained on this noise, on pictures from −1 to 1; none where its
/// schedulers know no such noise. `clamp` says whether estimates are kept in the range.
pub fn scheduler_of(schedule: &AnySchedule, precondition: &Precondition, clamp: bool) -> Option<Json> {
    match (schedule, precondition.prediction) {
        (AnySchedule::Edm(edm), Prediction::Edm { sigma_data }) if *precondition == Precondition::edm(sigma_data) => {
            Some(json!({
                "_class_name": "EDMEulerScheduler",
                "prediction_type": "epsilon",
                "sigma_data": sigma_data,
                "sigma_max": edm.sigma_max,
                "sigma_min": edm.sigma_min,
            }))
        }
        (AnySchedule::Discrete(discrete), prediction) => {
            let level = NoiseInput::Level { noisiest_first: false, factor: 1.0 };
            let prediction_type = match prediction {
                Prediction::Eps {} => "epsilon",
                Prediction::X0 {} => "sample",
                Prediction::V {} => "v_prediction",
                _ => return None,
            };
            let bars = discrete.alpha_bar();
            // Levels whose signal stays are no list of betas.
            if *precondition != Precondition::unscaled(prediction, level) || bars[0] >= 1.0 {
                return None;
            }
            let before = std::iter::once(1.0).chain(bars.iter().copied());
            let betas: Vec<f64> = before.zip(&bars).map(|(before, bar)| 1.0 - bar / before).collect();
            Some(json!({
                "_class_name": "DDPMScheduler",
                "clip_sample": clamp,
                "num_train_timesteps": betas.len(),
                "prediction_type": prediction_type,
                "trained_betas": betas,
            }))
        }
        _ => None,
    }
}

/// What a network, whose embedding is of `fourier` features of ln σ or of positional ones of steps, was trained on, and what has to
/// be said of it.
///
/// # Errors
/// When it is nothing known here.
pub(super) fn trained_on(scheduler: &Json, fourier: bool) -> Result<(Trained, Vec<String>)> {
    let read = &mut Reader::new("the scheduler", scheduler)?;
    let mut notes = Vec::new();
    // A file that names nothing has betas.
    let name = read.read("_class_name", "DDPMScheduler".to_owned())?;
    for key in ["thresholding", "invert_sigmas"] {
        read.only(key, &[false.into()])?;
    }
    for key in ["clip_sample_range", "s_noise"] {
        read.only(key, &[1.0.into()])?;
    }
    read.word("timestep_type", &[("discrete", ())])?;
    ensure!(
        Kind::Unsupported,
        !read.read("use_dynamic_shifting", false)?,
        "use_dynamic_shifting is true: how far levels are shifted is then worked out by a pipeline, from the size of its pictures; give \
         a file with that number as shift"
    );
    read.only("shift_terminal", &[])?;
    let of_betas = OF_BETAS.iter().find(|(known, ..)| *known == name).filter(|_| !fourier);
    let trained = match (&name[..], fourier) {
        ("CMStochasticIterativeScheduler", false) => {
            // Read where the function is made.
            read.skip(&["clip_denoised", "num_train_timesteps", "rho", "sigma_data", "sigma_max", "sigma_min"]);
            Trained::EndPoints
        }
        ("ScoreSdeVeScheduler", true) => {
            let schedule = Ve { sigma_min: read.read("sigma_min", 0.01)?, sigma_max: read.read("sigma_max", 1348.0)? };
            Trained::Denoiser(Denoiser {
                schedule: schedule.into(),
                precondition: Precondition::unscaled(Prediction::Score {}, NoiseInput::Sigma {}),
                symmetric: false,
                clamp: false,
                grid: None,
            })
        }
        ("EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler", false) => {
            // EDM's preconditioning is known here for this alone.
            read.word("prediction_type", &[("epsilon", ())])?;
            let schedule = Edm { sigma_min: read.read("sigma_min", 0.002)?, sigma_max: read.read("sigma_max", 80.0)? };
            let karras = Spacing::Karras { rho: read.read("rho", 7.0)? };
            let spacing = read.word("sigma_schedule", &[("karras", karras), ("exponential", Spacing::LogSnr {})])?;
            Trained::Denoiser(Denoiser {
                schedule: schedule.into(),
                precondition: Precondition::edm(read.read("sigma_data", 0.5)?),
                symmetric: true,
                clamp: false,
                grid: Some(Grid { spacing, ..Grid::karras(18) }),
            })
        }
        ("FlowMatchEulerDiscreteScheduler" | "FlowMatchHeunDiscreteScheduler", false) => {
            Trained::Denoiser(flow(read, "shift")?)
        }
        _ => {
            let Some(&(_, clips, betas)) = of_betas else {
                return Err(unsupported(format!("the noise of scheduler {name} with this network is not known here")));
            };
            Trained::Denoiser(if read.read("use_flow_sigmas", false)? {
                read.word("prediction_type", &[("flow_prediction", ())])?;
                flow(read, "flow_shift")?
            } else {
                of_levels(read, clips, betas, &mut notes)?
            })
        }
    };
    read.skip(&IDLE);
    let aside = read.others();
    if !aside.is_empty() {
        notes.push(format!("of the scheduler, which samples in its own way, not taken: {}", aside.join(", ")));
    }
    Ok((trained, notes))
}

/// A network of flow matching, fed σ times the number of steps, the last of which is one over it; what is shifted is the grid.
fn flow(read: &mut Reader, shift: &str) -> Result<Denoiser> {
    let (count, shift) = (steps_of(read)? as f64, read.read(shift, 1.0f64)?);
    read.skip(&["beta_end", "beta_schedule", "beta_start", "rescale_betas_zero_snr", "trained_betas"]);
    ensure!(shift > 0.0 && shift.is_finite(), "the shift is {shift}: it is a positive number, 1 for none");
    // The library shifts its levels, and once more those it picked of them.
    let shifted = |s: f64| shift * s / (1.0 + (shift - 1.0) * s);
    let end = Some(shifted(shifted(1.0 / count)));
    let grid = Grid { spacing: Spacing::Shifted { shift }, end, ..Grid::uniform(50) };
    Ok(Denoiser {
        schedule: Rectified { t_min: 1.0 / count, ..Rectified::default() }.into(),
        precondition: Precondition::unscaled(Prediction::Velocity {}, NoiseInput::Time { factor: count }),
        symmetric: true,
        clamp: false,
        grid: (shift != 1.0).then_some(grid),
    })
}

/// A network of a list of levels.
fn of_levels(read: &mut Reader, clips: bool, between: [f64; 2], notes: &mut Vec<String>) -> Result<Denoiser> {
    let predictions =
        [("epsilon", Prediction::Eps {}), ("sample", Prediction::X0 {}), ("v_prediction", Prediction::V {})];
    let prediction = read.word("prediction_type", &predictions)?;
    let mut levels = betas(read, between)?;
    if read.read("rescale_betas_zero_snr", false)? {
        let mut alpha_bar = without_signal(levels)?;
        let count = alpha_bar.len();
        if prediction == (Prediction::Eps {}) {
            alpha_bar.retain(|bar| *bar > FAINT);
            notes.push(format!(
                "the noise, which the network predicts, does not say what a picture without signal is (rescale_betas_zero_snr): \
                 sampled from level {} of {count}, where signal begins",
                alpha_bar.len()
            ));
        }
        let before = std::iter::once(1.0).chain(alpha_bar.iter().copied());
        levels = LevelList::Betas { values: before.zip(&alpha_bar).map(|(before, bar)| 1.0 - bar / before).collect() };
    }
    Ok(Denoiser {
        schedule: Discrete::new(levels)?.into(),
        precondition: Precondition::unscaled(prediction, NoiseInput::Level { noisiest_first: false, factor: 1.0 }),
        symmetric: true,
        clamp: read.read("clip_sample", clips)?,
        grid: None,
    })
}

fn steps_of(read: &mut Reader) -> Result<usize> {
    let count = read.read("num_train_timesteps", 1000)?;
    ensure!((2..=1_000_000).contains(&count), "num_train_timesteps is {count}: it is a whole number from 2 to 1000000");
    Ok(count)
}

/// ᾱ of the noisiest level where its signal is scaled away: that of the library's Euler, so that a logarithm stays finite.
pub(super) const LEAST_SIGNAL: f64 = 1.0 / (1 << 24) as f64;

/// ᾱ from which on the noise says what the picture is: a thousand times more noise than signal.
const FAINT: f64 = 1e-6;

pub(super) fn betas(read: &mut Reader, [first, last]: [f64; 2]) -> Result<LevelList> {
    let (first, last) = (read.read("beta_start", first)?, read.read("beta_end", last)?);
    let count = steps_of(read)?;
    let lists = [
        ("linear", LevelList::Linear { first, last, count }),
        ("scaled_linear", LevelList::SqrtLinear { first, last, count }),
        ("squaredcos_cap_v2", LevelList::Cosine { offset: 0.008, max_beta: MAX_BETA, count }),
        ("sigmoid", LevelList::Sigmoid { first, last, reach: 6.0, count }),
        ("laplace", laplace(count)),
    ];
    match read.read("trained_betas", None)? {
        Some(values) => {
            read.skip(&["beta_schedule"]);
            Ok(LevelList::Betas { values })
        }
        None => read.word("beta_schedule", &lists),
    }
}

/// The largest β of lists that follow from ᾱ.
const MAX_BETA: f64 = 0.999;

/// The library's list of that name: ᾱ(u) = √(s/(1 + s)), ln s = −½ sign(½ − u) ln(1 − 2|½ − u| + 10⁻⁶).
fn laplace(count: usize) -> LevelList {
    let bar = |level: usize| {
        let from_middle = 0.5 - level as f64 / count as f64;
        let log_snr = -0.5 * (1.0 - 2.0 * from_middle.abs() + 1e-6).ln() * from_middle.signum();
        (1.0 + (-log_snr).exp()).powf(-0.5)
    };
    let beta = |level: usize| (1.0 - bar(level + 1) / bar(level)).min(MAX_BETA);
    LevelList::Betas { values: (0..count).map(beta).collect() }
}

/// ᾱ of levels after Lin et al. (arXiv:2305.08891, algorithm 1): √ᾱ moved and scaled so that the noisiest has no signal.
pub(super) fn without_signal(levels: LevelList) -> Result<Vec<f64>> {
    let mut alpha_bar = Discrete::new(levels)?.alpha_bar();
    let (first, last) = (alpha_bar[0].sqrt(), alpha_bar[alpha_bar.len() - 1].sqrt());
    for bar in &mut alpha_bar {
        *bar = ((bar.sqrt() - last) * first / (first - last)).powi(2);
    }
    // Below the level before it, which may have less than the library's least.
    let noisiest = alpha_bar.len() - 1;
    alpha_bar[noisiest] = LEAST_SIGNAL.min(0.5 * alpha_bar[noisiest - 1]);
    Ok(alpha_bar)
}
