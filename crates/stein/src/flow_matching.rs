//! Flow matching: a velocity learned from pairs of an item of the data x_0 and one of the source x_1, by regression on the velocity of
//! the path between them.
//!
//! > x_t = α x_0 + σ x_1 + γ z,   u_t = α̇ x_0 + σ̇ x_1 + γ̇ z,   L = E w ‖v(x_t, t) − u_t‖² / dim ,
//!
//! (α, σ) those of a [schedule](crate::Schedule) at t from 0, the data, to 1, the source; z ~ N(0, I); γ the [noise of the
//! path](PathNoise). The minimum is v(x, t) = E\[u_t given x_t = x\], which moves the law of x_1 into that of x_0 whatever the source is and
//! however the two are paired ([`Coupling`](crate::coupling::Coupling)).
//!
//! | γ | source, pairs | paper |
//! |---|---|---|
//! | 0 | noise, independent | Lipman et al. 2023, eq. 23; Liu et al. 2023, eq. 1: the diffusion of the same schedule |
//! | σ | any, independent or by optimal transport | Tong et al. 2024, "Improving and Generalizing", I-CFM and OT-CFM |
//! | σ √(t(1 − t)) | any, independent | Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants" |
//! | σ √(t(1 − t)) | any, by an entropic plan of strength 2σ² | the Schrödinger bridge: Tong et al. 2024, \[SF\]²M |
//!
//! Beside the velocity the noise η(x, t) = E\[z given x_t = x\] can be learned, which is the score: ∇ log p_t = −η/γ.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    AnySchedule, Condition, Context, Dual, Factors, Interpolant, Kernel, Keys, Levels, Network, NoiseInput, Result,
    Schedule, Velocity,
    denoiser::Asked,
    ensure,
    numbers::{above, ensure_within},
    rows,
};

/// The noise of a path between its ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PathNoise {
    /// γ = 0: straight from one end to the other.
    None {},
    /// γ = σ, the ends included, which blurs the data as much.
    Constant {
        /// σ, in the units of states; above 0.
        sigma: f64,
    },
    /// γ = σ √(t(1 − t)): that of a Brownian bridge between the ends.
    #[serde(alias = "brownian_bridge")]
    Bridge {
        /// σ, in the units of states; above 0.
        sigma: f64,
    },
}

impl Default for PathNoise {
    fn default() -> Self {
        Self::None {}
    }
}

impl PathNoise {
    /// (γ, γ̇) at a time from 0 to 1; γ̇ of a bridge is infinite at both.
    pub fn at(&self, t: f64) -> (f64, f64) {
        match *self {
            Self::None {} => (0.0, 0.0),
            Self::Constant { sigma } => (sigma, 0.0),
            Self::Bridge { sigma } => {
                let root = (t * (1.0 - t)).sqrt();
                (sigma * root, sigma * (1.0 - 2.0 * t) / (2.0 * root))
            }
        }
    }

    /// Whether there is any.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None {})
    }

    /// Fails, saying which setting and what it may be, if it is none on this schedule.
    pub fn check(&self, schedule: &dyn Schedule) -> Result<()> {
        let sigma = match *self {
            Self::None {} => return Ok(()),
            Self::Constant { sigma } | Self::Bridge { sigma } => sigma,
        };
        ensure_within("noise of the path: sigma", sigma, above(0.0, 1e6))?;
        let (first, last) = schedule.span();
        ensure!(
            !matches!(self, Self::Bridge { .. }) || 0.0 < first && first < 0.5 && last > 0.5 && last <= 1.0,
            "noise of the path: a bridge is between t = 0 and 1, where its slope is infinite, and this schedule runs from {first} to {last}: take \
             rectified, trigonometric, polynomial or linear_vp with t_min above 0"
        );
        Ok(())
    }

    /// Points of the paths between rows of the data `x0` and of the source `x1`, both `[rows, dim]`, one at each level; `z` is drawn noise,
    /// used where the paths have some.
    ///
    /// ```
    /// use stein::{Rectified, Schedule, flow_matching::PathNoise, rows};
    ///
    /// let row = |x: f64| rows::matrix(vec![x], 1, &rows::exact());
    /// let at = vec![Rectified::default().kernel(0.25)];
    /// let points = PathNoise::Bridge { sigma: 1.0 }.points(row(4.0), row(0.0), row(1.0), at);
    /// // 0.75 · 4 + √(0.25 · 0.75) z, on its way with 0 − 4 + (1 − 0.5)/(2 √(0.25 · 0.75)) z.
    /// assert!((rows::host(&points.x)[0] - (3.0 + 0.1875f64.sqrt())).abs() < 1e-12);
    /// assert!((rows::host(&points.velocity)[0] - (-4.0 + 0.25 / 0.1875f64.sqrt())).abs() < 1e-12);
    /// ```
    pub fn points(&self, x0: Tensor<2>, x1: Tensor<2>, z: Tensor<2>, at: Vec<Kernel>) -> Points {
        let mix = |f: &dyn Fn(&Kernel) -> [f64; 3]| {
            let part = |x: &Tensor<2>, i: usize| rows::scale(x.clone(), &Levels::Each(&at).factors(|at| f(at)[i]));
            let clean = part(&x0, 0) + part(&x1, 1);
            if self.is_none() { clean } else { clean + part(&z, 2) }
        };
        let x = mix(&|at| [at.alpha, at.sigma, self.at(at.t).0]);
        let velocity = mix(&|at| [at.d_alpha, at.d_sigma, self.at(at.t).1]);
        Points { at, x, velocity, noise: z }
    }

    /// The weight of a level, 1/(1 + γ̇²): the target of a bridge has an infinite variance at its ends, and without noise it is 1. The
    /// minimum is the same.
    pub fn weight(&self, t: f64) -> f64 {
        1.0 / (1.0 + self.at(t).1.powi(2))
    }

    /// Levels moved off the ends of a bridge, where its velocity is not defined, by as much as the schedule stays off t = 0.
    pub fn inside(&self, at: Kernel, schedule: &dyn Schedule) -> Kernel {
        let (first, last) = schedule.span();
        match self {
            Self::Bridge { .. } if at.t > 1.0 - first => schedule.kernel(last.min(1.0 - first)),
            _ => at,
        }
    }
}

/// Points on paths, and how fast they move there.
#[derive(Debug, Clone)]
pub struct Points {
    /// Where on the way each is.
    pub at: Vec<Kernel>,
    /// x_t `[rows, dim]`.
    pub x: Tensor<2>,
    /// u_t `[rows, dim]`.
    pub velocity: Tensor<2>,
    /// z `[rows, dim]`.
    pub noise: Tensor<2>,
}

/// A network as a velocity: its raw output is dx/dt, or whatever else of a row at a time it was regressed on.
#[derive(Debug, Clone)]
pub struct VelocityNetwork<N> {
    /// The network.
    pub network: N,
    /// Which number tells it the time.
    pub noise_input: NoiseInput,
    /// The schedule it was trained on.
    pub schedule: AnySchedule,
}

/// Fails unless a network can be told the time of the data, t = 0, by this number.
///
/// # Errors
/// A number that is infinite there.
pub fn check_noise_input(noise_input: NoiseInput, schedule: &AnySchedule) -> Result<()> {
    let clean = schedule.kernel(0.0);
    ensure!(
        noise_input.number(&clean, schedule).is_finite(),
        "a velocity is followed to the data at t = 0, where this noise_input is infinite: take {{ kind = \"time\" }} or {{ kind = \"sigma\" }}"
    );
    Ok(())
}

impl<N: Network> VelocityNetwork<N> {
    /// The output `[rows, dim]`; with `dropout` the network drops values as in training.
    ///
    /// # Errors
    /// Those of the network, an output of another width, and one that has lost a derivative that was asked for.
    pub fn raw(&self, x: Dual<2>, at: Levels, given: &Condition, dropout: Option<&Keys>) -> Result<Dual<2>> {
        let dims = x.dims();
        let noise = self.noise_input.numbers(&x.value, at, &self.schedule).into();
        let asked = Asked::of(&x);
        let raw = self.network.forward(x, &Context { noise, second: None, given, dropout })?;
        asked.check(&raw, "network")?;
        ensure!(
            raw.dims() == dims,
            "the network gives {} numbers for rows of {}: a velocity has as many as a row",
            raw.dims()[1],
            dims[1]
        );
        Ok(raw)
    }

    /// The mean weighted square of what the network says at points of paths, less a target `[rows, dim]`; a weight for each row.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub fn loss(
        &self,
        points: &Points,
        target: Tensor<2>,
        weights: Vec<f64>,
        given: &Condition,
        keys: &Keys,
    ) -> Result<Tensor<1>> {
        let raw = self.raw(points.x.clone().into(), Levels::Each(&points.at), given, Some(keys))?.value;
        Ok(rows::scale((raw - target).square(), &Factors::Each(weights)).mean())
    }
}

impl<N: Network> Velocity for VelocityNetwork<N> {
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        self.raw(x, at, given, None)
    }
}

/// A velocity with the noise of its paths: a stochastic interpolant, or a Schrödinger bridge.
#[derive(Debug, Clone)]
pub struct NoisyFlow<N> {
    /// dx/dt.
    pub velocity: VelocityNetwork<N>,
    /// η = E\[z given x_t\].
    pub noise: VelocityNetwork<N>,
    /// γ.
    pub path: PathNoise,
}

impl<N: Network> Velocity for NoisyFlow<N> {
    fn velocity(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Dual<2>> {
        self.velocity.velocity(x, at, given)
    }
}

impl<N: Network> Interpolant for NoisyFlow<N> {
    fn score(&self, x: Tensor<2>, at: Levels, given: &Condition) -> Result<Tensor<2>> {
        let noise = self.noise.raw(x.into(), at, given, None)?;
        Ok(noise.scale(&at.factors(|at| -1.0 / self.path.at(at.t).0)).value)
    }
}
