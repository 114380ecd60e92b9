//! The classifier of pictures, without noise and with it.

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein::{Classified, Dual};
use stein_nn::{Classifier, ClassifierConfig, EmbeddingConfig, layers::Init, state};

use crate::{shaken, uniform, vector};

fn config(embedding: Option<EmbeddingConfig>) -> ClassifierConfig {
    ClassifierConfig { channels: 8, multipliers: vec![1, 2], features: 6, embedding }
}

/// A classifier of three classes, none of whose layers is zero, in f64.
fn classifier(embedding: Option<EmbeddingConfig>, device: &Device) -> Classifier {
    shaken(config(embedding).build(2, 3, &mut Init::new(1, device)).unwrap(), DType::F64)
}

/// Pictures of odd sizes, which levels halve upwards.
fn pictures(seed: u64, device: &Device) -> Tensor<4> {
    let shape = [2, 7, 10, 2];
    Tensor::from_data(TensorData::new(uniform(280, seed), shape), (device, DType::F64))
}

fn number(x: Tensor<2>) -> f64 {
    x.sum().into_scalar()
}

#[test]
fn shapes_are_those_of_the_config() {
    let device = Device::flex();
    let network = ClassifierConfig::default().build(3, 10, &mut Init::new(1, &device)).unwrap();
    let Classified { logits, features } =
        network.forward(Tensor::<4>::ones([4, 32, 32, 3], &device).into(), None).unwrap();
    assert_eq!((logits.dims(), features.dims()), ([4, 10], [4, 64]));
    // Fresh logits are zero, and features are not.
    assert_eq!(logits.value.abs().max().into_scalar::<f32>(), 0.0);
    assert!(features.value.abs().max().into_scalar::<f32>() > 0.0);
    let values: usize = state::tensors(&network).values().map(TensorData::num_elements).sum();
    assert!((150_000..250_000).contains(&values), "{values} weights, of which the config says 0.2 million");
}

/// The gradient by the pictures and the tangent against a central difference.
#[test]
fn it_is_differentiable() {
    for embedding in [None, Some(EmbeddingConfig::default())] {
        let device = Device::flex().autodiff();
        let network = classifier(embedding.clone(), &device);
        let noise = || embedding.as_ref().map(|_| Dual::from(vector(2, 3, DType::F64, &device)));
        // Other weights for each of the numbers, so that they do not cancel.
        let weights = |seed| Tensor::<2>::from_data(TensorData::new(uniform(18, seed), [2, 9]), (&device, DType::F64));
        let run = |x: Dual<4>| {
            let Classified { logits, features } = network.forward(x, noise()).unwrap();
            Dual::cat(vec![logits, features], 1).linear(|x| x * weights(7))
        };
        let (at, along) = (|| pictures(1, &device), || pictures(2, &device));
        let x = at().require_grad();
        let gradient = x.grad(&run(x.clone().into()).value.sum().backward()).unwrap();
        let slope: f64 = (gradient * along().inner()).sum().into_scalar();
        let tangent = number(run(Dual::new(at(), along())).tangent.unwrap());
        let step = 1e-5;
        let moved = |by: f64| number(run((at() + along() * by).into()).value);
        let wanted = (moved(step) - moved(-step)) / (2.0 * step);
        assert!(wanted.abs() > 1e-2, "there is something to compare");
        // Truncation of about step², rounding of about 1e-16/step.
        for found in [slope, tangent] {
            assert!((found - wanted).abs() <= 1e-7 * (1.0 + wanted.abs()), "{found} for {wanted}");
        }
    }
}

#[test]
fn noise_matters_where_it_is_taken() {
    let device = Device::flex();
    let network = classifier(Some(EmbeddingConfig::default()), &device);
    let at = |noise: f64| {
        let noise = Tensor::<1>::from_data([noise, noise], (&device, DType::F64));
        network.forward(pictures(1, &device).into(), Some(noise.into())).unwrap().logits.value
    };
    assert!(number((at(0.1) - at(0.9)).abs()) > 1e-3);
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::flex();
    let noise = |count| Some(Dual::from(vector(count, 3, DType::F64, &device)));
    let fault = |network: &Classifier, x: Tensor<4>, noise| network.forward(x.into(), noise).unwrap_err().to_string();
    let [plain, noisy] = [None, Some(EmbeddingConfig::default())].map(|embedding| classifier(embedding, &device));
    let x = || pictures(1, &device);
    assert!(fault(&plain, x(), noise(2)).contains("leave the noise numbers out"));
    assert!(fault(&noisy, x(), None).contains("give the noise number of each"));
    assert!(fault(&noisy, x(), noise(3)).contains("3 noise numbers"));
    assert!(fault(&plain, x().narrow(3, 0, 1), None).contains("takes 2 channels"));
    let build = |config: ClassifierConfig, inputs, classes| {
        config.build(inputs, classes, &mut Init::new(1, &device)).unwrap_err().to_string()
    };
    assert!(build(ClassifierConfig { channels: 3, ..config(None) }, 2, 3).contains("classifier.channels is 3"));
    assert!(build(ClassifierConfig { features: 0, ..config(None) }, 2, 3).contains("classifier.features is 0"));
    assert!(build(ClassifierConfig { multipliers: vec![], ..config(None) }, 2, 3).contains("multipliers"));
    assert!(build(config(None), 2, 0).contains("0 classes"));
}

#[test]
fn a_config_comes_back_from_its_file() {
    for embedding in [None, Some(EmbeddingConfig::default())] {
        let config = config(embedding);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ClassifierConfig>(&text).unwrap(), config);
    }
    assert_eq!(toml::from_str::<ClassifierConfig>("").unwrap(), ClassifierConfig::default());
    assert!(toml::from_str::<ClassifierConfig>("chanels = 8").is_err());
}

/// Half precision is enough to keep weights in: they come back as the network's own type.
#[test]
fn weights_in_half_precision_are_loaded() {
    let device = Device::flex();
    let build = |seed| config(None).build(1, 3, &mut Init::new(seed, &device)).unwrap();
    let halves = state::tensors(&build(1)).into_iter().map(|(name, data)| (name, data.convert_dtype(DType::F16)));
    let loaded = state::tensors(&state::load(build(2), &halves.collect()).unwrap());
    for (name, wanted) in state::tensors(&build(1)) {
        assert_eq!(loaded[&name].dtype(), DType::F32);
        for (found, wanted) in loaded[&name].iter::<f32>().zip(wanted.iter::<f32>()) {
            // 11 bits of significand.
            assert!((found - wanted).abs() <= wanted.abs() / 2048.0 + 1e-7, "{name}: {found} for {wanted}");
        }
    }
}
