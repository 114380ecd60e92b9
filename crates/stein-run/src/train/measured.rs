//! How good samples are while a model trains, and which checkpoint was best.

use stein::{Kind, Result};
use stein_metrics::AnyMetric;

use super::Prepared;
use crate::{
    EvaluateConfig, EvaluateOptions, Evaluation, Event, Of, Watch,
    evaluate::{Compared, Kept},
};

impl Prepared {
    /// Whether samples are to be measured after this step.
    pub(super) fn evaluation_is_due(&self) -> bool {
        let (step, every) = (self.step, self.experiment.train.evaluate.every);
        every > 0 && (step == self.experiment.train.steps || step.is_multiple_of(every))
    }

    /// How samples are measured while it trains.
    pub(super) fn evaluation(&self) -> EvaluateOptions {
        let EvaluateConfig { metrics, features, feature_weights, reference, n, .. } = &self.experiment.train.evaluate;
        EvaluateOptions {
            metrics: metrics.clone(),
            features: features.clone(),
            weights: feature_weights.clone(),
            reference: reference.clone(),
            n: Some(*n),
            seed: self.experiment.seed,
            folder: self.data_dir.clone(),
            ..EvaluateOptions::default()
        }
    }

    /// Whether the first of these metrics is better than all that the run has said of it, and a checkpoint of that is there.
    fn is_best(&self, metric: &AnyMetric, value: f64) -> Result<bool> {
        let key = in_metrics(metric);
        let earlier = self.run.metrics()?.into_iter().filter_map(|line| line[&key].as_f64());
        let best = earlier.map(|value| metric.better().loss(value)).fold(f64::INFINITY, f64::min);
        Ok(metric.better().loss(value) < best || !self.run.best_path().exists())
    }
}

/// The name of a metric of samples in the metrics of a run.
fn in_metrics(metric: &AnyMetric) -> String {
    format!("evaluate/{}", metric.kind())
}

/// Measures samples as they are now. What they are compared with is read, and turned to features, once for all steps.
fn measured(state: &Prepared, kept: &mut Option<Kept>, watch: &mut dyn Watch) -> Result<Evaluation> {
    let (model, options) = (state.model()?, state.evaluation());
    let sampling = model.sample.clone();
    let of = Of::Model(Box::new(model));
    let mut compared = match kept.take() {
        Some(kept) => Compared::again(&of, &options, kept)?,
        None => Compared::of(&of, &options)?,
    };
    let found = compared.keep(watch).and_then(|()| compared.measure(Some(&sampling), &mut |_, _| {}, watch));
    *kept = Some(compared.into_kept());
    found
}

/// The metrics of samples as they are now, of which the best checkpoint is kept. Early weights may give no finite samples, and a stop
/// may come: neither ends the training, which goes on without these numbers.
pub(super) fn evaluated(
    state: &Prepared,
    kept: &mut Option<Kept>,
    watch: &mut dyn Watch,
) -> Result<Vec<(String, f64)>> {
    let found = match measured(state, kept, watch) {
        Err(error) if [Kind::Stopped, Kind::NotFinite].contains(&error.kind()) => {
            watch.event(Event::Note(&format!("samples of step {} were not measured: {error}", state.step)));
            return Ok(Vec::new());
        }
        found => found?,
    };
    if let Some((metric, measured, _)) = found.measured.first()
        && state.is_best(metric, measured.value)?
    {
        state.checkpoint()?.write(&state.run.best_path())?;
    }
    Ok(found.measured.iter().map(|(metric, measured, _)| (in_metrics(metric), measured.value)).collect())
}
