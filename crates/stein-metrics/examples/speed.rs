//! How long metrics take on large sets: `cargo run --release -p stein-metrics --example speed`.
//!
//! Rows are made on the way, in single precision as networks give them, and their making is not counted. Peak memory is the
//! process's, which the operating system knows.

use std::time::{Duration, Instant};

use stein_base::{Keys, Purpose};
use stein_metrics::{
    Accumulator, AnyMetric, Moments, Result, Session, Side, SlicedWasserstein, Values, Wasserstein, frechet_distance,
};

const ROWS: usize = 50_000;
const DIM: usize = 2048;
const BATCH: usize = 500;

/// The moments of many rows, and how long they took without the making of the rows.
fn accumulate(seed: u64) -> Result<(Moments, Duration)> {
    let mut accumulator = Accumulator::new(DIM)?;
    // A few batches in turns cost as much as different ones; their rows are more than dimensions, so that covariances are regular.
    let batches: Vec<Vec<f32>> = (0..6)
        .map(|number| {
            let rows = Keys::range(seed, number * BATCH as u64, BATCH).normal(Purpose::Point, 0, DIM);
            rows.iter().map(|&value| value as f32).collect()
        })
        .collect();
    let start = Instant::now();
    for number in 0..ROWS / BATCH {
        accumulator.update(Values::F32(&batches[number % batches.len()]));
    }
    let moments = accumulator.finish()?;
    Ok((moments, start.elapsed()))
}

fn set(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
    Keys::range(seed, 0, rows).normal(Purpose::Point, 0, dim).iter().map(|&value| value as f32).collect()
}

fn timed(what: &str, metric: impl Into<AnyMetric>, dim: usize, [reference, samples]: [&[f32]; 2]) -> Result<()> {
    let start = Instant::now();
    let mut session = Session::new(&[metric.into()], dim)?;
    session.update(Side::Reference, reference)?;
    session.update(Side::Samples, samples)?;
    let measured = session.finish().pop().expect("one metric gives one result")?;
    println!("{what}: {:.2?}, value {:.6}, error {:?}", start.elapsed(), measured.value, measured.error);
    Ok(())
}

fn main() -> Result<()> {
    let (one, first) = accumulate(1)?;
    let start = Instant::now();
    let folder = std::env::temp_dir().join(format!("moments-{}.npz", std::process::id()));
    one.save(&folder)?;
    let saving = start.elapsed();
    drop(one);
    let (two, second) = accumulate(2)?;
    let start = Instant::now();
    let one = Moments::load(&folder)?;
    let loading = start.elapsed();
    let start = Instant::now();
    let distance = frechet_distance(&one, &two)?.sum();
    let solving = start.elapsed();
    println!(
        "Fréchet distance of {ROWS} rows of {DIM}: moments {first:.2?} and {second:.2?}, saved in {saving:.2?}, loaded in \
         {loading:.2?}, distance {solving:.2?} ({distance:.6})"
    );
    println!("against saved moments {:.2?}, both sides {:.2?}", second + loading + solving, first + second + solving);
    if let Some(peak) = peak_memory() {
        println!("peak memory {peak} MB");
    }
    std::fs::remove_file(&folder).ok();
    let points = [set(3, 1_000_000, 2), set(4, 1_000_000, 2)];
    timed("sliced Wasserstein of 1000000 points", SlicedWasserstein::default(), 2, [&points[0], &points[1]])?;
    for rows in [1000, 2000, 4000] {
        let sets = [&points[0][..2 * rows], &points[1][..2 * rows]];
        timed(&format!("Wasserstein of {rows} points"), Wasserstein::default(), 2, sets)?;
    }
    timed("Wasserstein of 2000 and 3000 points", Wasserstein::default(), 2, [&points[0][..4000], &points[1][..6000]])?;
    let features = [set(5, 10_000, DIM), set(6, 10_000, DIM)];
    for kind in ["precision", "recall", "coverage", "kernel"] {
        let metric = AnyMetric::named(kind)?;
        timed(&format!("{kind} of 10000 rows of {DIM}"), metric, DIM, [&features[0], &features[1]])?;
    }
    Ok(())
}

/// Peak resident memory of this process in megabytes, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1000)
}
