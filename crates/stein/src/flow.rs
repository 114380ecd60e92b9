//! A velocity on a schedule, as a field for [`ode::integrate`]: the probability-flow ODE of a denoiser (Song et al. 2021, eq. 13), or what
//! flow matching learned. And the codes it gives data: where a sample stands at the noisiest level.

use burn::tensor::Tensor;

use crate::{
    Condition, Dual, Kernel, OwnLevels, Result, Schedule, Velocity,
    denoiser::Asked,
    ode::{self, DORMAND_PRINCE, Integrated, Steps, Times},
};

/// A velocity on a schedule with the condition of every row of a batch.
#[derive(Clone, Copy)]
pub struct Flow<'a> {
    /// dx/dt.
    pub velocity: &'a dyn Velocity,
    /// The levels that time stands for.
    pub schedule: &'a dyn Schedule,
    /// The condition of each row.
    pub given: &'a Condition,
}

impl Flow<'_> {
    /// The velocity of some rows of the batch, with its tangent where x has one.
    ///
    /// # Errors
    /// Those of the velocity; one that has lost a derivative that was asked for.
    pub fn velocity(&self, x: Dual<2>, times: Times, of: &[usize]) -> Result<Dual<2>> {
        let (at, given) = (self.levels(times), self.given.select(of));
        let asked = Asked::of(&x);
        let velocity = self.velocity.velocity(x, at.view(), &given)?;
        asked.check(&velocity, "velocity")?;
        Ok(velocity)
    }

    fn levels(&self, times: Times) -> OwnLevels {
        match times {
            Times::Same(t) => OwnLevels::Same(self.schedule.kernel(t)),
            Times::Each(times) => OwnLevels::Each(times.iter().map(|&t| self.schedule.kernel(t)).collect()),
        }
    }

    /// Carries rows `x` `[rows, dim]` from one time to another.
    ///
    /// # Errors
    /// Those of the velocity and of [`ode::integrate`].
    pub fn carry(&self, x: Tensor<2>, from: f64, to: f64, method: &ode::Tableau, steps: Steps) -> Result<Integrated> {
        let mut field =
            |x: &Tensor<2>, times: Times, of: &[usize]| Ok(self.velocity(x.clone().into(), times, of)?.value);
        ode::integrate(&mut field, x, from, to, method, steps)
    }

    /// The codes `[rows, dim]` of data `x` `[rows, dim]`: the ends, at the noisiest level, of the paths that pass x at the cleanest one.
    /// A code and the data determine each other (Song et al. 2021, section 4.3).
    ///
    /// ```
    /// use stein::{Condition, Edm, ProbabilityFlow, exact::GaussianMixture, flow::Flow, ode::Steps, rows};
    ///
    /// let (model, schedule, given) = (ProbabilityFlow(GaussianMixture::ncsn()), Edm::default(), Condition::none());
    /// let flow = Flow { velocity: &model, schedule: &schedule, given: &given };
    /// let steps = Steps::Adaptive { rtol: 1e-7, atol: 1e-7, most: 10_000 };
    /// let x = rows::matrix(vec![4.0, 5.5, -5.0, -6.0], 2, &rows::exact());
    /// let codes = flow.encode(x.clone(), None, steps)?;
    /// let back = flow.decode(codes.x, None, steps)?;
    /// assert!(rows::host(&(back.x - x)).iter().all(|error| error.abs() < 1e-4));
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`carry`](Self::carry).
    pub fn encode(&self, x: Tensor<2>, start: Option<f64>, steps: Steps) -> Result<Integrated> {
        let (first, last) = self.schedule.span();
        let start = start.unwrap_or(first);
        let at: Kernel = self.schedule.kernel(start);
        self.carry(x.mul_scalar(at.alpha), start, last, &DORMAND_PRINCE, steps)
    }

    /// The data `[rows, dim]` of codes `z` `[rows, dim]`, which [`encode`](Self::encode) undoes.
    ///
    /// # Errors
    /// As [`carry`](Self::carry).
    pub fn decode(&self, z: Tensor<2>, start: Option<f64>, steps: Steps) -> Result<Integrated> {
        let (first, last) = self.schedule.span();
        let start = start.unwrap_or(first);
        let Integrated { x, evaluations } = self.carry(z, last, start, &DORMAND_PRINCE, steps)?;
        Ok(Integrated { x: x.div_scalar(self.schedule.kernel(start).alpha), evaluations })
    }
}
