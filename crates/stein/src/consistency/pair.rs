//! Neighbors on a trajectory, and how differently a map carries them to the end.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Maps, Metric, PairWeighting};
use crate::{Condition, Denoiser, Factors, Kernel, Keys, Levels, Purpose, Result, Tensor, denoise, denoiser, rows};

/// One step of the probability-flow ODE dx̂/dσ = (x̂ − D)/σ, with x̂ = x/α and σ = σ_t/α_t.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// Along the slope at the noisier level: first order, one evaluation.
    Euler,
    /// Along the mean of the slopes at both levels: second order, two evaluations (Karras et al. 2022, algorithm 1).
    Heun,
}

impl Solver {
    /// Where rows `x` `[rows, dim]` come to at levels `to`, which have noise.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub fn step(
        self,
        teacher: &dyn Denoiser,
        x: &Tensor<2>,
        from: &[Kernel],
        to: &[Kernel],
        given: &Condition,
    ) -> Result<Tensor<2>> {
        // (x̂ − D)/σ is the noise in x.
        let slope = |x: &Tensor<2>, at: &[Kernel]| {
            let denoised = denoise(teacher, x.clone(), at.into(), given)?;
            Ok::<_, crate::Error>(denoiser::eps(x.clone().into(), denoised.into(), at.into()).value)
        };
        let length = with(from, to, |from, to| to.noise_to_signal() - from.noise_to_signal());
        let scaled = rows::scale(x.clone(), &of(from, |at| 1.0 / at.alpha));
        let back = |scaled: Tensor<2>| rows::scale(scaled, &of(to, |at| at.alpha));
        let first = slope(x, from)?;
        let next = back(scaled.clone() + rows::scale(first.clone(), &length));
        Ok(match self {
            Self::Euler => next,
            Self::Heun => {
                let second = slope(&next, to)?;
                back(scaled + rows::scale((first + second).mul_scalar(0.5), &length))
            }
        })
    }
}

/// A number of each level.
pub(super) fn of(at: &[Kernel], f: impl Fn(&Kernel) -> f64) -> Factors {
    Levels::Each(at).factors(f)
}

/// A number of each level and the one beside it.
pub(super) fn with(at: &[Kernel], others: &[Kernel], f: impl Fn(&Kernel, &Kernel) -> f64) -> Factors {
    Levels::Each(at).factors_with(others.into(), f)
}

/// α x_0 + σ ε.
pub(super) fn noisy(x0: &Tensor<2>, eps: &Tensor<2>, at: &[Kernel]) -> Tensor<2> {
    rows::scale(x0.clone(), &of(at, |at| at.alpha)) + rows::scale(eps.clone(), &of(at, |at| at.sigma))
}

/// Rows at two neighboring levels of their trajectories.
pub struct Pair {
    /// The noisier levels.
    pub from: Vec<Kernel>,
    /// The cleaner ones.
    pub to: Vec<Kernel>,
    /// Rows `[rows, dim]` at the noisier levels.
    pub x: Tensor<2>,
    /// Rows `[rows, dim]` at the cleaner levels.
    pub next: Tensor<2>,
}

impl Pair {
    /// Both with the same noise on the example (Song et al. 2023, theorem 2).
    pub fn of_data(x0: &Tensor<2>, eps: &Tensor<2>, from: Vec<Kernel>, to: Vec<Kernel>) -> Self {
        let (x, next) = (noisy(x0, eps, &from), noisy(x0, eps, &to));
        Self { from, to, x, next }
    }

    /// The cleaner by a teacher's step from the noisier (Song et al. 2023, algorithm 2).
    ///
    /// # Errors
    /// Those of the teacher.
    pub fn of_teacher(
        x0: &Tensor<2>,
        eps: &Tensor<2>,
        from: Vec<Kernel>,
        to: Vec<Kernel>,
        teacher: &dyn Denoiser,
        solver: Solver,
        given: &Condition,
    ) -> Result<Self> {
        let x = noisy(x0, eps, &from);
        let next = solver.step(teacher, &x, &from, &to, given)?;
        Ok(Self { from, to, x, next })
    }

    /// Neighbors among `levels`, noisiest first, each pair as likely.
    pub(super) fn uniform(levels: &[Kernel], keys: &Keys) -> (Vec<Kernel>, Vec<Kernel>) {
        let steps = levels.len() - 1;
        let chosen = keys.uniform(Purpose::Level, 0).into_iter().map(|u| (u * steps as f64) as usize);
        chosen.map(|i| (levels[i], levels[i + 1])).unzip()
    }

    /// f(x, t) − f⁻(x_s, s), `[rows, dim]`: what the student carries to the end beside what the target carries there, with the same values
    /// dropped.
    ///
    /// # Errors
    /// Those of the networks.
    pub fn difference(&self, maps: &Maps, given: &Condition, dropout: Option<&Keys>) -> Result<Tensor<2>> {
        let end = maps.student.settings.form.end(&maps.student.schedule).ok_or_else(|| {
            crate::Error::new("a map between any two levels has no end at which neighbors could be compared")
        })?;
        let end = Levels::Same(&end);
        let student = maps.student.carry_at(self.x.clone().into(), (&self.from[..]).into(), end, given, dropout)?;
        let target = maps.target.carry_at(self.next.clone().into(), (&self.to[..]).into(), end, given, dropout)?;
        Ok(student.value - target.value)
    }

    /// The weighted distances `[rows, 1]`.
    ///
    /// # Errors
    /// As [`difference`](Self::difference).
    pub fn losses(
        &self,
        maps: &Maps,
        metric: Metric,
        weighting: PairWeighting,
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<Tensor<2>> {
        let weights = with(&self.from, &self.to, |from, to| weighting.weight(from, to));
        Ok(rows::scale(metric.of(self.difference(maps, given, dropout)?), &weights))
    }
}
