//! Easy consistency tuning (Geng et al. 2024, arXiv:2406.14548): from a pretrained denoiser, which is a consistency model of steps as long
//! as the trajectory, with pairs (t, r) that come closer as training goes on.
//!
//! r = max(0, t (1 − n(t)/q^(stage + 1))), with n(t) = 1 + k sigmoid(−b t) or n = 1. The loss is √(‖·‖² + c²) − c
//! over the whole row, over t − r; where r = 0 the target is the example itself. σ_t/α_t stands for t.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, Metric, Pair, RowLosses, ensure_ends};
use crate::{
    AnySchedule, Examples, Factors, Kernel, LevelDistribution, Levels, MapForm, MapSettings, Result, Tensor, ensure,
    numbers::{above, ensure_within},
    rows,
};

/// How far below t the other level is, beside the stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Shrink {
    /// n = 1.
    #[serde(alias = "const")]
    Constant {},
    /// n(t) = 1 + k sigmoid(−b t).
    Sigmoid {
        /// k; from 0 to 1e6, default 8.
        #[serde(default = "default_k")]
        k: f64,
        /// b; from 0 to 1e6, default 1.
        #[serde(default = "default_b")]
        b: f64,
    },
}

fn default_k() -> f64 {
    8.0
}

fn default_b() -> f64 {
    1.0
}

/// Easy consistency tuning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Easy {
    /// How t is drawn; default log-normal with mean −1.1 and std 2.
    pub levels: LevelDistribution,
    /// By how much a stage brings r closer to t, q; above 1 and at most 1e9, default 2.
    pub q: f64,
    /// Stages, all equally long; from 1 to 64, default 8.
    pub stages: u64,
    /// n(t); default `sigmoid` with k = 8 and b = 1.
    pub shrink: Shrink,
    /// c of the pseudo-Huber distance; from 0 (the norm) to 1e6, default 0.
    pub c: f64,
}

impl Default for Easy {
    fn default() -> Self {
        Self {
            levels: LevelDistribution::LogNormal { mean: -1.1, std: 2.0 },
            q: 2.0,
            stages: 8,
            shrink: Shrink::Sigmoid { k: default_k(), b: default_b() },
            c: 0.0,
        }
    }
}

impl Easy {
    /// r for a t = σ_t/α_t, at a stage counted from 0.
    pub fn nearer(&self, t: f64, stage: u64) -> f64 {
        let n = match self.shrink {
            Shrink::Constant {} => 1.0,
            Shrink::Sigmoid { k, b } => 1.0 + k / (1.0 + (b * t).exp()),
        };
        (t * (1.0 - n / self.q.powf(stage as f64 + 1.0))).max(0.0)
    }

    /// The stage at step k of K.
    pub fn stage(&self, step: u64, steps: u64) -> u64 {
        (step * self.stages / steps.max(1)).min(self.stages - 1)
    }

    /// The losses `[rows, 1]` of rows at levels t with noise ε, at a stage.
    ///
    /// # Errors
    /// Those of the networks.
    pub fn at_levels(
        &self,
        maps: &Maps,
        examples: &Examples,
        eps: &Tensor<2>,
        from: Vec<Kernel>,
        stage: u64,
    ) -> Result<RowLosses> {
        let schedule = &maps.student.schedule;
        let ends: Vec<f64> = from.iter().map(|from| self.nearer(from.noise_to_signal(), stage)).collect();
        let clean: Vec<f64> = ends.iter().map(|&r| f64::from(u8::from(r == 0.0))).collect();
        // Rows whose target is the example itself are carried from their own level, and what comes of that is not used.
        let to: Vec<Kernel> = from
            .iter()
            .zip(&ends)
            .map(|(from, &r)| if r == 0.0 { *from } else { schedule.kernel(schedule.time_at(-2.0 * r.ln())) })
            .collect();
        let pair = Pair::of_data(examples.x0, eps, from, to);
        let end = Levels::Same(&Kernel::CLEAN);
        let (given, dropout) = (examples.given, Some(examples.keys));
        let target = maps.target.carry_at(pair.next.clone().into(), (&pair.to[..]).into(), end, given, dropout)?.value;
        let kept = Factors::Each(clean.iter().map(|clean| 1.0 - clean).collect());
        let target = rows::scale(target, &kept) + rows::scale(examples.x0.clone(), &Factors::Each(clean));
        let student = maps.student.carry_at(pair.x.clone().into(), (&pair.from[..]).into(), end, given, dropout)?.value;
        let weights = pair.from.iter().zip(&ends).map(|(from, r)| 1.0 / (from.noise_to_signal() - r)).collect();
        let metric = Metric::PseudoHuber { c: Some(self.c) };
        Ok(RowLosses { losses: rows::scale(metric.of(student - target), &Factors::Each(weights)), at: pair.from })
    }
}

impl MapObjective for Easy {
    fn check(&self, map: &MapSettings, schedule: &AnySchedule) -> Result<()> {
        ensure_ends("easy_tuning", map)?;
        ensure!(
            !matches!(map.form, MapForm::EdmShifted { .. }),
            "the objective easy_tuning is for a map that ends at clean data: set family.form to edm or trig_flow"
        );
        self.levels.check(&**schedule)?;
        ensure_within("objective: q", self.q, above(1.0, 1e9))?;
        ensure!((1..=64).contains(&self.stages), "objective: stages = {} must be from 1 to 64", self.stages);
        if let Shrink::Sigmoid { k, b } = self.shrink {
            ensure_within("objective: k of sigmoid", k, 0.0..=1e6)?;
            ensure_within("objective: b of sigmoid", b, 0.0..=1e6)?;
        }
        ensure_within("objective: c", self.c, 0.0..=1e6)
    }

    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses> {
        let eps = examples.noise()?;
        let drawn = self.levels.draw(&*maps.student.schedule, examples.keys);
        let from = drawn.into_iter().map(|(at, _)| at).collect();
        self.at_levels(maps, examples, &eps, from, self.stage(maps.step, maps.steps))
    }
}
