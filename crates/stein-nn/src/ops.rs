//! The operations networks are made of, on channels-last tensors `[N, H, W, C]`.
//!
//! Every layer is built on these functions only. Here they are compositions of burn operations, differentiable and
//! valid on any burn device and float type; burn's convolution wants `[N, C, H, W]`, so [`conv2d`] permutes around it.

use burn::tensor::{Tensor, activation, module, ops::ConvOptions};

/// x W + b over the last axis: `x` `[…, in]`, `weight` `[in, out]`, `bias` `[out]`, result `[…, out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let mut dims = x.dims();
    let [inputs, outputs] = weight.dims();
    dims[D - 1] = outputs;
    let x: Tensor<2> = x.reshape([-1, inputs as isize]);
    // The CPU's matrix product sums a single row in another order than a row among others where it has more than 512
    // inputs. A second row keeps a sample independent of its batch to the last bit.
    let y = if x.dims()[0] == 1 && inputs > 512 {
        module::linear(x.expand([2, inputs]), weight, bias).narrow(0, 0, 1)
    } else {
        module::linear(x, weight, bias)
    };
    y.reshape(dims)
}

/// x · sigmoid(x), elementwise (Elfwing et al., arXiv:1702.03118).
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::silu(x)
}

/// (x − mean) / sqrt(var + epsilon) · gamma + beta over the last axis (Ba et al., arXiv:1607.06450), `gamma` and `beta`
/// `[C]`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<D> {
    module::layer_norm(x, gamma, Some(beta), epsilon)
}

/// [`layer_norm`] of each group of C/groups channels over all places of an image (Wu & He, arXiv:1803.08494): `x`
/// `[N, H, W, C]`, `gamma` and `beta` `[C]`.
///
/// # Panics
/// If `groups` does not divide C.
pub fn group_norm(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, groups: usize, epsilon: f64) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(3);
    let x = x.reshape([n, h * w, groups, c / groups]);
    let x = x.clone() - mean(x);
    let x = x.clone() / (mean(x.clone() * x) + epsilon).sqrt();
    x.reshape([n, h, w, c]) * gamma.reshape([1, 1, 1, c]) + beta.reshape([1, 1, 1, c])
}

/// Cross-correlation with zero padding k/2: `x` `[N, H, W, in]`, `weight` `[out, in, k, k]` with odd k, `bias` `[out]`,
/// result `[N, ⌈H/stride⌉, ⌈W/stride⌉, out]`.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, stride: usize) -> Tensor<4> {
    let pad = weight.dims()[2] / 2;
    let options = ConvOptions::new([stride, stride], [pad, pad], [1, 1], 1);
    module::conv2d(x.permute([0, 3, 1, 2]), weight, Some(bias), options).permute([0, 2, 3, 1])
}

/// Every place repeated twice down and twice across: `[N, H, W, C]` to `[N, 2H, 2W, C]`.
pub fn upsample_nearest(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h, 1, w, 1, c]).expand([n, h, 2, w, 2, c]).reshape([n, 2 * h, 2 * w, c])
}

/// The mean of every 2 × 2 square: `[N, H, W, C]` to `[N, H/2, W/2, C]`.
///
/// # Panics
/// If H or W is odd.
pub fn average_pool(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h / 2, 2, w / 2, 2, c]).mean_dim(2).mean_dim(4).reshape([n, h / 2, w / 2, c])
}

/// softmax(q kᵀ / √d) v over the places of an image, per head of d = C/heads channels (Vaswani et al.,
/// arXiv:1706.03762): `q`, `k`, `v` and the result `[N, H, W, C]`.
///
/// # Panics
/// If `heads` does not divide C.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, heads: usize) -> Tensor<4> {
    let [n, h, w, c] = q.dims();
    let split = |x: Tensor<4>| x.reshape([n, h * w, heads, c / heads]).swap_dims(1, 2);
    let scores = split(q).matmul(split(k).swap_dims(2, 3)) * ((c / heads) as f64).powf(-0.5);
    activation::softmax(scores, 3).matmul(split(v)).swap_dims(1, 2).reshape([n, h, w, c])
}
