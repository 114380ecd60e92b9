//! Counter-based randomness: a stream is named by what it is for, never by what was drawn before.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// What a stream is for; two purposes with the same seed and index share no numbers.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Point = 1,
    Permute = 2,
    Augment = 3,
}

/// The stream of `purpose` at (`seed`, `a`, `b`): the key is these four words.
pub(crate) fn stream(purpose: Purpose, seed: u64, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, a, b]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in [0, 1).
pub(crate) fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform in `0..n`, by multiplication: written out because a library may change its way, and every run's order of
/// samples with it.
pub(crate) fn below(rng: &mut impl Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}
