//! AVX2 and FMA: eight lanes, sixteen registers.

use std::arch::x86_64::*;

use super::simd::{Job, Simd};

/// Eight lanes. A 6 × 16 tile takes twelve of the sixteen registers.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Runs a job compiled for AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<J: Job>(job: J) -> J::Output {
    // SAFETY: this function may only be called if the processor has its instructions.
    unsafe { job.run::<Avx2>() }
}

/// The lanes below n.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: the processor has AVX2.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// Four numbers, and the four that are four rows below, next to each other: what remains is to transpose 4 × 4 numbers in
/// each half.
///
/// # Safety
/// As [`Simd::transpose8`], and the processor has AVX.
#[inline(always)]
unsafe fn halves(from: *const f32, row: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (_mm_loadu_ps(from), _mm_loadu_ps(from.add(4 * row)));
        _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
    }
}

/// See [`Simd::transpose8`].
///
/// # Safety
/// As there, and the processor has AVX.
#[inline(always)]
pub(super) unsafe fn transpose8(from: *const f32, row: usize, to: *mut f32, step: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for at in [0, 4] {
            let from = from.add(at);
            let (a, b) = (halves(from, row), halves(from.add(row), row));
            let (c, d) = (halves(from.add(2 * row), row), halves(from.add(3 * row), row));
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (over_ab, over_cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            let to = to.add(at * step);
            _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(ab, cd));
            _mm256_storeu_ps(to.add(step), _mm256_shuffle_ps::<0xee>(ab, cd));
            _mm256_storeu_ps(to.add(2 * step), _mm256_shuffle_ps::<0x44>(over_ab, over_cd));
            _mm256_storeu_ps(to.add(3 * step), _mm256_shuffle_ps::<0xee>(over_ab, over_cd));
        }
    }
}

/// Bits whose upper halves are the nearest bf16; see `round_to_bf16`.
#[inline(always)]
unsafe fn round_to_bf16(x: __m256) -> __m256i {
    // SAFETY: the processor has AVX2.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
        _mm256_blendv_epi8(up, quiet, _mm256_castps_si256(nan))
    }
}

// Each function is one instruction, or a few; all are safe if the processor has AVX2 and FMA and pointers are
// as the trait requires.
impl Simd for Avx2 {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    const VECTORS: usize = 2;
    type V = __m256;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> __m256 {
        // SAFETY: see above the block; masked lanes are not read.
        unsafe { _mm256_maskload_ps(from, mask(n)) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        // SAFETY: see above the block.
        unsafe { _mm256_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, x: __m256, n: usize) {
        // SAFETY: see above the block; masked lanes are not written.
        unsafe { _mm256_maskstore_ps(to, mask(n), x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(x: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_sqrt_ps(x) }
    }
    #[inline(always)]
    unsafe fn round(x: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(x: __m256, n: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            _mm256_mul_ps(x, _mm256_castsi256_ps(power))
        }
    }
    #[inline(always)]
    unsafe fn sum(x: __m256) -> f32 {
        // SAFETY: see above the block.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    unsafe fn unpack_bf16(from: *const u32) -> (__m256, __m256) {
        // SAFETY: see above the block.
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            let low = _mm256_slli_epi32::<16>(pairs);
            let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn transpose8(from: *const f32, row: usize, to: *mut f32, step: usize) {
        // SAFETY: see above the block.
        unsafe { transpose8(from, row, to, step) }
    }
    #[inline(always)]
    unsafe fn pack_bf16(low: __m256, high: __m256) -> __m256 {
        // SAFETY: see above the block.
        unsafe {
            let low = _mm256_srli_epi32::<16>(round_to_bf16(low));
            _mm256_castsi256_ps(_mm256_blend_epi16::<0b1010_1010>(low, round_to_bf16(high)))
        }
    }
}
