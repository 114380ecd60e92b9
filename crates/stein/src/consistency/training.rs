//! Consistency training (Song et al. 2023, arXiv:2303.01469, algorithm 3): as distillation, with the same noise on the example at both
//! levels in place of the teacher's step. For N → ∞ its gradient is that of distillation (theorem 2).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, Metric, Pair, PairWeighting, Points, RowLosses, Target, check_pairs};
use crate::{AnySchedule, Examples, MapSettings, Result};

/// Consistency training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// The number of levels; default progressive from 2 to 150.
    pub points: Points,
    /// The distance; default `l2`.
    pub metric: Metric,
    /// What each pair counts; default `unit`.
    pub weighting: PairWeighting,
    /// Whose weights the target has; default adaptive from 0.9.
    pub target: Target,
}

/// As on CIFAR-10, with ‖·‖² instead of LPIPS.
impl Default for Training {
    fn default() -> Self {
        Self {
            points: Points::Progressive { first: 2, last: 150 },
            metric: Metric::L2 {},
            weighting: PairWeighting::Unit {},
            target: Target::Adaptive { start: 0.9, first: 2 },
        }
    }
}

impl MapObjective for Training {
    fn check(&self, map: &MapSettings, _: &AnySchedule) -> Result<()> {
        check_pairs("training", map, &self.points, (&self.metric, &self.weighting, &self.target))
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
        let pair = Pair::of_data(examples.x0, &eps, from, to);
        let losses = pair.losses(maps, self.metric, self.weighting, examples.given, Some(examples.keys))?;
        Ok(RowLosses { losses, at: pair.from })
    }
}
