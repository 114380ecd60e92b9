//! Attention: softmax(scale · q kᵀ) v for every head, and its gradients, without the matrix of scores.
//!
//! Keys are taken a block at a time, with the largest score so far and the sum of exponentials beside the output, which
//! are rescaled as the largest grows (M. Milakov, N. Gimelshein, arXiv:1805.02867; M. Rabe, C. Staats,
//! arXiv:2112.05682). The backward pass computes the scores again from the logarithms of those sums (T. Dao et al.,
//! *FlashAttention*, arXiv:2205.14135).

use std::ops::Range;

use crate::{
    activation::exp,
    memory::{Scratch, Target},
    split::{for_each, tasks},
    tile::{Before, Panel, Rows, Segment, cut, panel_width, tile, with_vectors},
    vector::{self, Isa, Job, Simd},
};

/// Queries in a block, whose scores against a block of keys stay in the first-level cache.
const QUERIES: usize = 64;

/// Keys in a block.
const KEYS: usize = 64;

/// Tasks to aim at.
const TASKS: usize = 8;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences in the batch.
    pub samples: usize,
    /// Places that ask.
    pub queries: usize,
    /// Places that answer.
    pub keys: usize,
    /// Heads; head h has the channels h · head .. (h + 1) · head.
    pub heads: usize,
    /// Channels of a head.
    pub head: usize,
}

impl AttentionShape {
    /// Multiplications and additions of the forward pass; the backward pass has 2.5 times as many.
    pub fn operations(&self) -> f64 {
        4.0 * (self.samples * self.heads) as f64 * self.queries as f64 * (self.keys * self.head) as f64
    }

    /// Channels of all heads.
    fn width(&self) -> usize {
        self.heads * self.head
    }

    fn check(&self, q: &[f32], k: &[f32], v: &[f32], out: &[f32]) {
        assert!(self.queries > 0 && self.keys > 0 && self.width() > 0, "an attention of nothing");
        let (asking, answering) = (self.samples * self.queries, self.samples * self.keys);
        assert!(q.len() == asking * self.width() && out.len() == q.len(), "the queries of an attention");
        assert!(k.len() == answering * self.width() && v.len() == k.len(), "the keys and values of an attention");
    }
}

/// Writes the attention of q `[samples, queries, heads · head]` to k and v `[samples, keys, heads · head]` into `out`, of
/// the shape of q. Returns log Σⱼ exp(scale · qᵢ kⱼ), `[samples, heads, queries]`, for [`attention_backward`].
///
/// # Panics
/// If sizes do not fit.
pub fn attention(
    isa: Isa,
    shape: AttentionShape,
    scale: f32,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) -> Vec<f32> {
    shape.check(q, k, v, out);
    let pairs = shape.samples * shape.heads;
    let mut log_sums = vec![0.0; pairs * shape.queries];
    let (out, sums) = (Target::new(out), Target::new(&mut log_sums));
    // Short blocks where there would be few tasks.
    let most = if pairs * shape.queries.div_ceil(QUERIES) < TASKS { QUERIES / 2 } else { QUERIES };
    let blocks = shape.queries.div_ceil(most);
    tasks(shape.operations(), pairs * blocks, |task| {
        let (pair, from) = (task / blocks, task % blocks * most);
        let count = most.min(shape.queries - from);
        isa.run(Forward { shape, scale, q, k, v, out, sums, pair, from, count });
    });
    log_sums
}

/// Writes the gradients of q, k and v from `dout`, that of the output `out` of [`attention`], which returned `log_sums`.
///
/// # Panics
/// If sizes do not fit.
#[expect(clippy::too_many_arguments, reason = "six tensors in, three out")]
pub fn attention_backward(
    isa: Isa,
    shape: AttentionShape,
    scale: f32,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    log_sums: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    shape.check(q, k, v, out);
    shape.check(dq, dk, dv, dout);
    let pairs = shape.samples * shape.heads;
    assert_eq!(log_sums.len(), pairs * shape.queries, "the sums of an attention");
    // A task takes a range of keys and all queries, so that it computes a score once. With several ranges all but the
    // first sum up their gradients of q in scratch.
    let blocks = shape.keys.div_ceil(KEYS);
    let ranges = if pairs == 0 { 1 } else { TASKS.div_ceil(pairs).min(blocks) };
    let mut scratch = Scratch::of_kernel((ranges - 1) * dq.len());
    let partial = &mut scratch[..(ranges - 1) * dq.len()];
    let (len, first, others) = (dq.len(), Target::new(dq), Target::new(partial));
    let (dk, dv) = (Target::new(dk), Target::new(dv));
    tasks(shape.operations(), pairs * ranges, |task| {
        let (pair, range) = (task / ranges, task % ranges);
        let dq = if range == 0 { first.at(0) } else { others.at((range - 1) * len) };
        let blocks = range * blocks / ranges..(range + 1) * blocks / ranges;
        isa.run(Backward { shape, scale, q, k, v, out, log_sums, dout, dq, dk, dv, pair, blocks });
    });
    if ranges > 1 {
        for_each(partial.len(), dq.chunks_mut(ADDED).enumerate(), |(i, to)| {
            for partial in partial.chunks_exact(len) {
                for (to, from) in to.iter_mut().zip(&partial[i * ADDED..]) {
                    *to += from;
                }
            }
        });
    }
}

/// Gradients of q that a task adds up.
const ADDED: usize = 16 * 1024;

/// A matrix product, C\[m, n\] = Σ a\[m · row + k · step\] B\[k, n\], with B in panels.
struct Product {
    a: *const f32,
    row: usize,
    step: usize,
    rows: usize,
    count: usize,
    b: *const f32,
    c: Rows,
}

/// # Safety
/// A, B and C are in bounds; B has whole panels of `panel_width` of C's columns.
#[inline(always)]
unsafe fn products<S: Simd>(all: &[Product]) {
    for one in all {
        let width = panel_width::<S>(one.c.columns);
        // SAFETY: the caller's promise.
        unsafe { with_vectors!(S, width, product(one)) };
    }
}

/// # Safety
/// As [`products`].
#[inline(always)]
unsafe fn product<S: Simd, const N: usize>(one: &Product) {
    let Product { a, row, step, rows, count, b, c } = *one;
    let panel = N * S::LANES;
    for column in (0..c.columns).step_by(panel) {
        for (from, rows) in cut(rows, S::ROWS) {
            // SAFETY: the caller's promise.
            unsafe {
                let segment = Segment { a: a.add(from * row), row, count };
                let before = match c.before {
                    Before::Scaled(factors) => Before::Scaled(factors.add(from)),
                    other => other,
                };
                let c = Rows { to: c.to.add(from * c.row + column), columns: c.columns - column, before, ..c };
                tile::<S, N, _>(rows, &[segment], step, Panel { b: b.add(column * count), stride: panel }, &c);
            }
        }
    }
}

/// Columns in whole panels.
#[inline(always)]
fn padded<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of(panel_width::<S>(columns))
}

/// Copies `count` rows of `columns` numbers into panels `[count, panel]`, with zeros beyond the last column.
///
/// # Safety
/// The rows, `row` numbers apart, can be read; `to` has `count` rows of [`padded`] columns.
#[inline(always)]
unsafe fn pack<S: Simd>(from: *const f32, row: usize, count: usize, columns: usize, to: &mut [f32]) {
    let panel = panel_width::<S>(columns);
    let mut to = to.as_mut_ptr();
    for first in (0..columns).step_by(panel) {
        for i in 0..count {
            for column in (first..first + panel).step_by(S::LANES) {
                // SAFETY: the caller's promise; nothing is read beyond the columns.
                unsafe {
                    let mut x = S::splat(0.0);
                    if column < columns {
                        x = vector::load::<S>(from.add(i * row + column), columns - column);
                    }
                    S::store(to, x);
                    to = to.add(S::LANES);
                }
            }
        }
    }
}

/// Copies `count` rows of `depth` numbers, times `factor`, into the columns of panels `[depth, panel]`, with zeros beyond
/// the last.
///
/// # Safety
/// The rows, `row` numbers apart, can be read; `to` has `depth` rows of [`padded`] columns.
#[inline(always)]
unsafe fn transpose<S: Simd>(from: *const f32, row: usize, count: usize, depth: usize, factor: f32, to: &mut [f32]) {
    let panel = panel_width::<S>(count);
    for (p, to) in to.chunks_exact_mut(depth * panel).enumerate().take(count.div_ceil(panel)) {
        for column in 0..panel {
            let i = p * panel + column;
            // SAFETY: the caller's promise; row i is only read where there is one.
            unsafe {
                let to = to.as_mut_ptr().add(column);
                if i < count {
                    let from = from.add(i * row);
                    for c in 0..depth {
                        *to.add(c * panel) = factor * *from.add(c);
                    }
                } else {
                    for c in 0..depth {
                        *to.add(c * panel) = 0.0;
                    }
                }
            }
        }
    }
}

/// A block of queries of one head of one sample.
struct Forward<'a> {
    shape: AttentionShape,
    scale: f32,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: Target<'a>,
    sums: Target<'a>,
    /// Sample and head in one number.
    pair: usize,
    from: usize,
    count: usize,
}

impl Job for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { shape, scale, q, k, v, out, sums, pair, from, count } = self;
        let AttentionShape { queries, keys, heads, head, .. } = shape;
        let (sample, channel, width) = (pair / heads, pair % heads * head, shape.width());
        let first = (sample * queries + from) * width + channel;
        let (lanes, columns) = (padded::<S>(count), padded::<S>(head));
        let block = keys.min(KEYS);
        let mut scratch = Scratch::of_task(lanes * (head + block + 3) + block * columns);
        let memory = &mut *scratch;
        let (asking, rest) = memory.split_at_mut(lanes * head);
        let (scores, rest) = rest.split_at_mut(lanes * block);
        let (values, rest) = rest.split_at_mut(block * columns);
        let (largest, rest) = rest.split_at_mut(lanes);
        let (sum, factors) = rest.split_at_mut(lanes);
        largest.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let out = out.at(first);
        // SAFETY: sizes were checked; a task writes the places of its own queries and channels alone. Queries are the
        // columns of the scores, so that a vector has the same key's scores of several queries.
        unsafe {
            transpose::<S>(q[first..].as_ptr(), width, count, head, scale, asking);
            for key in (0..keys).step_by(KEYS) {
                let block = KEYS.min(keys - key);
                let at = (sample * keys + key) * width + channel;
                pack::<S>(v[at..].as_ptr(), width, block, head, values);
                let to = scores.as_mut_ptr();
                let scored = Product {
                    a: k[at..].as_ptr(),
                    row: width,
                    step: 1,
                    rows: block,
                    count: head,
                    b: asking.as_ptr(),
                    c: Rows { to, row: lanes, columns: lanes, before: Before::Nothing },
                };
                products::<S>(&[scored]);
                for i in (0..lanes).step_by(S::LANES) {
                    let (largest, sum) = (largest.as_mut_ptr().add(i), sum.as_mut_ptr().add(i));
                    let old = S::load(largest);
                    let mut new = old;
                    for j in 0..block {
                        new = S::max(S::load(to.add(j * lanes + i)), new);
                    }
                    // From −∞ to the first largest this is next to nothing, and there is nothing to scale yet.
                    let factor = exp::<S>(S::sub(old, new));
                    let mut total = S::mul(S::load(sum), factor);
                    for j in 0..block {
                        let at = to.add(j * lanes + i);
                        let part = exp::<S>(S::sub(S::load(at), new));
                        S::store(at, part);
                        total = S::add(total, part);
                    }
                    S::store(largest, new);
                    S::store(sum, total);
                    S::store(factors.as_mut_ptr().add(i), factor);
                }
                let before = if key == 0 { Before::Nothing } else { Before::Scaled(factors.as_ptr()) };
                let weighted = Product {
                    a: to,
                    row: 1,
                    step: lanes,
                    rows: count,
                    count: block,
                    b: values.as_ptr(),
                    c: Rows { to: out, row: width, columns: head, before },
                };
                products::<S>(&[weighted]);
            }
            let log_sums = sums.range(pair * queries + from, count);
            for (i, log_sum) in log_sums.iter_mut().enumerate() {
                *log_sum = largest[i] + sum[i].ln();
                let factor = S::splat(1.0 / sum[i]);
                for c in (0..head).step_by(S::LANES) {
                    let (to, left) = (out.add(i * width + c), head - c);
                    vector::store::<S>(to, S::mul(vector::load::<S>(to, left), factor), left);
                }
            }
        }
    }
}

/// A range of blocks of keys of one head of one sample.
struct Backward<'a> {
    shape: AttentionShape,
    scale: f32,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    log_sums: &'a [f32],
    dout: &'a [f32],
    dq: *mut f32,
    dk: Target<'a>,
    dv: Target<'a>,
    /// Sample and head in one number.
    pair: usize,
    blocks: Range<usize>,
}

impl Job for Backward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { shape, scale, q, k, v, out, log_sums, dout, dq, dk, dv, pair, blocks } = self;
        let AttentionShape { queries, keys, heads, head, .. } = shape;
        let (sample, channel, width) = (pair / heads, pair % heads * head, shape.width());
        let first = sample * queries * width + channel;
        let columns = padded::<S>(head);
        let (most, block) = (queries.min(QUERIES), keys.min(KEYS));
        let lanes = padded::<S>(block);
        let len = queries + 2 * head * lanes + block * columns + 2 * most * columns + 2 * most * lanes;
        let mut scratch = Scratch::of_task(len);
        let memory = &mut *scratch;
        let (dots, rest) = memory.split_at_mut(queries);
        let (turned_keys, rest) = rest.split_at_mut(head * lanes);
        let (turned_values, rest) = rest.split_at_mut(head * lanes);
        let (answering, rest) = rest.split_at_mut(block * columns);
        let (asking, rest) = rest.split_at_mut(most * columns);
        let (gradient, rest) = rest.split_at_mut(most * columns);
        let (parts, slopes) = rest.split_at_mut(most * lanes);
        let (parts, slopes) = (parts.as_mut_ptr(), slopes.as_mut_ptr());
        // SAFETY: sizes were checked; a task writes the gradients of its own keys and values, and its own sample's and
        // head's channels of a dq that no task of another range has.
        unsafe {
            for (i, dot) in dots.iter_mut().enumerate() {
                let (out, dout) = (out[first + i * width..].as_ptr(), dout[first + i * width..].as_ptr());
                let mut sum = S::splat(0.0);
                for c in (0..head).step_by(S::LANES) {
                    sum =
                        S::fma(vector::load::<S>(out.add(c), head - c), vector::load::<S>(dout.add(c), head - c), sum);
                }
                *dot = S::sum(sum);
            }
            for (done, number) in blocks.enumerate() {
                let key = number * KEYS;
                let block = KEYS.min(keys - key);
                let lanes = padded::<S>(block);
                let at = (sample * keys + key) * width + channel;
                transpose::<S>(k[at..].as_ptr(), width, block, head, 1.0, turned_keys);
                transpose::<S>(v[at..].as_ptr(), width, block, head, 1.0, turned_values);
                pack::<S>(k[at..].as_ptr(), width, block, head, answering);
                for from in (0..queries).step_by(QUERIES) {
                    let count = QUERIES.min(queries - from);
                    let here = first + from * width;
                    let (q, dout) = (q[here..].as_ptr(), dout[here..].as_ptr());
                    pack::<S>(q, width, count, head, asking);
                    pack::<S>(dout, width, count, head, gradient);
                    let scores = Rows { to: parts, row: lanes, columns: lanes, before: Before::Nothing };
                    let b = turned_keys.as_ptr();
                    let scored = Product { a: q, row: width, step: 1, rows: count, count: head, b, c: scores };
                    let (b, c) = (turned_values.as_ptr(), Rows { to: slopes, ..scores });
                    products::<S>(&[Product { a: dout, b, c, ..scored }, scored]);
                    let sums = &log_sums[pair * queries + from..];
                    for i in 0..count {
                        let (sum, dot) = (S::splat(-sums[i]), S::splat(dots[from + i]));
                        for j in (i * lanes..(i + 1) * lanes).step_by(S::LANES) {
                            let part = exp::<S>(S::fma(S::load(parts.add(j)), S::splat(scale), sum));
                            let slope = S::sub(S::load(slopes.add(j)), dot);
                            S::store(parts.add(j), part);
                            S::store(slopes.add(j), S::mul(S::mul(part, S::splat(scale)), slope));
                        }
                    }
                    let add = |more: bool| if more { Before::Sum } else { Before::Nothing };
                    let c = Rows { to: dv.at(at), row: width, columns: head, before: add(from > 0) };
                    let b = gradient.as_ptr();
                    let of_values = Product { a: parts, row: 1, step: lanes, rows: block, count, b, c };
                    let (b, c) = (asking.as_ptr(), Rows { to: dk.at(at), ..c });
                    let of_keys = Product { a: slopes, b, c, ..of_values };
                    let of_queries = Product {
                        a: slopes,
                        row: lanes,
                        step: 1,
                        rows: count,
                        count: block,
                        b: answering.as_ptr(),
                        c: Rows { to: dq.add(here), before: add(done > 0), ..c },
                    };
                    products::<S>(&[of_values, of_keys, of_queries]);
                }
            }
        }
    }
}
