//! Curricula: into how many levels the trajectory is cut at step k of K, and how slowly the target follows the student.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{Grid, Kernel, Result, Schedule, ensure, numbers::ensure_within};

/// The number of levels N(k), the end counted, with ρ = 7 between them (Karras et al. 2022, eq. 5).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Points {
    /// As many all the time.
    Fixed {
        /// N; from 2 to 100,000.
        count: usize,
    },
    /// ⌈√(k/K ((s₁ + 1)² − s₀²) + s₀²) − 1⌉ + 1 (Song et al. 2023, appendix C).
    Progressive {
        /// s₀, how many at first; from 2.
        first: usize,
        /// s₁, about how many at last; above s₀, to 100,000.
        last: usize,
    },
    /// min(s₀ 2^⌊k/K'⌋, s₁) + 1 with K' = ⌊K/(log₂⌊s₁/s₀⌋ + 1)⌋ (Song and Dhariwal 2023).
    Doubling {
        /// s₀, how many at first; from 2.
        first: usize,
        /// s₁, how many at last; above s₀, to 100,000.
        last: usize,
    },
}

impl Points {
    /// Fails unless its numbers are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        const MOST: usize = 100_000;
        match *self {
            Self::Fixed { count } => ensure!(
                (2..=MOST).contains(&count),
                "objective: {count} levels are asked for: give points.count from 2 to {MOST}"
            ),
            Self::Progressive { first, last } | Self::Doubling { first, last } => ensure!(
                first >= 2 && first < last && last <= MOST,
                "objective: levels from {first} to {last} are asked for: give points.first of at least 2 and points.last above it, to {MOST}"
            ),
        }
        Ok(())
    }

    /// N at step k of K.
    pub fn at(&self, step: u64, steps: u64) -> usize {
        match *self {
            Self::Fixed { count } => count,
            Self::Progressive { first, last } => {
                let (first, last) = (first as f64, last as f64);
                let part = step as f64 / steps.max(1) as f64;
                let count = (part * ((last + 1.0).powi(2) - first.powi(2)) + first.powi(2)).sqrt() - 1.0;
                count.ceil().max(1.0) as usize + 1
            }
            Self::Doubling { first, last } => {
                let doublings = ((last / first) as f64).log2();
                let every = ((steps as f64 / (doublings + 1.0)).floor() as u64).max(1);
                let factor = 1usize.checked_shl(u32::try_from(step / every).unwrap_or(u32::MAX));
                first.saturating_mul(factor.unwrap_or(usize::MAX)).min(last) + 1
            }
        }
    }

    /// The levels at step k of K, noisiest first, the cleanest of the schedule last.
    ///
    /// # Errors
    /// A schedule that has no such levels.
    pub fn levels(&self, step: u64, steps: u64, schedule: &dyn Schedule) -> Result<Vec<Kernel>> {
        Grid { clean: false, ..Grid::karras(self.at(step, steps) - 1) }.kernels(schedule)
    }
}

/// Whose weights the target of a consistency objective has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// The student's own, as constants.
    #[serde(alias = "stop_gradient")]
    Own {},
    /// An average of the student's that follows it with a fixed decay μ a step.
    Following {
        /// μ; from 0 to below 1. Published for distillation: 0.95.
        decay: f64,
    },
    /// As `following`, with μ(k) = exp(s₀ ln μ₀ / n(k)), n the number of steps between levels (Song et al. 2023, appendix C, as their code
    /// has it; the paper divides by n + 1).
    Adaptive {
        /// μ₀; above 0 and below 1. Published for training: 0.9.
        start: f64,
        /// s₀ of the curriculum.
        first: usize,
    },
    /// The average of the weights that samples are drawn with.
    Averaged {},
}

impl Target {
    /// Fails unless its numbers are in their ranges.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Following { decay } => ensure_within("objective: target.decay", decay, 0.0..1.0),
            Self::Adaptive { start, .. } => ensure_within("objective: target.start", start, 1e-6..1.0),
            _ => Ok(()),
        }
    }

    /// The part of the target that is kept after a step at which there are `points` levels, of one that follows; `None` of one that does not.
    pub fn decay(&self, points: usize) -> Option<f64> {
        match *self {
            Self::Following { decay } => Some(decay),
            Self::Adaptive { start, first } => Some((first as f64 * start.ln() / (points.max(2) - 1) as f64).exp()),
            Self::Own {} | Self::Averaged {} => None,
        }
    }
}
