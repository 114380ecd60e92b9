//! The learning rate of each step: a linear warm-up times a decay.
//!
//! rate(n) = rate · min(1, (n + 1)/warmup) · d(n) for step n = 0, 1, …, with d one of
//! - `constant`: 1;
//! - `cosine`: floor + (1 − floor) (1 + cos π p)/2, p from 0 at the end of the warm-up to 1 at step `steps`, or else the end of
//!   the training (Loshchilov & Hutter, arXiv:1608.03983);
//! - `inverse_square_root`: 1/√max(n/reference, 1) (EDM2, Karras et al., arXiv:2312.02696).

use serde::{Deserialize, Serialize};
use stein::{
    Result, ensure,
    numbers::{above, ensure_within},
};
use stein_base::Explain;

/// The learning rate over a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// The largest learning rate; positive and at most 1e30, which single precision can hold; default 1e-3.
    pub rate: f64,
    /// Steps of linear warm-up; default 0.
    pub warmup: u64,
    /// What happens after; default `constant`.
    pub decay: Decay,
}

/// How the learning rate falls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// Not at all.
    #[serde(alias = "none")]
    #[default]
    Constant,
    /// Along half a cosine.
    Cosine {
        /// The step at which it ends; more than the warm-up, default the last step of the training.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<u64>,
        /// What is left in the end, a part of the largest rate; in \[0, 1\], default 0.
        #[serde(default)]
        floor: f64,
    },
    /// With the inverse square root of the step.
    #[serde(alias = "inverse_sqrt", alias = "inv_sqrt")]
    InverseSquareRoot {
        /// The step up to which it is constant; at least 1.
        reference: u64,
    },
}

impl Default for RateConfig {
    fn default() -> Self {
        Self { rate: 1e-3, warmup: 0, decay: Decay::Constant }
    }
}

impl RateConfig {
    /// Fails unless all numbers are in their ranges.
    pub fn check(&self) -> Result<()> {
        let Self { rate, warmup, .. } = *self;
        ensure_within("train.rate.rate", rate, above(0.0, 1e30))?;
        match self.decay {
            Decay::Constant => {}
            Decay::Cosine { steps, floor } => {
                ensure!(
                    steps.is_none_or(|steps| steps > warmup),
                    "train.rate.decay.steps is {}: give more than the {warmup} steps of warm-up",
                    steps.unwrap_or_default()
                );
                ensure_within("train.rate.decay.floor", floor, 0.0..=1.0)?;
            }
            Decay::InverseSquareRoot { reference } => {
                ensure!(reference > 0, "train.rate.decay.reference is 0: give the step at which the decay begins");
            }
        }
        Ok(())
    }

    /// Leaves out the end of a decay that ends with the training, so that it goes on with it when that is made longer.
    #[must_use]
    pub fn ending_with(mut self, training: u64) -> Self {
        if let Decay::Cosine { steps, .. } = &mut self.decay {
            *steps = steps.filter(|&steps| steps != training);
        }
        self
    }

    /// The learning rate of a step, counted from 0, of a training of so many.
    pub fn at(&self, step: u64, training: u64) -> f64 {
        let n = step as f64;
        let warm = ((n + 1.0) / self.warmup.max(1) as f64).min(1.0);
        let decay = match self.decay {
            Decay::Constant => 1.0,
            Decay::Cosine { steps, floor } => {
                let (warmup, end) = (self.warmup as f64, steps.unwrap_or(training) as f64);
                // A training may end before its warm-up does.
                let past = if n > warmup { ((n - warmup) / (end - warmup)).clamp(0.0, 1.0) } else { 0.0 };
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * past).cos())
            }
            Decay::InverseSquareRoot { reference } => (n / reference as f64).max(1.0).powf(-0.5),
        };
        self.rate * warm * decay
    }
}
