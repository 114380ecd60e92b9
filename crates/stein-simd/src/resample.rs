//! Resampling of channels-last images `[n, h, w, c]`: nearest neighbor, average pooling, and filters.
//!
//! The given shape is always that of the image before resampling, in backward passes too.

use crate::split::{CHUNK, for_each};
use crate::vector::{Isa, Job, Simd, load, store};

/// Doubles height and width: y `[n, 2h, 2w, c]` repeats every pixel four times.
pub fn upsample_nearest(isa: Isa, x: &[f32], [n, h, w, c]: [usize; 4], y: &mut [f32]) {
    spread(isa, 1.0, x, [n, h, w, c], y);
}

/// The adjoint of [`upsample_nearest`]: every pixel of dx is the sum of four of dy.
pub fn upsample_nearest_backward(isa: Isa, dy: &[f32], [n, h, w, c]: [usize; 4], dx: &mut [f32]) {
    gather(isa, 1.0, dy, [n, h, w, c], dx);
}

/// The means of 2 × 2 squares, y `[n, h/2, w/2, c]` for even h and w.
pub fn average_pool(isa: Isa, x: &[f32], [n, h, w, c]: [usize; 4], y: &mut [f32]) {
    assert!(h.is_multiple_of(2) && w.is_multiple_of(2), "pooling halves even heights and widths");
    gather(isa, 0.25, x, [n, h / 2, w / 2, c], y);
}

/// The adjoint of [`average_pool`]: every pixel of dx is a quarter of that of dy.
pub fn average_pool_backward(isa: Isa, dy: &[f32], [n, h, w, c]: [usize; 4], dx: &mut [f32]) {
    assert!(h.is_multiple_of(2) && w.is_multiple_of(2), "pooling halves even heights and widths");
    spread(isa, 0.25, dy, [n, h / 2, w / 2, c], dx);
}

/// Writes `factor` times every pixel of the small image to the four pixels of the large one that belong to it.
fn spread(isa: Isa, factor: f32, small: &[f32], [n, h, w, c]: [usize; 4], large: &mut [f32]) {
    assert!(
        small.len() == n * h * w * c && large.len() == 4 * small.len(),
        "one image has twice the height and width of the other"
    );
    if small.is_empty() {
        return;
    }
    let rows = (CHUNK / (4 * w * c)).max(1);
    let tasks = small.chunks(rows * w * c).zip(large.chunks_mut(4 * rows * w * c));
    for_each(4 * n * h * w * c, tasks, |(small, large)| isa.run(Spread { factor, small, width: w, c, large }));
}

/// Writes `factor` times the sum of four pixels of the large image to each pixel of the small one.
fn gather(isa: Isa, factor: f32, large: &[f32], [n, h, w, c]: [usize; 4], small: &mut [f32]) {
    assert!(
        small.len() == n * h * w * c && large.len() == 4 * small.len(),
        "one image has twice the height and width of the other"
    );
    if small.is_empty() {
        return;
    }
    let rows = (CHUNK / (4 * w * c)).max(1);
    let tasks = large.chunks(4 * rows * w * c).zip(small.chunks_mut(rows * w * c));
    for_each(4 * n * h * w * c, tasks, |(large, small)| isa.run(Gather { factor, large, width: w, c, small }));
}

struct Spread<'a> {
    factor: f32,
    small: &'a [f32],
    width: usize,
    c: usize,
    large: &'a mut [f32],
}

impl Job for Spread<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let row = self.width * self.c;
        for (small, large) in self.small.chunks_exact(row).zip(self.large.chunks_exact_mut(4 * row)) {
            let (first, second) = large.split_at_mut(2 * row);
            for (small, large) in small.chunks_exact(self.c).zip(first.chunks_exact_mut(2 * self.c)) {
                let mut i = 0;
                while i < self.c {
                    let n = self.c - i;
                    // SAFETY: n channels of the pixel are left, and of both pixels of `large`.
                    unsafe {
                        let x = S::mul(S::splat(self.factor), load::<S>(small.as_ptr().add(i), n));
                        store::<S>(large.as_mut_ptr().add(i), x, n);
                        store::<S>(large.as_mut_ptr().add(self.c + i), x, n);
                    }
                    i += S::LANES;
                }
            }
            second.copy_from_slice(first);
        }
    }
}

struct Gather<'a> {
    factor: f32,
    large: &'a [f32],
    width: usize,
    c: usize,
    small: &'a mut [f32],
}

impl Job for Gather<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (row, c) = (self.width * self.c, self.c);
        for (large, small) in self.large.chunks_exact(4 * row).zip(self.small.chunks_exact_mut(row)) {
            let (first, second) = large.split_at(2 * row);
            let pairs = first.chunks_exact(2 * c).zip(second.chunks_exact(2 * c));
            for ((first, second), small) in pairs.zip(small.chunks_exact_mut(c)) {
                let mut i = 0;
                while i < c {
                    let n = c - i;
                    // SAFETY: n channels are left of both pixels in both rows, and of the pixel of `small`.
                    unsafe {
                        let (first, second) = (first.as_ptr().add(i), second.as_ptr().add(i));
                        let first = S::add(load::<S>(first, n), load::<S>(first.add(c), n));
                        let second = S::add(load::<S>(second, n), load::<S>(second.add(c), n));
                        let sum = S::mul(S::splat(self.factor), S::add(first, second));
                        store::<S>(small.as_mut_ptr().add(i), sum, n);
                    }
                    i += S::LANES;
                }
            }
        }
    }
}

/// Upsamples, filters and downsamples as StyleGAN2 (T. Karras et al., 2020, arXiv:1912.04958) and NCSN++ do: along both
/// axes, it inserts `up` − 1 zeros after every pixel, pads by `pad` zeros before and after, convolves with `kernel` (a
/// true convolution) and keeps every `down`-th pixel; the result is multiplied by `gain`.
///
/// The result is `[n, h′, w′, c]` with h′ = (h · up + pad₀ + pad₁ − taps) / `down` + 1, rounded down, and likewise w′.
#[expect(clippy::too_many_arguments, reason = "the customary parameters of this filter")]
pub fn fir_resample(
    isa: Isa,
    x: &[f32],
    [n, h, w, c]: [usize; 4],
    kernel: &[f32],
    up: usize,
    down: usize,
    pad: [usize; 2],
    gain: f32,
    y: &mut [f32],
) {
    assert_eq!(x.len(), n * h * w * c, "an image has as many numbers as its shape");
    let (rows, columns) = (taps(h, kernel, up, down, pad), taps(w, kernel, up, down, pad));
    separable(isa, x, [n, h, w, c], &rows, &columns, gain, y);
}

/// The adjoint of [`fir_resample`], from dy to dx `[n, h, w, c]`.
#[expect(clippy::too_many_arguments, reason = "the customary parameters of this filter")]
pub fn fir_resample_backward(
    isa: Isa,
    dy: &[f32],
    [n, h, w, c]: [usize; 4],
    kernel: &[f32],
    up: usize,
    down: usize,
    pad: [usize; 2],
    gain: f32,
    dx: &mut [f32],
) {
    let (rows, columns) = (taps(h, kernel, up, down, pad), taps(w, kernel, up, down, pad));
    let shape = [n, rows.len(), columns.len(), c];
    assert_eq!(dy.len(), shape.iter().product::<usize>(), "a gradient for every output of the filter");
    separable(isa, dy, shape, &transpose(&rows, h), &transpose(&columns, w), gain, dx);
}

/// A linear map along one axis: for each output, the inputs it takes and their weights.
type Taps = Vec<Vec<(usize, f32)>>;

fn taps(size: usize, kernel: &[f32], up: usize, down: usize, pad: [usize; 2]) -> Taps {
    assert!(up > 0 && down > 0 && !kernel.is_empty(), "a filter has taps and resamples by positive factors");
    let padded = size * up + pad[0] + pad[1];
    assert!(padded >= kernel.len(), "a filter is no longer than the padded image");
    let outputs = (padded - kernel.len()) / down + 1;
    let input = |at: usize| {
        let at = at.checked_sub(pad[0])?;
        (at.is_multiple_of(up) && at / up < size).then_some(at / up)
    };
    let weights = || kernel.iter().rev().enumerate();
    (0..outputs).map(|o| weights().filter_map(|(k, w)| Some((input(o * down + k)?, *w))).collect()).collect()
}

fn transpose(taps: &Taps, inputs: usize) -> Taps {
    let mut transposed = vec![Vec::new(); inputs];
    for (o, taps) in taps.iter().enumerate() {
        for &(i, weight) in taps {
            transposed[i].push((o, weight));
        }
    }
    transposed
}

/// Applies the maps of both axes, first along rows, and multiplies by `gain`.
fn separable(isa: Isa, x: &[f32], [n, h, w, c]: [usize; 4], rows: &Taps, columns: &Taps, gain: f32, y: &mut [f32]) {
    let (width, height) = (columns.len() * c, rows.len());
    let mut wide = vec![0.0; n * h * width];
    assert_eq!(y.len(), n * height * width, "an image of the size a filter gives");
    y.fill(0.0);
    if wide.is_empty() || y.is_empty() {
        return;
    }
    let work = wide.len() * columns.iter().map(Vec::len).max().unwrap_or(0);
    for_each(work, x.chunks(w * c).zip(wide.chunks_mut(width)), |(x, y)| {
        isa.run(Combine { x, taps: columns, gain, y, width: c });
    });
    let work = y.len() * rows.iter().map(Vec::len).max().unwrap_or(0);
    let tasks = y
        .chunks_mut(width)
        .enumerate()
        .map(|(i, y)| (&wide[i / height * h * width..][..h * width], &rows[i % height..=i % height], y));
    for_each(work, tasks, |(x, taps, y)| isa.run(Combine { x, taps, gain: 1.0, y, width }));
}

/// Adds gain Σ weight · xᵢ, over the taps of each output o, to yₒ; xᵢ and yₒ have `width` numbers each.
struct Combine<'a> {
    x: &'a [f32],
    taps: &'a [Vec<(usize, f32)>],
    gain: f32,
    y: &'a mut [f32],
    width: usize,
}

impl Job for Combine<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (taps, y) in self.taps.iter().zip(self.y.chunks_exact_mut(self.width)) {
            for &(i, weight) in taps {
                let weight = self.gain * weight;
                for (y, x) in y.iter_mut().zip(&self.x[i * self.width..][..self.width]) {
                    *y += weight * x;
                }
            }
        }
    }
}
