//! How good a classifier is on the test data, clean and with noise, and, where a file is named, its weights in half precision with
//! all that is needed to use them: what `stein evaluate --features` looks at pictures with.
//!
//! `stein train experiments/digits/classifier.toml --out runs/digits`, then
//! `cargo run --release --example classifier -- runs/digits crates/stein-run/src/evaluate/classifiers/digits.safetensors`

use std::path::Path;

use stein::{DType, Device, Error, Result};
use stein_data::Split;
use stein_nn::{Checkpoint, LearnerState, SavedWeights};
use stein_run::{ACCURACY, Model, RunDir, Weights, accuracy};

/// Standard deviations of the noise at which a classifier of noisy pictures is tried.
const NOISE: [f64; 7] = [0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let run = arguments.next().ok_or_else(|| Error::new("give a run directory, and perhaps a file to write"))?;
    let device = Device::flex();
    let written = match arguments.next() {
        Some(file) => {
            write(Path::new(&run), Path::new(&file), &device)?;
            file
        }
        None => run.clone(),
    };
    let model = Model::open(&written, &device)?;
    let test = RunDir::open(Path::new(&run))?.experiment()?.data.load(Split::Test, None)?;
    let noise = if model.schedule.is_some() { &NOISE[..] } else { &NOISE[..1] };
    for &noise in noise {
        println!("noise {noise:>4}: {:.2} % of {}", 100.0 * accuracy(&model, &test, noise)?, test.len());
    }
    Ok(())
}

/// Writes the averaged weights of a run in half precision, first without their accuracy, then with it.
fn write(run: &Path, file: &Path, device: &Device) -> Result<()> {
    let run = RunDir::open(run)?;
    let SavedWeights { learners, step, mut metadata, .. } = Checkpoint::read_weights(&run.latest()?, Weights::Ema)?;
    let mut halves = std::collections::BTreeMap::new();
    for (name, weights) in learners {
        let weights = weights.into_iter().map(|(name, data)| (name, data.convert_dtype(DType::F16))).collect();
        halves.insert(name, LearnerState { weights, ..LearnerState::default() });
    }
    let mut saved = Checkpoint { learners: halves, step, metadata: metadata.clone() };
    saved.write(file)?;
    let test = run.experiment()?.data.load(Split::Test, None)?;
    let found = accuracy(&Model::open(file, device)?, &test, 0.0)?;
    metadata.insert(ACCURACY.to_owned(), format!("{found:.4}"));
    saved.metadata = metadata;
    saved.write(file)
}
