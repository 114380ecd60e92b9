//! Tapes side by side: a small network's batch on as many threads as it has shares.

use std::ops::Range;

use burn::module::Module;
use rayon::prelude::*;
use stein_simd::on_one_thread;

use crate::state;

/// Multiplications of a batch by weights from which a second tape is worth its making.
const WORTH: usize = 8_000_000;

/// Gives `work` the rows of a batch, all or in equal shares, each with the network as leaves of a tape of its own, which
/// share memory with the original until either changes. Returns the results in the order of the rows.
///
/// The products of a perceptron are too short to be worth splitting over threads. Its kernels stay on one thread, and two
/// halves of a batch go side by side where that is enough work. The shares depend on sizes alone: they round sums in another
/// order, and a run has to be the same on any number of threads.
pub fn side_by_side<M: Module + Sync, T: Send>(
    network: &M,
    batch: usize,
    work: impl Fn(M, Range<usize>) -> T + Sync,
) -> Vec<T> {
    let much = network.num_params() * batch >= WORTH;
    match (much, batch.is_multiple_of(2)) {
        (false, _) => vec![on_one_thread(|| one(network, batch, &work))],
        (true, false) => vec![one(network, batch, work)],
        (true, true) => {
            let half = batch / 2;
            let share = |from: usize| on_one_thread(|| work(leaves(network), from..from + half));
            [0, half].into_par_iter().map(share).collect()
        }
    }
}

/// All rows on one tape, whose kernels use all threads.
pub(crate) fn one<M: Module, T>(network: &M, batch: usize, work: impl Fn(M, Range<usize>) -> T) -> T {
    work(leaves(network), 0..batch)
}

fn leaves<M: Module>(network: &M) -> M {
    state::map(network.clone(), |_, weight| weight)
}
