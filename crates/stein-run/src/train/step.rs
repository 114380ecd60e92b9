//! One step: the gradient of every learner in its turn, the optimizer's move, and targets that follow.

use std::ops::Range;

use burn::module::Module;
use stein::{Condition, Device, Error, Keys, Result, Tensor, coupling::Classes, rows::select};
use stein_nn::{Accumulated, AnyNetwork, on_tapes, state};

use super::{Part, Prepared, origin::FIRST_HELD_OUT};
use crate::{
    Watch,
    family::{Batch, Learners, Loss, Networks},
};

impl Prepared {
    /// Networks and what they learn from beside the data.
    pub(super) fn learners(&self, networks: Networks) -> Learners<'_> {
        Learners {
            networks,
            averages: &self.averages,
            teacher: self.teacher.as_deref(),
            perceptual: self.perceptual.as_ref(),
        }
    }

    /// What the learners see in the turn of one of them: its network trainable, the others constants.
    fn turn(&self, turn: usize) -> Vec<AnyNetwork> {
        let network = |(i, part): (usize, &Part)| if i == turn { part.network.clone() } else { part.network.valid() };
        self.parts.iter().enumerate().map(network).collect()
    }

    /// The gradient of one learner's loss on a batch, and the loss; `None` where the learner rests. What a loss leaves is in place for the
    /// next part of the batch. The watch can end the first
    /// turn, before which nothing has changed.
    fn gradient(
        &mut self,
        turn: usize,
        batches: &[stein_data::Batch],
        sources: &[Option<Sources>],
        watch: &dyn Watch,
    ) -> Result<Option<(Accumulated, f64)>> {
        let device = self.device.clone().autodiff();
        let mut gradients = Accumulated::new();
        let (mut loss, mut counted) = (0.0, 0);
        for (batch, sources) in batches.iter().zip(sources) {
            if turn == 0 {
                watch.going()?;
            }
            let count = batch.index.len();
            let tapes = on_tapes(self.turn(turn), count, |networks, rows| {
                let names = self.parts.iter().map(|part| part.name.clone());
                let learners = self.learners(names.zip(networks).collect());
                let name = &self.parts[turn].name;
                let term = self.experiment.family.loss(
                    name,
                    &learners,
                    &self.batch(batch, rows, sources.as_ref(), &device)?,
                )?;
                let Some(Loss { value, left }) = term else { return Ok(None) };
                let backward = value.backward();
                let network = learners.networks.get(name)?.clone();
                Ok::<_, Error>(Some((network, backward, value.into_scalar::<f64>(), left)))
            });
            for tape in tapes {
                if let Some((network, backward, term, left)) = tape? {
                    gradients.add(&network, backward);
                    let part = &mut self.parts[turn];
                    part.network = state::replace(part.network.clone(), left)?;
                    loss += term;
                    counted += 1;
                }
            }
        }
        Ok((counted > 0).then(|| (gradients, loss / f64::from(counted))))
    }

    /// What the paths of some rows of a batch begin from, where examples are paired with it, which is done for all of them at once.
    pub(super) fn sources(
        &self,
        batch: &stein_data::Batch,
        rows: Range<usize>,
        device: &Device,
    ) -> Result<Option<Sources>> {
        // Of a single example that is left at the end there is nothing to pair.
        let Some(coupling) = self.experiment.family.coupling().filter(|_| rows.len() > 1) else { return Ok(None) };
        let first = rows.start;
        let whole = self.batch(batch, rows, None, device)?;
        let classes = whole.given.class.as_deref().map(Classes::of_data);
        let source = whole.source();
        let order = coupling.pair(&whole.x, &source, classes, &whole.keys)?;
        Ok(Some(Sources { first, x1: select(source, &order) }))
    }

    /// Some rows of a batch of data as a batch of states, with what they were paired with.
    pub(super) fn batch(
        &self,
        batch: &stein_data::Batch,
        rows: Range<usize>,
        sources: Option<&Sources>,
        device: &Device,
    ) -> Result<Batch> {
        let dim = self.description.subject.dim();
        let keys = Keys::range(self.experiment.seed, batch.positions.start + rows.start as u64, rows.len());
        let x = match &self.encoded {
            Some(encoded) if batch.positions.start < FIRST_HELD_OUT => encoded.rows(&batch.index[rows.clone()], device),
            _ => self.description.subject.encode(&batch.x[rows.start * dim..rows.end * dim], &keys, device)?,
        };
        let labels = batch.labels.as_ref().filter(|_| self.experiment.data.conditional);
        let mut given = match labels {
            Some(labels) => Condition::classes(labels[rows.clone()].iter().map(|&label| label as u32)),
            None => Condition::none(),
        };
        let (x, source) = match (&self.origin, sources) {
            (_, Some(Sources { first, x1 })) => (x, Some(x1.clone().narrow(0, rows.start - first, rows.len()))),
            (None, None) => (x, None),
            (Some(origin), None) => {
                let states = origin.states(&self.description.subject, &keys, given.class.as_deref(), device)?;
                if let Some(class) = states.class {
                    given = Condition::classes(class);
                }
                (states.x0.unwrap_or(x), Some(states.x1))
            }
        };
        let text = match (&self.description.subject.text, &batch.captions) {
            (Some(texts), Some(captions)) => {
                let told = |caption: &String| Ok(Some(texts.tokenizer.padded(caption)?.into()));
                Some(captions[rows].iter().map(told).collect::<Result<_>>()?)
            }
            _ => None,
        };
        let image = self.pictures.as_ref().map(|pictures| pictures.of(&x, &keys)).transpose()?;
        let given = Condition { image, text, ..given };
        Ok(Batch {
            x,
            source,
            given,
            keys,
            step: self.step,
            steps: self.experiment.train.steps,
            truth: self.truth.clone(),
        })
    }

    /// One step of every learner in its turn: the loss, the gradient's norm and the rate of those that moved.
    pub(super) fn take_step(&mut self, batches: &[stein_data::Batch], watch: &dyn Watch) -> Result<Vec<Moved>> {
        let batch = self.experiment.train.batch;
        let mut moved = Vec::new();
        let device = self.device.clone().autodiff();
        let sources = |batch: &stein_data::Batch| self.sources(batch, 0..batch.index.len(), &device);
        let sources: Vec<_> = batches.iter().map(sources).collect::<Result<_>>()?;
        for turn in 0..self.parts.len() {
            if let Some(follows) = self.parts[turn].follows.clone() {
                let decay = (follows.decay)(self.step, self.experiment.train.steps);
                let leader = self.parts.iter().find(|part| part.name == follows.learner);
                let leader = leader.expect("a learner follows one of its family").network.clone();
                let part = &mut self.parts[turn];
                part.network = state::follow(part.network.clone(), &leader, decay);
                continue;
            }
            let Some((gradients, loss)) = self.gradient(turn, batches, &sources, watch)? else { continue };
            // Taken out, so that the step has the only handle on the weights and changes them in place.
            let mut part = self.parts.remove(turn);
            let rate = part.rate.at(self.step, self.experiment.train.steps);
            let average = self.averages.get_mut(&part.name).map(|average| (average, batch));
            let (network, norm) = part.optimizer.step(part.network, gradients, rate, average);
            part.network = network;
            self.parts.insert(turn, part);
            if !(loss.is_finite() && norm.is_finite()) {
                let what = format!("the loss is {loss} and the gradient's norm {norm}");
                return Err(self.not_finite(self.step + 1, &what));
            }
            moved.push(Moved { turn, loss, norm, rate });
        }
        self.step += 1;
        Ok(moved)
    }
}

/// What paths begin from, `[rows, dim]`, of the rows of a batch from one on.
pub(super) struct Sources {
    first: usize,
    x1: Tensor<2>,
}

/// What a learner's step came to.
pub(super) struct Moved {
    pub(super) turn: usize,
    pub(super) loss: f64,
    pub(super) norm: f64,
    pub(super) rate: f64,
}
