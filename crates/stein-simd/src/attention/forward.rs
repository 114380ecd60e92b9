//! The value of attention.

use super::{
    product::{Product, pack, padded, products, transpose},
    shape::{AttentionShape, KEYS},
};
use crate::{
    activation::exp,
    memory::{Scratch, Target},
    split::tasks,
    tile::{Before, Rows},
    vector::{self, Isa, Job, Simd},
};

/// Writes the attention of q `[samples, queries, heads · head]` to k and v `[samples, keys, heads · head]` into `out`,
/// which has the shape of q. Returns log Σⱼ exp(scale · qᵢ kⱼ), `[samples, heads, queries]`, for
/// [`attention_backward`](super::attention_backward) and [`attention_tangent`](super::attention_tangent).
///
/// # Panics
/// If the sizes do not match.
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
    let most = shape.block();
    let blocks = shape.queries.div_ceil(most);
    tasks(shape.operations(), pairs * blocks, |task| {
        let (pair, from) = (task / blocks, task % blocks * most);
        let count = most.min(shape.queries - from);
        isa.run(Forward { shape, scale, q, k, v, out, sums, pair, from, count });
    });
    log_sums
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
        let (turned, rest) = memory.split_at_mut(lanes * head);
        let (scores, rest) = rest.split_at_mut(lanes * block);
        let (values, rest) = rest.split_at_mut(block * columns);
        let (largest, rest) = rest.split_at_mut(lanes);
        let (sum, rest) = rest.split_at_mut(lanes);
        largest.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let mut running = Running { largest, sum, factors: &mut rest[..lanes] };
        let out = out.at(first);
        // SAFETY: the sizes were checked; a task writes only the outputs of its own queries and channels. Queries are the
        // columns of the scores, so that a vector has the scores of several queries with the same key.
        unsafe {
            transpose::<S>(q[first..].as_ptr(), width, count, head, scale, turned);
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
                    b: turned.as_ptr(),
                    c: Rows { to, row: lanes, columns: lanes, before: Before::Nothing },
                };
                products::<S>(&[scored]);
                running.take_in::<S>(scores, block);
                let before = if key == 0 { Before::Nothing } else { Before::Scaled(running.factors.as_ptr()) };
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
                *log_sum = running.largest[i] + running.sum[i].ln();
                let factor = S::splat(1.0 / running.sum[i]);
                for c in (0..head).step_by(S::LANES) {
                    let (to, left) = (out.add(i * width + c), head - c);
                    vector::store::<S>(to, S::mul(vector::load::<S>(to, left), factor), left);
                }
            }
        }
    }
}

/// The largest score of each query so far, the sum of exponentials relative to it, and the factors by which the last block
/// of keys rescaled what came before.
struct Running<'a> {
    largest: &'a mut [f32],
    sum: &'a mut [f32],
    factors: &'a mut [f32],
}

impl Running<'_> {
    /// Takes in the scores of a block of keys, `[keys, queries]`, and replaces them by their exponentials.
    ///
    /// # Safety
    /// Queries are whole vectors, there is a row of scores for every key, and the processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn take_in<S: Simd>(&mut self, scores: &mut [f32], keys: usize) {
        let lanes = self.sum.len();
        let scores = scores.as_mut_ptr();
        for i in (0..lanes).step_by(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let (largest, sum) = (self.largest.as_mut_ptr().add(i), self.sum.as_mut_ptr().add(i));
                let old = S::load(largest);
                let mut new = old;
                for j in 0..keys {
                    new = S::max(S::load(scores.add(j * lanes + i)), new);
                }
                // Initially, the largest is −∞: the factor is close to 0, and there is nothing to rescale yet.
                let factor = exp::<S>(S::sub(old, new));
                let mut total = S::mul(S::load(sum), factor);
                for j in 0..keys {
                    let at = scores.add(j * lanes + i);
                    let part = exp::<S>(S::sub(S::load(at), new));
                    S::store(at, part);
                    total = S::add(total, part);
                }
                S::store(largest, new);
                S::store(sum, total);
                S::store(self.factors.as_mut_ptr().add(i), factor);
            }
        }
    }
}
