//! The gradients of attention.

use std::ops::Range;

use super::{
    product::{Product, pack, padded, products, transpose},
    shape::{AttentionShape, KEYS, QUERIES, TASKS},
};
use crate::{
    activation::exp,
    memory::{Scratch, Target},
    split::{for_each, tasks},
    tile::{Before, Rows},
    vector::{self, Isa, Job, Simd},
};

/// Writes the gradients of q, k and v, from the gradient `dout` of the output `out` of [`attention`](super::attention),
/// which returned `log_sums`.
///
/// # Panics
/// If the sizes do not match.
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
    assert_eq!(log_sums.len(), pairs * shape.queries, "the sums of attention");
    // A task takes a range of keys and all queries, so that every score is computed once. If there are several ranges,
    // all but the first sum up their gradients of q in scratch.
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

/// Gradients of q that a task adds.
const ADDED: usize = 16 * 1024;

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
        let (packed_keys, rest) = rest.split_at_mut(block * columns);
        let (packed_queries, rest) = rest.split_at_mut(most * columns);
        let (gradient, rest) = rest.split_at_mut(most * columns);
        let (parts, slopes) = rest.split_at_mut(most * lanes);
        let (parts, slopes) = (parts.as_mut_ptr(), slopes.as_mut_ptr());
        // SAFETY: the sizes were checked; a task writes the gradients of its own keys and values, and the channels of its
        // own sample and head in a dq that no task of another range writes to.
        unsafe {
            dot_products::<S>(&out[first..], &dout[first..], width, head, dots);
            for (done, number) in blocks.enumerate() {
                let key = number * KEYS;
                let block = KEYS.min(keys - key);
                let lanes = padded::<S>(block);
                let at = (sample * keys + key) * width + channel;
                transpose::<S>(k[at..].as_ptr(), width, block, head, 1.0, turned_keys);
                transpose::<S>(v[at..].as_ptr(), width, block, head, 1.0, turned_values);
                pack::<S>(k[at..].as_ptr(), width, block, head, packed_keys);
                for from in (0..queries).step_by(QUERIES) {
                    let count = QUERIES.min(queries - from);
                    let here = first + from * width;
                    let (q, dout) = (q[here..].as_ptr(), dout[here..].as_ptr());
                    pack::<S>(q, width, count, head, packed_queries);
                    pack::<S>(dout, width, count, head, gradient);
                    let scores = Rows { to: parts, row: lanes, columns: lanes, before: Before::Nothing };
                    let b = turned_keys.as_ptr();
                    let scored = Product { a: q, row: width, step: 1, rows: count, count: head, b, c: scores };
                    let (b, c) = (turned_values.as_ptr(), Rows { to: slopes, ..scores });
                    products::<S>(&[Product { a: dout, b, c, ..scored }, scored]);
                    let sums = &log_sums[pair * queries + from..][..count];
                    weights_and_slopes::<S>(parts, slopes, lanes, scale, sums, &dots[from..]);
                    let add = |more: bool| if more { Before::Sum } else { Before::Nothing };
                    let c = Rows { to: dv.at(at), row: width, columns: head, before: add(from > 0) };
                    let b = gradient.as_ptr();
                    let of_values = Product { a: parts, row: 1, step: lanes, rows: block, count, b, c };
                    let (b, c) = (packed_queries.as_ptr(), Rows { to: dk.at(at), ..c });
                    let of_keys = Product { a: slopes, b, c, ..of_values };
                    let of_queries = Product {
                        a: slopes,
                        row: lanes,
                        step: 1,
                        rows: count,
                        count: block,
                        b: packed_keys.as_ptr(),
                        c: Rows { to: dq.add(here), before: add(done > 0), ..c },
                    };
                    products::<S>(&[of_values, of_keys, of_queries]);
                }
            }
        }
    }
}

/// The dot product of each query's output and its gradient, `width` numbers from one query to the next.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn dot_products<S: Simd>(out: &[f32], dout: &[f32], width: usize, head: usize, dots: &mut [f32]) {
    for (i, dot) in dots.iter_mut().enumerate() {
        let (out, dout) = (out[i * width..][..head].as_ptr(), dout[i * width..][..head].as_ptr());
        // SAFETY: both have `head` numbers.
        unsafe {
            let mut sum = S::splat(0.0);
            for c in (0..head).step_by(S::LANES) {
                let n = head - c;
                sum = S::fma(vector::load::<S>(out.add(c), n), vector::load::<S>(dout.add(c), n), sum);
            }
            *dot = S::sum(sum);
        }
    }
}

/// Turns scores into weights, and the gradients of weights into those of scores, both `[queries, lanes]`.
///
/// # Safety
/// Both have a row for every sum, of whole vectors, and the processor has the instructions of `S`.
#[inline(always)]
unsafe fn weights_and_slopes<S: Simd>(
    scores: *mut f32,
    slopes: *mut f32,
    lanes: usize,
    scale: f32,
    log_sums: &[f32],
    dots: &[f32],
) {
    for (i, (log_sum, dot)) in log_sums.iter().zip(dots).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let (log_sum, dot) = (S::splat(-log_sum), S::splat(*dot));
            for j in (i * lanes..(i + 1) * lanes).step_by(S::LANES) {
                let weight = exp::<S>(S::fma(S::load(scores.add(j)), S::splat(scale), log_sum));
                let slope = S::sub(S::load(slopes.add(j)), dot);
                S::store(scores.add(j), weight);
                S::store(slopes.add(j), S::mul(S::mul(weight, S::splat(scale)), slope));
            }
        }
    }
}
