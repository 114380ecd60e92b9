//! Winograd's method: tiles of the input are transformed, multiplied by the weights position by position, and transformed
//! back.

use std::ops::Range;

use crate::{
    convolution::{
        bands::{Bands, Piece, find},
        epilogue::{Epilogue, Out},
        input::Input,
        shape::Shape,
        transform::{LINE, column, output, transform_input},
        weights::Weights,
    },
    memory::{Scratch, Target},
    split::tasks,
    tile::{Finish, Panel, Plain, Segment, cut, panel_width, tile, with_vectors},
    vector::{Isa, Job, Simd},
};

/// Numbers of input per band.
const BAND: usize = 40 * 1024;

/// Tiles transformed together, for m = 2 and 4. More of them read the weights less often, but both sides of the products
/// should stay in the second-level cache.
const TILES: [usize; 2] = [48, 24];

pub(super) fn convolve<const OUT: usize, const IN: usize>(
    isa: Isa,
    shape: &Shape,
    input: &Input,
    weights: &Weights,
    epilogue: &Epilogue,
    y: Target,
) {
    let across = shape.output()[1].div_ceil(OUT);
    let bands = Bands::new(shape, OUT, across * OUT + 2, shape.inputs, BAND);
    tasks(shape.operations(), bands.count(), |band| {
        let range = bands.range(band);
        isa.run(Band::<OUT, IN> { shape, input, weights, epilogue, y, bands: &bands, across, range });
    });
}

struct Band<'a, const OUT: usize, const IN: usize> {
    shape: &'a Shape,
    input: &'a Input<'a>,
    weights: &'a Weights,
    epilogue: &'a Epilogue<'a>,
    y: Target<'a>,
    bands: &'a Bands,
    /// Tiles per row.
    across: usize,
    range: Range<usize>,
}

/// The sizes of the products of a block of tiles.
#[derive(Clone, Copy)]
struct Block {
    positions: usize,
    inputs: usize,
    /// Channels of the output, padded to whole panels.
    outputs: usize,
    /// Numbers from one position to the next, of the transformed inputs and of the products.
    steps: [usize; 2],
}

impl<const OUT: usize, const IN: usize> Job for Band<'_, OUT, IN> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (shape, bands) = (self.shape, self.bands);
        let c = shape.inputs;
        let panel = panel_width::<S>(shape.outputs);
        let outputs = shape.outputs.next_multiple_of(panel);
        let (pieces, len) = bands.pieces(self.range.clone());
        let tiles = self.range.len() * self.across;
        let most = tiles.min(TILES[usize::from(IN == 6)]);
        let steps = [most * c + LINE, most * outputs + LINE];
        let block = Block { positions: IN * IN, inputs: c, outputs, steps };
        let mut scratch = Scratch::of_task(len + IN * IN * (steps[0] + steps[1]));
        let memory = &mut *scratch;
        let (band, rest) = memory.split_at_mut(len);
        let (v, m) = rest.split_at_mut(IN * IN * steps[0]);
        for piece in &pieces {
            // SAFETY: the sizes were checked.
            unsafe { bands.fill::<S>(shape, self.input, piece, &(0..c), band) };
        }
        for (from, count) in cut(tiles, most) {
            for t in 0..count {
                let (piece, row, x) = find(&pieces, from + t, self.across);
                let at = piece.offset + (row * OUT * bands.width + x * OUT) * c;
                // SAFETY: the tile's inputs are in the band, and the block has room for all its positions.
                unsafe {
                    let to = v.as_mut_ptr().add(t * c);
                    transform_input::<S, IN>(band[at..].as_ptr(), bands.row, c, to, steps[0]);
                }
            }
            // SAFETY: `count` ≤ `most` tiles are transformed, and there is room for as many products.
            unsafe { with_vectors!(S, panel, products(block, v, self.weights.data(), m, count)) };
            for t in 0..count {
                let (piece, row, x) = find(&pieces, from + t, self.across);
                // SAFETY: the products of tile t are done; no two tiles overlap in the output.
                unsafe { self.store::<S>(&m[t * outputs..], steps[1], piece, row, x) };
            }
        }
    }
}

/// For every position, the product of `count` transformed tiles and the weights.
///
/// # Safety
/// `v` has `count` × `inputs` numbers for every position, and `m` has room for `count` × `outputs`.
#[inline(always)]
unsafe fn products<S: Simd, const N: usize>(block: Block, v: &[f32], weights: &[f32], m: &mut [f32], count: usize) {
    let Block { positions, inputs: c, outputs, steps } = block;
    let panel = N * S::LANES;
    for position in 0..positions {
        for p in 0..outputs / panel {
            let b = weights[(position * (outputs / panel) + p) * c * panel..].as_ptr();
            for (from, rows) in cut(count, S::ROWS) {
                let a = v[position * steps[0] + from * c..].as_ptr();
                let to = m[position * steps[1] + from * outputs + p * panel..].as_mut_ptr();
                // SAFETY: the caller's promise.
                unsafe {
                    let finish = Plain { to, row: outputs, add: false };
                    tile::<S, N, _>(rows, &[Segment { a, row: c, count: c }], 1, Panel { b, stride: panel }, &finish);
                }
            }
        }
    }
}

impl<const OUT: usize, const IN: usize> Band<'_, OUT, IN> {
    /// Transforms the products of a tile, in row `row` of a piece and column `x`, back and writes its outputs.
    ///
    /// # Safety
    /// The products of all positions, `step` numbers apart, are in `m`.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, m: &[f32], step: usize, piece: &Piece, row: usize, x: usize) {
        let (image, row) = (piece.image, piece.from + row);
        let outputs = self.shape.outputs;
        let [height, width] = self.shape.output();
        // SAFETY: the caller's promise; a row of products is padded to whole vectors.
        unsafe {
            for c in (0..outputs).step_by(S::LANES) {
                let mut rows = [[S::splat(0.0); OUT]; IN];
                for (i, line) in rows.iter_mut().enumerate() {
                    let mut values = [S::splat(0.0); IN];
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = S::load(m.as_ptr().add((i * IN + j) * step + c));
                    }
                    *line = output::<S, OUT, IN>(values);
                }
                for j in 0..OUT.min(width - x * OUT) {
                    let sums = output::<S, OUT, IN>(column(&rows, j));
                    for (i, sum) in sums.into_iter().enumerate().take(height - row * OUT) {
                        let pixel = (image * height + row * OUT + i) * width + x * OUT + j;
                        let out = Out { epilogue: self.epilogue, y: self.y, outputs, n: image, pixel, column: c };
                        out.put::<S>(0, 0, sum);
                    }
                }
            }
        }
    }
}
