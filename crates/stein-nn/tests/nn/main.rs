//! The networks and what trains and keeps them, on the CPU.

mod averages;
mod checkpoints;
mod classifier;
mod every;
mod extractors;
mod flows;
mod gan;
mod gradients;
mod hostile;
mod networks;
mod operations;
mod own;
mod pickles;
mod pixel_cnn_pp;
mod sizes;
mod tangents;
mod training;

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use stein::{Condition, Context, Key, Network, Purpose, random};
use stein_nn::{MlpConfig, NetworkConfig, Unet1dConfig, UnetConfig};

/// Numbers in (-1, 1), the same for the same seed.
fn uniform(count: usize, seed: u64) -> Vec<f64> {
    let mut generator = Key::new(seed, Purpose::Own(0)).generator();
    (0..count).map(|_| 2.0 * random::uniform(&mut generator) - 1.0).collect()
}

/// A matrix of such numbers.
fn matrix(rows: usize, dim: usize, seed: u64, kind: DType, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(uniform(rows * dim, seed), [rows, dim]), (device, kind))
}

/// A vector of such numbers.
fn vector(count: usize, seed: u64, kind: DType, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(uniform(count, seed), [count]), (device, kind))
}

/// Adds noise to every parameter, so that layers which start at zero take part, and casts them all.
fn shaken<M: Module>(network: M, kind: DType) -> M {
    struct Shake(u64, DType);
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            param.map(|old| {
                let trained = old.is_require_grad();
                let dims = old.dims();
                let noise = Tensor::<1>::from_data(
                    uniform(old.shape().num_elements(), self.0).as_slice(),
                    (&old.device(), self.1),
                );
                (old.detach().cast(self.1) + noise.reshape(dims) * 0.1).detach().set_require_grad(trained)
            })
        }
    }
    network.map(&mut Shake(0, kind))
}

/// The output for rows and noise numbers outside of training.
fn output(network: &impl Network, x: Tensor<2>, noise: Tensor<1>, given: &Condition) -> Tensor<2> {
    network.forward(x.into(), &Context::new(noise, given)).unwrap().value
}

fn small_mlp() -> NetworkConfig {
    NetworkConfig::Mlp(MlpConfig { hidden: 16, blocks: 2, embedding_dim: 8, ..MlpConfig::default() })
}

fn small_unet(multipliers: &[usize], attention: &[usize]) -> NetworkConfig {
    NetworkConfig::Unet(UnetConfig {
        channels: 8,
        multipliers: multipliers.to_vec(),
        blocks: 1,
        attention: attention.to_vec(),
        heads: 2,
        ..UnetConfig::default()
    })
}

fn small_unet_1d(multipliers: &[usize], attention: &[usize]) -> NetworkConfig {
    NetworkConfig::Unet1d(Unet1dConfig {
        channels: 8,
        multipliers: multipliers.to_vec(),
        blocks: 1,
        attention: attention.to_vec(),
        heads: 2,
        ..Unet1dConfig::default()
    })
}
