//! The loss at each level, learned beside a network, so that all levels count alike: u(σ) ≈ ln L(σ), and the loss is L/e^u + u (Karras
//! et al. 2024, "EDM2", arXiv:2312.02696, eq. 14 and 15; with w = −u it is the adaptive weight of Lu and Song 2024, algorithm 1).

use stein::{Condition, Context, Examples, Kernel, Network, Result, Tensor, rows};
use stein_nn::{MlpConfig, NetworkConfig};

use super::{Learner, Learners, Make};

/// The name of the learner.
pub(super) const UNCERTAINTY: &str = "uncertainty";

/// The learner of u, a small perceptron.
pub(super) fn learner(make: &Make) -> Result<Learner> {
    let config = MlpConfig { hidden: 64, blocks: 1, embedding_dim: 32, ..MlpConfig::default() };
    let network = NetworkConfig::Mlp(config).build(&[1], 0, make.seed, make.device)?;
    Ok(Learner { averaged: false, ..Learner::new(UNCERTAINTY, network) })
}

/// L/e^u + u, of which each learner moves its own part; `losses` gives a number a row, `[rows, 1]`, and its level. u needs few examples,
/// and another evaluation for each.
pub(super) fn weighted(
    turn: &str,
    learners: &Learners,
    examples: &Examples,
    losses: impl FnOnce(&Examples) -> Result<(Tensor<2>, Vec<Kernel>)>,
) -> Result<Tensor<1>> {
    let all = examples.x0.dims()[0];
    let count = if turn == UNCERTAINTY { all.div_ceil(8) } else { all };
    let places: Vec<usize> = (0..count).collect();
    let x0 = examples.x0.clone().narrow(0, 0, count);
    let (given, keys) = (examples.given.select(&places), examples.keys.select(&places));
    let (losses, levels) = losses(&Examples { x0: &x0, given: &given, keys: &keys, truth: examples.truth })?;
    // ln(σ/α)/4, as far as there is signal.
    let noise = levels.iter().map(|at| (0.25 * at.noise_to_signal().ln()).clamp(-5.0, 5.0)).collect();
    let noise = rows::vector(noise, &x0);
    let nothing = x0.clone().narrow(1, 0, 1).zeros_like();
    let none = Condition::none();
    let u = learners.network(UNCERTAINTY)?.forward(nothing.into(), &Context::new(noise, &none))?.value;
    Ok((losses * (-u.clone()).exp() + u).mean())
}
