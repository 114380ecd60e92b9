//! The optimizer's passes against f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stein_simd::Isa;
use stein_simd::optimizer::{Slices, Update, adam, sum_of_squares};

fn uniform(n: usize, range: f32, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-range..range)).collect()
}

#[test]
fn squares_add_up() {
    for isa in Isa::available() {
        for n in [0, 1, 7, 31, 512, 513, 16_400, 100_001] {
            let x = uniform(n, 3.0, n as u64);
            let wanted: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let found = sum_of_squares(isa, &x);
            // A sum of positive numbers, few of which are added up in f32.
            assert!((found - wanted).abs() <= 1e-6 * wanted, "{n} on {}: {found} for {wanted}", isa.name());
        }
    }
}

/// AdamW, Adam without decay, and RAdam's step before its rectification is defined.
const UPDATES: [Update; 3] = [
    Update { gradient: 0.3, keep: 0.999, beta1: 0.9, beta2: 0.999, first: 0.02, second: 3.0, epsilon: 1e-8 },
    Update { gradient: 1.0, keep: 1.0, beta1: 0.5, beta2: 0.99, first: 0.001, second: 1.5, epsilon: 1e-3 },
    Update { gradient: 2.0, keep: 1.0, beta1: 0.9, beta2: 0.999, first: 0.01, second: 0.0, epsilon: 1.0 },
];

#[test]
fn steps_of_adam() {
    for isa in Isa::available() {
        for (n, averaged) in [(0, true), (1, false), (9, true), (33, true), (33, false), (40_003, true)] {
            for update in UPDATES {
                let start = [uniform(n, 1.0, 1), uniform(n, 0.1, 2), uniform(n, 1.0, 3), uniform(n, 1.0, 4)];
                let [mut w, mut m, g, mut average] = start.clone();
                let mut v: Vec<f32> = uniform(n, 1.0, 5).iter().map(|x| x * x).collect();
                let first_v = v.clone();
                let part = 0.01;
                let slices = Slices {
                    w: &mut w,
                    g: &g,
                    m: &mut m,
                    v: &mut v,
                    average: averaged.then_some((&mut average[..], part)),
                };
                adam(isa, &update, slices);
                let wide = |x: f32| f64::from(x);
                for i in 0..n {
                    let gradient = update.gradient * wide(g[i]);
                    let beta1 = update.beta1;
                    let beta2 = update.beta2;
                    let mean = beta1 * wide(start[1][i]) + (1.0 - beta1) * gradient;
                    let square = beta2 * wide(first_v[i]) + (1.0 - beta2) * gradient * gradient;
                    let below = update.second * square.sqrt() + update.epsilon;
                    let weight = update.keep * wide(start[0][i]) - update.first * mean / below;
                    let old = wide(start[3][i]);
                    let followed = if averaged { old + wide(part) * (weight - old) } else { old };
                    let pairs = [(m[i], mean), (v[i], square), (w[i], weight), (average[i], followed)];
                    for (found, wanted) in pairs {
                        // A few roundings of numbers near 1.
                        let close = (wide(found) - wanted).abs() <= 5e-7 * wanted.abs().max(1.0);
                        assert!(close, "{update:?} at {i} of {n} on {}: {found} for {wanted}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_on_any_number_of_threads() {
    let n = 150_001;
    let g = uniform(n, 1.0, 6);
    let on = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let (mut w, mut m, mut v, mut average) = (g.clone(), vec![0.0; n], vec![0.0; n], vec![0.0; n]);
            for update in UPDATES {
                let average = Some((&mut average[..], 0.1));
                adam(Isa::best(), &update, Slices { w: &mut w, g: &g, m: &mut m, v: &mut v, average });
            }
            (sum_of_squares(Isa::best(), &w).to_bits(), w, m, v, average)
        })
    };
    assert!(on(1) == on(3));
}
