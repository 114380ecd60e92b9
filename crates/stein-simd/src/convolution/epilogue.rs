//! What happens to the sums of a convolution or a linear layer on their way into the output.

use super::shape::Shape;
use crate::{
    memory::Target,
    tile::Finish,
    vector::{self, Simd},
};

/// What is added to the sums, and the factor at the end.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
    /// `[samples, outputs]`
    pub shift: Option<&'a [f32]>,
    /// A tensor of the output's shape.
    pub residual: Option<&'a [f32]>,
    /// The factor of the whole; 1 leaves it as it is.
    pub scale: f32,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { bias: None, shift: None, residual: None, scale: 1.0 }
    }
}

impl Epilogue<'_> {
    pub(crate) fn check(&self, shape: &Shape, y: &[f32]) {
        let [height, width] = shape.output();
        assert_eq!(y.len(), shape.samples * height * width * shape.outputs, "the output of a convolution");
        assert!(self.bias.is_none_or(|bias| bias.len() == shape.outputs), "the bias of a convolution");
        assert!(
            self.shift.is_none_or(|shift| shift.len() == shape.samples * shape.outputs),
            "the shift of a convolution"
        );
        assert!(self.residual.is_none_or(|residual| residual.len() == y.len()), "the residual of a convolution");
    }
}

/// A part of the output that a tile writes.
pub(crate) struct Out<'a> {
    pub(crate) epilogue: &'a Epilogue<'a>,
    pub(crate) y: Target<'a>,
    /// Channels of the output.
    pub(crate) outputs: usize,
    /// The sample.
    pub(crate) n: usize,
    /// The pixel of row 0, counted over all samples.
    pub(crate) pixel: usize,
    /// The first channel.
    pub(crate) column: usize,
}

impl Finish for Out<'_> {
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, m: usize, n: usize, mut sum: S::V) {
        let column = self.column + n * S::LANES;
        if column >= self.outputs {
            return;
        }
        let Epilogue { bias, shift, residual, scale } = self.epilogue;
        let (at, count) = ((self.pixel + m) * self.outputs + column, self.outputs - column);
        // SAFETY: pixel and column are within the output, whose sizes were checked; no other thread writes this tile.
        unsafe {
            if let Some(bias) = bias {
                sum = S::add(sum, vector::load::<S>(bias.as_ptr().add(column), count));
            }
            if let Some(shift) = shift {
                sum = S::add(sum, vector::load::<S>(shift.as_ptr().add(self.n * self.outputs + column), count));
            }
            if let Some(residual) = residual {
                sum = S::add(sum, vector::load::<S>(residual.as_ptr().add(at), count));
            }
            if *scale != 1.0 {
                sum = S::mul(sum, S::splat(*scale));
            }
            vector::store::<S>(self.y.at(at), sum, count);
        }
    }
}
