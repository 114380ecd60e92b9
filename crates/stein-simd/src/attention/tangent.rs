//! The tangent of attention: how the output changes as queries, keys and values change.
//!
//! With weights W = softmax(scale · q kᵀ) and D = scale · (dq kᵀ + q dkᵀ), the output W v changes by
//! W dv + (W ⊙ D) v − t ⊙ (W v), where t is the sum of each row of W ⊙ D. The weights come from the logarithms of their
//! sums, which the forward pass left, so one pass over blocks of keys is enough.

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

/// Writes the tangent of the output `out` of [`attention`](super::attention), which returned `log_sums`, along `dq`, `dk`
/// and `dv` into `dout`.
///
/// # Panics
/// If the sizes do not match.
#[expect(clippy::too_many_arguments, reason = "eight tensors in, one out")]
pub fn attention_tangent(
    isa: Isa,
    shape: AttentionShape,
    scale: f32,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    log_sums: &[f32],
    dq: &[f32],
    dk: &[f32],
    dv: &[f32],
    dout: &mut [f32],
) {
    shape.check(q, k, v, out);
    shape.check(dq, dk, dv, dout);
    let pairs = shape.samples * shape.heads;
    assert_eq!(log_sums.len(), pairs * shape.queries, "the sums of attention");
    let dout = Target::new(dout);
    let most = shape.block();
    let blocks = shape.queries.div_ceil(most);
    tasks(2.5 * shape.operations(), pairs * blocks, |task| {
        let (pair, from) = (task / blocks, task % blocks * most);
        let count = most.min(shape.queries - from);
        isa.run(Tangent { shape, scale, q, k, v, out, log_sums, dq, dk, dv, dout, pair, from, count });
    });
}

/// A block of queries of one head of one sample.
struct Tangent<'a> {
    shape: AttentionShape,
    scale: f32,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    log_sums: &'a [f32],
    dq: &'a [f32],
    dk: &'a [f32],
    dv: &'a [f32],
    dout: Target<'a>,
    /// Sample and head in one number.
    pair: usize,
    from: usize,
    count: usize,
}

impl Job for Tangent<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { shape, scale, q, k, v, out, log_sums, dq, dk, dv, dout, pair, from, count } = self;
        let AttentionShape { queries, keys, heads, head, .. } = shape;
        let (sample, channel, width) = (pair / heads, pair % heads * head, shape.width());
        let first = (sample * queries + from) * width + channel;
        let (lanes, columns) = (padded::<S>(count), padded::<S>(head));
        let block = keys.min(KEYS);
        let mut scratch = Scratch::of_task(lanes * (2 * head + 2 * block + 2) + 2 * block * columns);
        let memory = &mut *scratch;
        let (turned, rest) = memory.split_at_mut(lanes * head);
        let (turned_tangent, rest) = rest.split_at_mut(lanes * head);
        let (weights, rest) = rest.split_at_mut(lanes * block);
        let (changes, rest) = rest.split_at_mut(lanes * block);
        let (values, rest) = rest.split_at_mut(block * columns);
        let (values_tangent, rest) = rest.split_at_mut(block * columns);
        let (sums, rest) = rest.split_at_mut(lanes);
        let total = &mut rest[..lanes];
        sums[..count].copy_from_slice(&log_sums[pair * queries + from..][..count]);
        sums[count..].fill(0.0);
        total.fill(0.0);
        let (w, d, dout) = (weights.as_mut_ptr(), changes.as_mut_ptr(), dout.at(first));
        // SAFETY: the sizes were checked; a task writes only the outputs of its own queries and channels. Queries are the
        // columns of weights and changes, as in the forward pass.
        unsafe {
            transpose::<S>(q[first..].as_ptr(), width, count, head, scale, turned);
            transpose::<S>(dq[first..].as_ptr(), width, count, head, scale, turned_tangent);
            for key in (0..keys).step_by(KEYS) {
                let block = KEYS.min(keys - key);
                let at = (sample * keys + key) * width + channel;
                pack::<S>(v[at..].as_ptr(), width, block, head, values);
                pack::<S>(dv[at..].as_ptr(), width, block, head, values_tangent);
                let (k, dk, b) = (k[at..].as_ptr(), dk[at..].as_ptr(), turned.as_ptr());
                let c = Rows { to: w, row: lanes, columns: lanes, before: Before::Nothing };
                let scores = Product { a: k, row: width, step: 1, rows: block, count: head, b, c };
                let (b, c) = (turned_tangent.as_ptr(), Rows { to: d, ..c });
                let along_queries = Product { b, c, ..scores };
                let along_keys = Product { a: dk, c: Rows { before: Before::Sum, ..c }, ..scores };
                products::<S>(&[scores, along_queries, along_keys]);
                weigh::<S>(weights, changes, block, sums, total);
                let before = if key == 0 { Before::Nothing } else { Before::Sum };
                let c = Rows { to: dout, row: width, columns: head, before };
                let b = values_tangent.as_ptr();
                let along_values = Product { a: w, row: 1, step: lanes, rows: count, count: block, b, c };
                let c = Rows { before: Before::Sum, ..c };
                let along_weights = Product { a: d, b: values.as_ptr(), c, ..along_values };
                products::<S>(&[along_values, along_weights]);
            }
            for i in 0..count {
                let factor = S::splat(-total[i]);
                let out = out[first + i * width..][..head].as_ptr();
                for c in (0..head).step_by(S::LANES) {
                    let (to, left) = (dout.add(i * width + c), head - c);
                    let sum = S::fma(factor, vector::load::<S>(out.add(c), left), vector::load::<S>(to, left));
                    vector::store::<S>(to, sum, left);
                }
            }
        }
    }
}

/// Turns the scores of a block of keys into weights, multiplies their changes by them, and adds those to the total of each
/// query; scores and changes are `[keys, queries]`.
///
/// # Safety
/// Queries are whole vectors, there is a row for every key, and the processor has the instructions of `S`.
#[inline(always)]
unsafe fn weigh<S: Simd>(scores: &mut [f32], changes: &mut [f32], keys: usize, log_sums: &[f32], total: &mut [f32]) {
    let lanes = total.len();
    let (scores, changes) = (scores.as_mut_ptr(), changes.as_mut_ptr());
    for i in (0..lanes).step_by(S::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let log_sum = S::load(log_sums.as_ptr().add(i));
            let mut sum = S::load(total.as_ptr().add(i));
            for j in 0..keys {
                let (score, change) = (scores.add(j * lanes + i), changes.add(j * lanes + i));
                let weight = exp::<S>(S::sub(S::load(score), log_sum));
                let part = S::mul(weight, S::load(change));
                S::store(score, weight);
                S::store(change, part);
                sum = S::add(sum, part);
            }
            S::store(total.as_mut_ptr().add(i), sum);
        }
    }
}
