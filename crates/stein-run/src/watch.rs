//! What long work tells the program around it, and how it is asked to stop. Libraries report here; only programs print.

use std::sync::atomic::{AtomicBool, Ordering};

use stein::{Error, Result};

/// Something that happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A training step was taken.
    Trained {
        /// Steps taken in all.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// Sheets of samples still to be made.
        sheets: u64,
        /// The mean loss and the examples per second since the last line of metrics, when one is written.
        progress: Option<(f64, f64)>,
    },
    /// A step of sampling was taken, of one batch.
    Sampled {
        /// Steps taken of all batches.
        done: u64,
        /// Steps of all batches.
        of: u64,
    },
    /// Something was found of some samples of data.
    Measured {
        /// Samples that are done.
        done: u64,
        /// All samples.
        of: u64,
    },
    /// Something a person may want to know, in one sentence; the work goes on.
    Note(&'a str),
}

/// Whoever watches long work; from the thread that does it.
pub trait Watch: Send {
    /// Hears of what happens.
    fn event(&mut self, event: Event<'_>);

    /// Whether the work should go on: asked before every part of a training step, and at every evaluation of a model that is
    /// sampled.
    ///
    /// # Errors
    /// [`Error::stopped`] to end it with all saved that can be.
    fn going(&self) -> Result<()> {
        Ok(())
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Watch for Silent {
    fn event(&mut self, _: Event<'_>) {}
}

/// A flag that stops the work when it is set, for a handler of signals or another thread.
impl Watch for &AtomicBool {
    fn event(&mut self, _: Event<'_>) {}

    fn going(&self) -> Result<()> {
        if self.load(Ordering::Relaxed) { Err(Error::stopped()) } else { Ok(()) }
    }
}
