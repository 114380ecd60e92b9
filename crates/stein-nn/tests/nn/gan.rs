//! Generators and discriminators of every kind: sizes, classes, rows that do not mix, and the second derivatives of penalties against
//! differences.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use stein::{
    Condition, Context, Dual, Keys, Network, Purpose, Result,
    adversarial::Penalty,
    rows::{self, host},
};
use stein_nn::{Discriminator, PlayerConfig, Tensors, layers::Init, state};

fn played(network: &impl Network, x: Dual<2>, given: &Condition) -> Result<Dual<2>> {
    let noise = rows::vector(vec![0.0; x.dims()[0]], &x.value);
    network.forward(x, &Context::new(noise, given))
}

fn normal(rows: usize, dim: usize, seed: u64) -> Tensor<2> {
    rows::matrix(Keys::range(seed, 0, rows).normal(Purpose::Model, 0, dim), dim, &rows::exact())
}

fn configs() -> [PlayerConfig; 3] {
    [
        PlayerConfig::Mlp { hidden: 12, layers: 2 },
        PlayerConfig::Convolutional { channels: vec![4, 8] },
        PlayerConfig::Residual { channels: vec![4, 8] },
    ]
}

#[test]
fn pictures_of_every_size_are_made_and_judged() {
    let device = Device::flex();
    let given = Condition::classes([1, 0]);
    for (config, levels, sizes) in [
        // Sizes that cannot be halved without a rest, and one that ends in a single place.
        (
            PlayerConfig::Convolutional { channels: vec![2, 4, 6] },
            3,
            vec![[8, 8], [28, 28], [32, 32], [64, 64], [5, 9]],
        ),
        (PlayerConfig::Residual { channels: vec![2, 4] }, 2, vec![[8, 8], [28, 28], [32, 32], [64, 64]]),
    ] {
        for [height, width] in sizes {
            let shape = [height, width, 3];
            let dim = 3 * height * width;
            let init = &mut Init::new(1, &device);
            let generator = config.generator(5, &shape, 2, init).unwrap();
            let discriminator = config.discriminator(&shape, 2, init).unwrap();
            let z = Tensor::<2>::ones([2, 5], &device);
            let x = played(&generator, z.into(), &given).unwrap().value;
            assert_eq!(x.dims(), [2, dim], "{config:?} {shape:?}");
            let logits = played(&discriminator, x.into(), &given).unwrap().value;
            let [one, other] = <[f64; 2]>::try_from(host(&logits)).unwrap();
            assert!(
                one != other && one.is_finite() && other.is_finite(),
                "{config:?} {levels} {shape:?}: {one} {other}"
            );
            let size = config.generator_size(5, &shape, 2).unwrap();
            assert_eq!(size.parameters, generator.num_params());
            assert_eq!(config.discriminator_size(&shape, 2).unwrap().parameters, discriminator.num_params());
        }
    }
    let odd =
        PlayerConfig::Residual { channels: vec![2, 4, 6] }.discriminator(&[28, 28, 1], 0, &mut Init::new(1, &device));
    assert!(odd.unwrap_err().to_string().contains("cannot be halved 3 times"));
    let rows = PlayerConfig::Convolutional { channels: vec![2] }.generator(4, &[2], 0, &mut Init::new(1, &device));
    assert!(rows.unwrap_err().to_string().contains("height"), "rows are no pictures");
}

#[test]
fn a_sample_and_a_logit_do_not_depend_on_the_batch() {
    let device = Device::flex();
    for config in configs() {
        let init = &mut Init::new(1, &device);
        let generator = state::cast(config.generator(5, &[8, 8, 1], 3, init).unwrap(), DType::F64);
        let discriminator = state::cast(config.discriminator(&[8, 8, 1], 3, init).unwrap(), DType::F64);
        let (z, given) = (normal(3, 5, 2), Condition::classes([2, 0, 1]));
        let through = |z: Tensor<2>, given: &Condition| {
            let x = played(&generator, z.into(), given).unwrap();
            (host(&x.value), host(&played(&discriminator, x, given).unwrap().value))
        };
        let (all, logits) = through(z.clone(), &given);
        let (one, logit) = through(z.narrow(0, 1, 1), &given.select(&[1]));
        // Only the order of sums may differ.
        assert!(one.iter().zip(&all[64..]).all(|(a, b)| (a - b).abs() < 1e-12), "{config:?}");
        assert!((logit[0] - logits[1]).abs() < 1e-12, "{config:?}");
    }
}

#[test]
fn penalties_have_the_second_derivatives_of_every_discriminator() {
    let device = Device::flex().autodiff();
    let given = Condition { class: Some(vec![Some(1), None, Some(0)]), ..Condition::none() };
    let keys = Keys::range(3, 0, 3);
    for config in configs() {
        let network = config.discriminator(&[8, 8, 1], 2, &mut Init::new(1, &device)).unwrap();
        let network = state::cast(network, DType::F64);
        let weights = state::tensors(&network);
        // A direction in all weights; those that start at zero are moved away from it.
        let direction: Tensors = weights
            .iter()
            .enumerate()
            .map(|(i, (name, data))| {
                let values = Keys::range(7, i as u64, 1).normal(Purpose::Model, 0, data.num_elements());
                (name.clone(), TensorData::new(values, data.shape().clone()))
            })
            .collect();
        let moved = |h: f64| -> Discriminator {
            let moved = weights.iter().map(|(name, data)| {
                let along = direction[name].iter::<f64>();
                let values: Vec<f64> = data.iter::<f64>().zip(along).map(|(w, d)| w + (0.05 + h) * d).collect();
                (name.clone(), TensorData::new(values, data.shape().clone()))
            });
            state::load(network.clone(), &moved.collect()).unwrap()
        };
        for penalty in [Penalty::R1 { gamma: 3.0, every: 1 }, Penalty::Gradient { lambda: 2.0 }] {
            let points = penalty.points(normal(3, 64, 4), normal(3, 64, 5), &keys);
            let value = |network: &Discriminator| {
                let constant = network.valid();
                penalty.at(points.clone(), |x| played(&constant, x, &given), |x| played(network, x, &given)).unwrap()
            };
            let here = moved(0.0);
            let gradients = state::gradients(&here, &value(&here).backward());
            let dot = |(name, gradient): (&String, &TensorData)| {
                gradient.iter::<f64>().zip(direction[name].iter::<f64>()).map(|(a, b)| a * b).sum::<f64>()
            };
            let found: f64 = gradients.iter().map(dot).sum();
            let at = |h: f64| value(&moved(h)).into_scalar::<f64>();
            let h = 1e-4;
            let wanted = (8.0 * (at(h) - at(-h)) - at(2.0 * h) + at(-2.0 * h)) / (12.0 * h);
            // Differences of fourth order: h⁴ times a fifth derivative, and rounding over h.
            let bound = 1e-7 * wanted.abs().max(1.0);
            assert!((found - wanted).abs() < bound, "{config:?} {penalty:?}: {found} and {wanted}");
            assert!(found.abs() > 1e-3, "{config:?} {penalty:?}: a derivative of {found} says nothing");
        }
    }
}
