//! The direct method: a register tile of pixels × outputs, summed over taps and channels.

use super::{Bands, Epilogue, Input, Method, Shape, Weights, bf16};
use crate::{
    Isa,
    memory::{Scratch, Target},
    split::tasks,
    tile::{Factor, Finish, Panel, Segment, cut, panel_width, tile, with_vectors},
    vector::{self, Job, Simd},
};

/// Numbers, or pairs of bf16, of input in a band: with the panel of weights they should fit the second-level cache.
const BAND: usize = 32 * 1024;

pub(super) fn convolve(isa: Isa, shape: &Shape, input: &Input, weights: &Weights, epilogue: &Epilogue, y: Target) {
    let width = (shape.output()[1] - 1) * shape.stride + shape.kernel[1];
    let bands = Bands::new(shape, 1, width, weights.depth(), BAND);
    let band = |band| {
        let band = Band { shape, input, weights, epilogue, y, bands: &bands, width, range: bands.range(band) };
        if weights.method == Method::Bf16 { isa.run(bf16::Band(band)) } else { isa.run(band) }
    };
    tasks(shape.operations(), bands.count(), band);
}

pub(super) struct Band<'a> {
    pub(super) shape: &'a Shape,
    pub(super) input: &'a Input<'a>,
    weights: &'a Weights,
    epilogue: &'a Epilogue<'a>,
    y: Target<'a>,
    pub(super) bands: &'a Bands,
    /// Places in a row of input with its border.
    pub(super) width: usize,
    pub(super) range: std::ops::Range<usize>,
}

impl Job for Band<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let panel = panel_width::<S>(self.shape.outputs);
        let (pieces, len) = self.bands.pieces(self.range.clone());
        let mut scratch = Scratch::of_task(len);
        let memory = &mut *scratch;
        for piece in &pieces {
            let rows = self.bands.rows_of(piece.units);
            let first = self.bands.first_row(self.shape, piece);
            let to = &mut memory[piece.offset..piece.offset + rows * self.bands.row];
            // SAFETY: sizes were checked, and the window is as large as its place in scratch.
            unsafe {
                self.input.window::<S>(self.shape, piece.image, first, rows, self.width, 0..self.shape.inputs, to);
            }
        }
        // SAFETY: bands are apart in y; their inputs are in scratch.
        unsafe { with_vectors!(S, panel, products(&self, &pieces, memory)) }
    }
}

/// # Safety
/// The inputs of all pieces are in `memory`, as the factors the weights are made of.
#[inline(always)]
pub(super) unsafe fn products<S: Simd, const N: usize>(band: &Band, pieces: &[super::Piece], memory: &[impl Factor]) {
    let Band { shape, weights, epilogue, y, width, .. } = band;
    let [kh, kw] = shape.kernel;
    let (c, outputs, panel) = (weights.depth(), shape.outputs, N * S::LANES);
    let [height, out_width] = shape.output();
    let mut segments = vec![Segment { a: memory.as_ptr(), row: shape.stride * c, count: c }; kh * kw];
    for p in 0..outputs.div_ceil(panel) {
        let b = weights.panel(p, panel);
        for piece in pieces {
            for unit in 0..piece.units {
                let row = piece.from + unit;
                for (x, pixels) in cut(out_width, S::ROWS) {
                    for (tap, segment) in segments.iter_mut().enumerate() {
                        let (u, v) = (tap / kw, tap % kw);
                        let at = (unit * shape.stride + u) * width + x * shape.stride + v;
                        segment.a = memory[piece.offset + at * c..].as_ptr();
                    }
                    let place = (piece.image * height + row) * out_width + x;
                    let finish = Out { epilogue, y: *y, outputs, n: piece.image, place, column: p * panel };
                    // SAFETY: the caller's promise, and the panel has a row for every tap and channel.
                    unsafe { tile::<S, N, _>(pixels, &segments, 1, Panel { b, stride: panel }, &finish) };
                }
            }
        }
    }
}

/// Outputs, with all that is added to them.
pub(crate) struct Out<'a> {
    pub(crate) epilogue: &'a Epilogue<'a>,
    pub(crate) y: Target<'a>,
    pub(crate) outputs: usize,
    /// The sample.
    pub(crate) n: usize,
    /// The place among all samples' of row 0.
    pub(crate) place: usize,
    /// The first column.
    pub(crate) column: usize,
}

impl Finish for Out<'_> {
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, m: usize, n: usize, sum: S::V) {
        let column = self.column + n * S::LANES;
        if column < self.outputs {
            let (place, count) = (self.place + m, self.outputs - column);
            // SAFETY: place and column are within the output; no other thread writes this tile.
            unsafe {
                let sum = self.epilogue.apply::<S>(sum, self.outputs, self.n, place, column, count);
                vector::store::<S>(self.y.at(place * self.outputs + column), sum, count);
            }
        }
    }
}
