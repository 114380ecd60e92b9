//! Convolution and linear layers in bf16 against plain sums in f64, both of rounded and of unrounded numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use stein_simd::{
    Isa,
    convolution::{Epilogue, Input, Method, Prologue, Shape, Weights, convolve, input_gradient, weight_gradient_by},
    dense,
};

use crate::{check, numbers, products, sizes};

/// The nearest number with eight significant bits; halves go to the even one.
fn rounded(x: f64) -> f64 {
    let unit = 2.0f64.powi(x.abs().log2().floor() as i32 - 7);
    if x == 0.0 { x } else { (x / unit).round_ties_even() * unit }
}

/// Numbers before and after rounding.
struct Both([Vec<f64>; 2]);

impl Both {
    fn of(x: &[f32]) -> Self {
        let x = x.iter().map(|x| f64::from(*x));
        Self([x.clone().collect(), x.map(rounded).collect()])
    }

    /// Sums of products, of rounded and of unrounded numbers.
    fn sums(&self, other: &Self, len: usize, mut products: impl FnMut(&mut dyn FnMut(usize, usize, usize))) -> Self {
        Self([0, 1].map(|i| {
            let mut sums = vec![0.0; len];
            products(&mut |a, b, to| sums[to] += self.0[i][a] * other.0[i][b]);
            sums
        }))
    }

    fn map(self, f: impl Fn(usize, f64) -> f64) -> Self {
        Self(self.0.map(|x| x.into_iter().enumerate().map(|(i, x)| f(i, x)).collect()))
    }

    fn check(&self, found: &[f32], what: &str) {
        for (wanted, bound) in self.0.iter().zip([1e-2, 1e-5]) {
            check(found, wanted, bound, &format!("{what}, to {bound:.0e}"));
        }
    }
}

/// Numbers in x, w and y.
fn lengths(shape: &Shape) -> [usize; 3] {
    let Shape { samples, height, width, inputs, outputs, kernel: [kh, kw], .. } = *shape;
    let [out_height, out_width] = shape.output();
    [samples * height * width * inputs, kh * kw * inputs * outputs, samples * out_height * out_width * outputs]
}

#[test]
fn values_and_gradients() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let half = |shape: Shape, pad| Shape { stride: 2, pad, ..shape };
    for shape in [
        sizes(2, [5, 7], [3, 5], [3, 3]),
        sizes(1, [8, 8], [16, 16], [3, 3]),
        sizes(2, [9, 7], [17, 37], [3, 3]),
        sizes(1, [1, 1], [1, 1], [3, 3]),
        sizes(3, [1, 1], [17, 18], [3, 3]),
        sizes(2, [1, 9], [16, 19], [3, 3]),
        sizes(2, [9, 1], [19, 16], [3, 3]),
        sizes(1, [6, 5], [1, 40], [3, 3]),
        sizes(1, [6, 5], [40, 1], [3, 3]),
        // More channels than a task of the weight gradient has, and more pixels than a band.
        sizes(1, [4, 4], [70, 33], [3, 3]),
        sizes(1, [67, 63], [33, 16], [3, 3]),
        sizes(2, [4, 4], [70, 130], [1, 1]),
        sizes(3, [3, 5], [7, 2], [1, 1]),
        sizes(1, [9, 8], [6, 9], [5, 5]),
        sizes(1, [5, 11], [3, 4], [1, 7]),
        sizes(2, [6, 4], [5, 18], [3, 1]),
        sizes(1, [7, 7], [9, 10], [2, 4]),
        half(sizes(3, [8, 8], [17, 33], [3, 3]), [0, 1, 0, 1]),
        half(sizes(2, [8, 9], [18, 16], [3, 3]), [1; 4]),
        half(sizes(2, [6, 7], [9, 5], [1, 1]), [0; 4]),
        half(sizes(2, [5, 11], [9, 5], [1, 1]), [0; 4]),
        half(sizes(1, [9, 13], [5, 6], [5, 5]), [2; 4]),
        half(sizes(1, [4, 15], [3, 4], [2, 6]), [0; 4]),
        Shape { pad: [0; 4], ..sizes(1, [6, 8], [16, 17], [3, 3]) },
        Shape { pad: [0, 2, 1, 0], ..sizes(2, [5, 6], [16, 16], [3, 3]) },
    ] {
        let [x, w, dy] = lengths(&shape).map(|n| numbers(n, &mut rng));
        let both = [&x, &w, &dy].map(|x| Both::of(x));
        let value = both[0].sums(&both[1], dy.len(), |add| products(&shape, add));
        let of_x = both[1].sums(&both[2], x.len(), |add| products(&shape, |x, w, y| add(w, y, x)));
        let of_w = both[0].sums(&both[2], w.len(), |add| products(&shape, |x, w, y| add(x, y, w)));
        let range = shape.inputs / 3..shape.inputs;
        let of_some = Both(of_x.0.clone().map(|of_x| {
            of_x.chunks_exact(shape.inputs).flat_map(|row| row[range.clone()].to_vec()).collect::<Vec<_>>()
        }));
        let parts = [&x[..]];
        let input = Input::new(&parts);
        for isa in Isa::available() {
            let what = format!("{shape:?} on {}", isa.name());
            // What the outputs held before must not matter.
            let [mut y, mut dw] = [dy.len(), w.len()].map(|n| vec![f32::NAN; n]);
            let weights = Weights::new(isa, &shape, Method::Bf16, &w);
            convolve(isa, &shape, &input, &weights, &Epilogue::default(), &mut y);
            value.check(&y, &format!("y of {what}"));
            for (range, wanted) in [(0..shape.inputs, &of_x), (range.clone(), &of_some)] {
                let mut dx = vec![f32::NAN; wanted.0[0].len()];
                let transposed = Weights::transposed(isa, &shape, Method::Bf16, range, &w);
                input_gradient(isa, &shape, &transposed, &dy, &mut dx);
                wanted.check(&dx, &format!("dx of {what}"));
            }
            weight_gradient_by(isa, &shape, Method::Bf16, &input, &dy, &mut dw);
            of_w.check(&dw, &format!("dw of {what}"));
        }
    }
}

/// Two parts, upsampled and not, with a prologue and a full epilogue.
#[test]
fn prologue_and_epilogue() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (shape, widths) in [
        (sizes(2, [6, 8], [20, 35], [3, 3]), [13, 7]),
        (sizes(3, [4, 6], [35, 16], [3, 3]), [1, 34]),
        (sizes(2, [4, 4], [40, 9], [1, 1]), [17, 23]),
        (Shape { stride: 2, pad: [0, 1, 0, 1], ..sizes(2, [6, 8], [21, 17], [3, 3]) }, [16, 5]),
    ] {
        for (repeat, silu) in [(1, None), (1, Some(false)), (1, Some(true)), (2, Some(false)), (2, None)] {
            let Shape { samples, height, width, inputs, outputs, .. } = shape;
            let places = samples * (height / repeat) * (width / repeat);
            let tensors = widths.map(|channels| numbers(places * channels, &mut rng));
            let [a, b] = [(); 2].map(|()| numbers(samples * inputs, &mut rng));
            let [_, of_w, of_y] = lengths(&shape);
            let (w, dy) = (numbers(of_w, &mut rng), numbers(of_y, &mut rng));
            let [bias, shift, residual] = [outputs, samples * outputs, of_y].map(|n| numbers(n, &mut rng));
            let epilogue = Epilogue { bias: Some(&bias), shift: Some(&shift), residual: Some(&residual), scale: 0.7 };
            let parts = [&tensors[0][..], &tensors[1][..]];
            let prologue = silu.map_or(Prologue::None, |silu| Prologue::Affine { a: &a, b: &b, silu });
            let input = Input { prologue, repeat, ..Input::new(&parts) };
            // Without a kernel and in f32: the numbers that are rounded, to the last bit, which decides the direction.
            let through = Shape { outputs: inputs, kernel: [1, 1], stride: 1, pad: [0; 4], ..shape };
            let one: Vec<f32> = (0..inputs * inputs).map(|i| f32::from(i % (inputs + 1) == 0)).collect();
            for isa in Isa::available() {
                let mut x = vec![f32::NAN; lengths(&shape)[0]];
                let weights = Weights::new(isa, &through, Method::Direct, &one);
                convolve(isa, &through, &input, &weights, &Epilogue::default(), &mut x);
                let x = Both::of(&x);
                let value = x.sums(&Both::of(&w), of_y, |add| products(&shape, add)).map(|i, y| {
                    let shift = shift[i / (of_y / samples) * outputs + i % outputs];
                    0.7 * (y + f64::from(bias[i % outputs]) + f64::from(shift) + f64::from(residual[i]))
                });
                let of_w = x.sums(&Both::of(&dy), of_w, |add| products(&shape, |x, w, y| add(x, y, w)));
                let what = format!("{shape:?}, repeat {repeat}, silu {silu:?} on {}", isa.name());
                let [mut y, mut dw] = [of_y, w.len()].map(|n| vec![f32::NAN; n]);
                let weights = Weights::new(isa, &shape, Method::Bf16, &w);
                convolve(isa, &shape, &input, &weights, &epilogue, &mut y);
                value.check(&y, &what);
                weight_gradient_by(isa, &shape, Method::Bf16, &input, &dy, &mut dw);
                of_w.check(&dw, &format!("dw of {what}"));
            }
        }
    }
}

#[test]
fn linear_layers() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for rows in [1, 5, 100, 513] {
        for (first, second, outputs) in [(1, 0, 1), (17, 0, 33), (64, 0, 16), (7, 14, 40), (33, 31, 130)] {
            let inputs = first + second;
            let shape = Shape::dense(rows, inputs, outputs);
            let tensors = [first, second].map(|width| numbers(rows * width, &mut rng));
            let parts: Vec<&[f32]> = tensors.iter().map(|x| &x[..]).filter(|x| !x.is_empty()).collect();
            let mut x = Vec::new();
            for i in 0..rows {
                parts.iter().for_each(|part| x.extend(&part[i * part.len() / rows..(i + 1) * part.len() / rows]));
            }
            let [w, bias, dy] = [inputs * outputs, outputs, rows * outputs].map(|n| numbers(n, &mut rng));
            let [of_x, of_w, of_dy] = [&x, &w, &dy].map(|x| Both::of(x));
            let value = of_x.sums(&of_w, dy.len(), |add| products(&shape, add));
            let value = value.map(|i, y| y + f64::from(bias[i % outputs]));
            let gradient = of_w.sums(&of_dy, x.len(), |add| products(&shape, |x, w, y| add(w, y, x)));
            for isa in Isa::available() {
                let what = format!("{rows} x {inputs} x {outputs} on {}", isa.name());
                let [mut y, mut dx] = [dy.len(), x.len()].map(|n| vec![f32::NAN; n]);
                let weights = Weights::new(isa, &shape, Method::Bf16, &w);
                dense(isa, &parts, &weights, &Epilogue { bias: Some(&bias), ..Epilogue::default() }, &mut y);
                value.check(&y, &what);
                let transposed = Weights::transposed(isa, &shape, Method::Bf16, 0..inputs, &w);
                dense(isa, &[&dy], &transposed, &Epilogue::default(), &mut dx);
                gradient.check(&dx, &format!("dx of {what}"));
            }
        }
    }
}

/// Halves go to even, overflow to infinity, and NaN stays NaN.
#[test]
fn rounding() {
    let shape = Shape::dense(1, 1, 1);
    let bits = |bits: u32| f32::from_bits(bits);
    for (x, wanted) in [
        (bits(0x3f80_8000), 1.0),
        (bits(0x3f80_8001), bits(0x3f81_0000)),
        (bits(0x3f81_8000), bits(0x3f82_0000)),
        (bits(0xbf81_7fff), bits(0xbf81_0000)),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (bits(0x7f80_0001), f32::NAN),
        (bits(0xffff_ffff), f32::NAN),
    ] {
        for isa in Isa::available() {
            let run = |x: f32, w: f32| {
                let mut y = [0.0];
                dense(isa, &[&[x]], &Weights::new(isa, &shape, Method::Bf16, &[w]), &Epilogue::default(), &mut y);
                y[0]
            };
            for y in [run(x, 1.0), run(1.0, x)] {
                assert!(y == wanted || y.is_nan() && wanted.is_nan(), "{x:e} to {y:e} on {}", isa.name());
            }
        }
    }
}

/// The pixels that pairs reach beyond the last output must not count, whatever their values.
#[test]
fn infinite_where_no_output_looks() {
    let shape = Shape { stride: 2, pad: [0; 4], ..sizes(1, [2, 7], [3, 4], [2, 2]) };
    let mut x = vec![1.0; 2 * 7 * 3];
    for row in x.chunks_exact_mut(7 * 3) {
        row[6 * 3..].fill(f32::INFINITY);
    }
    for isa in Isa::available() {
        let mut dw = [f32::NAN; 4 * 3 * 4];
        weight_gradient_by(isa, &shape, Method::Bf16, &Input::new(&[&x]), &[1.0; 3 * 4], &mut dw);
        assert_eq!(dw, [3.0; 4 * 3 * 4], "{}", isa.name());
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for shape in [
        sizes(3, [21, 19], [41, 17], [3, 3]),
        Shape { stride: 2, ..sizes(2, [33, 30], [70, 9], [3, 3]) },
        sizes(2, [30, 30], [130, 20], [1, 1]),
    ] {
        let [x, w, dy] = lengths(&shape).map(|n| numbers(n, &mut rng));
        let parts = [&x[..]];
        let input = Input::new(&parts);
        let rows = x.len() / shape.inputs;
        let layer = Shape::dense(rows, shape.inputs, shape.outputs);
        for isa in Isa::available() {
            let run = || {
                let [mut y, mut dx, mut dw] = [dy.len(), x.len(), w.len()].map(|n| vec![0.0; n]);
                let weights = Weights::new(isa, &shape, Method::Bf16, &w);
                convolve(isa, &shape, &input, &weights, &Epilogue::default(), &mut y);
                let transposed = Weights::transposed(isa, &shape, Method::Bf16, 0..shape.inputs, &w);
                input_gradient(isa, &shape, &transposed, &dy, &mut dx);
                weight_gradient_by(isa, &shape, Method::Bf16, &input, &dy, &mut dw);
                let mut rows = vec![0.0; rows * shape.outputs];
                let weights = Weights::new(isa, &layer, Method::Bf16, &w[..shape.inputs * shape.outputs]);
                dense(isa, &[&x], &weights, &Epilogue::default(), &mut rows);
                [y, dx, dw, rows]
            };
            let [one, three] = [1, 3]
                .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run));
            assert!(one == three, "{shape:?} on {}", isa.name());
        }
    }
}
