//! How strong guidance is: one number, or one that varies with the level.
//!
//! One convention throughout: the scale is the power of what guides, so that samples are of p(x) p(y given x)^scale, up to what is
//! lost between the levels. Of a model that is told y itself, scale 1 is the model as it is and guides no further; of one that is not,
//! scale 1 is Bayes' rule. Scale 0 leaves y out. `docs/notation.md` translates the papers'.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use stein_base::{Explain, explain::Form};

use crate::{
    Factors, Kernel, Levels, Result, ensure,
    numbers::{above, ensure_within},
};

/// The largest size of a scale.
const MOST_SCALE: f64 = 1e6;

/// A scale of guidance: in files a number, or a table of [`ScaleByLevel`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// The same at all levels.
    Same(f64),
    /// One that varies with the level.
    Varies(ScaleByLevel),
}

/// A scale that varies with the level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScaleByLevel {
    /// One scale inside an interval of levels, another outside (Kynkäänniemi et al. 2024).
    Interval {
        /// Where low ≤ σ/α ≤ high; from −1e6 to 1e6.
        scale: f64,
        /// The lowest σ/α, at least 0.
        #[serde(default)]
        low: f64,
        /// The highest σ/α, above `low`; default ∞.
        #[serde(default = "no_bound")]
        high: f64,
        /// Elsewhere; from −1e6 to 1e6, default 1.
        #[serde(default = "one")]
        outside: f64,
    },
    /// From one scale to another, linear in ln(σ/α), and constant beyond.
    Linear {
        /// At σ/α = low and below; from −1e6 to 1e6.
        clean: f64,
        /// At σ/α = high and above; from −1e6 to 1e6.
        noisy: f64,
        /// The level it leaves `clean` at, above 0.
        low: f64,
        /// The level it reaches `noisy` at, above `low` and finite.
        high: f64,
    },
    /// clean + (noisy − clean) n^power with n = σ/√(α² + σ²), the part of noise, which is between 0 and 1.
    Power {
        /// Without noise; from −1e6 to 1e6, default 1.
        #[serde(default = "one")]
        clean: f64,
        /// Without signal; from −1e6 to 1e6.
        noisy: f64,
        /// The exponent, above 0 and at most 100, default 1.
        #[serde(default = "one")]
        power: f64,
    },
}

fn no_bound() -> f64 {
    f64::INFINITY
}

fn one() -> f64 {
    1.0
}

impl From<f64> for Scale {
    fn from(scale: f64) -> Self {
        Self::Same(scale)
    }
}

impl From<ScaleByLevel> for Scale {
    fn from(scale: ScaleByLevel) -> Self {
        Self::Varies(scale)
    }
}

impl Scale {
    /// The scale at a level.
    pub fn at(&self, level: &Kernel) -> f64 {
        match *self {
            Self::Same(scale) => scale,
            Self::Varies(ScaleByLevel::Interval { scale, low, high, outside }) => {
                if (low..=high).contains(&level.noise_to_signal()) { scale } else { outside }
            }
            Self::Varies(ScaleByLevel::Linear { clean, noisy, low, high }) => {
                let part = (level.noise_to_signal() / low).ln() / (high / low).ln();
                clean + (noisy - clean) * part.clamp(0.0, 1.0)
            }
            Self::Varies(ScaleByLevel::Power { clean, noisy, power }) => {
                clean + (noisy - clean) * (level.sigma / level.alpha.hypot(level.sigma)).powf(power)
            }
        }
    }

    /// The scale of every row.
    pub fn factors(&self, at: Levels) -> Factors {
        match self {
            Self::Same(scale) => Factors::Same(*scale),
            Self::Varies(_) => at.factors(|level| self.at(level)),
        }
    }

    /// Whether it is this number at all these levels.
    pub(super) fn is(&self, scale: f64, at: Levels) -> bool {
        at.kernels().iter().all(|level| self.at(level) == scale)
    }

    /// Whether it is below 0 at some level.
    pub(super) fn is_negative(&self) -> bool {
        match *self {
            Self::Same(scale) => scale < 0.0,
            Self::Varies(ScaleByLevel::Interval { scale, outside, .. }) => scale.min(outside) < 0.0,
            Self::Varies(ScaleByLevel::Linear { clean, noisy, .. } | ScaleByLevel::Power { clean, noisy, .. }) => {
                clean.min(noisy) < 0.0
            }
        }
    }

    /// Fails if a number is out of its range.
    ///
    /// # Errors
    /// See above: with the name of the number.
    pub fn check(&self) -> Result<()> {
        let scale = |what: &str, scale: f64| ensure_within(what, scale, -MOST_SCALE..=MOST_SCALE);
        match *self {
            Self::Same(all) => scale("scale", all),
            Self::Varies(ScaleByLevel::Interval { scale: inside, low, high, outside }) => {
                scale("scale.scale", inside)?;
                scale("scale.outside", outside)?;
                ensure!(low >= 0.0 && low < high, "scale.low = {low} must be at least 0 and below scale.high = {high}");
                Ok(())
            }
            Self::Varies(ScaleByLevel::Linear { clean, noisy, low, high }) => {
                scale("scale.clean", clean)?;
                scale("scale.noisy", noisy)?;
                ensure!(
                    low > 0.0 && low < high && high.is_finite(),
                    "scale.low = {low} must be above 0 and below scale.high = {high}, and that finite"
                );
                Ok(())
            }
            Self::Varies(ScaleByLevel::Power { clean, noisy, power }) => {
                scale("scale.clean", clean)?;
                scale("scale.noisy", noisy)?;
                ensure_within("scale.power", power, above(0.0, 100.0))
            }
        }
    }
}

impl Explain for Scale {
    fn form() -> Form {
        ScaleByLevel::form()
    }
}

impl Serialize for Scale {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Same(scale) => to.serialize_f64(*scale),
            Self::Varies(scale) => scale.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct NumberOrTable;

        impl<'de> Visitor<'de> for NumberOrTable {
            type Value = Scale;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number, or a table such as { kind = \"interval\", scale = 2.0, high = 5.0 },")
            }

            fn visit_f64<E: Error>(self, scale: f64) -> std::result::Result<Scale, E> {
                Ok(Scale::Same(scale))
            }

            // A number that f64 cannot hold is out of range anyway.
            fn visit_i64<E: Error>(self, scale: i64) -> std::result::Result<Scale, E> {
                Ok(Scale::Same(scale as f64))
            }

            fn visit_u64<E: Error>(self, scale: u64) -> std::result::Result<Scale, E> {
                Ok(Scale::Same(scale as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> std::result::Result<Scale, A::Error> {
                ScaleByLevel::deserialize(MapAccessDeserializer::new(table)).map(Scale::Varies)
            }
        }

        from.deserialize_any(NumberOrTable)
    }
}
