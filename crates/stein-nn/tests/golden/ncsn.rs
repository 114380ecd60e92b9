//! NCSN and NCSNv2.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::{Value, json};
use stein::{Condition, Context};
use stein_nn::{
    Tensors,
    import::{Weights, ncsn, ncsn_v2},
    ops::Dual,
    state,
};

use crate::{context, fixture};

#[test]
fn ncsn() {
    crate::compare("ncsn", |json, weights| Ok(Box::new(ncsn::open(json, weights)?)));
}

#[test]
fn ncsnv2() {
    crate::compare("ncsnv2", |json, weights| Ok(Box::new(ncsn_v2::open(json, weights)?)));
}

#[test]
fn ncsnv2_deepest() {
    crate::compare("ncsnv2_deepest", |json, weights| Ok(Box::new(ncsn_v2::open(json, weights)?)));
}

/// The state dict of the reference at another width and number of image channels, all zeros: every axis of a parameter
/// is the images' channels, a multiple of the width, or no channels at all.
fn resized(weights: &Tensors, factor: usize, channels: usize) -> Tensors {
    let axis = |name: &str, axis: usize, axes: usize, size: usize| {
        let image = (name == "begin_conv.weight" && axis == 1) || (name.starts_with("end_conv.") && axis == 0);
        let level = name.contains(".embed.") && axis == 0;
        match image {
            true => channels,
            false if level || (axes == 4 && axis > 1) => size,
            false => size * factor,
        }
    };
    let resize = |(name, data): (&String, &TensorData)| {
        let shape: Vec<usize> = data.shape().to_vec();
        let shape: Vec<usize> = (0..shape.len()).map(|i| axis(name, i, shape.len(), shape[i])).collect();
        (name.clone(), TensorData::zeros::<f32, _>(shape))
    };
    weights.iter().filter(|(name, _)| *name != "sigmas").map(resize).collect()
}

fn with(config: &Value, width: usize, channels: usize) -> Value {
    let mut config = config.clone();
    config["model"]["ngf"] = json!(width);
    config["data"]["channels"] = json!(channels);
    config
}

/// The published sizes take the reference's state dicts of those sizes, which sums up to as many parameters. 29.7
/// million are known of NCSNv2 for CIFAR-10; the other numbers are sums over the resized state dicts.
#[test]
fn the_published_sizes_fit() {
    if let Some((_, config, weights)) = fixture("ncsn") {
        for (width, channels, count) in [(64, 1, 7_638_657), (128, 3, 30_117_635)] {
            let network =
                ncsn::open(&with(&config, width, channels), Weights::Theirs(&resized(&weights, width / 8, channels)))
                    .unwrap();
            assert_eq!(network.network.num_params(), count);
        }
    }
    if let Some((_, config, weights)) = fixture("ncsnv2") {
        let network = ncsn_v2::open(&with(&config, 128, 3), Weights::Theirs(&resized(&weights, 16, 3))).unwrap();
        assert_eq!(network.network.num_params(), 29_694_083);
    }
    if let Some((_, config, weights)) = fixture("ncsnv2_deepest") {
        let config = with(&config, 128, 3);
        let mut weights = resized(&weights, 32, 3);
        assert_eq!(ncsn_v2::open(&config, Weights::Theirs(&weights)).unwrap().network.num_params(), 94_132_611);
        weights.retain(|name, _| !name.starts_with("res31.") && !name.starts_with("refine31."));
        assert_eq!(ncsn_v2::open(&config, Weights::Theirs(&weights)).unwrap().network.num_params(), 83_445_379);
    }
}

fn wave(shape: [usize; 4], pitch: f64, kind: DType, device: &Device) -> Tensor<4> {
    let values: Vec<f64> = (0..shape.iter().product()).map(|i| (pitch * (1 + i) as f64).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, kind))
}

fn sum(x: Tensor<4>) -> f64 {
    x.sum().into_scalar::<f64>()
}

fn near(what: &str, found: f64, wanted: f64, relative: f64) {
    assert!((found - wanted).abs() <= relative * wanted.abs(), "{what}: {found} for {wanted}");
}

/// The tangent ẏ = J ẋ, through its transpose, ⟨r, J ẋ⟩ = ⟨Jᵀ r, ẋ⟩, and the gradient of ⟨r, ẏ⟩ by differences.
fn check_tangents<N: Module>(network: N, channels: usize, images: fn(&N, Dual<4>, &Context) -> stein::Result<Dual<4>>) {
    const STEP: f64 = 1e-6;
    let (plain, traced) = (Device::flex(), Device::flex().autodiff());
    for (kind, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-3)] {
        let tracked = state::cast(network.clone(), kind);
        let untracked = tracked.valid();
        let shape = [2, 16, 24, channels];
        let of = |pitch| move |device: &Device| wave(shape, pitch, kind, device);
        let (x, dx, r, way) = (of(0.7), of(1.3), of(2.1), of(0.9));
        let noise = |device: &Device| Tensor::<1>::from_data([2.0, 7.0], (device, kind));
        let none = Condition::none();
        let run =
            |network: &N, x: Dual<4>, device: &Device| images(network, x, &context(noise(device), &none)).unwrap();
        let tangent = |moved: f64| {
            let x = Dual::new(x(&plain) + way(&plain) * moved, dx(&plain));
            sum(run(&untracked, x, &plain).tangent.unwrap() * r(&plain))
        };
        let leaf = x(&traced).require_grad();
        let y = run(&tracked, leaf.clone().into(), &traced);
        assert!(y.tangent.is_none());
        let gradient = leaf.grad(&(y.value * r(&traced)).sum().backward()).unwrap();
        near("tangent", tangent(0.0), sum(gradient * dx(&plain)), tolerance);
        if kind == DType::F64 {
            let leaf = x(&traced).require_grad();
            let y = run(&tracked, Dual::new(leaf.clone(), dx(&traced)), &traced);
            let gradient = leaf.grad(&(y.tangent.unwrap() * r(&traced)).sum().backward()).unwrap();
            let difference = (tangent(STEP) - tangent(-STEP)) / (2.0 * STEP);
            near("gradient of the tangent", sum(gradient * way(&plain)), difference, 1e-5);
        }
    }
}

#[test]
fn tangents_are_derivatives() {
    if let Some((_, config, weights)) = fixture("ncsn") {
        check_tangents(ncsn::open(&config, Weights::Theirs(&weights)).unwrap().network, 1, |network, x, context| {
            network.images(x, context)
        });
    }
    for name in ["ncsnv2", "ncsnv2_deepest"] {
        if let Some((_, config, weights)) = fixture(name) {
            check_tangents(
                ncsn_v2::open(&config, Weights::Theirs(&weights)).unwrap().network,
                3,
                |network, x, context| network.images(x, context),
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some((_, config, weights)) = fixture("ncsnv2") else { return };
    let network = ncsn_v2::open(&config, Weights::Theirs(&weights)).unwrap().network;
    let device = Device::flex();
    let refusal = |shape: [usize; 4], noise: [f64; 2], given: &Condition| {
        let noise = Tensor::<1>::from_data(noise, (&device, DType::F32));
        let x = wave(shape, 0.7, DType::F32, &device);
        network.valid().images(x.into(), &context(noise, given)).unwrap_err().to_string()
    };
    let none = Condition::none();
    assert!(refusal([2, 8, 8, 3], [0.0, 50.0], &none).contains("0 to 49"));
    assert!(refusal([2, 8, 8, 3], [0.5, 1.0], &none).contains("0.5"));
    assert!(refusal([2, 8, 7, 3], [0.0, 1.0], &none).contains("divisible by 2"));
    assert!(refusal([2, 8, 8, 1], [0.0, 1.0], &none).contains("1 channels"));
    assert!(refusal([3, 8, 8, 3], [0.0, 1.0], &none).contains("2 noise numbers"));
    let given = Condition::classes([0, 0]);
    assert!(refusal([2, 8, 8, 3], [0.0, 1.0], &given).contains("knows no classes"));

    let refused = |[section, key]: [&str; 2], value: Value| {
        let mut config = config.clone();
        config[section][key] = value;
        ncsn_v2::open(&config, Weights::Theirs(&weights)).err().expect("it is refused").to_string()
    };
    assert!(refused(["model", "nonlinearity"], json!("tanh")).contains("elu, relu, lrelu, swish"));
    assert!(refused(["model", "sigma_dist"], json!("cosine")).contains("geometric, uniform"));
    assert!(refused(["model", "sigma_dist"], json!("uniform")).contains("noise levels"));
    assert!(refused(["model", "sigma_begin"], json!(40.0)).contains("noise levels"));
    assert!(refused(["model", "ngf"], json!(1)).contains("at least 2"));
    assert!(refused(["data", "channels"], Value::Null).contains("NCSN"));
}
