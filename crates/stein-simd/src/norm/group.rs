//! The value of a group normalization.

use super::{
    moments::Moments,
    shape::{NormShape, chunks},
};
use crate::{
    activation::silu,
    split::for_each,
    vector::{Isa, Job, Simd, load, store},
};

/// The coefficients of y = f(a x + b), the whole normalization, per sample and channel.
#[derive(Clone, Debug)]
pub struct Coefficients {
    /// Factors of x.
    pub a: Vec<f32>,
    /// Offsets.
    pub b: Vec<f32>,
}

/// The coefficients of a x + b = (x̂ γ + β)(1 + scale) + shift, where x̂ is the normalized x.
///
/// γ and β are `[channels]`; scale and shift are `[samples, channels]`, those of adaptive group normalization (P.
/// Dhariwal, A. Nichol, 2021, arXiv:2105.05233). A missing γ is 1; the others are 0 if missing.
pub fn coefficients(
    shape: NormShape,
    moments: &Moments,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    scale: Option<&[f32]>,
    shift: Option<&[f32]>,
) -> Coefficients {
    let NormShape { samples, channels, groups, .. } = shape;
    check_moments(samples * groups, moments);
    check_factors(channels, gamma, beta);
    check_adaptive(shape, scale, shift);
    let at = |x: Option<&[f32]>, i: usize, missing: f64| x.map_or(missing, |x| f64::from(x[i]));
    let (mut a, mut b) = (Vec::with_capacity(samples * channels), Vec::with_capacity(samples * channels));
    for i in 0..samples * channels {
        let (n, c) = (i / channels, i % channels);
        let group = n * groups + c / (channels / groups);
        let (gamma, beta) = (at(gamma, c, 1.0), at(beta, c, 0.0));
        let scale = 1.0 + at(scale, i, 0.0);
        let factor = f64::from(moments.scale[group]) * gamma * scale;
        a.push(factor as f32);
        b.push((beta * scale + at(shift, i, 0.0) - factor * f64::from(moments.mean[group])) as f32);
    }
    Coefficients { a, b }
}

/// y = f(a x + b), `[samples, pixels, channels]`, where f is SiLU or the identity.
pub fn normalize(isa: Isa, shape: NormShape, parts: &[&[f32]], coefficients: &Coefficients, silu: bool, y: &mut [f32]) {
    let widths = shape.widths(parts);
    let NormShape { places, channels, .. } = shape;
    check_coefficients(shape, coefficients);
    assert_eq!(y.len(), shape.len(), "a normalization has as many outputs as inputs");
    for_each(shape.len(), chunks(shape, channels, y), |(n, first, y)| {
        for (part, &(width, before)) in parts.iter().zip(&widths) {
            let x = &part[(n * places + first) * width..][..y.len() / channels * width];
            let a = &coefficients.a[n * channels + before..][..width];
            let b = &coefficients.b[n * channels + before..][..width];
            isa.run(Normalize { x, a, b, silu, y: &mut y[before..], channels });
        }
    });
}

/// y = f(a x + b) over pixels with as many channels as a; those of y are `channels` numbers apart.
struct Normalize<'a> {
    x: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    silu: bool,
    y: &'a mut [f32],
    channels: usize,
}

impl Normalize<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const SILU: bool>(self) {
        let width = self.a.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_mut(self.channels)) {
            let y = &mut y[..width];
            let mut c = 0;
            while c < width {
                let n = width - c;
                // SAFETY: n numbers are left in the rows of x and y, and in a and b.
                unsafe {
                    let a = load::<S>(self.a.as_ptr().add(c), n);
                    let b = load::<S>(self.b.as_ptr().add(c), n);
                    let z = S::fma(a, load::<S>(x.as_ptr().add(c), n), b);
                    store::<S>(y.as_mut_ptr().add(c), if SILU { silu::<S>(z) } else { z }, n);
                }
                c += S::LANES;
            }
        }
    }
}

impl Job for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        if self.a.is_empty() {
            return;
        }
        // SAFETY: the caller promises the same.
        unsafe { if self.silu { self.rows::<S, true>() } else { self.rows::<S, false>() } }
    }
}

pub(super) fn check_moments(count: usize, moments: &Moments) {
    let fit = moments.mean.len() == count && moments.scale.len() == count;
    assert!(fit, "moments for every sample and group of a normalization");
}

pub(super) fn check_factors(channels: usize, gamma: Option<&[f32]>, beta: Option<&[f32]>) {
    let fit = |x: Option<&[f32]>| x.is_none_or(|x| x.len() == channels);
    assert!(fit(gamma) && fit(beta), "a factor and an offset for every channel of a normalization");
}

pub(super) fn check_adaptive(shape: NormShape, scale: Option<&[f32]>, shift: Option<&[f32]>) {
    let fit = |x: Option<&[f32]>| x.is_none_or(|x| x.len() == shape.samples * shape.channels);
    assert!(fit(scale) && fit(shift), "a scale and a shift for every sample and channel of a normalization");
}

pub(super) fn check_coefficients(shape: NormShape, coefficients: &Coefficients) {
    let count = shape.samples * shape.channels;
    let fit = coefficients.a.len() == count && coefficients.b.len() == count;
    assert!(fit, "coefficients for every sample and channel of a normalization");
}
