//! NEON: four lanes, thirty-two registers.

use std::arch::aarch64::*;

use super::simd::{Job, Simd};

/// Four lanes. A 6 × 16 tile takes twenty-four of the thirty-two registers.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Runs a job compiled for NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<J: Job>(job: J) -> J::Output {
    // SAFETY: this function may only be called if the processor has its instructions.
    unsafe { job.run::<Neon>() }
}

// Each function is one instruction, or a few; all are safe if the processor has NEON and pointers are as the
// trait requires.
impl Simd for Neon {
    const LANES: usize = 4;
    const ROWS: usize = 6;
    const VECTORS: usize = 4;
    type V = float32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> float32x4_t {
        let mut lanes = [0.0; 4];
        // SAFETY: the caller promises n readable numbers; n is at most four.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: float32x4_t) {
        // SAFETY: see above the block.
        unsafe { vst1q_f32(to, x) }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, x: float32x4_t, n: usize) {
        let mut lanes = [0.0; 4];
        // SAFETY: the caller promises n writable numbers; n is at most four.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(x: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vsqrtq_f32(x) }
    }
    #[inline(always)]
    unsafe fn round(x: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe { vrndnq_f32(x) }
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(x: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: see above the block.
        unsafe {
            let power = vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)));
            vmulq_f32(x, vreinterpretq_f32_s32(power))
        }
    }
    #[inline(always)]
    unsafe fn sum(x: float32x4_t) -> f32 {
        // SAFETY: see above the block.
        unsafe { vaddvq_f32(x) }
    }
    #[inline(always)]
    unsafe fn unpack_bf16(from: *const u32) -> (float32x4_t, float32x4_t) {
        // SAFETY: see above the block.
        unsafe {
            let pairs = vld1q_u32(from);
            let high = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
            (vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)), vreinterpretq_f32_u32(high))
        }
    }
}
