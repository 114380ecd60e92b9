//! Progress of long work on stderr: a bar at a terminal, elsewhere a line a minute; and Ctrl-C.

use std::{
    fmt::Display,
    io::{IsTerminal, Write, stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use stein::{Error, Result};
use stein_run::{Event, Watch};

/// Prints a line to stderr. Where that fails there is nobody to tell.
pub fn tell(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Watches long work on behalf of the person at the terminal.
pub struct Bars {
    stop: Arc<AtomicBool>,
    screen: MultiProgress,
    training: Option<ProgressBar>,
    sampling: Option<ProgressBar>,
    pace: Option<Pace>,
    /// The loss and the examples per second last heard of.
    progress: Option<(f64, f64)>,
    /// Whether a person looks on; otherwise lines are written, and when the last one was.
    terminal: bool,
    said: Instant,
}

/// Time between two lines where there is no terminal, and between two changes of the text at one.
const LINE: Duration = Duration::from_secs(60);
const TEXT: Duration = Duration::from_millis(200);

impl Bars {
    /// With the flag that Ctrl-C sets.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        let (screen, terminal, said) = (MultiProgress::new(), stderr().is_terminal(), Instant::now());
        Self { stop, screen, training: None, sampling: None, pace: None, progress: None, terminal, said }
    }

    /// Takes the bars off the screen.
    pub fn clear(&mut self) {
        for bar in [self.training.take(), self.sampling.take()].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }

    fn trained(&mut self, step: u64, steps: u64, sheets: u64) {
        if let Some(sampling) = self.sampling.take() {
            sampling.finish_and_clear();
        }
        let pace = self.pace.get_or_insert_with(|| Pace::new(step));
        pace.trained(step);
        let every = if self.terminal { TEXT } else { LINE };
        let ends = step == steps && self.progress.is_some();
        if self.terminal {
            let bar = self.training.get_or_insert_with(|| self.screen.add(bar(steps, "training", "{msg}")));
            bar.set_position(step);
        }
        if !ends && self.said.elapsed() < every {
            return;
        }
        self.said = Instant::now();
        let loss = self.progress.map(|(loss, rate)| format!("loss {loss:.4}, {rate:.0} examples/s"));
        let left = pace.left(steps - step, sheets).map(|left| format!("{} left", HumanDuration(left)));
        let text = loss.into_iter().chain(left).collect::<Vec<_>>().join(", ");
        match &self.training {
            Some(bar) => bar.set_message(text),
            None => tell(format!("step {step} of {steps}, {text}")),
        }
    }

    fn sampled(&mut self, done: u64, of: u64, work: &'static str, part: &str) {
        if let Some(pace) = &mut self.pace {
            pace.sampled();
        }
        if self.terminal {
            let bar = self.sampling.get_or_insert_with(|| self.screen.add(bar(of, work, "{eta} left")));
            bar.set_length(of);
            bar.set_position(done);
        } else if self.said.elapsed() >= LINE {
            self.said = Instant::now();
            tell(format!("{work}: {part} {done} of {of}"));
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(length: u64, what: &'static str, end: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {end}"))
        .expect("the templates are constants that parse");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}

/// How long a step and a sheet of samples have taken, this time.
struct Pace {
    /// The step before the first that is timed, and the last one.
    steps: (u64, u64),
    last: Instant,
    /// When something was sampled after the last step.
    sampled: Option<Instant>,
    training: Duration,
    sheets: u32,
    sampling: Duration,
}

impl Pace {
    fn new(step: u64) -> Self {
        let (training, sampling) = (Duration::ZERO, Duration::ZERO);
        Self { steps: (step, step), last: Instant::now(), sampled: None, training, sheets: 0, sampling }
    }

    fn trained(&mut self, step: u64) {
        if let Some(sampled) = self.sampled.take() {
            self.sampling += sampled - self.last;
            self.sheets += 1;
            self.last = sampled;
        }
        self.training += self.last.elapsed();
        (self.last, self.steps.1) = (Instant::now(), step);
    }

    fn sampled(&mut self) {
        self.sampled = Some(Instant::now());
    }

    /// How long that many steps and sheets will take; nothing is known before the first step.
    fn left(&self, steps: u64, sheets: u64) -> Option<Duration> {
        let taken = self.steps.1 - self.steps.0;
        let part =
            |spent: Duration, of: f64, left: u64| if of > 0.0 { spent.as_secs_f64() / of * left as f64 } else { 0.0 };
        let seconds = part(self.training, taken as f64, steps) + part(self.sampling, f64::from(self.sheets), sheets);
        // A run of ages has no end that could be told.
        Duration::try_from_secs_f64(seconds).ok().filter(|_| taken > 0 && steps > 0)
    }
}

impl Watch for Bars {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Trained { step, steps, sheets, progress } => {
                self.progress = progress.or(self.progress);
                self.trained(step, steps, sheets);
            }
            Event::Sampled { done, of } => self.sampled(done, of, "sampling", "step"),
            Event::Measured { done, of } => self.sampled(done, of, "measuring", "sample"),
            Event::Note(sentence) => self.screen.suspend(|| tell(format!("stein: {sentence}"))),
            _ => {}
        }
    }

    fn going(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::stopped()) } else { Ok(()) }
    }
}
