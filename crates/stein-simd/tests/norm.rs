//! Normalizations against f64, gradients against their formula, which itself is checked by differences.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stein_simd::Isa;
use stein_simd::norm::{
    NormShape, coefficients, layer_norm, layer_norm_backward, moments, normalize, normalize_backward,
    normalize_tangent, tangent_coefficients,
};

const EPSILON: f64 = 1e-5;

fn uniform(n: usize, middle: f32, range: f32, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| middle + rng.random_range(-range..range)).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// An error of at most `bound` times the largest wanted number.
fn close(found: &[f32], wanted: &[f64], bound: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (f64::from(*found) - wanted).abs();
        // Gradients that are 0 up to rounding have no scale of their own.
        assert!(error <= bound * largest.max(1e-2), "{what} at {i}: {found} for {wanted}, largest {largest}");
    }
}

/// The parameters of a normalization, in f64, all of them present.
struct Model {
    shape: NormShape,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    scale: Vec<f64>,
    shift: Vec<f64>,
    silu: bool,
}

impl Model {
    /// The sample, channel and group of each number.
    fn at(&self, i: usize) -> (usize, usize, usize) {
        let NormShape { places, channels, groups, .. } = self.shape;
        let (n, c) = (i / channels / places, i % channels);
        (n, c, n * groups + c / (channels / groups))
    }

    /// The mean of f over each group.
    fn means(&self, f: impl Fn(usize) -> f64) -> Vec<f64> {
        let NormShape { samples, places, channels, groups } = self.shape;
        let mut sums = vec![0.0; samples * groups];
        for i in 0..samples * places * channels {
            sums[self.at(i).2] += f(i);
        }
        sums.iter().map(|x| x / (places * channels / groups) as f64).collect()
    }

    fn moments(&self, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mean = self.means(|i| x[i]);
        let variance = self.means(|i| (x[i] - mean[self.at(i).2]).powi(2));
        (mean, variance.iter().map(|x| 1.0 / (x + EPSILON).sqrt()).collect())
    }

    /// x̂, and z before the SiLU.
    fn inner(&self, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mean, scale) = self.moments(x);
        let unit: Vec<f64> = (0..x.len()).map(|i| (x[i] - mean[self.at(i).2]) * scale[self.at(i).2]).collect();
        let z = (0..x.len()).map(|i| {
            let (n, c, _) = self.at(i);
            let k = n * self.shape.channels + c;
            (unit[i] * self.gamma[c] + self.beta[c]) * (1.0 + self.scale[k]) + self.shift[k]
        });
        (unit.clone(), z.collect())
    }

    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let z = self.inner(x).1;
        if self.silu { z.iter().map(|z| z / (1.0 + (-z).exp())).collect() } else { z }
    }

    /// The change of y along those of x, scale and shift.
    fn tangent(&self, x: &[f64], dx: &[f64], dscale: &[f64], dshift: &[f64]) -> Vec<f64> {
        let (unit, z) = self.inner(x);
        let root = self.moments(x).1;
        let along_one = self.means(|i| dx[i]);
        let along_x = self.means(|i| unit[i] * dx[i]);
        let change = |i: usize| {
            let (n, c, g) = self.at(i);
            let k = n * self.shape.channels + c;
            let dunit = root[g] * (dx[i] - along_one[g] - unit[i] * along_x[g]);
            let own = unit[i] * self.gamma[c] + self.beta[c];
            let dz = self.gamma[c] * dunit * (1.0 + self.scale[k]) + own * dscale[k] + dshift[k];
            let s = 1.0 / (1.0 + (-z[i]).exp());
            if self.silu { s * (1.0 + z[i] * (1.0 - s)) * dz } else { dz }
        };
        (0..x.len()).map(change).collect()
    }

    /// dx, dγ, dβ, dscale and dshift.
    fn backward(&self, x: &[f64], dy: &[f64]) -> [Vec<f64>; 5] {
        let NormShape { samples, channels, .. } = self.shape;
        let (unit, z) = self.inner(x);
        let slope = |z: f64| {
            let s = 1.0 / (1.0 + (-z).exp());
            if self.silu { s * (1.0 + z * (1.0 - s)) } else { 1.0 }
        };
        let dz: Vec<f64> = z.iter().zip(dy).map(|(z, dy)| dy * slope(*z)).collect();
        let mut sums = [channels, channels, samples * channels, samples * channels].map(|n| vec![0.0; n]);
        let factor = |i: usize| {
            let (n, c, _) = self.at(i);
            self.gamma[c] * (1.0 + self.scale[n * channels + c])
        };
        for i in 0..x.len() {
            let (n, c, _) = self.at(i);
            let k = n * channels + c;
            sums[0][c] += dz[i] * (1.0 + self.scale[k]) * unit[i];
            sums[1][c] += dz[i] * (1.0 + self.scale[k]);
            sums[2][k] += dz[i] * (unit[i] * self.gamma[c] + self.beta[c]);
            sums[3][k] += dz[i];
        }
        let along_one = self.means(|i| factor(i) * dz[i]);
        let along_x = self.means(|i| factor(i) * dz[i] * unit[i]);
        let scale = self.moments(x).1;
        let dx = (0..x.len()).map(|i| {
            let g = self.at(i).2;
            scale[g] * (factor(i) * dz[i] - along_one[g] - unit[i] * along_x[g])
        });
        let [dgamma, dbeta, dscale, dshift] = sums;
        [dx.collect(), dgamma, dbeta, dscale, dshift]
    }
}

/// x `[rows, channels]` as parts of these widths.
fn split(x: &[f32], channels: usize, widths: &[usize]) -> Vec<Vec<f32>> {
    let mut before = 0;
    let part = |width: &usize| {
        let from = before;
        before += width;
        x.chunks(channels).flat_map(|row| row[from..from + width].to_vec()).collect()
    };
    widths.iter().map(part).collect()
}

fn join(parts: &[Vec<f32>], widths: &[usize]) -> Vec<f32> {
    let rows = parts[0].len() / widths[0];
    let row = |r: usize| parts.iter().zip(widths).flat_map(move |(x, w)| x[r * w..(r + 1) * w].to_vec());
    (0..rows).flat_map(row).collect()
}

/// Odd sizes, one pixel, one channel, parts that split a group, more pixels than a block, and more than a task.
fn shapes() -> Vec<(NormShape, Vec<usize>)> {
    let shape = |samples, places, channels, groups| NormShape { samples, places, channels, groups };
    vec![
        (shape(2, 5, 1, 1), vec![1]),
        (shape(1, 7, 6, 3), vec![5, 1]),
        (shape(3, 1, 19, 1), vec![11, 8]),
        (shape(2, 9, 19, 19), vec![19]),
        (shape(2, 4, 40, 4), vec![13, 24, 3]),
        (shape(1, 150, 12, 2), vec![7, 5]),
        (shape(2, 65, 72, 8), vec![64, 8]),
        (shape(2, 1200, 36, 4), vec![16, 20]),
    ]
}

fn model(shape: NormShape, silu: bool) -> Model {
    let (channels, all) = (shape.channels, shape.samples * shape.channels);
    Model {
        shape,
        gamma: wide(&uniform(channels, 1.0, 0.5, 2)),
        beta: wide(&uniform(channels, 0.0, 0.5, 3)),
        scale: wide(&uniform(all, 0.0, 0.5, 4)),
        shift: wide(&uniform(all, 0.0, 0.5, 5)),
        silu,
    }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

#[test]
fn group_norm_and_gradients() {
    for isa in Isa::available() {
        for (shape, widths) in shapes() {
            for (silu, adaptive) in [(false, false), (true, false), (true, true), (false, true)] {
                let what = format!("{shape:?}, parts {widths:?}, silu {silu}, scaled {adaptive}, on {}", isa.name());
                let mut model = model(shape, silu);
                if !adaptive {
                    model.scale.fill(0.0);
                    model.shift.fill(0.0);
                }
                let n = shape.samples * shape.places * shape.channels;
                let (x, dy) = (uniform(n, 0.5, 2.0, 6), uniform(n, 0.0, 1.0, 7));
                let parts = split(&x, shape.channels, &widths);
                let parts: Vec<&[f32]> = parts.iter().map(|x| &x[..]).collect();
                let (gamma, beta) = (narrow(&model.gamma), narrow(&model.beta));
                let (scale, shift) = (narrow(&model.scale), narrow(&model.shift));
                let (gamma, beta) = (Some(&gamma[..]), Some(&beta[..]));
                let (scale, shift) = (adaptive.then_some(&scale[..]), adaptive.then_some(&shift[..]));

                let moments = moments(isa, shape, &parts, EPSILON);
                let (mean, root) = model.moments(&wide(&x));
                close(&moments.mean, &mean, 1e-6, &what);
                close(&moments.scale, &root, 1e-6, &what);
                let coefficients = coefficients(shape, &moments, gamma, beta, scale, shift);
                let mut y = vec![7.0; n];
                normalize(isa, shape, &parts, &coefficients, silu, &mut y);
                // About ten roundings, in f32, of numbers up to the largest.
                close(&y, &model.forward(&wide(&x)), 2e-6, &what);

                let mut dx: Vec<Vec<f32>> = parts.iter().map(|x| vec![7.0; x.len()]).collect();
                let mut to: Vec<&mut [f32]> = dx.iter_mut().map(|x| &mut x[..]).collect();
                let found = normalize_backward(
                    isa,
                    shape,
                    &parts,
                    &moments,
                    &coefficients,
                    gamma,
                    beta,
                    scale,
                    silu,
                    &dy,
                    &mut to,
                );
                let wanted = model.backward(&wide(&x), &wide(&dy));
                let found = [join(&dx, &widths), found.gamma, found.beta, found.scale, found.shift];
                for (name, (found, wanted)) in ["x", "γ", "β", "scale", "shift"].iter().zip(found.iter().zip(&wanted))
                {
                    // Sums of up to 10⁵ numbers with cancellation, in blocks of 64 in f32 and then in f64.
                    close(found, wanted, 1e-5, &format!("gradient of {name}, {what}"));
                }
            }
        }
    }
}

/// The reference for the kernels has the derivatives of the forward pass.
#[test]
fn the_reference_has_the_gradients() {
    let model = model(NormShape { samples: 2, places: 3, channels: 6, groups: 2 }, true);
    let n = 36;
    let (x, dy) = (wide(&uniform(n, 0.5, 2.0, 8)), wide(&uniform(n, 0.0, 1.0, 9)));
    let loss = |model: &Model, x: &[f64]| model.forward(x).iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>();
    let gradients = model.backward(&x, &dy);
    let with = |kind: usize, i: usize, by: f64| {
        let (mut x, mut moved) = (x.clone(), self::model(model.shape, true));
        [&mut x, &mut moved.gamma, &mut moved.beta, &mut moved.scale, &mut moved.shift][kind][i] += by;
        loss(&moved, &x)
    };
    for (kind, gradient) in gradients.iter().enumerate() {
        for (i, gradient) in gradient.iter().enumerate() {
            let slope = (with(kind, i, 1e-5) - with(kind, i, -1e-5)) / 2e-5;
            assert!((slope - gradient).abs() < 1e-8, "{kind} at {i}: {gradient} for {slope}");
        }
    }
}

#[test]
fn group_norm_tangents() {
    for isa in Isa::available() {
        for (shape, widths) in shapes() {
            for (silu, adaptive) in [(false, false), (true, false), (true, true), (false, true)] {
                let what = format!("{shape:?}, parts {widths:?}, silu {silu}, scaled {adaptive}, on {}", isa.name());
                let mut model = model(shape, silu);
                let n = shape.samples * shape.places * shape.channels;
                let all = shape.samples * shape.channels;
                let (x, dx) = (uniform(n, 0.5, 2.0, 6), uniform(n, 0.2, 1.0, 17));
                let (mut dscale, mut dshift) = (uniform(all, 0.0, 1.0, 18), uniform(all, 0.0, 1.0, 19));
                if !adaptive {
                    for values in [&mut model.scale, &mut model.shift] {
                        values.fill(0.0);
                    }
                    for values in [&mut dscale, &mut dshift] {
                        values.fill(0.0);
                    }
                }
                let [parts, tangents] = [&x, &dx].map(|x| split(x, shape.channels, &widths));
                let [parts, tangents] = [&parts, &tangents].map(|x| x.iter().map(|x| &x[..]).collect::<Vec<_>>());
                let [gamma, beta, scale, shift] =
                    [&model.gamma, &model.beta, &model.scale, &model.shift].map(|x| narrow(x));
                let (gamma, beta) = (Some(&gamma[..]), Some(&beta[..]));
                let some = |x: &'_ [f32]| adaptive.then(|| x.to_vec());
                let [scale, shift, along_scale, along_shift] = [&scale, &shift, &dscale, &dshift].map(|x| some(x));
                let [scale, shift] = [scale.as_deref(), shift.as_deref()];
                let (along_scale, along_shift) = (along_scale.as_deref(), along_shift.as_deref());

                let moments = moments(isa, shape, &parts, EPSILON);
                let own = coefficients(shape, &moments, gamma, beta, scale, shift);
                let along = tangent_coefficients(
                    isa,
                    shape,
                    &parts,
                    &tangents,
                    &moments,
                    gamma,
                    beta,
                    scale,
                    along_scale,
                    along_shift,
                );
                let mut dy = vec![7.0; n];
                normalize_tangent(isa, shape, &parts, &tangents, &own, &along, silu, &mut dy);
                let wanted = model.tangent(&wide(&x), &wide(&dx), &wide(&dscale), &wide(&dshift));
                close(&dy, &wanted, 5e-6, &what);
            }
        }
    }
}

/// The reference for the tangents has the derivatives of the forward pass.
#[test]
fn the_reference_has_the_tangents() {
    let shape = NormShape { samples: 2, places: 3, channels: 6, groups: 2 };
    let (x, dx) = (wide(&uniform(36, 0.5, 2.0, 8)), wide(&uniform(36, 0.0, 1.0, 20)));
    let (dscale, dshift) = (wide(&uniform(12, 0.0, 1.0, 21)), wide(&uniform(12, 0.0, 1.0, 22)));
    let along = |x: &[f64], by: &[f64], h: f64| x.iter().zip(by).map(|(x, by)| x + h * by).collect::<Vec<_>>();
    let at = |h: f64| {
        let own = model(shape, true);
        let (scale, shift) = (along(&own.scale, &dscale, h), along(&own.shift, &dshift, h));
        Model { scale, shift, ..own }.forward(&along(&x, &dx, h))
    };
    let wanted = at(1e-5).iter().zip(at(-1e-5)).map(|(a, b)| (a - b) / 2e-5).collect::<Vec<_>>();
    let found = model(shape, true).tangent(&x, &dx, &dscale, &dshift);
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!((found - wanted).abs() < 1e-8, "{found} for {wanted}");
    }
}

#[test]
fn missing_parameters_are_one_or_zero() {
    let shape = NormShape { samples: 2, places: 9, channels: 10, groups: 5 };
    let (x, dy) = (uniform(180, 0.0, 1.0, 10), uniform(180, 0.0, 1.0, 11));
    let (ones, zeros) = (vec![1.0; 10], vec![0.0; 20]);
    let run = |gamma: Option<&[f32]>, beta: Option<&[f32]>, scale: Option<&[f32]>, shift: Option<&[f32]>| {
        let isa = Isa::best();
        let moments = moments(isa, shape, &[&x], EPSILON);
        let coefficients = coefficients(shape, &moments, gamma, beta, scale, shift);
        let (mut y, mut dx) = (vec![0.0; 180], vec![0.0; 180]);
        normalize(isa, shape, &[&x], &coefficients, true, &mut y);
        let to = &mut [&mut dx[..]];
        let d = normalize_backward(isa, shape, &[&x], &moments, &coefficients, gamma, beta, scale, true, &dy, to);
        (y, dx, d.gamma, d.beta, d.scale, d.shift)
    };
    assert!(run(None, None, None, None) == run(Some(&ones), Some(&zeros[..10]), Some(&zeros), Some(&zeros)));
}

#[test]
fn means_far_from_zero() {
    for isa in Isa::available() {
        for (places, channels, groups) in [(400, 20, 4), (1, 256, 1), (1, 500, 20)] {
            let shape = NormShape { samples: 2, places, channels, groups };
            let n = 2 * places * channels;
            let x = uniform(n, 100.0, 3f32.sqrt(), 12);
            let model = Model {
                shape,
                gamma: vec![1.0; channels],
                beta: vec![0.0; channels],
                scale: vec![0.0; 2 * channels],
                shift: vec![0.0; 2 * channels],
                silu: false,
            };
            let (mean, scale) = model.moments(&wide(&x));
            let what = format!("{shape:?} on {}", isa.name());
            let moments = moments(isa, shape, &[&x], EPSILON);
            close(&moments.mean, &mean, 1e-7, &what);
            close(&moments.scale, &scale, 1e-6, &what);
            let mut y = vec![0.0; n];
            normalize(isa, shape, &[&x], &coefficients(shape, &moments, None, None, None, None), false, &mut y);
            // The mean, in f32, is off by up to 4·10⁻⁶ standard deviations, and so is a x + b.
            close(&y, &model.forward(&wide(&x)), 1e-5, &what);
            if places == 1 && groups == 1 {
                let moments = layer_norm(isa, &x, channels, None, None, EPSILON, false, &mut y);
                close(&moments.mean, &mean, 1e-7, &what);
                close(&moments.scale, &scale, 1e-6, &what);
                close(&y, &model.forward(&wide(&x)), 1e-5, &what);
            }
        }
    }
}

#[test]
fn layer_norm_and_gradients() {
    for isa in Isa::available() {
        for (rows, columns) in [(1, 1), (5, 3), (1, 16), (7, 19), (130, 33), (300, 128), (3, 1000)] {
            for (silu, plain) in [(false, false), (true, false), (true, true)] {
                let what = format!("{rows} × {columns}, silu {silu}, plain {plain}, on {}", isa.name());
                let mut model = model(NormShape { samples: rows, places: 1, channels: columns, groups: 1 }, silu);
                model.scale.fill(0.0);
                model.shift.fill(0.0);
                if plain {
                    model.gamma.fill(1.0);
                    model.beta.fill(0.0);
                }
                let n = rows * columns;
                let (x, dy) = (uniform(n, 0.5, 2.0, 13), uniform(n, 0.0, 1.0, 14));
                let (gamma, beta) = (narrow(&model.gamma), narrow(&model.beta));
                let (gamma, beta) = ((!plain).then_some(&gamma[..]), (!plain).then_some(&beta[..]));
                let (mut y, mut dx) = (vec![7.0; n], vec![7.0; n]);
                let moments = layer_norm(isa, &x, columns, gamma, beta, EPSILON, silu, &mut y);
                close(&y, &model.forward(&wide(&x)), 2e-6, &what);
                let (dgamma, dbeta) = layer_norm_backward(isa, &x, columns, &moments, gamma, beta, silu, &dy, &mut dx);
                let [wanted, wanted_gamma, wanted_beta, ..] = model.backward(&wide(&x), &wide(&dy));
                // As for group normalization.
                close(&dx, &wanted, 1e-5, &what);
                close(&dgamma, &wanted_gamma, 1e-5, &what);
                close(&dbeta, &wanted_beta, 1e-5, &what);
            }
        }
    }
}

#[test]
fn the_same_on_any_number_of_threads() {
    let shape = NormShape { samples: 2, places: 700, channels: 48, groups: 6 };
    let n = 2 * 700 * 48;
    let (x, dy) = (uniform(n, 0.0, 1.0, 15), uniform(n, 0.0, 1.0, 16));
    let on = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let isa = Isa::best();
            let moments = moments(isa, shape, &[&x], EPSILON);
            let coefficients = coefficients(shape, &moments, None, None, None, None);
            let (mut y, mut dx) = (vec![0.0; n], vec![0.0; n]);
            normalize(isa, shape, &[&x], &coefficients, true, &mut y);
            let to = &mut [&mut dx[..]];
            let d = normalize_backward(isa, shape, &[&x], &moments, &coefficients, None, None, None, true, &dy, to);
            let (parts, tangents) = (&[&x[..]], &[&dy[..]]);
            let along = tangent_coefficients(isa, shape, parts, tangents, &moments, None, None, None, None, None);
            let mut tangent = vec![0.0; n];
            normalize_tangent(isa, shape, parts, tangents, &coefficients, &along, true, &mut tangent);
            let groups = (moments.mean, moments.scale, y, dx, d.gamma, d.beta, d.scale, d.shift, tangent);
            let (mut y, mut dx) = (vec![0.0; n], vec![0.0; n]);
            let moments = layer_norm(isa, &x, 48, None, None, EPSILON, true, &mut y);
            let d = layer_norm_backward(isa, &x, 48, &moments, None, None, true, &dy, &mut dx);
            (groups, moments.mean, moments.scale, y, dx, d)
        })
    };
    assert!(on(1) == on(3));
}
