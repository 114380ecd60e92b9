//! Randomness keyed by (seed, index, purpose, step), so that nothing depends on batch size, order or threads.
//!
//! The generator is ChaCha8, which is counter-based: the four numbers are its 256-bit key, and every draw is a function of
//! them alone. Changing one number gives an unrelated stream. All crates draw from here: a [`Purpose`] belongs to one use,
//! so that two uses never share a stream.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};
use rayon::prelude::*;

/// What a draw is for. Two purposes never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Where sampling starts.
    Prior,
    /// Fresh noise a sampler adds; the step is the number of the draw.
    Sampler,
    /// The path of the noise a sampler adds over intervals; the step is the place on the path.
    Path,
    /// The level of a training example.
    Level,
    /// The noise of a training example.
    Perturbation,
    /// Values a network drops in training; the step is the layer.
    Dropout,
    /// Whether a training example hides its class.
    LabelDropout,
    /// Drawing from an exact model.
    Model,
    /// Points of a synthetic data set.
    Point,
    /// The order of the examples; the index is the epoch.
    Order,
    /// Mirroring and other variations of an example.
    Augment,
    /// Spreading gray levels over their intervals.
    Dequantize,
    /// Initial weights; the index is the number of the parameter.
    Weights,
    /// Projections and probes of derivatives.
    Probe,
    /// The class of a sample.
    Class,
    /// The noise of a simulated measurement.
    Measurement,
    /// What a measurement itself is made of at random: a mask, a matrix, a motion.
    Instrument,
    /// Which particles go on.
    Resample,
    /// Which item of another data set an example goes with.
    Source,
    /// The noise of a pair that a model makes to be learned from.
    Pair,
    /// Which row of the source an example is paired with.
    Coupling,
    /// Which of the latents that an encoder holds for possible is taken.
    Latent,
    /// A use of one's own, by a number of one's own.
    Own(u32),
}

impl Purpose {
    fn word(self) -> u64 {
        match self {
            Self::Prior => 0,
            Self::Sampler => 1,
            Self::Level => 2,
            Self::Perturbation => 3,
            Self::Model => 4,
            Self::Path => 5,
            Self::Dropout => 6,
            Self::LabelDropout => 7,
            Self::Point => 8,
            Self::Order => 9,
            Self::Augment => 10,
            Self::Dequantize => 11,
            Self::Weights => 12,
            Self::Probe => 13,
            Self::Class => 14,
            Self::Measurement => 15,
            Self::Resample => 16,
            Self::Instrument => 17,
            Self::Coupling => 18,
            Self::Source => 19,
            Self::Pair => 20,
            Self::Latent => 21,
            Self::Own(number) => 1 << 32 | u64::from(number),
        }
    }
}

/// The name of one stream of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    seed: u64,
    purpose: Purpose,
    index: u64,
    step: u64,
}

impl Key {
    /// The stream of a seed and a purpose, at index 0 and step 0.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self { seed, purpose, index: 0, step: 0 }
    }

    /// The same for this index: the number of a sample, an example or a parameter.
    #[must_use]
    pub fn at(self, index: u64) -> Self {
        Self { index, ..self }
    }

    /// The same for this step: the number of a draw.
    #[must_use]
    pub fn step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// A generator at the start of the stream.
    pub fn generator(self) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([self.seed, self.index, self.purpose.word(), self.step]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }

    /// The first word of the stream: a seed for something else.
    pub fn word(self) -> u64 {
        self.generator().next_u64()
    }

    /// Fills a slice with standard normal numbers from the start of the stream.
    pub fn fill_normal(self, values: &mut [f64]) {
        let mut generator = self.generator();
        values.iter_mut().for_each(|value| *value = StandardNormal.sample(&mut generator));
    }
}

/// Uniform in [0, 1): the top 53 bits over 2^53, every double of that spacing.
pub fn uniform(generator: &mut impl Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A number of a Poisson law of this mean; `None` for a mean that is negative, above 1e15 or not a number.
pub fn poisson(generator: &mut impl Rng, mean: f64) -> Option<f64> {
    if mean == 0.0 {
        return Some(0.0);
    }
    (0.0..=1e15).contains(&mean).then(|| Poisson::new(mean).ok()).flatten().map(|law| law.sample(generator))
}

/// Uniform in `0..n`, by multiplication: written out because a library may change its way, and every run's order of
/// samples with it.
pub fn below(generator: &mut impl Rng, n: usize) -> usize {
    ((u128::from(generator.next_u64()) * n as u128) >> 64) as usize
}

/// What keys the rows of a batch: a seed, and the number of every row's sample or example.
///
/// What is drawn for a row is a function of its number alone, however the batch is cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    /// The seed of the run.
    pub seed: u64,
    /// The number of the sample or example in each row.
    pub rows: Vec<u64>,
}

impl Keys {
    /// Keys of consecutive numbers.
    pub fn range(seed: u64, first: u64, rows: usize) -> Self {
        Self { seed, rows: (first..first + rows as u64).collect() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The keys of some rows, by their places in the batch.
    ///
    /// # Panics
    /// If a place is not in the batch, which is the caller's broken invariant.
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        Self { seed: self.seed, rows: places.iter().map(|&place| self.rows[place]).collect() }
    }

    /// The stream of each row for a purpose and step.
    pub fn each(&self, purpose: Purpose, step: u64) -> impl Iterator<Item = Key> + '_ {
        let key = Key::new(self.seed, purpose).step(step);
        self.rows.iter().map(move |&row| key.at(row))
    }

    /// Standard normal rows of `dim` numbers each, in row order.
    pub fn normal(&self, purpose: Purpose, step: u64, dim: usize) -> Vec<f64> {
        let mut values = vec![0.0; self.len() * dim];
        let key = Key::new(self.seed, purpose).step(step);
        let rows = values.par_chunks_mut(dim.max(1)).zip(&self.rows);
        rows.for_each(|(values, &row)| key.at(row).fill_normal(values));
        values
    }

    /// One uniform number in [0, 1) per row.
    pub fn uniform(&self, purpose: Purpose, step: u64) -> Vec<f64> {
        self.uniforms(purpose, step, 1)
    }

    /// Rows of `dim` uniform numbers in [0, 1) each, in row order.
    pub fn uniforms(&self, purpose: Purpose, step: u64, dim: usize) -> Vec<f64> {
        let mut values = vec![0.0; self.len() * dim];
        let key = Key::new(self.seed, purpose).step(step);
        let rows = values.par_chunks_mut(dim.max(1)).zip(&self.rows);
        rows.for_each(|(values, &row)| {
            let mut generator = key.at(row).generator();
            values.iter_mut().for_each(|value| *value = uniform(&mut generator));
        });
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn purposes_share_no_stream() {
        let purposes = [
            Purpose::Prior,
            Purpose::Sampler,
            Purpose::Path,
            Purpose::Level,
            Purpose::Perturbation,
            Purpose::Dropout,
            Purpose::LabelDropout,
            Purpose::Model,
            Purpose::Point,
            Purpose::Order,
            Purpose::Augment,
            Purpose::Dequantize,
            Purpose::Weights,
            Purpose::Probe,
            Purpose::Class,
            Purpose::Measurement,
            Purpose::Resample,
            Purpose::Instrument,
            Purpose::Coupling,
            Purpose::Latent,
            Purpose::Own(0),
            Purpose::Own(3),
        ];
        // Every small seed, index and step of every purpose: as the words stand at fixed places, all keys differ, where a
        // loader and an objective with orders of words of their own met at (0, 3, 3, 0).
        let mut firsts = BTreeSet::new();
        let mut count = 0;
        for purpose in purposes {
            for (seed, index, step) in (0..216).map(|k| (k / 36, k / 6 % 6, k % 6)) {
                firsts.insert(Key::new(seed, purpose).at(index).step(step).generator().next_u64());
                count += 1;
            }
        }
        assert_eq!(firsts.len(), count);
    }

    #[test]
    fn rows_do_not_depend_on_the_cut() {
        let keys = Keys::range(7, 10, 5);
        let whole = keys.normal(Purpose::Perturbation, 2, 3);
        let cut = [keys.select(&[0, 1]), keys.select(&[2, 3, 4])].map(|keys| keys.normal(Purpose::Perturbation, 2, 3));
        assert_eq!(whole, cut.concat());
        assert!(keys.uniform(Purpose::Level, 0).iter().all(|u| (0.0..1.0).contains(u)));
    }

    #[test]
    fn below_is_in_range_and_even() {
        let mut generator = Key::new(1, Purpose::Own(1)).generator();
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[below(&mut generator, 7)] += 1);
        // Five standard deviations of a binomial count: 5 · sqrt(70000 · 6/49) = 463.
        assert!(counts.iter().all(|count| i32::abs_diff(*count, 10_000) < 463), "{counts:?}");
    }
}
