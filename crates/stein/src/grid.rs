//! Grids: at which levels a sampler stops, from the noisiest to the clean end.
//!
//! A grid of `steps` intervals has `steps` noisy levels and then [`Kernel::CLEAN`]; with `clean = false` it has
//! `steps + 1` noisy levels and stops at the last. Ending exactly at σ = 0 is the default because a last level with a
//! little noise leaves that noise in the picture.

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use crate::{
    Kernel, Result, Schedule, ensure,
    numbers::{above, ensure_within},
    schedule::shifted_time,
};

/// Most steps of a grid, and of what a sampler does at one of its levels.
pub(crate) const MOST_STEPS: usize = 1_000_000;

/// How the levels are spaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Spacing {
    /// Equal steps of time (Song et al. 2021).
    #[serde(alias = "linspace")]
    Uniform {},
    /// Equal steps of (σ/α)^(1/ρ) (Karras et al. 2022, eq. 5).
    Karras {
        /// ρ; the larger, the shorter the steps near the clean end; positive and at most 1000. Published: 7.
        #[serde(default = "default_rho")]
        rho: f64,
    },
    /// Equal steps of log-SNR (Lu et al. 2022, DPM-Solver).
    #[serde(alias = "logsnr", alias = "lambda")]
    LogSnr {},
    /// Equal steps of time, each then moved to where σ/α is `shift` times as large (Esser et al. 2024, eq. 23): on rectified
    /// flows from s to t = shift s/(1 + (shift − 1) s).
    Shifted {
        /// The larger, the shorter the steps near the noisy end; 1 for none. Published: 3.
        #[serde(default = "default_shift")]
        shift: f64,
    },
    /// Equal ratios of σ (Song & Ermon 2019).
    #[serde(alias = "exponential")]
    Geometric {},
    /// Trained levels `offset`, `offset` + k, `offset` + 2k, … with k = levels div steps (Song, Meng & Ermon 2021,
    /// section 4.2, linear).
    Leading {
        /// The cleanest of them, default 0. Latent diffusion counts from 1 and ends at level 0: with `clean = false` an
        /// offset above 0 adds that level.
        #[serde(default)]
        offset: usize,
    },
    /// Trained levels counted down from the noisiest in equal steps (Lin et al. 2024).
    Trailing {},
    /// Trained levels at squares of equal steps up to √(0.8 levels) (Song, Meng & Ermon 2021, appendix D.2, quadratic).
    #[serde(alias = "quad")]
    Quadratic {},
    /// Levels listed one by one.
    Given {
        /// σ/α of every level, noisiest first, without the clean end; the number of steps follows from it.
        noise: Vec<f64>,
    },
    /// Levels that `stein sweep --grids optimized` found for the model, the sampler and the number of steps (see
    /// [`optimized`](crate::optimized)); whoever draws samples looks them up and lists them.
    Optimized {},
}

fn default_rho() -> f64 {
    7.0
}

fn default_shift() -> f64 {
    3.0
}

impl Spacing {
    /// Fails unless its numbers are in their ranges, on whatever schedule.
    ///
    /// # Errors
    /// ρ or a shift that is not.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Karras { rho } => ensure_within("grid karras: rho", rho, above(0.0, 1e3)),
            Self::Shifted { shift } => ensure_within("grid shifted: shift", shift, above(0.0, 1e6)),
            _ => Ok(()),
        }
    }

    /// [`Shifted`](Self::Shifted) for pictures of this many tokens, by exp(μ) with μ linear in their number, 0.5 at 256 and 1.15 at 4096:
    /// FLUX.1, `calculate_shift` of diffusers.
    ///
    /// ```
    /// # use stein::Spacing;
    /// assert_eq!(Spacing::shifted_for(256), Spacing::Shifted { shift: 0.5f64.exp() });
    /// ```
    #[must_use]
    pub fn shifted_for(tokens: usize) -> Self {
        let mu = 0.5 + (1.15 - 0.5) * (tokens as f64 - 256.0) / (4096.0 - 256.0);
        Self::Shifted { shift: mu.exp() }
    }

    /// The names of those that need neither a list of levels nor a model, as in files and on the command line.
    pub const NAMES: &'static [&'static str] =
        &["uniform", "karras", "log_snr", "shifted", "geometric", "leading", "trailing", "quadratic"];

    /// The name of the one that is fitted to a model.
    pub const OPTIMIZED: &'static str = "optimized";

    /// Whether it picks levels of a discrete schedule.
    fn picks_trained_levels(&self) -> bool {
        matches!(self, Self::Leading { .. } | Self::Trailing {} | Self::Quadratic {})
    }

    /// Whether it names its levels itself, and so has no start and end of its own.
    pub fn names_levels(&self) -> bool {
        self.picks_trained_levels() || matches!(self, Self::Given { .. })
    }

    /// The spacing of this name with its published parameter.
    ///
    /// # Errors
    /// An unknown name, answered with the known ones, nearest first.
    pub fn named(kind: &str) -> Result<Self> {
        Ok(match stein_base::explain::ours::<Self>(kind).as_str() {
            "uniform" => Self::Uniform {},
            "karras" => Self::Karras { rho: default_rho() },
            "log_snr" => Self::LogSnr {},
            "shifted" => Self::Shifted { shift: default_shift() },
            "geometric" => Self::Geometric {},
            "leading" => Self::Leading { offset: 0 },
            "trailing" => Self::Trailing {},
            "quadratic" => Self::Quadratic {},
            Self::OPTIMIZED => Self::Optimized {},
            "given" => {
                return Err(crate::Error::new(
                    "the given grid lists its levels: --set 'sample.grid.spacing={kind=\"given\", noise=[80.0, 0.5]}'",
                ));
            }
            _ => return Err(stein_base::names::unknown("grid", kind, &[Self::NAMES, &[Self::OPTIMIZED]].concat())),
        })
    }
}

/// A grid over any schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Grid {
    /// Spacing; default uniform.
    pub spacing: Spacing,
    /// Number of intervals, the last one to σ = 0 included; from 1 to 1,000,000, default 100.
    pub steps: usize,
    /// Noisiest time; default the end of the schedule's span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Cleanest time before σ = 0; default the other end of the span. Unused with one step that ends clean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// Whether the grid ends at σ = 0; default true.
    pub clean: bool,
}

impl Default for Grid {
    fn default() -> Self {
        Self { spacing: Spacing::Uniform {}, steps: 100, start: None, end: None, clean: true }
    }
}

impl Grid {
    /// Uniform in time, ending clean.
    pub fn uniform(steps: usize) -> Self {
        Self { steps, ..Self::default() }
    }

    /// Karras et al.'s grid with ρ = 7, ending clean.
    pub fn karras(steps: usize) -> Self {
        Self { spacing: Spacing::Karras { rho: default_rho() }, ..Self::uniform(steps) }
    }

    /// The same, with its cleanest level where the step from there to t = 0 is as long as the others: for what is followed to t = 0 itself,
    /// as a [velocity](crate::Velocity) is. A grid that says its end, or is not of equal steps of time, stays as it is.
    #[must_use]
    pub fn even_to_zero(&self, schedule: &dyn Schedule) -> Self {
        let (first, last) = schedule.span();
        let start = self.start.unwrap_or(last);
        let steps = self.steps.max(1) as f64;
        let end = match self.spacing {
            Spacing::Uniform {} => start / steps,
            Spacing::Shifted { shift } => {
                shifted_time(schedule, shifted_time(schedule, start, 1.0 / shift) / steps, shift)
            }
            _ => return self.clone(),
        };
        if self.end.is_some() || !self.clean || end < first {
            self.clone()
        } else {
            Self { end: Some(end), ..self.clone() }
        }
    }

    /// Number of intervals: `steps`, or what the listed levels make.
    pub fn intervals(&self) -> usize {
        match &self.spacing {
            Spacing::Given { noise } => noise.len() - usize::from(!self.clean && !noise.is_empty()),
            _ => self.steps,
        }
    }

    /// The levels on this schedule, noisiest first, one more than [intervals](Self::intervals).
    ///
    /// ```
    /// use stein::{Edm, Grid, Kernel, Spacing};
    ///
    /// let levels = Grid::karras(18).kernels(&Edm::default())?;
    /// assert_eq!((levels.len(), levels[0].sigma, levels[17].sigma), (19, 80.0, 0.002));
    /// assert!(levels[18].is_clean());
    ///
    /// let listed = Grid { spacing: Spacing::Given { noise: vec![80.0, 1.0] }, clean: false, ..Grid::default() };
    /// let sigmas: Vec<f64> = listed.kernels(&Edm::default())?.iter().map(|at| at.sigma.round()).collect();
    /// assert_eq!(sigmas, [80.0, 1.0]);
    /// # Ok::<(), stein::Error>(())
    /// ```
    ///
    /// # Errors
    /// No steps; a start or end outside the schedule; a spacing of trained levels on a schedule that has none, or more
    /// steps than levels, or one step of leading or quadratic; a spacing in σ/α where α is 0; given levels that do not fall, or
    /// that the schedule does not reach; an optimized grid, whose levels are the model's.
    pub fn kernels(&self, schedule: &dyn Schedule) -> Result<Vec<Kernel>> {
        let steps = self.intervals();
        ensure!(
            steps >= 1,
            "the grid has no steps: {}",
            match self.spacing {
                Spacing::Given { .. } => "list at least one level, or two where clean = false",
                _ => "ask for at least 1",
            }
        );
        ensure_within("the number of steps of the grid", steps, ..=MOST_STEPS)?;
        self.spacing.check()?;
        let (first, last) = schedule.span();
        let (start, end) = (self.start.unwrap_or(last), self.end.unwrap_or(first));
        ensure!(
            first <= end && end <= start && start <= last,
            "the grid runs from {start} to {end}, which must lie in the schedule's times, {last} down to {first}"
        );
        let points = if self.clean { steps } else { steps + 1 };
        ensure!(
            points == 1 || end < start,
            "the grid's start and end are both {start}: {points} levels need an interval between them"
        );
        let ends = Ends { start, end, points };
        let mut times = match &self.spacing {
            Spacing::Uniform {} => ends.spread(start, end).collect(),
            &Spacing::Karras { rho } => {
                ends.in_noise(schedule, |noise| noise.powf(1.0 / rho), |root| root.powf(rho))?
            }
            Spacing::LogSnr {} => ends.in_noise(schedule, f64::ln, f64::exp)?,
            &Spacing::Shifted { shift } => ends.shifted(schedule, shift),
            Spacing::Geometric {} => ends.in_sigma_ratios(schedule),
            Spacing::Leading { .. } | Spacing::Trailing {} | Spacing::Quadratic {} => self.trained(schedule, points)?,
            Spacing::Given { noise } => self.listed(schedule, noise)?,
            Spacing::Optimized {} => {
                return Err(crate::Error::new(
                    "the optimized grid has the levels found for a model and a sampler: list them as a given grid",
                ));
            }
        };
        // The ends are exact, whatever a round trip through σ/α rounds to.
        if !self.spacing.names_levels() {
            times[0] = start;
            if points > 1 {
                times[points - 1] = end;
            }
        }
        let mut kernels: Vec<Kernel> = times.into_iter().map(|t| schedule.kernel(t)).collect();
        if self.clean {
            kernels.push(Kernel::CLEAN);
        }
        Ok(kernels)
    }

    /// Trained levels of a discrete schedule, as indices, noisiest first.
    fn trained(&self, schedule: &dyn Schedule, points: usize) -> Result<Vec<f64>> {
        let Some(levels) = schedule.levels() else {
            return Err(crate::Error::new(
                "the leading, trailing and quadratic grids pick trained levels: they need a discrete schedule",
            ));
        };
        ensure!(points <= levels, "the grid asks for {points} of the schedule's {levels} levels");
        ensure!(
            self.start.is_none() && self.end.is_none(),
            "the leading, trailing and quadratic grids span all trained levels: leave out start and end"
        );
        ensure!(
            points >= 2 || matches!(self.spacing, Spacing::Trailing {}),
            "the leading and quadratic grids of one step start at level 0, which has hardly any noise: use trailing"
        );
        let picked = self.subsequence(levels, points);
        ensure!(
            picked[0] < levels as f64,
            "the leading grid starts at level {}, beyond the last of {levels}: lower its offset or its steps",
            picked[0]
        );
        Ok(picked)
    }

    /// The times of levels given by their σ/α.
    fn listed(&self, schedule: &dyn Schedule, listed: &[f64]) -> Result<Vec<f64>> {
        ensure!(
            self.start.is_none() && self.end.is_none(),
            "the given grid starts and ends at the levels it lists: leave out start and end"
        );
        ensure!(
            listed.windows(2).all(|pair| pair[0] > pair[1]) && listed.iter().all(|&noise| noise > 0.0),
            "the given grid's levels must fall and be above 0, the noisiest first: {listed:?}"
        );
        let (first, last) = schedule.span();
        let (least, most) = (schedule.kernel(first).noise_to_signal(), schedule.kernel(last).noise_to_signal());
        // A little room for a level that was printed and read.
        let reached = least * (1.0 - 1e-6)..=most * (1.0 + 1e-6);
        ensure!(
            listed.iter().all(|noise| reached.contains(noise)),
            "the given grid's levels must lie between sigma/alpha = {least} and {most} of the schedule: {listed:?}"
        );
        Ok(listed.iter().map(|noise| schedule.time_at(-2.0 * noise.ln()).clamp(first, last)).collect())
    }

    fn subsequence(&self, levels: usize, points: usize) -> Vec<f64> {
        let leading = |offset: usize, count: usize| (0..count).map(move |i| (offset + i * (levels / count)) as f64);
        let ascending: Vec<f64> = match &self.spacing {
            Spacing::Trailing {} => {
                let stride = levels as f64 / points as f64;
                (1..=points).map(|i| (i as f64 * stride).round() - 1.0).collect()
            }
            Spacing::Quadratic {} => {
                let root = (0.8 * levels as f64).sqrt();
                let mut indices: Vec<f64> =
                    (0..points).map(|i| (root * i as f64 / (points.max(2) - 1) as f64).powi(2).floor()).collect();
                // Squares bunch up near 0: every level is visited at most once.
                for i in 1..points {
                    indices[i] = indices[i].max(indices[i - 1] + 1.0);
                }
                indices
            }
            &Spacing::Leading { offset } if offset > 0 && !self.clean => {
                std::iter::once(0.0).chain(leading(offset, self.steps)).collect()
            }
            &Spacing::Leading { offset } => leading(offset, points).collect(),
            _ => leading(0, points).collect(),
        };
        ascending.into_iter().rev().collect()
    }
}

/// The noisiest and the cleanest time of a grid, and its number of noisy levels.
struct Ends {
    start: f64,
    end: f64,
    points: usize,
}

impl Ends {
    /// Numbers in equal steps, one per level.
    fn spread(&self, from: f64, to: f64) -> impl Iterator<Item = f64> {
        let intervals = (self.points.max(2) - 1) as f64;
        (0..self.points).map(move |i| from + (to - from) * (i as f64 / intervals))
    }

    /// Times of equal steps of a function of σ/α.
    fn in_noise(
        &self,
        schedule: &dyn Schedule,
        forward: impl Fn(f64) -> f64,
        back: impl Fn(f64) -> f64,
    ) -> Result<Vec<f64>> {
        let [start, end] = [self.start, self.end].map(|t| schedule.kernel(t).noise_to_signal());
        ensure!(
            start.is_finite(),
            "this grid divides by alpha, which is 0 at t = {}: set the grid's start below that, or use the uniform grid",
            self.start
        );
        Ok(self.spread(forward(start), forward(end)).map(|place| schedule.time_at(-2.0 * back(place).ln())).collect())
    }

    /// Times of equal steps, moved to where σ/α is this many times as large.
    fn shifted(&self, schedule: &dyn Schedule, shift: f64) -> Vec<f64> {
        let [start, end] = [self.start, self.end].map(|t| shifted_time(schedule, t, 1.0 / shift));
        self.spread(start, end).map(|t| shifted_time(schedule, t, shift)).collect()
    }

    /// Times of equal ratios of σ.
    fn in_sigma_ratios(&self, schedule: &dyn Schedule) -> Vec<f64> {
        let sigma = |t: f64| schedule.kernel(t).sigma;
        self.spread(sigma(self.start).ln(), sigma(self.end).ln())
            .map(|log_sigma| bisect(&sigma, log_sigma.exp(), self.end, self.start))
            .collect()
    }
}

/// The t in \[low, high\] at which a growing function takes a value, to the last bit.
fn bisect(growing: &dyn Fn(f64) -> f64, value: f64, mut low: f64, mut high: f64) -> f64 {
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return low;
        }
        if growing(middle) < value { low = middle } else { high = middle }
    }
}
