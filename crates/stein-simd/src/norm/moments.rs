//! Means and variances.

use super::shape::{BLOCK, NormShape, flush, sums};
use crate::vector::{Isa, Job, Simd, load};

/// The moments of each sample and group, or of each row of a layer normalization.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Means.
    pub mean: Vec<f32>,
    /// 1 / √(variance + ε) with the biased variance.
    pub scale: Vec<f32>,
}

/// The mean and 1/√(variance + `epsilon`) of each sample and group, from one pass over x.
///
/// The sums are those of x − K and (x − K)², where K is the sample's first pixel, channel by channel, so that a mean far
/// from 0 does not cost the variance any precision; channels are combined in f64.
pub fn moments(isa: Isa, shape: NormShape, parts: &[&[f32]], epsilon: f64) -> Moments {
    let widths = shape.widths(parts);
    let NormShape { samples, places, channels, groups } = shape;
    let sums = sums(shape, |n, first, count, sums| {
        for (part, &(width, before)) in parts.iter().zip(&widths) {
            let x = &part[n * places * width..][..places * width];
            let (ones, squares) = sums.split_at_mut(channels);
            let sums = (&mut ones[before..][..width], &mut squares[before..][..width]);
            isa.run(MomentSums { shift: &x[..width], x: &x[first * width..][..count * width], sums });
        }
    });
    let mut moments = Moments { mean: Vec::new(), scale: Vec::new() };
    let (size, places) = (channels / groups, places as f64);
    for n in 0..samples {
        let (ones, squares) = sums[n * 2 * channels..][..2 * channels].split_at(channels);
        // Each channel's own mean and its sum of squares around that mean, then those of the group from them.
        let channel = |c: usize| {
            let part = widths.iter().rposition(|&(_, before)| before <= c).expect("the first part starts at 0");
            let (width, before) = widths[part];
            let shift = f64::from(parts[part][n * shape.places * width + c - before]);
            (shift + ones[c] / places, squares[c] - ones[c] * ones[c] / places)
        };
        for g in 0..groups {
            let group = || (g * size..(g + 1) * size).map(channel);
            let mean = group().map(|(mean, _)| mean).sum::<f64>() / size as f64;
            let around = group().map(|(own, around)| around + places * (own - mean).powi(2)).sum::<f64>();
            let variance = around.max(0.0) / (places * size as f64);
            moments.mean.push(mean as f32);
            moments.scale.push((1.0 / (variance + epsilon).sqrt()) as f32);
        }
    }
    moments
}

/// Adds Σ (x − shift) and Σ (x − shift)² over pixels with as many channels as `shift` to the sums.
struct MomentSums<'a> {
    shift: &'a [f32],
    x: &'a [f32],
    sums: (&'a mut [f64], &'a mut [f64]),
}

impl MomentSums<'_> {
    /// The same for `V` vectors of channels from c on; only the last one may be incomplete.
    #[inline(always)]
    unsafe fn columns<S: Simd, const V: usize>(&mut self, c: usize) {
        let width = self.shift.len();
        for block in self.x.chunks(BLOCK * width) {
            // SAFETY: channel c + v · LANES is within the row, and no vector reads beyond it.
            unsafe {
                let (mut shift, mut ones, mut squares) = ([S::splat(0.0); V], [S::splat(0.0); V], [S::splat(0.0); V]);
                for (v, shift) in shift.iter_mut().enumerate() {
                    let c = c + v * S::LANES;
                    *shift = load::<S>(self.shift.as_ptr().add(c), width - c);
                }
                for row in block.chunks_exact(width) {
                    for v in 0..V {
                        let c = c + v * S::LANES;
                        let d = S::sub(load::<S>(row.as_ptr().add(c), width - c), shift[v]);
                        ones[v] = S::add(ones[v], d);
                        squares[v] = S::fma(d, d, squares[v]);
                    }
                }
                for v in 0..V {
                    flush::<S>(ones[v], &mut self.sums.0[c + v * S::LANES..]);
                    flush::<S>(squares[v], &mut self.sums.1[c + v * S::LANES..]);
                }
            }
        }
    }
}

impl Job for MomentSums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let width = self.shift.len();
        let mut c = 0;
        // SAFETY: four whole vectors, or the start of one, are left.
        unsafe {
            while c + 4 * S::LANES <= width {
                self.columns::<S, 4>(c);
                c += 4 * S::LANES;
            }
            while c < width {
                self.columns::<S, 1>(c);
                c += S::LANES;
            }
        }
    }
}
