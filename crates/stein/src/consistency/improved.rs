//! Improved consistency training (Song and Dhariwal 2023, arXiv:2310.14189): a doubling number of levels, pairs drawn like a log-normal,
//! weight 1/(σ_{i+1} − σ_i), pseudo-Huber distance, and the student itself as target.
//!
//! A pair (σ_i, σ_{i+1}) is drawn with probability ∝ Φ((ln σ_{i+1} − mean)/std) − Φ((ln σ_i − mean)/std).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, Metric, Pair, PairWeighting, Points, RowLosses, ensure_ends};
use crate::{
    AnySchedule, Examples, Kernel, MapSettings, Purpose, Result,
    numbers::{above, ensure_within},
};

/// Improved consistency training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Improved {
    /// The number of levels; default doubling from 10 to 1280.
    pub points: Points,
    /// Mean of ln σ of the pairs; default −1.1.
    pub mean: f64,
    /// Standard deviation of ln σ of the pairs; above 0, default 2.
    pub std: f64,
    /// The distance; default pseudo-Huber with c = 0.00054 √D.
    pub metric: Metric,
}

impl Default for Improved {
    fn default() -> Self {
        Self {
            points: Points::Doubling { first: 10, last: 1280 },
            mean: -1.1,
            std: 2.0,
            metric: Metric::PseudoHuber { c: None },
        }
    }
}

impl Improved {
    /// The probability of each pair of neighbors among `levels`, noisiest first.
    pub fn probabilities(&self, levels: &[Kernel]) -> Vec<f64> {
        let place = |at: &Kernel| (at.noise_to_signal().ln() - self.mean) / (std::f64::consts::SQRT_2 * self.std);
        let part = |pair: &[Kernel]| {
            let (high, low) = (place(&pair[0]), place(&pair[1]));
            // Above the mean by the complement, which keeps the digits of small numbers.
            if low > 0.0 { libm::erfc(low) - libm::erfc(high) } else { libm::erf(high) - libm::erf(low) }
        };
        let parts: Vec<f64> = levels.windows(2).map(part).collect();
        let all: f64 = parts.iter().sum();
        parts.into_iter().map(|part| part / all).collect()
    }
}

impl MapObjective for Improved {
    fn check(&self, map: &MapSettings, _: &AnySchedule) -> Result<()> {
        ensure_ends("improved_training", map)?;
        ensure_within("objective: mean", self.mean, -20.0..=20.0)?;
        ensure_within("objective: std", self.std, above(0.0, 10.0))?;
        self.points.check()?;
        self.metric.check()
    }

    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses> {
        let eps = examples.noise()?;
        let levels = self.points.levels(maps.step, maps.steps, &*maps.student.schedule)?;
        let sums: Vec<f64> = self
            .probabilities(&levels)
            .into_iter()
            .scan(0.0, |sum, part| {
                *sum += part;
                Some(*sum)
            })
            .collect();
        let chosen = examples.keys.uniform(Purpose::Level, 0).into_iter();
        let chosen = chosen.map(|u| sums.partition_point(|&sum| sum <= u).min(levels.len() - 2));
        let (from, to) = chosen.map(|i| (levels[i], levels[i + 1])).unzip();
        let pair = Pair::of_data(examples.x0, &eps, from, to);
        let losses = pair.losses(maps, self.metric, PairWeighting::Interval {}, examples.given, Some(examples.keys))?;
        Ok(RowLosses { losses, at: pair.from })
    }
}
