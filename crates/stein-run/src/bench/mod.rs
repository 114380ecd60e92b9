//! Speed: whole networks as other libraries' scripts measure them, and the kernels they are made of.

mod peers;

use std::{hint::black_box, time::Instant};

use burn::tensor::Device;
use rayon::current_num_threads;
use serde::Serialize;
use stein::{Error, Result, numbers::ensure_within};
use stein_base::memory::ensure_fits;
use stein_nn::ops::Precision;
use stein_simd::{
    Isa,
    activation::{self, Activation},
    attention::{self, AttentionShape},
    convolution::{self, Epilogue, Input, Method, Prologue, Shape, Weights},
    norm::{self, NormShape},
    optimizer::{self, Slices, Update},
};

use crate::memory::peak_mib;

use peers::{Peer, PointsWork, UnetWork};

/// Most calls that are timed.
const MOST_REPEATS: usize = 1_000_000;

/// What to measure of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Evaluation, as in sampling.
    Evaluate,
    /// A training step: forward, loss, backward, clipping, AdamW, moving average.
    Train,
    /// A Jacobian-vector product of the denoiser, with its value, in turn with evaluations.
    Jvp,
    /// A vector-Jacobian product of the denoiser, with its value, in turn with evaluations.
    Vjp,
}

/// The time of a network's work.
#[derive(Debug, Serialize)]
pub struct NetTime {
    /// `evaluate`, `train`, `jvp` or `vjp`.
    pub what: &'static str,
    /// `small`, `cifar` or `mlp`.
    pub size: &'static str,
    /// Samples in the batch.
    pub batch: usize,
    /// Worker threads.
    pub threads: usize,
    /// What was computed in: `f32` or `bf16`.
    pub dtype: &'static str,
    /// Median milliseconds of one evaluation or step.
    pub ms: f64,
    /// Samples per second.
    pub images_per_s: f64,
    /// Of a product: its shortest time over that of an evaluation, both measured in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluations: Option<f64>,
    /// Most memory the process ever had, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_mib: Option<u64>,
    /// Weights of the network.
    pub parameters: usize,
}

/// `repeat` times after two calls that are not counted, in milliseconds, the shortest first.
fn times(repeat: usize, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    for _ in 0..2 {
        work()?;
    }
    let mut times = Vec::with_capacity(repeat);
    for _ in 0..repeat {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The median of [`times`].
fn median(repeat: usize, work: impl FnMut() -> Result<()>) -> Result<f64> {
    let times = times(repeat, work)?;
    Ok(times[times.len() / 2])
}

/// As [`median`], of work done in turn with two evaluations, about as long; also the shortest time of the work over half of
/// that of the two.
fn in_turn(
    repeat: usize,
    mut work: impl FnMut() -> Result<()>,
    mut evaluate: impl FnMut() -> Result<()>,
) -> Result<(f64, f64)> {
    let (mut two, mut times) = (f64::INFINITY, Vec::with_capacity(repeat));
    for call in 0..2 + repeat {
        let start = Instant::now();
        evaluate()?;
        evaluate()?;
        let between = Instant::now();
        work()?;
        let time = between.elapsed().as_secs_f64() * 1e3;
        if call >= 2 {
            two = two.min((between - start).as_secs_f64() * 1e3);
            times.push(time);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[0] / (two / 2.0)))
}

/// Times a network. `repeat` calls are counted, at least one.
///
/// # Errors
/// A name that is none of `small`, `cifar` and `mlp`; anything but training of `mlp`, which the peers do not measure; an empty batch.
pub fn bench_net(size: &str, work: Work, batch: usize, repeat: usize, device: &Device) -> Result<NetTime> {
    let names = Peer::ALL.map(|(name, _)| name);
    let found = Peer::ALL.into_iter().find(|(name, _)| *name == size);
    let (size, peer) = found.ok_or_else(|| {
        Error::new(format!("there is no network `{size}` to measure: give one of {}", names.join(", ")))
    })?;
    ensure_within("--batch", batch, 1..)?;
    ensure_within("--repeat", repeat, 1..=MOST_REPEATS)?;
    ensure_fits(&format!("a batch of {batch}"), peer.size()?.training(batch))?;
    let mut evaluations = None;
    let (ms, parameters) = match (peer.unet(), work) {
        (Some((config, shape)), Work::Evaluate) => {
            let unet = UnetWork::new(config, shape, batch, device)?;
            let network = unet.frozen();
            let evaluate = || unet.evaluate(&network).map(|y| drop(black_box(y.into_data())));
            (median(repeat, evaluate)?, unet.parameters())
        }
        (Some((config, shape)), Work::Train) => {
            let unet = UnetWork::new(config, shape, batch, device)?;
            let parameters = unet.parameters();
            let mut state = Some(unet);
            let step = || {
                let unet = state.take().expect("every step puts it back");
                state = Some(unet.train()?.0);
                Ok(())
            };
            (median(repeat, step)?, parameters)
        }
        (None, Work::Train) => {
            let points = PointsWork::new(batch, device)?;
            let parameters = points.parameters();
            let mut state = Some(points);
            let step = || {
                let points = state.take().expect("every step puts it back");
                state = Some(points.train().0);
                Ok(())
            };
            (median(repeat, step)?, parameters)
        }
        (Some((config, shape)), Work::Jvp | Work::Vjp) => {
            let unet = UnetWork::new(config, shape, batch, device)?;
            let denoiser = unet.denoiser()?;
            let product = || {
                let (y, product) = if work == Work::Jvp { unet.jvp(&denoiser)? } else { unet.vjp(&denoiser)? };
                drop(black_box((y.into_data(), product.into_data())));
                Ok(())
            };
            let evaluate = || unet.denoise(&denoiser).map(|y| drop(black_box(y.into_data())));
            let (ms, ratio) = in_turn(repeat, product, evaluate)?;
            evaluations = Some(ratio);
            (ms, unet.parameters())
        }
        (None, Work::Evaluate | Work::Jvp | Work::Vjp) => {
            return Err(Error::new("only training is measured of `mlp`: give --what train"));
        }
    };
    Ok(NetTime {
        what: match work {
            Work::Evaluate => "evaluate",
            Work::Train => "train",
            Work::Jvp => "jvp",
            Work::Vjp => "vjp",
        },
        size,
        batch,
        threads: current_num_threads(),
        dtype: match Precision::current() {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        },
        ms,
        images_per_s: batch as f64 / ms * 1e3,
        evaluations,
        peak_mib: peak_mib(),
        parameters,
    })
}

/// The rate of a kernel.
#[derive(Debug, Serialize)]
pub struct OpTime {
    /// The kernel.
    pub op: &'static str,
    /// Its size.
    pub shape: String,
    /// Median milliseconds.
    pub ms: f64,
    /// Shortest and longest milliseconds.
    pub spread_ms: [f64; 2],
    /// Arithmetic a second, counted for the direct method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflop_per_s: Option<f64>,
    /// Memory read and written a second, every tensor once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
}

/// What a kernel's time is held against.
enum Amount {
    Operations(f64),
    Bytes(f64),
}

/// Times the main kernels, calling `report` with each as it is done.
///
/// # Errors
/// Those of `report`.
pub fn bench_ops(repeat: usize, mut report: impl FnMut(OpTime) -> Result<()>) -> Result<()> {
    ensure_within("--repeat", repeat, ..=MOST_REPEATS)?;
    let isa = Isa::best();
    let mut time = |op, shape: String, amount: Amount, work: &mut dyn FnMut()| {
        let times = times(repeat.max(1), || {
            work();
            Ok(())
        })?;
        let (ms, spread_ms) = (times[times.len() / 2], [times[0], times[times.len() - 1]]);
        let rate = |x: f64| x / ms / 1e6;
        let (gflop_per_s, gb_per_s) = match amount {
            Amount::Operations(count) => (Some(rate(count)), None),
            Amount::Bytes(count) => (None, Some(rate(count))),
        };
        report(OpTime { op, shape, ms, spread_ms, gflop_per_s, gb_per_s })
    };
    for (samples, channels, size) in [(8, 128, 32), (8, 256, 16), (16, 64, 32), (64, 32, 28)] {
        let shape = Shape {
            samples,
            height: size,
            width: size,
            inputs: channels,
            outputs: channels,
            kernel: [3, 3],
            stride: 1,
            pad: [1; 4],
        };
        let name = format!("{samples} x {channels} x {size} x {size}");
        let (x, w) = (ramp(samples * size * size * channels), ramp(9 * channels * channels));
        let (mut y, mut dw) = (x.clone(), w.clone());
        let parts = [&x[..]];
        let input = Input::new(&parts);
        let all = || Amount::Operations(shape.operations());
        for (op, method) in [("convolution, direct", Method::Direct), ("convolution", Method::of(&shape))] {
            let weights = Weights::new(isa, &shape, method, &w);
            time(op, name.clone(), all(), &mut || {
                convolution::convolve(isa, &shape, &input, &weights, &Epilogue::default(), &mut y);
            })?;
        }
        let best = Method::of(&shape);
        let weights = Weights::new(isa, &shape, best, &w);
        let [a, b, q, r] = [1.0, 0.1, 0.2, 0.3].map(|number| vec![number; samples * channels]);
        for (op, prologue) in [
            ("convolution of a norm and silu", Prologue::Affine { a: &a, b: &b, silu: true }),
            ("convolution of their tangent", Prologue::Tangent { x: &parts, a: &a, b: &b, q: &q, r: &r, silu: true }),
        ] {
            let input = Input { prologue, ..input };
            time(op, name.clone(), all(), &mut || {
                convolution::convolve(isa, &shape, &input, &weights, &Epilogue::default(), &mut y);
            })?;
        }
        let transposed = Weights::transposed(isa, &shape, best, 0..channels, &w);
        time("convolution, gradient of the input", name.clone(), all(), &mut || {
            convolution::input_gradient(isa, &shape, &transposed, &x, &mut y);
        })?;
        for (op, method) in [
            ("convolution, gradient of the weights, direct", Method::Direct),
            ("convolution, gradient of the weights", best),
        ] {
            time(op, name.clone(), all(), &mut || {
                convolution::weight_gradient_by(isa, &shape, method, &input, &x, &mut dw);
            })?;
        }
        let work = Amount::Operations(3.0 * shape.operations());
        time("convolution, forward and backward, packing included", name, work, &mut || {
            let weights = Weights::new(isa, &shape, best, &w);
            convolution::convolve(isa, &shape, &input, &weights, &Epilogue::default(), &mut y);
            let weights = Weights::transposed(isa, &shape, best, 0..channels, &w);
            convolution::input_gradient(isa, &shape, &weights, &x, &mut y);
            convolution::weight_gradient(isa, &shape, &input, &x, &mut dw);
        })?;
    }
    let (x, dy) = (ramp(1 << 20), ramp(1 << 20));
    let mut y = x.clone();
    let (name, bytes) = ("8 x 128 x 32 x 32".to_owned(), |tensors: usize| Amount::Bytes((tensors << 22) as f64));
    time("silu", name.clone(), bytes(2), &mut || activation::activate(isa, Activation::Silu, &x, &mut y))?;
    time("silu, backward", name.clone(), bytes(3), &mut || {
        activation::activate_backward(isa, Activation::Silu, &x, &dy, &mut y);
    })?;
    let shape = NormShape { samples: 8, places: 1024, channels: 128, groups: 32 };
    time("group norm and silu", name.clone(), bytes(3), &mut || {
        let moments = norm::moments(isa, shape, &[&x], 1e-6);
        let factors = norm::coefficients(shape, &moments, None, None, None, None);
        norm::normalize(isa, shape, &[&x], &factors, true, &mut y);
    })?;
    let moments = norm::moments(isa, shape, &[&x], 1e-6);
    let factors = norm::coefficients(shape, &moments, None, None, None, None);
    time("group norm and silu, tangent", name.clone(), bytes(4), &mut || {
        let (parts, tangents) = ([&x[..]], [&dy[..]]);
        let along = norm::tangent_coefficients(isa, shape, &parts, &tangents, &moments, None, None, None, None, None);
        norm::normalize_tangent(isa, shape, &parts, &tangents, &factors, &along, true, &mut y);
    })?;
    time("group norm and silu, backward", name, bytes(5), &mut || {
        let parts = [&x[..]];
        norm::normalize_backward(isa, shape, &parts, &moments, &factors, None, None, None, true, &dy, &mut [&mut y]);
    })?;
    for (heads, head) in [(1, 256), (4, 64)] {
        let shape = AttentionShape { samples: 8, queries: 256, keys: 256, heads, head };
        let part = &x[..8 * 256 * 256];
        let [mut out, mut dk, mut dv, mut tangent] = [(); 4].map(|()| part.to_vec());
        let scale = (head as f32).powf(-0.5);
        let operations = (8 * 4 * 256 * 256 * 256) as f64;
        let name = format!("8 x 256 places, {heads} x {head}");
        let mut sums = Vec::new();
        time("attention", name.clone(), Amount::Operations(operations), &mut || {
            sums = attention::attention(isa, shape, scale, part, part, part, &mut out);
        })?;
        let mut dq = out.clone();
        time("attention, tangent", name.clone(), Amount::Operations(2.5 * operations), &mut || {
            attention::attention_tangent(
                isa,
                shape,
                scale,
                part,
                part,
                part,
                &out,
                &sums,
                part,
                part,
                part,
                &mut tangent,
            );
        })?;
        time("attention, backward", name, Amount::Operations(2.5 * operations), &mut || {
            let (dq, dk, dv) = (&mut dq, &mut dk, &mut dv);
            attention::attention_backward(
                isa,
                shape,
                scale,
                part,
                part,
                part,
                &out,
                &sums,
                &dy[..part.len()],
                dq,
                dk,
                dv,
            );
        })?;
    }
    for (rows, inputs, outputs) in [(512, 128, 128), (2048, 256, 256)] {
        let shape = Shape::dense(rows, inputs, outputs);
        let weights = Weights::new(isa, &shape, Method::Direct, &ramp(inputs * outputs));
        let x = ramp(rows * inputs);
        let mut y = ramp(rows * outputs);
        let name = format!("{rows} x {inputs} x {outputs}");
        time("linear", name, Amount::Operations(shape.operations()), &mut || {
            stein_simd::dense(isa, &[&x], &weights, &Epilogue::default(), &mut y);
        })?;
    }
    let count = 4 << 20;
    let [mut w, mut m, mut v, mut average] = [(); 4].map(|()| ramp(count));
    let g = ramp(count);
    let update = Update { gradient: 1.0, keep: 1.0, beta1: 0.9, beta2: 0.999, first: 1e-4, second: 1.0, epsilon: 1e-8 };
    time("AdamW and average", format!("{count}"), Amount::Bytes((9 * 4 * count) as f64), &mut || {
        let average = Some((&mut average[..], 1e-4));
        optimizer::adam(isa, &update, Slices { w: &mut w, g: &g, m: &mut m, v: &mut v, average });
    })
}

/// Numbers between −1 and 1 without a pattern that would make rounding special.
fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i.wrapping_mul(2_654_435_761) % 2048) as f32 / 1024.0 - 1.0).collect()
}
