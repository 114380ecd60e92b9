//! Randomness keyed by (seed, sample, purpose, step), so that nothing depends on batch size, order or threads.
//!
//! The generator is ChaCha8, which is counter-based: the four numbers are its 256-bit key, and every draw is a function of
//! them alone. Changing one number gives an unrelated stream.

use burn::tensor::Tensor;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::{Error, Request, Result, ensure, rows};

/// What a draw is for. Two purposes never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Where sampling starts.
    Prior = 0,
    /// Noise a sampler adds; the step is the number of the draw.
    Sampler = 1,
    /// The level of a training example.
    Level = 2,
    /// The noise of a training example.
    Perturbation = 3,
    /// Drawing from an exact model.
    Model = 4,
}

/// Where the noise of a sampling run comes from.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Source {
    /// Drawn, keyed by (seed, sample, number of the draw).
    #[default]
    Keyed,
    /// These standard normal numbers, one list a draw in the order of the draws, each the batch's `[rows, dim]` in row
    /// order: for common random numbers between two runs, or for the very noise of another program. Only what a sampler
    /// adds is taken from here, not where it starts: for that see [`sample_from`](crate::sample_from).
    Given(Vec<Vec<f64>>),
}

/// The standard normal draws of one run of a sampler, one after the other.
pub(crate) struct Draws<'a> {
    seed: u64,
    numbers: Vec<u64>,
    source: &'a Source,
    made: u64,
}

impl<'a> Draws<'a> {
    pub(crate) fn new(request: &'a Request) -> Self {
        Self { seed: request.seed, numbers: request.numbers(), source: &request.noise, made: 0 }
    }

    /// The next draw, of the shape `[rows, dim]`, device and precision of `like`.
    ///
    /// # Errors
    /// No given draw is left, or it is not of the batch's shape.
    pub(crate) fn normal(&mut self, like: &Tensor<2>) -> Result<Tensor<2>> {
        let draw = self.made;
        self.made += 1;
        let draws = match self.source {
            Source::Keyed => return Ok(normal_like(self.seed, &self.numbers, Purpose::Sampler, self.made, like)),
            Source::Given(draws) => draws,
        };
        let Some(values) = draws.get(draw as usize) else {
            return Err(Error::new(format!(
                "the noise was given for {} draw(s) and the sampler makes more: give one list a draw",
                draws.len()
            )));
        };
        let [rows, dim] = like.dims();
        ensure!(
            values.len() == rows * dim,
            "draw {draw} of the given noise has {} numbers for a batch of {rows} rows of {dim}",
            values.len()
        );
        Ok(rows::matrix(values.clone(), dim, like))
    }
}

/// The generator of one key.
pub fn generator(seed: u64, sample: u64, purpose: Purpose, step: u64) -> impl Rng {
    let mut key = [0; 32];
    for (bytes, number) in key.chunks_exact_mut(8).zip([seed, sample, purpose as u64, step]) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Standard normal rows `[samples, dim]` in row order, one key a sample.
pub fn normal(seed: u64, samples: &[u64], purpose: Purpose, step: u64, dim: usize) -> Vec<f64> {
    let mut values = vec![0.0; samples.len() * dim];
    values.par_chunks_mut(dim.max(1)).zip(samples).for_each(|(row, &sample)| {
        let mut generator = generator(seed, sample, purpose, step);
        row.iter_mut().for_each(|value| *value = StandardNormal.sample(&mut generator));
    });
    values
}

/// [`normal`] as a tensor on the device and of the precision of `like`.
pub fn normal_like(seed: u64, samples: &[u64], purpose: Purpose, step: u64, like: &Tensor<2>) -> Tensor<2> {
    let dim = like.dims()[1];
    rows::matrix(normal(seed, samples, purpose, step, dim), dim, like)
}

/// One uniform number in [0, 1) a sample.
pub fn uniform(seed: u64, samples: &[u64], purpose: Purpose, step: u64) -> Vec<f64> {
    // The top 53 bits over 2^53: every double of that spacing, 1 excluded.
    let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
    samples.iter().map(|&sample| unit(generator(seed, sample, purpose, step).next_u64())).collect()
}
