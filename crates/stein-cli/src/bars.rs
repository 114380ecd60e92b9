//! Progress of long work on stderr: a bar with rate and time left, silent where stderr is no terminal; and Ctrl-C.

use std::{
    fmt::Display,
    io::{Write, stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use indicatif::{ProgressBar, ProgressStyle};
use stein::{Error, Result};
use stein_run::{Event, Watch};

/// Prints a line to stderr. Where that fails there is nobody to tell.
pub fn tell(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Watches long work on behalf of the person at the terminal.
pub struct Bars {
    stop: Arc<AtomicBool>,
    training: Option<ProgressBar>,
    sampling: Option<ProgressBar>,
}

impl Bars {
    /// With the flag that Ctrl-C sets.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        Self { stop, training: None, sampling: None }
    }

    /// Takes the bars off the screen.
    pub fn clear(&mut self) {
        for bar in [self.training.take(), self.sampling.take()].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
        .expect("the template is a constant that parses");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

impl Watch for Bars {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Trained { step, steps, progress } => {
                if let Some(sampling) = self.sampling.take() {
                    sampling.finish_and_clear();
                }
                let bar = self.training.get_or_insert_with(|| {
                    let bar = bar(steps, "training").with_position(step);
                    // The steps of an earlier call say nothing about the speed of this one.
                    bar.reset_eta();
                    bar
                });
                bar.set_position(step);
                if let Some((loss, rate)) = progress {
                    bar.set_message(format!("loss {loss:.4} {rate:.0} examples/s"));
                }
            }
            Event::Sampled { done, of } => {
                let bar = self.sampling.get_or_insert_with(|| bar(of, "sampling"));
                bar.set_length(of);
                bar.set_position(done);
            }
            Event::Note(sentence) => match &self.training {
                Some(bar) => bar.suspend(|| tell(format!("stein: {sentence}"))),
                None => tell(format!("stein: {sentence}")),
            },
            _ => {}
        }
    }

    fn going(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::stopped()) } else { Ok(()) }
    }
}
