//! A program of one's own that opens a trained run and samples it into a `Vec<f32>` on a worker thread, while the main thread is
//! free, hears of the progress, and could stop it.
//!
//! `stein train experiments/points2d/edm.toml --out runs/moons`, then
//! `cargo run --release --example sample_in_a_thread -- runs/moons`

use std::{sync::mpsc, thread};

use stein::{Device, Error, Result};
use stein_run::{Changes, Classes, Event, Model, Watch, draw};

/// Passes progress on to a channel; stops the work when nobody listens any more.
struct Channel(mpsc::Sender<f64>);

impl Watch for Channel {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Sampled { done, of } = event {
            // Nobody listening is found out by `going`.
            let _ = self.0.send(done as f64 / of as f64);
        }
    }

    fn going(&self) -> Result<()> {
        self.0.send(f64::NAN).map_err(|_| Error::stopped())
    }
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "runs/moons".into());
    let (progress, heard) = mpsc::channel();
    let worker = thread::spawn(move || -> Result<(Vec<f32>, usize)> {
        let model = Model::open(&path, &Device::flex())?;
        let changes = Changes { sampler: Some("dpm_solver_pp".into()), steps: Some(12), ..Changes::default() };
        let config = model.sample.with(&changes)?;
        let drawn = draw(&model, 1000, 7, &Classes::Default, &config, &mut Channel(progress))?;
        Ok((drawn.values, model.subject.dim()))
    });
    let last = heard.iter().filter(|part| part.is_finite()).last();
    let (values, dim) = worker.join().map_err(|_| Error::new("the worker panicked"))??;
    let samples = values.len() / dim;
    println!("{samples} samples of {dim} numbers, the first {:?}; progress ended at {:?}", &values[..dim], last);
    Ok(())
}
