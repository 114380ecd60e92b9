//! A band of the direct methods: a register tile of pixels × outputs, summed over taps and channels.

use std::ops::Range;

use crate::{
    convolution::{
        bands::{Bands, Piece},
        epilogue::{Epilogue, Out},
        input::Input,
        shape::Shape,
        weights::Weights,
    },
    memory::Target,
    split::tasks,
    tile::{Factor, Panel, Segment, cut, tile},
    vector::Simd,
};

/// Factors of input per band: together with a panel of weights they should fit the second-level cache.
const BAND: usize = 32 * 1024;

/// A band of outputs to compute.
pub(super) struct Band<'a> {
    pub(super) shape: &'a Shape,
    pub(super) input: &'a Input<'a>,
    pub(super) weights: &'a Weights,
    pub(super) epilogue: &'a Epilogue<'a>,
    pub(super) y: Target<'a>,
    pub(super) bands: &'a Bands,
    /// The units of the band.
    pub(super) range: Range<usize>,
}

/// Cuts a convolution into bands and runs them all.
pub(super) fn for_each_band(
    shape: &Shape,
    input: &Input,
    weights: &Weights,
    epilogue: &Epilogue,
    y: Target,
    run: impl Fn(Band) + Send + Sync,
) {
    let width = (shape.output()[1] - 1) * shape.stride + shape.kernel[1];
    let bands = Bands::new(shape, 1, width, weights.depth(), BAND);
    tasks(shape.operations(), bands.count(), |band| {
        run(Band { shape, input, weights, epilogue, y, bands: &bands, range: bands.range(band) });
    });
}

/// Writes the outputs of a band.
///
/// # Safety
/// The inputs of all pieces are in `memory`, as factors of the same kind as those of the weights.
#[inline(always)]
pub(super) unsafe fn products<S: Simd, const N: usize>(band: &Band, pieces: &[Piece], memory: &[impl Factor]) {
    let Band { shape, weights, epilogue, y, bands, .. } = band;
    let [kh, kw] = shape.kernel;
    let (c, outputs, panel) = (weights.depth(), shape.outputs, N * S::LANES);
    let [height, width] = shape.output();
    let mut segments = vec![Segment { a: memory.as_ptr(), row: shape.stride * c, count: c }; kh * kw];
    for p in 0..outputs.div_ceil(panel) {
        let b = weights.panel(p, panel);
        for piece in pieces {
            for unit in 0..piece.units {
                let row = piece.from + unit;
                for (x, pixels) in cut(width, S::ROWS) {
                    for (tap, segment) in segments.iter_mut().enumerate() {
                        let (u, v) = (tap / kw, tap % kw);
                        let at = (unit * shape.stride + u) * bands.width + x * shape.stride + v;
                        segment.a = memory[piece.offset + at * c..].as_ptr();
                    }
                    let pixel = (piece.image * height + row) * width + x;
                    let finish = Out { epilogue, y: *y, outputs, n: piece.image, pixel, column: p * panel };
                    // SAFETY: the caller's promise, and the panel has a row for every tap and channel.
                    unsafe { tile::<S, N, _>(pixels, &segments, 1, Panel { b, stride: panel }, &finish) };
                }
            }
        }
    }
}
