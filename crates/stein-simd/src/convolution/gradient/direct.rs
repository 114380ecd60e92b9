//! The gradient of the weights by the direct method in f32: a product of inputs and gradients of outputs for every tap.

use super::part::{Part, for_each_part};
use crate::{
    convolution::{bands::Piece, input::Input, shape::Shape},
    memory::Scratch,
    tile::{Panel, Plain, Segment, cut, panel_width, tile, with_vectors},
    vector::{Isa, Job, Simd},
};

pub(super) fn weight_gradient(isa: Isa, shape: &Shape, input: &Input, dy: &[f32], dw: &mut [f32]) {
    for_each_part(isa, shape, input, dy, dw, |part| isa.run(Direct(part)));
}

struct Direct<'a>(Part<'a>);

impl Job for Direct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the sizes were checked.
        unsafe { with_vectors!(S, panel_width::<S>(self.0.shape.outputs), gradient(&self.0)) }
    }
}

/// # Safety
/// The sizes of the part were checked.
#[inline(always)]
unsafe fn gradient<S: Simd, const N: usize>(part: &Part) {
    let Part { shape, input, dy, outputs, bands, channels, .. } = part;
    let [height, width] = shape.output();
    let padded = *outputs != shape.outputs;
    let mut add = false;
    for range in part.bands() {
        let (pieces, len) = bands.pieces(range.clone());
        let copied = if padded { range.len() * width * outputs } else { 0 };
        let mut scratch = Scratch::of_task(len + copied);
        let memory = &mut *scratch;
        let (band, copy) = memory.split_at_mut(len);
        for piece in &pieces {
            // SAFETY: the sizes were checked.
            unsafe { bands.fill::<S>(shape, input, piece, channels, band) };
            let first = (piece.image * height + piece.from) * width * shape.outputs;
            let dy = &dy[first..first + piece.units * width * shape.outputs];
            let dy = if padded {
                for (to, from) in copy.chunks_exact_mut(*outputs).zip(dy.chunks_exact(shape.outputs)) {
                    to[..shape.outputs].copy_from_slice(from);
                    to[shape.outputs..].fill(0.0);
                }
                &*copy
            } else {
                dy
            };
            // SAFETY: the inputs of the piece are in the band, and `dy` has the padded outputs of all its pixels.
            unsafe { products::<S, N>(part, piece, band, dy, add) };
            add = true;
        }
    }
}

/// The products of a piece's inputs and gradients of outputs, which are added to the part's sums if there are any yet.
///
/// # Safety
/// The inputs are in the band, and `dy` has the padded outputs of all pixels of the piece.
#[inline(always)]
unsafe fn products<S: Simd, const N: usize>(part: &Part, piece: &Piece, band: &[f32], dy: &[f32], add: bool) {
    let Part { shape, outputs, bands, channels, .. } = part;
    let width = shape.output()[1];
    let [kh, kw] = shape.kernel;
    let (c, panel) = (channels.len(), N * S::LANES);
    let mut segments = vec![Segment { a: band.as_ptr(), row: 1, count: width }; piece.units];
    for tap in 0..kh * kw {
        let (u, v) = (tap / kw, tap % kw);
        for (from, rows) in cut(c, S::ROWS) {
            for (unit, segment) in segments.iter_mut().enumerate() {
                let at = piece.offset + ((unit * shape.stride + u) * bands.width + v) * c + from;
                segment.a = band[at..].as_ptr();
            }
            for p in (0..*outputs).step_by(panel) {
                // SAFETY: a row of the band has `width` pixels `stride` apart from tap v on, and dy has as many; only
                // this task writes these channels' sums of this range.
                unsafe {
                    let to = part.at(tap, kh * kw).add(from * outputs + p);
                    let finish = Plain { to, row: *outputs, add };
                    let panel = Panel { b: dy[p..].as_ptr(), stride: *outputs };
                    tile::<S, N, _>(rows, &segments, shape.stride * c, panel, &finish);
                }
            }
        }
    }
}
