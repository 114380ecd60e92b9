//! What was found of a likelihood, and its unit.

use serde::Serialize;

use super::{Bounded, LikelihoodOptions, asked::Asked};
use crate::Model;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct LikelihoodReport {
    /// The mean over the samples, in the unit.
    pub mean: f64,
    /// Its standard error over the samples; none of a single one.
    pub standard_error: Option<f64>,
    /// `bits/dim`, the length of a code for the samples (lower is better), or `nats`, ln of the density (higher is better).
    pub unit: &'static str,
    /// Samples.
    pub n: usize,
    /// Numbers in a sample.
    pub dim: usize,
    /// The mean of ln of the density, in nats a sample.
    pub nats: f64,
    /// The same for each number of a sample.
    pub nats_per_dim: f64,
    /// The same of the known density of the data, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_form: Option<f64>,
    /// The mean over the samples of the standard error of one of them, in the unit, that comes of random directions or levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate_error: Option<f64>,
    /// Calls of the model for a sample, the most of any.
    pub evaluations: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// How it was found.
    pub method: String,
    /// What the number is and is not.
    pub meaning: String,
    /// The model and the data.
    pub model: String,
    /// As `model`.
    pub data: String,
    /// The value of each sample, in the unit.
    #[serde(skip)]
    pub values: Vec<f64>,
}

impl std::fmt::Display for LikelihoodReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = self.standard_error.map(|error| format!(" ± {error:.4}")).unwrap_or_default();
        let mut lines = vec![
            ("data", format!("{} samples of {} numbers of {}", self.n, self.dim, self.data)),
            (self.unit, format!("{:.4}{error}", self.mean)),
        ];
        if self.unit != "nats" {
            lines.push(("nats", format!("{:.3} a sample", self.nats)));
        }
        lines.push(("nats/dim", format!("{:.5}", self.nats_per_dim)));
        if let Some(known) = self.closed_form {
            lines.push((
                "closed form",
                format!("{known:.5} nats, {:.1e} nats/dim apart", (self.nats - known).abs() / self.dim as f64),
            ));
        }
        if let Some(error) = self.estimate_error {
            lines.push(("estimate", format!("± {error:.4} for one sample, of what is drawn for it")));
        }
        lines.push(("by", self.method.clone()));
        lines.push(("evaluations", format!("{} for a sample at most, {:.1} s in all", self.evaluations, self.seconds)));
        lines.push(("this is", self.meaning.clone()));
        lines.iter().try_for_each(|(name, value)| writeln!(f, "{name:<13} {value}"))
    }
}

/// What densities of states are densities of.
pub(super) struct Unit {
    pub(super) name: &'static str,
    /// Whether the codecs say how volumes change.
    pub(super) of_data: bool,
    /// ln of the width of a gray level, and how many there are.
    pub(super) levels: Option<u32>,
    pub(super) dim: usize,
}

impl Unit {
    pub(super) fn of(model: &Model, of_data: bool) -> Self {
        let levels = model.subject.levels.filter(|_| of_data);
        Self { name: if levels.is_some() { "bits/dim" } else { "nats" }, of_data, levels, dim: model.subject.dim() }
    }

    /// A value in the unit of ln of the density, in nats, of the data, or of the states where codecs say nothing.
    pub(super) fn value(&self, nats: f64) -> f64 {
        match self.levels {
            None => nats,
            // A sample is one of (levels)^dim, each a cell of side 1/(levels − 1).
            Some(levels) => {
                let dim = self.dim as f64;
                -(nats / dim - f64::from(levels - 1).ln()) / std::f64::consts::LN_2
            }
        }
    }

    pub(super) fn meaning(&self, model: &Model, asked: &Asked, options: &LikelihoodOptions) -> String {
        let LikelihoodOptions { bound, published, .. } = *options;
        let mut text = match (self.levels, self.of_data) {
            (Some(levels), _) if asked.of_levels() => {
                format!("the mean length of a code for the {levels} gray levels of a number, lower is better")
            }
            (Some(levels), _) => format!(
                "the mean length of a code for the {levels} gray levels of a number, lower is better; levels were spread uniformly over \
                 their intervals, which gives a bound: do not compare it with variational dequantization"
            ),
            (None, true) => {
                "ln of a density in the units of the data, higher is better; no bits/dim, as the numbers are not \
                             gray levels"
                    .to_owned()
            }
            (None, false) => format!(
                "ln of the density of the states of {}, higher is better; no density of the data, as a codec does not say how volumes \
                 change",
                model.name
            ),
        };
        match bound {
            Bounded::Ode if asked.tells_bound() => text += "; a bound: the density itself is no lower",
            Bounded::Ode => {}
            Bounded::ScoreFlow => text += "; a bound on the density of the reverse SDE",
            Bounded::Variational => {
                text = "a bound on the mean length of a code for the gray levels of a number by the chain of reverse steps, lower is better; estimates \
                        are clipped to the range of the levels"
                    .to_owned();
            }
        }
        if published && bound == Bounded::Ode {
            text += "; in Score-SDE's convention, which takes data for noisy at the cleanest level: for comparison with its numbers only";
        }
        text
    }
}
