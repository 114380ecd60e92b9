//! What leads from data to codes and back: the probability flow of a model, or a map of its own.

use std::sync::Arc;

use stein::{LatentMap, Result, ensure, numbers::ensure_within, ode::Steps};

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

/// What leads from data to codes and back.
pub(crate) enum ToCodes {
    /// The flow of a velocity; codes have the shape of states.
    Flow(CodeFlow),
    /// One evaluation of a map of the model's own, whose codes are standard normal.
    Map(Arc<dyn LatentMap>),
}

impl ToCodes {
    pub(crate) fn of(model: &Model, options: &CodeOptions, by: &str) -> Result<Self> {
        let Some(codes) = &model.learned.codes else { return CodeFlow::of(model, options, by).map(Self::Flow) };
        let plain = CodeOptions { force: options.force, ..CodeOptions::default() };
        ensure!(
            Kind::Unsupported,
            *options == plain,
            "{} finds codes in one evaluation, with no schedule and no tolerance: leave out --schedule and --tolerance",
            model.name
        );
        Ok(Self::Map(Arc::clone(codes)))
    }

    /// The shape of a code.
    pub(crate) fn shape(&self, model: &Model) -> Result<Vec<usize>> {
        match self {
            Self::Flow(_) => model.subject.state_shape(),
            Self::Map(map) => Ok(vec![map.width()]),
        }
    }

    /// The standard deviation of codes.
    pub(crate) fn std(&self) -> f64 {
        match self {
            Self::Flow(flow) => flow.flow.far_std,
            Self::Map(_) => 1.0,
        }
    }
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
