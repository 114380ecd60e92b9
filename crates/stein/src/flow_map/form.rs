//! Forms of a flow map: x_s = c_skip x_t + c_out F(c_in x_t), with the factors such that x_t = x_t at s = t whatever the network says.
//!
//! With σ = σ_t/α_t, x̂ = x/α and the angles t = arctan(σ_t/σ_d), s = arctan(σ_s/σ_d):
//!
//! | form | leads to | x̂_s |
//! |---|---|---|
//! | `edm_shifted` | ε, the cleanest level of the schedule | σ_d²/((σ − ε)² + σ_d²) x̂ + σ_d (σ − ε)/√(σ² + σ_d²) F |
//! | `edm` | clean data | σ_d²/(σ² + σ_d²) x̂ + σ_d σ/√(σ² + σ_d²) F |
//! | `trig_flow` | clean data, or any level | (cos(t − s) cos t x̂ − sin(t − s) σ_d F)/cos s |
//! | `trajectory` | any level | σ_s/σ x̂ + (1 − σ_s/σ) D, with D = EDM's scalings of F |
//! | `mean_velocity` | any level | x_t − (t − s) F on the rectified schedule |
//!
//! F sees x̂/√(σ² + σ_d²), and x_t itself in the last. `edm_shifted` is that of consistency models (Song et al. 2023,
//! arXiv:2303.01469, appendix C), `edm` what easy consistency tuning starts from (Geng et al. 2024, arXiv:2406.14548), `trig_flow`
//! that of Lu and Song 2024 (arXiv:2410.11081; between two levels it is the rotation by t − s that DDIM makes), `trajectory`
//! that of Kim et al. 2023 (arXiv:2310.02279), `mean_velocity` that of Geng et al. 2025 (arXiv:2505.13447). With s = 0
//! `trig_flow` is `edm` with the sign of F turned.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    AnySchedule, Kernel, Result, ensure,
    numbers::{above, ensure_within},
};

/// How the output of a network makes a flow map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MapForm {
    /// EDM's scalings moved by the cleanest level, where trajectories end (Song et al. 2023).
    EdmShifted {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
    },
    /// EDM's scalings: trajectories end at clean data, and a network that was trained as EDM's denoiser fits in.
    Edm {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
    },
    /// The rotation of TrigFlow (Lu and Song 2024).
    TrigFlow {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
        /// Whether it leads to any cleaner level, by a network that takes a second one; default false: to clean data.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        anywhere: bool,
    },
    /// A part of the straight way to a denoised sample (Kim et al. 2023, consistency trajectory models); the network takes a second level.
    #[serde(alias = "ctm")]
    Trajectory {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
    },
    /// The average velocity between two levels of the rectified schedule (Geng et al. 2025, MeanFlow; Frans et al. 2024, shortcut models); the
    /// network takes a second level.
    #[serde(alias = "meanflow", alias = "shortcut")]
    MeanVelocity {},
}

/// The factors of x_s = skip · x_t + output · F(input · x_t).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalings {
    /// c_in.
    pub input: f64,
    /// c_skip.
    pub skip: f64,
    /// c_out.
    pub output: f64,
}

impl Scalings {
    /// At a noise-to-signal ratio σ, of trajectories that end at ε = `end`, for data of standard deviation `sigma_data`; with ε = 0
    /// they are those of EDM's denoiser.
    pub fn at(sigma: f64, end: f64, sigma_data: f64) -> Self {
        let (past, total) = (sigma - end, sigma.hypot(sigma_data));
        Self {
            input: 1.0 / total,
            skip: sigma_data.powi(2) / (past.powi(2) + sigma_data.powi(2)),
            output: sigma_data * past / total,
        }
    }
}

impl MapForm {
    /// Fails if a number of it is out of its range, or the schedule is none it is defined on.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, schedule: &AnySchedule) -> Result<()> {
        if let Some(sigma_data) = self.sigma_data() {
            ensure_within("the form's sigma_data", sigma_data, above(0.0, 1e6))?;
            ensure!(
                schedule.kernel(schedule.span().1).alpha > 0.0,
                "a flow map of this form is trained where there is signal, and schedule {} reaches alpha = 0: take the form \
                 mean_velocity, or another schedule",
                schedule.kind()
            );
        } else {
            ensure!(
                matches!(schedule, AnySchedule::Rectified(straight) if straight.sigma_min == 0.0),
                "the form mean_velocity is defined on the schedule rectified with sigma_min = 0, and not on this one, {}",
                schedule.kind()
            );
        }
        Ok(())
    }

    /// σ_d, where the form has one.
    pub fn sigma_data(&self) -> Option<f64> {
        match *self {
            Self::EdmShifted { sigma_data }
            | Self::Edm { sigma_data }
            | Self::TrigFlow { sigma_data, .. }
            | Self::Trajectory { sigma_data } => Some(sigma_data),
            Self::MeanVelocity {} => None,
        }
    }

    /// Whether it leads from any level to any cleaner one, and its network so takes a second level.
    pub fn anywhere(&self) -> bool {
        matches!(self, Self::TrigFlow { anywhere: true, .. } | Self::Trajectory { .. } | Self::MeanVelocity {})
    }

    /// The level where trajectories end, of a form that leads there alone.
    pub fn end(&self, schedule: &AnySchedule) -> Option<Kernel> {
        match self {
            Self::EdmShifted { .. } => Some(schedule.kernel(schedule.span().0)),
            _ if self.anywhere() => None,
            _ => Some(Kernel::CLEAN),
        }
    }

    /// The factors from a noisy level to a cleaner one, both of the network's schedule.
    pub fn scalings(&self, from: &Kernel, to: &Kernel) -> Scalings {
        let (sigma, left) = (from.noise_to_signal(), to.noise_to_signal());
        // Of x̂, brought to x below.
        let scaled = match *self {
            Self::EdmShifted { sigma_data } => Scalings::at(sigma, left, sigma_data),
            Self::Edm { sigma_data } => Scalings::at(sigma, 0.0, sigma_data),
            Self::TrigFlow { sigma_data, .. } => {
                let (t, s) = (from.angle(sigma_data), to.angle(sigma_data));
                Scalings {
                    input: t.cos() / sigma_data,
                    skip: (t - s).cos() * t.cos() / s.cos(),
                    output: -(t - s).sin() * sigma_data / s.cos(),
                }
            }
            Self::Trajectory { sigma_data } => {
                let (inner, part) = (Scalings::at(sigma, 0.0, sigma_data), 1.0 - left / sigma);
                Scalings { skip: 1.0 - part + part * inner.skip, output: part * inner.output, ..inner }
            }
            Self::MeanVelocity {} => return Scalings { input: 1.0, skip: 1.0, output: to.sigma - from.sigma },
        };
        Scalings {
            input: scaled.input / from.alpha,
            skip: scaled.skip * to.alpha / from.alpha,
            output: scaled.output * to.alpha,
        }
    }
}
