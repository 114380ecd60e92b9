//! The direct method in bf16: sums of products of pairs, which some processors add up in a single instruction.

use super::band::{Band, for_each_band, products};
use crate::{
    bf16::Pair,
    convolution::{epilogue::Epilogue, input::Input, shape::Shape, weights::Weights},
    memory::{Scratch, Target},
    tile::{panel_width, with_vectors},
    vector::{Isa, Job, Simd},
};

pub(super) fn convolve(isa: Isa, shape: &Shape, input: &Input, weights: &Weights, epilogue: &Epilogue, y: Target) {
    for_each_band(shape, input, weights, epilogue, y, |band| isa.run(Bf16(band)));
}

struct Bf16<'a>(Band<'a>);

impl Job for Bf16<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Band { shape, input, bands, ref range, .. } = self.0;
        let (pieces, len) = bands.pieces(range.clone());
        let line = bands.width * shape.inputs;
        let mut scratch = Scratch::of_task(line + len);
        let (line, pairs) = scratch.split_at_mut(line);
        let pairs = Pair::slice(&mut pairs[..len]);
        for piece in &pieces {
            for r in 0..bands.rows_of(piece.units) {
                let to = &mut pairs[piece.offset + r * bands.row..][..bands.row];
                // SAFETY: the sizes were checked.
                unsafe {
                    bands.fill_row::<S>(shape, input, piece, r, &(0..shape.inputs), line);
                    Pair::pack::<S>(line, shape.inputs, to);
                }
            }
        }
        let pairs = &*pairs;
        // SAFETY: no two bands overlap in y; the inputs of this one are in scratch, in pairs like the weights.
        unsafe { with_vectors!(S, panel_width::<S>(shape.outputs), products(&self.0, &pieces, pairs)) }
    }
}
