//! The metrics of a run, a line of JSON a step and TensorBoard's events, and what the learners did since the last line.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use stein::{Error, Kind, Result};

use super::{Part, step::Moved};
use crate::{RunDir, description::WINDOW, tensorboard::EventWriter};

/// The metrics of a run, in both formats.
pub(super) struct Metrics {
    lines: File,
    path: PathBuf,
    pub(super) events: EventWriter,
}

impl Metrics {
    pub(super) fn open(run: &RunDir) -> Result<Self> {
        let path = run.metrics_path();
        let lines =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|error| {
                Error::of(Kind::File, format!("cannot write the metrics {}: {error}", path.display()))
            })?;
        Ok(Self { lines, path, events: EventWriter::create(run.root())? })
    }

    pub(super) fn write(&mut self, step: u64, numbers: &[(String, f64)]) -> Result<()> {
        let mut line = serde_json::Map::from_iter([("step".to_owned(), step.into())]);
        for (name, value) in numbers {
            line.insert(name.clone(), (*value).into());
            self.events.scalar(name, step as i64, *value as f32)?;
        }
        self.events.flush()?;
        // In one call, so that no line is ever in the middle of another.
        let line = format!("{}\n", serde_json::Value::Object(line));
        self.lines.write_all(line.as_bytes()).map_err(|error| {
            Error::of(
                Kind::File,
                format!("cannot write the metrics {}: {error}; is the disk full?", self.path.display()),
            )
        })
    }
}

/// What the learners did since the last line of metrics, and how fast. It goes into checkpoints, so that the lines of a run that was
/// stopped are those of one that was not.
pub(super) struct Window {
    pub(super) since: Instant,
    /// What of that time was spent on other things.
    pub(super) away: Duration,
    examples: usize,
    /// Sum of losses, steps, last norm and rate of each learner.
    learners: Vec<(f64, u64, f64, f64)>,
}

impl Window {
    pub(super) fn new(learners: usize) -> Self {
        Self { since: Instant::now(), away: Duration::ZERO, examples: 0, learners: vec![(0.0, 0, 0.0, 0.0); learners] }
    }

    /// What a checkpoint keeps of it, if anything happened since the last line.
    pub(super) fn saved(&self) -> Option<String> {
        let any = self.learners.iter().any(|learner| learner.1 > 0);
        any.then(|| serde_json::to_string(&self.learners).expect("numbers have a place in JSON"))
    }

    /// Takes up what [`saved`](Self::saved) kept.
    pub(super) fn restore(&mut self, saved: &str) -> Result<()> {
        let learners: Option<Vec<(f64, u64, f64, f64)>> = serde_json::from_str(saved).ok();
        self.learners = learners.filter(|learners| learners.len() == self.learners.len()).ok_or_else(|| {
            Error::of(
                Kind::File,
                format!("the metadata key {WINDOW} is not that of these learners: the file is damaged"),
            )
        })?;
        Ok(())
    }

    pub(super) fn add(&mut self, moved: &[Moved], examples: usize) {
        self.examples += examples;
        for step in moved {
            let learner = &mut self.learners[step.turn];
            *learner = (learner.0 + step.loss, learner.1 + 1, step.norm, step.rate);
        }
    }

    /// Mean losses, last norms and rates, examples per second, and a new start.
    pub(super) fn close(&mut self, parts: &[Part]) -> Vec<(String, f64)> {
        let closed = std::mem::replace(self, Self::new(parts.len()));
        let mut numbers = Vec::new();
        for (part, (losses, steps, norm, rate)) in parts.iter().zip(closed.learners) {
            if steps > 0 {
                let own = [("loss", losses / steps as f64), ("gradient_norm", norm), ("rate", rate)];
                numbers.extend(own.map(|(what, value)| (named(what, part, parts), value)));
            }
        }
        let seconds = closed.since.elapsed().saturating_sub(closed.away).as_secs_f64();
        numbers.push(("examples_per_second".to_owned(), closed.examples as f64 / seconds));
        numbers
    }
}

/// The name of a number in the metrics: where several learn, theirs stand behind.
pub(super) fn named(what: &str, part: &Part, parts: &[Part]) -> String {
    if parts.len() > 1 { format!("{what}/{}", part.name) } else { what.to_owned() }
}
