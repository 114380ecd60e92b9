//! Activations and their derivatives, and sine and cosine.
//!
//! Exponentials, sines and cosines are minimax polynomials of a reduced argument, with the constant of the reduction split
//! into several parts (W. J. Cody, W. Waite, *Software Manual for the Elementary Functions*, 1980).

use std::f32::consts::{FRAC_1_PI, LOG2_E};
use std::marker::PhantomData;

use crate::split::{CHUNK, for_each};
use crate::vector::{Isa, Job, Simd, load, store};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x for positive x, otherwise eˣ − 1.
    Elu,
    /// x Φ(x), where Φ is the cumulative distribution function of the standard normal distribution.
    Gelu,
    /// x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, close to [`Gelu`](Self::Gelu).
    GeluTanh,
    /// x for positive x, otherwise 0.
    Relu,
    /// x for positive x, otherwise x/5.
    LeakyRelu,
}

impl Activation {
    /// Every one of them.
    pub const ALL: [Self; 6] = [Self::Silu, Self::Elu, Self::Gelu, Self::GeluTanh, Self::Relu, Self::LeakyRelu];
}

/// y = f(x)
pub fn activate(isa: Isa, kind: Activation, x: &[f32], y: &mut [f32]) {
    match kind {
        Activation::Silu => values::<Silu>(isa, x, y),
        Activation::Elu => values::<Elu>(isa, x, y),
        Activation::Gelu => values::<Gelu>(isa, x, y),
        Activation::GeluTanh => values::<GeluTanh>(isa, x, y),
        Activation::Relu => values::<Bent<0>>(isa, x, y),
        Activation::LeakyRelu => values::<Bent<LEAK>>(isa, x, y),
    }
}

/// dx = dy · f′(x): the gradient of x from that of y and, as f acts on each number by itself, also the tangent of y from
/// that of x.
pub fn activate_backward(isa: Isa, kind: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    match kind {
        Activation::Silu => slopes::<Silu>(isa, x, dy, dx),
        Activation::Elu => slopes::<Elu>(isa, x, dy, dx),
        Activation::Gelu => slopes::<Gelu>(isa, x, dy, dx),
        Activation::GeluTanh => slopes::<GeluTanh>(isa, x, dy, dx),
        Activation::Relu => slopes::<Bent<0>>(isa, x, dy, dx),
        Activation::LeakyRelu => slopes::<Bent<LEAK>>(isa, x, dy, dx),
    }
}

/// The sine and cosine of every x, with an error of about 10⁻⁷ for |x| ≤ 10⁴.
pub fn sin_cos(isa: Isa, x: &[f32], sin: &mut [f32], cos: &mut [f32]) {
    assert!(x.len() == sin.len() && x.len() == cos.len(), "a sine and a cosine for every angle");
    let tasks = x.chunks(CHUNK).zip(sin.chunks_mut(CHUNK)).zip(cos.chunks_mut(CHUNK));
    for_each(x.len(), tasks, |((x, sin), cos)| isa.run(SinCos { x, sin, cos }));
}

/// The largest |x| for which eˣ and e⁻ˣ are both normal numbers.
const RANGE: f32 = 87.3;

/// v clamped to ± `range`; a NaN is preserved if the comparisons of the processor allow it.
#[inline(always)]
unsafe fn clamp<S: Simd>(v: S::V, range: f32) -> S::V {
    // SAFETY: the processor has the instructions of `S`.
    unsafe { S::min(S::splat(range), S::max(S::splat(-range), v)) }
}

/// The n and m of eᵛ = 2ⁿ (1 + m) for |v| ≤ [`RANGE`].
#[inline(always)]
unsafe fn exp_parts<S: Simd>(v: S::V) -> (S::V, S::V) {
    // SAFETY: the processor has the instructions of `S`.
    unsafe {
        let n = S::round(S::mul(v, S::splat(LOG2_E)));
        // ln 2 in two parts; the first has few enough digits for its products with n to be exact.
        let r = S::fma(n, S::splat(-0.693_359_4), v);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        // (eʳ − 1 − r) / r² for |r| ≤ ln(2)/2, with an error of 3e-9 in eʳ.
        let p = S::splat(0.001_381_422_2);
        let p = S::fma(p, r, S::splat(0.008_368_899));
        let p = S::fma(p, r, S::splat(0.041_668_406));
        let p = S::fma(p, r, S::splat(0.166_665_2));
        let p = S::fma(p, r, S::splat(0.499_999_93));
        (n, S::fma(S::mul(r, r), p, r))
    }
}

/// eᵛ for |v| ≤ [`RANGE`].
#[inline(always)]
unsafe fn exp_within<S: Simd>(v: S::V) -> S::V {
    // SAFETY: the processor has the instructions of `S`.
    unsafe {
        let (n, m) = exp_parts::<S>(v);
        S::scale_by_power_of_two(S::add(m, S::splat(1.0)), n)
    }
}

/// eᵛ with a relative error of about 10⁻⁷; beyond ± [`RANGE`], the value there, about 10^±38.
///
/// # Safety
/// The processor has the instructions of `S`, here and below.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(v: S::V) -> S::V {
    // SAFETY: the caller promises the same.
    unsafe { exp_within::<S>(clamp::<S>(v, RANGE)) }
}

/// 1 / (1 + e⁻ᵛ)
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(v: S::V) -> S::V {
    // SAFETY: the caller promises the same.
    unsafe { S::div(S::splat(1.0), S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), v)))) }
}

/// v / (1 + e⁻ᵛ)
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(v: S::V) -> S::V {
    // SAFETY: the caller promises the same.
    unsafe {
        // The numerator is bounded below too: beyond the range the denominator stops growing, and so must v.
        let v = S::max(S::splat(-RANGE), v);
        let e = exp_within::<S>(S::sub(S::splat(0.0), S::min(S::splat(RANGE), v)));
        S::div(v, S::add(S::splat(1.0), e))
    }
}

/// The derivative of [`silu`], s (1 + v (1 − s)) with s the [`sigmoid`].
#[inline(always)]
pub(crate) unsafe fn silu_slope<S: Simd>(v: S::V) -> S::V {
    // SAFETY: the caller promises the same.
    unsafe {
        let v = clamp::<S>(v, RANGE);
        let e = exp_within::<S>(S::sub(S::splat(0.0), v));
        let s = S::div(S::splat(1.0), S::add(S::splat(1.0), e));
        // e s is 1 − s without cancellation; v e could overflow.
        S::mul(s, S::fma(v, S::mul(e, s), S::splat(1.0)))
    }
}

/// A function and its derivative.
trait Curve: Send + Sync {
    /// f(v)
    ///
    /// # Safety
    /// The processor has the instructions of `S`, here and below.
    unsafe fn value<S: Simd>(v: S::V) -> S::V;
    /// f′(v)
    unsafe fn slope<S: Simd>(v: S::V) -> S::V;
}

struct Silu;

impl Curve for Silu {
    #[inline(always)]
    unsafe fn value<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe { silu::<S>(v) }
    }
    #[inline(always)]
    unsafe fn slope<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe { silu_slope::<S>(v) }
    }
}

struct Elu;

impl Curve for Elu {
    #[inline(always)]
    unsafe fn value<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe {
            let zero = S::splat(0.0);
            let (n, m) = exp_parts::<S>(S::min(zero, S::max(S::splat(-RANGE), v)));
            // eᵛ − 1 = 2ⁿ m + (2ⁿ − 1), exact near 0, where n is 0.
            let power = S::scale_by_power_of_two(S::splat(1.0), n);
            let below = S::fma(power, m, S::sub(power, S::splat(1.0)));
            S::add(S::max(zero, v), below)
        }
    }
    #[inline(always)]
    unsafe fn slope<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe { exp_within::<S>(S::min(S::splat(0.0), S::max(S::splat(-RANGE), v))) }
    }
}

struct Gelu;

impl Gelu {
    /// a = |v|, bounded where all that follows has vanished, exp(−a²/2), and Q(a) = 1 − Φ(a).
    #[inline(always)]
    unsafe fn tail<S: Simd>(v: S::V) -> (S::V, S::V, S::V) {
        // SAFETY: the caller promises the same.
        unsafe {
            let a = S::min(S::splat(13.0), S::max(v, S::sub(S::splat(0.0), v)));
            let bell = exp_within::<S>(S::mul(S::mul(a, a), S::splat(-0.5)));
            // Q(a) exp(a²/2) as a polynomial in t = 1 / (1 + 0.35 a), with a relative error of 3e-7.
            let t = S::div(S::splat(1.0), S::fma(a, S::splat(0.35), S::splat(1.0)));
            let p = S::splat(0.048_942_446);
            let p = S::fma(p, t, S::splat(-0.202_119_29));
            let p = S::fma(p, t, S::splat(0.240_640_82));
            let p = S::fma(p, t, S::splat(-0.017_023_432));
            let p = S::fma(p, t, S::splat(0.155_961_48));
            let p = S::fma(p, t, S::splat(0.133_355_1));
            let p = S::fma(p, t, S::splat(0.140_270_34));
            let p = S::fma(p, t, S::splat(-2.731_554_3e-5));
            (a, bell, S::mul(p, bell))
        }
    }
}

impl Curve for Gelu {
    #[inline(always)]
    unsafe fn value<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe {
            let (a, _, q) = Self::tail::<S>(v);
            S::sub(S::max(S::splat(0.0), v), S::mul(a, q))
        }
    }
    #[inline(always)]
    unsafe fn slope<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe {
            let (a, bell, q) = Self::tail::<S>(v);
            // Φ(v) + v φ(v) = 1/2 + sign(v) (1/2 − Q(a) + a φ(a)), with φ(a) = exp(−a²/2) / √(2π).
            let odd = S::fma(S::mul(a, bell), S::splat(0.398_942_3), S::sub(S::splat(0.5), q));
            let sign = clamp::<S>(S::mul(v, S::splat(1e30)), 1.0);
            S::fma(sign, odd, S::splat(0.5))
        }
    }
}

struct GeluTanh;

impl GeluTanh {
    /// 2 √(2/π)
    const LINEAR: f32 = 1.595_769;
    /// 2 √(2/π) · 0.044715
    const CUBIC: f32 = 0.071_354_814;
    /// Beyond ± this, the sigmoid below is 0 or 1.
    const END: f32 = 20.0;
}

// (1 + tanh(u)) / 2 is the sigmoid of 2u.
impl Curve for GeluTanh {
    #[inline(always)]
    unsafe fn value<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe {
            let v = S::max(S::splat(-Self::END), v);
            let u = S::mul(v, S::fma(S::mul(v, v), S::splat(Self::CUBIC), S::splat(Self::LINEAR)));
            S::mul(v, sigmoid::<S>(u))
        }
    }
    #[inline(always)]
    unsafe fn slope<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe {
            let v = clamp::<S>(v, Self::END);
            let square = S::mul(v, v);
            let u = S::mul(v, S::fma(square, S::splat(Self::CUBIC), S::splat(Self::LINEAR)));
            let slope = S::fma(square, S::splat(3.0 * Self::CUBIC), S::splat(Self::LINEAR));
            let e = exp::<S>(S::sub(S::splat(0.0), u));
            let s = S::div(S::splat(1.0), S::add(S::splat(1.0), e));
            S::mul(s, S::fma(S::mul(v, slope), S::mul(e, s), S::splat(1.0)))
        }
    }
}

/// The slope of [`Activation::LeakyRelu`] below 0, in tenths.
const LEAK: u8 = 2;

/// v above 0, and so many tenths of it below.
struct Bent<const TENTHS: u8>;

impl<const TENTHS: u8> Bent<TENTHS> {
    const BELOW: f32 = TENTHS as f32 / 10.0;
}

impl<const TENTHS: u8> Curve for Bent<TENTHS> {
    #[inline(always)]
    unsafe fn value<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe {
            let zero = S::splat(0.0);
            S::fma(S::min(zero, v), S::splat(Self::BELOW), S::max(zero, v))
        }
    }
    #[inline(always)]
    unsafe fn slope<S: Simd>(v: S::V) -> S::V {
        // SAFETY: the caller promises the same.
        unsafe {
            // 1 for every normal number above 0, 0 for 0 and below.
            let above = S::min(S::splat(1.0), S::max(S::splat(0.0), S::mul(v, S::splat(f32::MAX))));
            S::fma(above, S::splat(1.0 - Self::BELOW), S::splat(Self::BELOW))
        }
    }
}

fn values<C: Curve>(isa: Isa, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "an activation has as many outputs as inputs");
    let tasks = x.chunks(CHUNK).zip(y.chunks_mut(CHUNK));
    for_each(x.len(), tasks, |(x, y)| isa.run(Values { x, y, curve: PhantomData::<C> }));
}

fn slopes<C: Curve>(isa: Isa, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert!(x.len() == dy.len() && x.len() == dx.len(), "a gradient of the activation for every input and output");
    let tasks = x.chunks(CHUNK).zip(dy.chunks(CHUNK)).zip(dx.chunks_mut(CHUNK));
    for_each(x.len(), tasks, |((x, dy), dx)| isa.run(Slopes { x, dy, dx, curve: PhantomData::<C> }));
}

struct Values<'a, C> {
    x: &'a [f32],
    y: &'a mut [f32],
    curve: PhantomData<C>,
}

impl<C: Curve> Job for Values<'_, C> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.x.len() {
            let n = self.x.len() - i;
            // SAFETY: n numbers are left in both slices, which have the same length.
            unsafe { store::<S>(self.y.as_mut_ptr().add(i), C::value::<S>(load::<S>(self.x.as_ptr().add(i), n)), n) };
            i += S::LANES;
        }
    }
}

struct Slopes<'a, C> {
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    curve: PhantomData<C>,
}

impl<C: Curve> Job for Slopes<'_, C> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.x.len() {
            let n = self.x.len() - i;
            // SAFETY: n numbers are left in all three slices, which have the same length.
            unsafe {
                let slope = C::slope::<S>(load::<S>(self.x.as_ptr().add(i), n));
                store::<S>(self.dx.as_mut_ptr().add(i), S::mul(load::<S>(self.dy.as_ptr().add(i), n), slope), n);
            }
            i += S::LANES;
        }
    }
}

struct SinCos<'a> {
    x: &'a [f32],
    sin: &'a mut [f32],
    cos: &'a mut [f32],
}

impl Job for SinCos<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.x.len() {
            let n = self.x.len() - i;
            // SAFETY: n numbers are left in all three slices, which have the same length.
            unsafe {
                let x = load::<S>(self.x.as_ptr().add(i), n);
                let k = S::round(S::mul(x, S::splat(FRAC_1_PI)));
                // r = x − k π; the first two parts of π have few enough digits for their products with k < 2¹³ to be exact.
                let r = S::fma(k, S::splat(-3.140_625), x);
                let r = S::fma(k, S::splat(-9.675_026e-4), r);
                let r = S::fma(k, S::splat(-1.509_958e-7), r);
                let u = S::mul(r, r);
                // (sin r − r) / r³ and (cos r − 1) / r² for |r| ≤ π/2, with errors of 1e-8 and 5e-10.
                let p = S::splat(2.605_107_6e-6);
                let p = S::fma(p, u, S::splat(-1.980_993_1e-4));
                let p = S::fma(p, u, S::splat(0.008_333_084));
                let p = S::fma(p, u, S::splat(-0.166_666_61));
                let sin = S::fma(S::mul(u, r), p, r);
                let p = S::splat(-2.605_049e-7);
                let p = S::fma(p, u, S::splat(2.476_086e-5));
                let p = S::fma(p, u, S::splat(-0.001_388_839_8));
                let p = S::fma(p, u, S::splat(0.041_666_64));
                let p = S::fma(p, u, S::splat(-0.5));
                let cos = S::fma(u, p, S::splat(1.0));
                // (−1)ᵏ = 1 − 2 odd², where odd = k − 2 round(k/2) is 0 or ±1.
                let odd = S::fma(S::round(S::mul(k, S::splat(0.5))), S::splat(-2.0), k);
                let sign = S::fma(S::mul(odd, odd), S::splat(-2.0), S::splat(1.0));
                store::<S>(self.sin.as_mut_ptr().add(i), S::mul(sin, sign), n);
                store::<S>(self.cos.as_mut_ptr().add(i), S::mul(cos, sign), n);
            }
            i += S::LANES;
        }
    }
}
