//! How long it takes to pair a minibatch: `cargo run --release -p stein --example couplings`.
//!
//! The source is normal noise. Data are normal too, or ten clusters, wide or narrow: the narrower they are, the more sources want
//! the same sinks at nearly the same price, which is what makes assignment hard.

use std::time::{Duration, Instant};

use stein::{Coupling, Keys, Purpose, Result, Tensor, rows};

const RUNS: usize = 5;

/// `count` rows around ten normal centers, or the origin without a spread.
fn data(seed: u64, count: usize, dim: usize, spread: Option<f64>) -> Tensor<2> {
    let mut values = Keys::range(seed, 0, count).normal(Purpose::Point, 0, dim);
    if let Some(spread) = spread {
        let centers = Keys::range(seed + 1, 0, 10).normal(Purpose::Point, 0, dim);
        for (i, row) in values.chunks_exact_mut(dim).enumerate() {
            let center = &centers[i % 10 * dim..][..dim];
            row.iter_mut().zip(center).for_each(|(value, center)| *value = center + spread * *value);
        }
    }
    rows::matrix(values, dim, &rows::exact())
}

fn main() -> Result<()> {
    let transport = Coupling::OptimalTransport { within_class: false };
    let entropic = |regularization| Coupling::Entropic { regularization, max_iterations: 100_000, within_class: false };
    println!("{:<52} {:>9} {:>9}", "", "least ms", "median ms");
    for (rows, dim) in [(512, 64), (4096, 64), (4096, 2)] {
        for (kind, spread) in [("normal", None), ("clusters", Some(0.3)), ("narrow clusters", Some(0.05))] {
            let (data, source) = (data(1, rows, dim, spread), data(9, rows, dim, None));
            let keys = Keys::range(0, 0, rows);
            let couplings =
                [("optimal_transport", transport), ("entropic, 2", entropic(2.0)), ("entropic, 0.5", entropic(0.5))];
            // Two entropic plans of the largest batch say nothing that those of the smaller one do not.
            let count = if rows > 1000 { 2 } else { couplings.len() };
            for (name, coupling) in &couplings[..count] {
                let time = |_| {
                    let start = Instant::now();
                    let paired = coupling.pair(&data, &source, None, &keys);
                    paired.map(|_| start.elapsed())
                };
                let mut times: Vec<Duration> = (0..RUNS).map(time).collect::<Result<_>>()?;
                times.sort_unstable();
                let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
                let what = format!("{rows} rows of {dim}, {kind}, {name}");
                println!("{what:<52} {:>9.1} {:>9.1}", milliseconds(times[0]), milliseconds(times[RUNS / 2]));
            }
        }
    }
    Ok(())
}
