//! Bands: runs of output rows whose inputs stay in cache.

use std::ops::Range;

use super::{
    input::{Input, Window},
    shape::Shape,
};
use crate::vector::Simd;

/// The part of a band that lies in one image, with its inputs in scratch.
pub(super) struct Piece {
    pub(super) image: usize,
    /// The first row of outputs, in units.
    pub(super) from: usize,
    pub(super) units: usize,
    /// Where its rows of input begin in scratch.
    pub(super) offset: usize,
}

/// How the rows of outputs are cut into bands. A unit is a row of outputs, or of Winograd's tiles; units are counted over
/// all images.
#[derive(Clone, Copy)]
pub(super) struct Bands {
    /// Units per image.
    per_image: usize,
    /// Rows of input in a band of one unit, and how many each further unit adds.
    rows: [usize; 2],
    /// Pixels per row of input, with its border.
    pub(super) width: usize,
    /// Factors per row of input, with its border.
    pub(super) row: usize,
    /// Units per band.
    pub(super) band: usize,
    units: usize,
}

impl Bands {
    /// Bands of units of `unit` rows of outputs, with rows of input of `width` pixels of `channels` each, about `target`
    /// of them per band.
    pub(super) fn new(shape: &Shape, unit: usize, width: usize, channels: usize, target: usize) -> Self {
        let per_image = shape.output()[0].div_ceil(unit);
        let rows = [(unit - 1) * shape.stride + shape.kernel[0], unit * shape.stride];
        let row = width * channels;
        let units = shape.samples * per_image;
        // As many as fit, but at least two, to keep the halo between bands small.
        let fit = (target / row).saturating_sub(rows[0]) / rows[1] + 1;
        Self { per_image, rows, width, row, band: fit.max(2).min(units), units }
    }

    pub(super) fn count(&self) -> usize {
        self.units.div_ceil(self.band)
    }

    pub(super) fn range(&self, band: usize) -> Range<usize> {
        band * self.band..((band + 1) * self.band).min(self.units)
    }

    /// The pieces of a range of units, and the size of all their inputs.
    pub(super) fn pieces(&self, range: Range<usize>) -> (Vec<Piece>, usize) {
        let (mut pieces, mut offset, mut unit) = (Vec::new(), 0, range.start);
        while unit < range.end {
            let (image, from) = (unit / self.per_image, unit % self.per_image);
            let units = (range.end - unit).min(self.per_image - from);
            pieces.push(Piece { image, from, units, offset });
            offset += self.rows_of(units) * self.row;
            unit += units;
        }
        (pieces, offset)
    }

    /// Rows of input of that many units.
    pub(super) fn rows_of(&self, units: usize) -> usize {
        self.rows[0] + (units - 1) * self.rows[1]
    }

    /// The row of input a piece begins at.
    fn first_row(&self, shape: &Shape, piece: &Piece) -> isize {
        (piece.from * self.rows[1]) as isize - shape.pad[0] as isize
    }

    /// Copies the inputs of a piece to its place in scratch.
    ///
    /// # Safety
    /// The input was checked, and the processor has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd>(
        &self,
        shape: &Shape,
        input: &Input,
        piece: &Piece,
        channels: &Range<usize>,
        scratch: &mut [f32],
    ) {
        let rows = self.rows_of(piece.units);
        let first = self.first_row(shape, piece);
        let window = Window { image: piece.image, first, rows, width: self.width, channels: channels.clone() };
        let to = &mut scratch[piece.offset..piece.offset + rows * self.row];
        // SAFETY: the caller's promise, and the window is as large as its place in scratch.
        unsafe { input.window::<S>(shape, &window, to) };
    }

    /// Copies row `r` of a piece's inputs to the beginning of `to`.
    ///
    /// # Safety
    /// As [`fill`](Self::fill).
    #[inline(always)]
    pub(super) unsafe fn fill_row<S: Simd>(
        &self,
        shape: &Shape,
        input: &Input,
        piece: &Piece,
        r: usize,
        channels: &Range<usize>,
        to: &mut [f32],
    ) {
        let first = self.first_row(shape, piece) + r as isize;
        let window = Window { image: piece.image, first, rows: 1, width: self.width, channels: channels.clone() };
        // SAFETY: the caller's promise, and the window is one row.
        unsafe { input.window::<S>(shape, &window, &mut to[..self.width * channels.len()]) };
    }
}

/// The piece of a band that tile number `t` is in, and its row and column there; a row has `across` tiles.
#[inline(always)]
pub(super) fn find(pieces: &[Piece], t: usize, across: usize) -> (&Piece, usize, usize) {
    let (mut row, x) = (t / across, t % across);
    for piece in pieces {
        if row < piece.units {
            return (piece, row, x);
        }
        row -= piece.units;
    }
    unreachable!("every tile is in one of its band's pieces");
}
