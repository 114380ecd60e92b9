//! The orthonormal discrete Fourier transform of a plane, X_k = (HW)^−½ Σ_n x_n e^{−2πi k·n/(H, W)}, and the real orthonormal basis it
//! gives.
//!
//! Of a real plane X_{−k} is the conjugate of X_k, so that √2 Re X_k and √2 Im X_k of one of each pair, and Re X_k where k = −k, are HW
//! real coordinates. Of a complex plane all Re X_k and Im X_k are 2HW.

use std::{fmt, sync::Arc};

use rustfft::{Fft, FftPlanner};

pub use rustfft::num_complex::Complex;

use super::spectrum::NEGLIGIBLE;

/// The transform of planes of a height and a width, its zero frequency first.
#[derive(Clone)]
pub struct Fourier {
    /// Height and width.
    size: [usize; 2],
    /// Forward along rows and down columns, and back.
    plans: [[Arc<dyn Fft<f64>>; 2]; 2],
}

impl fmt::Debug for Fourier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fourier").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Fourier {
    /// Of planes of this height and width, both positive.
    pub fn new([height, width]: [usize; 2]) -> Self {
        let mut planner = FftPlanner::new();
        let forward = [planner.plan_fft_forward(width), planner.plan_fft_forward(height)];
        let back = [planner.plan_fft_inverse(width), planner.plan_fft_inverse(height)];
        Self { size: [height, width], plans: [forward, back] }
    }

    /// Numbers of a plane, HW.
    pub fn count(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The place of −k for the place of a frequency k.
    pub fn partner(&self, k: usize) -> usize {
        let [height, width] = self.size;
        (height - k / width) % height * width + (width - k % width) % width
    }

    /// The place of the frequency that stands at a place of a picture with frequency zero in its middle, at row H/2 and column W/2.
    pub fn centered(&self, place: usize) -> usize {
        let [height, width] = self.size;
        (place / width + height.div_ceil(2)) % height * width + (place % width + width.div_ceil(2)) % width
    }

    /// X of a plane.
    pub fn forward(&self, x: Vec<Complex<f64>>) -> Vec<Complex<f64>> {
        self.transform(x, 0)
    }

    /// The plane of an X.
    pub fn back(&self, x: Vec<Complex<f64>>) -> Vec<Complex<f64>> {
        self.transform(x, 1)
    }

    /// X of a real plane.
    pub fn of_real(&self, x: &[f64]) -> Vec<Complex<f64>> {
        self.forward(x.iter().map(|x| Complex::new(*x, 0.0)).collect())
    }

    /// The real part of the plane of an X: the adjoint of [`of_real`](Self::of_real).
    pub fn back_real(&self, x: Vec<Complex<f64>>) -> Vec<f64> {
        self.back(x).into_iter().map(|x| x.re).collect()
    }

    fn transform(&self, mut x: Vec<Complex<f64>>, direction: usize) -> Vec<Complex<f64>> {
        let [height, width] = self.size;
        let [along, down] = &self.plans[direction];
        along.process(&mut x);
        let mut turned = transposed(&x, width);
        down.process(&mut turned);
        let mut x = transposed(&turned, height);
        let factor = 1.0 / (self.count() as f64).sqrt();
        x.iter_mut().for_each(|x| *x *= factor);
        x
    }
}

/// An array of a width in row order, transposed.
fn transposed(x: &[Complex<f64>], width: usize) -> Vec<Complex<f64>> {
    (0..width).flat_map(|column| x.iter().skip(column).step_by(width).copied()).collect()
}

/// One coordinate of the real basis.
#[derive(Debug, Clone, Copy)]
struct Mode {
    at: usize,
    imaginary: bool,
    /// 1/√2 for one of a pair that stands for both, or else 1.
    weight: f64,
}

/// The orthonormal basis of real planes, or of complex ones `[n, 2]` of real and imaginary parts, that the transform gives.
#[derive(Debug, Clone)]
pub struct FourierBasis {
    fourier: Fourier,
    complex: bool,
    modes: Vec<Mode>,
}

impl FourierBasis {
    /// The basis and the values s(k) that are positive, of a function of frequencies with s(k) = s(−k) where planes are real: the
    /// coordinates whose value is not negligible come first.
    pub fn new(fourier: Fourier, complex: bool, s: impl Fn(usize) -> f64) -> (Self, Vec<f64>) {
        let mode = |at, imaginary, weight| Mode { at, imaginary, weight };
        let modes = (0..fourier.count()).flat_map(|at| match fourier.partner(at) {
            _ if complex => vec![mode(at, false, 1.0), mode(at, true, 1.0)],
            partner if partner == at => vec![mode(at, false, 1.0)],
            partner if partner > at => {
                vec![mode(at, false, std::f64::consts::FRAC_1_SQRT_2), mode(at, true, std::f64::consts::FRAC_1_SQRT_2)]
            }
            _ => Vec::new(),
        });
        let largest = (0..fourier.count()).map(&s).fold(0.0, f64::max);
        let (mut seen, unseen): (Vec<Mode>, Vec<Mode>) = modes.partition(|mode| s(mode.at) > NEGLIGIBLE * largest);
        let values = seen.iter().map(|mode| s(mode.at)).collect();
        seen.extend(unseen);
        (Self { fourier, complex, modes: seen }, values)
    }

    /// Numbers of a plane.
    pub fn dim(&self) -> usize {
        self.modes.len()
    }

    /// The first coordinates of an X, `count` of them.
    pub fn of_frequencies(&self, x: &[Complex<f64>], count: usize) -> Vec<f64> {
        self.modes[..count]
            .iter()
            .map(|mode| if mode.imaginary { x[mode.at].im } else { x[mode.at].re } / mode.weight)
            .collect()
    }

    /// The X of the first coordinates, where the others are 0.
    pub fn frequencies(&self, c: &[f64]) -> Vec<Complex<f64>> {
        let mut x = vec![Complex::new(0.0, 0.0); self.fourier.count()];
        for (mode, c) in self.modes.iter().zip(c) {
            let value = c * mode.weight;
            if mode.imaginary {
                x[mode.at].im = value
            } else {
                x[mode.at].re = value
            }
            let partner = self.fourier.partner(mode.at);
            if !self.complex && partner != mode.at {
                x[partner] = x[mode.at].conj();
            }
        }
        x
    }

    /// The coordinates of a plane.
    pub fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        let x = if self.complex { self.fourier.forward(complex(x)) } else { self.fourier.of_real(x) };
        self.of_frequencies(&x, self.modes.len())
    }

    /// The plane of coordinates.
    pub fn sample(&self, c: &[f64]) -> Vec<f64> {
        let x = self.frequencies(c);
        if self.complex { pairs(&self.fourier.back(x)) } else { self.fourier.back_real(x) }
    }
}

/// Pairs of real and imaginary parts as complex numbers.
pub(in crate::inverse) fn complex(pairs: &[f64]) -> Vec<Complex<f64>> {
    pairs.chunks_exact(2).map(|pair| Complex::new(pair[0], pair[1])).collect()
}

/// Complex numbers as pairs of real and imaginary parts.
pub(in crate::inverse) fn pairs(x: &[Complex<f64>]) -> Vec<f64> {
    x.iter().flat_map(|x| [x.re, x.im]).collect()
}
