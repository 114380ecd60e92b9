//! How schedulers of the `diffusers` library go from noise to a picture, level by level, in our samplers: what its stored runs are compared
//! with, and how its pipelines are sampled unless asked otherwise.
//!
//! A scheduler is a sampler and its levels. States here are those of the training noise, x = α x_0 + σ ε; `EulerDiscreteScheduler` works on
//! x/α.

use serde_json::Value as Json;
use stein::{AnySampler, Ddim, Discrete, DpmSolverPp, Form, Grid, Kernel, Plms, Result, Spacing, ensure};

use super::{
    config::{Reader, text},
    diffusers_scheduler::{DDPM, LEAST_SIGNAL, betas, without_signal},
    unsupported,
};

/// From noise to a picture.
pub(super) struct Walk {
    /// The levels of every part; a part begins with what the one before it ended with, whatever level it says.
    pub(super) parts: Vec<Vec<Kernel>>,
    /// What goes along them.
    pub(super) sampler: AnySampler,
    /// What standard normal noise is multiplied by to start from.
    pub(super) start: f64,
    /// Whether the library's states are x/α.
    pub(super) unscaled: bool,
    /// States of the library after which there is none of ours: those of steps that are taken back.
    pub(super) provisional: usize,
}

/// The schedulers whose runs are known here.
const KNOWN: &str = "DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler and DPMSolverMultistepScheduler";

/// What the schedulers share.
struct Setup {
    alpha_bar: Vec<f64>,
    spacing: String,
    offset: usize,
    steps: usize,
}

impl Setup {
    fn of(read: &mut Reader, spacing: &str, zero: f64, steps: usize) -> Result<Self> {
        let levels = betas(read, DDPM)?;
        let mut alpha_bar = Discrete::new(levels.clone())?.alpha_bar();
        if read.read("rescale_betas_zero_snr", false)? {
            alpha_bar = without_signal(levels)?;
            if let Some(last) = alpha_bar.last_mut() {
                *last = zero;
            }
        }
        let count = alpha_bar.len();
        ensure!((1..=count).contains(&steps), "a run of {steps} steps is none: there are {count} levels");
        let (spacing, offset) = (read.read("timestep_spacing", spacing.to_owned())?, read.read("steps_offset", 0)?);
        Ok(Self { alpha_bar, spacing, offset, steps })
    }

    fn count(&self) -> usize {
        self.alpha_bar.len()
    }

    /// The steps asked about, the noisiest first, of `points` in equal parts of which all but the cleanest `left` are taken. They are whole
    /// numbers where `rounded`.
    fn times(&self, points: usize, rounded: bool) -> Result<Vec<f64>> {
        let (count, steps) = (self.count(), self.steps);
        let left = points - steps;
        let round = |t: f64| if rounded { t.round_ties_even() } else { t };
        let times: Vec<f64> = match &self.spacing[..] {
            "linspace" => {
                let at = |i: usize| (count - 1) as f64 * i as f64 / (points.max(2) - 1) as f64;
                (left..points).rev().map(|i| round(at(i))).collect()
            }
            "leading" => (left..points).rev().map(|i| (i * (count / points) + self.offset) as f64).collect(),
            "trailing" => {
                let stride = count as f64 / steps as f64;
                (0..steps).map(|i| (count as f64 - i as f64 * stride).round_ties_even() - 1.0).collect()
            }
            other => {
                return Err(unsupported(format!("timestep_spacing is {other}: known are linspace, leading, trailing")));
            }
        };
        ensure!(
            times[0] <= (count - 1) as f64,
            "the first of {steps} steps is {}, and the last that the network knows is {}: ask for fewer",
            times[0],
            count - 1
        );
        Ok(times)
    }

    /// The level of a step.
    fn level(&self, t: f64) -> Kernel {
        kernel(t, self.alpha_bar[t as usize])
    }

    /// σ/α of every step, the cleanest first.
    fn noise(&self) -> Vec<f64> {
        self.alpha_bar.iter().map(|bar| ((1.0 - bar) / bar).sqrt()).collect()
    }

    /// The level of a step between two, on a line of σ/α.
    fn between(&self, t: f64) -> Kernel {
        let noise = self.noise();
        let (low, part) = (t.floor() as usize, t.fract());
        let high = (low + 1).min(noise.len() - 1);
        of_noise(t, noise[low] + part * (noise[high] - noise[low]))
    }

    /// The level `stride` steps before another, or the last.
    fn before(&self, t: f64, clean: bool) -> Kernel {
        let before = t - (self.count() / self.steps) as f64;
        match (before >= 0.0, clean) {
            (true, _) => self.level(before),
            (false, true) => Kernel::CLEAN,
            (false, false) => self.level(0.0),
        }
    }
}

/// The level of a step with this ᾱ.
fn kernel(t: f64, bar: f64) -> Kernel {
    // No sampler here asks how fast they change.
    Kernel { t, alpha: bar.sqrt(), sigma: (1.0 - bar).sqrt(), d_alpha: f64::NAN, d_sigma: f64::NAN }
}

/// The level of a step with this σ/α.
fn of_noise(t: f64, noise: f64) -> Kernel {
    kernel(t, 1.0 / (1.0 + noise * noise))
}

/// How a scheduler samples in so many steps.
///
/// # Errors
/// A scheduler that is not known here, and options of it that change its runs and are not.
pub(super) fn walk(scheduler: &Json, steps: usize) -> Result<Walk> {
    let read = &mut Reader::new("the scheduler", scheduler)?;
    let plain =
        Walk { parts: Vec::new(), sampler: Ddim::default().into(), start: 1.0, unscaled: false, provisional: 0 };
    for key in ["thresholding", "clip_sample", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"] {
        // DDIM and PNDM clip unless they say otherwise, which pipelines of latents all do.
        read.only(key, &[false.into()])?;
    }
    match text(scheduler, "_class_name").unwrap_or_default() {
        "DDIMScheduler" => {
            let setup = Setup::of(read, "leading", 0.0, steps)?;
            let clean = read.read("set_alpha_to_one", true)?;
            let part = |t: f64| vec![setup.level(t), setup.before(t, clean)];
            let parts = setup.times(steps, true)?.into_iter().map(part).collect();
            Ok(Walk { parts, ..plain })
        }
        "PNDMScheduler" => {
            let setup = Setup::of(read, "leading", 0.0, steps)?;
            ensure!(
                Kind::Unsupported,
                read.read("skip_prk_steps", false)? && setup.spacing == "leading",
                "runs of PNDMScheduler are known here with skip_prk_steps and timestep_spacing leading"
            );
            let times = setup.times(steps, true)?;
            let mut levels: Vec<Kernel> = times.iter().map(|t| setup.level(*t)).collect();
            levels.push(setup.before(times[steps - 1], read.read("set_alpha_to_one", false)?));
            // The first step is taken twice.
            let provisional = usize::from(steps > 1);
            Ok(Walk { parts: vec![levels], sampler: Plms {}.into(), provisional, ..plain })
        }
        "EulerDiscreteScheduler" => {
            let setup = Setup::of(read, "linspace", LEAST_SIGNAL, steps)?;
            read.only("use_karras_sigmas", &[false.into()])?;
            read.only("final_sigmas_type", &["zero".into()])?;
            read.only("interpolation_type", &["linear".into()])?;
            let mut levels: Vec<Kernel> = setup.times(steps, false)?.into_iter().map(|t| setup.between(t)).collect();
            // The library forgets the signal's share of the start but for one spacing.
            let start = if setup.spacing == "leading" { 1.0 } else { levels[0].sigma };
            levels.push(Kernel::CLEAN);
            Ok(Walk { parts: vec![levels], start, unscaled: true, ..plain })
        }
        "DPMSolverMultistepScheduler" => {
            let setup = Setup::of(read, "linspace", LEAST_SIGNAL, steps)?;
            read.only("algorithm_type", &["dpmsolver++".into()])?;
            read.only("final_sigmas_type", &["zero".into()])?;
            let form = read.word("solver_type", &[("midpoint", Form::Midpoint), ("heun", Form::Heun)])?;
            let order = read.read("solver_order", 2)?;
            ensure!(
                Kind::Unsupported,
                (1..=2).contains(&order),
                "solver_order is {order}: runs of 1 and 2 are known here"
            );
            let points = if setup.spacing == "trailing" { steps } else { steps + 1 };
            let times = setup.times(points, true)?;
            let mut levels: Vec<Kernel> = if read.read("use_karras_sigmas", false)? {
                karras(&setup)
            } else {
                times.into_iter().map(|t| setup.between(t)).collect()
            };
            levels.push(Kernel::CLEAN);
            let sampler = DpmSolverPp { order, form, ..DpmSolverPp::default() };
            Ok(Walk { parts: vec![levels], sampler: sampler.into(), ..plain })
        }
        other => Err(unsupported(format!("runs of {other} are not known here: only those of {KNOWN}"))),
    }
}

/// Karras et al.'s levels between the noisiest and the cleanest, each asked about as the nearest step on a line of ln σ/α.
fn karras(setup: &Setup) -> Vec<Kernel> {
    const RHO: f64 = 7.0;
    let (noise, steps) = (setup.noise(), setup.steps);
    let (most, least) = (noise[noise.len() - 1].powf(1.0 / RHO), noise[0].powf(1.0 / RHO));
    let at = |i: usize| {
        let sigma = (most + i as f64 / (steps.max(2) - 1) as f64 * (least - most)).powf(RHO);
        let low = noise.partition_point(|x| *x <= sigma).clamp(1, noise.len() - 1) - 1;
        let (below, above) = (noise[low].ln(), noise[low + 1].ln());
        let part = ((sigma.ln() - below) / (above - below)).clamp(0.0, 1.0);
        of_noise((low as f64 + part).round_ties_even(), sigma)
    };
    (0..steps).map(at).collect()
}

/// How a pipeline of a scheduler is sampled unless asked otherwise: as the library does, where our grids have its levels, or else by DDIM on
/// the levels of its training. Beside them the entries of its file that were taken.
pub(super) fn usual(scheduler: &Json) -> (AnySampler, Grid, &'static [&'static str]) {
    const TAKEN: [&str; 4] = ["set_alpha_to_one", "skip_prk_steps", "steps_offset", "timestep_spacing"];
    /// What the library's pipelines take.
    const STEPS: usize = 50;
    let ends_clean = scheduler.get("set_alpha_to_one").and_then(Json::as_bool);
    let offset = scheduler.get("steps_offset").and_then(Json::as_u64).unwrap_or(0) as usize;
    let trailing = Grid { spacing: Spacing::Trailing {}, steps: STEPS, ..Grid::default() };
    let leading = |clean: bool| Grid { spacing: Spacing::Leading { offset }, steps: STEPS, clean, ..Grid::default() };
    let spacing = text(scheduler, "timestep_spacing").unwrap_or("leading");
    match (text(scheduler, "_class_name").unwrap_or_default(), spacing) {
        ("DDIMScheduler", "leading") => (Ddim::default().into(), leading(ends_clean.unwrap_or(true)), &TAKEN),
        ("PNDMScheduler", "leading") => (Plms {}.into(), leading(ends_clean.unwrap_or(false)), &TAKEN),
        _ => (Ddim::default().into(), trailing, &[]),
    }
}
