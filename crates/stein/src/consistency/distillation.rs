//! Consistency distillation (Song et al. 2023, arXiv:2303.01469, algorithm 2): E λ d(f(x_t, t), f⁻(x̂_s, s)) with x̂_s one step of the
//! teacher's ODE below x_t = α x_0 + σ ε, and t, s neighbors among N levels.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, Metric, Pair, PairWeighting, Points, RowLosses, Solver, Target, check_pairs};
use crate::{AnySchedule, Examples, MapSettings, Result};

/// Consistency distillation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Distillation {
    /// The number of levels; default fixed, 18.
    pub points: Points,
    /// The teacher's step; default `heun`.
    pub solver: Solver,
    /// The distance; default `l2`.
    pub metric: Metric,
    /// What each pair counts; default `unit`.
    pub weighting: PairWeighting,
    /// Whose weights the target has; default the student's own.
    pub target: Target,
}

/// As on CIFAR-10, with ‖·‖² instead of LPIPS.
impl Default for Distillation {
    fn default() -> Self {
        Self {
            points: Points::Fixed { count: 18 },
            solver: Solver::Heun,
            metric: Metric::L2 {},
            weighting: PairWeighting::Unit {},
            target: Target::Own {},
        }
    }
}

impl MapObjective for Distillation {
    fn check(&self, map: &MapSettings, _: &AnySchedule) -> Result<()> {
        check_pairs("distillation", map, &self.points, (&self.metric, &self.weighting, &self.target))
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn target(&self) -> Target {
        self.target
    }

    fn points(&self, step: u64, steps: u64) -> usize {
        self.points.at(step, steps)
    }

    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses> {
        let eps = examples.noise()?;
        let levels = self.points.levels(maps.step, maps.steps, &*maps.student.schedule)?;
        let (from, to) = Pair::uniform(&levels, examples.keys);
        let pair = Pair::of_teacher(examples.x0, &eps, from, to, maps.teacher()?, self.solver, examples.given)?;
        let losses = pair.losses(maps, self.metric, self.weighting, examples.given, Some(examples.keys))?;
        Ok(RowLosses { losses, at: pair.from })
    }
}
