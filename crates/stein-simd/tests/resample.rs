//! Resampling against plain loops, and gradients as adjoints.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stein_simd::Isa;
use stein_simd::resample::{
    average_pool, average_pool_backward, fir_resample, fir_resample_backward, upsample_nearest,
    upsample_nearest_backward,
};

fn uniform(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// An error of at most 10⁻⁶: a few roundings of numbers around 1.
fn close(found: &[f32], wanted: &[f64], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((f64::from(*found) - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "{what}: {found} for {wanted}");
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// ⟨J x, y⟩ = ⟨x, Jᵀ y⟩, up to the rounding of sums of numbers around 1.
fn adjoint(x: &[f32], jx: &[f32], y: &[f32], jty: &[f32], what: &str) {
    let (left, right) = (dot(jx, y), dot(x, jty));
    assert!((left - right).abs() <= 1e-6 * (1.0 + x.len() as f64).sqrt() * 4.0, "{what}: {left} and {right}");
}

const SHAPES: [[usize; 4]; 6] =
    [[1, 1, 1, 1], [2, 3, 2, 5], [1, 2, 5, 8], [3, 4, 3, 19], [1, 16, 17, 67], [0, 3, 3, 2]];

#[test]
fn doubled_and_halved() {
    for isa in Isa::available() {
        for [n, h, w, c] in SHAPES {
            let what = format!("{:?} on {}", [n, h, w, c], isa.name());
            let (small, large) = (uniform(n * h * w * c, 1), uniform(4 * n * h * w * c, 2));
            let at = |m: usize, i: usize, j: usize, k: usize| ((m * 2 * h + i) * 2 * w + j) * c + k;
            let (mut spread, mut pooled) = (vec![0.0; large.len()], vec![0.0; small.len()]);
            for (o, pooled) in pooled.iter_mut().enumerate() {
                let (k, j, i, m) = (o % c, o / c % w, o / c / w % h, o / c / w / h);
                for (di, dj) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let place = at(m, 2 * i + di, 2 * j + dj, k);
                    spread[place] = f64::from(small[o]);
                    *pooled += f64::from(large[place]) / 4.0;
                }
            }
            let mut found = vec![0.0; large.len()];
            upsample_nearest(isa, &small, [n, h, w, c], &mut found);
            close(&found, &spread, &what);
            let mut back = vec![0.0; small.len()];
            upsample_nearest_backward(isa, &large, [n, h, w, c], &mut back);
            adjoint(&small, &found, &large, &back, &what);
            let mut found = vec![0.0; small.len()];
            average_pool(isa, &large, [n, 2 * h, 2 * w, c], &mut found);
            close(&found, &pooled, &what);
            let mut back = vec![0.0; large.len()];
            average_pool_backward(isa, &small, [n, 2 * h, 2 * w, c], &mut back);
            adjoint(&large, &found, &small, &back, &what);
        }
    }
}

/// Inserts zeros, pads with zeros, convolves with the outer product of the kernel by definition, and keeps every
/// `down`-th pixel.
fn filtered(
    x: &[f32],
    [n, h, w, c]: [usize; 4],
    kernel: &[f32],
    up: usize,
    down: usize,
    pad: [usize; 2],
    gain: f64,
) -> Vec<f64> {
    let (tall, wide) = (h * up + pad[0] + pad[1], w * up + pad[0] + pad[1]);
    let taps = kernel.len();
    let mut y = Vec::new();
    for m in 0..n {
        for i in (0..=tall - taps).step_by(down) {
            for j in (0..=wide - taps).step_by(down) {
                for k in 0..c {
                    let mut sum = 0.0;
                    for p in 0..taps {
                        for q in 0..taps {
                            let (row, column) = ((i + p).wrapping_sub(pad[0]), (j + q).wrapping_sub(pad[0]));
                            if row < h * up && column < w * up && row % up == 0 && column % up == 0 {
                                let weight = f64::from(kernel[taps - 1 - p]) * f64::from(kernel[taps - 1 - q]);
                                sum += weight * f64::from(x[((m * h + row / up) * w + column / up) * c + k]);
                            }
                        }
                    }
                    y.push(gain * sum);
                }
            }
        }
    }
    y
}

/// Up, down, pad and taps: the two of NCSN++, plain blurs, and unusual ones.
const FILTERS: [(usize, usize, [usize; 2], &[f32]); 6] = [
    (2, 1, [2, 1], &[0.125, 0.375, 0.375, 0.125]),
    (1, 2, [1, 1], &[0.125, 0.375, 0.375, 0.125]),
    (1, 1, [1, 1], &[0.25, 0.5, 0.25]),
    (1, 1, [0, 0], &[1.5]),
    (3, 2, [4, 0], &[0.1, -0.2, 0.7, 0.3, 0.05]),
    (2, 3, [0, 5], &[0.9, 0.1]),
];

#[test]
fn filters() {
    for isa in Isa::available() {
        // The first is smaller than some of the filters.
        for shape in SHAPES.into_iter().skip(1).chain([[2, 12, 11, 32]]) {
            for (up, down, pad, kernel) in FILTERS {
                let what = format!("{shape:?}, up {up}, down {down}, on {}", isa.name());
                let x = uniform(shape.iter().product(), 3);
                let wanted = filtered(&x, shape, kernel, up, down, pad, 4.0);
                // What the output held before must not matter.
                let (mut y, mut dx) = (vec![f32::NAN; wanted.len()], vec![f32::NAN; x.len()]);
                fir_resample(isa, &x, shape, kernel, up, down, pad, 4.0, &mut y);
                close(&y, &wanted, &what);
                let dy = uniform(y.len(), 4);
                fir_resample_backward(isa, &dy, shape, kernel, up, down, pad, 4.0, &mut dx);
                adjoint(&x, &y, &dy, &dx, &what);
            }
        }
    }
}

#[test]
fn the_same_on_any_number_of_threads() {
    let shape = [3, 24, 26, 40];
    let x = uniform(shape.iter().product(), 5);
    let on = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let (mut up, mut down) = (vec![0.0; 4 * x.len()], vec![0.0; x.len() / 4]);
            upsample_nearest(Isa::best(), &x, shape, &mut up);
            average_pool(Isa::best(), &x, shape, &mut down);
            let (factor, division, pad, kernel) = FILTERS[0];
            let (mut y, mut dx) = (vec![0.0; 4 * x.len()], vec![0.0; x.len()]);
            fir_resample(Isa::best(), &x, shape, kernel, factor, division, pad, 1.0, &mut y);
            fir_resample_backward(Isa::best(), &y, shape, kernel, factor, division, pad, 1.0, &mut dx);
            (up, down, y, dx)
        })
    };
    assert!(on(1) == on(3));
}
