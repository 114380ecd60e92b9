//! Speed of the kernels at the sizes of score networks. Throughput is in arithmetic operations per second, or in numbers per
//! second where memory is the limit.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stein_simd::{
    Isa,
    activation::{Activation, activate, activate_backward},
    attention::{AttentionShape, attention, attention_backward, attention_tangent},
    convolution::{
        Epilogue, Input, Method, Prologue, Shape, Weights, convolve, input_gradient, weight_gradient,
        weight_gradient_by,
    },
    dense,
    norm::{NormShape, coefficients, moments, normalize, normalize_tangent, tangent_coefficients},
    optimizer::{Slices, Update, adam},
};

fn numbers(n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn measure(c: &mut Criterion, kernel: &str, name: &str, operations: f64, mut run: impl FnMut()) {
    let mut group = c.benchmark_group(kernel);
    group.throughput(Throughput::Elements(operations as u64));
    group.bench_function(name, |bencher| bencher.iter(&mut run));
    group.finish();
}

fn convolutions(c: &mut Criterion) {
    let isa = Isa::best();
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
        let x = numbers(samples * size * size * channels);
        let (mut y, weights) = (x.clone(), numbers(9 * channels * channels));
        let mut dw = weights.clone();
        let parts = [&x[..]];
        let input = Input::new(&parts);
        let name = format!("{samples}x{channels}x{size}");
        let operations = shape.operations();
        let best = Method::of(&shape);
        for (kernel, method) in [("convolve", best), ("convolve directly", Method::Direct)] {
            let packed = Weights::new(isa, &shape, method, &weights);
            measure(c, kernel, &name, operations, || {
                convolve(isa, &shape, &input, &packed, &Epilogue::default(), &mut y);
            });
        }
        let packed = Weights::new(isa, &shape, best, &weights);
        let [a, b, q, r] = [1.0, 0.1, 0.2, 0.3].map(|x| vec![x; samples * channels]);
        for (kernel, prologue) in [
            ("convolve normalized", Prologue::Affine { a: &a, b: &b, silu: true }),
            ("convolve the tangent", Prologue::Tangent { x: &parts, a: &a, b: &b, q: &q, r: &r, silu: true }),
        ] {
            let input = Input { prologue, ..input };
            measure(c, kernel, &name, operations, || {
                convolve(isa, &shape, &input, &packed, &Epilogue::default(), &mut y);
            });
        }
        let packed = Weights::transposed(isa, &shape, best, 0..channels, &weights);
        measure(c, "input gradient", &name, operations, || input_gradient(isa, &shape, &packed, &x, &mut y));
        measure(c, "weight gradient", &name, operations, || weight_gradient(isa, &shape, &input, &x, &mut dw));
        measure(c, "weight gradient directly", &name, operations, || {
            weight_gradient_by(isa, &shape, Method::Direct, &input, &x, &mut dw);
        });
    }
}

fn attentions(c: &mut Criterion) {
    let isa = Isa::best();
    for (heads, head) in [(1, 256), (4, 64)] {
        let shape = AttentionShape { samples: 8, queries: 256, keys: 256, heads, head };
        let q = numbers(8 * 256 * heads * head);
        let [k, v, dout] = [1, 2, 3].map(|by| [&q[by..], &q[..by]].concat());
        let [mut out, mut dq, mut dk, mut dv, mut tangent] = [(); 5].map(|()| q.clone());
        let scale = 1.0 / (head as f32).sqrt();
        let name = format!("8x256x256, {heads} x {head}");
        let sums = attention(isa, shape, scale, &q, &k, &v, &mut out);
        measure(c, "attention gradients", &name, 2.5 * shape.operations(), || {
            attention_backward(isa, shape, scale, &q, &k, &v, &out, &sums, &dout, &mut dq, &mut dk, &mut dv);
        });
        measure(c, "attention tangent", &name, 2.5 * shape.operations(), || {
            attention_tangent(isa, shape, scale, &q, &k, &v, &out, &sums, &k, &v, &q, &mut tangent);
        });
        measure(c, "attention", &name, shape.operations(), || {
            attention(isa, shape, scale, &q, &k, &v, &mut out);
        });
    }
}

fn layers(c: &mut Criterion) {
    let isa = Isa::best();
    let (samples, places, channels) = (8, 32 * 32, 128);
    let x = numbers(samples * places * channels);
    let (mut y, name, len) = (x.clone(), "8x32x32x128", x.len() as f64);
    measure(c, "silu", name, len, || activate(isa, Activation::Silu, &x, &mut y));
    let dy = x.clone();
    measure(c, "silu gradient", name, len, || activate_backward(isa, Activation::Silu, &x, &dy, &mut y));
    let shape = NormShape { samples, places, channels, groups: 32 };
    measure(c, "group norm", name, len, || {
        let moments = moments(isa, shape, &[&x], 1e-5);
        let coefficients = coefficients(shape, &moments, None, None, None, None);
        normalize(isa, shape, &[&x], &coefficients, true, &mut y);
    });
    let (moments, dx) = (moments(isa, shape, &[&x], 1e-5), dy);
    let own = coefficients(shape, &moments, None, None, None, None);
    measure(c, "group norm tangent", name, len, || {
        let along = tangent_coefficients(isa, shape, &[&x], &[&dx], &moments, None, None, None, None, None);
        normalize_tangent(isa, shape, &[&x], &[&dx], &own, &along, true, &mut y);
    });
    let (rows, width) = (512, 128);
    let shape = Shape::dense(rows, width, width);
    let weights = Weights::new(isa, &shape, Method::Direct, &numbers(width * width));
    let (x, mut y) = (numbers(rows * width), vec![0.0; rows * width]);
    measure(c, "dense", "512x128x128", shape.operations(), || {
        dense(isa, &[&x], &weights, &Epilogue::default(), &mut y);
    });
}

fn optimizer(c: &mut Criterion) {
    let isa = Isa::best();
    let g = numbers(1_000_000);
    let [mut w, mut m, mut average] = [(); 3].map(|()| g.clone());
    let mut v: Vec<f32> = g.iter().map(|g| g * g).collect();
    let update = Update { gradient: 1.0, keep: 1.0, beta1: 0.9, beta2: 0.999, first: 1e-6, second: 1.0, epsilon: 1e-8 };
    measure(c, "adam", "1e6", g.len() as f64, || {
        let average = Some((&mut average[..], 1e-4));
        adam(isa, &update, Slices { w: &mut w, g: &g, m: &mut m, v: &mut v, average });
    });
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = kernels; config = short(); targets = convolutions, attentions, layers, optimizer);
criterion_main!(kernels);
