//! The direct method in f32.

use super::band::{Band, for_each_band, products};
use crate::{
    convolution::{epilogue::Epilogue, input::Input, shape::Shape, weights::Weights},
    memory::{Scratch, Target},
    tile::{panel_width, with_vectors},
    vector::{Isa, Job, Simd},
};

pub(super) fn convolve(isa: Isa, shape: &Shape, input: &Input, weights: &Weights, epilogue: &Epilogue, y: Target) {
    for_each_band(shape, input, weights, epilogue, y, |band| isa.run(Direct(band)));
}

struct Direct<'a>(Band<'a>);

impl Job for Direct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Band { shape, input, bands, ref range, .. } = self.0;
        let (pieces, len) = bands.pieces(range.clone());
        let mut scratch = Scratch::of_task(len);
        let memory = &mut *scratch;
        for piece in &pieces {
            // SAFETY: the sizes were checked.
            unsafe { bands.fill::<S>(shape, input, piece, &(0..shape.inputs), memory) };
        }
        // SAFETY: no two bands overlap in y; the inputs of this one are in scratch.
        unsafe { with_vectors!(S, panel_width::<S>(shape.outputs), products(&self.0, &pieces, memory)) }
    }
}
