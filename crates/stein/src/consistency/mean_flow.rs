//! MeanFlow (Geng et al. 2025, arXiv:2505.13447): the average velocity u(x_t, t, r) = 1/(t − r) ∫_r^t v dτ on the rectified schedule, of
//! which x_r = x_t − (t − r) u.
//!
//! Differentiating by t gives u = v − (t − r) du/dt , so u is regressed on v − (t − r) JVP(u; (v, 1, 0)) without gradient,
//! with v = ε − x_0. The loss of a row is s/(s + ε)^p with s = ‖u − u_tgt‖² over the whole row and the denominator a constant.
//!
//! With guidance the field is that of classifier-free guidance itself, and one evaluation samples it :
//! v_g = ω v + (1 − ω − κ) u(x_t, t, t) without class + κ u(x_t, t, t) with it, whose guidance is ω/(1 − κ); for κ = 0,
//! v_g = u_∅ + ω (v − u_∅).

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, RowLosses, pair};
use crate::{
    AnySchedule, Condition, Dual, Examples, Factors, Kernel, Keys, MapForm, MapNetwork, MapSettings, Network,
    NoiseInput, Purpose, Result, Schedule, Tensor, ensure,
    numbers::{above, ensure_within},
    objective::times::logit_normal,
    rows,
};

/// How (t, r) are drawn: two logit-normal times, of which r is set to t for some examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct PairOfTimes {
    /// Mean of the logit of the first; default −0.4.
    pub mean: f64,
    /// Standard deviation of the logit of the first; above 0, default 1.
    pub std: f64,
    /// Mean of the logit of the second; default that of the first, and the larger of the two is t.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_mean: Option<f64>,
    /// The share of examples with r < t, in \[0, 1\]; default 0.25.
    pub apart: f64,
}

impl Default for PairOfTimes {
    fn default() -> Self {
        Self { mean: -0.4, std: 1.0, second_mean: None, apart: 0.25 }
    }
}

impl PairOfTimes {
    /// (t, r) with r ≤ t, of two standard normal numbers and a uniform one.
    pub fn of(&self, first: f64, second: f64, uniform: f64) -> (f64, f64) {
        let (a, b) = (
            logit_normal(self.mean, self.std, first),
            logit_normal(self.second_mean.unwrap_or(self.mean), self.std, second),
        );
        let together = uniform < 1.0 - self.apart;
        match self.second_mean {
            // Two draws of one distribution, sorted.
            None => (a.max(b), if together { a.max(b) } else { a.min(b) }),
            // Each of its own: t stays what it is.
            Some(_) => (a, if together { a } else { a.min(b) }),
        }
    }

    fn check(&self) -> Result<()> {
        ensure_within("objective: times.mean", self.mean, -20.0..=20.0)?;
        ensure_within("objective: times.std", self.std, above(0.0, 10.0))?;
        ensure_within("objective: times.second_mean", self.second_mean.unwrap_or(0.0), -20.0..=20.0)?;
        ensure_within("objective: times.apart", self.apart, 0.0..=1.0)
    }
}

/// MeanFlow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct MeanFlow {
    /// How (t, r) are drawn.
    pub times: PairOfTimes,
    /// The power p of the adaptive weight; from 0 (none) to 2, default 1.
    pub power: f64,
    /// What is added to the squared error in it, ε; above 0 and at most 1e6, default 0.01.
    pub epsilon: f64,
    /// ω, of which 1 is no guidance; from 0 to 1e3, default 1.
    pub omega: f64,
    /// κ, from 0 to below 1; default 0.
    pub kappa: f64,
    /// The cleanest time t that is guided; default 0.
    pub guided_from: f64,
    /// The noisiest time t that is guided; default 1.
    pub guided_to: f64,
}

impl Default for MeanFlow {
    fn default() -> Self {
        Self {
            times: PairOfTimes::default(),
            power: 1.0,
            epsilon: 0.01,
            omega: 1.0,
            kappa: 0.0,
            guided_from: 0.0,
            guided_to: 1.0,
        }
    }
}

impl MeanFlow {
    /// The velocity the target follows `[rows, dim]`: v, or where classes are guided v_g. A row without a class keeps v.
    ///
    /// # Errors
    /// Those of the network.
    pub fn velocity(
        &self,
        map: &MapNetwork<&dyn Network>,
        x: &Tensor<2>,
        v: Tensor<2>,
        at: &[Kernel],
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<Tensor<2>> {
        let Some(classes) = given.class.as_ref().filter(|_| self.guides()) else { return Ok(v) };
        let u = |given: &Condition| {
            Ok::<_, crate::Error>(map.raw(x.clone().into(), at.into(), at.into(), None, given, dropout)?.value)
        };
        let none = Condition { class: Some(vec![None; classes.len()]), ..given.clone() };
        let without = u(&none)?;
        let times = self.guided_from..=self.guided_to;
        // ω and κ of each row; 1 and 0 leave v.
        let on = |at: &Kernel, class: &Option<u32>| class.is_some() && times.contains(&at.t);
        let of = |guided: f64, plain: f64| {
            let rows = at.iter().zip(classes).map(|(at, class)| if on(at, class) { guided } else { plain });
            Factors::Each(rows.collect())
        };
        let rest = rows::scale(v, &of(self.omega, 1.0));
        let guided = rest + rows::scale(without, &of(1.0 - self.omega - self.kappa, 0.0));
        if self.kappa == 0.0 { Ok(guided) } else { Ok(guided + rows::scale(u(given)?, &of(self.kappa, 0.0))) }
    }

    /// u and du/dt along (v, 1, 0) at (x, t, r), without gradient.
    ///
    /// # Errors
    /// Those of the network.
    pub fn along(
        map: &MapNetwork<&dyn Network>,
        x: &Tensor<2>,
        v: &Tensor<2>,
        from: &[Kernel],
        to: &[Kernel],
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        let factor = time_factor(&map.settings)?;
        let slopes = vec![factor; from.len()];
        let raw = map.raw(Dual::new(x.clone(), v.clone()), from.into(), to.into(), Some(slopes), given, dropout)?;
        let slope = raw.tangent_or_zero();
        Ok((raw.value, slope))
    }

    /// The losses `[rows, 1]` of squared errors `[rows, 1]`.
    pub fn weighted(&self, squared: Tensor<2>) -> Tensor<2> {
        let weight = squared.clone().detach().add_scalar(self.epsilon).powf_scalar(self.power);
        squared / weight
    }
}

/// How fast the number of a level rises with the time of the rectified schedule.
fn time_factor(settings: &MapSettings) -> Result<f64> {
    match settings.noise_input {
        NoiseInput::Time { factor } => Ok(factor),
        NoiseInput::Sigma {} => Ok(1.0),
        _ => Err(crate::Error::new("the objective mean_flow differentiates by time: set family.noise_input to time")),
    }
}

/// Fails unless the map is of average velocities and its network is told times.
pub(super) fn ensure_velocities(objective: &str, map: &MapSettings) -> Result<()> {
    ensure!(
        matches!(map.form, MapForm::MeanVelocity {}),
        "the objective {objective} is for average velocities: set family.form to mean_velocity"
    );
    Ok(())
}

impl MapObjective for MeanFlow {
    fn check(&self, map: &MapSettings, _: &AnySchedule) -> Result<()> {
        ensure_velocities("mean_flow", map)?;
        time_factor(map)?;
        self.times.check()?;
        ensure_within("objective: power", self.power, 0.0..=2.0)?;
        ensure_within("objective: epsilon", self.epsilon, above(0.0, 1e6))?;
        ensure_within("objective: omega", self.omega, 0.0..=1e3)?;
        ensure_within("objective: kappa", self.kappa, 0.0..1.0)?;
        ensure!(
            self.guided_from <= self.guided_to,
            "objective: guided_from = {} must be a cleaner time than guided_to = {}",
            self.guided_from,
            self.guided_to
        );
        Ok(())
    }

    fn guides(&self) -> bool {
        self.omega != 1.0 || self.kappa != 0.0
    }

    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses> {
        let Examples { x0, given, keys, .. } = *examples;
        let eps = examples.noise()?;
        let normal = keys.normal(Purpose::Level, 0, 2);
        let uniform = keys.uniform(Purpose::Level, 1);
        let schedule: &dyn Schedule = &*maps.student.schedule;
        let times = normal.chunks(2).zip(uniform).map(|(z, u)| self.times.of(z[0], z[1], u));
        let (from, to): (Vec<Kernel>, Vec<Kernel>) =
            times.map(|(t, r)| (schedule.kernel(t), schedule.kernel(r))).unzip();
        let x = pair::noisy(x0, &eps, &from);
        let v = self.velocity(&maps.target, &x, eps - x0.clone(), &from, given, Some(keys))?;
        let (_, slope) = Self::along(&maps.target, &x, &v, &from, &to, given, Some(keys))?;
        let length = pair::with(&from, &to, |from, to| from.t - to.t);
        let target = v - rows::scale(slope, &length);
        let u = maps.student.raw(x.into(), (&from[..]).into(), (&to[..]).into(), None, given, Some(keys))?.value;
        Ok(RowLosses { losses: self.weighted((u - target).square().sum_dim(1)), at: from })
    }
}
