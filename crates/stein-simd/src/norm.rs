//! Group and layer normalisation over channels-last rows, with a SiLU behind it at will.
//!
//! Group normalisation (Y. Wu, K. He, 2018, arXiv:1803.08494) takes mean and variance over all places and the channels
//! of a group; with a group per channel it is instance normalisation. Its input `[samples, places, channels]` may lie in
//! several tensors that stand side by side along channels: a concatenation that is never made.

use crate::activation::{silu, silu_slope};
use crate::split::{CHUNK, for_each};
use crate::vector::{Isa, Job, Simd, load, store};

/// Places summed in f32 before their sums go to f64.
const BLOCK: usize = 64;

/// The shape of a group normalisation; `groups` divides `channels`.
#[derive(Clone, Copy, Debug)]
pub struct NormShape {
    /// Samples, each with its own moments.
    pub samples: usize,
    /// Places in a sample: height × width.
    pub places: usize,
    /// Channels of all parts together.
    pub channels: usize,
    /// Groups of neighbouring channels.
    pub groups: usize,
}

impl NormShape {
    /// Places in one task.
    fn chunk(&self) -> usize {
        (CHUNK / self.channels).max(1)
    }

    /// Numbers in the input.
    fn len(&self) -> usize {
        self.samples * self.places * self.channels
    }

    /// The width of each part, and of all before it.
    fn widths(&self, parts: &[&[f32]]) -> Vec<(usize, usize)> {
        let rows = self.samples * self.places;
        assert!(rows > 0 && self.channels > 0, "a normalisation of nothing");
        assert!(self.groups > 0 && self.channels.is_multiple_of(self.groups), "groups divide the channels");
        let mut widths = Vec::with_capacity(parts.len());
        let mut before = 0;
        for part in parts {
            assert!(part.len().is_multiple_of(rows), "a part of the input has whole rows");
            widths.push((part.len() / rows, before));
            before += part.len() / rows;
        }
        assert_eq!(before, self.channels, "the widths of all parts add up to the channels");
        widths
    }
}

/// The moments of each sample and group, or of each row of a layer normalisation.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Means.
    pub mean: Vec<f32>,
    /// 1 / √(variance + ε) with the biased variance.
    pub scale: Vec<f32>,
}

/// The factors of y = f(a x + b), the whole normalisation, for each sample and channel.
#[derive(Clone, Debug)]
pub struct Coefficients {
    /// Factors of x.
    pub a: Vec<f32>,
    /// What is added.
    pub b: Vec<f32>,
}

/// The gradients of a group normalisation's parameters.
#[derive(Clone, Debug)]
pub struct NormGradients {
    /// Of γ, `[channels]`.
    pub gamma: Vec<f32>,
    /// Of β, `[channels]`.
    pub beta: Vec<f32>,
    /// Of the scale, `[samples, channels]`; at a scale of 0 where there is none.
    pub scale: Vec<f32>,
    /// Of the shift, `[samples, channels]`.
    pub shift: Vec<f32>,
}

/// The mean and 1/√(variance + `epsilon`) of each sample and group, from one pass over x.
///
/// Sums are of x − K and (x − K)² with K the sample's first place, channel by channel, so that a mean far from 0 costs
/// the variance nothing; channels come together in f64.
pub fn moments(isa: Isa, shape: NormShape, parts: &[&[f32]], epsilon: f64) -> Moments {
    let widths = shape.widths(parts);
    let NormShape { samples, places, channels, groups } = shape;
    let sums = sums(shape, |n, first, count, sums| {
        for (part, &(width, before)) in parts.iter().zip(&widths) {
            let x = &part[n * places * width..][..places * width];
            let (ones, squares) = sums.split_at_mut(channels);
            let sums = (&mut ones[before..][..width], &mut squares[before..][..width]);
            isa.run(MomentSums { shift: &x[..width], x: &x[first * width..][..count * width], sums });
        }
    });
    let mut moments = Moments { mean: Vec::new(), scale: Vec::new() };
    let (size, places) = (channels / groups, places as f64);
    for n in 0..samples {
        let (ones, squares) = sums[n * 2 * channels..][..2 * channels].split_at(channels);
        // Each channel's own mean and sum of squares around it, then those of the group from them.
        let channel = |c: usize| {
            let part = widths.iter().rposition(|&(_, before)| before <= c).expect("the first part starts at 0");
            let (width, before) = widths[part];
            let shift = f64::from(parts[part][n * shape.places * width + c - before]);
            (shift + ones[c] / places, squares[c] - ones[c] * ones[c] / places)
        };
        for g in 0..groups {
            let group = || (g * size..(g + 1) * size).map(channel);
            let mean = group().map(|(mean, _)| mean).sum::<f64>() / size as f64;
            let around = group().map(|(own, around)| around + places * (own - mean).powi(2)).sum::<f64>();
            let variance = around.max(0.0) / (places * size as f64);
            moments.mean.push(mean as f32);
            moments.scale.push((1.0 / (variance + epsilon).sqrt()) as f32);
        }
    }
    moments
}

/// The factors of y = (x̂ γ + β)(1 + scale) + shift as those of a x + b, with x̂ the normalised x.
///
/// γ and β are `[channels]`; scale and shift are `[samples, channels]`, those of adaptive group normalisation (P.
/// Dhariwal, A. Nichol, 2021, arXiv:2105.05233). What is missing is 1 or 0.
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

/// y = f(a x + b), dense and `[samples, places, channels]`, with f the SiLU or nothing.
pub fn normalize(isa: Isa, shape: NormShape, parts: &[&[f32]], coefficients: &Coefficients, silu: bool, y: &mut [f32]) {
    let widths = shape.widths(parts);
    let NormShape { places, channels, .. } = shape;
    check_coefficients(shape, coefficients);
    assert_eq!(y.len(), shape.len(), "a normalisation has as many outputs as inputs");
    for_each(shape.len(), chunks(shape, channels, y), |(n, first, y)| {
        for (part, &(width, before)) in parts.iter().zip(&widths) {
            let x = &part[(n * places + first) * width..][..y.len() / channels * width];
            let a = &coefficients.a[n * channels + before..][..width];
            let b = &coefficients.b[n * channels + before..][..width];
            isa.run(Normalize { x, a, b, silu, y: &mut y[before..], channels });
        }
    });
}

/// The gradients of [`normalize`] with [`coefficients`] from that of y; those of x overwrite `dx`, a slice for each part.
///
/// With z = a x + b and dz = dy f′(z), one pass adds up dz and dz x̂ for each sample and channel, and another writes
/// dx = s (g dz − mean(g dz) − x̂ mean(g dz x̂)), where g = γ (1 + scale), s is the moments' scale and the means are over
/// the group.
#[expect(clippy::too_many_arguments, reason = "all that the forward pass had, and what it left")]
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
    assert_eq!(dy.len(), shape.len(), "a gradient for every output of a normalisation");
    let same = dx.len() == parts.len() && dx.iter().zip(parts).all(|(dx, x)| dx.len() == x.len());
    assert!(same, "a gradient for every part of the input");

    let size = channels / groups;
    let means: Vec<f32> = (0..samples * channels).map(|i| moments.mean[i / size]).collect();
    let sums = sums(shape, |n, first, count, sums| {
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
    });

    let mut gradients = NormGradients { gamma: Vec::new(), beta: Vec::new(), scale: Vec::new(), shift: Vec::new() };
    let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
    // dx = a dz + q x + r
    let (mut q, mut r) = (Vec::with_capacity(samples * channels), Vec::with_capacity(samples * channels));
    let at = |x: Option<&[f32]>, i: usize, missing: f64| x.map_or(missing, |x| f64::from(x[i]));
    for n in 0..samples {
        let (ones, products) = sums[n * 2 * channels..][..2 * channels].split_at(channels);
        for g in 0..groups {
            let mean = f64::from(moments.mean[n * groups + g]);
            let s = f64::from(moments.scale[n * groups + g]);
            let (mut along_one, mut along_x) = (0.0, 0.0);
            for c in g * size..(g + 1) * size {
                let (gamma, beta) = (at(gamma, c, 1.0), at(beta, c, 0.0));
                let scale = 1.0 + at(scale, n * channels + c, 0.0);
                // Σ dz and Σ dz x̂ of the channel.
                let (one, x) = (ones[c], products[c] * s);
                along_one += gamma * scale * one;
                along_x += gamma * scale * x;
                dgamma[c] += scale * x;
                dbeta[c] += scale * one;
                gradients.scale.push((gamma * x + beta * one) as f32);
                gradients.shift.push(one as f32);
            }
            let count = (places * size) as f64;
            let (slope, offset) = (-s * s * along_x / count, -s * along_one / count);
            q.extend(std::iter::repeat_n(slope as f32, size));
            r.extend(std::iter::repeat_n((offset - slope * mean) as f32, size));
        }
    }
    gradients.gamma = dgamma.iter().map(|x| *x as f32).collect();
    gradients.beta = dbeta.iter().map(|x| *x as f32).collect();

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

/// y = f((x − mean) / √(variance + `epsilon`) γ + β) over each row of `columns` numbers, with f the SiLU or nothing, and
/// the rows' moments (J. L. Ba, J. R. Kiros, G. E. Hinton, 2016, arXiv:1607.06450).
#[expect(clippy::too_many_arguments, reason = "the sizes, the parameters and the choices of one kernel")]
pub fn layer_norm(
    isa: Isa,
    x: &[f32],
    columns: usize,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    epsilon: f64,
    silu: bool,
    y: &mut [f32],
) -> Moments {
    let rows = rows(x, columns);
    check_factors(columns, gamma, beta);
    assert_eq!(x.len(), y.len(), "a normalisation has as many outputs as inputs");
    let (ones, zeros) = missing(columns, gamma, beta);
    let (gamma, beta) = (gamma.unwrap_or(&ones), beta.unwrap_or(&zeros));
    let mut moments = Moments { mean: vec![0.0; rows], scale: vec![0.0; rows] };
    let chunk = (CHUNK / columns).max(1);
    let results = moments.mean.chunks_mut(chunk).zip(moments.scale.chunks_mut(chunk));
    let tasks = x.chunks(chunk * columns).zip(y.chunks_mut(chunk * columns)).zip(results);
    for_each(x.len(), tasks, |((x, y), (mean, scale))| {
        isa.run(LayerNorm { x, gamma, beta, epsilon, silu, y, mean, scale });
    });
    moments
}

/// The gradients of [`layer_norm`] from that of y: that of x overwrites `dx`, those of γ and β, `[columns]` each, are
/// returned.
#[expect(clippy::too_many_arguments, reason = "all that the forward pass had, and what it left")]
pub fn layer_norm_backward(
    isa: Isa,
    x: &[f32],
    columns: usize,
    moments: &Moments,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    silu: bool,
    dy: &[f32],
    dx: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let rows = rows(x, columns);
    check_moments(rows, moments);
    check_factors(columns, gamma, beta);
    assert!(x.len() == dy.len() && x.len() == dx.len(), "a gradient for every input and output of a normalisation");
    let (ones, zeros) = missing(columns, gamma, beta);
    let (gamma, beta) = (gamma.unwrap_or(&ones), beta.unwrap_or(&zeros));
    let chunk = (CHUNK / columns).max(1);
    let mut sums = vec![0.0; rows.div_ceil(chunk) * 2 * columns];
    let results = moments.mean.chunks(chunk).zip(moments.scale.chunks(chunk)).zip(sums.chunks_mut(2 * columns));
    let size = chunk * columns;
    let tasks = x.chunks(size).zip(dy.chunks(size)).zip(dx.chunks_mut(size)).zip(results);
    for_each(x.len(), tasks, |(((x, dy), dx), ((mean, scale), sums))| {
        isa.run(LayerNormBackward { x, gamma, beta, mean, scale, silu, dy, dx, sums });
    });
    let mut total = vec![0.0; 2 * columns];
    for sums in sums.chunks(2 * columns) {
        add(&mut total, sums);
    }
    let mut gradients = total.chunks(columns).map(|sums| sums.iter().map(|x| *x as f32).collect());
    let mut next = || gradients.next().expect("two sums for each column");
    (next(), next())
}

fn check_moments(count: usize, moments: &Moments) {
    let fit = moments.mean.len() == count && moments.scale.len() == count;
    assert!(fit, "moments for every sample and group of a normalisation");
}

fn check_factors(channels: usize, gamma: Option<&[f32]>, beta: Option<&[f32]>) {
    let fit = |x: Option<&[f32]>| x.is_none_or(|x| x.len() == channels);
    assert!(fit(gamma) && fit(beta), "a factor and a summand for every channel of a normalisation");
}

fn check_adaptive(shape: NormShape, scale: Option<&[f32]>, shift: Option<&[f32]>) {
    let fit = |x: Option<&[f32]>| x.is_none_or(|x| x.len() == shape.samples * shape.channels);
    assert!(fit(scale) && fit(shift), "a scale and a shift for every sample and channel of a normalisation");
}

fn check_coefficients(shape: NormShape, coefficients: &Coefficients) {
    let count = shape.samples * shape.channels;
    let fit = coefficients.a.len() == count && coefficients.b.len() == count;
    assert!(fit, "coefficients for every sample and channel of a normalisation");
}

fn rows(x: &[f32], columns: usize) -> usize {
    assert!(columns > 0 && x.len().is_multiple_of(columns), "a layer normalisation is over whole rows");
    x.len() / columns
}

/// What stands for γ and β where they are missing.
fn missing(columns: usize, gamma: Option<&[f32]>, beta: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
    let fill = |x: Option<&[f32]>, with: f32| if x.is_some() { Vec::new() } else { vec![with; columns] };
    (fill(gamma, 1.0), fill(beta, 0.0))
}

fn add(to: &mut [f64], x: &[f64]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

/// The tasks of a tensor with rows of `width`: sample, first place, and the rows of the task.
fn chunks(shape: NormShape, width: usize, x: &mut [f32]) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
    let chunk = shape.chunk();
    x.chunks_mut(shape.places * width)
        .enumerate()
        .flat_map(move |(n, x)| x.chunks_mut(chunk * width).enumerate().map(move |(k, x)| (n, k * chunk, x)))
}

/// Two sums for each sample and channel, `[samples, 2, channels]`: `add` is to add those of a sample's places, from the
/// first on, as many as said, to zeros.
fn sums(shape: NormShape, add_up: impl Fn(usize, usize, usize, &mut [f64]) + Send + Sync) -> Vec<f64> {
    let NormShape { samples, places, channels, .. } = shape;
    let (chunk, width) = (shape.chunk(), 2 * channels);
    let count = places.div_ceil(chunk);
    let mut partial = vec![0.0; samples * count * width];
    for_each(shape.len(), partial.chunks_mut(width).enumerate(), |(i, sums)| {
        let first = i % count * chunk;
        add_up(i / count, first, chunk.min(places - first), sums);
    });
    if count == 1 {
        return partial;
    }
    let mut total = vec![0.0; samples * width];
    for (total, partial) in total.chunks_mut(width).zip(partial.chunks(count * width)) {
        for partial in partial.chunks(width) {
            add(total, partial);
        }
    }
    total
}

/// Adds the lanes of x to sums in f64.
///
/// # Safety
/// The processor has the instructions of S, which have at most 16 lanes.
#[inline(always)]
unsafe fn flush<S: Simd>(x: S::V, to: &mut [f64]) {
    let mut lanes = [0.0; 16];
    // SAFETY: a vector fits into the array.
    unsafe { S::store(lanes.as_mut_ptr(), x) };
    for (to, x) in to.iter_mut().zip(lanes) {
        *to += f64::from(x);
    }
}

/// Adds Σ (x − shift) and Σ (x − shift)² over rows as wide as `shift` to the sums.
struct MomentSums<'a> {
    shift: &'a [f32],
    x: &'a [f32],
    sums: (&'a mut [f64], &'a mut [f64]),
}

impl MomentSums<'_> {
    /// The same for `V` vectors of channels from c on; only the last one may lack lanes.
    #[inline(always)]
    unsafe fn columns<S: Simd, const V: usize>(&mut self, c: usize) {
        let width = self.shift.len();
        for block in self.x.chunks(BLOCK * width) {
            // SAFETY: channel c + v · LANES is below the width, and no vector reads beyond the row.
            unsafe {
                let (mut shift, mut ones, mut squares) = ([S::splat(0.0); V], [S::splat(0.0); V], [S::splat(0.0); V]);
                for (v, shift) in shift.iter_mut().enumerate() {
                    let c = c + v * S::LANES;
                    *shift = load::<S>(self.shift.as_ptr().add(c), width - c);
                }
                for row in block.chunks_exact(width) {
                    for v in 0..V {
                        let c = c + v * S::LANES;
                        let d = S::sub(load::<S>(row.as_ptr().add(c), width - c), shift[v]);
                        ones[v] = S::add(ones[v], d);
                        squares[v] = S::fma(d, d, squares[v]);
                    }
                }
                for v in 0..V {
                    flush::<S>(ones[v], &mut self.sums.0[c + v * S::LANES..]);
                    flush::<S>(squares[v], &mut self.sums.1[c + v * S::LANES..]);
                }
            }
        }
    }
}

impl Job for MomentSums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let width = self.shift.len();
        let mut c = 0;
        // SAFETY: four whole vectors, or the start of one, are left.
        unsafe {
            while c + 4 * S::LANES <= width {
                self.columns::<S, 4>(c);
                c += 4 * S::LANES;
            }
            while c < width {
                self.columns::<S, 1>(c);
                c += S::LANES;
            }
        }
    }
}

/// y = f(a x + b) over rows as wide as a; those of y are `channels` apart.
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

/// dy f′(a x + b)
#[inline(always)]
unsafe fn inner_gradient<S: Simd, const SILU: bool>(x: S::V, a: S::V, b: S::V, dy: S::V) -> S::V {
    // SAFETY: the caller promises the same.
    unsafe { if SILU { S::mul(dy, silu_slope::<S>(S::fma(a, x, b))) } else { dy } }
}

/// Adds Σ dz and Σ dz (x − mean) with dz = dy f′(a x + b) to the sums; rows of dy are `channels` apart.
struct GradientSums<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    channels: usize,
    mean: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    silu: bool,
    sums: (&'a mut [f64], &'a mut [f64]),
}

impl GradientSums<'_> {
    /// The same for `V` vectors of channels from c on; only the last one may lack lanes.
    #[inline(always)]
    unsafe fn columns<S: Simd, const V: usize, const SILU: bool>(&mut self, c: usize) {
        let width = self.mean.len();
        for (x, dy) in self.x.chunks(BLOCK * width).zip(self.dy.chunks(BLOCK * self.channels)) {
            // SAFETY: channel c + v · LANES is below the width, and no vector reads beyond it.
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

/// dx = a dz + q x + r with dz = dy f′(a x + b); rows of dy are `channels` apart.
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

struct LayerNorm<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f64,
    silu: bool,
    y: &'a mut [f32],
    mean: &'a mut [f32],
    scale: &'a mut [f32],
}

impl LayerNorm<'_> {
    /// The mean and the scale of a row: sums around its first number, as in [`moments`].
    #[inline(always)]
    unsafe fn row_moments<S: Simd>(x: &[f32], epsilon: f64) -> (f32, f32) {
        // SAFETY: all reads are within x.
        unsafe {
            let first = x[0];
            let shift = S::splat(first);
            let (mut ones, mut squares) = ([S::splat(0.0); 2], [S::splat(0.0); 2]);
            let mut pairs = x.chunks_exact(2 * S::LANES);
            for x in &mut pairs {
                for v in 0..2 {
                    let d = S::sub(S::load(x.as_ptr().add(v * S::LANES)), shift);
                    ones[v] = S::add(ones[v], d);
                    squares[v] = S::fma(d, d, squares[v]);
                }
            }
            let mut one = f64::from(S::sum(S::add(ones[0], ones[1])));
            let mut square = f64::from(S::sum(S::add(squares[0], squares[1])));
            for x in pairs.remainder() {
                let d = f64::from(*x - first);
                one += d;
                square += d * d;
            }
            let count = x.len() as f64;
            let variance = ((square - one * one / count) / count).max(0.0);
            ((f64::from(first) + one / count) as f32, (1.0 / (variance + epsilon).sqrt()) as f32)
        }
    }
}

impl LayerNorm<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const SILU: bool>(self) {
        let columns = self.gamma.len();
        let rows = self.x.chunks_exact(columns).zip(self.y.chunks_exact_mut(columns));
        for ((x, y), (mean, scale)) in rows.zip(self.mean.iter_mut().zip(self.scale)) {
            // SAFETY: n numbers are left in the rows of x and y, and in γ and β.
            unsafe {
                (*mean, *scale) = Self::row_moments::<S>(x, self.epsilon);
                let (mean, scale) = (S::splat(*mean), S::splat(*scale));
                let mut c = 0;
                while c < columns {
                    let n = columns - c;
                    let unit = S::mul(S::sub(load::<S>(x.as_ptr().add(c), n), mean), scale);
                    let gamma = load::<S>(self.gamma.as_ptr().add(c), n);
                    let z = S::fma(unit, gamma, load::<S>(self.beta.as_ptr().add(c), n));
                    store::<S>(y.as_mut_ptr().add(c), if SILU { silu::<S>(z) } else { z }, n);
                    c += S::LANES;
                }
            }
        }
    }
}

impl Job for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller promises the same.
        unsafe { if self.silu { self.rows::<S, true>() } else { self.rows::<S, false>() } }
    }
}

struct LayerNormBackward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
    silu: bool,
    dy: &'a [f32],
    dx: &'a mut [f32],
    /// Of dz x̂ and of dz, `[2, columns]`.
    sums: &'a mut [f64],
}

impl LayerNormBackward<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const SILU: bool>(self) {
        let columns = self.gamma.len();
        let mut block = vec![0.0; 2 * columns];
        let (units, ones) = block.split_at_mut(columns);
        let rows = self.x.chunks_exact(columns).zip(self.dy.chunks_exact(columns));
        let rows = rows.zip(self.dx.chunks_exact_mut(columns)).zip(self.mean.iter().zip(self.scale));
        let last = self.mean.len() - 1;
        for (k, (((x, dy), dx), (mean, scale))) in rows.enumerate() {
            // SAFETY: n numbers are left in the rows of x, dy and dx, in γ and β, and in both sums.
            unsafe {
                let (mean, scale) = (S::splat(*mean), S::splat(*scale));
                let (mut along_one, mut along_x) = (S::splat(0.0), S::splat(0.0));
                let mut c = 0;
                while c < columns {
                    let n = columns - c;
                    let unit = S::mul(S::sub(load::<S>(x.as_ptr().add(c), n), mean), scale);
                    let gamma = load::<S>(self.gamma.as_ptr().add(c), n);
                    let beta = load::<S>(self.beta.as_ptr().add(c), n);
                    let dz = inner_gradient::<S, SILU>(unit, gamma, beta, load::<S>(dy.as_ptr().add(c), n));
                    let (of_unit, of_one) = (units.as_mut_ptr().add(c), ones.as_mut_ptr().add(c));
                    store::<S>(of_unit, S::fma(dz, unit, load::<S>(of_unit, n)), n);
                    store::<S>(of_one, S::add(dz, load::<S>(of_one, n)), n);
                    let inner = S::mul(gamma, dz);
                    along_one = S::add(along_one, inner);
                    along_x = S::fma(inner, unit, along_x);
                    // The second pass over the row finds it here.
                    store::<S>(dx.as_mut_ptr().add(c), inner, n);
                    c += S::LANES;
                }
                let part = 1.0 / columns as f32;
                let (along_one, along_x) = (S::splat(S::sum(along_one) * part), S::splat(S::sum(along_x) * part));
                c = 0;
                while c < columns {
                    let n = columns - c;
                    let unit = S::mul(S::sub(load::<S>(x.as_ptr().add(c), n), mean), scale);
                    let inner = S::sub(load::<S>(dx.as_ptr().add(c), n), along_one);
                    let inner = S::sub(inner, S::mul(unit, along_x));
                    store::<S>(dx.as_mut_ptr().add(c), S::mul(scale, inner), n);
                    c += S::LANES;
                }
            }
            if (k + 1).is_multiple_of(BLOCK) || k == last {
                let block = units.iter_mut().chain(ones.iter_mut());
                for (to, x) in self.sums.iter_mut().zip(block) {
                    *to += f64::from(std::mem::take(x));
                }
            }
        }
    }
}

impl Job for LayerNormBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller promises the same.
        unsafe { if self.silu { self.rows::<S, true>() } else { self.rows::<S, false>() } }
    }
}
