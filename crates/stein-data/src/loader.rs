//! Batches of samples in a random order that depends on nothing but a seed.
//!
//! Position `p` counts the samples ever handed out: it lies in epoch `p / N`, whose order is a permutation of all `N`
//! samples drawn from (seed, epoch); batches run across the ends of epochs. Flips and shifts are drawn from (seed, `p`). So a
//! batch is a function of (configuration, start, count): it does not matter how the stream was cut before, and resuming
//! needs the position alone.

use crate::{Data, Shape};
use serde::{Deserialize, Serialize};
use std::{ops::Range, sync::Arc};
use stein_base::{Key, Purpose, Result, ensure, random::below};

/// How samples are ordered and varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Default 0.
    pub seed: u64,
    /// Mirror each image left to right with probability 1/2; images only, default false.
    pub flip: bool,
    /// Move each image by up to this many pixels up or down and left or right, its border repeated; images larger than that only,
    /// default 0.
    pub shift: usize,
}

/// Some samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[count * dim]`, in the units of [`Data::row`].
    pub x: Vec<f32>,
    /// `[count]`: which sample of the data each is.
    pub index: Vec<usize>,
    /// The positions of the samples, counted from the first one ever handed out.
    pub positions: Range<u64>,
    /// `[count]`: the class of each, where the data have classes.
    pub labels: Option<Vec<usize>>,
    /// `[count]`: the caption of each, where the data have captions.
    pub captions: Option<Vec<String>>,
}

/// Hands out the batches of a data set.
///
/// ```
/// use std::sync::Arc;
/// use stein_data::{Loader, LoaderConfig, Source, Split};
///
/// let digits = Source::named("digits")?.load(Split::Train, None)?;
/// let mut loader = Loader::new(Arc::new(digits), LoaderConfig { seed: 7, ..LoaderConfig::default() })?;
/// let batch = loader.batch(0, 32)?;
/// assert_eq!((batch.x.len(), batch.positions), (32 * 64, 0..32));
/// # Ok::<(), stein_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Loader {
    data: Arc<Data>,
    config: LoaderConfig,
    /// The epoch last used and its order.
    order: (u64, Vec<u32>),
}

impl Loader {
    /// A loader of `data`.
    ///
    /// # Errors
    /// When `flip` or `shift` is asked of data that are not images, or not so large, or the samples are 2³² or more.
    pub fn new(data: Arc<Data>, config: LoaderConfig) -> Result<Self> {
        let n = data.len();
        ensure!(!config.flip || data.is_image(), "{} has no images to mirror: set `flip = false`", data.name);
        let room = match data.shape {
            Shape::Image { height, width, .. } => height.min(width) - 1,
            _ => 0,
        };
        ensure!(
            config.shift <= room,
            "{} is no data set of images of more than {} pixels each way to shift by as many: set `shift` to at most {room}",
            data.name,
            config.shift
        );
        ensure!(u32::try_from(n).is_ok(), "{} has {n} samples: use fewer than 2^32", data.name);
        let order = (0, order(config.seed, 0, n));
        Ok(Self { data, config, order })
    }

    /// What it hands out.
    pub fn data(&self) -> &Arc<Data> {
        &self.data
    }

    /// The samples at the positions `start..start + count`; `start` counts the samples handed out before.
    ///
    /// # Errors
    /// When a sample cannot be read: the first of them in the batch.
    pub fn batch(&mut self, start: u64, count: usize) -> Result<Batch> {
        let n = self.data.len() as u64;
        let positions = start..start + count as u64;
        let index: Vec<usize> = positions.clone().map(|position| self.sample(position / n, position % n)).collect();
        let mut x = self.data.rows(&index)?;
        let LoaderConfig { seed, flip, shift } = self.config;
        if let Shape::Image { height, width, channels } = self.data.shape
            && (flip || shift > 0)
        {
            let key = Key::new(seed, Purpose::Augment);
            for (position, x) in positions.clone().zip(x.chunks_exact_mut(self.data.dim())) {
                let mut generator = key.at(position).generator();
                if flip && below(&mut generator, 2) == 1 {
                    mirror(x, width, channels);
                }
                if shift > 0 {
                    let mut by = || below(&mut generator, 2 * shift + 1) as isize - shift as isize;
                    let (down, right) = (by(), by());
                    x.copy_from_slice(&moved(x, [height, width, channels], [down, right]));
                }
            }
        }
        let labels = self.data.labels.as_ref().map(|labels| index.iter().map(|&i| labels[i]).collect());
        let captions = self.data.captions_of(&index);
        Ok(Batch { x, index, positions, labels, captions })
    }

    /// The sample at a place of an epoch.
    fn sample(&mut self, epoch: u64, place: u64) -> usize {
        if self.order.0 != epoch {
            self.order = (epoch, order(self.config.seed, epoch, self.data.len()));
        }
        self.order.1[place as usize] as usize
    }
}

/// Turns an image left to right.
fn mirror(x: &mut [f32], width: usize, channels: usize) {
    for row in x.chunks_exact_mut(width * channels) {
        for column in 0..width / 2 {
            for channel in 0..channels {
                row.swap(column * channels + channel, (width - 1 - column) * channels + channel);
            }
        }
    }
}

/// An image moved down and to the right; what comes in has the values of the border.
fn moved(x: &[f32], [height, width, channels]: [usize; 3], [down, right]: [isize; 2]) -> Vec<f32> {
    let from = |place: usize, by: isize, size: usize| place.saturating_add_signed(-by).min(size - 1);
    let pixels = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    let start = |(row, column)| (from(row, down, height) * width + from(column, right, width)) * channels;
    pixels.map(start).flat_map(|start| &x[start..start + channels]).copied().collect()
}

/// The order of the `n` samples in an epoch (Fisher & Yates).
fn order(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
    let mut generator = Key::new(seed, Purpose::Order).at(epoch).generator();
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        order.swap(i, below(&mut generator, i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, Split};

    const VARIED: LoaderConfig = LoaderConfig { seed: 7, flip: true, shift: 0 };

    fn digits() -> Arc<Data> {
        Arc::new(Source::named("digits").unwrap().load(Split::Test, None).unwrap())
    }

    #[test]
    fn an_epoch_has_every_sample_once() {
        let data = digits();
        let n = data.len();
        let mut loader = Loader::new(data, LoaderConfig::default()).unwrap();
        let epochs: Vec<Vec<usize>> = (0..3).map(|e| loader.batch(e * n as u64, n).unwrap().index).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort();
            assert!(sorted.into_iter().eq(0..n));
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    }

    #[test]
    fn a_batch_does_not_depend_on_the_cuts_before_it() {
        let data = digits();
        let start = data.len() as u64 - 50; // across the end of an epoch
        let new = || Loader::new(data.clone(), VARIED).unwrap();
        let whole = new().batch(start, 4000).unwrap();
        let mut loader = new();
        let (mut at, mut x, mut index, mut labels) = (0, Vec::new(), Vec::new(), Vec::new());
        for size in [1, 7, 64, 500].into_iter().cycle() {
            let count = size.min(4000 - at);
            let batch = loader.batch(start + at as u64, count).unwrap();
            assert_eq!(batch.positions, start + at as u64..start + (at + count) as u64);
            x.extend(batch.x);
            index.extend(batch.index);
            labels.extend(batch.labels.unwrap());
            at += count;
            if at == 4000 {
                break;
            }
        }
        assert_eq!(whole, Batch { x, index, positions: start..start + 4000, labels: Some(labels), captions: None });
        // Resuming is a new loader at the position.
        assert_eq!(new().batch(9000, 20), loader.batch(9000, 20));
    }

    #[test]
    fn about_half_are_mirrored() {
        let data = digits();
        let batch = Loader::new(data.clone(), VARIED).unwrap().batch(0, 1000).unwrap();
        let (mut row, mut mirrored) = ([0.0; 64], 0);
        for (x, &i) in batch.x.chunks(64).zip(&batch.index) {
            data.row(i, &mut row).unwrap();
            let same = x == row;
            let other = (0..64).all(|p| x[p] == row[p / 8 * 8 + 7 - p % 8]);
            assert!(same || other);
            mirrored += usize::from(!same);
        }
        // Five standard deviations of 1000 fair draws are 79.
        assert!((420..580).contains(&mirrored), "{mirrored} of 1000 mirrored");
    }

    #[test]
    fn shifts_are_as_likely_each_way_and_repeat_the_border() {
        let data = digits();
        let config = LoaderConfig { seed: 3, flip: false, shift: 1 };
        let batch = Loader::new(data.clone(), config).unwrap().batch(0, 900).unwrap();
        let (mut row, mut seen) = ([0.0; 64], [[0; 3]; 3]);
        let ways = [-1isize, 0, 1];
        for (x, &i) in batch.x.chunks(64).zip(&batch.index) {
            data.row(i, &mut row).unwrap();
            let place = |at: usize, by: isize| (at as isize - by).clamp(0, 7) as usize;
            let is = |down, right| (0..64).all(|p| x[p] == row[place(p / 8, down) * 8 + place(p % 8, right)]);
            let found = ways.iter().flat_map(|&down| ways.map(|right| (down, right))).find(|way| is(way.0, way.1));
            let (down, right) = found.unwrap();
            seen[(down + 1) as usize][(right + 1) as usize] += 1;
        }
        // 100 each; five standard deviations are 47.
        assert!(seen.iter().flatten().all(|count| (53..147).contains(count)), "{seen:?}");
        let wide = LoaderConfig { shift: 8, ..config };
        assert!(Loader::new(data, wide).unwrap_err().to_string().contains("at most 7"));
    }

    #[test]
    fn channels_stay_in_their_pixels() {
        let mut x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0, 5.0, 50.0, 6.0, 60.0];
        mirror(&mut x, 3, 2);
        assert_eq!(x, [3.0, 30.0, 2.0, 20.0, 1.0, 10.0, 6.0, 60.0, 5.0, 50.0, 4.0, 40.0]);
    }

    #[test]
    fn rows_cannot_be_mirrored() {
        let rows = Data::from_rows("rows", vec!["a".into()], vec![1.0, 2.0], None, Vec::new()).unwrap();
        assert!(Loader::new(Arc::new(rows), VARIED).unwrap_err().to_string().contains("no images to mirror"));
    }
}
