//! The gradient of a convolution's weights: a product over places, for every tap or every position of Winograd's method.
//!
//! The work is cut into blocks of input channels, and for few channels into ranges of places too, whose sums are added in
//! order: the cuts depend on the sizes alone, so the result does not depend on the number of threads.

use super::{Bands, Input, Method, Shape, bf16, winograd};
use crate::{
    Isa,
    memory::{Scratch, Target},
    split::tasks,
    tile::{Panel, Plain, Segment, cut, panel_width, tile, with_vectors},
    vector::{self, Job, Simd},
};

/// Input channels in a task.
const CHANNELS: usize = 64;

/// Tasks to aim at.
const TASKS: usize = 8;

/// Numbers of input in a band.
const BAND: usize = 24 * 1024;

/// The gradient `dw` `[kernel height, kernel width, inputs, outputs]` of the weights, from the convolution's input and the
/// gradient `dy` of its output.
///
/// # Panics
/// If sizes do not fit.
pub fn weight_gradient(isa: Isa, shape: &Shape, input: &Input, dy: &[f32], dw: &mut [f32]) {
    weight_gradient_by(isa, shape, Method::of(shape), input, dy, dw);
}

/// As [`weight_gradient`], by a method of choice.
pub fn weight_gradient_by(isa: Isa, shape: &Shape, method: Method, input: &Input, dy: &[f32], dw: &mut [f32]) {
    input.check(shape);
    let [height, width] = shape.output();
    let [kh, kw] = shape.kernel;
    assert_eq!(dy.len(), shape.samples * height * width * shape.outputs, "the gradient of a convolution's output");
    assert_eq!(dw.len(), kh * kw * shape.inputs * shape.outputs, "the gradient of a convolution's weights");
    match method {
        Method::Direct | Method::Bf16 => direct_gradient(isa, shape, method, input, dy, dw),
        Method::Winograd2 => winograd::weight_gradient_of::<2, 4>(isa, shape, input, dy, dw),
        Method::Winograd4 => winograd::weight_gradient_of::<4, 6>(isa, shape, input, dy, dw),
    }
}

/// The direct methods'.
fn direct_gradient(isa: Isa, shape: &Shape, method: Method, input: &Input, dy: &[f32], dw: &mut [f32]) {
    let [height, width] = shape.output();
    let [kh, kw] = shape.kernel;
    let positions = kh * kw;
    let row = (width - 1) * shape.stride + kw;
    let blocks = shape.inputs.div_ceil(CHANNELS);
    let units = shape.samples * height;
    // Sums of a range are only worth their memory over some hundred places.
    let ranges = TASKS.div_ceil(blocks).min((units * width).div_ceil(512)).max(1);
    let outputs = padded(isa, shape);
    // Sums of a single range over plain taps are the gradient itself.
    let done = ranges == 1 && outputs == shape.outputs;
    let mut scratch = Scratch::of_kernel(if done { 0 } else { ranges * positions * shape.inputs * outputs });
    let target = Target::new(if done { &mut *dw } else { &mut scratch });
    let task = |task: usize| {
        let (range, block) = (task / blocks, task % blocks);
        let channels = block * shape.inputs / blocks..(block + 1) * shape.inputs / blocks;
        let bands = Bands::new(shape, 1, row, channels.len(), BAND);
        let units = range * units / ranges..(range + 1) * units / ranges;
        let part = Part { shape, input, dy, sums: target, range, outputs, bands, row, channels, units };
        if method == Method::Bf16 { isa.run(bf16::Gradient(part)) } else { isa.run(Direct(part)) }
    };
    tasks(shape.operations(), ranges * blocks, task);
    if done {
        return;
    }
    collect(isa, shape, method, &scratch, ranges, dw);
}

/// Adds the sums of all ranges, `[ranges, positions, inputs, outputs padded]`, and makes them the gradients of the weights.
pub(super) fn collect(isa: Isa, shape: &Shape, method: Method, sums: &[f32], ranges: usize, dw: &mut [f32]) {
    let positions = method.positions(shape.kernel);
    let (outputs, to) = (padded(isa, shape), Target::new(dw));
    let collect = |channel| {
        isa.run(Collect { shape, method, sums, ranges, positions, outputs, channel, to });
    };
    tasks(shape.operations(), shape.inputs, collect);
}

/// The outputs of a convolution, rounded up to whole panels.
pub(super) fn padded(isa: Isa, shape: &Shape) -> usize {
    isa.run(Padded(shape.outputs))
}

struct Padded(usize);

impl Job for Padded {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        self.0.next_multiple_of(panel_width::<S>(self.0))
    }
}

/// A block of channels over a range of places.
pub(super) struct Part<'a> {
    pub(super) shape: &'a Shape,
    pub(super) input: &'a Input<'a>,
    pub(super) dy: &'a [f32],
    /// `[ranges, positions, inputs, outputs padded]`
    sums: Target<'a>,
    range: usize,
    /// Outputs, padded to whole panels.
    pub(super) outputs: usize,
    pub(super) bands: Bands,
    /// Places in a row of input with its border.
    pub(super) row: usize,
    pub(super) channels: std::ops::Range<usize>,
    units: std::ops::Range<usize>,
}

impl Part<'_> {
    /// Where the sums of a position begin, at this block's first channel.
    pub(super) fn at(&self, position: usize, positions: usize) -> *mut f32 {
        let channel = (self.range * positions + position) * self.shape.inputs + self.channels.start;
        self.sums.at(channel * self.outputs)
    }

    /// The ranges of units that bands of this part cover.
    pub(super) fn bands(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let Self { units, bands, .. } = self;
        units.clone().step_by(bands.band).map(|from| from..(from + bands.band).min(units.end))
    }
}

/// The direct method.
struct Direct<'a>(Part<'a>);

impl Job for Direct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: sizes were checked.
        unsafe { with_vectors!(S, panel_width::<S>(self.0.shape.outputs), direct(&self.0)) }
    }
}

/// # Safety
/// The sizes of the part were checked.
#[inline(always)]
unsafe fn direct<S: Simd, const N: usize>(part: &Part) {
    let Part { shape, input, dy, outputs, bands, row, channels, .. } = part;
    let [height, width] = shape.output();
    let [kh, kw] = shape.kernel;
    let (c, panel) = (channels.len(), N * S::LANES);
    let padded = *outputs != shape.outputs;
    let mut add = false;
    for range in part.bands() {
        let (pieces, len) = bands.pieces(range.clone());
        let copied = if padded { range.len() * width * outputs } else { 0 };
        let mut scratch = Scratch::of_task(len + copied);
        let memory = &mut *scratch;
        let (band, copy) = memory.split_at_mut(len);
        for piece in &pieces {
            let rows = bands.rows_of(piece.units);
            let to = &mut band[piece.offset..piece.offset + rows * bands.row];
            let first = bands.first_row(shape, piece);
            // SAFETY: sizes were checked, and the window is as large as its place in scratch.
            unsafe { input.window::<S>(shape, piece.image, first, rows, *row, channels.clone(), to) };
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
            let mut segments = vec![Segment { a: band.as_ptr(), row: 1, count: width }; piece.units];
            for tap in 0..kh * kw {
                let (u, v) = (tap / kw, tap % kw);
                for (from, rows) in cut(c, S::ROWS) {
                    for (unit, segment) in segments.iter_mut().enumerate() {
                        let at = piece.offset + ((unit * shape.stride + u) * row + v) * c + from;
                        segment.a = band[at..].as_ptr();
                    }
                    for p in (0..*outputs).step_by(panel) {
                        // SAFETY: a row of the band has `width` places `stride` apart from tap v on, and dy has as
                        // many; this task alone writes these channels' sums of this range.
                        unsafe {
                            let to = part.at(tap, kh * kw).add(from * outputs + p);
                            let finish = Plain { to, row: *outputs, add };
                            let panel = Panel { b: dy[p..].as_ptr(), stride: *outputs };
                            tile::<S, N, _>(rows, &segments, shape.stride * c, panel, &finish);
                        }
                    }
                }
            }
            add = true;
        }
    }
}

/// Adds the ranges' sums for one input channel and writes its weights' gradients.
struct Collect<'a> {
    shape: &'a Shape,
    method: Method,
    sums: &'a [f32],
    ranges: usize,
    positions: usize,
    outputs: usize,
    channel: usize,
    to: Target<'a>,
}

impl Job for Collect<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { shape, sums, ranges, positions, outputs, channel, to, .. } = self;
        for column in (0..shape.outputs).step_by(S::LANES) {
            // SAFETY: rows of sums are padded to whole vectors; a channel's gradients are written by its own task.
            unsafe {
                let sum = |position: usize| {
                    let mut sum = S::splat(0.0);
                    for range in 0..ranges {
                        let row = (range * positions + position) * shape.inputs + channel;
                        sum = S::add(sum, S::load(sums.as_ptr().add(row * outputs + column)));
                    }
                    sum
                };
                let put = |tap: usize, value: S::V| {
                    let at = (tap * shape.inputs + channel) * shape.outputs + column;
                    vector::store::<S>(to.at(at), value, shape.outputs - column);
                };
                match self.method {
                    Method::Direct | Method::Bf16 => {
                        for tap in 0..positions {
                            put(tap, sum(tap));
                        }
                    }
                    Method::Winograd2 => winograd::collect::<S, 4>(sum, put),
                    Method::Winograd4 => winograd::collect::<S, 6>(sum, put),
                }
            }
        }
    }
}
