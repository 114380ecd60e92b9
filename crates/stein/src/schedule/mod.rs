//! Noise schedules: how α and σ move with time. One file each; time grows with noise.

mod cosine;
mod discrete;
mod edm;
mod linear_vp;
mod polynomial;
mod rectified;
mod sub_vp;
mod trigonometric;
mod ve;
mod vp;

pub use cosine::Cosine;
pub use discrete::{Discrete, LevelList};
pub use edm::Edm;
pub use linear_vp::LinearVp;
pub use polynomial::Polynomial;
pub use rectified::Rectified;
pub use sub_vp::SubVp;
pub use trigonometric::Trigonometric;
pub use ve::Ve;
pub use vp::Vp;

use stein_base::registry;

use crate::{
    Kernel, Result, ensure,
    numbers::{above, ensure_within},
};

/// A noise schedule.
///
/// ```
/// use stein::{AnySchedule, Kernel, Result, Schedule};
///
/// let vp = AnySchedule::named("vp")?;
/// let at = vp.kernel(0.5); // α and σ with their derivatives
/// assert!((at.alpha.powi(2) + at.sigma.powi(2) - 1.0).abs() < 1e-12);
/// assert!((vp.time_at(at.log_snr()) - 0.5).abs() < 1e-12);
///
/// /// One of one's own: α = cos t, σ = sin t.
/// #[derive(Debug)]
/// struct Circle;
///
/// impl Schedule for Circle {
///     fn kernel(&self, t: f64) -> Kernel {
///         Kernel { t, alpha: t.cos(), sigma: t.sin(), d_alpha: -t.sin(), d_sigma: t.cos() }
///     }
///
///     fn time_at(&self, log_snr: f64) -> f64 {
///         (-0.5 * log_snr).exp().atan()
///     }
///
///     fn span(&self) -> (f64, f64) {
///         (0.001, 1.57)
///     }
///
///     fn check(&self) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// // g² = 2 tan t: the forward SDE follows from the kernel.
/// assert!((Circle.kernel(0.7).diffusion_squared() - 2.0 * 0.7f64.tan()).abs() < 1e-12);
/// # Ok::<(), stein::Error>(())
/// ```
pub trait Schedule: std::fmt::Debug + Send + Sync {
    /// The kernel at time `t` of [`span`](Self::span). The formulas continue beyond it where they can.
    fn kernel(&self, t: f64) -> Kernel;

    /// The time at which the log-SNR is `log_snr`: the inverse of `kernel(t).log_snr()`, −∞ included where α reaches 0.
    fn time_at(&self, log_snr: f64) -> f64;

    /// The cleanest and the noisiest time. Between them all five numbers of a kernel are finite and σ > 0. α may be 0 at
    /// the noisiest, where σ/α is infinite: samplers in x̂_0/ε̂ form start there, those in σ/α cannot and refuse.
    fn span(&self) -> (f64, f64);

    /// Number of trained levels of a discrete schedule, whose times are the indices 0 (cleanest) to `levels - 1`.
    fn levels(&self) -> Option<usize> {
        None
    }

    /// Fails, saying which parameter and what it may be, if the parameters make no schedule.
    fn check(&self) -> Result<()>;
}

registry! {
    /// Every schedule, tagged by `kind` in files.
    AnySchedule, "schedule": Schedule {
        /// Variance exploding: σ grows geometrically and the signal stays (NCSN in continuous time).
        "ve" | "ve_sde" => Ve,
        /// Variance preserving: the continuous limit of DDPM.
        "vp" | "vp_sde" => Vp,
        /// Sub-variance preserving: VP's signal with less noise.
        "sub_vp" | "sub_vp_sde" => SubVp,
        /// The cosine schedule of improved DDPM, in continuous time.
        "cosine" => Cosine,
        /// EDM's: σ = t and the signal stays.
        "edm" => Edm,
        /// Straight lines from data to noise: rectified flow, flow matching.
        "rectified" | "rectified_flow" | "flow_matching" | "flow" | "conditional_flow_matching" | "condot" => Rectified,
        /// A quarter circle from data to noise: α = cos(πt/2), σ = sin(πt/2) (stochastic interpolants, SiT).
        "trigonometric" | "gvp" => Trigonometric,
        /// A signal that falls in a straight line, and noise that keeps the variance: α = 1 − t, σ² = 1 − α².
        "linear_vp" => LinearVp,
        /// A signal that falls with a power of time, and noise that is what it has lost: α = (1 − t)ⁿ, σ = 1 − α.
        "polynomial" | "polynomial_convex" => Polynomial,
        /// A list of levels: DDPM's betas or NCSN's sigmas. By default DDPM's 1000 linear betas, which is what `linear` means.
        "discrete" | "linear" => Discrete,
    }
}

/// The time at which σ/α is `factor` times what it is at `t`; `t` itself where there is no signal, or no noise.
///
/// On [`Rectified`] without σ_min this is t' = s t/(1 + (s − 1) t), the shift for a higher resolution (Esser et al. 2024, eq. 23).
///
/// ```
/// use stein::{Rectified, Vp, Schedule, shifted_time};
///
/// assert!((shifted_time(&Rectified::default(), 0.5, 3.0) - 0.75).abs() < 1e-12);
/// let vp = Vp::default();
/// let ratio = vp.kernel(shifted_time(&vp, 0.4, 3.0)).noise_to_signal() / vp.kernel(0.4).noise_to_signal();
/// assert!((ratio - 3.0).abs() < 1e-9);
/// ```
pub fn shifted_time(schedule: &dyn Schedule, t: f64, factor: f64) -> f64 {
    let log_snr = schedule.kernel(t).log_snr();
    if factor == 1.0 || log_snr.is_infinite() { t } else { schedule.time_at(log_snr - 2.0 * factor.ln()) }
}

/// The largest and the smallest noise that single precision works with at ease.
const LARGEST_SIGMA: f64 = 1e9;
const SMALLEST_SIGMA: f64 = 1e-9;

/// Fails unless 0 < sigma_min < sigma_max, neither too small nor too large.
fn check_sigmas(kind: &str, sigma_min: f64, sigma_max: f64) -> Result<()> {
    ensure_within(&format!("schedule {kind}: sigma_min"), sigma_min, SMALLEST_SIGMA..=LARGEST_SIGMA)?;
    ensure_within(&format!("schedule {kind}: sigma_max"), sigma_max, above(sigma_min, LARGEST_SIGMA))
}

/// Fails unless the cleanest time lies inside (0, 1).
fn check_t_min(kind: &str, t_min: f64) -> Result<()> {
    ensure!(
        (1e-9..1.0).contains(&t_min),
        "schedule {kind}: t_min = {t_min} must lie between 0 and 1, and not below 1e-9"
    );
    Ok(())
}
