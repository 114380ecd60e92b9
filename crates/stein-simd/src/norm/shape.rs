//! The shape of a group normalization, how its pixels are split over tasks, and sums over them.

use crate::{
    split::{CHUNK, for_each},
    vector::Simd,
};

/// Pixels summed in f32 before their sums go to f64.
pub(super) const BLOCK: usize = 64;

/// The shape of a group normalization; `groups` divides `channels`.
#[derive(Clone, Copy, Debug)]
pub struct NormShape {
    /// Samples, each with moments of its own.
    pub samples: usize,
    /// Pixels per sample: height × width.
    pub places: usize,
    /// Channels, of all parts together.
    pub channels: usize,
    /// Groups of adjacent channels.
    pub groups: usize,
}

impl NormShape {
    /// Pixels per task.
    fn chunk(&self) -> usize {
        (CHUNK / self.channels).max(1)
    }

    /// Numbers in the input.
    pub(super) fn len(&self) -> usize {
        self.samples * self.places * self.channels
    }

    /// The channels of each part, and of all parts before it.
    pub(super) fn widths(&self, parts: &[&[f32]]) -> Vec<(usize, usize)> {
        let rows = self.samples * self.places;
        assert!(rows > 0 && self.channels > 0, "a normalization of nothing");
        assert!(self.groups > 0 && self.channels.is_multiple_of(self.groups), "groups divide the channels");
        let mut widths = Vec::with_capacity(parts.len());
        let mut before = 0;
        for part in parts {
            assert!(part.len().is_multiple_of(rows), "a part of the input has whole rows");
            widths.push((part.len() / rows, before));
            before += part.len() / rows;
        }
        assert_eq!(before, self.channels, "the widths of all parts add up to the channels");
        widths
    }
}

/// The tasks for a tensor with `width` channels: the sample, the first pixel, and the task's pixels.
pub(super) fn chunks(
    shape: NormShape,
    width: usize,
    x: &mut [f32],
) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
    let chunk = shape.chunk();
    x.chunks_mut(shape.places * width)
        .enumerate()
        .flat_map(move |(n, x)| x.chunks_mut(chunk * width).enumerate().map(move |(k, x)| (n, k * chunk, x)))
}

/// Two sums per sample and channel, `[samples, 2, channels]`: `add_up(n, first, count, sums)` adds those of `count` pixels
/// of sample n, from pixel `first` on, to zeros.
pub(super) fn sums(shape: NormShape, add_up: impl Fn(usize, usize, usize, &mut [f64]) + Send + Sync) -> Vec<f64> {
    let NormShape { samples, places, channels, .. } = shape;
    let (chunk, width) = (shape.chunk(), 2 * channels);
    let count = places.div_ceil(chunk);
    let mut partial = vec![0.0; samples * count * width];
    for_each(shape.len(), partial.chunks_mut(width).enumerate(), |(i, sums)| {
        let first = i % count * chunk;
        add_up(i / count, first, chunk.min(places - first), sums);
    });
    if count == 1 {
        return partial;
    }
    let mut total = vec![0.0; samples * width];
    for (total, partial) in total.chunks_mut(width).zip(partial.chunks(count * width)) {
        for partial in partial.chunks(width) {
            add(total, partial);
        }
    }
    total
}

pub(super) fn add(to: &mut [f64], x: &[f64]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

/// Adds the lanes of x to sums in f64.
///
/// # Safety
/// The processor has the instructions of `S`, whose vectors have at most 16 lanes.
#[inline(always)]
pub(super) unsafe fn flush<S: Simd>(x: S::V, to: &mut [f64]) {
    let mut lanes = [0.0; 16];
    // SAFETY: a vector fits in the array.
    unsafe { S::store(lanes.as_mut_ptr(), x) };
    for (to, x) in to.iter_mut().zip(lanes) {
        *to += f64::from(x);
    }
}
