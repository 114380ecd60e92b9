//! The direct method in bf16: sums of products of pairs, which processors with such an instruction add up at once.

use super::{
    direct::{self, products},
    gradient::Part,
};
use crate::{
    memory::Scratch,
    tile::{Factor, Panel, Plain, Segment, cut, panel_width, tile, with_vectors},
    vector::{self, Job, Simd},
};

/// Two bf16, the first in the lower half.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pair(u32);

impl Pair {
    /// Memory of numbers as memory of pairs.
    #[inline(always)]
    pub(crate) fn slice(memory: &mut [f32]) -> &mut [Self] {
        // SAFETY: size and alignment are the same, and all bits are valid in both.
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), memory.len()) }
    }

    /// Rows of `width` numbers as rows of pairs: each number of the first half with that of the second, which takes whole
    /// vectors. A number without another goes with a zero.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    pub(crate) unsafe fn pack<S: Simd>(from: &[f32], width: usize, to: &mut [Self]) {
        let pairs = width.div_ceil(2);
        for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(pairs)) {
            let (low, high) = from.split_at(pairs);
            // SAFETY: the caller's promise.
            unsafe { Self::interleave::<S>(low, high, to) };
        }
    }

    /// Pairs of the numbers of two rows, with zeros where a row is too short.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn interleave<S: Simd>(low: &[f32], high: &[f32], to: &mut [Self]) {
        let mut at = 0;
        while at < to.len() {
            // SAFETY: no more is read or written than there is.
            unsafe {
                let pairs = S::pack_bf16(some::<S>(low, at), some::<S>(high, at));
                vector::store::<S>(to.as_mut_ptr().add(at).cast(), pairs, to.len() - at);
            }
            at += S::LANES;
        }
    }
}

/// The numbers from `at` on, and zeros.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn some<S: Simd>(row: &[f32], at: usize) -> S::V {
    // SAFETY: within the row.
    unsafe { if at < row.len() { vector::load::<S>(row.as_ptr().add(at), row.len() - at) } else { S::splat(0.0) } }
}

impl Factor for Pair {
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
        mut sums: [[S::V; N]; M],
        segment: Segment<Self>,
        step: usize,
        mut b: *const Self,
        stride: usize,
    ) -> ([[S::V; N]; M], *const Self) {
        // SAFETY: the caller of `tile` promises that the segments and the panel are in bounds.
        unsafe {
            let rows: [*const Self; M] = std::array::from_fn(|m| segment.a.add(m * segment.row));
            let mut at = 0;
            for _ in 0..segment.count {
                for (row, a) in sums.iter_mut().zip(rows) {
                    let Self(factor) = *a.add(at);
                    for (n, sum) in row.iter_mut().enumerate() {
                        *sum = S::dot_bf16(*sum, factor, b.add(n * S::LANES).cast());
                    }
                }
                at += step;
                b = b.add(stride);
            }
        }
        (sums, b)
    }
}

/// A band of the convolution.
pub(super) struct Band<'a>(pub(super) direct::Band<'a>);

impl Job for Band<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let direct::Band { shape, input, bands, width, ref range, .. } = self.0;
        let (pieces, len) = bands.pieces(range.clone());
        let row = width * shape.inputs;
        let mut scratch = Scratch::of_task(row + len);
        let (line, pairs) = scratch.split_at_mut(row);
        let pairs = Pair::slice(&mut pairs[..len]);
        for piece in &pieces {
            let first = bands.first_row(shape, piece);
            for r in 0..bands.rows_of(piece.units) {
                let to = &mut pairs[piece.offset + r * bands.row..][..bands.row];
                // SAFETY: sizes were checked, and the window is one line.
                unsafe {
                    input.window::<S>(shape, piece.image, first + r as isize, 1, width, 0..shape.inputs, line);
                    Pair::pack::<S>(line, shape.inputs, to);
                }
            }
        }
        let pairs = &*pairs;
        // SAFETY: bands are apart in y; their inputs are in scratch, in pairs as the weights.
        unsafe { with_vectors!(S, panel_width::<S>(shape.outputs), products(&self.0, &pieces, pairs)) }
    }
}

/// A block of channels of the gradient of the weights, over a range of places.
pub(super) struct Gradient<'a>(pub(super) Part<'a>);

impl Job for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: sizes were checked.
        unsafe { with_vectors!(S, panel_width::<S>(self.0.shape.outputs), gradient(&self.0)) }
    }
}

/// # Safety
/// The sizes of the part were checked.
#[inline(always)]
unsafe fn gradient<S: Simd, const N: usize>(part: &Part) {
    let Part { shape, dy, outputs, bands, row, channels, .. } = part;
    let width = shape.output()[1];
    let [kh, kw] = shape.kernel;
    let (c, panel, places) = (channels.len(), N * S::LANES, width.div_ceil(2));
    // A pair of outputs takes the inputs `stride` apart; it is twice that to the next one, so that the pairs of tap v are
    // those of tap v mod 2 stride, from the (v / 2 stride)th on.
    let next = 2 * shape.stride;
    let (kinds, across) = (kw.min(next), places + (kw - 1) / next);
    let columns = ((2 * across - 1) * shape.stride + kinds).max(*row);
    let mut add = false;
    for range in part.bands() {
        let (pieces, len) = bands.pieces(range.clone());
        let of_row = kinds * across * c;
        let (of_line, of_a, of_b) = (columns * c, len / bands.row * of_row, range.len() * places * outputs);
        let mut scratch = Scratch::of_task(of_line + of_a + of_b);
        let (line, rest) = scratch.split_at_mut(of_line);
        let (a, b) = Pair::slice(&mut rest[..of_a + of_b]).split_at_mut(of_a);
        // Beyond the last output, where B is zero, no number may be infinite.
        line[bands.row..].fill(0.0);
        // The first rows of input of all rows of output.
        let mut starts = Vec::with_capacity(range.len());
        for piece in &pieces {
            let (first, before) = (bands.first_row(shape, piece), piece.offset / bands.row);
            for r in 0..bands.rows_of(piece.units) {
                let to = &mut line[..bands.row];
                // SAFETY: sizes were checked, and the window is one line.
                unsafe {
                    part.input.window::<S>(shape, piece.image, first + r as isize, 1, *row, channels.clone(), to);
                }
                let to = &mut a[(before + r) * of_row..][..of_row];
                for (i, to) in to.chunks_exact_mut(c).enumerate() {
                    let at = i / across + i % across * next;
                    let (low, high) = (&line[at * c..][..c], &line[(at + shape.stride) * c..][..c]);
                    // SAFETY: as of the whole function.
                    unsafe { Pair::interleave::<S>(low, high, to) };
                }
            }
            starts.extend((0..piece.units).map(|unit| before + unit * shape.stride));
        }
        for (i, to) in b.chunks_exact_mut(panel).enumerate() {
            let (p, unit, x) = (i / places / range.len(), range.start + i / places % range.len(), i % places * 2);
            let (first, count) = ((unit * width + x) * shape.outputs + p * panel, panel.min(shape.outputs - p * panel));
            let low = &dy[first..first + count];
            let high = if x + 1 < width { &dy[first + shape.outputs..][..count] } else { &[] };
            // SAFETY: as of the whole function.
            unsafe { Pair::interleave::<S>(low, high, to) };
        }
        let mut segments = vec![Segment { a: a.as_ptr(), row: 1, count: places }; range.len()];
        for tap in 0..kh * kw {
            let (u, v) = (tap / kw, tap % kw);
            for (from, rows) in cut(c, S::ROWS) {
                for (start, segment) in starts.iter().zip(&mut segments) {
                    let at = ((start + u) * kinds + v % next) * across + v / next;
                    segment.a = a[at * c + from..].as_ptr();
                }
                for (p, b) in b.chunks_exact(range.len() * places * panel).enumerate() {
                    // SAFETY: from every `a` on there are `places` pairs, and b has as many for every segment; this task
                    // alone writes these channels' sums of this range.
                    unsafe {
                        let to = part.at(tap, kh * kw).add(from * outputs + p * panel);
                        let finish = Plain { to, row: *outputs, add };
                        let panel = Panel { b: b.as_ptr(), stride: panel };
                        tile::<S, N, _>(rows, &segments, c, panel, &finish);
                    }
                }
            }
        }
        add = true;
    }
}
