//! Pairs of bf16, the factors of products in that precision.

use crate::{
    tile::{Factor, Segment},
    vector::{self, Simd},
};

/// Two bf16, the first in the lower half of the word.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pair(u32);

impl Pair {
    /// A slice of numbers as a slice of pairs.
    #[inline(always)]
    pub(crate) fn slice(memory: &mut [f32]) -> &mut [Self] {
        // SAFETY: size and alignment are the same, and all bits are valid in both.
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), memory.len()) }
    }

    /// Packs rows of `width` numbers into rows of pairs: each number of the first half goes with one of the second half, so
    /// that whole vectors are packed. If the width is odd, the last number goes with a zero.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    pub(crate) unsafe fn pack<S: Simd>(from: &[f32], width: usize, to: &mut [Self]) {
        let pairs = width.div_ceil(2);
        for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(pairs)) {
            let (low, high) = from.split_at(pairs);
            // SAFETY: the caller's promise.
            unsafe { Self::interleave::<S>(low, high, to) };
        }
    }

    /// Packs the numbers of two rows into pairs, with zeros where a row is too short.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    pub(crate) unsafe fn interleave<S: Simd>(low: &[f32], high: &[f32], to: &mut [Self]) {
        let mut at = 0;
        while at < to.len() {
            // SAFETY: nothing is read or written beyond the slices.
            unsafe {
                let pairs = S::pack_bf16(some::<S>(low, at), some::<S>(high, at));
                vector::store::<S>(to.as_mut_ptr().add(at).cast(), pairs, to.len() - at);
            }
            at += S::LANES;
        }
    }
}

/// A vector of the numbers from `at` on, filled up with zeros.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn some<S: Simd>(row: &[f32], at: usize) -> S::V {
    // SAFETY: within the row.
    unsafe { if at < row.len() { vector::load::<S>(row.as_ptr().add(at), row.len() - at) } else { S::splat(0.0) } }
}

impl Factor for Pair {
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
        mut sums: [[S::V; N]; M],
        segment: Segment<Self>,
        step: usize,
        mut b: *const Self,
        stride: usize,
    ) -> ([[S::V; N]; M], *const Self) {
        // SAFETY: the caller of `tile` promises that the segments and the panel are in bounds.
        unsafe {
            let rows: [*const Self; M] = std::array::from_fn(|m| segment.a.add(m * segment.row));
            let mut at = 0;
            for _ in 0..segment.count {
                for (row, a) in sums.iter_mut().zip(rows) {
                    let Self(factor) = *a.add(at);
                    for (n, sum) in row.iter_mut().enumerate() {
                        *sum = S::dot_bf16(*sum, factor, b.add(n * S::LANES).cast());
                    }
                }
                at += step;
                b = b.add(stride);
            }
        }
        (sums, b)
    }
}
