//! How samples are drawn: the method, its grid, and what is wrapped around the model.

use serde::{Deserialize, Serialize};
use stein::{
    AnySampler, AnySchedule, AnyWrapper, Error, Grid, Heun, Result, ensure,
    guidance::{ClassifierFree, Negative, Scale},
    names,
    numbers::ensure_within,
    settings,
};
use stein_base::{
    Explain,
    explain::{self, Choice, Entry, Form},
};
use toml::{Table, Value};

use crate::{AnyFamily, Capability, experiment::with_settings, family::lacks};

/// What draws the samples.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// A sampler, which takes a denoiser level by level.
    Sampler(AnySampler),
    /// The diffusion of an interpolant, which has a velocity and a score.
    Interpolant(InterpolantSde),
    /// Multistep sampling: a flow map takes the sample along its trajectory; a consistency function takes it to the end, and noise
    /// takes it back to the next level.
    Multistep,
    /// A generator makes the sample in one go.
    Generate,
}

/// The diffusion of an interpolant: dx = (v − ½ g² s) dt + g dw̄ by Euler–Maruyama.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct InterpolantSde {
    /// g, in the units of states; from 0, default 1. The samples have one law whatever it is; with that of the σ of its bridge they follow
    /// the Schrödinger bridge.
    pub diffusion: f64,
}

impl Default for InterpolantSde {
    fn default() -> Self {
        Self { diffusion: 1.0 }
    }
}

/// The names of the methods that are no sampler.
const INTERPOLANT: &str = "interpolant_sde";
const MULTISTEP: &str = "multistep";
const GENERATE: &str = "generate";

impl Method {
    /// The names, as in files and on the command line.
    pub fn names() -> Vec<String> {
        AnySampler::names().into_iter().chain([INTERPOLANT, MULTISTEP, GENERATE].map(String::from)).collect()
    }

    /// The one of this name, with its default parameters.
    ///
    /// # Errors
    /// An unknown name, answered with the known ones, nearest first.
    pub fn named(name: &str) -> Result<Self> {
        Self::with_settings(name, Table::new())
    }

    /// The one of this name, with settings.
    ///
    /// # Errors
    /// As [`named`](Self::named), and settings that are none of it.
    pub(crate) fn with_settings(name: &str, table: Table) -> Result<Self> {
        let alone = match explain::ours::<Self>(name).as_str() {
            MULTISTEP => Self::Multistep,
            GENERATE => Self::Generate,
            INTERPOLANT => return settings::read(Value::Table(table)).map(Self::Interpolant),
            name if AnySampler::names().iter().any(|known| known == name) => {
                return AnySampler::with_settings(name, table).map(Self::Sampler);
            }
            name => return Err(names::unknown("sampler", name, &Self::names())),
        };
        match table.keys().next() {
            Some(key) => {
                Err(Error::new(format!("sampler {name} has no settings, and `{key}` was given: leave it out")))
            }
            None => Ok(alone),
        }
    }

    /// Its name.
    pub fn kind(&self) -> &str {
        match self {
            Self::Sampler(sampler) => sampler.kind(),
            Self::Interpolant(_) => INTERPOLANT,
            Self::Multistep => MULTISTEP,
            Self::Generate => GENERATE,
        }
    }

    /// What a model must be able to do for it.
    pub fn needs(&self) -> Capability {
        match self {
            Self::Sampler(sampler) if sampler.solver().is_some() => Capability::Velocity,
            Self::Sampler(_) => Capability::Denoiser,
            Self::Interpolant(_) => Capability::Interpolant,
            Self::Multistep => Capability::FlowMap,
            Self::Generate => Capability::Generator,
        }
    }

    /// Whether it chooses its own steps.
    pub fn adaptive(&self) -> bool {
        matches!(self, Self::Sampler(sampler) if sampler.adaptive())
    }
}

impl From<AnySampler> for Method {
    fn from(sampler: AnySampler) -> Self {
        Self::Sampler(sampler)
    }
}

impl Explain for Method {
    fn form() -> Form {
        Form::Choice(Choice {
            name: "Method",
            doc: "What draws the samples.",
            tagged: true,
            entries: || {
                let Form::Choice(samplers) = AnySampler::form() else { unreachable!("a registry is a choice") };
                let Form::Table(sde) = InterpolantSde::form() else { unreachable!("a struct is a table") };
                let interpolant = Entry::new(
                    INTERPOLANT,
                    &[],
                    "Of an interpolant: the diffusion with its law, by Euler–Maruyama.",
                    (sde.keys)(),
                );
                let multistep = Entry::new(
                    MULTISTEP,
                    &["multistep_consistency"],
                    "Of a consistency function: carries the sample to the clean end, and noise takes it back to the next level.",
                    Vec::new(),
                );
                let generate = Entry::new(GENERATE, &[], "Of a generator: makes the sample in one go.", Vec::new());
                (samplers.entries)().into_iter().chain([interpolant, multistep, generate]).collect()
            },
        })
    }
}

impl Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Sampler(sampler) => sampler.serialize(to),
            Self::Interpolant(sampler) => settings::tagged(INTERPOLANT, sampler, to),
            other => settings::tagged(other.kind(), &Table::new(), to),
        }
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        settings::take_kind("sampler", Value::deserialize(from)?, &Self::names())
            .and_then(|(kind, table)| Self::with_settings(&kind, table))
            .map_err(D::Error::custom)
    }
}

/// Sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// The sampler; it has to fit the family: diffusion takes all but `interpolant_sde`, `multistep` and `generate`, a velocity
    /// alone the solvers `ode_euler`, `ode_midpoint`, `ode_heun`, `ode_rk4` and `rk45`.
    pub sampler: Method,
    /// The levels it stops at.
    #[serde(default)]
    pub grid: Grid,
    /// Schedule to sample on; default the one trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<AnySchedule>,
    /// What is wrapped around the denoiser, the outermost last: guidance, clamping; default nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrap: Vec<AnyWrapper>,
    /// Samples at a time; from 1 to 1e9, default 128. It changes speed and memory, not the samples.
    #[serde(default = "default_batch")]
    pub batch: usize,
}

/// Heun's method on 18 of EDM's steps.
impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            sampler: AnySampler::from(Heun::default()).into(),
            grid: Grid::karras(18),
            schedule: None,
            wrap: Vec::new(),
            batch: default_batch(),
        }
    }
}

/// Most samples at a time that mean anything.
const MOST_BATCH: usize = 1_000_000_000;

fn default_batch() -> usize {
    128
}

/// What to change in a [`SampleConfig`], as a command line has it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Another sampler, by name, with its default parameters.
    pub sampler: Option<String>,
    /// Another spacing of the grid, by name.
    pub grid: Option<String>,
    /// Another number of steps.
    pub steps: Option<usize>,
    /// Another schedule, by name.
    pub schedule: Option<String>,
    /// The scale of classifier-free guidance.
    pub guidance: Option<f64>,
    /// The text that guidance leads away from instead of none.
    pub negative: Option<String>,
    /// `path=value` settings whose paths start with `sample.`.
    pub settings: Vec<String>,
}

impl SampleConfig {
    /// Guidance of another scale, away from a text where one is given: in the place of what there is, or before all else.
    fn guide(&mut self, scale: Option<f64>, negative: Option<String>) -> Result<()> {
        let known = self.wrap.iter().enumerate().find_map(|(place, wrapper)| match wrapper {
            AnyWrapper::ClassifierFree(guidance) => Some((place, guidance.scale, None)),
            AnyWrapper::Negative(Negative { text: Some(text), scale, .. }) => Some((place, *scale, Some(text.clone()))),
            _ => None,
        });
        let (there, known_scale, known_text) =
            known.map_or((None, None, None), |(place, scale, text)| (Some(place), Some(scale), text));
        let scale = scale.map(Scale::from).or(known_scale).ok_or_else(|| {
            Error::new(
                "--negative is what guidance leads away from, and there is none: give --guidance SCALE, such as 7.5",
            )
        })?;
        let guided = match negative.or(known_text) {
            Some(text) => Negative { text: Some(text), scale, ..Negative::default() }.into(),
            None => ClassifierFree { scale }.into(),
        };
        match there {
            Some(place) => self.wrap[place] = guided,
            None => self.wrap.insert(0, guided),
        }
        Ok(())
    }

    /// This with what a command line asks for: see [`Changes`].
    ///
    /// # Errors
    /// Unknown names, `steps` for a sampler that chooses its own, values out of range.
    pub fn with(&self, changes: &Changes) -> Result<Self> {
        let mut config = self.clone();
        if let Some(name) = &changes.sampler {
            config.sampler = Method::named(name)?;
        }
        if let Some(name) = &changes.grid {
            config.grid.spacing = stein::Spacing::named(name)?;
        }
        if let Some(name) = &changes.schedule {
            config.schedule = Some(AnySchedule::named(name)?);
            // Times of one schedule mean nothing on another.
            (config.grid.start, config.grid.end) = (None, None);
        }
        if changes.guidance.is_some() || changes.negative.is_some() {
            config.guide(changes.guidance, changes.negative.clone())?;
        }
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            sample: SampleConfig,
        }
        let table = Table::try_from(Whole { sample: config }).expect("a sampling configuration is a table");
        let mut config = with_settings::<Whole>(table, &changes.settings)?.sample;
        let Some(steps) = changes.steps else { return Ok(config) };
        ensure!(
            !config.sampler.adaptive(),
            "sampler {} chooses its own steps: leave out --steps and set sample.sampler.rtol and atol",
            config.sampler.kind()
        );
        ensure!(
            !matches!(config.grid.spacing, stein::Spacing::Given { .. }),
            "the given grid lists its levels: leave out --steps"
        );
        config.grid.steps = steps;
        Ok(config)
    }

    /// The schedule to sample on after checks, and this with the grid's ends filled in where they are not the schedule's own:
    /// below α = 0 for samplers that cannot start there, and inside the levels the model was trained on, given by its schedule
    /// (none for an exact model), when it is sampled on another.
    ///
    /// # Errors
    /// Parameters out of range, and a grid that does not fit.
    pub fn resolve(&self, own: Option<&AnySchedule>, trained: bool) -> Result<(Option<AnySchedule>, Self)> {
        ensure_within("sample.batch", self.batch, 1..=MOST_BATCH)?;
        let Some(own) = own.filter(|_| self.sampler != Method::Generate) else {
            // Without levels there is nothing to lay a grid on.
            return Ok((None, self.clone()));
        };
        let schedule = self.schedule.clone().unwrap_or_else(|| own.clone());
        schedule.check()?;
        match &self.sampler {
            Method::Sampler(sampler) => sampler.check()?,
            Method::Interpolant(sde) => {
                ensure_within("sampler interpolant_sde: diffusion", sde.diffusion, 0.0..=1e6)?;
            }
            Method::Multistep | Method::Generate => {}
        }
        let mut resolved = self.clone();
        resolved.grid.steps = self.grid.intervals();
        if self.sampler.adaptive() {
            // Only the two ends matter, and the denoised end that every such run has.
            resolved.grid =
                Grid { steps: 2, clean: true, start: self.grid.start, end: self.grid.end, ..Grid::default() };
        }
        let noise = |schedule: &AnySchedule, t: f64| schedule.kernel(t).noise_to_signal();
        let (first, last) = schedule.span();
        // Where signal does not fade, as on VE, there is nothing to divide by.
        let fades = schedule.kernel(last).alpha < 1.0;
        let unbounded = !fades || self.starts_without_signal();
        let mut bounds = (0.0, if unbounded { f64::INFINITY } else { LARGEST_START });
        if trained && self.schedule.is_some() {
            let (first, last) = own.span();
            bounds = (noise(own, first), bounds.1.min(noise(own, last)));
        }
        if !self.grid.spacing.names_levels() {
            let at = |noise: f64| Some(schedule.time_at(-2.0 * noise.ln()).clamp(first, last));
            let too_noisy = noise(&schedule, last) > bounds.1;
            resolved.grid.start = resolved.grid.start.or_else(|| if too_noisy { at(bounds.1) } else { None });
            let too_clean = noise(&schedule, first) < bounds.0;
            resolved.grid.end = resolved.grid.end.or_else(|| if too_clean { at(bounds.0) } else { None });
        }
        if let stein::Spacing::Given { noise } = &self.grid.spacing {
            let trained = (bounds.0 * (1.0 - 1e-6))..=(bounds.1 * (1.0 + 1e-6));
            ensure!(
                noise.iter().all(|noise| trained.contains(noise)),
                "the given grid's levels {noise:?} are not all between sigma/alpha = {} and {}, where the model was trained and the \
                 sampler can start",
                bounds.0,
                bounds.1
            );
        }
        // An optimized grid has levels once there is a model.
        if resolved.grid.spacing != (stein::Spacing::Optimized {}) {
            resolved.grid.kernels(&*schedule)?;
        }
        Ok((Some(schedule), resolved))
    }

    /// Fails unless there is one where a family has something that draws samples, and only there, and it fits the family.
    pub(crate) fn check_all(config: Option<&Self>, family: &AnyFamily) -> Result<()> {
        let draws = family.serves().iter().any(|capability| capability.draws());
        let kind = family.kind();
        let Some(config) = config else {
            ensure!(
                !draws,
                "the table [sample] is missing: say how models of the family {kind} are sampled, such as sampler = {{ kind = \"heun\" }}"
            );
            return Ok(());
        };
        config.check_for(family)?;
        config.resolve(family.schedule(), true).map(drop)
    }

    /// Fails unless a family gives what the sampler needs.
    pub fn check_for(&self, family: &AnyFamily) -> Result<()> {
        self.grid.spacing.check().map_err(|error| error.at("sample"))?;
        let needed = self.sampler.needs();
        if needed.is_among(family.serves()) {
            return Ok(());
        }
        let by = format!("sampler {}", self.sampler.kind());
        Err(lacks("this model", family.kind(), family.serves(), needed, &by))
    }

    fn starts_without_signal(&self) -> bool {
        use stein::Spacing::{Karras, LogSnr};
        let starts = match &self.sampler {
            Method::Sampler(sampler) => sampler.starts_without_signal(),
            Method::Interpolant(_) => true,
            Method::Multistep | Method::Generate => false,
        };
        starts && !matches!(self.grid.spacing, Karras { .. } | LogSnr {})
    }
}

/// The σ/α a run starts from when its sampler or grid cannot start without signal: a thousand times more noise than signal,
/// which the prior's variance accounts for.
const LARGEST_START: f64 = 1000.0;
