//! Vectors as arrays, for processors without a set of their own here, and as the reference in tests.

use super::simd::Simd;

/// Eight lanes, which the compiler vectorizes if it can.
#[derive(Clone, Copy)]
pub(super) struct Portable;

type V = [f32; 8];

#[inline(always)]
fn map(a: V, f: impl Fn(f32) -> f32) -> V {
    a.map(f)
}

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    const LANES: usize = 8;
    const ROWS: usize = 4;
    const VECTORS: usize = 1;
    type V = V;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        // SAFETY: the caller promises eight readable numbers; they are read without alignment.
        unsafe { from.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> V {
        // SAFETY: the caller promises n readable numbers.
        std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: V) {
        // SAFETY: the caller promises eight writable numbers.
        unsafe { to.cast::<V>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, x: V, n: usize) {
        for (i, x) in x.iter().enumerate().take(n) {
            // SAFETY: the caller promises n writable numbers.
            unsafe { *to.add(i) = *x }
        }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn sqrt(x: V) -> V {
        map(x, f32::sqrt)
    }
    #[inline(always)]
    unsafe fn round(x: V) -> V {
        map(x, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_two(x: V, n: V) -> V {
        zip(x, n, |x, n| x * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(x: V) -> f32 {
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }
    #[inline(always)]
    unsafe fn unpack_bf16(from: *const u32) -> (V, V) {
        // SAFETY: the caller promises eight readable pairs.
        let pairs = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        (pairs.map(|x| f32::from_bits(x << 16)), pairs.map(|x| f32::from_bits(x & 0xffff_0000)))
    }
}
