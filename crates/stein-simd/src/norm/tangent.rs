//! The tangent of a group normalization: how y changes as x, the scale and the shift change.
//!
//! x̂ changes by dx̂ = s (dx − mean(dx) − x̂ mean(x̂ dx)), where s is the moments' scale and the means are over the group, and
//! z = (x̂ γ + β)(1 + scale) + shift changes by dz = γ (1 + scale) dx̂ + (x̂ γ + β) dscale + dshift. That is a dx + q x + r,
//! with the a of [`Coefficients`] and two more numbers per sample and channel: one pass adds up dx and x dx, and another
//! writes dy = f′(a x + b) dz.

use super::{
    backward::{GradientSums, inner_gradient},
    group::{Coefficients, check_adaptive, check_coefficients, check_factors, check_moments},
    moments::Moments,
    shape::{NormShape, chunks, sums},
};
use crate::{
    split::for_each,
    vector::{Isa, Job, Simd, load, store},
};

/// The coefficients of dz = a dx + q x + r, the tangent of a normalization before its SiLU, per sample and channel; a is
/// that of [`Coefficients`].
#[derive(Clone, Debug)]
pub struct TangentCoefficients {
    /// Factors of x.
    pub q: Vec<f32>,
    /// Offsets.
    pub r: Vec<f32>,
}

/// The coefficients of the tangent along `tangents`, one per part of the input, and along the tangents `dscale` and
/// `dshift` of scale and shift, `[samples, channels]`, which are 0 if missing. Moments and parameters are those of
/// [`coefficients`](super::coefficients).
///
/// # Panics
/// If the sizes do not match.
#[expect(clippy::too_many_arguments, reason = "everything the forward pass had, and its tangents")]
pub fn tangent_coefficients(
    isa: Isa,
    shape: NormShape,
    parts: &[&[f32]],
    tangents: &[&[f32]],
    moments: &Moments,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    scale: Option<&[f32]>,
    dscale: Option<&[f32]>,
    dshift: Option<&[f32]>,
) -> TangentCoefficients {
    let NormShape { samples, places, channels, groups } = shape;
    check_moments(samples * groups, moments);
    check_factors(channels, gamma, beta);
    check_adaptive(shape, scale, None);
    check_adaptive(shape, dscale, dshift);
    let sums = tangent_sums(isa, shape, parts, tangents, moments);
    let at = |x: Option<&[f32]>, i: usize, missing: f64| x.map_or(missing, |x| f64::from(x[i]));
    let size = channels / groups;
    let count = (places * size) as f64;
    let (mut q, mut r) = (Vec::with_capacity(samples * channels), Vec::with_capacity(samples * channels));
    for group in 0..samples * groups {
        let (n, g) = (group / groups, group % groups);
        let (mean, s) = (f64::from(moments.mean[group]), f64::from(moments.scale[group]));
        let (ones, products) = sums[n * 2 * channels..][..2 * channels].split_at(channels);
        let own = g * size..(g + 1) * size;
        // The means of dx and of x̂ dx.
        let along_one = ones[own.clone()].iter().sum::<f64>() / count;
        let along_x = products[own.clone()].iter().sum::<f64>() * s / count;
        for c in own {
            let i = n * channels + c;
            let (gamma, beta, dscale) = (at(gamma, c, 1.0), at(beta, c, 0.0), at(dscale, i, 0.0));
            let factor = gamma * (1.0 + at(scale, i, 0.0)) * s;
            // The factor of x̂, which is s (x − mean).
            let along = gamma * dscale - factor * along_x;
            q.push((along * s) as f32);
            r.push((beta * dscale + at(dshift, i, 0.0) - factor * along_one - along * s * mean) as f32);
        }
    }
    TangentCoefficients { q, r }
}

/// Σ dx and Σ dx (x − mean) per sample and channel, `[samples, 2, channels]`.
fn tangent_sums(isa: Isa, shape: NormShape, parts: &[&[f32]], tangents: &[&[f32]], moments: &Moments) -> Vec<f64> {
    check_tangents(parts, tangents);
    let widths = shape.widths(parts);
    let NormShape { samples, places, channels, groups } = shape;
    let means: Vec<f32> = (0..samples * channels).map(|i| moments.mean[i / (channels / groups)]).collect();
    sums(shape, |n, first, count, sums| {
        for ((part, tangent), &(width, before)) in parts.iter().zip(tangents).zip(&widths) {
            let pixels = (n * places + first) * width..(n * places + first + count) * width;
            let mean = &means[n * channels + before..][..width];
            let (ones, products) = sums.split_at_mut(channels);
            let sums = (&mut ones[before..][..width], &mut products[before..][..width]);
            let (x, dy) = (&part[pixels.clone()], &tangent[pixels]);
            // Without SiLU, dz is dy, and neither a nor b counts.
            isa.run(GradientSums { x, dy, channels: width, mean, a: mean, b: mean, silu: false, sums });
        }
    })
}

/// dy = f′(a x + b) (a dx + q x + r), `[samples, pixels, channels]`: the tangent of [`normalize`](super::normalize) along
/// `tangents`, one per part of the input; f is SiLU or the identity.
///
/// # Panics
/// If the sizes do not match.
#[expect(clippy::too_many_arguments, reason = "everything the forward pass had, and its tangents")]
pub fn normalize_tangent(
    isa: Isa,
    shape: NormShape,
    parts: &[&[f32]],
    tangents: &[&[f32]],
    coefficients: &Coefficients,
    tangent_coefficients: &TangentCoefficients,
    silu: bool,
    dy: &mut [f32],
) {
    check_tangents(parts, tangents);
    check_coefficients(shape, coefficients);
    let TangentCoefficients { q, r } = tangent_coefficients;
    assert!(q.len() == coefficients.a.len() && r.len() == q.len(), "tangents of every coefficient of a normalization");
    assert_eq!(dy.len(), shape.len(), "a normalization has as many outputs as inputs");
    let widths = shape.widths(parts);
    let NormShape { places, channels, .. } = shape;
    for_each(shape.len(), chunks(shape, channels, dy), |(n, first, dy)| {
        for ((part, tangent), &(width, before)) in parts.iter().zip(tangents).zip(&widths) {
            let from = (n * places + first) * width;
            let pixels = from..from + dy.len() / channels * width;
            let own = n * channels + before..n * channels + before + width;
            isa.run(Tangent {
                x: &part[pixels.clone()],
                dx: &tangent[pixels],
                a: &coefficients.a[own.clone()],
                b: &coefficients.b[own.clone()],
                q: &q[own.clone()],
                r: &r[own],
                silu,
                dy: &mut dy[before..],
                channels,
            });
        }
    });
}

fn check_tangents(parts: &[&[f32]], tangents: &[&[f32]]) {
    let same = parts.len() == tangents.len() && parts.iter().zip(tangents).all(|(x, dx)| x.len() == dx.len());
    assert!(same, "a tangent for every part of the input of a normalization");
}

/// dy = f′(a x + b) (a dx + q x + r) over pixels with as many channels as a; those of dy are `channels` numbers apart.
struct Tangent<'a> {
    x: &'a [f32],
    dx: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    q: &'a [f32],
    r: &'a [f32],
    silu: bool,
    dy: &'a mut [f32],
    channels: usize,
}

impl Tangent<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const SILU: bool>(self) {
        let width = self.a.len();
        let rows = self.x.chunks_exact(width).zip(self.dx.chunks_exact(width));
        for ((x, dx), dy) in rows.zip(self.dy.chunks_mut(self.channels)) {
            let dy = &mut dy[..width];
            for c in (0..width).step_by(S::LANES) {
                let n = width - c;
                // SAFETY: n numbers are left in the rows of x, dx and dy, and in a, b, q and r.
                unsafe {
                    let x = load::<S>(x.as_ptr().add(c), n);
                    let a = load::<S>(self.a.as_ptr().add(c), n);
                    let rest = S::fma(load::<S>(self.q.as_ptr().add(c), n), x, load::<S>(self.r.as_ptr().add(c), n));
                    let dz = S::fma(a, load::<S>(dx.as_ptr().add(c), n), rest);
                    let b = load::<S>(self.b.as_ptr().add(c), n);
                    store::<S>(dy.as_mut_ptr().add(c), inner_gradient::<S, SILU>(x, a, b, dz), n);
                }
            }
        }
    }
}

impl Job for Tangent<'_> {
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
