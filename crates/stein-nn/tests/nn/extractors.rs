//! What FID's Inception-v3 and LPIPS promise besides their values, which the golden tests compare.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use stein_nn::{Backbone, Inception, Lpips, Resize, layers::Init, state};

use crate::{shaken, uniform};

const BACKBONES: [Backbone; 3] = [Backbone::Alex, Backbone::Vgg, Backbone::Squeeze];

fn pictures(shape: [usize; 4], seed: u64, kind: DType, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(uniform(shape.iter().product(), seed), shape), (device, kind))
}

fn read<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[test]
fn features_of_a_picture_do_not_depend_on_its_batch() {
    let device = Device::flex();
    let network = Inception::new(&mut Init::new(1, &device));
    // More than are computed at once.
    let all = pictures([9, 20, 30, 3], 1, DType::F32, &device);
    let features = network.features(all.clone(), Resize::Tensorflow).unwrap();
    assert_eq!((features.pool.dims(), features.logits.dims()), ([9, 2048], [9, 1008]));
    for row in [0, 8] {
        let one = network.features(all.clone().narrow(0, row, 1), Resize::Tensorflow).unwrap();
        assert!(read(one.pool) == read(features.pool.clone().narrow(0, row, 1)), "picture {row}");
        assert!(read(one.logits) == read(features.logits.clone().narrow(0, row, 1)), "picture {row}");
    }
}

#[test]
fn gray_is_equal_channels() {
    let device = Device::flex();
    let network = Inception::new(&mut Init::new(1, &device));
    let gray = pictures([1, 28, 28, 1], 1, DType::F32, &device);
    let features = |x| read(network.features(x, Resize::Bilinear).unwrap().pool);
    let [found, wanted] = [gray.clone(), gray.expand([1, 28, 28, 3])].map(features);
    let largest = wanted.iter().fold(0f64, |most, x| most.max(*x));
    // Pictures of other channels are resized by sums in another order.
    assert!(largest > 0.0 && found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= 1e-5 * largest));
}

#[test]
fn features_are_differentiable_by_pictures() {
    let device = Device::flex().autodiff();
    let network = state::cast(Inception::new(&mut Init::new(1, &device)), DType::F64).no_grad();
    let (at, along) =
        (|| pictures([1, 9, 12, 3], 1, DType::F64, &device) * 0.9, pictures([1, 9, 12, 3], 2, DType::F64, &device));
    let weights = || Tensor::<1>::from_data(uniform(2048, 3).as_slice(), (&device, DType::F64)).reshape([1, 2048]);
    let run = |x: Tensor<4>| (network.features(x, Resize::Bilinear).unwrap().pool * weights()).sum();
    let x = at().require_grad();
    let gradient = x.grad(&run(x.clone()).backward()).unwrap();
    let slope: f64 = (gradient * along.clone().inner()).sum().into_scalar();
    // Small, so that few maxima and signs change on the way.
    let step = 1e-8;
    let moved = |by: f64| run(at() + along.clone() * by).into_scalar::<f64>();
    let wanted = (moved(step) - moved(-step)) / (2.0 * step);
    assert!(wanted.abs() > 1e-6, "there is something to compare");
    // Of rounding, 1e-16 of features near 1e-3 over the step are left, of numbers near 1e-5.
    assert!((slope - wanted).abs() <= 1e-4 * wanted.abs(), "{slope} for {wanted}");
}

#[test]
fn features_refuse_what_are_no_pictures() {
    let device = Device::flex();
    let network = Inception::new(&mut Init::new(1, &device));
    let fault = |x: Tensor<4>| network.features(x, Resize::Bilinear).unwrap_err().to_string();
    let of = |shape| Tensor::<4>::zeros(shape, &device);
    assert!(fault(of([0, 8, 8, 3])).contains("0 pictures"));
    assert!(fault(of([1, 0, 8, 3])).contains("0 x 8"));
    assert!(fault(of([1, 8, 8, 4])).contains("4 channels"));
    assert!(fault(of([1, 8, 8, 3]) + 255.0).contains("[-1, 1]"));
    assert!(fault(of([1, 8, 8, 3]) + f64::NAN).contains("[-1, 1]"));
}

#[test]
fn distances_of_the_smallest_pictures() {
    let device = Device::flex();
    for (backbone, least) in BACKBONES.into_iter().zip([31, 16, 25]) {
        let network = shaken(Lpips::new(backbone, &mut Init::new(1, &device)), DType::F32);
        let distance = |size: usize, seed| {
            let [a, b] = [seed, seed + 1].map(|seed| pictures([2, size, size + 3, 3], seed, DType::F32, &device));
            network.distance(a, b)
        };
        let found = read(distance(least, 1).unwrap());
        assert!(found.len() == 2 && found.iter().all(|x| x.is_finite() && *x != 0.0), "{backbone:?}: {found:?}");
        let fault = distance(least - 1, 1).unwrap_err().to_string();
        assert!(fault.contains(&format!("no less than {least} x {least}")), "{fault}");
    }
}

/// Where all channels are 0 a length has no slope, and neither has the distance of a picture to itself.
#[test]
fn gradients_of_distances_are_finite() {
    let device = Device::flex().autodiff();
    for backbone in BACKBONES {
        // Of zeros all features are zeros.
        for network in [
            shaken(Lpips::new(backbone, &mut Init::new(1, &device)), DType::F32).no_grad(),
            state::cast(Lpips::new(backbone, &mut Init::new(1, &device)), DType::F32).no_grad().map(&mut Zeros),
        ] {
            let x = pictures([1, 32, 32, 3], 1, DType::F32, &device).require_grad();
            let distance = network.distance(x.clone(), x.clone().detach()).unwrap();
            let gradient = x.grad(&distance.sum().backward()).unwrap();
            assert!(read(gradient).iter().all(|x| *x == 0.0), "{backbone:?}");
        }
    }
}

#[test]
fn distances_refuse_pictures_that_differ_in_shape() {
    let device = Device::flex();
    let network = Lpips::new(Backbone::Alex, &mut Init::new(1, &device));
    let of = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    let fault = |a, b| network.distance(of(a), of(b)).unwrap_err().to_string();
    assert!(fault([1, 32, 32, 3], [2, 32, 32, 3]).contains("one shape"));
    assert!(fault([0, 32, 32, 3], [0, 32, 32, 3]).contains("no pictures"));
    assert!(fault([1, 32, 32, 1], [1, 32, 32, 1]).contains("1 channels"));
}

struct Zeros;

impl burn::module::ModuleMapper for Zeros {
    fn map_float<const D: usize>(&mut self, param: burn::module::Param<Tensor<D>>) -> burn::module::Param<Tensor<D>> {
        param.map(|old| old.zeros_like())
    }
}
