//! Layer normalization over the last axis.

use super::{
    backward::inner_gradient,
    group::{check_factors, check_moments},
    moments::Moments,
    shape::{BLOCK, add},
};
use crate::{
    activation::silu,
    split::{CHUNK, for_each},
    vector::{Isa, Job, Simd, load, store},
};

/// y = f((x − mean) / √(variance + `epsilon`) γ + β) over each row of `columns` numbers, where f is SiLU or the identity
/// (J. L. Ba, J. R. Kiros, G. E. Hinton, 2016, arXiv:1607.06450). Returns the moments of the rows.
#[expect(clippy::too_many_arguments, reason = "the sizes, parameters and options of one kernel")]
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
    assert_eq!(x.len(), y.len(), "a normalization has as many outputs as inputs");
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

/// The gradients of [`layer_norm`], from that of y: the gradient of x overwrites `dx`, those of γ and β, `[columns]` each,
/// are returned.
#[expect(clippy::too_many_arguments, reason = "everything the forward pass had, and what it left")]
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
    assert!(x.len() == dy.len() && x.len() == dx.len(), "a gradient for every input and output of a normalization");
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

fn rows(x: &[f32], columns: usize) -> usize {
    assert!(columns > 0 && x.len().is_multiple_of(columns), "a layer normalization is over whole rows");
    x.len() / columns
}

/// What γ and β are if they are missing.
fn missing(columns: usize, gamma: Option<&[f32]>, beta: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
    let fill = |x: Option<&[f32]>, with: f32| if x.is_some() { Vec::new() } else { vec![with; columns] };
    (fill(gamma, 1.0), fill(beta, 0.0))
}

/// Some rows of [`layer_norm`].
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
    /// The mean and the scale of a row, from sums around its first number.
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

/// Some rows of [`layer_norm_backward`].
struct LayerNormBackward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    mean: &'a [f32],
    scale: &'a [f32],
    silu: bool,
    dy: &'a [f32],
    dx: &'a mut [f32],
    /// Those of dz x̂ and of dz, `[2, columns]`.
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
                    // Kept for the second pass over the row.
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
