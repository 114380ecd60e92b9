//! The flow of a model between data and codes.

use stein::{Result, numbers::ensure_within, ode::Steps};

use crate::{Model, model::ModelFlow};

/// How codes are found and read.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeOptions {
    /// Schedule to go along, by name; default the one trained on.
    pub schedule: Option<String>,
    /// Relative and absolute tolerance of the ODE.
    pub tolerance: f64,
    /// Whether files may be replaced that this program did not write.
    pub force: bool,
}

impl Default for CodeOptions {
    fn default() -> Self {
        Self { schedule: None, tolerance: 1e-5, force: false }
    }
}

/// The flow of a model between data and codes.
pub(crate) struct CodeFlow {
    pub(crate) flow: ModelFlow,
    pub(crate) tolerance: f64,
}

/// Most attempted steps of a sample.
const MOST_STEPS: usize = 100_000;

impl CodeFlow {
    pub(crate) fn of(model: &Model, options: &CodeOptions, by: &str) -> Result<Self> {
        let flow = model.flow(options.schedule.as_deref(), by)?;
        ensure_within("--tolerance", options.tolerance, 1e-12..=0.1)?;
        Ok(Self { flow, tolerance: options.tolerance })
    }

    pub(crate) fn steps(&self) -> Steps {
        Steps::Adaptive { rtol: self.tolerance, atol: self.tolerance, most: MOST_STEPS }
    }
}
