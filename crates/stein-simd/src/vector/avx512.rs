//! AVX-512: sixteen lanes, thirty-two registers; with and without its bf16 dot product.

use std::arch::x86_64::*;

use super::{
    avx2,
    simd::{Job, Simd},
};

/// Runs a job compiled for AVX-512.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw")]
pub(super) unsafe fn run<J: Job>(job: J) -> J::Output {
    // SAFETY: this function may only be called if the processor has its instructions.
    unsafe { job.run::<Avx512<false>>() }
}

/// Runs a job compiled for AVX-512 with bf16.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn run_bf16<J: Job>(job: J) -> J::Output {
    // SAFETY: this function may only be called if the processor has its instructions.
    unsafe { job.run::<Avx512<true>>() }
}

/// Sixteen lanes. A 12 × 32 tile takes twenty-four of the thirty-two registers.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool>;

/// The lanes below n.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Bits whose upper halves are the nearest bf16; see `round_to_bf16`. The instruction for it would flush denormals.
#[inline(always)]
unsafe fn round_to_bf16(x: __m512) -> __m512i {
    // SAFETY: the processor has AVX-512.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x0040_0000))
    }
}

// Each function is one instruction, or a few; all are safe if the processor has AVX-512 and pointers are as the
// trait requires.
impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = 16;
    const ROWS: usize = 12;
    const VECTORS: usize = 2;
    type V = __m512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> __m512 {
        // SAFETY: see above the block; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        // SAFETY: see above the block.
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, x: __m512, n: usize) {
        // SAFETY: see above the block; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, mask(n), x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(x: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_sqrt_ps(x) }
    }
    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(x: __m512, n: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe { _mm512_scalef_ps(x, n) }
    }
    #[inline(always)]
    unsafe fn transpose8(from: *const f32, row: usize, to: *mut f32, step: usize) {
        // SAFETY: see above the block.
        unsafe { avx2::transpose8(from, row, to, step) }
    }
    #[inline(always)]
    unsafe fn sum(x: __m512) -> f32 {
        // SAFETY: see above the block.
        unsafe { _mm512_reduce_add_ps(x) }
    }
    #[inline(always)]
    unsafe fn unpack_bf16(from: *const u32) -> (__m512, __m512) {
        // SAFETY: see above the block.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let low = _mm512_slli_epi32::<16>(pairs);
            let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (_mm512_castsi512_ps(low), _mm512_castsi512_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn pack_bf16(low: __m512, high: __m512) -> __m512 {
        // SAFETY: see above the block.
        unsafe {
            let low = _mm512_srli_epi32::<16>(round_to_bf16(low));
            _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xaaaa_aaaa, low, round_to_bf16(high)))
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(acc: __m512, a: u32, b: *const u32) -> __m512 {
        // SAFETY: see above the block; `BF16` is only set by `run_bf16`. The bits of a vector are those of its bf16 pairs.
        unsafe {
            if BF16 {
                let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(a as i32));
                let b: __m512bh = std::mem::transmute(_mm512_loadu_si512(b.cast()));
                _mm512_dpbf16_ps(acc, a, b)
            } else {
                let (lo, hi) = Self::unpack_bf16(b);
                let acc = Self::fma(Self::splat(f32::from_bits(a << 16)), lo, acc);
                Self::fma(Self::splat(f32::from_bits(a & 0xffff_0000)), hi, acc)
            }
        }
    }
}
