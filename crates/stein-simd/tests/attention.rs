//! Attention, its gradients and its tangent against f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stein_simd::{
    Isa,
    attention::{AttentionShape, attention, attention_backward, attention_tangent},
};

fn numbers(n: usize, range: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-range..range)).collect()
}

/// q, k, v and the gradient of the output.
struct Case {
    shape: AttentionShape,
    scale: f32,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Case {
    fn new([samples, queries, keys, heads, head]: [usize; 5], range: f32, rng: &mut ChaCha8Rng) -> Self {
        let shape = AttentionShape { samples, queries, keys, heads, head };
        let (of_queries, of_keys) = (samples * queries * heads * head, samples * keys * heads * head);
        Self {
            shape,
            scale: 1.0 / (head as f32).sqrt(),
            q: numbers(of_queries, range, rng),
            k: numbers(of_keys, range, rng),
            v: numbers(of_keys, 1.0, rng),
            dout: numbers(of_queries, 1.0, rng),
        }
    }

    /// out, the logarithms of sums, dq, dk, dv.
    fn run(&self, isa: Isa) -> [Vec<f32>; 5] {
        let Self { shape, scale, q, k, v, dout } = self;
        // What the outputs held before must not matter.
        let [mut out, mut dq] = [(); 2].map(|()| vec![f32::NAN; q.len()]);
        let [mut dk, mut dv] = [(); 2].map(|()| vec![f32::NAN; k.len()]);
        let sums = attention(isa, *shape, *scale, q, k, v, &mut out);
        attention_backward(isa, *shape, *scale, q, k, v, &out, &sums, dout, &mut dq, &mut dk, &mut dv);
        [out, sums, dq, dk, dv]
    }

    /// The same in f64.
    fn reference(&self) -> [Vec<f64>; 5] {
        let Self { shape, scale, q, k, v, dout } = self;
        let AttentionShape { samples, queries, keys, heads, head } = *shape;
        let width = heads * head;
        let mut sums = vec![0.0; samples * heads * queries];
        let [mut out, mut dq] = [(); 2].map(|()| vec![0.0; q.len()]);
        let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; k.len()]);
        let scale = f64::from(*scale);
        for pair in 0..samples * heads {
            let (n, channel) = (pair / heads, pair % heads * head);
            for i in 0..queries {
                let query = (n * queries + i) * width + channel;
                let key = |j: usize| (n * keys + j) * width + channel;
                let dot = |a: &[f32], b: &[f32], j: usize| -> f64 {
                    (0..head).map(|c| f64::from(a[query + c]) * f64::from(b[key(j) + c])).sum()
                };
                let scores: Vec<f64> = (0..keys).map(|j| scale * dot(q, k, j)).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let log_sum = largest + scores.iter().map(|s| (s - largest).exp()).sum::<f64>().ln();
                sums[pair * queries + i] = log_sum;
                let parts: Vec<f64> = scores.iter().map(|s| (s - log_sum).exp()).collect();
                let slopes: Vec<f64> = (0..keys).map(|j| dot(dout, v, j)).collect();
                let mean: f64 = parts.iter().zip(&slopes).map(|(p, s)| p * s).sum();
                for j in 0..keys {
                    let slope = scale * parts[j] * (slopes[j] - mean);
                    for c in 0..head {
                        let (a, b) = (query + c, key(j) + c);
                        out[a] += parts[j] * f64::from(v[b]);
                        dv[b] += parts[j] * f64::from(dout[a]);
                        dq[a] += slope * f64::from(k[b]);
                        dk[b] += slope * f64::from(q[a]);
                    }
                }
            }
        }
        [out, sums, dq, dk, dv]
    }

    /// Every number within its bound times the largest of its kind.
    fn check(&self, bounds: [f64; 5]) {
        let wanted = self.reference();
        for isa in Isa::available() {
            let names = ["output", "sums", "dq", "dk", "dv"];
            for (((found, wanted), bound), name) in self.run(isa).iter().zip(&wanted).zip(bounds).zip(names) {
                // A single key leaves gradients of exactly zero, and then rounding errors are relative to 1.
                let largest = wanted.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                let largest = if largest < 1e-9 { 1.0 } else { largest };
                assert!(found.iter().all(|x| x.is_finite()), "{name} of {:?} on {}", self.shape, isa.name());
                let errors = found.iter().zip(wanted).map(|(found, wanted)| (f64::from(*found) - wanted).abs());
                let error = errors.fold(0.0, f64::max);
                assert!(
                    error <= bound * largest,
                    "{name} of {:?} on {}: {:.1e}",
                    self.shape,
                    isa.name(),
                    error / largest
                );
            }
        }
    }
}

/// The tangent along dq, dk and dv, in f32 and in f64.
fn tangents(case: &Case, isa: Isa, [dq, dk, dv]: &[Vec<f32>; 3]) -> (Vec<f32>, Vec<f64>) {
    let Case { shape, scale, q, k, v, .. } = case;
    let AttentionShape { samples, queries, keys, heads, head } = *shape;
    let mut out = vec![f32::NAN; q.len()];
    let sums = attention(isa, *shape, *scale, q, k, v, &mut out);
    let mut found = vec![f32::NAN; q.len()];
    attention_tangent(isa, *shape, *scale, q, k, v, &out, &sums, dq, dk, dv, &mut found);
    let (width, scale) = (heads * head, f64::from(*scale));
    let mut wanted = vec![0.0; q.len()];
    for (pair, i) in (0..samples * heads).flat_map(|pair| (0..queries).map(move |i| (pair, i))) {
        let (n, channel) = (pair / heads, pair % heads * head);
        let query = (n * queries + i) * width + channel;
        let key = |j: usize| (n * keys + j) * width + channel;
        let dot = |a: &[f32], b: &[f32], j: usize| -> f64 {
            (0..head).map(|c| f64::from(a[query + c]) * f64::from(b[key(j) + c])).sum()
        };
        let scores: Vec<f64> = (0..keys).map(|j| scale * dot(q, k, j)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let weights: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let changes: Vec<f64> = (0..keys).map(|j| scale * (dot(dq, k, j) + dot(q, dk, j))).collect();
        let mean: f64 = weights.iter().zip(&changes).map(|(w, d)| w * d).sum();
        for (j, (weight, change)) in weights.iter().zip(&changes).enumerate() {
            for c in 0..head {
                let [v, dv] = [v, dv].map(|x| f64::from(x[key(j) + c]));
                wanted[query + c] += weight * (dv + (change - mean) * v);
            }
        }
    }
    (found, wanted)
}

#[test]
fn tangents_of_odd_shapes() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for sizes in [
        [1, 1, 1, 1, 1],
        [2, 1, 5, 3, 3],
        [2, 3, 300, 1, 40],
        [1, 65, 64, 1, 16],
        [1, 64, 129, 2, 8],
        [2, 100, 77, 2, 24],
        [1, 33, 70, 1, 65],
        [1, 16, 40, 1, 256],
    ] {
        let case = Case::new(sizes, 1.0, &mut rng);
        let along = [&case.q, &case.k, &case.v].map(|x| numbers(x.len(), 1.0, &mut rng));
        for isa in Isa::available() {
            let (found, wanted) = tangents(&case, isa, &along);
            let largest = wanted.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            assert!(found.iter().all(|x| x.is_finite()), "{sizes:?} on {}", isa.name());
            let error = found.iter().zip(&wanted).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
            assert!(error <= 2e-5 * largest, "{sizes:?} on {}: {:.1e}", isa.name(), error / largest);
        }
    }
}

/// ⟨dout, J w⟩ = ⟨Jᵀ dout, w⟩
#[test]
fn the_tangent_is_the_adjoint_of_the_gradient() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let case = Case::new([2, 100, 77, 2, 24], 1.0, &mut rng);
    let along = [&case.q, &case.k, &case.v].map(|x| numbers(x.len(), 1.0, &mut rng));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let isa = Isa::best();
    let [_, _, dq, dk, dv] = case.run(isa);
    let forwards = dot(&case.dout, &tangents(&case, isa, &along).0);
    let backwards = dot(&dq, &along[0]) + dot(&dk, &along[1]) + dot(&dv, &along[2]);
    assert!((forwards - backwards).abs() <= 1e-4 * forwards.abs().max(1.0), "{forwards} and {backwards}");
}

const BOUNDS: [f64; 5] = [1e-5, 1e-5, 2e-5, 2e-5, 2e-5];

#[test]
fn odd_shapes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for sizes in [
        [1, 1, 1, 1, 1],
        [2, 1, 5, 3, 3],
        [1, 7, 1, 2, 40],
        [2, 3, 300, 1, 40],
        [1, 300, 3, 2, 1],
        [1, 65, 64, 1, 16],
        [1, 64, 129, 2, 8],
        [2, 100, 77, 2, 24],
        [1, 33, 70, 1, 65],
        [1, 16, 40, 1, 256],
    ] {
        Case::new(sizes, 1.0, &mut rng).check(BOUNDS);
    }
}

#[test]
fn random_shapes() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..20 {
        let sizes = [2, 130, 150, 3, 40].map(|most| rng.random_range(1..=most));
        Case::new(sizes, 1.5, &mut rng).check(BOUNDS);
    }
}

/// A score near 80 has a rounding error of 80 · 6e-8, which is a relative one of its exponential.
#[test]
fn large_scores() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for sizes in [[1, 20, 150, 2, 16], [2, 70, 30, 1, 64]] {
        let mut case = Case::new(sizes, 1.0, &mut rng);
        let spread = 80.0 / (case.shape.head as f32).sqrt();
        for scale in [spread, -spread] {
            case.scale = scale;
            assert!(case.reference()[1].iter().any(|sum| *sum > 80.0));
            case.check(BOUNDS.map(|bound| 10.0 * bound));
        }
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for sizes in [[1, 200, 300, 1, 40], [3, 130, 77, 4, 8]] {
        let case = Case::new(sizes, 1.0, &mut rng);
        for isa in Isa::available() {
            let [one, three] = [1, 3].map(|threads| {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| case.run(isa))
            });
            assert!(one == three, "{sizes:?} on {}", isa.name());
        }
    }
}

#[test]
#[should_panic(expected = "the keys and values of attention")]
fn wrong_sizes() {
    let shape = AttentionShape { samples: 1, queries: 2, keys: 3, heads: 1, head: 4 };
    attention(Isa::best(), shape, 1.0, &[0.0; 8], &[0.0; 12], &[0.0; 8], &mut [0.0; 8]);
}
