//! The network operations' compositions and their gradients on burn's wgpu engine, against the CPU's kernels. Run by
//! `scripts/check-wgpu`.

use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use stein::{Key, Purpose, random::uniform};
use stein_nn::ops::{self, Activation, Conv, Dual, Norm, Packed, Weighted};

/// The output along a fixed direction, and the gradient of every input.
fn run(device: &Device, sizes: &[usize], f: &dyn Fn(Vec<Tensor<1>>) -> Tensor<1>) -> Vec<Vec<f32>> {
    let mut random = Key::new(1, Purpose::Own(0)).generator();
    let mut number = || (2.0 * uniform(&mut random) - 1.0) as f32;
    let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| number()).collect() };
    let leaves: Vec<Tensor<1>> = sizes
        .iter()
        .map(|size| Tensor::from_data(TensorData::new(numbers(*size), [*size]), device).require_grad())
        .collect();
    let y = f(leaves.clone());
    let count = y.dims()[0];
    let direction = Tensor::from_data(TensorData::new(numbers(count), [count]), device);
    let gradients = (y.clone() * direction).sum().backward();
    let values = |x: Tensor<1>| x.into_data().try_into_vec::<f32>().expect("both devices compute in f32");
    let gradients = leaves.iter().map(|leaf| values(leaf.grad(&gradients).expect("every input has a gradient")));
    [values(y.inner())].into_iter().chain(gradients).collect()
}

/// Both devices round f32 sums of some hundred terms in their own order, and Winograd's method rounds some times more.
const BOUND: f32 = 1e-5;

fn check(name: &str, sizes: &[usize], f: &dyn Fn(Vec<Tensor<1>>) -> Tensor<1>) {
    let cpu = run(&Device::flex().autodiff(), sizes, f);
    let gpu = run(&Device::wgpu(DeviceKind::DefaultDevice).autodiff(), sizes, f);
    for (i, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        let largest = cpu.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
        let error = cpu.iter().zip(gpu).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest;
        println!("{name}, {}: {error:.1e}", if i == 0 { "output".to_owned() } else { format!("gradient {i}") });
        assert!(error < BOUND, "{name}: tensor {i} differs by {error}");
    }
}

fn flat<const D: usize>(x: Dual<D>) -> Tensor<1> {
    let count = x.value.shape().num_elements();
    x.value.reshape([count])
}

fn dual<const D: usize>(x: &Tensor<1>, shape: [usize; D]) -> Dual<D> {
    x.clone().reshape(shape).into()
}

#[test]
fn operations_agree() {
    let packed = Packed::default();
    let layer = |weight: &Tensor<1>, bias: &Tensor<1>, shape: [usize; 4]| Weighted {
        weight: weight.clone().reshape(shape),
        bias: Some(bias.clone()),
        packed: &packed,
    };
    let norm = |gamma: &Tensor<1>, beta: &Tensor<1>, groups, silu| Norm {
        gamma: gamma.clone(),
        beta: beta.clone(),
        groups,
        epsilon: 1e-5,
        modulation: None,
        silu,
    };
    check("linear", &[5 * 7, 7 * 9, 9], &|x| {
        let layer = Weighted { weight: x[1].clone().reshape([7, 9]), bias: Some(x[2].clone()), packed: &packed };
        flat(ops::linear(dual(&x[0], [5, 7]), layer, None))
    });
    for kind in Activation::ALL {
        check(&format!("{kind:?}"), &[40], &|x| flat(ops::activate(dual(&x[0], [40]), kind)));
    }
    check("layer norm", &[6 * 10, 10, 10], &|x| {
        flat(ops::layer_norm(dual(&x[0], [6, 10]), x[1].clone(), x[2].clone(), 1e-5, true))
    });
    check("group norm", &[2 * 5 * 4 * 8, 8, 8], &|x| {
        flat(ops::group_norm(dual(&x[0], [2, 5, 4, 8]), &norm(&x[1], &x[2], 4, true)))
    });
    for (stride, pad) in [(1, [1; 4]), (2, [0, 1, 0, 1])] {
        check(&format!("convolution of stride {stride}"), &[2 * 8 * 6 * 16, 9 * 16 * 20, 20], &|x| {
            let layer = layer(&x[1], &x[2], [3, 3, 16, 20]);
            flat(ops::conv2d(vec![dual(&x[0], [2, 8, 6, 16])], Conv { stride, pad, ..Conv::new(layer) }))
        });
    }
    let sizes = [2 * 4 * 4 * 6, 2 * 4 * 4 * 10, 9 * 16 * 16, 16, 16, 16, 2 * 16, 2 * 8 * 8 * 16];
    check("convolution with everything", &sizes, &|x| {
        let conv = Conv {
            norm: Some(norm(&x[4], &x[5], 4, true)),
            upsample: true,
            shift: Some(dual(&x[6], [2, 16])),
            residual: Some(dual(&x[7], [2, 8, 8, 16])),
            scale: 0.5,
            ..Conv::new(layer(&x[2], &x[3], [3, 3, 16, 16]))
        };
        flat(ops::conv2d(vec![dual(&x[0], [2, 4, 4, 6]), dual(&x[1], [2, 4, 4, 10])], conv))
    });
    check("up-sampling", &[2 * 3 * 3 * 5], &|x| flat(ops::upsample_nearest(dual(&x[0], [2, 3, 3, 5]))));
    check("pooling", &[2 * 4 * 6 * 5], &|x| flat(ops::average_pool(dual(&x[0], [2, 4, 6, 5]))));
    check("attention", &[2 * 9 * 8, 2 * 7 * 8, 2 * 7 * 8], &|x| {
        flat(ops::attention(dual(&x[0], [2, 9, 8]), dual(&x[1], [2, 7, 8]), dual(&x[2], [2, 7, 8]), 2))
    });
    check("cosines and sines", &[3 * 4], &|x| flat(ops::cos_sin(dual(&x[0], [3, 4]))));
}
