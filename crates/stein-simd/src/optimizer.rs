//! The optimizer's passes over all parameters.

use crate::split::{CHUNK, for_each};
use crate::vector::{Isa, Job, Simd, load, store};

/// Σ x², in an order that depends only on the length: short blocks in f32, and their sums in f64.
pub fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    let mut sums = vec![0.0; x.len().div_ceil(CHUNK)];
    for_each(x.len(), x.chunks(CHUNK).zip(&mut sums), |(x, sum)| *sum = isa.run(SumOfSquares { x }));
    sums.iter().sum()
}

struct SumOfSquares<'a> {
    x: &'a [f32],
}

impl SumOfSquares<'_> {
    /// Numbers added up in f32, a few per lane.
    const BLOCK: usize = 512;
}

impl Job for SumOfSquares<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        let mut total = 0.0;
        for x in self.x.chunks(Self::BLOCK) {
            // SAFETY: all reads are within the block; incomplete vectors are filled up with zeros, which add nothing.
            unsafe {
                let mut sums = [S::splat(0.0); 4];
                let mut quads = x.chunks_exact(4 * S::LANES);
                for x in &mut quads {
                    for (k, sum) in sums.iter_mut().enumerate() {
                        let x = S::load(x.as_ptr().add(k * S::LANES));
                        *sum = S::fma(x, x, *sum);
                    }
                }
                for x in quads.remainder().chunks(S::LANES) {
                    let x = load::<S>(x.as_ptr(), x.len());
                    sums[0] = S::fma(x, x, sums[0]);
                }
                let sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
                total += f64::from(S::sum(sum));
            }
        }
        total
    }
}

/// One step of [`adam`]:
///
/// g′ = gradient · g, m ← m + (1 − β₁)(g′ − m), v ← v + (1 − β₂)(g′² − v),
/// w ← keep · w − first · m / (second · √v + ε).
///
/// With learning rate η, weight decay λ and step t, this is
/// - Adam (Kingma and Ba, 2015, arXiv:1412.6980): keep = 1, first = η / (1 − β₁ᵗ), second = 1 / √(1 − β₂ᵗ);
/// - AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101): the same with keep = 1 − η λ;
/// - RAdam (Liu et al., 2020, arXiv:1908.03265): first = η r √(1 − β₂ᵗ) / (1 − β₁ᵗ) with its
///   rectification r, second = 1; while r is undefined, second = 0 and ε = 1, which is a step of gradient descent with momentum.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The factor of the gradients, for clipping or for the mean over accumulated ones.
    pub gradient: f64,
    /// The fraction of the weights that is kept: 1 minus their decay.
    pub keep: f64,
    /// β₁, the decay of the mean of the gradients.
    pub beta1: f64,
    /// β₂, the decay of the mean of their squares.
    pub beta2: f64,
    /// The learning rate, with the bias correction of the first moment.
    pub first: f64,
    /// The bias correction of the square root of the second moment.
    pub second: f64,
    /// ε
    pub epsilon: f64,
}

/// The parameters of [`adam`] and their state, all of the same length.
pub struct Slices<'a> {
    /// Weights.
    pub w: &'a mut [f32],
    /// Their gradients.
    pub g: &'a [f32],
    /// First moments.
    pub m: &'a mut [f32],
    /// Second moments.
    pub v: &'a mut [f32],
    /// A moving average of the weights, and its rate p: average ← average + p (w − average).
    pub average: Option<(&'a mut [f32], f32)>,
}

/// One step of the optimizer, see [`Update`], and of the moving average of the weights, in a single pass.
pub fn adam(isa: Isa, update: &Update, slices: Slices) {
    let Slices { w, g, m, v, average } = slices;
    assert!(w.len() == g.len() && w.len() == m.len() && w.len() == v.len(), "a gradient and moments for every weight");
    let work = w.len();
    let (average, part) = match average {
        Some((average, part)) => {
            assert_eq!(average.len(), work, "an average for every weight");
            (Some(average), part)
        }
        None => (None, 0.0),
    };
    let mut averages = average.map(|average| average.chunks_mut(CHUNK));
    let weights = w.chunks_mut(CHUNK).zip(g.chunks(CHUNK));
    let tasks = weights.zip(m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK))).map(|((w, g), (m, v))| {
        let average = averages.as_mut().and_then(Iterator::next).map(|average| (average, part));
        Slices { w, g, m, v, average }
    });
    for_each(work, tasks, |slices| isa.run(Adam { update: *update, slices }));
}

struct Adam<'a> {
    update: Update,
    slices: Slices<'a>,
}

impl Job for Adam<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Update { gradient, keep, beta1, beta2, first, second, epsilon } = self.update;
        // 1 − β is taken before rounding: from a β in f32 its relative error would be up to 2⁻²⁵/(1 − β).
        let [gradient, keep, new1, new2, first, second, epsilon] =
            [gradient, keep, 1.0 - beta1, 1.0 - beta2, first, second, epsilon].map(|x| x as f32);
        let Slices { w, g, m, v, mut average } = self.slices;
        let mut i = 0;
        while i < w.len() {
            let n = w.len() - i;
            // SAFETY: n numbers are left in all slices, which have the same length.
            unsafe {
                let gradients = S::mul(S::splat(gradient), load::<S>(g.as_ptr().add(i), n));
                let mean = load::<S>(m.as_ptr().add(i), n);
                let mean = S::fma(S::splat(new1), S::sub(gradients, mean), mean);
                store::<S>(m.as_mut_ptr().add(i), mean, n);
                let square = load::<S>(v.as_ptr().add(i), n);
                let square = S::fma(S::splat(new2), S::sub(S::mul(gradients, gradients), square), square);
                store::<S>(v.as_mut_ptr().add(i), square, n);
                let step = S::div(mean, S::fma(S::splat(second), S::sqrt(square), S::splat(epsilon)));
                let weight = S::mul(S::splat(keep), load::<S>(w.as_ptr().add(i), n));
                let weight = S::fma(S::splat(-first), step, weight);
                store::<S>(w.as_mut_ptr().add(i), weight, n);
                if let Some((average, part)) = &mut average {
                    let to = average.as_mut_ptr().add(i);
                    let old = load::<S>(to, n);
                    store::<S>(to, S::fma(S::splat(*part), S::sub(weight, old), old), n);
                }
            }
            i += S::LANES;
        }
    }
}
