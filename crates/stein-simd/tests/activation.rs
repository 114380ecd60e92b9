//! Activations, sine and cosine against f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stein_simd::Isa;
use stein_simd::activation::{Activation, activate, activate_backward, sin_cos};

fn uniform(n: usize, range: f32, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-range..range)).collect()
}

/// Numbers of all magnitudes.
fn inputs() -> Vec<f32> {
    let mut x: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.005).collect();
    x.extend([
        1e-30, -1e-30, 1e-6, -1e-6, 50.0, -50.0, 87.5, -87.5, 88.7, -88.7, 200.0, -200.0, 1e6, -1e6, 1e30, -1e30,
    ]);
    x
}

/// Φ, by its series around 0 (whose terms all have the same sign), and φ.
fn normal(x: f64) -> (f64, f64) {
    let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    if x.abs() > 15.0 {
        return (if x > 0.0 { 1.0 } else { 0.0 }, density);
    }
    let (mut term, mut sum) = (x, 0.0);
    for k in 0..400 {
        sum += term;
        term *= x * x / (2 * k + 3) as f64;
    }
    (0.5 + density * sum, density)
}

/// f and f′.
fn reference(kind: Activation, x: f64) -> (f64, f64) {
    let sigmoid = |u: f64| 1.0 / (1.0 + (-u).exp());
    match kind {
        Activation::Silu => (x * sigmoid(x), sigmoid(x) + x * sigmoid(x) * sigmoid(-x)),
        Activation::Elu if x > 0.0 => (x, 1.0),
        Activation::Elu => (x.exp_m1(), x.exp()),
        Activation::Gelu => {
            let (below, density) = normal(x);
            (x * below, below + x * density)
        }
        Activation::Relu if x <= 0.0 => (0.0, 0.0),
        Activation::LeakyRelu if x <= 0.0 => (0.2 * x, 0.2),
        Activation::Relu | Activation::LeakyRelu => (x, 1.0),
        Activation::GeluTanh if x.abs() > 100.0 => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::GeluTanh => {
            let root = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let u = root * (x + 0.044715 * x * x * x);
            let slope = root * (1.0 + 3.0 * 0.044715 * x * x);
            (x * sigmoid(u), sigmoid(u) + x * slope * sigmoid(u) * sigmoid(-u))
        }
    }
}

/// An absolute or relative error of at most 10⁻⁶, a few times the resolution of f32.
fn close(found: f32, wanted: f64, what: &str) {
    assert!((f64::from(found) - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "{what}: {found} for {wanted}");
}

#[test]
fn values_and_slopes() {
    let x = inputs();
    let dy = uniform(x.len(), 1.0, 1);
    for isa in Isa::available() {
        for kind in Activation::ALL {
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            activate(isa, kind, &x, &mut y);
            activate_backward(isa, kind, &x, &dy, &mut dx);
            for i in 0..x.len() {
                let (value, slope) = reference(kind, f64::from(x[i]));
                let what = format!("{kind:?} of {} on {}", x[i], isa.name());
                close(y[i], value, &what);
                close(dx[i], slope * f64::from(dy[i]), &what);
            }
        }
    }
}

/// Where f itself is small, the relative error stays small.
#[test]
fn relative_errors() {
    for isa in Isa::available() {
        for kind in Activation::ALL {
            let x: Vec<f32> = inputs().into_iter().filter(|x| (-4.0..20.0).contains(x)).collect();
            let mut y = vec![0.0; x.len()];
            activate(isa, kind, &x, &mut y);
            for (x, y) in x.iter().zip(&y) {
                let wanted = reference(kind, f64::from(*x)).0;
                // The argument of the sigmoid is near −9 there, and its rounding alone changes the result by 10⁻⁶.
                let bound = if kind == Activation::GeluTanh { 3e-6 } else { 1e-6 };
                assert!((f64::from(*y) - wanted).abs() <= bound * wanted.abs(), "{kind:?} of {x}: {y} for {wanted}");
            }
        }
    }
}

#[test]
fn nan_stays_nan() {
    for isa in Isa::available() {
        for kind in Activation::ALL {
            let mut y = [0.0; 9];
            activate(isa, kind, &[f32::NAN; 9], &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{kind:?} on {}", isa.name());
        }
    }
}

#[test]
fn any_length() {
    let x = uniform(67, 4.0, 2);
    for isa in Isa::available() {
        let mut whole = vec![0.0; x.len()];
        activate(isa, Activation::Silu, &x, &mut whole);
        for n in 0..x.len() {
            let mut y = vec![7.0; n];
            activate(isa, Activation::Silu, &x[..n], &mut y);
            assert_eq!(y, whole[..n], "{n} numbers on {}", isa.name());
        }
    }
}

#[test]
fn sine_and_cosine() {
    let mut x = vec![0.0, 1e-20, std::f32::consts::PI, std::f32::consts::FRAC_PI_2, -3.0 * std::f32::consts::FRAC_PI_2];
    x.extend(uniform(2000, 7.0, 5));
    x.extend(uniform(20_001, 1e4, 6));
    for isa in Isa::available() {
        let (mut sin, mut cos) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        sin_cos(isa, &x, &mut sin, &mut cos);
        for i in 0..x.len() {
            let (wanted_sin, wanted_cos) = f64::from(x[i]).sin_cos();
            // Half a unit in the last place of numbers near 1 is 3·10⁻⁸.
            assert!((f64::from(sin[i]) - wanted_sin).abs() <= 2e-7, "sin {} = {} for {wanted_sin}", x[i], sin[i]);
            assert!((f64::from(cos[i]) - wanted_cos).abs() <= 2e-7, "cos {} = {} for {wanted_cos}", x[i], cos[i]);
        }
    }
}

#[test]
fn the_same_on_any_number_of_threads() {
    let n = 100_003;
    let (x, dy) = (uniform(n, 6.0, 7), uniform(n, 1.0, 8));
    let on = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut results = Vec::new();
            for kind in Activation::ALL {
                let (mut y, mut dx) = (vec![0.0; n], vec![0.0; n]);
                activate(Isa::best(), kind, &x, &mut y);
                activate_backward(Isa::best(), kind, &x, &dy, &mut dx);
                results.extend([y, dx]);
            }
            let (mut y, mut dx) = (vec![0.0; n], vec![0.0; n]);
            sin_cos(Isa::best(), &x, &mut y, &mut dx);
            results.extend([y, dx]);
            results
        })
    };
    assert!(on(1) == on(3));
}
