//! Circular convolution of a plane, y_n = Σ_k h_k x_{n−k}, whose frequencies are multiplied: Y = λ X with λ the transform of h.
//!
//! In the [real Fourier basis](FourierBasis) A = U diag(|λ|) Vᵀ: U is V with the phase of λ on every frequency.

use std::sync::Arc;

use super::{Complex, Fourier, FourierBasis, Linear, Operator, Spectrum};
use crate::Result;

/// A circular convolution.
#[derive(Debug, Clone)]
pub struct Convolution {
    fourier: Fourier,
    factors: Vec<Complex<f64>>,
}

impl Convolution {
    /// Of planes of a height and width with a kernel of another, in row order; its middle, at half of its size rounded down, is at the
    /// pixel.
    ///
    /// # Panics
    /// If the kernel is no array of its size, or larger than the plane: the caller's broken invariant.
    pub fn new([height, width]: [usize; 2], kernel: &[f64], [rows, columns]: [usize; 2]) -> Self {
        assert!(kernel.len() == rows * columns && rows <= height && columns <= width, "a kernel fits into its plane");
        let mut plane = vec![0.0; height * width];
        for (place, value) in kernel.iter().enumerate() {
            let row = (place / columns + height - rows / 2) % height;
            let column = (place % columns + width - columns / 2) % width;
            plane[row * width + column] = *value;
        }
        let fourier = Fourier::new([height, width]);
        let factor = (fourier.count() as f64).sqrt();
        let factors = fourier.of_real(&plane).into_iter().map(|x| x * factor).collect();
        Self { fourier, factors }
    }

    fn filtered(&self, x: Vec<Complex<f64>>, factor: impl Fn(Complex<f64>) -> Complex<f64>) -> Vec<Complex<f64>> {
        x.into_iter().zip(&self.factors).map(|(x, by)| x * factor(*by)).collect()
    }
}

impl Operator for Convolution {
    fn inputs(&self) -> usize {
        self.fourier.count()
    }

    fn outputs(&self) -> usize {
        self.fourier.count()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.fourier.back_real(self.filtered(self.fourier.of_real(x), |by| by))
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        self.fourier.back_real(self.filtered(self.fourier.of_real(w), |by| by.conj()))
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Convolution {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        // λ of −k is the conjugate of λ of k to rounding, and both stand for one value.
        let s = |k: usize| self.factors[k.min(self.fourier.partner(k))].norm();
        let (basis, values) = FourierBasis::new(self.fourier.clone(), false, s);
        Ok(Arc::new(Filtered { of: self.clone(), basis, values }))
    }
}

/// The decomposition of a convolution.
#[derive(Debug)]
struct Filtered {
    of: Convolution,
    basis: FourierBasis,
    values: Vec<f64>,
}

/// λ/|λ|; 1 of 0, whose frequencies have no singular value.
fn phase(factor: Complex<f64>) -> Complex<f64> {
    let norm = factor.norm();
    if norm > 0.0 { factor / norm } else { Complex::new(1.0, 0.0) }
}

impl Spectrum for Filtered {
    fn values(&self) -> &[f64] {
        &self.values
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        self.basis.sample(c)
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        self.basis.coordinates(x)
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        self.of.fourier.back_real(self.of.filtered(self.basis.frequencies(c), phase))
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        let y = self.of.filtered(self.of.fourier.of_real(y), |by| phase(by).conj());
        self.basis.of_frequencies(&y, self.values.len())
    }

    fn dim(&self) -> usize {
        self.basis.dim()
    }
}
