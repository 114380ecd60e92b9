//! PixelCNN++: what a pixel's distribution depends on, that it is one, and how pictures are drawn of it.

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein::{
    Condition, Context, Dual, Keys, Network,
    objective::Pixels,
    pixel::{PixelDistribution, PixelLikelihood},
};
use stein_nn::{AnyNetwork, PixelCnnPp, PixelCnnPpConfig, PixelRows, layers::Init, state};

use crate::{shaken, uniform};

const SMALL: PixelCnnPpConfig = PixelCnnPpConfig { channels: 6, blocks: 1, levels: 3, dropout: 0.5 };

fn distribution(likelihood: PixelLikelihood, channels: usize, levels: u32) -> PixelDistribution {
    PixelDistribution::new(likelihood, channels, Pixels { levels, ..Pixels::default() }).unwrap()
}

fn mixture(channels: usize, levels: u32) -> PixelDistribution {
    distribution(PixelLikelihood::LogisticMixture { components: 2 }, channels, levels)
}

/// A network whose biases are no zeros either.
fn network(config: &PixelCnnPpConfig, of: &PixelDistribution, classes: usize, kind: DType) -> PixelCnnPp {
    let device = Device::flex();
    shaken(config.build(of.channels(), of.numbers(), classes, &mut Init::new(4, &device)).unwrap(), kind)
}

fn images(shape: [usize; 4], seed: u64, kind: DType) -> Tensor<4> {
    Tensor::from_data(TensorData::new(uniform(shape.iter().product(), seed), shape), (&Device::flex(), kind))
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn numbers(network: &PixelCnnPp, x: Dual<4>) -> Dual<4> {
    network.numbers(x, &Condition::none(), None).unwrap()
}

/// Ones at a pixel.
fn at(pixel: usize, like: &Tensor<4>) -> Tensor<4> {
    let [_, _, width, _] = like.dims();
    let (row, column) = (pixel / width, pixel % width);
    let ones = like.clone().narrow(1, row, 1).narrow(2, column, 1).ones_like();
    let [n, _, _, channels] = like.dims();
    like.zeros_like().slice_assign([0..n, row..row + 1, column..column + 1, 0..channels], ones)
}

#[test]
fn pixels_depend_on_those_before_them_alone() {
    let of = mixture(3, 256);
    for kind in [DType::F32, DType::F64] {
        let network = network(&SMALL, &of, 0, kind);
        let x = images([1, 8, 12, 3], 1, kind);
        let wide = of.numbers();
        let before = host(numbers(&network, x.clone().into()).value);
        for pixel in 0..96 {
            let here = at(pixel, &x);
            let moved = numbers(&network, Dual::new(x.clone(), here.clone()));
            let changed = host(numbers(&network, (x.clone() + here).into()).value);
            let tangent = host(moved.tangent.unwrap());
            // Neither by a change nor by a derivative, to the last bit.
            assert!(changed[..(pixel + 1) * wide] == before[..(pixel + 1) * wide], "{kind:?}, pixel {pixel}");
            assert!(tangent[..(pixel + 1) * wide].iter().all(|x| *x == 0.0), "{kind:?}, pixel {pixel}");
            let next = (pixel + 1) * wide..((pixel + 2) * wide).min(before.len());
            // The one after the end of a row is out of reach of so small a network.
            assert!(pixel % 12 == 11 || tangent[next].iter().any(|x| *x != 0.0), "pixel {pixel} is seen by the next");
        }
    }
}

#[test]
fn no_pixel_is_blind_to_any_before_it() {
    let of = mixture(1, 256);
    let config = PixelCnnPpConfig { blocks: 2, levels: 1, ..SMALL };
    let network = network(&config, &of, 0, DType::F64);
    let x = images([1, 4, 4, 1], 2, DType::F64);
    for pixel in 0..16 {
        let tangent = host(numbers(&network, Dual::new(x.clone(), at(pixel, &x))).tangent.unwrap());
        for (after, numbers) in tangent.chunks(of.numbers()).enumerate().skip(pixel + 1) {
            assert!(numbers.iter().any(|x| *x != 0.0), "{after} is blind to {pixel}");
        }
    }
}

#[test]
fn tangents_are_differences() {
    let of = mixture(1, 256);
    let network = network(&SMALL, &of, 0, DType::F64);
    let (x, dx) = (images([2, 4, 8, 1], 3, DType::F64), images([2, 4, 8, 1], 4, DType::F64));
    let tangent = host(numbers(&network, Dual::new(x.clone(), dx.clone())).tangent.unwrap());
    // Central differences in f64.
    const STEP: f64 = 1e-5;
    let [up, down] = [STEP, -STEP].map(|step| host(numbers(&network, (x.clone() + dx.clone() * step).into()).value));
    for ((up, down), tangent) in up.iter().zip(down).zip(tangent) {
        assert!(((up - down) / (2.0 * STEP) - tangent).abs() < 1e-7 * (1.0 + tangent.abs()));
    }
}

#[test]
fn the_probabilities_of_all_pictures_sum_to_one() {
    let config = PixelCnnPpConfig { levels: 1, ..SMALL };
    let pictures: Vec<f32> = (0..512)
        .flat_map(|picture| (0..9).map(move |pixel| if picture >> pixel & 1 == 1 { 1.0 } else { -1.0 }))
        .collect();
    let pictures = Tensor::<2>::from_data(TensorData::new(pictures, [512, 9]), &Device::flex());
    for likelihood in [
        PixelLikelihood::LogisticMixture { components: 2 },
        PixelLikelihood::Categorical {},
        PixelLikelihood::Bernoulli {},
    ] {
        let of = distribution(likelihood, 1, 2);
        let numbers = numbers(&network(&config, &of, 0, DType::F32), pictures.clone().reshape([512, 3, 3, 1]).into());
        let each = of.log_probability(pictures.clone(), numbers.value.reshape([512, 9 * of.numbers()])).unwrap();
        let probabilities: Vec<f64> = host(each.sum_dim(1)).into_iter().map(f64::exp).collect();
        let sum: f64 = probabilities.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{likelihood:?}: {sum}");
        assert!(probabilities.iter().any(|p| *p > 4.0 / 512.0), "the pictures are not all equally probable");
    }
}

/// Pixel by pixel, each by a pass of whole pictures.
fn drawn_anew(
    network: &PixelCnnPp,
    shape: [usize; 3],
    of: &PixelDistribution,
    keys: &Keys,
    given: &Condition,
) -> Vec<f64> {
    let ([height, width, channels], n) = (shape, keys.len());
    let mut x = images([n, height, width, channels], 5, DType::F32);
    for pixel in 0..height * width {
        let (row, column) = (pixel / width, pixel % width);
        let numbers = network.numbers(x.clone().into(), given, None).unwrap().value;
        let numbers = numbers.narrow(1, row, 1).narrow(2, column, 1).reshape([n, of.numbers()]);
        let drawn = of.sample(numbers, keys, pixel as u64).unwrap().reshape([n, 1, 1, channels]);
        x = x.slice_assign([0..n, row..row + 1, column..column + 1, 0..channels], drawn);
    }
    host(x)
}

#[test]
fn what_is_kept_changes_no_sample() {
    let keys = Keys::range(11, 3, 3);
    let given = Condition { class: Some(vec![Some(1), None, Some(0)]), ..Condition::none() };
    for (levels, blocks, shape, of) in [
        (1, 2, [3, 5, 1], mixture(1, 17)),
        (2, 1, [4, 6, 3], mixture(3, 9)),
        (3, 2, [8, 12, 1], distribution(PixelLikelihood::Categorical {}, 1, 5)),
        (4, 1, [8, 8, 1], mixture(1, 17)),
    ] {
        let network = network(&PixelCnnPpConfig { levels, blocks, ..SMALL }, &of, 2, DType::F32);
        let kept = host(network.sample(shape, &of, &keys, &given).unwrap());
        // Sums are in another order, which no value that is rounded to a level shows.
        for (kept, anew) in kept.iter().zip(drawn_anew(&network, shape, &of, &keys, &given)) {
            assert!((kept - anew).abs() < 1e-6, "{levels} levels: {kept} against {anew}");
        }
        let alone = network.sample(shape, &of, &keys.select(&[2]), &given.select(&[2])).unwrap();
        assert_eq!(host(alone), kept[2 * kept.len() / 3..], "a picture does not depend on its batch");
    }
}

#[test]
fn it_is_a_network_on_rows_that_is_kept_like_any_other() {
    let device = Device::flex();
    let of = mixture(1, 17);
    let make =
        |seed| AnyNetwork::own(SMALL.on_rows([8, 8, 1], of.numbers(), 2, &mut Init::new(seed, &device)).unwrap());
    let (first, other) = (make(1), make(2));
    assert_eq!(SMALL.size(&[8, 8, 1], of.numbers(), 2).unwrap().parameters, first.parameters());
    let x: Tensor<2> = images([3, 8, 8, 1], 1, DType::F32).reshape([3, 64]);
    let given = Condition::classes([0, 1, 0]);
    let context = Context::new(Tensor::zeros([3], &device), &given);
    let out = |network: &AnyNetwork| host(network.forward(x.clone().into(), &context).unwrap().value);
    assert_eq!(out(&first).len(), 3 * 64 * of.numbers());
    assert_ne!(out(&first), out(&other));
    assert_eq!(out(&state::load(other, &state::tensors(&first)).unwrap()), out(&first));
    let rows: &PixelRows = first.get().unwrap();
    let drawn = rows.sample(&of, &Keys::range(1, 0, 3), &given).unwrap();
    assert_eq!(drawn.dims(), [3, 64]);
}

#[test]
fn classes_and_dropout_take_part_row_by_row() {
    let of = mixture(1, 17);
    let network = network(&SMALL, &of, 2, DType::F32);
    let x = images([1, 8, 8, 1], 1, DType::F32).expand([3, 8, 8, 1]);
    let class = Some(vec![Some(0), Some(1), None]);
    let given = Condition { class, ..Condition::none() };
    let row = |of: Tensor<4>, row: usize| host(of.narrow(0, row, 1));
    let plain = network.numbers(x.clone().into(), &given, None).unwrap().value;
    assert_ne!(row(plain.clone(), 0), row(plain.clone(), 1));
    assert_ne!(row(plain.clone(), 0), row(plain.clone(), 2));
    let keys = Keys::range(1, 0, 3);
    let dropped = network.numbers(x.clone().into(), &given, Some(&keys)).unwrap().value;
    assert_ne!(row(dropped.clone(), 1), row(plain, 1));
    let alone = network.numbers(x.narrow(0, 1, 1).into(), &given.select(&[1]), Some(&keys.select(&[1]))).unwrap();
    assert_eq!(host(alone.value), row(dropped, 1));
}

#[test]
fn what_does_not_fit_is_told() {
    let of = mixture(1, 17);
    let network = network(&SMALL, &of, 2, DType::F32);
    let told = |shape: [usize; 4], given: &Condition| {
        network.numbers(images(shape, 1, DType::F32).into(), given, None).unwrap_err().to_string()
    };
    assert!(told([1, 7, 8, 1], &Condition::none()).contains("multiples of 4"));
    assert!(told([1, 8, 8, 3], &Condition::none()).contains("3 channels"));
    assert!(told([1, 8, 8, 1], &Condition::classes([2])).contains("out of range"));
    let other = network.sample([8, 8, 1], &mixture(3, 17), &Keys::range(0, 0, 1), &Condition::none());
    assert!(other.unwrap_err().to_string().contains("20 for pixels of 3"));
    let device = Device::flex();
    let built = |config: PixelCnnPpConfig| config.build(1, 6, 0, &mut Init::new(1, &device)).unwrap_err().to_string();
    assert!(built(PixelCnnPpConfig { levels: 9, ..SMALL }).contains("levels"));
    assert!(built(PixelCnnPpConfig { blocks: 0, ..SMALL }).contains("at least 1"));
    assert!(built(PixelCnnPpConfig { dropout: 1.0, ..SMALL }).contains("dropout"));
}
