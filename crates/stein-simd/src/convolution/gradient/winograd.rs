//! The gradient of the weights by Winograd's method: in chunks of tiles that stay in the last-level cache, inputs and
//! gradients of outputs are transformed, and then multiplied position by position, each sum over all tiles of the chunk
//! in registers.

use std::ops::Range;

use super::sums::{collect, padded};
use crate::{
    convolution::{
        bands::{Bands, find},
        input::Input,
        method::Method,
        shape::Shape,
        transform::{LINE, column, output_gradient, transform_input},
    },
    memory::{Scratch, Target},
    split::tasks,
    tile::{Panel, Plain, Segment, cut, panel_width, tile, with_vectors},
    vector::{self, Isa, Job, Simd},
};

/// Numbers of input per band.
const BAND: usize = 40 * 1024;

/// The least size of a chunk's transformed inputs and gradients, in numbers.
const CHUNK: usize = 1 << 20;

/// Input channels per task of the products.
const CHANNELS: usize = 64;

pub(super) fn weight_gradient<const OUT: usize, const IN: usize>(
    isa: Isa,
    shape: &Shape,
    input: &Input,
    dy: &[f32],
    dw: &mut [f32],
) {
    let [height, width] = shape.output();
    let (across, outputs, positions) = (width.div_ceil(OUT), padded(isa, shape), IN * IN);
    let units = shape.samples * height.div_ceil(OUT);
    // The sums are read and written once per chunk, so chunks are larger if there are many channels.
    let sums = positions * shape.inputs * outputs;
    let (v_row, y_row) = (shape.inputs + LINE, outputs + LINE);
    let unit = positions * across * (v_row + y_row);
    let chunk = CHUNK.max(sums).div_ceil(unit).min(units);
    let steps = [v_row, y_row].map(|row| chunk * across * row + LINE);
    let bands = Bands::new(shape, OUT, across * OUT + 2, shape.inputs, BAND);
    let band = bands.band.min(chunk.div_ceil(2));
    let mut scratch = Scratch::of_kernel(sums + positions * (steps[0] + steps[1]));
    let (sums, transformed) = scratch.split_at_mut(sums);
    let (v, y) = transformed.split_at_mut(positions * steps[0]);
    let blocks = shape.inputs.div_ceil(CHANNELS);
    for from in (0..units).step_by(chunk) {
        let to = (from + chunk).min(units);
        let tiles = (to - from) * across;
        let (v_target, y_target) = (Target::new(v), Target::new(y));
        tasks(shape.operations(), (to - from).div_ceil(band), |task| {
            let first = from + task * band;
            let range = first..(first + band).min(to);
            let (v, y, bands) = (v_target, y_target, &bands);
            isa.run(Transform::<OUT, IN> { shape, input, dy, v, y, bands, across, outputs, steps, from, range });
        });
        let (v, y, target, add) = (&*v, &*y, Target::new(sums), from > 0);
        tasks(shape.operations(), positions * blocks, |task| {
            let (position, block) = (task / blocks, task % blocks);
            let channels = block * shape.inputs / blocks..(block + 1) * shape.inputs / blocks;
            isa.run(Sum { shape, v, y, sums: target, position, channels, tiles, outputs, steps, add });
        });
    }
    let method = if IN == 4 { Method::Winograd2 } else { Method::Winograd4 };
    collect(isa, shape, method, sums, 1, dw);
}

/// Transforms the inputs and the gradients of the outputs of a range of rows of tiles.
struct Transform<'a, const OUT: usize, const IN: usize> {
    shape: &'a Shape,
    input: &'a Input<'a>,
    dy: &'a [f32],
    /// `[positions, tiles, inputs]`, with a cache line after every row and position.
    v: Target<'a>,
    /// `[positions, tiles, outputs padded]`, likewise.
    y: Target<'a>,
    bands: &'a Bands,
    /// Tiles per row.
    across: usize,
    outputs: usize,
    /// Numbers from one position to the next, of v and of y.
    steps: [usize; 2],
    /// The row of tiles the chunk begins at.
    from: usize,
    range: Range<usize>,
}

impl<const OUT: usize, const IN: usize> Job for Transform<'_, OUT, IN> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { shape, bands, across, outputs, steps, .. } = self;
        let c = shape.inputs;
        let (pieces, len) = bands.pieces(self.range.clone());
        let mut band = Scratch::of_task(len);
        for piece in &pieces {
            // SAFETY: the sizes were checked.
            unsafe { bands.fill::<S>(shape, self.input, piece, &(0..c), &mut band) };
        }
        for t in 0..self.range.len() * across {
            let (piece, row, x) = find(&pieces, t, across);
            let at = piece.offset + (row * OUT * bands.width + x * OUT) * c;
            let tile = (self.range.start - self.from) * across + t;
            // SAFETY: the tile's inputs are in the band, and it has a row of its own in every position.
            unsafe {
                let (v, y) = (self.v.at(tile * (c + LINE)), self.y.at(tile * (outputs + LINE)));
                transform_input::<S, IN>(band[at..].as_ptr(), bands.row, c, v, steps[0]);
                self.transform_gradient::<S>([piece.image, piece.from + row, x], y);
            }
        }
    }
}

impl<const OUT: usize, const IN: usize> Transform<'_, OUT, IN> {
    /// Transforms the gradients of a tile of outputs. Those beyond the edge are zero, as are the columns that pad the
    /// outputs.
    ///
    /// # Safety
    /// The sizes were checked; all positions can be written.
    #[inline(always)]
    unsafe fn transform_gradient<S: Simd>(&self, [image, row, x]: [usize; 3], to: *mut f32) {
        let outputs = self.shape.outputs;
        let [height, width] = self.shape.output();
        // SAFETY: the caller's promise.
        unsafe {
            for c in (0..self.outputs).step_by(S::LANES) {
                let mut rows = [[S::splat(0.0); IN]; OUT];
                for (i, line) in rows.iter_mut().enumerate() {
                    let mut values = [S::splat(0.0); OUT];
                    for (j, value) in values.iter_mut().enumerate() {
                        let (y, x) = (row * OUT + i, x * OUT + j);
                        if c < outputs && y < height && x < width {
                            let pixel = (image * height + y) * width + x;
                            *value = vector::load::<S>(self.dy.as_ptr().add(pixel * outputs + c), outputs - c);
                        }
                    }
                    *line = output_gradient::<S, OUT, IN>(values);
                }
                for j in 0..IN {
                    for (i, value) in output_gradient::<S, OUT, IN>(column(&rows, j)).into_iter().enumerate() {
                        S::store(to.add((i * IN + j) * self.steps[1] + c), value);
                    }
                }
            }
        }
    }
}

/// The sums of one position over the tiles of a chunk, for a block of channels.
struct Sum<'a> {
    shape: &'a Shape,
    v: &'a [f32],
    y: &'a [f32],
    /// `[positions, inputs, outputs padded]`
    sums: Target<'a>,
    position: usize,
    channels: Range<usize>,
    tiles: usize,
    outputs: usize,
    steps: [usize; 2],
    add: bool,
}

impl Job for Sum<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: all tiles of the chunk are transformed; only this task has these channels of this position.
        unsafe { with_vectors!(S, panel_width::<S>(self.shape.outputs), products(&self)) }
    }
}

/// # Safety
/// All tiles of the chunk are transformed.
#[inline(always)]
unsafe fn products<S: Simd, const N: usize>(sum: &Sum) {
    let Sum { shape, v, y, sums, position, channels, tiles, outputs, steps, add } = sum;
    let c = shape.inputs;
    for p in (0..*outputs).step_by(N * S::LANES) {
        let b = y[position * steps[1] + p..].as_ptr();
        for (from, rows) in cut(channels.len(), S::ROWS) {
            let channel = channels.start + from;
            let a = v[position * steps[0] + channel..].as_ptr();
            // SAFETY: the caller's promise; the sums have a row for every channel of every position.
            unsafe {
                let to = sums.at((position * c + channel) * outputs + p);
                let finish = Plain { to, row: *outputs, add: *add };
                let panel = Panel { b, stride: outputs + LINE };
                tile::<S, N, _>(rows, &[Segment { a, row: 1, count: *tiles }], c + LINE, panel, &finish);
            }
        }
    }
}
