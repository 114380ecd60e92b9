//! Linear layers: y = scale · (x W + bias + residual) over rows, and sums over rows.

use std::ops::Range;

use crate::{
    bf16::Pair,
    convolution::{Epilogue, Method, Out, Shape, Weights},
    memory::{Scratch, Target},
    split::{for_each, tasks},
    tile::{Before, Factor, Panel, Rows, Segment, cut, tile, with_vectors},
    vector::{self, Isa, Job, Simd},
};

/// Rows per task: their inputs stay in the second-level cache while all panels of W are read.
const ROWS: usize = 96;

/// Writes y `[rows, outputs]`, from tensors `parts` `[rows, inputs of the part]`, concatenated along inputs, and W, packed
/// as the 1 × 1 convolution [`Shape::dense`].
///
/// # Panics
/// If the sizes do not match.
pub fn dense(isa: Isa, parts: &[&[f32]], weights: &Weights, epilogue: &Epilogue, y: &mut [f32]) {
    let outputs = weights.outputs();
    let rows = y.len() / outputs;
    let shape = Shape::dense(rows, weights.inputs(), outputs);
    weights.check(isa, &shape);
    epilogue.check(&shape, y);
    assert!(epilogue.shift.is_none(), "a linear layer has no shift: each of its rows is a sample");
    assert!(parts.iter().all(|part| part.len().is_multiple_of(rows)), "the input of a linear layer");
    assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), rows * shape.inputs, "the input of a linear layer");
    let chunks = rows.div_ceil(ROWS);
    let (panels, panel) = Weights::panels_of(isa, outputs);
    // If there are few rows, columns are split too.
    let groups = if chunks < 4 { panels.min(4) } else { 1 };
    let y = Target::new(y);
    let task = |task: usize| {
        let (chunk, group) = (task / groups, task % groups);
        let rows = chunk * rows / chunks..(chunk + 1) * rows / chunks;
        let panels = group * panels / groups..(group + 1) * panels / groups;
        let task = Task { parts, shape, weights, epilogue, y, rows, panels, panel };
        if weights.method() == Method::Bf16 { isa.run(Bf16(task)) } else { isa.run(task) }
    };
    tasks(shape.operations(), chunks * groups, task);
}

/// Some rows of y, and some panels of columns.
struct Task<'a> {
    parts: &'a [&'a [f32]],
    shape: Shape,
    weights: &'a Weights,
    epilogue: &'a Epilogue<'a>,
    y: Target<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    panel: usize,
}

impl<'a> Task<'a> {
    /// These rows of the parts.
    fn rows(&self) -> Vec<&'a [f32]> {
        let width = |part: &[f32]| part.len() / self.shape.samples;
        self.parts.iter().map(|part| &part[self.rows.start * width(part)..self.rows.end * width(part)]).collect()
    }
}

impl Job for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the sizes were checked; no two tasks overlap in y.
        unsafe { with_vectors!(S, self.panel, products(&self, &self.rows())) }
    }
}

/// A task in bf16.
struct Bf16<'a>(Task<'a>);

impl Job for Bf16<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self(task) = self;
        let (rows, inputs) = (task.rows.len(), task.shape.inputs);
        let pairs = task.weights.depth();
        let mut scratch = Scratch::of_task(rows * pairs + inputs);
        let (line, packed) = scratch.split_at_mut(inputs);
        let packed = Pair::slice(&mut packed[..rows * pairs]);
        let parts = task.rows();
        for (r, to) in packed.chunks_exact_mut(pairs).enumerate() {
            let mut from = 0;
            for part in &parts {
                let width = part.len() / rows;
                line[from..from + width].copy_from_slice(&part[r * width..(r + 1) * width]);
                from += width;
            }
            // SAFETY: the caller's promise.
            unsafe { Pair::pack::<S>(line, inputs, to) };
        }
        // SAFETY: the sizes were checked; no two tasks overlap in y.
        unsafe { with_vectors!(S, task.panel, products(&task, &[&*packed])) }
    }
}

/// # Safety
/// The sizes of the task were checked; the parts are its rows, of the same kind of factors as its weights.
#[inline(always)]
unsafe fn products<S: Simd, const N: usize>(task: &Task, parts: &[&[impl Factor]]) {
    let Task { shape, weights, epilogue, y, rows, panel, .. } = task;
    let mut segments: Vec<_> = parts
        .iter()
        .map(|part| Segment { a: part.as_ptr(), row: part.len() / rows.len(), count: part.len() / rows.len() })
        .collect();
    for p in task.panels.clone() {
        let b = weights.panel(p, *panel);
        for (from, count) in cut(rows.len(), S::ROWS) {
            for (segment, part) in segments.iter_mut().zip(parts) {
                segment.a = part[from * segment.row..].as_ptr();
            }
            let pixel = rows.start + from;
            let finish = Out { epilogue, y: *y, outputs: shape.outputs, n: 0, pixel, column: p * panel };
            // SAFETY: the caller's promise.
            unsafe { tile::<S, N, _>(count, &segments, 1, Panel { b, stride: *panel }, &finish) };
        }
    }
}

/// Rows whose products are summed in registers before they are added to memory.
const SUMMED: usize = 64;

/// The gradient `dw` `[inputs, outputs]` of W, from x `[rows, inputs]` and the gradient `dy` `[rows, outputs]` of y.
///
/// # Panics
/// If the sizes do not match.
pub fn dense_weight_gradient(isa: Isa, x: &[f32], dy: &[f32], outputs: usize, dw: &mut [f32]) {
    let (rows, inputs) = (dy.len() / outputs, dw.len() / outputs);
    assert_eq!((dy.len(), dw.len()), (rows * outputs, inputs * outputs), "the gradients of a linear layer");
    assert_eq!(x.len(), rows * inputs, "the input of a linear layer");
    let (_, panel) = Weights::panels_of(isa, outputs);
    let to = Target::new(dw);
    let blocks = inputs.div_ceil(CHANNELS);
    tasks(2.0 * (rows * inputs * outputs) as f64, blocks, |block| {
        let channels = block * inputs / blocks..(block + 1) * inputs / blocks;
        isa.run(WeightGradient { x, dy, inputs, outputs, panel, rows, channels, to });
    });
}

/// Inputs per task.
const CHANNELS: usize = 64;

/// The gradient of some rows of W.
struct WeightGradient<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    inputs: usize,
    outputs: usize,
    panel: usize,
    rows: usize,
    channels: Range<usize>,
    to: Target<'a>,
}

impl Job for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the sizes were checked; every task has inputs of its own.
        unsafe { with_vectors!(S, self.panel, gradient(&self)) }
    }
}

/// # Safety
/// The sizes of the task were checked.
#[inline(always)]
unsafe fn gradient<S: Simd, const N: usize>(task: &WeightGradient) {
    let WeightGradient { x, dy, inputs, outputs, panel, rows, channels, to } = task;
    // A panel of dy is copied, because its rows are often a power of two apart and would share a few sets of the
    // first-level cache.
    let mut scratch = Scratch::of_task(SUMMED * panel);
    for (first, count) in cut(*rows, SUMMED) {
        for p in (0..*outputs).step_by(*panel) {
            let columns = outputs - p;
            for (row, to) in scratch.chunks_exact_mut(*panel).enumerate().take(count) {
                let from = dy[(first + row) * outputs + p..].as_ptr();
                for n in 0..N {
                    let at = n * S::LANES;
                    // SAFETY: the vector is within the panel, and nothing is read beyond the row.
                    unsafe {
                        let v =
                            if at < columns { vector::load::<S>(from.add(at), columns - at) } else { S::splat(0.0) };
                        S::store(to.as_mut_ptr().add(at), v);
                    }
                }
            }
            for (from, tall) in cut(channels.len(), S::ROWS) {
                let channel = channels.start + from;
                let before = if first > 0 { Before::Sum } else { Before::Nothing };
                let finish = Rows { to: to.at(channel * outputs + p), row: *outputs, columns, before };
                let segment = Segment { a: x[first * inputs + channel..].as_ptr(), row: 1, count };
                // SAFETY: the caller's promise.
                unsafe {
                    tile::<S, N, _>(tall, &[segment], *inputs, Panel { b: scratch.as_ptr(), stride: *panel }, &finish)
                };
            }
        }
    }
}

/// The sums over the rows of each sample: x `[samples, rows, columns]` to `[samples, columns]`.
///
/// # Panics
/// If the sizes do not match.
pub fn column_sums(isa: Isa, x: &[f32], samples: usize, columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; samples * columns];
    if x.is_empty() {
        return sums;
    }
    let length = x.len() / samples;
    assert_eq!(x.len(), samples * length, "samples of one size");
    assert!(length.is_multiple_of(columns), "rows of one length");
    let task = |(sums, x): (&mut [f32], &[f32])| isa.run(Sums { x, sums });
    for_each(x.len(), sums.chunks_mut(columns).zip(x.chunks(length)), task);
    sums
}

/// The sums of one sample.
struct Sums<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
}

/// Rows summed before their sum is added to the total, to keep the rounding error of long columns small.
const SHORT: usize = 64;

impl Job for Sums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let columns = self.sums.len();
        for block in self.x.chunks(SHORT * columns) {
            for c in (0..columns).step_by(S::LANES) {
                // SAFETY: c is within the row, and nothing is read beyond it.
                unsafe {
                    let mut sum = S::splat(0.0);
                    for row in block.chunks_exact(columns) {
                        sum = S::add(sum, vector::load::<S>(row.as_ptr().add(c), columns - c));
                    }
                    let to = self.sums.as_mut_ptr().add(c);
                    vector::store::<S>(to, S::add(vector::load::<S>(to, columns - c), sum), columns - c);
                }
            }
        }
    }
}
