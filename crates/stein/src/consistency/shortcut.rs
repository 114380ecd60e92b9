//! Shortcut models (Frans et al. 2024, arXiv:2410.12557): one network for steps of every length d = 2^−k, of which a step is held to
//! carry where two steps of half its length lead.
//!
//! Most examples are of flow matching, at the shortest length; the others are regressed on
//! (u(x_t, t, d/2) + u(x_{t − d/2}, t − d/2, d/2))/2 by the averaged weights, t a multiple of d. Time grows
//! towards the noise here.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, RowLosses, Target, mean_flow::ensure_velocities, pair};
use crate::{
    AnySchedule, Examples, Kernel, MapSettings, Purpose, Result, Schedule, Tensor, ensure, numbers::ensure_within, rows,
};

/// A shortcut model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Shortcut {
    /// Steps of the shortest length from noise to data, a power of two from 2 to 65536; default 128.
    pub steps: u32,
    /// The share of examples whose two steps are compared with one, in \[0, 1\]; default 0.25.
    pub bootstrap: f64,
}

/// As published, with a quarter instead of an eighth of the examples for consistency: batches are small here.
impl Default for Shortcut {
    fn default() -> Self {
        Self { steps: 128, bootstrap: 0.25 }
    }
}

impl Shortcut {
    /// (t, d, whether it is for consistency), of two uniform numbers.
    fn step(&self, first: f64, second: f64) -> (f64, f64, bool) {
        let shortest = 1.0 / f64::from(self.steps);
        let bootstraps = first < self.bootstrap;
        let d = if bootstraps {
            // Of lengths 1, 1/2, … down to twice the shortest, each as likely.
            let lengths = f64::from(self.steps.ilog2());
            0.5f64.powi((first / self.bootstrap * lengths) as i32)
        } else {
            shortest
        };
        let places = (1.0 / d).round();
        (((second * places).floor() + 1.0) * d, d, bootstraps)
    }
}

impl MapObjective for Shortcut {
    fn check(&self, map: &MapSettings, _: &AnySchedule) -> Result<()> {
        ensure_velocities("shortcut", map)?;
        ensure!(
            self.steps.is_power_of_two() && (2..=65536).contains(&self.steps),
            "objective: steps = {} must be a power of two from 2 to 65536",
            self.steps
        );
        ensure_within("objective: bootstrap", self.bootstrap, 0.0..=1.0)
    }

    fn target(&self) -> Target {
        Target::Averaged {}
    }

    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses> {
        let Examples { x0, given, keys, .. } = *examples;
        let eps = examples.noise()?;
        let uniform = keys.uniforms(Purpose::Level, 0, 2);
        let schedule: &dyn Schedule = &*maps.student.schedule;
        let steps: Vec<(f64, f64, bool)> = uniform.chunks(2).map(|u| self.step(u[0], u[1])).collect();
        let at = |part: f64| -> Vec<Kernel> {
            steps.iter().map(|(t, d, _)| schedule.kernel((t - part * d).max(0.0))).collect()
        };
        let (from, middle, to) = (at(0.0), at(0.5), at(1.0));
        let x = pair::noisy(x0, &eps, &from);
        let halves: Vec<usize> = (0..steps.len()).filter(|&row| steps[row].2).collect();
        let mut target = eps - x0.clone();
        if !halves.is_empty() {
            let pick = |all: &[Kernel]| -> Vec<Kernel> { halves.iter().map(|&row| all[row]).collect() };
            let (from, middle, to) = (pick(&from), pick(&middle), pick(&to));
            let given = given.select(&halves);
            let keys = keys.select(&halves);
            let half = |x: &Tensor<2>, from: &[Kernel], to: &[Kernel]| {
                let u = maps.target.raw(x.clone().into(), from.into(), to.into(), None, &given, Some(&keys))?.value;
                let length = pair::with(from, to, |from, to| to.t - from.t);
                Ok::<_, crate::Error>((x.clone() + rows::scale(u.clone(), &length), u))
            };
            let (next, first) = half(&rows::select(x.clone(), &halves), &from, &middle)?;
            let (_, second) = half(&next, &middle, &to)?;
            let mean = (first + second).mul_scalar(0.5);
            // Of these rows the means, which stand behind all.
            let mut places: Vec<usize> = (0..steps.len()).collect();
            halves.iter().enumerate().for_each(|(place, &row)| places[row] = steps.len() + place);
            target = rows::select(Tensor::cat(vec![target, mean], 0), &places);
        }
        let u = maps.student.raw(x.into(), (&from[..]).into(), (&to[..]).into(), None, given, Some(keys))?.value;
        Ok(RowLosses { losses: (u - target).square().mean_dim(1), at: from })
    }
}
