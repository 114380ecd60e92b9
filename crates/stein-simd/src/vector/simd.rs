//! What a kernel is, and the operations on vectors it is made of.

/// Vectors of f32, and what kernels do with them.
///
/// # Safety
/// Every function may only run on a processor with the instructions of the set, which `Isa::run` ensures. Loads and stores
/// are of [`LANES`](Self::LANES) consecutive numbers, without alignment, or of the first `n` ≤ `LANES` of them, which must
/// be readable or writable.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Numbers per vector.
    const LANES: usize;
    /// Rows of the register tile of matrix products.
    const ROWS: usize;
    /// Vectors per row of the register tile of matrix products.
    const VECTORS: usize;
    /// A vector.
    type V: Copy;

    /// The same number in all lanes.
    unsafe fn splat(x: f32) -> Self::V;
    /// `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self::V;
    /// The first `n` numbers, filled up with zeros.
    unsafe fn load_some(from: *const f32, n: usize) -> Self::V;
    /// Writes all lanes.
    unsafe fn store(to: *mut f32, x: Self::V);
    /// Writes the first `n` lanes.
    unsafe fn store_some(to: *mut f32, x: Self::V, n: usize);
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once if the processor can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller of the two in each lane; b where a is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The larger of the two in each lane; b where a is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// √x
    unsafe fn sqrt(x: Self::V) -> Self::V;
    /// The nearest integer; halves go to the even one.
    unsafe fn round(x: Self::V) -> Self::V;
    /// x · 2ⁿ for integers n from −126 to 127.
    unsafe fn scale_by_power_of_two(x: Self::V, n: Self::V) -> Self::V;
    /// The sum of all lanes, in a fixed order.
    unsafe fn sum(x: Self::V) -> f32;
    /// The low and the high halves of `LANES` pairs of bf16, as two vectors.
    unsafe fn unpack_bf16(from: *const u32) -> (Self::V, Self::V);

    /// Transposes 8 × 8 numbers: row i of the result, at `to + i · step`, is column i of the rows at `from + j · row`.
    #[inline(always)]
    unsafe fn transpose8(from: *const f32, row: usize, to: *mut f32, step: usize) {
        // SAFETY: the caller promises that both squares are accessible.
        unsafe {
            for (i, j) in (0..64).map(|k| (k / 8, k % 8)) {
                *to.add(i * step + j) = *from.add(j * row + i);
            }
        }
    }

    /// Rounds the numbers of two vectors to bf16, halves to even, and packs them into `LANES` pairs, as the bits of a vector.
    #[inline(always)]
    unsafe fn pack_bf16(low: Self::V, high: Self::V) -> Self::V {
        let [mut to, mut from] = [[0.0; 16]; 2];
        // SAFETY: no vector is longer than 16; otherwise, the caller's promises are those of the functions called.
        unsafe {
            Self::store(to.as_mut_ptr(), low);
            Self::store(from.as_mut_ptr(), high);
            for (low, high) in to.iter_mut().zip(from).take(Self::LANES) {
                *low = f32::from_bits(round_to_bf16(*low) >> 16 | round_to_bf16(high) & 0xffff_0000);
            }
            Self::load(to.as_ptr())
        }
    }

    /// acc + lo(a) · lo(b) + hi(a) · hi(b) for a pair of bf16 `a` and `LANES` pairs at `b`, products and sums in f32.
    #[inline(always)]
    unsafe fn dot_bf16(acc: Self::V, a: u32, b: *const u32) -> Self::V {
        // SAFETY: the caller's promises are those of the functions called.
        unsafe {
            let (lo, hi) = Self::unpack_bf16(b);
            let acc = Self::fma(Self::splat(f32::from_bits(a << 16)), lo, acc);
            Self::fma(Self::splat(f32::from_bits(a & 0xffff_0000)), hi, acc)
        }
    }
}

/// Bits whose upper half is the nearest bf16.
#[inline(always)]
fn round_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    // The bits that make it NaN could all be in the lower half, and a carry could run through the exponent.
    if x.is_nan() { bits | 0x0040_0000 } else { bits + 0x7fff + (bits >> 16 & 1) }
}

/// A kernel, which can be compiled for any instruction set.
pub(crate) trait Job {
    /// What it returns.
    type Output;
    /// Does the work. This must be marked `#[inline(always)]`, as must everything it calls with `S`.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Reads a full vector if at least that many numbers are left, otherwise `n` of them.
///
/// # Safety
/// As [`Simd::load_some`].
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(from: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's promises are those of the functions called.
    unsafe { if n >= S::LANES { S::load(from) } else { S::load_some(from, n) } }
}

/// Writes a full vector if at least that many numbers are left, otherwise `n` of them.
///
/// # Safety
/// As [`Simd::store_some`].
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(to: *mut f32, x: S::V, n: usize) {
    // SAFETY: the caller's promises are those of the functions called.
    unsafe { if n >= S::LANES { S::store(to, x) } else { S::store_some(to, x, n) } }
}
