//! Batches of samples in a random order that depends on nothing but a seed.
//!
//! Position `p` counts the samples ever handed out: it lies in epoch `p / N`, whose order is a permutation of all `N`
//! samples drawn from (seed, epoch); batches run across the ends of epochs. Flips and dequantisation are drawn from
//! (seed, `p`). So a batch is a function of (configuration, start, count): it does not matter how the stream was cut
//! before, and resuming needs the position alone.

use crate::{
    Data, Result, Shape,
    error::fail,
    random::{Purpose, below, stream, uniform},
};
use serde::{Deserialize, Serialize};

/// How samples are ordered and varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Default 0.
    pub seed: u64,
    /// Mirror each image left to right with probability 1/2; images only, default false.
    pub flip: bool,
    /// Spread each grey level evenly over its interval: x = (level + u) / levels, u uniform in [0, 1); quantised
    /// images only, default false.
    pub dequantize: bool,
}

/// Some samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[count * dim]`, images in [0, 1], rows in their own units.
    pub x: Vec<f32>,
    /// `[count]`: which sample of the data each is.
    pub index: Vec<usize>,
    /// `[count]`: the class of each, where the data have classes.
    pub labels: Option<Vec<usize>>,
}

/// Hands out the batches of a data set.
#[derive(Debug, Clone)]
pub struct Loader<'a> {
    data: &'a Data,
    config: LoaderConfig,
    /// The epoch last used and its order.
    order: (u64, Vec<u32>),
}

impl<'a> Loader<'a> {
    /// A loader of `data`.
    ///
    /// # Errors
    /// When `flip` or `dequantize` is asked of data that are not images, or the samples are 2³² or more.
    pub fn new(data: &'a Data, config: LoaderConfig) -> Result<Loader<'a>> {
        if config.flip && !data.is_image() {
            fail!("{} has no images to mirror: set `flip = false`", data.name);
        }
        if config.dequantize && data.levels().is_none() {
            fail!("{} has real values, not grey levels: set `dequantize = false`", data.name);
        }
        if data.len() > u32::MAX as usize {
            fail!("{} has {} samples: use fewer than 2^32", data.name, data.len());
        }
        Ok(Loader { data, config, order: (0, order(config.seed, 0, data.len())) })
    }

    /// The samples at the positions `start..start + count`; `start` counts the samples handed out before.
    pub fn batch(&mut self, start: u64, count: usize) -> Batch {
        let (n, dim) = (self.data.len() as u64, self.data.dim());
        let mut x = vec![0.0; count * dim];
        let mut index = Vec::with_capacity(count);
        for (position, out) in (start..).zip(x.chunks_exact_mut(dim)) {
            let epoch = position / n;
            if self.order.0 != epoch {
                self.order = (epoch, order(self.config.seed, epoch, self.data.len()));
            }
            let i = self.order.1[(position % n) as usize] as usize;
            self.data.row(i, out);
            self.vary(position, out);
            index.push(i);
        }
        let labels = self.data.labels.as_ref().map(|labels| index.iter().map(|&i| labels[i]).collect());
        Batch { x, index, labels }
    }

    fn vary(&self, position: u64, x: &mut [f32]) {
        if !self.config.flip && !self.config.dequantize {
            return;
        }
        let mut rng = stream(Purpose::Augment, self.config.seed, position, 0);
        // Drawn in any case, so that the noise is the same with flips as without.
        let mirrored = below(&mut rng, 2) == 1;
        if let Some(levels) = self.data.levels().filter(|_| self.config.dequantize) {
            let (top, levels) = (f64::from(levels - 1), f64::from(levels));
            for v in x.iter_mut() {
                let spread = (f64::from(*v) * top).round() + uniform(&mut rng);
                // Rounding to f32 may reach the next level, which at the top is 1.
                *v = (spread / levels) as f32;
            }
        }
        if let Shape::Image { width, channels, .. } = self.data.shape
            && self.config.flip
            && mirrored
        {
            for row in x.chunks_exact_mut(width * channels) {
                for column in 0..width / 2 {
                    for channel in 0..channels {
                        row.swap(column * channels + channel, (width - 1 - column) * channels + channel);
                    }
                }
            }
        }
    }
}

/// The order of the `n` samples in an epoch (Fisher & Yates).
fn order(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
    let mut rng = stream(Purpose::Permute, seed, epoch, 0);
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        order.swap(i, below(&mut rng, i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, Split};

    const VARIED: LoaderConfig = LoaderConfig { seed: 7, flip: true, dequantize: true };

    fn digits() -> Data {
        Source::named("digits").unwrap().load(Split::Test, None).unwrap()
    }

    #[test]
    fn an_epoch_has_every_sample_once() {
        let data = digits();
        let mut loader = Loader::new(&data, LoaderConfig::default()).unwrap();
        let epochs: Vec<Vec<usize>> = (0..3).map(|e| loader.batch(e * data.len() as u64, data.len()).index).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort();
            assert!(sorted.into_iter().eq(0..data.len()));
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    }

    #[test]
    fn a_batch_does_not_depend_on_the_cuts_before_it() {
        let data = digits();
        let start = data.len() as u64 - 50; // across the end of an epoch
        let whole = Loader::new(&data, VARIED).unwrap().batch(start, 4000);
        let mut loader = Loader::new(&data, VARIED).unwrap();
        let (mut at, mut x, mut index, mut labels) = (0, Vec::new(), Vec::new(), Vec::new());
        for size in [1, 7, 64, 500].into_iter().cycle() {
            let count = size.min(4000 - at);
            let batch = loader.batch(start + at as u64, count);
            x.extend(batch.x);
            index.extend(batch.index);
            labels.extend(batch.labels.unwrap());
            at += count;
            if at == 4000 {
                break;
            }
        }
        assert_eq!(whole, Batch { x, index, labels: Some(labels) });
        // Resuming is a new loader at the position.
        assert_eq!(Loader::new(&data, VARIED).unwrap().batch(9000, 20), loader.batch(9000, 20));
    }

    #[test]
    fn variations_keep_the_levels() {
        let data = digits();
        let batch = Loader::new(&data, VARIED).unwrap().batch(0, 1000);
        let (mut row, mut mirrored) = ([0.0; 64], 0);
        for (x, &i) in batch.x.chunks(64).zip(&batch.index) {
            data.row(i, &mut row);
            let level = |x: &[f32], p: usize| (x[p] * 17.0).floor();
            let same = (0..64).all(|p| level(x, p) == row[p] * 16.0);
            let other = (0..64).all(|p| level(x, p / 8 * 8 + 7 - p % 8) == row[p] * 16.0);
            assert!(same || other);
            mirrored += usize::from(other);
        }
        assert!((420..580).contains(&mirrored), "{mirrored} of 1000 mirrored");
    }

    #[test]
    fn rows_cannot_be_mirrored_or_dequantised() {
        let rows = Data::from_rows("rows", vec!["a".into()], vec![1.0, 2.0], None, Vec::new()).unwrap();
        for config in [LoaderConfig { dequantize: false, ..VARIED }, LoaderConfig { flip: false, ..VARIED }] {
            assert!(Loader::new(&rows, config).is_err());
        }
    }
}
