//! Winograd's method for 3 × 3 kernels: transforms of inputs, outputs and weights, and the products between them.
//!
//! In one dimension F(m, 3) gives m outputs from n = m + 2 inputs d and three weights g as Aᵀ \[(G g) ⊙ (Bᵀ d)\]; in two,
//! the transforms go over rows and columns. The gradient of the weights is Gᵀ \[(Bᵀ d) ⊙ (A y)\] for gradients y of the
//! outputs. The matrices are those of Lavin & Gray (arXiv:1509.09308, section 4) for the points 0, ±1, ∞ (m = 2) and
//! 0, ±1, ±2, ∞ (m = 4).

use super::{
    Bands, Epilogue, Input, Method, Piece, Shape, Weights,
    gradient::{collect as collect_all, padded},
};
use crate::{
    Isa,
    memory::{Scratch, Target},
    split::tasks,
    tile::{Panel, Plain, Segment, cut, panel_width, tile, with_vectors},
    vector::{self, Job, Simd},
};

/// Numbers of input in a band.
const BAND: usize = 40 * 1024;

/// Tiles transformed together. More of them read the weights less often; both sides of the products should stay in the
/// second-level cache.
const TILES: [usize; 2] = [48, 24];

/// Numbers in a line of the cache. Positions and rows of tiles are that much more than a power of two apart, for else they
/// would all share a few sets of the first-level cache.
const LINE: usize = 16;

/// Bᵀ d.
#[inline(always)]
unsafe fn input<S: Simd, const IN: usize>(d: [S::V; IN]) -> [S::V; IN] {
    let mut t = d;
    // SAFETY: the processor has the instructions of S, as the caller promises.
    unsafe {
        if IN == 4 {
            t[0] = S::sub(d[0], d[2]);
            t[1] = S::add(d[1], d[2]);
            t[2] = S::sub(d[2], d[1]);
            t[3] = S::sub(d[1], d[3]);
        } else {
            let (two, four, five) = (S::splat(2.0), S::splat(4.0), S::splat(-5.0));
            let (even, odd) = (S::fma(S::splat(-4.0), d[2], d[4]), S::fma(S::splat(-4.0), d[1], d[3]));
            let (low, high) = (S::sub(d[4], d[2]), S::mul(two, S::sub(d[3], d[1])));
            t[0] = S::fma(four, d[0], S::fma(five, d[2], d[4]));
            t[1] = S::add(even, odd);
            t[2] = S::sub(even, odd);
            t[3] = S::add(low, high);
            t[4] = S::sub(low, high);
            t[5] = S::fma(four, d[1], S::fma(five, d[3], d[5]));
        }
    }
    t
}

/// Aᵀ m.
#[inline(always)]
unsafe fn output<S: Simd, const OUT: usize, const IN: usize>(m: [S::V; IN]) -> [S::V; OUT] {
    let mut y = [m[0]; OUT];
    // SAFETY: as in `input`.
    unsafe {
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        if IN == 4 {
            y[0] = S::add(m[0], sum);
            y[1] = S::sub(difference, m[3]);
        } else {
            let (far, apart) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
            y[0] = S::add(m[0], S::add(sum, far));
            y[1] = S::fma(S::splat(2.0), apart, difference);
            y[2] = S::fma(S::splat(4.0), far, sum);
            y[3] = S::add(S::fma(S::splat(8.0), apart, difference), m[5]);
        }
    }
    y
}

/// A y, the transpose of [`output`].
#[inline(always)]
unsafe fn output_gradient<S: Simd, const OUT: usize, const IN: usize>(y: [S::V; OUT]) -> [S::V; IN] {
    let mut m = [y[0]; IN];
    // SAFETY: as in `input`.
    unsafe {
        if IN == 4 {
            m[1] = S::add(y[0], y[1]);
            m[2] = S::sub(y[0], y[1]);
            m[3] = S::sub(S::splat(0.0), y[1]);
        } else {
            let (even, odd) = (S::add(y[0], y[2]), S::add(y[1], y[3]));
            m[1] = S::add(even, odd);
            m[2] = S::sub(even, odd);
            let (even, odd) = (S::fma(S::splat(4.0), y[2], y[0]), S::fma(S::splat(8.0), y[3], S::add(y[1], y[1])));
            m[3] = S::add(even, odd);
            m[4] = S::sub(even, odd);
            m[5] = y[3];
        }
    }
    m
}

/// G g.
#[inline(always)]
unsafe fn weight<S: Simd, const IN: usize>(g: [S::V; 3]) -> [S::V; IN] {
    let mut u = [g[0]; IN];
    // SAFETY: as in `input`.
    unsafe {
        let ends = S::add(g[0], g[2]);
        if IN == 4 {
            let half = S::splat(0.5);
            u[1] = S::mul(half, S::add(ends, g[1]));
            u[2] = S::mul(half, S::sub(ends, g[1]));
            u[3] = g[2];
        } else {
            let sixth = S::splat(-1.0 / 6.0);
            u[0] = S::mul(S::splat(0.25), g[0]);
            u[1] = S::mul(sixth, S::add(ends, g[1]));
            u[2] = S::mul(sixth, S::sub(ends, g[1]));
            let even = S::fma(S::splat(1.0 / 24.0), g[0], S::mul(S::splat(1.0 / 6.0), g[2]));
            let odd = S::mul(S::splat(1.0 / 12.0), g[1]);
            u[3] = S::add(even, odd);
            u[4] = S::sub(even, odd);
            u[5] = g[2];
        }
    }
    u
}

/// Gᵀ u, the transpose of [`weight`].
#[inline(always)]
unsafe fn weight_gradient<S: Simd, const IN: usize>(u: [S::V; IN]) -> [S::V; 3] {
    // SAFETY: as in `input`.
    unsafe {
        let (sum, difference) = (S::add(u[1], u[2]), S::sub(u[1], u[2]));
        if IN == 4 {
            let half = S::splat(0.5);
            [S::fma(half, sum, u[0]), S::mul(half, difference), S::fma(half, sum, u[3])]
        } else {
            let sixth = S::splat(-1.0 / 6.0);
            let (far, apart) = (S::add(u[3], u[4]), S::sub(u[3], u[4]));
            [
                S::fma(S::splat(0.25), u[0], S::fma(sixth, sum, S::mul(S::splat(1.0 / 24.0), far))),
                S::fma(sixth, difference, S::mul(S::splat(1.0 / 12.0), apart)),
                S::fma(sixth, sum, S::fma(S::splat(1.0 / 6.0), far, u[5])),
            ]
        }
    }
}

/// A column of a small matrix in registers.
#[inline(always)]
fn column<V: Copy, const ROWS: usize, const COLUMNS: usize>(rows: &[[V; COLUMNS]; ROWS], j: usize) -> [V; ROWS] {
    std::array::from_fn(|i| rows[i][j])
}

/// Transforms nine rows `panel` wide, and writes position i to `to(i)`.
///
/// # Safety
/// There are nine such rows, and room for one at every `to(i)`.
#[inline(always)]
pub(super) unsafe fn weights<S: Simd, const IN: usize>(taps: &[f32], panel: usize, to: impl Fn(usize) -> *mut f32) {
    // SAFETY: the caller's promise; a panel is whole vectors wide.
    unsafe {
        for lane in (0..panel).step_by(S::LANES) {
            let mut rows = [[S::splat(0.0); IN]; 3];
            for (u, row) in rows.iter_mut().enumerate() {
                let tap = |v: usize| S::load(taps.as_ptr().add((3 * u + v) * panel + lane));
                *row = weight::<S, IN>([tap(0), tap(1), tap(2)]);
            }
            for j in 0..IN {
                for (i, value) in weight::<S, IN>(column(&rows, j)).into_iter().enumerate() {
                    S::store(to(i * IN + j).add(lane), value);
                }
            }
        }
    }
}

/// Transforms IN × IN places of `count` channels at `from`, `row` numbers between rows, and writes position i to
/// `to` + i · `position`.
///
/// # Safety
/// They can be read, and all positions written.
#[inline(always)]
unsafe fn transform_input<S: Simd, const IN: usize>(
    from: *const f32,
    row: usize,
    count: usize,
    to: *mut f32,
    position: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut c = 0;
        while c < count {
            let left = count - c;
            let mut rows = [[S::splat(0.0); IN]; IN];
            for (i, line) in rows.iter_mut().enumerate() {
                let mut d = [S::splat(0.0); IN];
                for (j, d) in d.iter_mut().enumerate() {
                    *d = vector::load::<S>(from.add(i * row + j * count + c), left);
                }
                *line = input::<S, IN>(d);
            }
            for j in 0..IN {
                for (i, value) in input::<S, IN>(column(&rows, j)).into_iter().enumerate() {
                    vector::store::<S>(to.add((i * IN + j) * position + c), value, left);
                }
            }
            c += S::LANES;
        }
    }
}

pub(super) fn convolve<const OUT: usize, const IN: usize>(
    isa: Isa,
    shape: &Shape,
    input: &Input,
    weights: &Weights,
    epilogue: &Epilogue,
    y: Target,
) {
    let across = shape.output()[1].div_ceil(OUT);
    let width = across * OUT + 2;
    let bands = Bands::new(shape, OUT, width, shape.inputs, BAND);
    let band = |band| {
        let range = bands.range(band);
        isa.run(Band::<OUT, IN> { shape, input, weights, epilogue, y, bands: &bands, across, width, range });
    };
    tasks(shape.operations(), bands.count(), band);
}

struct Band<'a, const OUT: usize, const IN: usize> {
    shape: &'a Shape,
    input: &'a Input<'a>,
    weights: &'a Weights,
    epilogue: &'a Epilogue<'a>,
    y: Target<'a>,
    bands: &'a Bands,
    /// Tiles in a row.
    across: usize,
    /// Places in a row of input with its border.
    width: usize,
    range: std::ops::Range<usize>,
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
        let block = tiles.min(TILES[usize::from(IN == 6)]);
        let (v_step, m_step) = (block * c + LINE, block * outputs + LINE);
        let mut scratch = Scratch::of_task(len + IN * IN * (v_step + m_step));
        let memory = &mut *scratch;
        let (band, rest) = memory.split_at_mut(len);
        let (v, m) = rest.split_at_mut(IN * IN * v_step);
        for piece in &pieces {
            let rows = bands.rows_of(piece.units);
            let to = &mut band[piece.offset..piece.offset + rows * bands.row];
            // SAFETY: sizes were checked, and the window is as large as its place in scratch.
            unsafe {
                let first = bands.first_row(shape, piece);
                self.input.window::<S>(shape, piece.image, first, rows, self.width, 0..c, to);
            }
        }
        for (from, count) in cut(tiles, block) {
            for t in 0..count {
                let (piece, row, x) = find(&pieces, from + t, self.across);
                let at = piece.offset + (row * OUT * self.width + x * OUT) * c;
                // SAFETY: the tile's inputs are in the band, and the block has room for its positions.
                unsafe {
                    let to = v.as_mut_ptr().add(t * c);
                    transform_input::<S, IN>(band[at..].as_ptr(), self.width * c, c, to, v_step);
                }
            }
            // SAFETY: `count` ≤ `block` tiles are transformed, and there is room for as many products.
            unsafe {
                with_vectors!(S, panel, products(v, &self.weights.data, m, IN * IN, v_step, m_step, count, c, outputs));
            }
            for t in 0..count {
                let (piece, row, x) = find(&pieces, from + t, self.across);
                // SAFETY: the products of tile t are done; tiles are apart in the output.
                unsafe { self.store::<S>(&m[t * outputs..], m_step, piece.image, piece.from + row, x) };
            }
        }
    }
}

/// The piece of a band that tile number `t` is in, and its row and column there.
#[inline(always)]
fn find(pieces: &[Piece], t: usize, across: usize) -> (&Piece, usize, usize) {
    let (mut row, x) = (t / across, t % across);
    for piece in pieces {
        if row < piece.units {
            return (piece, row, x);
        }
        row -= piece.units;
    }
    unreachable!("a tile is in one of its band's pieces");
}

/// For every position, the product of `count` transformed tiles with its weights.
///
/// # Safety
/// `v` has room for `count` × `c` numbers every `v_step`, `m` for `count` × `outputs`, a whole number of panels, every
/// `m_step`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "sizes of a batch of products")]
unsafe fn products<S: Simd, const N: usize>(
    v: &[f32],
    weights: &[f32],
    m: &mut [f32],
    positions: usize,
    v_step: usize,
    m_step: usize,
    count: usize,
    c: usize,
    outputs: usize,
) {
    let panel = N * S::LANES;
    for position in 0..positions {
        for p in 0..outputs / panel {
            let b = weights[(position * (outputs / panel) + p) * c * panel..].as_ptr();
            for (from, rows) in cut(count, S::ROWS) {
                let a = v[position * v_step + from * c..].as_ptr();
                let to = m[position * m_step + from * outputs + p * panel..].as_mut_ptr();
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
    /// Transforms the products of a tile back and writes its outputs.
    ///
    /// # Safety
    /// The products of all positions, `position` numbers apart, are there.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, m: &[f32], position: usize, image: usize, row: usize, x: usize) {
        let outputs = self.shape.outputs;
        let [height, width] = self.shape.output();
        // SAFETY: the caller's promise; a row of products is padded to whole vectors.
        unsafe {
            let mut c = 0;
            while c < outputs {
                let mut rows = [[S::splat(0.0); OUT]; IN];
                for (i, line) in rows.iter_mut().enumerate() {
                    let mut values = [S::splat(0.0); IN];
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = S::load(m.as_ptr().add((i * IN + j) * position + c));
                    }
                    *line = output::<S, OUT, IN>(values);
                }
                for j in 0..OUT.min(width - x * OUT) {
                    let sums = output::<S, OUT, IN>(column(&rows, j));
                    for (i, sum) in sums.into_iter().enumerate().take(height - row * OUT) {
                        let place = (image * height + row * OUT + i) * width + x * OUT + j;
                        let sum = self.epilogue.apply::<S>(sum, outputs, image, place, c, outputs - c);
                        vector::store::<S>(self.y.at(place * outputs + c), sum, outputs - c);
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// Numbers of transformed inputs and gradients of a chunk of tiles, at least.
const CHUNK: usize = 1 << 20;

/// The gradient of the weights: in chunks of tiles that stay in the last-level cache, inputs and gradients of outputs are
/// transformed, and then multiplied position by position, each sum over all tiles of the chunk in registers.
pub(super) fn weight_gradient_of<const OUT: usize, const IN: usize>(
    isa: Isa,
    shape: &Shape,
    input: &Input,
    dy: &[f32],
    dw: &mut [f32],
) {
    let [height, width] = shape.output();
    let (across, outputs, positions) = (width.div_ceil(OUT), padded(isa, shape), IN * IN);
    let units = shape.samples * height.div_ceil(OUT);
    let row = across * OUT + 2;
    // The sums are read and written for each chunk, so for many channels chunks are larger.
    let sums = positions * shape.inputs * outputs;
    let (v_row, y_row) = (shape.inputs + LINE, outputs + LINE);
    let unit = positions * across * (v_row + y_row);
    let chunk = CHUNK.max(sums).div_ceil(unit).min(units);
    let steps = [v_row, y_row].map(|row| chunk * across * row + LINE);
    let bands = Bands::new(shape, OUT, row, shape.inputs, BAND);
    let band = bands.band.min(chunk.div_ceil(2));
    let mut scratch = Scratch::of_kernel(sums + positions * (steps[0] + steps[1]));
    let (sums, transformed) = scratch.split_at_mut(sums);
    let (v, y) = transformed.split_at_mut(positions * steps[0]);
    let blocks = shape.inputs.div_ceil(64);
    for from in (0..units).step_by(chunk) {
        let to = (from + chunk).min(units);
        let tiles = (to - from) * across;
        let (v_target, y_target) = (Target::new(v), Target::new(y));
        tasks(shape.operations(), (to - from).div_ceil(band), |task| {
            let first = from + task * band;
            let range = first..(first + band).min(to);
            let (v, y, bands) = (v_target, y_target, &bands);
            isa.run(Transform::<OUT, IN> { shape, input, dy, v, y, bands, across, row, outputs, steps, from, range });
        });
        let (v, y, target, add) = (&*v, &*y, Target::new(sums), from > 0);
        tasks(shape.operations(), positions * blocks, |task| {
            let (position, block) = (task / blocks, task % blocks);
            let channels = block * shape.inputs / blocks..(block + 1) * shape.inputs / blocks;
            isa.run(Sum { shape, v, y, sums: target, position, channels, tiles, outputs, steps, add });
        });
    }
    let method = if IN == 4 { Method::Winograd2 } else { Method::Winograd4 };
    collect_all(isa, shape, method, sums, 1, dw);
}

/// Transforms the inputs and the gradients of the outputs of a range of rows of tiles.
struct Transform<'a, const OUT: usize, const IN: usize> {
    shape: &'a Shape,
    input: &'a Input<'a>,
    dy: &'a [f32],
    /// `[positions, tiles, inputs]`, with a line after every row and position.
    v: Target<'a>,
    /// `[positions, tiles, outputs padded]`, likewise.
    y: Target<'a>,
    bands: &'a Bands,
    /// Tiles in a row.
    across: usize,
    /// Places in a row of input with its border.
    row: usize,
    outputs: usize,
    /// From one position to the next, of both.
    steps: [usize; 2],
    /// The row of tiles the chunk begins at.
    from: usize,
    range: std::ops::Range<usize>,
}

impl<const OUT: usize, const IN: usize> Job for Transform<'_, OUT, IN> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { shape, bands, across, row: width, outputs, steps, .. } = self;
        let c = shape.inputs;
        let (pieces, len) = bands.pieces(self.range.clone());
        let mut band = Scratch::of_task(len);
        for piece in &pieces {
            let rows = bands.rows_of(piece.units);
            let to = &mut band[piece.offset..piece.offset + rows * bands.row];
            // SAFETY: sizes were checked, and the window is as large as its place in scratch.
            unsafe {
                let first = bands.first_row(shape, piece);
                self.input.window::<S>(shape, piece.image, first, rows, width, 0..c, to);
            }
        }
        for t in 0..self.range.len() * across {
            let (piece, row, x) = find(&pieces, t, across);
            let at = piece.offset + (row * OUT * width + x * OUT) * c;
            let tile = (self.range.start - self.from) * across + t;
            // SAFETY: the tile's inputs are in the band, and it has a place of its own in every position.
            unsafe {
                let (v, y) = (self.v.at(tile * (c + LINE)), self.y.at(tile * (outputs + LINE)));
                transform_input::<S, IN>(band[at..].as_ptr(), width * c, c, v, steps[0]);
                transform_gradient::<S, OUT, IN>(
                    shape,
                    self.dy,
                    outputs,
                    piece.image,
                    piece.from + row,
                    x,
                    y,
                    steps[1],
                );
            }
        }
    }
}

/// The sums of one position over the tiles of a chunk, for some channels.
struct Sum<'a> {
    shape: &'a Shape,
    v: &'a [f32],
    y: &'a [f32],
    /// `[positions, inputs, outputs padded]`
    sums: Target<'a>,
    position: usize,
    channels: std::ops::Range<usize>,
    tiles: usize,
    outputs: usize,
    steps: [usize; 2],
    add: bool,
}

impl Job for Sum<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: all tiles of the chunk are transformed; this task alone has these channels of this position.
        unsafe { with_vectors!(S, panel_width::<S>(self.shape.outputs), gradient_products(&self)) }
    }
}

/// Transforms the gradients of a tile of outputs; those beyond the edge are zero, as are the columns that pad the outputs.
///
/// # Safety
/// The sizes were checked; all positions can be written.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a tile in four dimensions, and where it goes")]
unsafe fn transform_gradient<S: Simd, const OUT: usize, const IN: usize>(
    shape: &Shape,
    dy: &[f32],
    padded: usize,
    image: usize,
    row: usize,
    x: usize,
    to: *mut f32,
    position: usize,
) {
    let outputs = shape.outputs;
    let [height, width] = shape.output();
    // SAFETY: the caller's promise.
    unsafe {
        for c in (0..padded).step_by(S::LANES) {
            let mut rows = [[S::splat(0.0); IN]; OUT];
            for (i, line) in rows.iter_mut().enumerate() {
                let mut values = [S::splat(0.0); OUT];
                for (j, value) in values.iter_mut().enumerate() {
                    let (y, x) = (row * OUT + i, x * OUT + j);
                    if c < outputs && y < height && x < width {
                        let place = (image * height + y) * width + x;
                        *value = vector::load::<S>(dy.as_ptr().add(place * outputs + c), outputs - c);
                    }
                }
                *line = output_gradient::<S, OUT, IN>(values);
            }
            for j in 0..IN {
                for (i, value) in output_gradient::<S, OUT, IN>(column(&rows, j)).into_iter().enumerate() {
                    S::store(to.add((i * IN + j) * position + c), value);
                }
            }
        }
    }
}

/// # Safety
/// All tiles of the chunk are transformed.
#[inline(always)]
unsafe fn gradient_products<S: Simd, const N: usize>(sum: &Sum) {
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

/// Transforms the sums of all positions back to gradients of the nine weights.
///
/// # Safety
/// The processor has the instructions of S.
#[inline(always)]
pub(super) unsafe fn collect<S: Simd, const IN: usize>(sum: impl Fn(usize) -> S::V, put: impl Fn(usize, S::V)) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [[S::splat(0.0); 3]; IN];
        for (i, row) in rows.iter_mut().enumerate() {
            let mut values = [S::splat(0.0); IN];
            for (j, value) in values.iter_mut().enumerate() {
                *value = sum(i * IN + j);
            }
            *row = weight_gradient::<S, IN>(values);
        }
        for v in 0..3 {
            for (u, value) in weight_gradient::<S, IN>(column(&rows, v)).into_iter().enumerate() {
                put(3 * u + v, value);
            }
        }
    }
}
