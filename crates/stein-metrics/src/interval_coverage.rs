//! Coverage of central intervals: the share of observations between the (1 − level)/2 and (1 + level)/2 quantiles of their members.
//!
//! It should be the level; less where members are too alike. The quantile q of m sorted members is at place q (m + 1) − 1, between two
//! members on the line between them (Hyndman & Fan 1996, definition 6), so that a finite ensemble of the right law covers the
//! level, without the narrowness of other definitions. Of two ensembles that cover alike the one with the smaller `width`, the
//! mean width of intervals, is sharper. Numbers of one observation are counted one by one; the error is s/√n over
//! observations.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure, numbers::ensure_within};

use crate::{Better, Measured, Metric, Needs, Running, Sides, ensembles, measured::mean, quantiles};

/// Share of observations in the central interval of their members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct IntervalCoverage {
    /// The share that should be covered, 0.01 to 0.99; default 0.9.
    pub level: f64,
}

impl Default for IntervalCoverage {
    fn default() -> Self {
        Self { level: 0.9 }
    }
}

impl Metric for IntervalCoverage {
    fn needs(&self) -> Needs {
        ensembles::NEEDS
    }

    fn better(&self) -> Better {
        Better::Near(self.level)
    }

    fn check(&self) -> Result<()> {
        ensure_within("level", self.level, 0.01..=0.99)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        let level = self.level;
        Ok(Running::whole(move |sides| of(sides, level)))
    }
}

fn of(sides: &Sides, level: f64) -> Result<Measured> {
    let m = sides.samples.len() / sides.reference.len();
    // The outermost quantile must not lie beyond the outermost member; a hair of rounding may.
    let place = (1.0 - level) / 2.0 * (m + 1) as f64 - 1.0;
    let least = (2.0 / (1.0 - level) - 1.0 - 1e-9).ceil();
    ensure!(
        place >= -1e-9,
        "{m} members say nothing about a central interval of {level}: give at least {least} for each observation, or set a \
         smaller `level`"
    );
    let place = place.max(0.0);
    let (below, part) = (place as usize, place.fract());
    let measured = ensembles::each(sides, |observation, members| {
        let mut inside = Vec::with_capacity(observation.len());
        let mut widths = Vec::with_capacity(observation.len());
        for (observed, mut members) in ensembles::coordinates(observation, members) {
            quantiles::sort(&mut members);
            let between = |from: usize, to: usize| members[from] + part * (members[to] - members[from]);
            let next = (below + 1).min(m - 1);
            let (low, high) = (between(below, next), between(m - 1 - below, m - 1 - next));
            inside.push(f64::from(u8::from(low <= observed && observed <= high)));
            widths.push(high - low);
        }
        (mean(&inside), mean(&widths))
    });
    let (inside, widths): (Vec<f64>, Vec<f64>) = measured.into_iter().unzip();
    Ok(Measured::mean_of(&inside).with_part("level", level).with_part("width", mean(&widths)))
}
