//! A network as a denoiser: x̂_0 = c_skip x + c_out F(c_in x, c_noise), on its own schedule.
//!
//! Karras et al. 2022, eq. 7, for any prediction. A level of another schedule is brought to the network's own through its
//! log-SNR: x = α(x_0 + (σ/α)ε), so x·α'/α is a sample at the level (α', σ') with the same σ/α. Any checkpoint thus runs on
//! any grid of any schedule.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    AnySchedule, Condition, Context, Denoiser, Dual, Estimate, Factors, Kernel, Keys, Levels, Network, OwnLevels,
    Prediction, Result,
    denoiser::Asked,
    ensure,
    numbers::{above, ensure_within},
    rows,
};

/// How x is scaled before the network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum InputScale {
    /// As it is.
    None {},
    /// To unit variance: c_in = 1/√(σ² + α²σ_d²) (Karras et al. 2022, table 1).
    UnitVariance {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
    },
}

/// Which number tells the network how noisy its input is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NoiseInput {
    /// ln(σ/α)/4 (Karras et al. 2022).
    QuarterLogNoise {},
    /// ln(σ/unit) (what NCSN++'s Fourier embedding takes), times a factor (consistency models: 250).
    LogSigma {
        /// The factor, from −1e6 to 1e6.
        #[serde(default = "default_factor")]
        factor: f64,
        /// The σ it is 0 at (EDM's form of NCSN++: 2); positive, default 1.
        #[serde(default = "default_factor")]
        unit: f64,
    },
    /// σ itself (networks of NCSN++ that take the logarithm themselves).
    Sigma {},
    /// arctan(σ/(α σ_d)), the time of TrigFlow, from 0 to π/2 (Lu and Song 2024, arXiv:2410.11081).
    Angle {
        /// Standard deviation of the data, σ_d, in the units the model works in; above 0.
        sigma_data: f64,
    },
    /// Time, times a factor (Score-SDE's VP and sub-VP: 999; flow matching: 1).
    Time {
        /// The factor, from −1e6 to 1e6.
        #[serde(default = "default_factor")]
        factor: f64,
    },
    /// The number of the nearest trained level of a discrete schedule.
    Level {
        /// Whether 0 is the noisiest (NCSN) and not the cleanest (DDPM); default false.
        #[serde(default)]
        noisiest_first: bool,
        /// Multiplies it (networks of 4000 levels that are fed as if there were 1000: 0.25); default 1.
        #[serde(default = "default_factor")]
        factor: f64,
    },
}

fn default_factor() -> f64 {
    1.0
}

impl InputScale {
    /// Rows as they are fed to the network.
    pub(crate) fn apply(&self, x: Dual<2>, at: Levels) -> Dual<2> {
        match self {
            Self::None {} => x,
            scaled => x.scale(&at.factors(|k| scaled.factor(k))),
        }
    }

    /// c_in.
    pub(crate) fn factor(&self, at: &Kernel) -> f64 {
        match *self {
            Self::None {} => 1.0,
            Self::UnitVariance { sigma_data } => 1.0 / at.sigma.hypot(at.alpha * sigma_data),
        }
    }

    /// Fails if a number of it is out of its range.
    pub(crate) fn check(&self) -> Result<()> {
        match *self {
            Self::None {} => Ok(()),
            Self::UnitVariance { sigma_data } => {
                ensure_within("input_scale unit_variance: sigma_data", sigma_data, above(0.0, 1e6))
            }
        }
    }
}

impl NoiseInput {
    /// The number of every row of `x`, `[rows]`, at levels of the schedule the network was trained on.
    pub(crate) fn numbers(&self, x: &Tensor<2>, at: Levels, schedule: &AnySchedule) -> Tensor<1> {
        rows::vector(at.factors(|k| self.number(k, schedule)).into_rows(x.dims()[0]), x)
    }

    /// The number for a level of the schedule the network was trained on.
    pub(crate) fn number(&self, at: &Kernel, schedule: &AnySchedule) -> f64 {
        match *self {
            Self::QuarterLogNoise {} => 0.25 * at.noise_to_signal().ln(),
            Self::LogSigma { factor, unit } => factor * (at.sigma / unit).ln(),
            Self::Time { factor } => at.t * factor,
            Self::Sigma {} => at.sigma,
            Self::Angle { sigma_data } => at.angle(sigma_data),
            Self::Level { noisiest_first, factor } => {
                let (first, last) = schedule.span();
                let level = at.t.round().clamp(first, last);
                factor * if noisiest_first { last - level } else { level }
            }
        }
    }

    /// The derivative of the number by ln(σ/α), at a level of the schedule the network was trained on; none of the number of a level.
    pub(crate) fn slope(&self, at: &Kernel) -> Option<f64> {
        // d ln(σ/α)/dt.
        let rate = at.d_sigma / at.sigma - at.drift();
        match *self {
            Self::QuarterLogNoise {} => Some(0.25),
            Self::LogSigma { factor, .. } => Some(factor * at.d_sigma / at.sigma / rate),
            Self::Sigma {} => Some(at.d_sigma / rate),
            Self::Time { factor } => Some(factor / rate),
            Self::Angle { sigma_data } => {
                let angle = at.angle(sigma_data);
                Some(angle.sin() * angle.cos())
            }
            Self::Level { .. } => None,
        }
    }

    /// Fails if the schedule has no such number.
    pub(crate) fn check(&self, schedule: &AnySchedule) -> Result<()> {
        if let Self::LogSigma { factor, .. } | Self::Time { factor } | Self::Level { factor, .. } = *self {
            ensure_within("the factor of noise_input", factor, -1e6..=1e6)?;
        }
        ensure!(
            !matches!(self, Self::Level { .. }) || schedule.levels().is_some(),
            "noise_input level feeds the index of a trained level: it needs the discrete schedule, not {}",
            schedule.kind()
        );
        if let Self::LogSigma { unit, .. } = *self {
            ensure!(unit > 0.0 && unit.is_finite(), "noise_input log_sigma: unit = {unit} must be positive");
        }
        if let Self::Angle { sigma_data } = *self {
            ensure_within("noise_input angle: sigma_data", sigma_data, above(0.0, 1e6))?;
        }
        let reaches_zero = schedule.kernel(schedule.span().1).alpha == 0.0;
        ensure!(
            !reaches_zero || !matches!(self, Self::QuarterLogNoise {}),
            "noise_input quarter_log_noise is infinite where alpha = 0, which schedule {} reaches: use time",
            schedule.kind()
        );
        Ok(())
    }
}

/// What surrounds a network: what it predicts, how it is fed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// What the raw output stands for.
    pub prediction: Prediction,
    /// c_in.
    pub input_scale: InputScale,
    /// c_noise.
    pub noise_input: NoiseInput,
}

impl Precondition {
    /// EDM's preconditioning: unit-variance input and target, ln(σ)/4.
    pub fn edm(sigma_data: f64) -> Self {
        Self {
            prediction: Prediction::Edm { sigma_data },
            input_scale: InputScale::UnitVariance { sigma_data },
            noise_input: NoiseInput::QuarterLogNoise {},
        }
    }

    /// A network that is fed its input as it is, c_in = 1.
    pub fn unscaled(prediction: Prediction, noise_input: NoiseInput) -> Self {
        Self { prediction, input_scale: InputScale::None {}, noise_input }
    }

    /// Fails if the parts do not fit each other or the schedule.
    pub fn check(&self, schedule: &AnySchedule) -> Result<()> {
        self.prediction.check()?;
        self.input_scale.check()?;
        self.noise_input.check(schedule)?;
        let reaches_zero = schedule.kernel(schedule.span().1).alpha == 0.0;
        ensure!(
            !reaches_zero
                || !matches!(self.prediction, Prediction::Eps {} | Prediction::Score {} | Prediction::SigmaScore {}),
            "an eps or score prediction does not determine x0 where alpha = 0, which schedule {} reaches: predict v, \
             velocity, x0 or edm",
            schedule.kind()
        );
        Ok(())
    }
}

/// A network with its preconditioning and the schedule it was trained on.
#[derive(Debug, Clone)]
pub struct Preconditioned<N> {
    /// The raw network.
    pub network: N,
    /// What surrounds it.
    pub settings: Precondition,
    /// The schedule it was trained on.
    pub schedule: AnySchedule,
}

impl<N: Network> Preconditioned<N> {
    /// Puts the pieces together.
    ///
    /// ```
    /// use stein::{Condition, Context, Dual, Edm, Network, Precondition, Preconditioned, Result, Schedule, denoise, rows};
    ///
    /// /// The best network for data that are N(0, 0.25): with EDM's preconditioning there is nothing left to predict.
    /// struct Silent;
    ///
    /// impl Network for Silent {
    ///     fn forward(&self, x: Dual<2>, _: &Context) -> Result<Dual<2>> {
    ///         Ok(x.linear(|x| x.mul_scalar(0.0)))
    ///     }
    /// }
    ///
    /// let model = Preconditioned::new(Silent, Precondition::edm(0.5), Edm::default().into())?;
    /// let (x, at) = (rows::matrix(vec![1.0], 1, &rows::exact()), Edm::default().kernel(0.5));
    /// let denoised = denoise(&model, x, (&at).into(), &Condition::none())?;
    /// assert_eq!(rows::host(&denoised), [0.5]); // half of it is noise
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// When they do not fit: see [`Precondition::check`].
    pub fn new(network: N, settings: Precondition, schedule: AnySchedule) -> Result<Self> {
        schedule.check()?;
        settings.check(&schedule)?;
        Ok(Self { network, settings, schedule })
    }

    /// The raw output F at levels of the network's own schedule, which is what training regresses: `[rows, dim]`, and where the
    /// network learns variances its values for them, `[rows, dim]` too. With `dropout` the network drops values as in training.
    ///
    /// # Errors
    /// Those of the network, an output of another width, and one that has lost a derivative that was asked for.
    pub fn raw(
        &self,
        x: Dual<2>,
        at: Levels,
        given: &Condition,
        dropout: Option<&Keys>,
    ) -> Result<(Dual<2>, Option<Tensor<2>>)> {
        let dim = x.dims()[1];
        let (scaled, noise) = self.inputs(x, at);
        // Checked here: beside c_skip x, which has its derivatives, a network without any would not be missed.
        let asked = Asked::of(&scaled);
        let raw = self.network.forward(scaled, &Context { noise, second: None, given, dropout })?;
        asked.check(&raw, "network")?;
        let width = raw.dims()[1];
        ensure!(
            width == dim || width == 2 * dim,
            "the network gives {width} numbers for rows of {dim}: {dim} are expected, or {} with variances",
            2 * dim
        );
        if width == dim {
            return Ok((raw, None));
        }
        let variance = raw.value.clone().narrow(1, dim, dim);
        Ok((raw.linear(|raw| raw.narrow(1, 0, dim)), Some(variance)))
    }

    /// The levels of its own schedule with the same log-SNR.
    pub(crate) fn own(&self, at: Levels) -> OwnLevels {
        at.map(|k| self.schedule.kernel(self.schedule.time_at(k.log_snr())))
    }

    /// What the network is given: c_in x `[rows, dim]` and the noise numbers `[rows]`.
    pub(crate) fn inputs(&self, x: Dual<2>, at: Levels) -> (Dual<2>, Dual<1>) {
        let scaled = self.settings.input_scale.apply(x, at);
        let noise = self.settings.noise_input.numbers(&scaled.value, at, &self.schedule).into();
        (scaled, noise)
    }

    /// The estimate at levels of the network's own schedule; with `dropout` the network drops values as in training.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub fn estimate_at(&self, x: Dual<2>, at: Levels, given: &Condition, dropout: Option<&Keys>) -> Result<Estimate> {
        let (raw, variance) = self.raw(x.clone(), at, given, dropout)?;
        let skip = at.factors(|k| self.settings.prediction.skip_and_out(k).0);
        let out = at.factors(|k| self.settings.prediction.skip_and_out(k).1);
        // Learned variances come as numbers from -1 to 1.
        let variance = variance.map(|variance| variance.add_scalar(1.0).mul_scalar(0.5));
        Ok(Estimate { variance, ..(x.scale(&skip) + raw.scale(&out)).into() })
    }

    /// The score ((α c_skip − 1) x + α c_out F)/σ² at levels of the network's own schedule, which have noise.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub fn score_at(&self, x: Dual<2>, at: Levels, given: &Condition, dropout: Option<&Keys>) -> Result<Dual<2>> {
        let (raw, _) = self.raw(x.clone(), at, given, dropout)?;
        let skip_and_out = |k: &Kernel| self.settings.prediction.skip_and_out(k);
        let on_x = at.factors(|k| (k.alpha * skip_and_out(k).0 - 1.0) / k.sigma.powi(2));
        let on_raw = at.factors(|k| k.alpha * skip_and_out(k).1 / k.sigma.powi(2));
        Ok(x.scale(&on_x) + raw.scale(&on_raw))
    }

    /// The same with its network behind a reference.
    pub fn view(&self) -> Preconditioned<&dyn Network> {
        Preconditioned { network: &self.network, settings: self.settings, schedule: self.schedule.clone() }
    }
}

impl<N: Network> Denoiser for Preconditioned<N> {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let reaches_zero = self.schedule.kernel(self.schedule.span().1).alpha == 0.0;
        ensure!(
            reaches_zero || at.kernels().iter().all(|at| at.alpha > 0.0),
            "sampling starts where alpha = 0, a level that schedule {} of this model never reaches: sample on that \
             schedule, or set the grid's start below the end",
            self.schedule.kind()
        );
        let own = self.own(at);
        self.estimate_at(x.scale(&between(at, own.view())), own.view(), given, None)
    }
}

/// What brings rows from levels to those of the same log-SNR on another schedule.
pub(crate) fn between(at: Levels, own: Levels) -> Factors {
    own.factors_with(at, ratio)
}

/// What brings x from a level to one of the same log-SNR on another schedule: the ratio of the larger of α and σ, since one of
/// them may be 0.
fn ratio(own: &Kernel, at: &Kernel) -> f64 {
    if at.alpha > at.sigma { own.alpha / at.alpha } else { own.sigma / at.sigma }
}
