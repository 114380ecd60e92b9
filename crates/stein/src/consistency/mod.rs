//! Consistency objectives: what is minimized so that a network learns a flow map. One file each.
//!
//! A map f is the flow's when it says the same along a trajectory. Discrete objectives compare f(x_t, t) with f(x_s, s) a short step
//! down the trajectory through x_t, which a teacher's ODE step finds ([`Distillation`]) or the example itself stands for
//! ([`Training`], [`Improved`], [`Easy`]); continuous ones let the step go to zero, where a Jacobian-vector product takes the place of the
//! difference ([`Continuous`], [`MeanFlow`]); and maps between any two levels are held to carry in one step where two steps lead
//! ([`Shortcut`], [`Trajectory`]). The baselines they are compared with are here too: progressive distillation ([`Halves`]) and
//! [`distribution_matching`].

mod continuous;
mod curriculum;
mod distillation;
mod distribution_matching;
mod easy;
mod improved;
mod mean_flow;
mod metric;
mod pair;
mod progressive;
mod shortcut;
mod training;
mod trajectory;

pub use continuous::{Continuous, Tangent, Velocity};
pub use curriculum::{Points, Target};
pub use distillation::Distillation;
pub use distribution_matching::distribution_matching;
pub use easy::{Easy, Shrink};
pub use improved::Improved;
pub use mean_flow::{MeanFlow, PairOfTimes};
pub use metric::{Metric, PairWeighting};
pub use pair::{Pair, Solver};
pub use progressive::{Halves, Halving};
pub use shortcut::Shortcut;
pub use training::Training;
pub use trajectory::Trajectory;

use stein_base::registry;

use crate::{AnySchedule, Denoiser, Examples, Kernel, MapNetwork, MapSettings, Network, Result, Tensor, ensure};

/// The maps a loss compares, and how far training is.
pub struct Maps<'a> {
    /// The map that learns, on a tape.
    pub student: MapNetwork<&'a dyn Network>,
    /// The map it is compared with, a constant: of the weights that [`Target`] says.
    pub target: MapNetwork<&'a dyn Network>,
    /// The denoiser whose trajectories are followed, where the objective has a teacher.
    pub teacher: Option<&'a dyn Denoiser>,
    /// Steps taken before this one, k.
    pub step: u64,
    /// Steps in all, K.
    pub steps: u64,
}

impl Maps<'_> {
    /// The teacher.
    fn teacher(&self) -> Result<&dyn Denoiser> {
        self.teacher.ok_or_else(|| {
            crate::Error::new("this objective distills a teacher, and there is none: name one in family.teacher")
        })
    }
}

/// The losses of some examples.
pub struct RowLosses {
    /// One number a row, `[rows, 1]`, whose mean is the loss.
    pub losses: Tensor<2>,
    /// The level each row was carried from.
    pub at: Vec<Kernel>,
}

/// An objective for a flow map.
pub trait MapObjective: std::fmt::Debug + Send + Sync {
    /// Fails if its settings are out of their ranges, or it is none for maps of this kind on this schedule.
    ///
    /// # Errors
    /// See above.
    fn check(&self, map: &MapSettings, schedule: &AnySchedule) -> Result<()>;

    /// Whether it follows a teacher.
    fn needs_teacher(&self) -> bool {
        false
    }

    /// Whose weights the target has; default the student's own.
    fn target(&self) -> Target {
        Target::Own {}
    }

    /// The number of levels at step k of K, of an objective that cuts the trajectory into some; its target may follow the slower the more
    /// there are.
    fn points(&self, _step: u64, _steps: u64) -> usize {
        2
    }

    /// Whether the weight of a level is learned beside: the loss is then e^w L − w.
    fn learns_weight(&self) -> bool {
        false
    }

    /// Whether some rows are asked for without their class, so that classes have to be hidden now and then.
    fn guides(&self) -> bool {
        false
    }

    /// The loss of every row. The settings must have passed [`check`](Self::check), which is not repeated here.
    ///
    /// # Errors
    /// Those of the networks and the teacher; a number of keys that is not that of the rows.
    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses>;
}

registry! {
    /// Every consistency objective, tagged by `kind` in files.
    AnyMapObjective, "consistency objective": MapObjective {
        /// Consistency distillation: neighbors on a teacher's trajectory (Song et al. 2023, algorithm 2).
        "distillation" | "cd" | "consistency_distillation" => Distillation,
        /// Consistency training: neighbors on the straight way to the example, without a teacher (Song et al. 2023, algorithm 3).
        "training" | "ct" | "consistency_training" => Training,
        /// Improved consistency training (Song and Dhariwal 2023): a doubling number of levels, a pseudo-Huber metric, no average.
        "improved_training" | "ict" => Improved,
        /// Easy consistency tuning (Geng et al. 2024): from a pretrained denoiser, with steps that shrink as training goes on.
        "easy_tuning" | "ect" => Easy,
        /// Continuous-time consistency, distilled or trained (Lu and Song 2024, sCM).
        "continuous" | "scm" => Continuous,
        /// The average velocity between two times (Geng et al. 2025).
        "mean_flow" | "meanflow" => MeanFlow,
        /// Steps of two lengths that agree (Frans et al. 2024).
        "shortcut" => Shortcut,
        /// From any level to any other, on a teacher's trajectory (Kim et al. 2023, soft consistency with denoising score matching).
        "trajectory" | "ctm" => Trajectory,
    }
}

/// Fails unless what objectives on pairs of neighbors share is in its ranges, and the map leads to the end.
fn check_pairs(
    objective: &str,
    map: &MapSettings,
    points: &Points,
    (metric, weighting, target): (&Metric, &PairWeighting, &Target),
) -> Result<()> {
    ensure_ends(objective, map)?;
    points.check()?;
    metric.check()?;
    weighting.check()?;
    target.check()
}

/// Fails unless the map leads to the end alone.
fn ensure_ends(objective: &str, map: &MapSettings) -> Result<()> {
    ensure!(
        !map.form.anywhere(),
        "the objective {objective} is not for a map that leads between any two levels: set family.form to edm_shifted, edm or trig_flow"
    );
    Ok(())
}
