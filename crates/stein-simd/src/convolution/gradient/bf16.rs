//! The gradient of the weights in bf16: the two numbers of a pair belong to neighboring outputs of a row.

use std::ops::Range;

use super::part::{Part, for_each_part};
use crate::{
    bf16::Pair,
    convolution::{bands::Piece, input::Input, shape::Shape},
    memory::Scratch,
    tile::{Panel, Plain, Segment, cut, panel_width, tile, with_vectors},
    vector::{Isa, Job, Simd},
};

pub(super) fn weight_gradient(isa: Isa, shape: &Shape, input: &Input, dy: &[f32], dw: &mut [f32]) {
    for_each_part(isa, shape, input, dy, dw, |part| isa.run(Bf16(part)));
}

struct Bf16<'a>(Part<'a>);

impl Job for Bf16<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the sizes were checked.
        unsafe { with_vectors!(S, panel_width::<S>(self.0.shape.outputs), gradient(&self.0)) }
    }
}

/// Where the pairs of a row of inputs are.
///
/// A pair of outputs takes inputs `stride` apart, and the next pair begins 2 `stride` further, so the pairs of tap v are
/// those of tap v mod 2 `stride`, from pair v / 2 `stride` on.
#[derive(Clone, Copy)]
struct Pairs {
    /// Input pixels from one pair to the next.
    next: usize,
    /// Taps that need pairs of their own.
    kinds: usize,
    /// Pairs per row of outputs.
    count: usize,
    /// Pairs per row of inputs, of each kind.
    across: usize,
}

impl Pairs {
    fn new(shape: &Shape) -> Self {
        let (width, taps) = (shape.output()[1], shape.kernel[1]);
        let (next, count) = (2 * shape.stride, width.div_ceil(2));
        Self { next, kinds: taps.min(next), count, across: count + (taps - 1) / next }
    }

    /// Pixels of a row of inputs that pairs are made of.
    fn columns(self, shape: &Shape) -> usize {
        (2 * self.across - 1) * shape.stride + self.kinds
    }
}

/// # Safety
/// The sizes of the part were checked.
#[inline(always)]
unsafe fn gradient<S: Simd, const N: usize>(part: &Part) {
    let Part { shape, outputs, bands, channels, .. } = part;
    let (c, pairs) = (channels.len(), Pairs::new(shape));
    let columns = pairs.columns(shape).max(bands.width);
    let mut add = false;
    for range in part.bands() {
        let (pieces, len) = bands.pieces(range.clone());
        let of_line = columns * c;
        let of_a = len / bands.row * pairs.kinds * pairs.across * c;
        let of_b = range.len() * pairs.count * outputs;
        let mut scratch = Scratch::of_task(of_line + of_a + of_b);
        let (line, rest) = scratch.split_at_mut(of_line);
        let (a, b) = Pair::slice(&mut rest[..of_a + of_b]).split_at_mut(of_a);
        // SAFETY: the sizes were checked, and scratch was cut into slices of the right size.
        unsafe {
            let starts = pack_inputs::<S>(part, pairs, &pieces, line, a);
            pack_gradients::<S, N>(part, pairs, &range, b);
            products::<S, N>(part, pairs, &starts, a, b, add);
        }
        add = true;
    }
}

/// Packs the rows of inputs of all pieces, `[rows, kinds, across, channels]`. Returns the first row of inputs of each row
/// of outputs.
///
/// # Safety
/// The sizes of the part were checked; `line` has the columns that pairs are made of.
#[inline(always)]
unsafe fn pack_inputs<S: Simd>(
    part: &Part,
    pairs: Pairs,
    pieces: &[Piece],
    line: &mut [f32],
    a: &mut [Pair],
) -> Vec<usize> {
    let Part { shape, input, bands, channels, .. } = part;
    let Pairs { next, kinds, across, .. } = pairs;
    let c = channels.len();
    // Beyond the last output the gradient is zero; the input must be finite there.
    line[bands.row..].fill(0.0);
    let mut starts = Vec::new();
    for piece in pieces {
        let before = piece.offset / bands.row;
        for r in 0..bands.rows_of(piece.units) {
            // SAFETY: the sizes were checked.
            unsafe { bands.fill_row::<S>(shape, input, piece, r, channels, line) };
            let to = &mut a[(before + r) * kinds * across * c..][..kinds * across * c];
            for (i, to) in to.chunks_exact_mut(c).enumerate() {
                let at = i / across + i % across * next;
                let (low, high) = (&line[at * c..][..c], &line[(at + shape.stride) * c..][..c]);
                // SAFETY: the processor has the instructions of `S`.
                unsafe { Pair::interleave::<S>(low, high, to) };
            }
        }
        starts.extend((0..piece.units).map(|unit| before + unit * shape.stride));
    }
    starts
}

/// Packs the gradients of rows of outputs, `[panels, rows, pairs per row, panel]`.
///
/// # Safety
/// The sizes of the part were checked.
#[inline(always)]
unsafe fn pack_gradients<S: Simd, const N: usize>(part: &Part, pairs: Pairs, rows: &Range<usize>, b: &mut [Pair]) {
    let Part { shape, dy, .. } = part;
    let (width, panel, count) = (shape.output()[1], N * S::LANES, pairs.count);
    for (i, to) in b.chunks_exact_mut(panel).enumerate() {
        let (p, row, x) = (i / count / rows.len(), rows.start + i / count % rows.len(), i % count * 2);
        let (first, columns) = ((row * width + x) * shape.outputs + p * panel, panel.min(shape.outputs - p * panel));
        let low = &dy[first..first + columns];
        let high = if x + 1 < width { &dy[first + shape.outputs..][..columns] } else { &[] };
        // SAFETY: the processor has the instructions of `S`.
        unsafe { Pair::interleave::<S>(low, high, to) };
    }
}

/// The products of packed inputs and gradients of outputs, which are added to the part's sums if there are any yet.
///
/// # Safety
/// `a` and `b` are packed; `starts` has the first row of inputs of each row of outputs in `b`.
#[inline(always)]
unsafe fn products<S: Simd, const N: usize>(
    part: &Part,
    pairs: Pairs,
    starts: &[usize],
    a: &[Pair],
    b: &[Pair],
    add: bool,
) {
    let Part { shape, outputs, channels, .. } = part;
    let Pairs { next, kinds, count, across } = pairs;
    let [kh, kw] = shape.kernel;
    let (c, panel) = (channels.len(), N * S::LANES);
    let mut segments = vec![Segment { a: a.as_ptr(), row: 1, count }; starts.len()];
    for tap in 0..kh * kw {
        let (u, v) = (tap / kw, tap % kw);
        for (from, rows) in cut(c, S::ROWS) {
            for (start, segment) in starts.iter().zip(&mut segments) {
                let at = ((start + u) * kinds + v % next) * across + v / next;
                segment.a = a[at * c + from..].as_ptr();
            }
            for (p, b) in b.chunks_exact(starts.len() * count * panel).enumerate() {
                // SAFETY: from every `a` on there are `count` pairs, and b has as many for every segment; only this task
                // writes these channels' sums of this range.
                unsafe {
                    let to = part.at(tap, kh * kw).add(from * outputs + p * panel);
                    let finish = Plain { to, row: *outputs, add };
                    let panel = Panel { b: b.as_ptr(), stride: panel };
                    tile::<S, N, _>(rows, &segments, c, panel, &finish);
                }
            }
        }
    }
}
