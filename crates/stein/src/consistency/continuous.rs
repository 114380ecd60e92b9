//! Continuous-time consistency (Lu and Song 2024, arXiv:2410.11081, sCM): the step between neighbors goes to zero, and what is left of
//! their difference is the derivative of f along the trajectory.
//!
//! In TrigFlow's coordinates x_t = cos t x_0 + sin t z, z = σ_d ε, with f = cos t x_t − sin t σ_d F(x_t/σ_d, t):
//!
//! g = cos t df/dt = −cos² t (σ_d F⁻ − dx/dt) − r (cos t sin t x_t + σ_d cos t sin t dF⁻/dt)        (algorithm 1)
//! L = ‖F − F⁻ − g/(‖g‖ + c)‖²/D
//!
//! dx/dt = (cos t x_t − D(x_t))/sin t by a teacher's D, or cos t z − sin t x_0 by the example; r rises from 0 to 1 over the first
//! steps; F⁻ is F without gradient, and dF⁻/dt an exact Jacobian-vector product. The weight 1/tan t of the published prior is in g
//! already. The norm is that of the whole row.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{MapObjective, Maps, RowLosses, ensure_ends, pair};
use crate::{
    AnySchedule, Condition, Dual, Examples, Kernel, Keys, LevelDistribution, Levels, MapForm, MapNetwork, MapSettings,
    Network, Result, Tensor, denoise, ensure,
    numbers::{above, ensure_within},
    rows,
};

/// Where the trajectory through a noisy example leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Velocity {
    /// By a teacher: distillation, sCD.
    Teacher,
    /// On the straight way to the example: training, sCT.
    Data,
}

/// Continuous-time consistency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Continuous {
    /// Whose velocity the trajectory follows; default `teacher`.
    pub velocity: Velocity,
    /// How levels are drawn; default log-normal with mean −1 and std 1.4.
    pub levels: LevelDistribution,
    /// What is added to the norm the tangent is divided by, c; above 0 and at most 1e6, default 0.1.
    pub c: f64,
    /// Steps in which r rises from 0 to 1; default 10000, 0 for none.
    pub warmup: u64,
    /// Whether the weight of a level is learned, and the loss is e^w L − w; default true.
    pub learned_weight: bool,
}

impl Default for Continuous {
    fn default() -> Self {
        Self {
            velocity: Velocity::Teacher,
            levels: LevelDistribution::LogNormal { mean: -1.0, std: 1.4 },
            c: 0.1,
            warmup: 10_000,
            learned_weight: true,
        }
    }
}

/// What continuous-time consistency is made of at some rows, all `[rows, dim]` and without gradient.
pub struct Tangent {
    /// F⁻.
    pub output: Tensor<2>,
    /// cos t sin t dF⁻/dt along the trajectory.
    pub product: Tensor<2>,
    /// g, not yet normalized.
    pub g: Tensor<2>,
}

impl Tangent {
    /// Of a map at rows `x` with velocities `velocity`, both in TrigFlow's coordinates, at levels `at` of the map's schedule; `r` is the
    /// warm-up.
    ///
    /// # Errors
    /// Those of the network, and a form or noise number that has no such derivative.
    pub fn at(
        map: &MapNetwork<&dyn Network>,
        x: &Tensor<2>,
        velocity: &Tensor<2>,
        at: &[Kernel],
        r: f64,
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<Self> {
        let (sigma_data, sign) = coordinates(map)?;
        let turn = |f: fn(f64) -> f64| pair::of(at, |at| f(at.angle(sigma_data)));
        let (rise, squared) = (turn(|t| t.cos() * t.sin()), turn(|t| t.cos().powi(2)));
        let direction = rows::scale(velocity.clone(), &rise).mul_scalar(1.0 / sigma_data);
        let slope = |at: &Kernel| {
            map.settings.noise_input.slope(at).ok_or_else(|| {
                crate::Error::new(
                    "the number of a level has no derivative: set family.noise_input to angle or quarter_log_noise",
                )
            })
        };
        // cos t sin t dc/dt, which is dc/d ln σ.
        let slopes = at.iter().map(slope).collect::<Result<_>>()?;
        let input = Dual::new(x.clone().mul_scalar(1.0 / sigma_data), direction);
        let raw = map.raw(input, at.into(), Levels::Same(&Kernel::CLEAN), Some(slopes), given, dropout)?;
        let product = raw.tangent_or_zero().mul_scalar(sign);
        let output = raw.value.mul_scalar(sign);
        let moved = rows::scale(x.clone(), &rise) + product.clone().mul_scalar(sigma_data);
        let g = rows::scale(velocity.clone() - output.clone().mul_scalar(sigma_data), &squared) - moved.mul_scalar(r);
        Ok(Self { output, product, g })
    }

    /// F⁻ + g/(‖g‖ + c), what F is regressed on.
    pub fn target(&self, c: f64) -> Tensor<2> {
        let norm = self.g.clone().square().sum_dim(1).sqrt();
        self.output.clone() + self.g.clone() / norm.add_scalar(c)
    }
}

/// σ_d, and the sign of a network's output in TrigFlow's coordinates.
fn coordinates(map: &MapNetwork<&dyn Network>) -> Result<(f64, f64)> {
    match map.settings.form {
        MapForm::Edm { sigma_data } => Ok((sigma_data, -1.0)),
        MapForm::TrigFlow { sigma_data, anywhere: false } => Ok((sigma_data, 1.0)),
        _ => Err(crate::Error::new("continuous consistency is of the forms edm and trig_flow, to clean data")),
    }
}

impl Continuous {
    /// r at a step.
    pub fn warmed(&self, step: u64) -> f64 {
        if self.warmup == 0 { 1.0 } else { (step as f64 / self.warmup as f64).min(1.0) }
    }
}

impl MapObjective for Continuous {
    fn check(&self, map: &MapSettings, schedule: &AnySchedule) -> Result<()> {
        ensure_ends("continuous", map)?;
        ensure!(
            !matches!(map.form, MapForm::EdmShifted { .. }),
            "the objective continuous is for a map that ends at clean data: set family.form to trig_flow or edm"
        );
        ensure!(
            map.noise_input.slope(&schedule.kernel(schedule.span().1)).is_some(),
            "the objective continuous differentiates by the level, and the number of a level has no derivative: set \
             family.noise_input to angle or quarter_log_noise"
        );
        self.levels.check(&**schedule)?;
        ensure_within("objective: c", self.c, above(0.0, 1e6))
    }

    fn needs_teacher(&self) -> bool {
        self.velocity == Velocity::Teacher
    }

    fn learns_weight(&self) -> bool {
        self.learned_weight
    }

    fn losses(&self, maps: &Maps, examples: &Examples) -> Result<RowLosses> {
        let Examples { x0, given, keys, .. } = *examples;
        let eps = examples.noise()?;
        let at: Vec<Kernel> = self.levels.draw(&*maps.student.schedule, keys).into_iter().map(|(at, _)| at).collect();
        let (sigma_data, sign) = coordinates(&maps.student)?;
        let turn = |f: fn(f64) -> f64| pair::of(&at, |at| f(at.angle(sigma_data)));
        let (cos, sin) = (turn(f64::cos), turn(f64::sin));
        let z = eps.clone().mul_scalar(sigma_data);
        let x = rows::scale(x0.clone(), &cos) + rows::scale(z.clone(), &sin);
        let velocity = match self.velocity {
            Velocity::Data => rows::scale(z, &cos) - rows::scale(x0.clone(), &sin),
            Velocity::Teacher => {
                let denoised = denoise(maps.teacher()?, pair::noisy(x0, &eps, &at), (&at[..]).into(), given)?;
                let over = turn(|t| 1.0 / t.sin());
                rows::scale(rows::scale(x.clone(), &cos) - denoised, &over)
            }
        };
        let tangent = Tangent::at(&maps.target, &x, &velocity, &at, self.warmed(maps.step), given, Some(keys))?;
        let input = x.mul_scalar(1.0 / sigma_data).into();
        let end = Levels::Same(&Kernel::CLEAN);
        let raw = maps.student.raw(input, (&at[..]).into(), end, None, given, Some(keys))?;
        let losses = (raw.value.mul_scalar(sign) - tangent.target(self.c)).square().mean_dim(1);
        Ok(RowLosses { losses, at })
    }
}
