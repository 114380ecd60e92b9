//! A list of levels, numbered from 0 (cleanest): DDPM's betas or NCSN's sigmas.
//!
//! With betas, ᾱ_i = Π_{j≤i} (1 − β_j), α = √ᾱ, σ = √(1 − ᾱ) (Ho et al. 2020, eq. 4); with sigmas, α = 1 (Song & Ermon
//! 2019). Time is the index and may be fractional: ln(σ/α) is joined by a growing cubic spline, so that grids and ODE solvers
//! of any step run between the levels. Only a network snaps to them, where it is fed its label.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{LARGEST_SIGMA, SMALLEST_SIGMA, Schedule};
use crate::{Error, Kernel, Result, ensure, numbers::ensure_within};

/// How the list of levels is made. Betas are those of the published `count`; a list of another length covers the same
/// range in fewer, unscaled steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LevelList {
    /// β from `first` to `last` in equal steps (DDPM: 0.0001 to 0.02, 1000).
    Linear {
        /// β of the cleanest level, in (0, 1).
        first: f64,
        /// β of the noisiest level, in (0, 1).
        last: f64,
        /// Number of levels, at least 2.
        count: usize,
    },
    /// √β in equal steps from √first to √last (latent diffusion: 0.0015 to 0.0195; Stable Diffusion: 0.00085 to 0.012).
    #[serde(alias = "scaled_linear", alias = "quad")]
    SqrtLinear {
        /// β of the cleanest level, in (0, 1).
        first: f64,
        /// β of the noisiest level, in (0, 1).
        last: f64,
        /// Number of levels, at least 2.
        count: usize,
    },
    /// β_i = min(1 − ᾱ((i+1)/count)/ᾱ(i/count), max_beta), ᾱ(u) = cos²((u + offset)/(1 + offset) π/2)
    /// (improved DDPM: offset 0.008, max_beta 0.999).
    #[serde(alias = "squaredcos_cap_v2")]
    Cosine {
        /// The offset s, at least 0; default 0.008.
        #[serde(default = "cosine_offset")]
        offset: f64,
        /// Largest β, in (0, 1); default 0.999.
        #[serde(default = "cosine_max_beta")]
        max_beta: f64,
        /// Number of levels, at least 2.
        count: usize,
    },
    /// β = first + (last − first) sigmoid(u), u from −`reach` to `reach` in equal steps (DDIM code: reach 6).
    Sigmoid {
        /// Lower asymptote of β, in (0, 1).
        first: f64,
        /// Upper asymptote of β, above `first` and below 1.
        last: f64,
        /// Half the range of the sigmoid's argument, above 0.
        reach: f64,
        /// Number of levels, at least 2.
        count: usize,
    },
    /// σ from `first` to `last` in equal ratios (NCSN: 0.01 to 1, 10; NCSNv2 on CIFAR-10: 0.01 to 50, 232).
    Geometric {
        /// σ of the cleanest level, above 0.
        first: f64,
        /// σ of the noisiest level, above `first`.
        last: f64,
        /// Number of levels, at least 2.
        count: usize,
    },
    /// These betas, cleanest level first.
    Betas {
        /// Each in (0, 1).
        values: Vec<f64>,
    },
    /// These sigmas, growing.
    Sigmas {
        /// Each above 0.
        values: Vec<f64>,
    },
}

/// Most levels of a list.
const MOST: usize = 1_000_000;

impl LevelList {
    fn count(&self) -> usize {
        match *self {
            Self::Linear { count, .. }
            | Self::SqrtLinear { count, .. }
            | Self::Cosine { count, .. }
            | Self::Sigmoid { count, .. }
            | Self::Geometric { count, .. } => count,
            Self::Betas { ref values } | Self::Sigmas { ref values } => values.len(),
        }
    }

    /// The betas and `true`, or the sigmas and `false`, cleanest level first.
    fn values(&self) -> (Vec<f64>, bool) {
        let line = |from: f64, to: f64, count: usize| -> Vec<f64> {
            (0..count).map(|i| from + (to - from) * i as f64 / (count.max(2) - 1) as f64).collect()
        };
        match *self {
            Self::Linear { first, last, count } => (line(first, last, count), true),
            Self::SqrtLinear { first, last, count } => {
                (line(first.sqrt(), last.sqrt(), count).into_iter().map(|root| root * root).collect(), true)
            }
            Self::Cosine { offset, max_beta, count } => {
                let bar = |u: f64| ((u + offset) / (1.0 + offset) * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let beta = |i: usize| 1.0 - bar((i + 1) as f64 / count as f64) / bar(i as f64 / count as f64);
                ((0..count).map(|i| beta(i).min(max_beta)).collect(), true)
            }
            Self::Sigmoid { first, last, reach, count } => {
                let beta = |u: f64| first + (last - first) / (1.0 + (-u).exp());
                (line(-reach, reach, count).into_iter().map(beta).collect(), true)
            }
            Self::Geometric { first, last, count } => {
                (line(first.ln(), last.ln(), count).into_iter().map(f64::exp).collect(), false)
            }
            Self::Betas { ref values } => (values.clone(), true),
            Self::Sigmas { ref values } => (values.clone(), false),
        }
    }
}

#[derive(Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// How the list of levels is made; default DDPM's 1000 linear betas.
    #[serde(default = "default_levels")]
    levels: LevelList,
}

fn cosine_offset() -> f64 {
    0.008
}

fn cosine_max_beta() -> f64 {
    0.999
}

fn default_levels() -> LevelList {
    LevelList::Linear { first: 1e-4, last: 0.02, count: 1000 }
}

/// A discrete schedule: t is the level's index, from 0 to `levels − 1`. Default: DDPM's 1000 linear betas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(try_from = "Settings", into = "Settings")]
pub struct Discrete {
    settings: LevelList,
    preserving: bool,
    /// ln(σ/α) at each level.
    log_noise: Vec<f64>,
    /// d ln(σ/α)/dt at each level.
    slope: Vec<f64>,
}

impl Default for Discrete {
    fn default() -> Self {
        Self::new(default_levels()).expect("DDPM's betas are valid")
    }
}

impl TryFrom<Settings> for Discrete {
    type Error = Error;
    fn try_from(settings: Settings) -> Result<Self> {
        Self::new(settings.levels)
    }
}

impl From<Discrete> for Settings {
    fn from(discrete: Discrete) -> Self {
        Self { levels: discrete.settings }
    }
}

impl Discrete {
    /// The schedule of these levels.
    ///
    /// # Errors
    /// Fewer than two levels, a beta outside (0, 1), or sigmas that are not positive and growing.
    pub fn new(settings: LevelList) -> Result<Self> {
        ensure_within("schedule discrete: the number of levels", settings.count(), 2..=MOST)?;
        let (values, preserving) = settings.values();
        let log_noise: Vec<f64> = if preserving {
            let mut log_alpha_bar = 0.0;
            let mut levels = Vec::with_capacity(values.len());
            for (i, &beta) in values.iter().enumerate() {
                ensure!(0.0 < beta && beta < 1.0, "schedule discrete: beta {i} is {beta}, it must lie between 0 and 1");
                log_alpha_bar += (-beta).ln_1p();
                // σ²/α² = (1 − ᾱ)/ᾱ = exp(−ln ᾱ) − 1.
                let level: f64 = 0.5 * (-log_alpha_bar).exp_m1().ln();
                ensure!(
                    level.is_finite(),
                    "schedule discrete: level {i} has no signal left: use fewer or smaller betas"
                );
                levels.push(level);
            }
            levels
        } else {
            ensure!(
                values[0] > 0.0
                    && values.windows(2).all(|pair| pair[0] < pair[1])
                    && values.iter().all(|sigma| (SMALLEST_SIGMA..=LARGEST_SIGMA).contains(sigma)),
                "schedule discrete: sigmas must lie between {SMALLEST_SIGMA:e} and {LARGEST_SIGMA:e} and grow from the first \
                 (cleanest) to the last"
            );
            values.iter().map(|sigma| sigma.ln()).collect()
        };
        let slope = growing_slopes(&log_noise);
        Ok(Self { settings, preserving, log_noise, slope })
    }

    /// ᾱ at every level: α², the product of 1 − β up to it; 1 everywhere for a list of sigmas.
    pub fn alpha_bar(&self) -> Vec<f64> {
        (0..self.log_noise.len()).map(|i| self.kernel(i as f64).alpha.powi(2)).collect()
    }

    /// ln(σ/α) and its derivative at fractional index `t`; a straight line beyond the ends.
    fn log_noise_at(&self, t: f64) -> (f64, f64) {
        let last = self.log_noise.len() - 1;
        for (beyond, end) in [(t < 0.0, 0), (t > last as f64, last)] {
            if beyond {
                return (self.log_noise[end] + self.slope[end] * (t - end as f64), self.slope[end]);
            }
        }
        let i = (t as usize).min(last - 1);
        let u = t - i as f64;
        let (y0, y1, m0, m1) = (self.log_noise[i], self.log_noise[i + 1], self.slope[i], self.slope[i + 1]);
        let rise = y1 - y0;
        let (c2, c3) = (3.0 * rise - 2.0 * m0 - m1, m0 + m1 - 2.0 * rise);
        (y0 + u * (m0 + u * (c2 + u * c3)), m0 + u * (2.0 * c2 + u * 3.0 * c3))
    }
}

/// Slopes at unit-spaced knots of a growing cubic: those of the twice differentiable spline where it grows everywhere, so
/// that ODE solvers keep their order; otherwise central differences limited to what keeps every piece monotone.
fn growing_slopes(y: &[f64]) -> Vec<f64> {
    let rise: Vec<f64> = y.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let count = rise.len();
    if count == 1 {
        return vec![rise[0]; 2];
    }
    // Above 0, so that the straight line beyond an end can be inverted.
    let end = |near: f64, far: f64| (1.5 * near - 0.5 * far).clamp(0.25 * near, 3.0 * near);
    let ends = (end(rise[0], rise[1]), end(rise[count - 1], rise[count - 2]));
    let spline = spline_slopes(&rise, ends);
    // Fritsch & Carlson 1980: slopes between 0 and three times the rises on both sides suffice for monotony.
    let safe = |i: usize, slope: f64| {
        let left = rise[i.saturating_sub(1)];
        slope.clamp(0.0, 3.0 * left.min(rise[i.min(count - 1)]))
    };
    if spline.iter().enumerate().all(|(i, &slope)| slope > 0.0 && safe(i, slope) == slope) {
        return spline;
    }
    let inside = (1..count).map(|i| safe(i, 0.5 * (rise[i - 1] + rise[i])));
    std::iter::once(ends.0).chain(inside).chain(std::iter::once(ends.1)).collect()
}

/// Slopes of the twice differentiable cubic spline with given end slopes: m_{i−1} + 4 m_i + m_{i+1} = 3 (y_{i+1} − y_{i−1}),
/// solved by elimination (de Boor 1978, chapter IV).
fn spline_slopes(rise: &[f64], ends: (f64, f64)) -> Vec<f64> {
    let count = rise.len();
    let mut slopes = vec![ends.0; count + 1];
    slopes[count] = ends.1;
    let mut above = vec![0.0; count + 1];
    for i in 1..count {
        let pivot = 4.0 - above[i - 1];
        above[i] = 1.0 / pivot;
        slopes[i] = (3.0 * (rise[i - 1] + rise[i]) - slopes[i - 1]) / pivot;
    }
    for i in (1..count).rev() {
        slopes[i] -= above[i] * slopes[i + 1];
    }
    slopes
}

impl Schedule for Discrete {
    fn kernel(&self, t: f64) -> Kernel {
        let (log_noise, slope) = self.log_noise_at(t);
        let noise = log_noise.exp();
        if self.preserving {
            let alpha = 1.0 / (1.0 + noise * noise).sqrt();
            let sigma = noise * alpha;
            Kernel { t, alpha, sigma, d_alpha: -slope * sigma * sigma * alpha, d_sigma: slope * sigma * alpha * alpha }
        } else {
            Kernel { t, alpha: 1.0, sigma: noise, d_alpha: 0.0, d_sigma: slope * noise }
        }
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        let wanted = -0.5 * log_snr;
        let last = self.log_noise.len() - 1;
        for end in [0, last] {
            let beyond = if end == 0 { wanted < self.log_noise[0] } else { wanted > self.log_noise[last] };
            if beyond {
                return end as f64 + (wanted - self.log_noise[end]) / self.slope[end];
            }
        }
        let i = self.log_noise.partition_point(|&level| level <= wanted).clamp(1, last) - 1;
        // Bisection to the last bit inside the one cubic piece; it is monotone.
        let (mut low, mut high) = (i as f64, (i + 1) as f64);
        loop {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high {
                return if wanted <= self.log_noise[i] { low } else { high };
            }
            if self.log_noise_at(middle).0 < wanted { low = middle } else { high = middle }
        }
    }

    fn span(&self) -> (f64, f64) {
        (0.0, (self.log_noise.len() - 1) as f64)
    }

    fn levels(&self) -> Option<usize> {
        Some(self.log_noise.len())
    }

    fn check(&self) -> Result<()> {
        // Construction refuses bad levels, so one that exists is sound.
        Ok(())
    }
}
