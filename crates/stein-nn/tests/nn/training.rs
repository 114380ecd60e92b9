//! The optimizer, the average and the learning rate against their formulas.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor},
};
use stein::{Condition, Kind};
use stein_nn::{
    Accumulated, AdamW, AdamWConfig, AnyNetwork, Decay, Ema, EmaConfig, OptimizerKind, RateConfig, Tensors, state,
};

use crate::{matrix, output, shaken, small_mlp, uniform, vector};

/// Two parameters and nothing else.
#[derive(Module, Debug)]
struct Pair {
    a: Param<Tensor<2>>,
    b: Param<Tensor<1>>,
}

impl Pair {
    fn new(kind: DType) -> Self {
        let device = Device::flex().autodiff();
        let [a, b] = [matrix(2, 3, 1, kind, &device), matrix(1, 2, 2, kind, &device)];
        Self { a: Param::from_tensor(a), b: Param::from_tensor(b.reshape([2])) }
    }

    fn values(&self) -> Vec<f64> {
        state::tensors(self).into_values().flat_map(|data| data.iter::<f64>().collect::<Vec<_>>()).collect()
    }

    /// The gradients of Σ targets · w³, which are 3 targets · w².
    fn gradients(&self, targets: &[f64]) -> Accumulated {
        let mut gradients = Accumulated::new();
        self.add(targets, &mut gradients);
        gradients
    }

    fn add(&self, targets: &[f64], gradients: &mut Accumulated) {
        let kind = self.b.dtype();
        let target = Tensor::<1>::from_data(targets, (&Device::flex(), kind));
        let cube = |w: Tensor<1>, target: Tensor<1>| (w.clone() * w.clone() * w * target).sum();
        let loss = cube(self.a.val().reshape([6]), target.clone().narrow(0, 0, 6))
            + cube(self.b.val(), target.narrow(0, 6, 2));
        gradients.add(self, loss.backward());
    }
}

const CONFIG: AdamWConfig = AdamWConfig {
    kind: OptimizerKind::Adamw,
    beta1: 0.8,
    beta2: 0.95,
    epsilon: 1e-4,
    weight_decay: 0.3,
    clip: Some(0.5),
};

/// The same with the rectification of early steps.
const RECTIFIED: AdamWConfig = AdamWConfig { kind: OptimizerKind::Radam, ..CONFIG };

/// The published algorithm on one list of numbers: new weights, and the norm of the gradient.
fn reference(config: &AdamWConfig, [w, m, v]: [&mut [f64]; 3], t: i32, targets: &[f64], rate: f64) -> f64 {
    let AdamWConfig { kind, beta1, beta2, epsilon, weight_decay, clip } = *config;
    let g: Vec<f64> = w.iter().zip(targets).map(|(w, target)| 3.0 * target * w * w).collect();
    let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
    let factor = (clip.unwrap() / norm).min(1.0);
    for i in 0..w.len() {
        let g = g[i] * factor;
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        let (mean, square) = (m[i] / (1.0 - beta1.powi(t)), v[i] / (1.0 - beta2.powi(t)));
        let step = match kind {
            OptimizerKind::Adamw => mean / (square.sqrt() + epsilon),
            // ε is added before the bias is corrected.
            OptimizerKind::Radam => rectification(beta2, t)
                .map_or(mean, |factor| factor * mean * (1.0 - beta2.powi(t)).sqrt() / (v[i].sqrt() + epsilon)),
        };
        w[i] -= rate * (step + weight_decay * w[i]);
    }
    norm
}

/// RAdam's factor (Liu et al., arXiv:1908.03265, algorithm 2), none while the variance of its step is not finite.
fn rectification(beta2: f64, t: i32) -> Option<f64> {
    let all = 2.0 / (1.0 - beta2) - 1.0;
    let decayed = beta2.powi(t);
    let now = all - 2.0 * f64::from(t) * decayed / (1.0 - decayed);
    // Above 5, as in PyTorch, where the publication has 4.
    (now > 5.0).then(|| ((now - 4.0) * (now - 2.0) * all / ((all - 4.0) * (all - 2.0) * now)).sqrt())
}

#[test]
fn adamw_is_the_published_algorithm() {
    follows(&CONFIG, 5);
}

#[test]
fn radam_is_the_published_algorithm() {
    let rectified: Vec<bool> = (1..=12).map(|t| rectification(RECTIFIED.beta2, t).is_some()).collect();
    assert!(!rectified[0] && rectified[11], "both kinds of step take part");
    follows(&RECTIFIED, 12);
    // Betas near 1, whose distance from 1 is lost in f32.
    follows(&AdamWConfig { beta2: 0.9999, ..RECTIFIED }, 8);
    follows(&AdamWConfig { beta1: 0.9, beta2: 0.9999, ..CONFIG }, 8);
}

/// The weights of PyTorch 2.15's `torch.optim.RAdam` in double precision, which were the three of `w` at first, after the steps that
/// are named.
struct Torch {
    config: AdamWConfig,
    steps: [(u64, [f64; 3]); 4],
}

/// Three weights, trained by torch on Σ c w³/3 with c = 1, 0.3, −0.2.
#[derive(Module, Debug)]
struct Three {
    w: Param<Tensor<1>>,
}

/// Of the first six steps with β₂ = 0.999, five are not rectified: ρ₅ = 4.99 and ρ₆ = 5.99.
#[test]
fn radam_is_pytorchs() {
    let cases = [
        Torch {
            config: AdamWConfig { kind: OptimizerKind::Radam, weight_decay: 0.1, ..AdamWConfig::default() },
            steps: [
                (1, [0.485, -1.2671875, 2.03]),
                (5, [0.42957773712322816, -1.3386667854626784, 2.155197618591898]),
                (6, [0.4261691147456313, -1.3332737935366028, 2.1457226729899475]),
                (12, [0.40048127517087284, -1.3075266442356905, 2.0959115643153625]),
            ],
        },
        Torch {
            config: AdamWConfig { kind: OptimizerKind::Radam, beta2: 0.99, epsilon: 1e-3, ..AdamWConfig::default() },
            steps: [
                (1, [0.4875, -1.2734375, 2.04]),
                (5, [0.44073890668508364, -1.3721470392413482, 2.2090512111789766]),
                (6, [0.43679997634977574, -1.3762320618670678, 2.2131514591185226]),
                (12, [0.39535809576745745, -1.420292168780846, 2.25731269028953]),
            ],
        },
    ];
    let device = Device::flex().autodiff();
    let numbers = |values: [f64; 3]| Tensor::<1>::from_data(values, (&device, DType::F64));
    for Torch { config, steps } in cases {
        let mut network = Three { w: Param::from_tensor(numbers([0.5, -1.25, 2.0])) };
        let mut optimizer = AdamW::new(config.clone()).unwrap();
        for t in 1..=12 {
            let w = network.w.val();
            let loss = (w.clone() * w.clone() * w * numbers([1.0 / 3.0, 0.1, -0.2 / 3.0])).sum();
            let mut gradients = Accumulated::new();
            gradients.add(&network, loss.backward());
            network = optimizer.step(network, gradients, 0.05, None).0;
            // A stop in the middle changes nothing.
            if t == 7 {
                optimizer = AdamW::restore(config.clone(), &network, &optimizer.tensors()).unwrap();
            }
            let Some((_, expected)) = steps.iter().find(|(step, _)| *step == t) else { continue };
            let found: Vec<f64> = network.w.val().into_data().iter::<f64>().collect();
            for (ours, theirs) in found.iter().zip(expected) {
                // A few roundings of numbers near 1.
                assert!((ours - theirs).abs() < 1e-13, "step {t}: {ours} for {theirs}");
            }
        }
    }
}

fn follows(config: &AdamWConfig, steps: i32) {
    // A few roundings of numbers near 1.
    for (kind, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-12)] {
        let mut network = Pair::new(kind);
        let mut optimizer = AdamW::new(config.clone()).unwrap();
        let mut w = network.values();
        let (mut m, mut v) = (vec![0.0; 8], vec![0.0; 8]);
        for t in 1..=steps {
            // Some steps have gradients above the clipping norm and some below.
            let targets: Vec<f64> =
                uniform(8, t as u64).iter().map(|x| x * if t % 2 == 0 { 10.0 } else { 0.1 }).collect();
            let rate = 0.1 / f64::from(t);
            let gradients = network.gradients(&targets);
            let norm;
            (network, norm) = optimizer.step(network, gradients, rate, None);
            let expected = reference(config, [&mut w, &mut m, &mut v], t, &targets, rate);
            assert!((norm - expected).abs() < tolerance * (1.0 + expected), "{norm} for {expected}");
            for (ours, theirs) in network.values().iter().zip(&w) {
                assert!((ours - theirs).abs() < tolerance, "step {t}, {kind:?}: {ours} for {theirs}");
            }
            assert!(network.a.val().is_require_grad() && network.b.val().is_require_grad());
        }
        assert_eq!(optimizer.steps(), steps as u64);
    }
}

#[test]
fn micro_batches_are_averaged() {
    let network = Pair::new(DType::F64);
    let [first, second] = [uniform(8, 1), uniform(8, 2)];
    let mean: Vec<f64> = first.iter().zip(&second).map(|(a, b)| (a + b) / 2.0).collect();
    let mut both = Accumulated::new();
    network.add(&first, &mut both);
    network.add(&second, &mut both);
    let step = |gradients| AdamW::new(CONFIG).unwrap().step(network.clone(), gradients, 0.1, None);
    let ((one, norm), (other, expected)) = (step(both), step(network.gradients(&mean)));
    assert!((norm - expected).abs() < 1e-12);
    assert!(one.values().iter().zip(other.values()).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for kind in [DType::F32, DType::F64] {
        let network = Pair::new(kind);
        let before = network.values();
        let mut optimizer = AdamW::new(CONFIG).unwrap();
        let mut targets = uniform(8, 1);
        targets[7] = f64::NAN;
        let gradients = network.gradients(&targets);
        let (network, norm) = optimizer.step(network, gradients, 0.1, None);
        assert!(!norm.is_finite());
        assert_eq!(network.values(), before);
        assert_eq!(optimizer.steps(), 0);
    }
}

#[test]
fn constants_out_of_range_are_refused() {
    let fails = |config, part: &str| {
        let error = AdamW::new(config).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    };
    fails(AdamWConfig { beta1: 1.0, ..AdamWConfig::default() }, "beta1");
    fails(AdamWConfig { beta2: -0.1, ..AdamWConfig::default() }, "beta2");
    fails(AdamWConfig { epsilon: 0.0, ..AdamWConfig::default() }, "epsilon");
    fails(AdamWConfig { weight_decay: -1.0, ..AdamWConfig::default() }, "weight_decay");
    fails(AdamWConfig { clip: Some(0.0), ..AdamWConfig::default() }, "clip");
    assert!(toml::from_str::<AdamWConfig>("beta3 = 0.9").is_err());
    assert_eq!(toml::from_str::<AdamWConfig>("beta1 = 0.9").unwrap().kind, OptimizerKind::Adamw);
    assert_eq!(toml::from_str::<AdamWConfig>("kind = \"radam\"").unwrap().kind, OptimizerKind::Radam);
    for config in [CONFIG, RECTIFIED] {
        assert_eq!(toml::from_str::<AdamWConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
}

/// One training step on fixed targets: the loss before it.
pub(crate) fn train(network: AnyNetwork, optimizer: &mut AdamW, seed: u64) -> (AnyNetwork, f32) {
    let device = Device::flex();
    let (x, noise) = (matrix(16, 5, seed, DType::F32, &device), vector(16, seed, DType::F32, &device));
    let y = output(&network, x.clone(), noise, &Condition::classes([1; 16]));
    let loss = (y - x.sin()).square().mean();
    let mut gradients = Accumulated::new();
    gradients.add(&network, loss.backward());
    (optimizer.step(network, gradients, 3e-3, None).0, loss.into_scalar())
}

#[test]
fn a_restored_run_is_the_same_run_and_learns() {
    let build = || small_mlp().build(&[5], 2, 1, &Device::flex().autodiff()).unwrap();
    let config = AdamWConfig { clip: Some(1.0), ..AdamWConfig::default() };
    let (mut network, mut optimizer) = (build(), AdamW::new(config.clone()).unwrap());
    let mut losses = Vec::new();
    let mut kept = None;
    for step in 0..100 {
        if step == 50 {
            kept = Some((state::tensors(&network), optimizer.tensors()));
        }
        let loss;
        (network, loss) = train(network, &mut optimizer, step);
        losses.push(loss);
    }
    assert!(losses[99] < 0.1 * losses[0], "{} after {}", losses[99], losses[0]);

    let (weights, moments) = kept.unwrap();
    let mut again = state::load(build(), &weights).unwrap();
    let mut optimizer_again = AdamW::restore(config, &again, &moments).unwrap();
    for step in 50..100 {
        let loss;
        (again, loss) = train(again, &mut optimizer_again, step);
        assert_eq!(loss, losses[step as usize]);
    }
    assert_eq!(state::tensors(&again), state::tensors(&network));
    assert_eq!(optimizer_again.tensors(), optimizer.tensors());
}

#[test]
fn an_optimizer_state_that_does_not_fit_is_refused() {
    let network = Pair::new(DType::F32);
    let mut optimizer = AdamW::new(CONFIG).unwrap();
    let gradients = network.gradients(&uniform(8, 1));
    let (network, _) = optimizer.step(network, gradients, 0.1, None);
    let fails = |change: &dyn Fn(&mut Tensors), part: &str| {
        let mut tensors = optimizer.tensors();
        change(&mut tensors);
        let error = AdamW::restore(CONFIG, &network, &tensors).err().unwrap();
        assert!(error.kind() == Kind::Mismatch && error.to_string().contains(part), "{error}");
    };
    fails(&|t| drop(t.remove("step")), "no step");
    fails(&|t| drop(t.remove("v.a")), "lacks v.a");
    fails(&|t| drop(t.insert("m.c".into(), t["m.a"].clone())), "m.c");
    fails(&|t| drop(t.insert("m.b".into(), t["m.a"].clone())), "6 values for m.b of 2 values");
}

#[test]
fn weights_that_do_not_fit_are_refused_in_one_sentence() {
    let network = Pair::new(DType::F32);
    let mut weights = state::tensors(&network);
    let b = weights.remove("b").unwrap();
    weights.insert("a".into(), b.clone());
    weights.insert("c".into(), b);
    let error = state::load(network, &weights).err().unwrap();
    assert_eq!(error.kind(), Kind::Mismatch);
    let error = error.to_string();
    for part in ["1 missing: b", "1 unexpected: c", "1 of another shape: a"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_average_is_its_closed_form() {
    // Weights w_n after update n: the average is Σ_n w_n (1 − β_n) Π_{k>n} β_k, plus the start times Π β_k.
    let configs = [
        EmaConfig::Decay { decay: 0.7, warmup: false },
        EmaConfig::Decay { decay: 0.3, warmup: true },
        EmaConfig::HalfLife { images: 40.0, ramp: 0.5 },
    ];
    for config in configs {
        let start = Pair::new(DType::F64);
        let mut ema = Ema::new(config.clone(), &start).unwrap();
        let mut expected = start.values();
        let updates: Vec<Pair> = (1..=6).map(|n| scaled(&start, f64::from(n) - 3.5)).collect();
        for (n, network) in (1..).zip(&updates) {
            ema.update(network, n, 8);
        }
        let beta = |n: usize| config.beta(n as u64, 8);
        for (i, value) in expected.iter_mut().enumerate() {
            *value *= (1..=6).map(beta).product::<f64>();
            for n in 1..=6 {
                *value += updates[n - 1].values()[i] * (1.0 - beta(n)) * (n + 1..=6).map(beta).product::<f64>();
            }
        }
        let network = ema.network(&updates[0]);
        assert!(!network.a.val().is_require_grad());
        assert!(network.values().iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12));
        let mut again = Ema::new(config, &start).unwrap();
        again.load(&ema.tensors()).unwrap();
        assert_eq!(again.tensors(), ema.tensors());
    }
}

fn scaled(pair: &Pair, by: f64) -> Pair {
    let times = |data: burn::tensor::TensorData| {
        let shape = data.shape().clone();
        burn::tensor::TensorData::new(data.iter::<f64>().map(|x| x * by).collect(), shape)
    };
    state::load(pair.clone(), &state::tensors(pair).into_iter().map(|(name, data)| (name, times(data))).collect())
        .unwrap()
}

#[test]
fn a_step_takes_its_weights_into_the_average() {
    let averages = [
        EmaConfig::Decay { decay: 0.7, warmup: false },
        EmaConfig::Decay { decay: 0.9999, warmup: true },
        EmaConfig::HalfLife { images: 40.0, ramp: 0.5 },
    ];
    for (kind, config) in [DType::F32, DType::F64].into_iter().flat_map(|kind| averages.clone().map(|c| (kind, c))) {
        // Of several layers and with frozen frequencies, which have no gradient.
        let build = || shaken(small_mlp().build(&[5], 2, 1, &Device::flex().autodiff()).unwrap(), kind);
        let (mut network, mut alone) = (build(), build());
        let [mut one, mut two] = [(); 2].map(|()| AdamW::new(CONFIG).unwrap());
        let mut ema = Ema::new(config.clone(), &network).unwrap();
        for step in 1..=4 {
            // Without an average the weights are the same, bit for bit.
            alone = two.step(alone.clone(), gradients(&alone, kind, step), 0.1, None).0;
            let mut after = Ema::new(config.clone(), &network).unwrap();
            let before = ema.tensors();
            after.load(&before).unwrap();
            network = one.step(network.clone(), gradients(&network, kind, step), 0.1, Some((&mut ema, 8))).0;
            assert_eq!(state::tensors(&network), state::tensors(&alone));
            after.update(&network, step, 8);
            let weights = state::tensors(&network);
            for ((name, found), wanted) in ema.tensors().into_iter().zip(after.tensors().into_values()) {
                let (found, wanted) = (found.iter::<f64>(), wanted.iter::<f64>());
                let sizes = weights[&name].iter::<f64>().zip(before[&name].iter::<f64>());
                for ((found, wanted), (weight, old)) in found.zip(wanted).zip(sizes) {
                    // The pass over f32 multiplies and adds with one rounding where the tensors have two, of numbers up
                    // to twice the larger of weight and average. In f64 both are the same operations.
                    let size = weight.abs().max(old.abs());
                    let bound = if kind == DType::F32 { 2.0 * f64::from(f32::EPSILON) * size } else { 0.0 };
                    assert!((found - wanted).abs() <= bound, "{name} in {kind:?}: {found} for {wanted}");
                }
            }
        }
    }
}

/// Gradients of a network's mean square on a batch of its own.
fn gradients(network: &AnyNetwork, kind: DType, seed: u64) -> Accumulated {
    let device = Device::flex();
    let (x, noise) = (matrix(16, 5, seed, kind, &device), vector(16, seed, kind, &device));
    let y = output(network, x.clone(), noise, &Condition::classes([1; 16]));
    let mut gradients = Accumulated::new();
    gradients.add(network, (y - x).square().mean().backward());
    gradients
}

#[test]
fn the_average_forgets_as_fast_as_published() {
    let decay = EmaConfig::Decay { decay: 0.999, warmup: true };
    assert_eq!(decay.beta(1, 128), 2.0 / 11.0);
    assert_eq!(decay.beta(1_000_000, 128), 0.999);
    let half = EmaConfig::HalfLife { images: 5e5, ramp: 0.05 };
    assert_eq!(half.beta(1, 512), 0.0);
    // 100 batches of 512 seen: a half-life of 2560 samples.
    assert!((half.beta(101, 512) - 0.5f64.powf(0.2)).abs() < 1e-15);
    assert!((half.beta(10_000_000, 512) - 0.5f64.powf(512.0 / 5e5)).abs() < 1e-15);
    let network = Pair::new(DType::F32);
    assert!(Ema::new(EmaConfig::Decay { decay: 1.0, warmup: true }, &network).is_err());
    assert!(Ema::new(EmaConfig::HalfLife { images: 0.0, ramp: 0.05 }, &network).is_err());
    assert!(toml::from_str::<EmaConfig>("kind = \"decay\"\nwarm = true").is_err());
}

#[test]
fn an_average_of_one_value_is_that_value() {
    let network = shaken(small_mlp().build(&[5], 0, 1, &Device::flex()).unwrap(), DType::F32);
    let mut ema = Ema::new(EmaConfig::Decay { decay: 0.9, warmup: false }, &network).unwrap();
    for n in 1..=20 {
        ema.update(&network, n, 1);
    }
    assert_eq!(ema.tensors(), state::tensors(&network));
}

#[test]
fn the_learning_rate_has_its_shape() {
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a} for {b}");
    let with = |decay| RateConfig { rate: 0.1, warmup: 10, decay };
    let constant = with(Decay::Constant);
    near(constant.at(0, 5000), 0.01);
    near(constant.at(4, 5000), 0.05);
    near(constant.at(9, 5000), 0.1);
    near(constant.at(1000, 5000), 0.1);
    near(RateConfig::default().at(0, 5000), 1e-3);
    let cosine = with(Decay::Cosine { steps: Some(110), floor: 0.2 });
    near(cosine.at(4, 5000), 0.05);
    near(cosine.at(10, 5000), 0.1);
    near(cosine.at(60, 5000), 0.06);
    near(cosine.at(110, 5000), 0.02);
    near(cosine.at(1000, 5000), 0.02);
    // Without an end of its own it ends with the training, and one that ends there is one without an end of its own.
    let open = with(Decay::Cosine { steps: None, floor: 0.2 });
    assert_eq!(cosine.clone().ending_with(110), open);
    assert_eq!(cosine.clone().ending_with(111), cosine);
    (0..200).for_each(|step| near(open.at(step, 110), cosine.at(step, 5000)));
    // A training that ends within the warm-up knows nothing else.
    near(open.at(2, 5), 0.03);
    let root = with(Decay::InverseSquareRoot { reference: 100 });
    near(root.at(100, 5000), 0.1);
    near(root.at(400, 5000), 0.05);
    for config in [&constant, &cosine, &open, &root] {
        config.check().unwrap();
        assert_eq!(&toml::from_str::<RateConfig>(&toml::to_string(config).unwrap()).unwrap(), config);
    }
    assert!(with(Decay::Cosine { steps: Some(10), floor: 0.0 }).check().is_err());
    assert!(with(Decay::Cosine { steps: Some(20), floor: 2.0 }).check().is_err());
    assert!(with(Decay::InverseSquareRoot { reference: 0 }).check().is_err());
    assert!(RateConfig { rate: -1.0, ..RateConfig::default() }.check().is_err());
    assert!(toml::from_str::<RateConfig>("warm = 3").is_err());
    assert!(toml::from_str::<RateConfig>("decay = { kind = \"cosine\", steps = 3, flor = 1.0 }").is_err());
}

#[test]
fn what_is_left_of_the_first_weights_in_an_average_is_known() {
    let configs = [
        EmaConfig::Decay { decay: 0.9999, warmup: false },
        EmaConfig::Decay { decay: 0.9999, warmup: true },
        EmaConfig::Decay { decay: 0.5, warmup: true },
        EmaConfig::HalfLife { images: 500.0, ramp: 0.05 },
    ];
    for config in configs {
        // A weight that is 1 at first and 0 ever after: its average is the part that is asked for.
        let mut average = 1.0;
        for update in 0..=1500 {
            if update > 0 {
                average *= config.beta(update, 16);
            }
            let part = config.initial_part(update);
            assert!((part - average).abs() < 1e-12, "{config:?} after {update}: {part} for {average}");
        }
    }
    // By default next to nothing is left after a hundred steps, so that early samples show what was learned.
    assert!(EmaConfig::default().initial_part(100) < 1e-9);
    assert!(toml::from_str::<EmaConfig>("kind = \"decay\"").unwrap().initial_part(100) < 1e-9);
}
