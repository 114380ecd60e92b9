//! Convolutions and linear layers, against plain sums in f64.

mod bf16;
mod convolution;
mod dense;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use stein_simd::convolution::Shape;

fn numbers(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn sizes(samples: usize, [height, width]: [usize; 2], [inputs, outputs]: [usize; 2], kernel: [usize; 2]) -> Shape {
    let [top, left] = kernel.map(|size| (size - 1) / 2);
    let pad = [top, kernel[0] - 1 - top, left, kernel[1] - 1 - left];
    Shape { samples, height, width, inputs, outputs, kernel, stride: 1, pad }
}

/// Calls `f` with the indices in x, w and y of every product.
fn products(shape: &Shape, mut f: impl FnMut(usize, usize, usize)) {
    let Shape { samples, height, width, inputs, outputs, kernel: [kh, kw], stride, pad: [top, _, left, _] } = *shape;
    let [out_height, out_width] = shape.output();
    for place in 0..samples * out_height * out_width {
        let (n, i, j) = (place / out_width / out_height, place / out_width % out_height, place % out_width);
        for tap in 0..kh * kw {
            let (row, column) = (i * stride + tap / kw, j * stride + tap % kw);
            if row < top || row - top >= height || column < left || column - left >= width {
                continue;
            }
            let at = (n * height + row - top) * width + column - left;
            for c in 0..inputs {
                for o in 0..outputs {
                    f(at * inputs + c, (tap * inputs + c) * outputs + o, place * outputs + o);
                }
            }
        }
    }
}

/// An error of at most `bound` times the largest wanted number.
fn check(found: &[f32], wanted: &[f64], bound: f64, what: &str) {
    assert_eq!(found.len(), wanted.len());
    assert!(found.iter().all(|x| x.is_finite()), "{what}");
    let largest = wanted.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let error = found.iter().zip(wanted).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    assert!(error <= bound * largest, "{what}: an error of {:.1e}", error / largest);
}
