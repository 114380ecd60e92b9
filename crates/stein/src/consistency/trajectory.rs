//! Consistency trajectory models (Kim et al. 2023, arXiv:2310.02279): a map G(x_t, t, s) between any two levels, distilled from a teacher.
//!
//! G(x_t, t, s) is compared with G⁻(x̂_u, u, s), where x̂_u is one step of the teacher's ODE below x_t and s any level from u down to the
//! end; both are carried on to the end by G⁻, so that distances are those of data (with u the next level: local consistency).
//! Beside it stands denoising score matching on the map's own denoiser, D(x, t) = G of a step of no length. The adversarial
//! loss of the paper is left out.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, Metric, Pair, Points, RowLosses, Solver, pair};
use crate::{
    AnySchedule, Examples, Kernel, Levels, MapForm, MapSettings, Prediction, Purpose, Result, ensure,
    numbers::ensure_within, rows,
};

/// Consistency trajectory distillation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Trajectory {
    /// The number of levels; default fixed, 18.
    pub points: Points,
    /// The teacher's step; default `heun`.
    pub solver: Solver,
    /// The distance; default `l2`.
    pub metric: Metric,
    /// The weight of denoising score matching; from 0 (none) to 1e6, default 1.
    pub denoising: f64,
}

impl Default for Trajectory {
    fn default() -> Self {
        Self { points: Points::Fixed { count: 18 }, solver: Solver::Heun, metric: Metric::L2 {}, denoising: 1.0 }
    }
}

impl MapObjective for Trajectory {
    fn check(&self, map: &MapSettings, _: &AnySchedule) -> Result<()> {
        ensure!(
            matches!(map.form, MapForm::Trajectory { .. }),
            "the objective trajectory is for maps that hold a denoiser: set family.form to trajectory"
        );
        self.points.check()?;
        self.metric.check()?;
        ensure_within("objective: denoising", self.denoising, 0.0..=1e6)
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses> {
        let Examples { x0, given, keys, .. } = *examples;
        let eps = examples.noise()?;
        let levels = self.points.levels(maps.step, maps.steps, &*maps.student.schedule)?;
        let last = levels.len() - 1;
        let chosen = keys.uniforms(Purpose::Level, 0, 2);
        let chosen = chosen.chunks(2).map(|u| {
            let i = (u[0] * last as f64) as usize;
            // From the next level down to the end.
            let s = i + 1 + (u[1] * (last - i) as f64) as usize;
            (levels[i], levels[i + 1], levels[s])
        });
        let (mut from, mut next, mut to) = (Vec::new(), Vec::new(), Vec::new());
        for (t, u, s) in chosen {
            from.push(t);
            next.push(u);
            to.push(s);
        }
        let pair = Pair::of_teacher(x0, &eps, from, next, maps.teacher()?, self.solver, given)?;
        let (t, u, s): (Levels, Levels, Levels) = ((&pair.from[..]).into(), (&pair.to[..]).into(), (&to[..]).into());
        let end = Levels::Same(&levels[last]);
        let dropout = Some(keys);
        let student = maps.student.carry_at(pair.x.clone().into(), t, s, given, dropout)?;
        let target = maps.target.carry_at(pair.next.clone().into(), u, s, given, dropout)?;
        let student = maps.target.carry_at(student, s, end, given, dropout)?.value;
        let target = maps.target.carry_at(target, s, end, given, dropout)?.value;
        let mut losses = self.metric.of(student - target);
        if self.denoising > 0.0 {
            let MapForm::Trajectory { sigma_data } = maps.student.settings.form else {
                return Err(crate::Error::new("the objective trajectory is for the form trajectory"));
            };
            // F of a step of no length, against what EDM's prediction is.
            let form = &maps.student.settings.form;
            let target = |at: &Kernel| Prediction::Edm { sigma_data }.target(at);
            let wanted = rows::scale(x0.clone(), &pair::of(&pair.from, |at| target(at).0))
                + rows::scale(eps, &pair::of(&pair.from, |at| target(at).1));
            let input = rows::scale(pair.x.clone(), &pair::of(&pair.from, |at| form.scalings(at, at).input));
            let raw = maps.student.raw(input.into(), t, t, None, given, dropout)?.value;
            losses = losses + (raw - wanted).square().mean_dim(1).mul_scalar(self.denoising);
        }
        Ok(RowLosses { losses, at: pair.from })
    }
}
