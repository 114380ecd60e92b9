//! Normalizing flows at random weights: both ways, determinants, gradients, densities that integrate to one, conditions, first weights, and
//! what is refused.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use stein::Condition;
use stein_nn::{
    flows::{
        ActNorm, ActNormForm, AnyFlow, Autoregressive, Bends, ConditionerForm, Coupling, Ends, Flow, FlowConfig,
        FlowLayer, GlowConfig, ImageCouplingKind, InvertibleConfig, InvertibleNetwork, LuLinear, Mixing, Permutation,
        Spline, Structure, Transform, TransformKind,
    },
    layers::Init,
    state,
};

use crate::{matrix, uniform};

const DIM: usize = 5;
const CLASSES: usize = 3;

fn device() -> Device {
    Device::flex()
}

/// Random numbers of up to `size` added to all weights that are trained, which begin with zeros in part.
fn varied<M: Module>(network: M, size: f64, kind: DType) -> M {
    let mut weights = state::tensors(&network);
    for (seed, (name, data)) in weights.iter_mut().enumerate() {
        if ["order", "permutation", "sign"].iter().any(|fixed| name.ends_with(fixed)) {
            continue;
        }
        let noise = uniform(data.num_elements(), seed as u64);
        let values = data.iter::<f64>().zip(noise).map(|(weight, noise)| weight + size * noise).collect::<Vec<_>>();
        *data = TensorData::new(values, data.shape());
    }
    state::load(state::cast(network, kind), &weights).unwrap()
}

fn form() -> ConditionerForm {
    ConditionerForm { hidden: 16, blocks: 1, classes: CLASSES }
}

fn maps() -> [Transform; 2] {
    [Transform::Affine, Transform::Spline(Spline::new(6, Ends::Linear { bound: 2.0 }).unwrap())]
}

/// Every layer as a flow of it alone, and the whole networks, of rows of so many numbers.
fn all(device: &Device) -> Vec<(String, AnyFlow, usize)> {
    let init = &mut Init::new(1, device);
    let mut layers = vec![
        FlowLayer::ActNorm(ActNorm::new(DIM, ActNormForm::Exponential, init)),
        FlowLayer::ActNorm(ActNorm::new(DIM, ActNormForm::Published, init)),
        FlowLayer::Permutation(Permutation::reverse(DIM, init)),
        FlowLayer::Permutation(Permutation::random(DIM, init)),
        FlowLayer::Lu(LuLinear::new(DIM, init)),
    ];
    for map in maps() {
        layers.push(FlowLayer::Coupling(Coupling::new(DIM, vec![1, 4], map, form(), init).unwrap()));
        layers.push(FlowLayer::Autoregressive(Autoregressive::new(DIM, map, form(), init).unwrap()));
    }
    let mut all: Vec<(String, AnyFlow, usize)> = layers
        .into_iter()
        .enumerate()
        .map(|(k, layer)| (format!("layer {k}"), AnyFlow::Flow(Flow::of(vec![layer], DIM, CLASSES)), DIM))
        .collect();
    for config in flows() {
        let flow = config.flow(DIM, CLASSES, init).unwrap();
        all.push((format!("{config:?}"), AnyFlow::Flow(flow), DIM));
    }
    for (coupling, lu) in [(ImageCouplingKind::Affine, true), (ImageCouplingKind::Additive, false)] {
        let config = GlowConfig { levels: 2, steps: 2, hidden: 8, coupling, lu };
        let glow = config.glow([4, 8, 1], CLASSES, init).unwrap();
        all.push((format!("{config:?}"), AnyFlow::Glow(glow), 32));
    }
    all
}

/// Small flows of every kind.
fn flows() -> Vec<FlowConfig> {
    let small = FlowConfig { steps: 2, hidden: 16, blocks: 1, ..FlowConfig::default() };
    let mut all = Vec::new();
    for (structure, permutation) in [
        (Structure::Coupling, Mixing::Reverse),
        (Structure::Coupling, Mixing::Lu),
        (Structure::Autoregressive, Mixing::Random),
    ] {
        for transform in [TransformKind::Affine, TransformKind::Spline] {
            all.push(FlowConfig { transform, structure, permutation, ..small.clone() });
        }
    }
    all
}

fn given(rows: usize) -> Condition {
    Condition {
        class: Some((0..rows).map(|row| (row % 4 < CLASSES).then_some(row as u32 % 4)).collect()),
        ..Condition::none()
    }
}

fn numbers<const D: usize>(of: Tensor<D>) -> Vec<f64> {
    of.into_data().iter::<f64>().collect()
}

fn apart<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f64 {
    numbers((a - b).abs()).into_iter().fold(0.0, |most: f64, x| if x.is_nan() { f64::INFINITY } else { most.max(x) })
}

/// Rounding alone keeps the way back from the start: 1e-5 in f32 and 1e-10 in f64.
#[test]
fn the_inverse_is_one() {
    for (kind, bound) in [(DType::F32, 1e-5), (DType::F64, 1e-10)] {
        for (name, network, dim) in all(&device()) {
            let network = varied(network, 0.2, kind);
            let x = matrix(9, dim, 7, kind, &device()) * 2.0;
            let given = given(9);
            let (z, log_det) = network.forward(x.clone(), &given).unwrap();
            let (back, log_back) = network.inverse(z, &given).unwrap();
            let off = apart(back, x);
            assert!(off <= bound, "{name} in {kind:?}: the way back is off by {off:e}");
            // Sums of as many logarithms as there are numbers.
            let off = apart(log_det, -log_back);
            assert!(off <= bound * dim as f64, "{name} in {kind:?}: the determinants are off by {off:e}");
        }
    }
}

/// ln|det| of a square matrix in row order, by elimination.
fn log_det(mut matrix: Vec<f64>, size: usize) -> f64 {
    let mut sum = 0.0;
    for column in 0..size {
        let pivot =
            (column..size).max_by(|a, b| matrix[a * size + column].abs().total_cmp(&matrix[b * size + column].abs()));
        let pivot = pivot.unwrap();
        (0..size).for_each(|k| matrix.swap(column * size + k, pivot * size + k));
        sum += matrix[column * size + column].abs().ln();
        for row in column + 1..size {
            let factor = matrix[row * size + column] / matrix[column * size + column];
            (column..size).for_each(|k| matrix[row * size + k] -= factor * matrix[column * size + k]);
        }
    }
    sum
}

/// Central differences of step 1e-5 are right to about 1e-9.
#[test]
fn log_determinants_are_those_of_the_jacobian() {
    const STEP: f64 = 1e-5;
    for (name, network, dim) in all(&device()) {
        let network = varied(network, 0.2, DType::F64);
        for row in 0..3 {
            let x = matrix(1, dim, 40 + row, DType::F64, &device());
            let class = |rows: usize| Condition::none().with_class(rows, row as u32 % 3);
            let (_, found) = network.forward(x.clone(), &class(1)).unwrap();
            let steps = Tensor::<2>::eye(dim, &device()).cast(DType::F64) * STEP;
            let moved = |steps: Tensor<2>| network.encode(x.clone() + steps, &class(dim)).unwrap();
            let jacobian = numbers((moved(steps.clone()) - moved(-steps)) * (0.5 / STEP));
            let (found, wanted) = (numbers(found)[0], log_det(jacobian, dim));
            assert!((found - wanted).abs() < 1e-7, "{name}: {found} for {wanted}");
        }
    }
}

/// The slope along a random direction of all weights and inputs, against central differences, which are right to about 1e-9.
#[test]
fn gradients_are_those_of_differences() {
    const STEP: f64 = 1e-5;
    for (name, network, dim) in all(&device().autodiff()) {
        let network = varied(network, 0.2, DType::F64);
        let x = matrix(4, dim, 3, DType::F64, &device());
        let leaf = x.clone().autodiff().require_grad();
        let given = given(4);
        let gradients = network.log_prob(leaf.clone(), &given).unwrap().sum().backward();
        let slopes = state::gradients(&network, &gradients);
        let direction = matrix(4, dim, 5, DType::F64, &device());
        let mut found = numbers((leaf.grad(&gradients).unwrap() * direction.clone()).sum())[0];
        let weights = state::tensors(&network);
        let along = |data: &TensorData, seed: usize| uniform(data.num_elements(), 90 + seed as u64);
        for (seed, (name, data)) in weights.iter().enumerate() {
            if let Some(slope) = slopes.get(name) {
                found += slope.iter::<f64>().zip(along(data, seed)).map(|(slope, way)| slope * way).sum::<f64>();
            }
        }
        let at = |step: f64| {
            let moved = weights.iter().enumerate().map(|(seed, (name, data))| {
                let trained = slopes.contains_key(name);
                let ways = along(data, seed);
                let values: Vec<f64> =
                    data.iter::<f64>().zip(ways).map(|(w, way)| if trained { w + step * way } else { w }).collect();
                (name.clone(), TensorData::new(values, data.shape()))
            });
            let network = state::load(network.valid(), &moved.collect()).unwrap();
            numbers(network.log_prob(x.clone() + direction.clone() * step, &given).unwrap().sum())[0]
        };
        let wanted = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        assert!((found - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{name}: {found} for {wanted}");
    }
}

#[test]
fn splines_on_the_unit_interval_have_an_inverse() {
    let spline = Spline::new(4, Ends::Unit).unwrap();
    let free = |count: usize, seed: u64| {
        let data = TensorData::new(uniform(10 * count, seed), [10, 1, count]);
        Tensor::<3>::from_data(data, (&device(), DType::F64)) * 2.0
    };
    let bends = || Bends { widths: free(4, 1), heights: free(4, 2), derivatives: free(5, 3) };
    let x = (matrix(10, 1, 4, DType::F64, &device()) + 1.0) * 0.5;
    let (y, _) = spline.forward(x.clone(), bends()).unwrap();
    assert!(apart(spline.inverse(y, bends()).unwrap().0, x.clone()) < 1e-10);
    let error = spline.forward(x + 1.0, bends()).unwrap_err().to_string();
    assert!(error.contains("outside [0, 1]"), "{error}");
}

/// Half the side of a square that has all but 1e-5 of the density: what comes of the rim of \[−4.5, 4.5\]² encloses what comes of it.
fn reach(network: &Flow, dim: usize, class: u32) -> f64 {
    const RIM: f64 = 4.5;
    const COUNT: usize = 200;
    let along = |k: usize| RIM * (2.0 * k as f64 / (COUNT - 1) as f64 - 1.0);
    let sides = (0..COUNT).flat_map(|k| [[along(k), RIM], [along(k), -RIM], [RIM, along(k)], [-RIM, along(k)]]);
    let rim: Vec<f64> = sides.flat_map(|point| point.into_iter().take(dim)).collect();
    let z = Tensor::<2>::from_data(TensorData::new(rim, [4 * COUNT, dim]), (&device(), DType::F64));
    let given = Condition { class: Some(vec![Some(class); 4 * COUNT]), ..Condition::none() };
    numbers(network.decode(z, &given).unwrap().abs().max())[0]
}

/// A sum over a grid that covers the tails.
#[test]
fn densities_integrate_to_one() {
    const SIDE: usize = 601;
    let total = |network: &Flow, dim: usize, class: u32| {
        let reach = reach(network, dim, class);
        let step = 2.0 * reach / (SIDE - 1) as f64;
        let place = |k: usize| k as f64 * step - reach;
        let given = Condition { class: Some(vec![Some(class); SIDE]), ..Condition::none() };
        let sum = |points: Vec<f64>| {
            let x = Tensor::<2>::from_data(TensorData::new(points, [SIDE, dim]), (&device(), DType::F64));
            numbers(network.log_prob(x, &given).unwrap().exp().sum())[0]
        };
        match dim {
            1 => sum((0..SIDE).map(place).collect()) * step,
            _ => {
                let row = |row: usize| sum((0..SIDE).flat_map(|k| [place(row), place(k)]).collect());
                (0..SIDE).map(row).sum::<f64>() * step * step
            }
        }
    };
    for (dim, config) in
        flows().into_iter().map(|config| (2, config)).chain(flows().into_iter().skip(4).map(|c| (1, c)))
    {
        let network = varied(config.flow(dim, CLASSES, &mut Init::new(3, &device())).unwrap(), 0.1, DType::F64);
        let total = total(&network, dim, 1);
        assert!((total - 1.0).abs() < 1e-3, "{config:?} of {dim} numbers: {total}");
    }
}

#[test]
fn a_class_changes_the_density() {
    for (name, network, dim) in all(&device()).into_iter().filter(|(name, ..)| !name.starts_with("layer")) {
        let network = varied(network, 0.2, DType::F64);
        let x = matrix(1, dim, 1, DType::F64, &device());
        let of = |class: Option<u32>| {
            let given = Condition { class: Some(vec![class]), ..Condition::none() };
            numbers(network.log_prob(x.clone(), &given).unwrap())[0]
        };
        let known = [of(None), of(Some(0)), of(Some(1)), of(Some(2))];
        for (k, a) in known.iter().enumerate() {
            assert!(known[..k].iter().all(|b| (a - b).abs() > 1e-6), "{name}: {known:?}");
        }
        assert_eq!(of(None), numbers(network.log_prob(x.clone(), &Condition::none()).unwrap())[0]);
        let unknown = network.log_prob(x, &Condition::classes([3])).unwrap_err().to_string();
        assert!(unknown.contains("this model knows classes 0 to 2"), "{unknown}");
    }
}

/// Mean 0 and deviation 1 to within rounding of f64.
#[test]
fn act_norms_begin_with_the_first_batch() {
    for form in [ActNormForm::Exponential, ActNormForm::Published] {
        let norm = state::cast(ActNorm::new(3, form, &mut Init::new(1, &device())), DType::F64);
        let x = matrix(50, 3, 2, DType::F64, &device()) * 4.0 + 3.0;
        let y = norm.initialized(&x).unwrap().forward(x.clone()).0;
        // The published form adds 1e-6 to the deviation.
        let bound = if form == ActNormForm::Published { 1e-6 } else { 1e-12 };
        assert!(apart(y.clone().mean_dim(0), y.zeros_like().narrow(0, 0, 1)) < 1e-12);
        assert!(apart(y.clone().var(0), y.ones_like().narrow(0, 0, 1)) < bound);
        let error = norm.initialized(&x.narrow(0, 0, 1)).unwrap_err().to_string();
        assert!(error.contains("give 2 or more"), "{error}");
    }
    for (name, network, dim) in all(&device()).into_iter().filter(|(name, ..)| name.contains("Config")) {
        let x = matrix(64, dim, 2, DType::F32, &device()) * 4.0 + 3.0;
        let begun = network.initialized(x.clone(), &given(64)).unwrap();
        let (before, after) =
            [&network, &begun].map(|network| network.log_prob(x.clone(), &given(64)).unwrap().mean()).into();
        assert!(
            numbers(after)[0] > numbers(before)[0],
            "{name}: the data are more likely with the scales of the first batch"
        );
    }
}

#[test]
fn any_flow_is_saved_and_loaded_as_a_network() {
    for (text, shape) in [
        ("kind = \"flow\"\nsteps = 2\nhidden = 8\npermutation = \"random\"", &[4usize][..]),
        ("kind = \"glow\"\nlevels = 1\nsteps = 2\nhidden = 4\nlu = false", &[2, 2, 1]),
    ] {
        let config: InvertibleConfig = toml::from_str(text).unwrap();
        let again: InvertibleConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        assert!(toml::from_str::<InvertibleConfig>(&format!("{text}\nwide = 3")).is_err());
        let [first, second] = [1, 2].map(|seed| config.build(shape, 2, seed, &device()).unwrap());
        assert_eq!(config.size(shape, 2).unwrap().parameters, first.parameters());
        let loaded = state::load(second.clone(), &state::tensors(&first)).unwrap();
        let x = matrix(3, 4, 1, DType::F32, &device());
        let [first, second, loaded] = [&first, &second, &loaded].map(|network| {
            let flow = network.get::<AnyFlow>().unwrap();
            numbers(flow.encode(x.clone(), &Condition::none()).unwrap())
        });
        assert_eq!(first, loaded);
        assert_ne!(first, second);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |text: &str, shape: &[usize], sentence: &str| {
        let config: InvertibleConfig = toml::from_str(text).unwrap();
        let error = config.build(shape, 0, 1, &device()).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    };
    refused("kind = \"flow\"", &[1], "give structure = \"autoregressive\"");
    refused("kind = \"flow\"\nbins = 1", &[2], "give 2 to 500");
    refused("kind = \"flow\"\ntail_bound = 0.0", &[2], "give a positive bound");
    refused("kind = \"flow\"\nsteps = 0", &[2], "give steps");
    refused("kind = \"glow\"\nlevels = 3", &[28, 28, 1], "cannot be halved 3 times");
    refused("kind = \"glow\"\nlevels = 70", &[28, 28, 1], "cannot be halved 70 times");
    refused("kind = \"glow\"", &[12], "works on images");
    let flow = FlowConfig::default().flow(3, 0, &mut Init::new(1, &device())).unwrap();
    let x = matrix(2, 4, 1, DType::F32, &device());
    let error = flow.encode(x, &Condition::none()).unwrap_err().to_string();
    assert!(error.contains("rows of 4 values: this flow was built for 3"), "{error}");
}
