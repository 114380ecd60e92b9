//! The gradients of a group normalization.

use super::{
    group::{Coefficients, check_adaptive, check_coefficients, check_factors, check_moments},
    moments::Moments,
    shape::{BLOCK, NormShape, chunks, flush, sums},
};
use crate::{
    activation::silu_slope,
    split::for_each,
    vector::{Isa, Job, Simd, load, store},
};

/// The gradients of a group normalization's parameters.
#[derive(Clone, Debug)]
pub struct NormGradients {
    /// That of γ, `[channels]`.
    pub gamma: Vec<f32>,
    /// That of β, `[channels]`.
    pub beta: Vec<f32>,
    /// That of the scale, `[samples, channels]`; without a scale, the gradient at a scale of 0.
    pub scale: Vec<f32>,
    /// That of the shift, `[samples, channels]`.
    pub shift: Vec<f32>,
}

/// The gradients of [`normalize`](super::normalize) after [`coefficients`](super::coefficients), from that of y; the
/// gradients of x overwrite `dx`, one slice per part.
///
/// With z = a x + b and dz = dy f′(z), one pass adds up dz and dz x̂ per sample and channel, and another writes
/// dx = s (g dz − mean(g dz) − x̂ mean(g dz x̂)), where g = γ (1 + scale), s is the moments' scale, and the means are over
/// the group.
#[expect(clippy::too_many_arguments, reason = "everything the forward pass had, and what it left")]
pub fn normalize_backward(
    isa: Isa,
    shape: NormShape,
    parts: &[&[f32]],
    moments: &Moments,
    coefficients: &Coefficients,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    scale: Option<&[f32]>,
    silu: bool,
    dy: &[f32],
    dx: &mut [&mut [f32]],
) -> NormGradients {
    let widths = shape.widths(parts);
    let NormShape { samples, places, channels, groups } = shape;
    check_moments(samples * groups, moments);
    check_factors(channels, gamma, beta);
    check_adaptive(shape, scale, None);
    check_coefficients(shape, coefficients);
    assert_eq!(dy.len(), shape.len(), "a gradient for every output of a normalization");
    let same = dx.len() == parts.len() && dx.iter().zip(parts).all(|(dx, x)| dx.len() == x.len());
    assert!(same, "a gradient for every part of the input");

    let sums = gradient_sums(isa, shape, parts, moments, coefficients, silu, dy);
    let factors = Factors { gamma, beta, scale };
    let gradients = parameter_gradients(shape, moments, factors, &sums);
    let (q, r) = slopes(shape, moments, factors, &sums);

    let tasks = dx.iter_mut().zip(parts).zip(&widths).filter(|(_, (width, _))| *width > 0);
    let tasks = tasks.flat_map(|((dx, x), &(width, before))| {
        chunks(shape, width, dx).map(move |(n, first, dx)| (n, first, dx, *x, width, before))
    });
    for_each(shape.len(), tasks, |(n, first, dx, x, width, before)| {
        let channel = n * channels + before..n * channels + before + width;
        isa.run(InputGradient {
            x: &x[(n * places + first) * width..][..dx.len()],
            dy: &dy[(n * places + first) * channels + before..],
            channels,
            a: &coefficients.a[channel.clone()],
            b: &coefficients.b[channel.clone()],
            q: &q[channel.clone()],
            r: &r[channel],
            silu,
            dx,
        });
    });
    gradients
}

/// The parameters that the gradients depend on.
#[derive(Clone, Copy)]
struct Factors<'a> {
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
    scale: Option<&'a [f32]>,
}

impl Factors<'_> {
    /// γ and β of channel c, and 1 + scale of it in sample n.
    fn at(&self, n: usize, c: usize, channels: usize) -> (f64, f64, f64) {
        let at = |x: Option<&[f32]>, i: usize, missing: f64| x.map_or(missing, |x| f64::from(x[i]));
        (at(self.gamma, c, 1.0), at(self.beta, c, 0.0), 1.0 + at(self.scale, n * channels + c, 0.0))
    }
}

/// Σ dz and Σ dz (x − mean) per sample and channel, `[samples, 2, channels]`.
fn gradient_sums(
    isa: Isa,
    shape: NormShape,
    parts: &[&[f32]],
    moments: &Moments,
    coefficients: &Coefficients,
    silu: bool,
    dy: &[f32],
) -> Vec<f64> {
    let widths = shape.widths(parts);
    let NormShape { samples, places, channels, groups } = shape;
    let means: Vec<f32> = (0..samples * channels).map(|i| moments.mean[i / (channels / groups)]).collect();
    sums(shape, |n, first, count, sums| {
        for (part, &(width, before)) in parts.iter().zip(&widths) {
            let x = &part[(n * places + first) * width..][..count * width];
            let dy = &dy[(n * places + first) * channels + before..];
            let mean = &means[n * channels + before..][..width];
            let a = &coefficients.a[n * channels + before..][..width];
            let b = &coefficients.b[n * channels + before..][..width];
            let (ones, products) = sums.split_at_mut(channels);
            let sums = (&mut ones[before..][..width], &mut products[before..][..width]);
            isa.run(GradientSums { x, dy, channels, mean, a, b, silu, sums });
        }
    })
}

/// The gradients of the parameters, from the sums of [`gradient_sums`].
fn parameter_gradients(shape: NormShape, moments: &Moments, factors: Factors, sums: &[f64]) -> NormGradients {
    let NormShape { samples, channels, groups, .. } = shape;
    let (mut gamma, mut beta) = (vec![0.0; channels], vec![0.0; channels]);
    let (mut scales, mut shifts) = (Vec::with_capacity(samples * channels), Vec::with_capacity(samples * channels));
    for (n, sums) in sums.chunks_exact(2 * channels).enumerate() {
        let (ones, products) = sums.split_at(channels);
        for c in 0..channels {
            let s = f64::from(moments.scale[n * groups + c / (channels / groups)]);
            let (own, offset, scale) = factors.at(n, c, channels);
            let (one, x) = (ones[c], products[c] * s);
            gamma[c] += scale * x;
            beta[c] += scale * one;
            scales.push((own * x + offset * one) as f32);
            shifts.push(one as f32);
        }
    }
    let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
    NormGradients { gamma: narrow(gamma), beta: narrow(beta), scale: scales, shift: shifts }
}

/// q and r of dx = a dz + q x + r per sample and channel, from the sums of [`gradient_sums`].
fn slopes(shape: NormShape, moments: &Moments, factors: Factors, sums: &[f64]) -> (Vec<f32>, Vec<f32>) {
    let NormShape { samples, places, channels, groups } = shape;
    let size = channels / groups;
    let (mut q, mut r) = (Vec::with_capacity(samples * channels), Vec::with_capacity(samples * channels));
    for group in 0..samples * groups {
        let (n, g) = (group / groups, group % groups);
        let (mean, s) = (f64::from(moments.mean[group]), f64::from(moments.scale[group]));
        let (ones, products) = sums[n * 2 * channels..][..2 * channels].split_at(channels);
        let (mut along_one, mut along_x) = (0.0, 0.0);
        for c in g * size..(g + 1) * size {
            let (gamma, _, scale) = factors.at(n, c, channels);
            along_one += gamma * scale * ones[c];
            along_x += gamma * scale * products[c] * s;
        }
        let count = (places * size) as f64;
        let (slope, offset) = (-s * s * along_x / count, -s * along_one / count);
        q.extend(std::iter::repeat_n(slope as f32, size));
        r.extend(std::iter::repeat_n((offset - slope * mean) as f32, size));
    }
    (q, r)
}

/// dy f′(a x + b)
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn inner_gradient<S: Simd, const SILU: bool>(x: S::V, a: S::V, b: S::V, dy: S::V) -> S::V {
    // SAFETY: the caller promises the same.
    unsafe { if SILU { S::mul(dy, silu_slope::<S>(S::fma(a, x, b))) } else { dy } }
}

/// Adds Σ dz and Σ dz (x − mean) with dz = dy f′(a x + b) to the sums; pixels of dy are `channels` numbers apart.
pub(super) struct GradientSums<'a> {
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) channels: usize,
    pub(super) mean: &'a [f32],
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) silu: bool,
    pub(super) sums: (&'a mut [f64], &'a mut [f64]),
}

impl GradientSums<'_> {
    /// The same for `V` vectors of channels from c on; only the last one may be incomplete.
    #[inline(always)]
    unsafe fn columns<S: Simd, const V: usize, const SILU: bool>(&mut self, c: usize) {
        let width = self.mean.len();
        for (x, dy) in self.x.chunks(BLOCK * width).zip(self.dy.chunks(BLOCK * self.channels)) {
            // SAFETY: channel c + v · LANES is within the row, and no vector reads beyond it.
            unsafe {
                let (mut ones, mut products) = ([S::splat(0.0); V], [S::splat(0.0); V]);
                for (x, dy) in x.chunks_exact(width).zip(dy.chunks(self.channels)) {
                    let dy = &dy[..width];
                    for v in 0..V {
                        let c = c + v * S::LANES;
                        let n = width - c;
                        let x = load::<S>(x.as_ptr().add(c), n);
                        let a = load::<S>(self.a.as_ptr().add(c), n);
                        let b = load::<S>(self.b.as_ptr().add(c), n);
                        let dz = inner_gradient::<S, SILU>(x, a, b, load::<S>(dy.as_ptr().add(c), n));
                        let around = S::sub(x, load::<S>(self.mean.as_ptr().add(c), n));
                        ones[v] = S::add(ones[v], dz);
                        products[v] = S::fma(dz, around, products[v]);
                    }
                }
                for v in 0..V {
                    flush::<S>(ones[v], &mut self.sums.0[c + v * S::LANES..]);
                    flush::<S>(products[v], &mut self.sums.1[c + v * S::LANES..]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn all<S: Simd, const SILU: bool>(mut self) {
        let width = self.mean.len();
        let mut c = 0;
        // SAFETY: two whole vectors, or the start of one, are left.
        unsafe {
            while c + 2 * S::LANES <= width {
                self.columns::<S, 2, SILU>(c);
                c += 2 * S::LANES;
            }
            while c < width {
                self.columns::<S, 1, SILU>(c);
                c += S::LANES;
            }
        }
    }
}

impl Job for GradientSums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller promises the same.
        unsafe { if self.silu { self.all::<S, true>() } else { self.all::<S, false>() } }
    }
}

/// dx = a dz + q x + r with dz = dy f′(a x + b); pixels of dy are `channels` numbers apart.
struct InputGradient<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    channels: usize,
    a: &'a [f32],
    b: &'a [f32],
    q: &'a [f32],
    r: &'a [f32],
    silu: bool,
    dx: &'a mut [f32],
}

impl InputGradient<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const SILU: bool>(self) {
        let width = self.a.len();
        let rows = self.x.chunks_exact(width).zip(self.dx.chunks_exact_mut(width));
        for ((x, dx), dy) in rows.zip(self.dy.chunks(self.channels)) {
            let dy = &dy[..width];
            let mut c = 0;
            while c < width {
                let n = width - c;
                // SAFETY: n numbers are left in the rows of x, dx and dy, and in a, b, q and r.
                unsafe {
                    let x = load::<S>(x.as_ptr().add(c), n);
                    let a = load::<S>(self.a.as_ptr().add(c), n);
                    let b = load::<S>(self.b.as_ptr().add(c), n);
                    let dz = inner_gradient::<S, SILU>(x, a, b, load::<S>(dy.as_ptr().add(c), n));
                    let rest = S::fma(load::<S>(self.q.as_ptr().add(c), n), x, load::<S>(self.r.as_ptr().add(c), n));
                    store::<S>(dx.as_mut_ptr().add(c), S::fma(a, dz, rest), n);
                }
                c += S::LANES;
            }
        }
    }
}

impl Job for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller promises the same.
        unsafe { if self.silu { self.rows::<S, true>() } else { self.rows::<S, false>() } }
    }
}
