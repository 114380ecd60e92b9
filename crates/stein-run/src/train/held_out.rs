//! What the losses are on examples that are not trained on.

use std::collections::BTreeMap;

use burn::module::Module;
use stein::{Result, ensure};

use super::{Prepared, metrics::named, origin::FIRST_HELD_OUT};
use crate::{Experiment, family::Networks};

/// Examples that are not trained on, always the same with the same noise.
pub(super) struct HeldOut {
    /// How many there are in all.
    pub(super) all: usize,
    /// Those that are looked at.
    pub(super) batch: stein_data::Batch,
}

/// Most held-out examples that are looked at, and most numbers in them.
const HELD_OUT: (usize, usize) = (512, 1 << 24);

impl HeldOut {
    /// An even part of the data, so small that looking at it takes less than a twentieth of the time between two checkpoints: a loss
    /// without its gradient takes about a third of the time of a loss with it.
    pub(super) fn of(data: &stein_data::Data, trained: &stein_data::Data, experiment: &Experiment) -> Result<Self> {
        ensure!(
            Kind::Mismatch,
            (data.shape, &data.class_names) == (trained.shape, &trained.class_names),
            "those of {} have another shape or other classes than those to train on",
            data.name
        );
        let between = experiment.train.checkpoint_every.saturating_mul(experiment.train.batch as u64);
        let affordable = usize::try_from(between / 20 * 3).unwrap_or(usize::MAX);
        let count = HELD_OUT.0.min(HELD_OUT.1 / data.dim()).min(affordable).clamp(1, data.len());
        let index = data.spaced(count);
        let labels = data.labels.as_ref().map(|labels| index.iter().map(|&i| labels[i]).collect());
        let captions = data.captions_of(&index);
        // No training comes that far: the noise of these examples is their own.
        let first = FIRST_HELD_OUT;
        let positions = first..first + count as u64;
        let x = data.rows(&index)?;
        Ok(Self { all: data.len(), batch: stein_data::Batch { x, index, positions, labels, captions } })
    }
}

impl Prepared {
    /// The mean loss of every learner on the held-out examples, measured as in training, and what else the family measures on them.
    pub(super) fn held_out_numbers(&self) -> Result<Vec<(String, f64)>> {
        let Some(HeldOut { batch, .. }) = &self.held_out else { return Ok(Vec::new()) };
        let (count, at_once) = (batch.index.len(), self.experiment.train.batch / self.experiment.train.accumulate);
        let networks: Networks = self.parts.iter().map(|part| (part.name.clone(), part.network.valid())).collect();
        let learners = self.learners(networks);
        let mut losses = Vec::new();
        for part in &self.parts {
            let (mut sum, mut seen) = (0.0, 0);
            for start in (0..count).step_by(at_once) {
                let rows = start..count.min(start + at_once);
                let sources = self.sources(batch, rows.clone(), &self.device)?;
                let batch = self.batch(batch, rows.clone(), sources.as_ref(), &self.device)?;
                let term = self.experiment.family.loss(&part.name, &learners, &batch)?;
                if let Some(term) = term {
                    sum += term.value.into_scalar::<f64>() * rows.len() as f64;
                    seen += rows.len();
                }
            }
            if seen > 0 {
                losses.push((named("held_out_loss", part, &self.parts), sum / seen as f64));
            }
        }
        let mut others = BTreeMap::<String, f64>::new();
        for start in (0..count).step_by(at_once) {
            let rows = start..count.min(start + at_once);
            let share = rows.len() as f64 / count as f64;
            let batch = self.batch(batch, rows, None, &self.device)?;
            for (name, mean) in self.experiment.family.held_out(&learners, &batch)? {
                *others.entry(format!("held_out_{name}")).or_default() += share * mean;
            }
        }
        losses.extend(others);
        let numbers = self.reconstructed()?.map_or_else(Vec::new, |found| found.numbers);
        losses.extend(numbers.into_iter().map(|(name, value)| (format!("held_out_{name}"), value)));
        Ok(losses)
    }
}
