//! Convolution and its gradients against plain sums in f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stein_simd::{
    Isa,
    convolution::{
        Epilogue, Input, Method, Prologue, Shape, Weights, convolve, input_gradient, weight_gradient,
        weight_gradient_by,
    },
};

use crate::{check, numbers, products, sizes, wide};

fn reference(shape: &Shape, x: &[f64], w: &[f32]) -> Vec<f64> {
    let [height, width] = shape.output();
    let mut y = vec![0.0; shape.samples * height * width * shape.outputs];
    products(shape, |at, weight, to| y[to] += x[at] * f64::from(w[weight]));
    y
}

/// The methods that a shape allows, and their error bounds.
fn methods(shape: &Shape) -> &'static [(Method, f64)] {
    const ALL: [(Method, f64); 3] = [(Method::Direct, 1e-5), (Method::Winograd2, 1e-4), (Method::Winograd4, 1e-4)];
    if shape.kernel == [3, 3] && shape.stride == 1 { &ALL } else { &ALL[..1] }
}

/// The value and both gradients.
fn all(shape: &Shape, rng: &mut ChaCha8Rng) {
    let [height, width] = shape.output();
    let x = numbers(shape.samples * shape.height * shape.width * shape.inputs, rng);
    let w = numbers(shape.kernel[0] * shape.kernel[1] * shape.inputs * shape.outputs, rng);
    let dy = numbers(shape.samples * height * width * shape.outputs, rng);
    let value = reference(shape, &wide(&x), &w);
    let (mut of_x, mut of_w) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    products(shape, |at, weight, to| {
        of_x[at] += f64::from(dy[to]) * f64::from(w[weight]);
        of_w[weight] += f64::from(dy[to]) * f64::from(x[at]);
    });
    let parts = [&x[..]];
    let input = Input::new(&parts);
    for isa in Isa::available() {
        // What the outputs held before must not matter.
        let mut dx = vec![f32::NAN; x.len()];
        let transposed = Weights::transposed(isa, shape, Method::of(shape), 0..shape.inputs, &w);
        input_gradient(isa, shape, &transposed, &dy, &mut dx);
        let what = format!("{shape:?} on {}", isa.name());
        let bound = if Method::of(&shape.adjoint(shape.inputs)) == Method::Direct { 1e-5 } else { 1e-4 };
        check(&dx, &of_x, bound, &format!("dx of {what}"));
        for (method, bound) in methods(shape) {
            let (mut y, mut dw) = (vec![f32::NAN; dy.len()], vec![f32::NAN; w.len()]);
            let weights = Weights::new(isa, shape, *method, &w);
            convolve(isa, shape, &input, &weights, &Epilogue::default(), &mut y);
            check(&y, &value, *bound, &format!("y of {what}, {method:?}"));
            weight_gradient_by(isa, shape, *method, &input, &dy, &mut dw);
            check(&dw, &of_w, *bound, &format!("dw of {what}, {method:?}"));
        }
    }
}

#[test]
fn particular_shapes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let same = |samples, size, channels, kernel| sizes(samples, size, channels, kernel);
    let half = |shape: Shape, pad| Shape { stride: 2, pad, ..shape };
    for shape in [
        same(2, [5, 7], [3, 5], [3, 3]),
        same(1, [8, 8], [16, 16], [3, 3]),
        same(2, [9, 7], [20, 37], [3, 3]),
        // One pixel, one row, one column, one channel.
        same(1, [1, 1], [1, 1], [3, 3]),
        same(3, [1, 1], [17, 18], [3, 3]),
        same(2, [1, 9], [16, 19], [3, 3]),
        same(2, [9, 1], [19, 16], [3, 3]),
        same(1, [6, 5], [1, 40], [3, 3]),
        same(1, [6, 5], [40, 1], [3, 3]),
        // More channels than a task of the weight gradient has.
        same(1, [4, 4], [70, 33], [3, 3]),
        // More pixels than a band or a block of tiles has.
        same(1, [40, 36], [16, 16], [3, 3]),
        same(2, [4, 4], [70, 130], [1, 1]),
        same(2, [3, 5], [7, 2], [1, 1]),
        same(1, [9, 8], [6, 9], [5, 5]),
        same(2, [6, 4], [5, 18], [3, 1]),
        same(2, [6, 4], [18, 5], [1, 3]),
        same(1, [7, 7], [9, 10], [2, 4]),
        half(same(3, [8, 8], [17, 33], [3, 3]), [0, 1, 0, 1]),
        half(same(2, [8, 9], [18, 16], [3, 3]), [1; 4]),
        half(same(2, [7, 7], [16, 20], [3, 3]), [1; 4]),
        half(same(1, [1, 2], [4, 4], [3, 3]), [1; 4]),
        half(same(2, [6, 7], [9, 5], [1, 1]), [0; 4]),
        half(same(1, [9, 9], [5, 6], [5, 5]), [2; 4]),
        // Without padding, and with as much as possible.
        Shape { pad: [0; 4], ..same(1, [6, 8], [16, 17], [3, 3]) },
        Shape { pad: [2; 4], ..same(1, [6, 8], [17, 16], [3, 3]) },
        Shape { pad: [0, 2, 1, 0], ..same(2, [5, 6], [16, 16], [3, 3]) },
    ] {
        all(&shape, &mut rng);
    }
}

#[test]
fn random_shapes() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..25 {
        let mut up_to = |least: usize, most: usize| rng.random_range(least..=most);
        let kernel = [[1, 1], [3, 3], [3, 3], [3, 3], [5, 5], [1, 4]][up_to(0, 5)];
        let size = [up_to(1, 12), up_to(1, 12)];
        let mut shape = sizes(up_to(1, 3), size, [up_to(1, 40), up_to(1, 40)], kernel);
        shape.stride = up_to(1, 2);
        all(&shape, &mut rng);
    }
}

/// Prologue, parts and epilogue, together and separately.
#[test]
fn prologue_and_epilogue() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (shape, widths) in [
        (sizes(2, [6, 8], [20, 35], [3, 3]), [13, 7]),
        (sizes(3, [4, 6], [35, 16], [3, 3]), [1, 34]),
        (sizes(2, [4, 4], [40, 9], [1, 1]), [17, 23]),
        (Shape { stride: 2, pad: [0, 1, 0, 1], ..sizes(2, [6, 8], [21, 17], [3, 3]) }, [16, 5]),
    ] {
        for (repeat, affine, silu, added, scale) in [
            (1, false, false, true, 1.0),
            (1, true, false, false, 0.5),
            (1, true, true, true, 0.7),
            (2, false, false, true, 0.7),
            (2, true, true, false, 1.0),
        ] {
            let Shape { samples, height, width, inputs, outputs, .. } = shape;
            let pixels = samples * (height / repeat) * (width / repeat);
            let tensors = widths.map(|channels| numbers(pixels * channels, &mut rng));
            let [a, b] = [(); 2].map(|()| numbers(samples * inputs, &mut rng));
            let through = |n: usize, c: usize, x: f32| {
                let v = f64::from(a[n * inputs + c]) * f64::from(x) + f64::from(b[n * inputs + c]);
                match (affine, silu) {
                    (false, _) => f64::from(x),
                    (true, false) => v,
                    (true, true) => v / (1.0 + (-v).exp()),
                }
            };
            let mut x = Vec::with_capacity(samples * height * width * inputs);
            for at in 0..samples * height * width {
                let (n, i, j) = (at / width / height, at / width % height / repeat, at % width / repeat);
                let place = (n * (height / repeat) + i) * (width / repeat) + j;
                let rows = tensors.iter().zip(widths).flat_map(|(x, width)| &x[place * width..(place + 1) * width]);
                x.extend(rows.enumerate().map(|(c, x)| through(n, c, *x)));
            }
            let w = numbers(shape.kernel[0] * shape.kernel[1] * inputs * outputs, &mut rng);
            let mut wanted = reference(&shape, &x, &w);
            let dy = numbers(wanted.len(), &mut rng);
            let mut of_w = vec![0.0; w.len()];
            products(&shape, |at, weight, to| of_w[weight] += f64::from(dy[to]) * x[at]);
            let [bias, shift, residual] = [outputs, samples * outputs, wanted.len()].map(|n| numbers(n, &mut rng));
            let sample = wanted.len() / samples;
            for (i, y) in wanted.iter_mut().enumerate() {
                if added {
                    let shift = shift[i / sample * outputs + i % outputs];
                    *y += f64::from(bias[i % outputs]) + f64::from(shift) + f64::from(residual[i]);
                }
                *y *= f64::from(scale);
            }
            let epilogue = Epilogue {
                bias: added.then_some(&bias[..]),
                shift: added.then_some(&shift[..]),
                residual: added.then_some(&residual[..]),
                scale,
            };
            let parts = [&tensors[0][..], &tensors[1][..]];
            let prologue = if affine { Prologue::Affine { a: &a, b: &b, silu } } else { Prologue::None };
            let input = Input { prologue, repeat, ..Input::new(&parts) };
            for isa in Isa::available() {
                for (method, bound) in methods(&shape) {
                    let what = format!("{method:?}, {shape:?}, repeat {repeat}, affine {affine} on {}", isa.name());
                    let mut y = vec![f32::NAN; wanted.len()];
                    convolve(isa, &shape, &input, &Weights::new(isa, &shape, *method, &w), &epilogue, &mut y);
                    check(&y, &wanted, *bound, &what);
                    let mut dw = vec![f32::NAN; w.len()];
                    weight_gradient_by(isa, &shape, *method, &input, &dy, &mut dw);
                    check(&dw, &of_w, *bound, &format!("dw of {what}"));
                }
            }
        }
    }
}

/// The tangent of a prologue, on the way in, is that of a tensor written before.
#[test]
fn tangent_prologue() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for (shape, widths) in [
        (sizes(2, [6, 8], [20, 35], [3, 3]), [13, 7]),
        (sizes(3, [4, 6], [35, 16], [3, 3]), [1, 34]),
        (Shape { stride: 2, pad: [0, 1, 0, 1], ..sizes(2, [6, 8], [21, 17], [3, 3]) }, [16, 5]),
    ] {
        for (repeat, silu) in [(1, false), (1, true), (2, true)] {
            let Shape { samples, height, width, inputs, outputs, .. } = shape;
            let pixels = samples * (height / repeat) * (width / repeat);
            let [x, dx] = [(); 2].map(|()| widths.map(|channels| numbers(pixels * channels, &mut rng)));
            let [a, b, q, r] = [(); 4].map(|()| numbers(samples * inputs, &mut rng));
            let mut before = 0;
            let written = [0, 1].map(|part| {
                let first = before;
                before += widths[part];
                let change = |i: usize| {
                    let (pixel, c) = (i / widths[part], first + i % widths[part]);
                    let at = pixel / (pixels / samples) * inputs + c;
                    let [a, b, q, r] = [&a, &b, &q, &r].map(|x| f64::from(x[at]));
                    let (x, dx) = (f64::from(x[part][i]), f64::from(dx[part][i]));
                    let (inner, along) = (a * x + b, a * dx + q * x + r);
                    let s = 1.0 / (1.0 + (-inner).exp());
                    (if silu { s * (1.0 + inner * (1.0 - s)) * along } else { along }) as f32
                };
                (0..pixels * widths[part]).map(change).collect::<Vec<f32>>()
            });
            let [x, dx, written] = [&x, &dx, &written].map(|both| [&both[0][..], &both[1][..]]);
            let prologue = Prologue::Tangent { x: &x, a: &a, b: &b, q: &q, r: &r, silu };
            let (fused, plain) =
                (Input { prologue, repeat, ..Input::new(&dx) }, Input { repeat, ..Input::new(&written) });
            let w = numbers(shape.kernel[0] * shape.kernel[1] * inputs * outputs, &mut rng);
            let [rows, columns] = shape.output();
            for isa in Isa::available() {
                for (method, bound) in methods(&shape) {
                    let weights = Weights::new(isa, &shape, *method, &w);
                    let [found, wanted] = [&fused, &plain].map(|input| {
                        let mut y = vec![f32::NAN; samples * rows * columns * outputs];
                        convolve(isa, &shape, input, &weights, &Epilogue::default(), &mut y);
                        y
                    });
                    check(&found, &wide(&wanted), *bound, &format!("{method:?}, {shape:?} on {}", isa.name()));
                }
            }
        }
    }
}

/// The gradient of a few of the input's channels is a part of the gradient of all.
#[test]
fn gradient_of_some_channels() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let (shape, range) = (sizes(2, [6, 5], [50, 20], [3, 3]), 13..40);
    let (w, dy) = (numbers(9 * 50 * 20, &mut rng), numbers(2 * 6 * 5 * 20, &mut rng));
    let mut wanted = vec![0.0; 2 * 6 * 5 * 50];
    products(&shape, |at, weight, to| wanted[at] += f64::from(dy[to]) * f64::from(w[weight]));
    let wanted: Vec<f64> = wanted.chunks_exact(50).flat_map(|row| row[range.clone()].to_vec()).collect();
    for isa in Isa::available() {
        let mut dx = vec![f32::NAN; wanted.len()];
        let transposed = Weights::transposed(isa, &shape, Method::of(&shape), range.clone(), &w);
        input_gradient(isa, &shape, &transposed, &dy, &mut dx);
        check(&dx, &wanted, 1e-4, isa.name());
    }
}

/// ⟨conv(x), dy⟩ = ⟨x, input_gradient(dy)⟩ = ⟨w, weight_gradient(x, dy)⟩
#[test]
fn adjoints() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norm = |a: &[f32]| dot(a, a).sqrt();
    for shape in [
        sizes(2, [24, 22], [48, 40], [3, 3]),
        Shape { stride: 2, ..sizes(2, [24, 22], [48, 40], [3, 3]) },
        sizes(2, [16, 12], [40, 24], [5, 5]),
    ] {
        let [height, width] = shape.output();
        let x = numbers(shape.samples * shape.height * shape.width * shape.inputs, &mut rng);
        let w = numbers(shape.kernel[0] * shape.kernel[1] * shape.inputs * shape.outputs, &mut rng);
        let dy = numbers(shape.samples * height * width * shape.outputs, &mut rng);
        let parts = [&x[..]];
        let input = Input::new(&parts);
        let isa = Isa::best();
        let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        let weights = Weights::new(isa, &shape, Method::of(&shape), &w);
        convolve(isa, &shape, &input, &weights, &Epilogue::default(), &mut y);
        let transposed = Weights::transposed(isa, &shape, Method::of(&shape), 0..shape.inputs, &w);
        input_gradient(isa, &shape, &transposed, &dy, &mut dx);
        weight_gradient(isa, &shape, &input, &dy, &mut dw);
        let (value, of_x, of_w) = (dot(&y, &dy), dot(&x, &dx), dot(&w, &dw));
        let bound = 1e-6 * norm(&y) * norm(&dy);
        assert!((value - of_x).abs() <= bound, "{shape:?} on {}: {value} and {of_x} of x", isa.name());
        assert!((value - of_w).abs() <= bound, "{shape:?} on {}: {value} and {of_w} of w", isa.name());
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for shape in [
        sizes(3, [21, 19], [40, 17], [3, 3]),
        Shape { stride: 2, ..sizes(2, [33, 30], [70, 9], [3, 3]) },
        sizes(2, [30, 30], [130, 20], [1, 1]),
    ] {
        let [height, width] = shape.output();
        let x = numbers(shape.samples * shape.height * shape.width * shape.inputs, &mut rng);
        let w = numbers(shape.kernel[0] * shape.kernel[1] * shape.inputs * shape.outputs, &mut rng);
        let dy = numbers(shape.samples * height * width * shape.outputs, &mut rng);
        let parts = [&x[..]];
        let input = Input::new(&parts);
        for isa in Isa::available() {
            for (method, _) in methods(&shape) {
                let run = || {
                    let (mut y, mut dw) = (vec![0.0; dy.len()], vec![0.0; w.len()]);
                    let weights = Weights::new(isa, &shape, *method, &w);
                    convolve(isa, &shape, &input, &weights, &Epilogue::default(), &mut y);
                    weight_gradient_by(isa, &shape, *method, &input, &dy, &mut dw);
                    (y, dw)
                };
                let [one, three] = [1, 3]
                    .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run));
                assert!(one == three, "{method:?}, {shape:?} on {}", isa.name());
            }
        }
    }
}

/// A band or a block of tiles may hold parts of several samples.
#[test]
fn same_bits_alone_and_in_a_batch() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for shape in [
        sizes(3, [5, 7], [20, 19], [3, 3]),
        sizes(3, [16, 16], [64, 40], [3, 3]),
        Shape { stride: 2, ..sizes(3, [9, 8], [20, 33], [3, 3]) },
        sizes(3, [5, 7], [40, 19], [1, 1]),
    ] {
        let sample = shape.height * shape.width * shape.inputs;
        let x = numbers(3 * sample, &mut rng);
        let w = numbers(shape.kernel[0] * shape.kernel[1] * shape.inputs * shape.outputs, &mut rng);
        for isa in Isa::available() {
            for (method, _) in methods(&shape) {
                let run = |x: &[f32], shape: Shape| {
                    let [height, width] = shape.output();
                    let mut y = vec![0.0; shape.samples * height * width * shape.outputs];
                    let weights = Weights::new(isa, &shape, *method, &w);
                    convolve(isa, &shape, &Input::new(&[x]), &weights, &Epilogue::default(), &mut y);
                    y
                };
                let batch = run(&x, shape);
                let alone = x.chunks(sample).flat_map(|x| run(x, Shape { samples: 1, ..shape }));
                assert!(batch.into_iter().eq(alone), "{method:?}, {shape:?} on {}", isa.name());
            }
        }
    }
}

#[test]
#[should_panic(expected = "the output of a convolution")]
fn wrong_size_of_the_output() {
    let (isa, shape) = (Isa::best(), sizes(1, [4, 4], [2, 3], [3, 3]));
    let weights = Weights::new(isa, &shape, Method::Direct, &[0.0; 9 * 2 * 3]);
    convolve(isa, &shape, &Input::new(&[&[0.0; 32]]), &weights, &Epilogue::default(), &mut [0.0; 47]);
}

#[test]
#[should_panic(expected = "weights packed for another convolution")]
fn wrong_weights() {
    let (isa, shape) = (Isa::best(), sizes(1, [4, 4], [2, 3], [3, 3]));
    let other = Shape { inputs: 3, ..shape };
    let weights = Weights::new(isa, &other, Method::Direct, &[0.0; 9 * 3 * 3]);
    convolve(isa, &shape, &Input::new(&[&[0.0; 32]]), &weights, &Epilogue::default(), &mut [0.0; 48]);
}
