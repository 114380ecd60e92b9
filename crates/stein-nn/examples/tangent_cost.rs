//! What a Jacobian-vector product through a network costs, in evaluations of it: `cargo run --release --example tangent_cost`.
//!
//! Continuous-time consistency and MeanFlow take one such product for every example they train on.

use std::time::Instant;

use stein::{Condition, Context, Device, Dual, Network, Result, Tensor, rows};
use stein_nn::{AnyNetwork, MlpConfig, NetworkConfig, UnetConfig};

const ROWS: usize = 64;

/// Seconds of an evaluation of 64 rows, with tangents or without.
fn seconds(network: &AnyNetwork, dim: usize, tangents: bool, times: u32) -> Result<f64> {
    let like = Tensor::<2>::empty([0, 1], &Device::flex());
    let x = rows::matrix((0..ROWS * dim).map(|i| (0.37 * i as f64).sin()).collect(), dim, &like);
    let noise = rows::vector((0..ROWS).map(|i| 0.01 * i as f64).collect(), &like);
    let given = Condition::classes((0..ROWS as u32).map(|row| row % 10));
    let since = Instant::now();
    for _ in 0..times {
        let (x, noise): (Dual<2>, Dual<1>) = match tangents {
            true => (Dual::new(x.clone(), x.clone()), Dual::new(noise.clone(), noise.clone())),
            false => (x.clone().into(), noise.clone().into()),
        };
        let y = network.forward(x, &Context { noise, second: None, given: &given, dropout: None })?;
        // Read, because only then it is certain to be worked out.
        y.value.into_data();
        y.tangent.map(Tensor::into_data);
    }
    Ok(since.elapsed().as_secs_f64() / f64::from(times))
}

fn main() -> Result<()> {
    let unet =
        UnetConfig { channels: 32, multipliers: vec![1, 2, 2], blocks: 1, attention: vec![7], ..UnetConfig::default() };
    for (name, config, shape, times) in [
        ("perceptron of 64 values", NetworkConfig::Mlp(MlpConfig::default()), &[64][..], 400),
        ("U-Net of 28 x 28", NetworkConfig::Unet(unet), &[28, 28, 1], 10),
    ] {
        let network = config.build(shape, 10, 0, &Device::flex())?;
        let dim = shape.iter().product();
        seconds(&network, dim, true, times)?;
        let mut costs = Vec::new();
        for _ in 0..9 {
            costs.push(seconds(&network, dim, true, times)? / seconds(&network, dim, false, times)?);
        }
        costs.sort_by(f64::total_cmp);
        println!("{name}: {:.2} evaluations (from {:.2} to {:.2})", costs[4], costs[0], costs[8]);
    }
    Ok(())
}
